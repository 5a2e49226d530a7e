//! A family of processes: who descends from whom, by `/proc`, and signals to them. A pid that was given to another process is never taken for the one that
//! was seen. It knows no command and no lease.

use std::collections::{BTreeMap, BTreeSet};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};

/// A process as it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Member {
    pub(super) pid: Pid,
    /// In clock ticks since the boot.
    started: u64,
    pub(super) parent: Pid,
    pub(super) group: Pid,
    /// It has ended and waits for its parent to take note of it.
    pub(super) ended: bool,
}

/// All processes that can be seen now; nobody where `/proc` cannot be read.
pub(super) fn everybody() -> Vec<Member> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| seen(Pid::from_raw(pid))).collect()
}

/// Those of them that descend from one of these.
pub(super) fn below(all: &[Member], first: &BTreeSet<Pid>) -> Vec<Member> {
    let mut children: BTreeMap<Pid, Vec<Member>> = BTreeMap::new();
    for member in all {
        children.entry(member.parent).or_default().push(*member);
    }
    let mut next: Vec<Pid> = first.iter().copied().collect();
    let mut found = Vec::new();
    while let Some(pid) = next.pop() {
        // Each is taken out once, so that this ends whatever was read.
        for member in children.remove(&pid).unwrap_or_default() {
            next.push(member.pid);
            found.push(member);
        }
    }
    found
}

impl Member {
    /// Sends it a signal, if it is still the one that was seen.
    pub(super) fn send(&self, signal: Signal) {
        let number = rustix::process::Signal::from_named_raw(signal as i32);
        let pid = rustix::process::Pid::from_raw(self.pid.as_raw());
        let Some((number, pid)) = number.zip(pid) else { return };
        let Ok(held) = pidfd_open(pid, PidfdFlags::empty()) else { return };
        if self.is_there() {
            // Whoever has gone meanwhile needs none.
            let _ = pidfd_send_signal(held, number);
        }
    }

    /// Whether both are one process.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (self.pid, self.started) == (other.pid, other.started)
    }

    /// Whether it is still the one that was seen, and has not ended.
    pub(super) fn is_there(&self) -> bool {
        seen(self.pid).is_some_and(|now| now.started == self.started && !now.ended)
    }

    /// Whether this user may send it signals at all: one that runs as another user goes on by itself.
    pub(super) fn can_be_sent_signals(&self) -> bool {
        kill(self.pid, None) != Err(nix::errno::Errno::EPERM)
    }
}

fn seen(pid: Pid) -> Option<Member> {
    // After the program's name, which may contain anything, also what is no text: its state, its parent, its group, and further on its start.
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse().ok().map(Pid::from_raw);
    Some(Member {
        pid,
        started: fields.get(19)?.parse().ok()?,
        parent: number(1)?,
        group: number(2)?,
        ended: matches!(fields.first(), Some(&("Z" | "X"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_descends_is_found_however_far_down_and_nobody_else() {
        let member = |pid, parent| Member {
            pid: Pid::from_raw(pid),
            started: 1,
            parent: Pid::from_raw(parent),
            group: Pid::from_raw(1),
            ended: false,
        };
        let all = [member(1, 0), member(2, 1), member(3, 2), member(4, 3), member(5, 1), member(6, 5)];
        let pids = |of: i32| -> BTreeSet<i32> {
            below(&all, &[Pid::from_raw(of)].into()).iter().map(|member| member.pid.as_raw()).collect()
        };
        assert_eq!(pids(2), [3, 4].into());
        assert_eq!(pids(1), [2, 3, 4, 5, 6].into());
        assert!(pids(4).is_empty() && pids(77).is_empty());
    }

    #[test]
    fn another_process_with_its_pid_is_not_taken_for_it() {
        let own = seen(nix::unistd::getpid()).unwrap();
        assert!(own.is_there() && own.can_be_sent_signals());
        let another = Member { started: own.started + 1, ..own };
        assert!(!another.is_there());
        // This process would end by it.
        another.send(Signal::SIGKILL);
    }
}
