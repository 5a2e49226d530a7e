//! Who uses RAM: process by process, what of it would come free with its end, and how it grows. Reading a process's exact share (PSS) makes that process
//! wait, so it is read only where it is asked for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use memboss_core::Mib;
use procfs::FromRead as _;
use procfs::process::{Process, SmapsRollup, Stat, all_processes_with_root};
use serde::Serialize;

use crate::Failure;
use crate::report::Machine;

/// A process above that size is not asked for its exact share: that would make it wait for too long.
const TOO_LARGE_FOR_PSS: Mib = Mib::from_mib(64 * 1024);

/// A process and its memory; amounts in MiB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct User {
    /// Its pid.
    pub pid: i32,
    /// When it started, in clock ticks since the boot: pid and start name a process, a pid alone does not.
    pub started: u64,
    /// Its owner.
    pub uid: u32,
    /// The name of its program.
    pub name: String,
    /// All that it has in memory; what it shares is counted for each who shares it.
    pub resident: Mib,
    /// The part of it that is no file's: free when it ends.
    pub anonymous: Mib,
    /// The part of it that is files': mapped cache.
    pub file: Mib,
    /// The part of it that is shared memory.
    pub shared: Mib,
    /// What of it is in swap.
    pub swapped: Mib,
    /// Its exact share of what it has in memory; only where it was asked for and may be known.
    pub exact: Option<Mib>,
}

impl Machine {
    /// All processes, the largest first. Processes that end meanwhile, or may not be read, are left out.
    ///
    /// # Errors
    /// When processes cannot be listed at all.
    pub fn users(&self) -> Result<Vec<User>, Failure> {
        let all =
            all_processes_with_root(&self.proc).map_err(|source| Failure::Read { path: self.proc.clone(), source })?;
        // One after the other: each of them is an open file.
        let mut users: Vec<User> = all.filter_map(Result::ok).filter_map(|process| user(&process)).collect();
        users.sort_by(|a, b| b.resident.cmp(&a.resident).then(a.pid.cmp(&b.pid)));
        Ok(users)
    }

    /// A process's exact share of what it has in memory. It waits meanwhile, so a very large one is not asked; nothing too for one that has ended or may
    /// not be looked into.
    #[must_use]
    pub fn exact(&self, user: &User) -> Option<Mib> {
        if user.resident > TOO_LARGE_FOR_PSS {
            return None;
        }
        let process = self.proc.join(user.pid.to_string());
        let rollup = SmapsRollup::from_file(process.join("smaps_rollup")).ok()?;
        let still_the_same = Stat::from_file(process.join("stat")).ok()?.starttime == user.started;
        let share = rollup.memory_map_rollup.iter().find_map(|map| map.extension.map.get("Pss").copied())?;
        still_the_same.then(|| Mib::from_bytes_ceil(share))
    }
}

/// `None` for a thread of the kernel, which has no memory of its own.
fn user(process: &Process) -> Option<User> {
    let status = process.status().ok()?;
    let kib = |amount: Option<u64>| Mib::from_bytes_ceil(amount.unwrap_or_default().saturating_mul(1024));
    status.vmrss?;
    Some(User {
        pid: process.pid,
        started: process.stat().ok()?.starttime,
        uid: status.euid,
        name: status.name,
        resident: kib(status.vmrss),
        anonymous: kib(status.rssanon),
        file: kib(status.rssfile),
        shared: kib(status.rssshmem),
        swapped: kib(status.vmswap),
        exact: None,
    })
}

/// How a process's memory changed between two looks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Growth {
    /// Its pid.
    pub pid: i32,
    /// The name of its program.
    pub name: String,
    /// What it had at first.
    pub before: Mib,
    /// What it has now.
    pub now: Mib,
    /// MiB a minute, upward or downward.
    pub per_minute: i64,
}

/// Remembers processes over time.
#[derive(Debug, Default)]
pub struct Monitor {
    seen: BTreeMap<(i32, u64), (Instant, Mib)>,
}

impl Monitor {
    /// Takes in a look; how those that were there before have changed since they were first seen, those that grew most first.
    pub fn look(&mut self, users: &[User], now: Instant) -> Vec<Growth> {
        let there: BTreeMap<_, _> = users.iter().map(|user| ((user.pid, user.started), user)).collect();
        self.seen.retain(|process, _| there.contains_key(process));
        let mut all = Vec::new();
        for (process, user) in there {
            let (since, before) = *self.seen.entry(process).or_insert((now, user.resident));
            let took = now.duration_since(since);
            if took > Duration::ZERO {
                let per_minute = per_minute(before, user.resident, took);
                all.push(Growth { pid: user.pid, name: user.name.clone(), before, now: user.resident, per_minute });
            }
        }
        all.sort_by_key(|growth| std::cmp::Reverse(growth.per_minute));
        all
    }
}

fn per_minute(before: Mib, now: Mib, took: Duration) -> i64 {
    let signed = |amount: Mib| i128::from(amount.mib());
    let millis = i128::try_from(took.as_millis()).unwrap_or(i128::MAX).max(1);
    i64::try_from((signed(now) - signed(before)) * 60_000 / millis).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_among_them_with_its_parts() {
        let mine = i32::try_from(std::process::id()).unwrap();
        let machine = Machine::default();
        let users = machine.users().unwrap();
        let me = users.iter().find(|user| user.pid == mine).unwrap();
        assert!(me.resident >= me.anonymous && !me.resident.is_zero(), "{me:?}");
        assert!(machine.exact(me).is_some_and(|share| !share.is_zero()), "{me:?}");
        assert_eq!(machine.exact(&User { started: me.started + 1, ..me.clone() }), None, "another process");
        assert!(users.windows(2).all(|two| two[0].resident >= two[1].resident), "the largest first");
    }

    #[test]
    fn growth_is_of_one_process_not_of_a_pid() {
        let user = |started, resident| User {
            pid: 7,
            started,
            uid: 0,
            name: "p".into(),
            resident: Mib::from_mib(resident),
            anonymous: Mib::ZERO,
            file: Mib::ZERO,
            shared: Mib::ZERO,
            swapped: Mib::ZERO,
            exact: None,
        };
        let (mut monitor, begun) = (Monitor::default(), Instant::now());
        assert!(monitor.look(&[user(1, 100)], begun).is_empty());
        let grown = monitor.look(&[user(1, 160)], begun + Duration::from_secs(30));
        assert_eq!((grown[0].before, grown[0].per_minute), (Mib::from_mib(100), 120));
        assert!(monitor.look(&[user(2, 900)], begun + Duration::from_secs(60)).is_empty(), "another process");
        let less = monitor.look(&[user(2, 840)], begun + Duration::from_secs(120));
        assert_eq!(less[0].per_minute, -60);
    }
}
