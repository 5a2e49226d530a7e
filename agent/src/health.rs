//! What an error that a GPU reports means, and when a GPU that was unwell counts as well again. Pure: probes bring the facts, `node/` acts.

use memboss_core::{Closed, Moment, Span};

/// What an XID means for the GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XidClass {
    /// Nothing.
    Ignore,
    /// A process did wrong; the GPU is well.
    App,
    /// No new grants; what runs goes on.
    Degrade,
    /// The GPU is lost to whoever is on it.
    Fatal,
}

/// What an XID means. The numbers follow NVIDIA's catalogue; one that is not known is taken for a reason to be careful.
#[must_use]
pub const fn classify(xid: u64) -> XidClass {
    match xid {
        // A page retired or a row remapped, as it should be.
        63 => XidClass::Ignore,
        // Faults, traps and stops of programs; contained memory errors, for which the program is restarted.
        13 | 31 | 43 | 45 | 68 | 69 | 94 => XidClass::App,
        // Uncorrectable memory errors, failed remapping, off the bus, the GPU's own processor gone.
        46 | 48 | 62 | 64 | 79 | 95 | 119 | 120 => XidClass::Fatal,
        _ => XidClass::Degrade,
    }
}

/// How a GPU is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// Well.
    #[default]
    Healthy,
    /// No new grants; what runs goes on.
    Degraded,
    /// Gone, or it does not answer.
    Lost,
}

/// When a GPU counts as well again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// So many clean readings in a row.
    pub clean_readings: u32,
    /// After an XID, at least so long after it.
    pub quiet: Span,
}

impl Default for Recovery {
    fn default() -> Self {
        Self { clean_readings: 3, quiet: Span::from_secs(60) }
    }
}

/// The health of one GPU, with what is needed to let it recover.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuHealth {
    health: Health,
    reason: String,
    clean: u32,
    needed: u32,
    not_before: Moment,
}

impl GpuHealth {
    /// How it is.
    #[must_use]
    pub const fn health(&self) -> Health {
        self.health
    }

    /// Why, unless it is well.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Why it takes nothing new, if so.
    #[must_use]
    pub const fn closed(&self) -> Option<Closed> {
        match self.health {
            Health::Healthy => None,
            Health::Degraded => Some(Closed::Degraded),
            Health::Lost => Some(Closed::Lost),
        }
    }

    /// It reported an error.
    pub fn reported(&mut self, xid: u64, now: Moment, rule: Recovery) {
        let health = match classify(xid) {
            XidClass::Ignore | XidClass::App => return,
            XidClass::Degrade => Health::Degraded,
            XidClass::Fatal => Health::Lost,
        };
        self.worsen(health, format!("XID {xid}"), rule.clean_readings, now.after(rule.quiet));
    }

    /// It could not be read.
    pub fn unreadable(&mut self, why: &str, now: Moment, rule: Recovery) {
        self.worsen(Health::Lost, why.to_owned(), rule.clean_readings, now);
    }

    /// NVML as a whole does not answer: no fault of this GPU, so the next answer is enough.
    pub fn silent(&mut self, why: &str, now: Moment) {
        self.worsen(Health::Lost, why.to_owned(), 1, now);
    }

    /// It was read without an error.
    pub fn clean(&mut self, now: Moment) {
        if self.health == Health::Healthy {
            return;
        }
        self.clean += 1;
        if self.clean >= self.needed && now >= self.not_before {
            *self = Self::default();
        }
    }

    fn worsen(&mut self, health: Health, reason: String, needed: u32, not_before: Moment) {
        let worse = matches!((self.health, health), (Health::Healthy, _) | (Health::Degraded, Health::Lost));
        if worse {
            (self.health, self.reason) = (health, reason);
        }
        self.clean = 0;
        self.needed = self.needed.max(needed);
        self.not_before = self.not_before.max(not_before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Moment {
        Moment::from_millis(s * 1000)
    }

    #[test]
    fn a_programs_fault_leaves_the_gpu_well() {
        let mut gpu = GpuHealth::default();
        for xid in [13, 31, 43, 45, 63, 94] {
            gpu.reported(xid, at(1), Recovery::default());
        }
        assert_eq!(gpu.health(), Health::Healthy);
    }

    #[test]
    fn after_an_xid_it_recovers_with_clean_readings_and_after_a_quiet_time() {
        let mut gpu = GpuHealth::default();
        gpu.reported(74, at(1), Recovery::default());
        assert_eq!((gpu.health(), gpu.reason()), (Health::Degraded, "XID 74"));
        for s in 2..60 {
            gpu.clean(at(s));
        }
        assert_eq!(gpu.health(), Health::Degraded);
        gpu.clean(at(61));
        assert_eq!(gpu.health(), Health::Healthy);
    }

    #[test]
    fn a_lost_gpu_stays_lost_through_smaller_complaints_and_needs_clean_readings_in_a_row() {
        let mut gpu = GpuHealth::default();
        gpu.unreadable("GPU is lost", at(1), Recovery::default());
        gpu.clean(at(2));
        gpu.clean(at(3));
        gpu.unreadable("GPU is lost", at(4), Recovery::default());
        gpu.clean(at(5));
        gpu.clean(at(6));
        assert_eq!(gpu.closed(), Some(Closed::Lost));
        gpu.clean(at(7));
        assert_eq!(gpu.closed(), None);
    }

    #[test]
    fn nvml_that_answers_again_is_enough() {
        let mut gpu = GpuHealth::default();
        gpu.silent("NVML does not answer", at(1));
        assert_eq!(gpu.health(), Health::Lost);
        gpu.clean(at(2));
        assert_eq!(gpu.health(), Health::Healthy);
    }
}
