//! Host RAM at one moment: what there is, what is available, what the cache holds, how much tasks wait, and how hard pressed it is.

use std::path::PathBuf;

use memboss_core::{Cause, Mib, Pressure, Sign, Signals};
use procfs::{FromRead as _, IoPressure, Meminfo, MemoryPressure};
use serde::Serialize;

use crate::Failure;
use crate::limit::until_limit;

/// Where the kernel's figures are.
#[derive(Clone, Debug)]
pub struct Machine {
    /// `/proc`.
    pub proc: PathBuf,
    /// Where control groups are mounted.
    pub groups: PathBuf,
}

impl Default for Machine {
    fn default() -> Self {
        Self { proc: "/proc".into(), groups: "/sys/fs/cgroup".into() }
    }
}

/// Amounts in MiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// All of it.
    pub total: Mib,
    /// Not used for anything.
    pub free: Mib,
    /// What new work could have without swapping, as the kernel thinks.
    pub available: Mib,
    /// Memory of processes that is no file's.
    pub anonymous: Mib,
    /// Shared memory and files in memory (tmpfs): counted as cache by the kernel, and cannot be dropped.
    pub shared: Mib,
    /// Pages of files.
    pub file_cache: Mib,
    /// The part of them that must be written first.
    pub dirty: Mib,
    /// Pages of files and shared memory that processes have mapped.
    pub mapped: Mib,
    /// Caches of the kernel itself that it can shrink.
    pub kernel_cache: Mib,
    /// Set aside for huge pages.
    pub huge_pages: Mib,
    /// All swap.
    pub swap_total: Mib,
    /// The part of it in use.
    pub swap_used: Mib,
}

/// The share of the last 10 s in which tasks waited, in hundredths of a percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stalls {
    /// At least one.
    pub some: u32,
    /// All at once.
    pub all: u32,
}

/// The machine at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Amounts.
    #[serde(flatten)]
    pub figures: Figures,
    /// Waiting for memory; nothing where the kernel does not tell (PSI is off).
    pub memory_stalls: Option<Stalls>,
    /// Waiting for the disk.
    pub io_stalls: Option<Stalls>,
    /// How hard pressed it is, by this one look.
    pub pressure: Pressure,
    /// What that rests on.
    pub sign: Option<Sign>,
    /// What would help.
    pub cause: Cause,
    /// What is left until the limit of the container that this runs in, if it has one.
    pub until_limit: Option<Mib>,
}

impl Machine {
    /// Looks once.
    ///
    /// # Errors
    /// When `/proc/meminfo` cannot be read.
    pub fn report(&self) -> Result<Report, Failure> {
        let figures = self.figures()?;
        let memory_stalls = self.stalls::<MemoryPressure>("memory", |told| (told.some.avg10, told.full.avg10));
        let io_stalls = self.stalls::<IoPressure>("io", |told| (told.some.avg10, told.full.avg10));
        let until_limit = until_limit(&self.proc.join("self"), &self.groups);
        let mut report = Report {
            figures,
            memory_stalls,
            io_stalls,
            pressure: Pressure::Low,
            sign: None,
            cause: Cause::Nothing,
            until_limit,
        };
        (report.pressure, report.sign) = report.signals().level();
        report.cause = report.signals().cause(report.pressure);
        Ok(report)
    }

    /// Amounts alone.
    ///
    /// # Errors
    /// When `/proc/meminfo` cannot be read.
    pub fn figures(&self) -> Result<Figures, Failure> {
        let path = self.proc.join("meminfo");
        let told = Meminfo::from_file(&path).map_err(|source| Failure::Read { path, source })?;
        let mib = Mib::from_bytes_floor;
        let or_none = |bytes: Option<u64>| mib(bytes.unwrap_or_default());
        let shared = or_none(told.shmem);
        Ok(Figures {
            total: mib(told.mem_total),
            free: mib(told.mem_free),
            // Kernels before 3.14 do not tell; what is free is surely available.
            available: mib(told.mem_available.unwrap_or(told.mem_free)),
            anonymous: or_none(told.anon_pages),
            shared,
            file_cache: mib(told.cached.saturating_add(told.buffers)).minus(shared),
            mapped: mib(told.mapped),
            dirty: mib(told.dirty.saturating_add(told.writeback)),
            kernel_cache: or_none(told.s_reclaimable),
            huge_pages: or_none(told.hugetlb),
            swap_total: mib(told.swap_total),
            swap_used: mib(told.swap_total.saturating_sub(told.swap_free)),
        })
    }

