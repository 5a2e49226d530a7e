//! How long cache is let alone after it was dropped: the longer, the less good it did. What was needed again was read from a disk for nothing, and dropping
//! it each minute would slow down whoever needs it. It measures nothing and drops nothing; the moment comes in.

use crate::relief::Cleaning;
use crate::units::{Mib, Moment, Span};

/// After a cleaning that did good.
const SHORTEST_REST: Span = Span::from_secs(60);
/// However often it did none.
const LONGEST_REST: Span = Span::from_secs(32 * 60);

/// When cache may be dropped again, for each way of cleaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rests {
    balanced: Rest,
    aggressive: Rest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rest {
    since: Option<Moment>,
    span: Span,
}

impl Default for Rest {
    fn default() -> Self {
        Self { since: None, span: SHORTEST_REST }
    }
}

impl Rest {
    fn longer(&mut self) {
        self.span = Span::from_millis(self.span.millis().saturating_mul(2)).min(LONGEST_REST);
    }
}

impl Rests {
    /// Whether cleaning so may do good again.
    #[must_use]
    pub fn are_over(&self, how: Cleaning, now: Moment) -> bool {
        let rest = match how {
            Cleaning::Balanced => self.balanced,
            Cleaning::Aggressive => self.aggressive,
        };
        rest.since.is_none_or(|since| now.since(since) >= rest.span)
    }

    /// Cache was dropped, or there was none to drop, which did no harm either. Whatever goes far has gone less far too; the other way round it may still help
    /// to go farther.
    pub fn ended(&mut self, how: Cleaning, now: Moment) {
        self.of(how).for_each(|rest| rest.since = Some(now));
    }

    /// So much of what was dropped is in the cache again: with more than half of it, dropping it did no good.
    pub fn came_back(&mut self, how: Cleaning, dropped: Mib, back: Mib) {
        for rest in self.of(how) {
            if back.plus(back) > dropped {
                rest.longer();
            } else {
                rest.span = SHORTEST_REST;
            }
        }
    }

    fn of(&mut self, how: Cleaning) -> impl Iterator<Item = &mut Rest> {
        let aggressive = (how == Cleaning::Aggressive).then_some(&mut self.aggressive);
        std::iter::once(&mut self.balanced).chain(aggressive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_millis(seconds * 1000)
    }

    fn mib(n: u64) -> Mib {
        Mib::from_mib(n)
    }

    /// How many seconds nothing is dropped so, if it was dropped last at 0.
    fn rest(rests: &Rests, how: Cleaning) -> u64 {
        (0..3000).find(|seconds| rests.are_over(how, at(*seconds))).unwrap()
    }

    #[test]
    fn what_does_good_may_be_done_again_in_a_minute_and_what_does_none_ever_later() {
        use Cleaning::Balanced;
        let mut rests = Rests::default();
        assert_eq!(rest(&rests, Balanced), 0);
        // MiB dropped, of these back later, seconds until the next.
        for (dropped, back, until) in [
            (100, 0, 60),
            (100, 50, 60),
            (100, 51, 120),
            (0, 0, 120),
            (100, 100, 240),
            (100, 90, 480),
            (100, 90, 960),
            (100, 90, 1920),
            (100, 90, 1920),
            (100, 10, 60),
        ] {
            rests.ended(Balanced, at(0));
            if dropped > 0 {
                rests.came_back(Balanced, mib(dropped), mib(back));
            }
            assert_eq!(rest(&rests, Balanced), until, "{dropped} dropped, {back} back");
        }
    }

    #[test]
    fn going_farther_may_help_where_going_less_far_did_not_and_not_the_other_way_round() {
        let mut rests = Rests::default();
        rests.ended(Cleaning::Balanced, at(0));
        rests.came_back(Cleaning::Balanced, mib(100), mib(100));
        assert_eq!((rest(&rests, Cleaning::Balanced), rest(&rests, Cleaning::Aggressive)), (120, 0));
        rests.ended(Cleaning::Aggressive, at(0));
        assert_eq!((rest(&rests, Cleaning::Balanced), rest(&rests, Cleaning::Aggressive)), (120, 60));
    }
}
