//! Quantities as types: memory in MiB, percentages, moments and spans of time. It may not know what is measured or by whom.

use std::fmt;
use std::iter::Sum;

use serde::{Deserialize, Serialize};

/// The unit in which VRAM is advertised to a scheduler, and to which pod leases are rounded up.
pub const UNIT: Mib = Mib(256);

/// An amount of memory in MiB (2^20 bytes). Whole numbers only: rounding is said by the constructor's name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mib(u64);

impl Mib {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// That many MiB.
    #[must_use]
    pub const fn from_mib(mib: u64) -> Self {
        Self(mib)
    }

    /// The whole MiB in `bytes`: for what is there (capacity).
    #[must_use]
    pub const fn from_bytes_floor(bytes: u64) -> Self {
        Self(bytes >> 20)
    }

    /// Enough MiB to hold `bytes`: for what is asked or used.
    #[must_use]
    pub const fn from_bytes_ceil(bytes: u64) -> Self {
        Self(bytes.div_ceil(1 << 20))
    }

    /// The number of MiB.
    #[must_use]
    pub const fn mib(self) -> u64 {
        self.0
    }

    /// The number of bytes; at most `u64::MAX`.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0.saturating_mul(1 << 20)
    }

    /// Whether this is nothing.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The sum, at most the largest amount.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// What is left, or nothing.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// The next multiple of `unit` (not smaller than this amount).
    #[must_use]
    pub const fn round_up_to(self, unit: Self) -> Self {
        if unit.0 == 0 { self } else { Self(self.0.div_ceil(unit.0).saturating_mul(unit.0)) }
    }

    /// The last multiple of `unit` (not larger than this amount).
    #[must_use]
    pub const fn round_down_to(self, unit: Self) -> Self {
        match self.0.checked_div(unit.0) {
            Some(whole) => Self(whole * unit.0),
            None => self,
        }
    }

    /// How many whole `unit`s fit in.
    #[must_use]
    pub const fn units(self, unit: Self) -> u64 {
        match self.0.checked_div(unit.0) {
            Some(whole) => whole,
            None => 0,
        }
    }

    /// That share of this amount, rounded down to [`UNIT`], but at least one unit.
    #[must_use]
    pub fn share(self, percent: Percent) -> Self {
        let exact = Self(self.0.saturating_mul(u64::from(percent.0)) / 100).round_down_to(UNIT);
        exact.max(UNIT)
    }
}

impl Sum for Mib {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Self::plus)
    }
}

impl fmt::Display for Mib {
    /// As people write it in Kubernetes: `8Gi`, `8100Mi`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 > 0 && self.0.is_multiple_of(1024) {
            write!(f, "{}Gi", self.0 / 1024)
        } else {
            write!(f, "{}Mi", self.0)
        }
    }
}

/// A share of a GPU's leasable capacity, 1 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Percent(u8);

/// A percentage outside 1 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}% is not a share of a GPU: 1% to 100% is")]
pub struct NotAShare(pub u64);

impl Percent {
    /// # Errors
    /// [`NotAShare`] for 0 and for more than 100.
    pub fn new(percent: u64) -> Result<Self, NotAShare> {
        match u8::try_from(percent) {
            Ok(p) if (1..=100).contains(&p) => Ok(Self(p)),
            _ => Err(NotAShare(percent)),
        }
    }

    /// The number, 1 to 100.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for Percent {
    type Error = NotAShare;
    fn try_from(percent: u8) -> Result<Self, NotAShare> {
        Self::new(u64::from(percent))
    }
}

impl From<Percent> for u8 {
    fn from(percent: Percent) -> Self {
        percent.0
    }
}

/// A point on the caller's clock, in milliseconds. Only differences mean anything; the agent's clock is the kernel's monotonic one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(u64);

impl Moment {
    /// That many milliseconds after the clock's origin.
    #[must_use]
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms)
    }

    /// Milliseconds after the clock's origin.
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// The moment `span` later.
    #[must_use]
    pub const fn after(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// How long ago `earlier` was; nothing if it lies ahead.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

/// A length of time in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Span(u64);

impl Span {
    /// No time.
    pub const ZERO: Self = Self(0);

    /// That many milliseconds.
    #[must_use]
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms)
    }

    /// That many seconds.
    #[must_use]
    pub const fn from_secs(s: u64) -> Self {
        Self(s.saturating_mul(1000))
    }

    /// Milliseconds.
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// Whole seconds, rounded up.
    #[must_use]
    pub const fn secs_ceil(self) -> u64 {
        self.0.div_ceil(1000)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ms if ms < 1000 => write!(f, "{ms}ms"),
            ms if ms < 120_000 => write!(f, "{}s", ms.div_ceil(1000)),
            ms => write!(f, "{}m", ms / 60_000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_named_by_the_constructor() {
        assert_eq!(Mib::from_bytes_floor((8 << 20) + 1), Mib::from_mib(8));
        assert_eq!(Mib::from_bytes_ceil((8 << 20) + 1), Mib::from_mib(9));
        assert_eq!(Mib::from_mib(8000).round_up_to(UNIT), Mib::from_mib(8192));
        assert_eq!(Mib::from_mib(8000).round_down_to(UNIT), Mib::from_mib(7936));
    }

    #[test]
    fn a_share_is_whole_units_and_never_nothing() {
        let half = Percent::new(50).unwrap();
        assert_eq!(Mib::from_mib(24_000).share(half), Mib::from_mib(11_776));
        assert_eq!(Mib::from_mib(300).share(Percent::new(1).unwrap()), UNIT);
        assert!(Percent::new(0).is_err() && Percent::new(101).is_err());
    }

    #[test]
    fn memory_is_written_as_kubernetes_writes_it() {
        assert_eq!(Mib::from_mib(8192).to_string(), "8Gi");
        assert_eq!(Mib::from_mib(8000).to_string(), "8000Mi");
        assert_eq!(Mib::ZERO.to_string(), "0Mi");
    }
}
