//! Who descends from whom, and what a family has of RAM together. It reads, and ends nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

use memboss_core::Mib;

use super::processes::{Process, process, stat_field};
use super::{kib, read};

/// More generations than that nobody has.
const GENERATIONS: usize = 32;
/// More processes than that of one family are not gone through.
pub(super) const FAMILY: usize = 4096;
/// What a process has to have of RAM to matter.
const LARGE: Mib = Mib::from_mib(64);

/// A process and those that it descends from, the nearest first.
pub(super) fn lineage(proc_root: &Path, pid: u32) -> Vec<Process> {
    let mut line = Vec::new();
    let mut next = Some(pid);
    while let Some(pid) = next.filter(|pid| *pid > 1 && line.len() < GENERATIONS) {
        let Ok(process) = process(proc_root, pid) else { break };
        line.push(process);
        next = stat_field(proc_root, pid, 1).ok().and_then(|parent| u32::try_from(parent).ok());
    }
    line
}

/// The exact shares of large processes of one family, and when each was read: reading one takes the longer the more it has, so that not all may be read at
/// once.
#[derive(Clone, Debug, Default)]
pub struct Shares(BTreeMap<u32, (Instant, u64)>);

/// Own pages and shared memory of a process and of all that descend from it, as far as they are found until then, and whether that was all. One that ends
/// meanwhile has none. What several of them share is counted once: where more than one is large, each counts with its exact share, and not at all where that
/// was never read or may not be, so that too little is found rather than too much.
pub(super) fn ram(
    proc_root: &Path,
    first: u32,
    without: BTreeSet<u32>,
    until: Instant,
    shares: &mut Shares,
) -> (Mib, bool) {
    let (mut members, mut next, mut seen) = (BTreeMap::new(), vec![first], without);
    let in_time = || Instant::now() < until;
    while let Some(pid) = next.pop() {
        if !seen.insert(pid) {
            continue;
        }
        if members.len() >= FAMILY || !in_time() {
            return (sum(members.into_values()), false);
        }
        let process = proc_root.join(pid.to_string());
        let kib = figures(&process.join("status"), &["RssAnon:", "RssShmem:"]).unwrap_or_default();
        members.insert(pid, kib);
        next.extend(children(proc_root, pid));
    }
    shares.0.retain(|pid, _| members.contains_key(pid));
    if members.values().filter(|kib| **kib > LARGE.bytes() / 1024).count() <= 1 {
        return (sum(members.into_values()), true);
    }
    // Those that were never read come first, then those whose figure is the oldest; one is read in any case, so that in time all are.
    let mut in_turn: Vec<u32> = members.keys().copied().collect();
    in_turn.sort_by_key(|pid| shares.0.get(pid).map(|(at, _)| *at));
    for (number, pid) in in_turn.into_iter().enumerate() {
        if number > 0 && !in_time() {
            break;
        }
        let rollup = proc_root.join(pid.to_string()).join("smaps_rollup");
        let kib = figures(&rollup, &["Pss_Anon:", "Pss_Shmem:"]).unwrap_or_default();
        shares.0.insert(pid, (Instant::now(), kib));
    }
    (sum(shares.0.values().map(|(_, kib)| *kib)), true)
}

fn sum(kib: impl Iterator<Item = u64>) -> Mib {
    Mib::from_bytes_ceil(kib.fold(0_u64, u64::saturating_add).saturating_mul(1024))
}

/// The sum of those lines of a file of the kernel, in KiB.
fn figures(path: &Path, names: &[&str]) -> Option<u64> {
    let text = read(path).ok()?;
    Some(names.iter().filter_map(|name| kib(&text, name)).fold(0, u64::saturating_add))
}

/// Those that a process began and that live, whichever of its threads did; nobody where that may not be read, or the kernel does not tell.
pub(super) fn children(proc_root: &Path, pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(proc_root.join(pid.to_string()).join("task"));
    let of_task = |task: std::fs::DirEntry| read(&task.path().join("children")).unwrap_or_default();
    let listed = tasks.into_iter().flatten().flatten().map(of_task);
    listed
        .flat_map(|pids| pids.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}
