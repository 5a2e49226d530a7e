//! When a waiter will probably be granted: by what its victims were told, by when they may be asked, or as fast as the queue has moved. It promises nothing,
//! and grants nothing.

use std::collections::VecDeque;
use std::fmt;

use crate::engine::Engine;
use crate::explain::LeaseView;
use crate::refuse::Waiting;
use crate::state::Phase;
use crate::units::{Moment, Span};

/// What becomes of so many of the last waiters tells how fast the queue moves: more would tell of another time.
const LAST: usize = 16;
/// Fewer tell nothing.
const ENOUGH: usize = 4;
/// Two estimates say the same if they differ by no more.
const LEEWAY: Span = Span::from_secs(1);

/// When a waiter will probably be granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// By then.
    pub by: Moment,
    /// What that rests on.
    pub basis: Basis,
}

/// What an estimate rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// Those who make room for it were told to be gone by then.
    Notice,
    /// Those who could make room for it are protected for some time, and have their notice then.
    Protection,
    /// Its place, and how fast the queue has moved lately.
    Queue,
}

impl Basis {
    /// Its one name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Notice => "Notice",
            Self::Protection => "Protection",
            Self::Queue => "Queue",
        }
    }

    /// The one of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Notice, Self::Protection, Self::Queue].into_iter().find(|basis| basis.name() == name)
    }
}

impl fmt::Display for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Notice => "those who make room were told to be gone by then",
            Self::Protection => "those who can make room are protected until shortly before",
            Self::Queue => "as fast as the queue has moved lately",
        })
    }
}

impl Estimate {
    /// Whether it says something else than that one did: time that has passed alone is nothing else.
    #[must_use]
    pub fn differs(self, before: Self, now: Moment) -> bool {
        let apart = self.by.since(before.by).max(before.by.since(self.by));
        let quarter = Span::from_millis(before.by.since(now).millis() / 4);
        self.basis != before.basis || apart > quarter.max(LEEWAY)
    }
}

/// When the last of those who had to wait were granted, the last one last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pace(VecDeque<Moment>);

impl Pace {
    /// One that had waited was granted.
    pub(crate) fn served(&mut self, now: Moment) {
        if self.0.len() == LAST {
            self.0.pop_front();
        }
        self.0.push_back(now);
    }

    /// When the one at that place, from 1, will be granted if it goes on so. Time in which nobody was counts too.
    fn serves(&self, place: usize, now: Moment) -> Option<Moment> {
        let first = self.0.front().filter(|_| self.0.len() >= ENOUGH)?;
        let (place, between) = (u64::try_from(place).ok()?, u64::try_from(self.0.len() - 1).ok()?);
        let all = now.since(*first).millis().saturating_mul(place);
        Some(now.after(Span::from_millis(all / between)))
    }
}

impl Engine {
    /// When that lease, which waits at that place (from 1, if it has one), will probably be granted; nothing where nothing tells.
    #[must_use]
    pub fn estimate(&self, lease: &LeaseView, place: Option<usize>, now: Moment) -> Option<Estimate> {
        if lease.phase != Phase::Waiting {
            return None;
        }
        if lease.placement.is_some() {
            let told = lease.victims.iter().filter_map(|victim| match self.phase(victim)? {
                Phase::Revoking { notice, .. } => Some(notice.deadline),
                _ => None,
            });
            return told.max().map(|by| Estimate { by, basis: Basis::Notice });
        }
        match lease.why.as_ref()? {
            Waiting::VictimsProtected { until } => {
                let by = until.after(self.policy.notice_for(lease.class, None));
                Some(Estimate { by, basis: Basis::Protection })
            }
            Waiting::NoRoom { .. } | Waiting::Behind { .. } => {
                Some(Estimate { by: self.pace.serves(place?, now)?, basis: Basis::Queue })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_millis(seconds * 1000)
    }

    #[test]
    fn the_queue_goes_on_as_fast_as_it_went_and_slower_while_it_stands() {
        let mut pace = Pace::default();
        for n in 0..3 {
            pace.served(at(10 * n));
        }
        assert_eq!(pace.serves(1, at(20)), None, "too few tell nothing");
        pace.served(at(30));
        assert_eq!((pace.serves(1, at(30)), pace.serves(3, at(30))), (Some(at(40)), Some(at(60))));
        assert_eq!(pace.serves(1, at(60)), Some(at(80)), "it has stood for half a minute");
        for n in 4..40 {
            pace.served(at(30 + n));
        }
        assert_eq!(pace.serves(2, at(69)), Some(at(71)), "what was long ago no longer counts");
    }

    #[test]
    fn an_estimate_is_news_when_it_says_something_else() {
        let by = |seconds| Estimate { by: at(seconds), basis: Basis::Queue };
        assert!(!by(100).differs(by(100), at(50)));
        assert!(!by(110).differs(by(100), at(50)), "within a quarter of what was left");
        assert!(by(120).differs(by(100), at(50)));
        assert!(!by(51).differs(by(50), at(50)) && by(52).differs(by(50), at(50)));
        assert!(Estimate { basis: Basis::Notice, ..by(100) }.differs(by(100), at(50)));
    }
}
