//! The settings of the rules, with the reasons for their defaults. It may hold numbers only.

use serde::{Deserialize, Serialize};

use crate::class::Class;
use crate::units::Span;

/// The settings of an engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Aging: how much longer one class must have waited to stand level with the next. 300 s lets BATCH pass a NORMAL that came 600 s later.
    pub aging_per_class: Span,
    /// Minimum runtime since active before a lease of that class can be a victim, from BATCH to URGENT (whose value is never used).
    pub protection: [Span; 5],
    /// After so many preemptions a lease is no victim any more: everybody gets through once.
    pub preemption_budget: u32,
    /// Time between notice and stop by the preemptor's class, from BATCH to URGENT. 30 s is what Kubernetes gives a pod to end.
    pub notice: [Span; 5],
    /// The most a lease may wish for between notice and stop.
    pub notice_limit: Span,
    /// How long a reservation waits for its holder before it is put back.
    pub reservation: Span,
}

impl Default for Policy {
    fn default() -> Self {
        let s = Span::from_secs;
        Self {
            aging_per_class: s(300),
            protection: [s(10), s(30), s(60), s(60), s(60)],
            preemption_budget: 3,
            notice: [s(30), s(30), s(30), s(15), s(5)],
            notice_limit: s(300),
            reservation: s(300),
        }
    }
}

impl Policy {
    /// Time between notice and stop for a victim with that wish.
    #[must_use]
    pub fn notice_for(&self, preemptor: Class, wish: Option<Span>) -> Span {
        wish.unwrap_or(self.notice[preemptor.rank()]).min(self.notice_limit)
    }

    /// Protection of a lease of that class with that wish.
    #[must_use]
    pub fn protection_for(&self, class: Class, wish: Option<Span>) -> Span {
        let most = self.protection[class.rank()];
        wish.map_or(most, |wish| wish.min(most))
    }
}
