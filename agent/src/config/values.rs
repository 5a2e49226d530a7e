//! The values of the configuration file that are more than numbers and text: times and modes, as people write them.

use std::fmt;
use std::str::FromStr;

use memboss_core::Span;
use serde::{Deserialize, Serialize};

/// A time, written with its unit: `500ms`, `10s`, `5m`, `2h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Time(pub Span);

/// Text that is no time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no time: a whole number and its unit is, such as 500ms, 10s, 5m or 2h, up to 8760h")]
pub struct NotATime(String);

/// The units, the largest first, in milliseconds.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
/// A year: whoever means longer means never.
const LONGEST: u64 = 8760 * 3_600_000;

impl Time {
    /// So many seconds.
    #[must_use]
    pub const fn secs(seconds: u64) -> Self {
        Self(Span::from_secs(seconds))
    }
}

impl FromStr for Time {
    type Err = NotATime;

    fn from_str(text: &str) -> Result<Self, NotATime> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let factor = UNITS.iter().find(|(name, _)| *name == unit.trim_start()).map(|(_, factor)| *factor);
        let millis = number.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
        let millis = millis.filter(|millis| *millis <= LONGEST).ok_or_else(|| NotATime(text.to_owned()))?;
        Ok(Self(Span::from_millis(millis)))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.millis();
        // Seconds are what people compare; what is no whole number of them is told exactly.
        let (unit, factor) = if millis.is_multiple_of(1000) { ("s", 1000) } else { ("ms", 1) };
        write!(f, "{}{unit}", millis / factor)
    }
}

impl TryFrom<String> for Time {
    type Error = NotATime;
    fn try_from(text: String) -> Result<Self, NotATime> {
        text.parse()
    }
}

impl From<Time> for String {
    fn from(time: Time) -> Self {
        time.to_string()
    }
}

/// The mode of a socket: who may connect. Written in octal, as `chmod` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mode(pub u32);

/// Text that is no mode of a socket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no mode of a socket: three octal digits are, such as \"0666\" for everybody or \"0660\" for owner and group"
)]
pub struct NotAMode(String);

impl TryFrom<String> for Mode {
    type Error = NotAMode;
    fn try_from(text: String) -> Result<Self, NotAMode> {
        let digits = text.strip_prefix("0o").or_else(|| text.strip_prefix('0')).unwrap_or(&text);
        let fits = digits.len() == 3 && digits.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
        let mode = u32::from_str_radix(digits, 8).ok().filter(|_| fits);
        mode.map(Self).ok_or(NotAMode(text))
    }
}

impl From<Mode> for String {
    fn from(mode: Mode) -> Self {
        format!("{:04o}", mode.0)
    }
}

/// A part of a GPU, 0 to 100 percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Part(pub u64);

/// A number that is no part of a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no part of a GPU: 0 to 100 percent are")]
pub struct NotAPart(u64);

impl TryFrom<u64> for Part {
    type Error = NotAPart;
    fn try_from(percent: u64) -> Result<Self, NotAPart> {
        if percent <= 100 { Ok(Self(percent)) } else { Err(NotAPart(percent)) }
    }
}

impl From<Part> for u64 {
    fn from(part: Part) -> Self {
        part.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_with_their_unit_and_read_back() {
        for (text, millis, shown) in
            [("500ms", 500, "500ms"), ("10s", 10_000, "10s"), ("5 m", 300_000, "300s"), ("2h", 7_200_000, "7200s")]
        {
            let time: Time = text.parse().unwrap();
            assert_eq!((time.0.millis(), time.to_string().as_str()), (millis, shown));
            assert_eq!(time.to_string().parse(), Ok(time));
        }
        for bad in ["", "10", "s", "-1s", "1.5s", "10 days", "99999999999999999999s", "8761h"] {
            assert!(bad.parse::<Time>().is_err(), "{bad}");
        }
    }

    #[test]
    fn modes_are_octal() {
        let mode = |text: &str| Mode::try_from(text.to_owned());
        assert_eq!((mode("0660"), mode("666"), mode("0o600")), (Ok(Mode(0o660)), Ok(Mode(0o666)), Ok(Mode(0o600))));
        for bad in ["", "0669", "06660", "66", "rw-rw----"] {
            assert!(mode(bad).is_err(), "{bad}");
        }
    }
}
