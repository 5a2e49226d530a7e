//! Host memory from `/proc/meminfo`, and the part of it that can be leased. Who uses it and what may be cleaned is told by `memboss-ram`.

use std::path::Path;

use memboss_core::Mib;

use super::{Unreadable, kib, read};

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
    let line = |name: &str| Some(Mib::from_bytes_floor(kib(text, name)?.saturating_mul(1024)));
    Some(Ram { total: line("MemTotal:")?, available: line("MemAvailable:")? })
}

impl Ram {
    /// What can be leased in all, while `charged` is leased, of which holders use `used` already: what is available and what is used by leases, beside a
    /// reserve for the system. Never less than what is promised: who uses RAM without a lease stops new ones and ends none.
    #[must_use]
    pub fn leasable(self, charged: Mib, used: Mib) -> Mib {
        let reserve = RESERVE.max(Mib::from_mib(self.total.mib() / 50));
        let there = self.available.plus(used).min(self.total);
        there.minus(reserve).round_down_to(STEP).max(charged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_leased_leaves_a_reserve() {
        let ram = parse("MemTotal:       24683520 kB\nMemFree:  1 kB\nMemAvailable:   23617000 kB\n").unwrap();
        assert_eq!(ram.total, Mib::from_mib(24_105));
        let gib = |gib: u64| Mib::from_mib(gib * 1024);
        assert_eq!(ram.leasable(Mib::ZERO, Mib::ZERO), Mib::from_mib(22_528));
        assert_eq!(Ram { total: ram.total, available: Mib::ZERO }.leasable(gib(4), Mib::ZERO), gib(4));
        // Who uses what it leased takes nothing from the others: 8 GiB leased and in use leave what was left before.
        let in_use = Ram { available: ram.available.minus(gib(8)), ..ram };
        assert_eq!(in_use.leasable(gib(8), gib(8)), ram.leasable(gib(8), Mib::ZERO));
        assert!(parse("MemTotal: 1 kB\n").is_none());
    }
}
