//! Host memory from `/proc/meminfo`, and the part of it that can be leased. The full report of RAM comes with the RAM leases.

use std::path::Path;

use memboss_core::Mib;

use super::{Unreadable, read};

/// Host memory now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ram {
    /// All there is.
    pub total: Mib,
    /// What the kernel thinks new processes can have.
    pub available: Mib,
}

/// Leases of RAM come in such steps.
const STEP: Mib = Mib::from_mib(64);
/// The least that stays for the system.
const RESERVE: Mib = Mib::from_mib(512);

/// Reads host memory.
///
/// # Errors
/// When the file cannot be read or lacks a line.
pub fn observe(path: &Path) -> Result<Ram, Unreadable> {
    let text = read(path)?;
    parse(&text).ok_or_else(|| Unreadable::Content { path: path.to_owned(), what: "MemTotal and MemAvailable" })
}

fn parse(text: &str) -> Option<Ram> {
    let line = |name: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = rest.trim().trim_end_matches("kB").trim_end().parse().ok()?;
        Some(Mib::from_bytes_floor(kib.saturating_mul(1024)))
    };
    Some(Ram { total: line("MemTotal:")?, available: line("MemAvailable:")? })
}

impl Ram {
    /// What can be leased while `charged` is leased already: what is available beside a reserve for the system, and never more than it was when
    /// nobody used what they leased. Conservative: a lease whose holder uses it is counted in `charged` and missing in `available`.
    #[must_use]
    pub fn leasable(self, charged: Mib) -> Mib {
        let reserve = RESERVE.max(Mib::from_mib(self.total.mib() / 50));
        self.available.minus(reserve).max(charged).round_down_to(STEP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_leased_leaves_a_reserve() {
        let ram = parse("MemTotal:       24683520 kB\nMemFree:  1 kB\nMemAvailable:   23617000 kB\n").unwrap();
        assert_eq!(ram.total, Mib::from_mib(24_105));
        assert_eq!(ram.leasable(Mib::ZERO), Mib::from_mib(22_528));
        assert_eq!(Ram { total: ram.total, available: Mib::ZERO }.leasable(Mib::from_mib(4096)), Mib::from_mib(4096));
        assert!(parse("MemTotal: 1 kB\n").is_none());
    }
}
