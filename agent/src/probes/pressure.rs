//! What shows how hard pressed a node's RAM is: what is available, what is left until the kubelet evicts (of the machine, and of what pods may have
//! together), and how much tasks wait. What level that is, is judged in `memboss-core`.

use std::path::{Path, PathBuf};

use memboss_core::{Mib, Signals};
use memboss_ram::report::Machine;

use super::pods::PodCgroups;
use super::{Unreadable, kib, read};

/// Reads it.
#[derive(Clone, Debug)]
pub struct PressureProbe {
    meminfo: PathBuf,
    machine: Machine,
    kubelet: Option<Kubelet>,
}

/// A kubelet that evicts.
#[derive(Clone, Debug)]
pub struct Kubelet {
    /// Its pods' cgroups.
    pub cgroups: PodCgroups,
    /// It evicts when less than that is left: its `evictionHard` for `memory.available`.
    pub threshold: Mib,
}

impl PressureProbe {
    /// One for the machine whose figures are in that file, with its /proc there.
    #[must_use]
    pub fn new(meminfo: PathBuf, proc_root: &Path, kubelet: Option<Kubelet>) -> Self {
        let machine = Machine { proc: proc_root.to_owned(), groups: PathBuf::from("/nowhere") };
        Self { meminfo, machine, kubelet }
    }

    /// Looks once.
    ///
    /// # Errors
    /// When the machine's figures cannot be read.
    pub fn observe(&self) -> Result<Signals, Unreadable> {
        let text = read(&self.meminfo)?;
        let line = |name: &str| kib(&text, name).map(|kib| Mib::from_bytes_floor(kib.saturating_mul(1024)));
        let (Some(total), Some(available)) = (line("MemTotal:"), line("MemAvailable:")) else {
            return Err(Unreadable::Content { path: self.meminfo.clone(), what: "MemTotal and MemAvailable" });
        };
        let stalls = self.machine.report().ok().and_then(|report| report.memory_stalls);
        Ok(Signals {
            total: total.minus(line("Hugetlb:").unwrap_or_default()),
            available,
            until_limit: self.kubelet.as_ref().and_then(|kubelet| kubelet.left(total, &line)),
            stalled_some: stalls.map(|stalls| stalls.some),
            stalled_all: stalls.map(|stalls| stalls.all),
        })
    }
}

impl Kubelet {
    /// What is left until it evicts.
    fn left(&self, total: Mib, line: &dyn Fn(&str) -> Option<Mib>) -> Option<Mib> {
        let pods = self.cgroups.room();
        let node = of_machine(total, self.cgroups.counts_kernel(), line);
        [pods, node].into_iter().flatten().min().map(|left| left.minus(self.threshold))
    }
}

/// A kubelet's own figure of the machine: all there is, less what is in use, less the file cache that was not used lately. With version 2 of cgroups all
/// that is not free is in use; with version 1 what the kernel has for itself is not counted.
fn of_machine(total: Mib, counts_kernel: bool, line: &dyn Fn(&str) -> Option<Mib>) -> Option<Mib> {
    let used = if counts_kernel {
        total.minus(line("MemFree:")?)
    } else {
        ["Cached:", "Buffers:", "SwapCached:", "AnonPages:"].iter().filter_map(|name| line(name)).sum()
    };
    Some(total.minus(used.minus(line("Inactive(file):")?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const MEMINFO: &str = "MemTotal:        8388608 kB\nMemFree:         1048576 kB\nMemAvailable:    4194304 kB\nBuffers:               0 kB\n\
        Cached:          3145728 kB\nSwapCached:            0 kB\nInactive(file):  1048576 kB\nAnonPages:       2097152 kB\nHugetlb:               0 kB\n";

    /// What is seen with these groups: directory, file, content.
    fn seen(files: &[(&str, &str, String)]) -> Signals {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("meminfo"), MEMINFO).unwrap();
        for (directory, name, content) in files {
            std::fs::create_dir_all(root.path().join(directory)).unwrap();
            std::fs::write(root.path().join(directory).join(name), content).unwrap();
        }
        let kubelet = Kubelet { cgroups: PodCgroups::new(root.path()), threshold: Mib::from_mib(100) };
        PressureProbe::new(root.path().join("meminfo"), root.path(), Some(kubelet)).observe().unwrap()
    }

    #[test]
    fn the_nearer_of_the_two_evictions_counts_in_both_versions() {
        let two = |limit: &str| {
            seen(&[
                ("kubepods", "memory.max", format!("{limit}\n")),
                ("kubepods", "memory.current", (900 * MIB).to_string()),
                ("kubepods", "memory.stat", format!("anon 1\ninactive_file {}\n", 200 * MIB)),
            ])
        };
        // 1000 − (900 − 200) − 100.
        assert_eq!(two(&(1000 * MIB).to_string()).until_limit, Some(Mib::from_mib(200)));
        // Without a limit the machine's: 1 GiB free and 1 GiB of cache that was not used lately.
        assert_eq!(two("max").until_limit, Some(Mib::from_mib(2048 - 100)));
        let one = |limit: u64| {
            seen(&[
                ("memory/kubepods", "memory.limit_in_bytes", format!("{limit}\n")),
                ("memory/kubepods", "memory.usage_in_bytes", (900 * MIB).to_string()),
                ("memory/kubepods", "memory.stat", format!("inactive_file 1\ntotal_inactive_file {}\n", 200 * MIB)),
            ])
        };
        assert_eq!(one(1000 * MIB).until_limit, Some(Mib::from_mib(200)));
        // 3 GiB of cache and 2 GiB of processes, 1 GiB of it not used lately: the kernel's own 2 GiB do not count.
        assert_eq!(one(9_223_372_036_854_771_712).until_limit, Some(Mib::from_mib(4096 - 100)));
    }

    #[test]
    fn without_a_kubelet_what_is_available_counts_alone() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("meminfo"), MEMINFO).unwrap();
        let probe = PressureProbe::new(root.path().join("meminfo"), root.path(), None);
        let seen = probe.observe().unwrap();
        assert_eq!((seen.total, seen.available, seen.until_limit), (Mib::from_mib(8192), Mib::from_mib(4096), None));
        std::fs::write(root.path().join("meminfo"), "MemTotal: 1 kB\n").unwrap();
        assert!(probe.observe().unwrap_err().to_string().contains("MemAvailable"));
    }
}