    fn stalls<T: procfs::FromRead>(&self, of: &str, told: impl Fn(&T) -> (f32, f32)) -> Option<Stalls> {
        let (some, all) = told(&T::from_file(self.proc.join("pressure").join(of)).ok()?);
        Some(Stalls { some: hundredths(some), all: hundredths(all) })
    }
}

impl Report {
    /// What the rules judge by.
    #[must_use]
    pub fn signals(&self) -> Signals {
        Signals {
            total: self.figures.total.minus(self.figures.huge_pages),
            available: self.figures.available,
            until_limit: self.until_limit,
            stalled_some: self.memory_stalls.map(|stalls| stalls.some),
            stalled_all: self.memory_stalls.map(|stalls| stalls.all),
        }
    }
}

/// A percentage as the kernel prints it, with two digits after the point.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "held within 0 to 10,000 just before")]
fn hundredths(percent: f32) -> u32 {
    (percent * 100.0).round().clamp(0.0, 10_000.0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn machine(proc: &Path) -> Machine {
        Machine { proc: proc.to_owned(), groups: "/nowhere".into() }
    }

    const MEMINFO: &str = "MemTotal:       24683520 kB\nMemFree:         1048576 kB\nMemAvailable:    2097152 kB\nBuffers:          102400 kB\n\
        Cached:          4194304 kB\nSwapCached:            0 kB\nActive:                0 kB\nInactive:              0 kB\nSwapTotal:       1048576 kB\n\
        SwapFree:         524288 kB\nDirty:             10240 kB\nWriteback:             0 kB\nAnonPages:      16777216 kB\nMapped:           512000 kB\n\
        Shmem:           2097152 kB\nSlab:                  0 kB\nSReclaimable:     204800 kB\nCommitted_AS:          0 kB\nVmallocTotal:          0 kB\n\
        VmallocUsed:           0 kB\nVmallocChunk:          0 kB\nHugetlb:               0 kB\n";

    fn proc_with(pressure: Option<&str>) -> tempfile::TempDir {
        let proc = tempfile::tempdir().unwrap();
        std::fs::write(proc.path().join("meminfo"), MEMINFO).unwrap();
        if let Some(text) = pressure {
            std::fs::create_dir(proc.path().join("pressure")).unwrap();
            std::fs::write(proc.path().join("pressure/memory"), text).unwrap();
        }
        proc
    }

    #[test]
    fn figures_come_from_meminfo_and_shared_memory_is_no_cache() {
        let report = machine(proc_with(None).path()).report().unwrap();
        let figures = report.figures;
        assert_eq!((figures.total, figures.available), (Mib::from_mib(24_105), Mib::from_mib(2048)));
        assert_eq!((figures.file_cache, figures.shared), (Mib::from_mib(2148), Mib::from_mib(2048)));
        assert_eq!(figures.swap_used, Mib::from_mib(512));
        // 8 % is available, and it is processes that have the rest.
        assert_eq!((report.pressure, report.sign), (Pressure::Moderate, Some(Sign::LittleAvailable)));
        assert_eq!((report.cause, report.memory_stalls), (Cause::InUse, None));
    }

    #[test]
    fn stalls_are_read_where_the_kernel_tells_them() {
        let text = "some avg10=41.50 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.07 avg60=0.00 avg300=0.00 total=1\n";
        let report = machine(proc_with(Some(text)).path()).report().unwrap();
        assert_eq!(report.memory_stalls, Some(Stalls { some: 4150, all: 7 }));
        assert_eq!((report.pressure, report.sign), (Pressure::High, Some(Sign::Stalls)));
    }

    #[test]
    fn this_machine_can_be_read() {
        let report = Machine::default().report().unwrap();
        assert!(report.figures.total > report.figures.available && !report.figures.available.is_zero(), "{report:?}");
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let error = machine(Path::new("/nowhere")).report().unwrap_err();
        assert!(error.to_string().contains("/nowhere/meminfo"), "{error}");
    }
}
