//! How hard pressed a node's RAM is, and of what kind the pressure is. Up as soon as a signal has lasted, down one level at a time and later, so that
//! nobody acts on a flicker. It may not know how anything is measured, nor what is done about it. Looks should be about a second apart.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::units::{Mib, Moment, Span};

/// The level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pressure {
    /// Nothing need be done.
    #[default]
    Low,
    /// What nobody needs should go.
    Moderate,
    /// New work would hurt what runs.
    High,
    /// The kernel or the kubelet is about to kill.
    Critical,
}

impl Pressure {
    /// All, from the lowest.
    pub const ALL: [Self; 4] = [Self::Low, Self::Moderate, Self::High, Self::Critical];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Moderate => "moderate",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Pressure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is seen of a node's RAM at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// All of it that is not set aside for huge pages.
    pub total: Mib,
    /// What new work could have without swapping, as the kernel thinks.
    pub available: Mib,
    /// What is left until a limit that counts cache: a kubelet's eviction threshold, or a container's own. Nothing where there is none.
    pub until_limit: Option<Mib>,
    /// The share of the last 10 s in which some task waited for memory, in hundredths of a percent; nothing where the kernel does not tell.
    pub stalled_some: Option<u32>,
    /// The same for all tasks at once.
    pub stalled_all: Option<u32>,
}

/// What a level rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Sign {
    /// Little is available.
    LittleAvailable,
    /// A limit that counts cache is near.
    LimitNear,
    /// Tasks wait for memory.
    Stalls,
}

impl Sign {
    /// Its name, the same wherever it is told.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LittleAvailable => "LittleAvailable",
            Self::LimitNear => "LimitNear",
            Self::Stalls => "Stalls",
        }
    }
}

/// What would help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Cause {
    /// Nothing is wrong, or no longer.
    Nothing,
    /// Cache counts against a limit that is near, while enough is available: dropping cache that nobody needs helps.
    Cache,
    /// What is in use cannot be dropped: only its users can give it back.
    InUse,
    /// Tasks wait although enough is available: something reclaims too eagerly, or the disk is slow.
    Stalls,
}

impl Cause {
    /// Its name, the same wherever it is told.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "Nothing",
            Self::Cache => "Cache",
            Self::InUse => "InUse",
            Self::Stalls => "Stalls",
        }
    }
}

/// The numbers of one level. A part of the whole counts only up to an amount: on a large node a tenth is not little.
#[derive(Clone, Copy)]
struct Bounds {
    /// Entered below that part of all RAM, in percent, and that amount.
    below: (u64, Mib),
    /// Left above that part, and that amount.
    above: (u64, Mib),
    /// Entered when no more than that is left until a limit.
    until_limit: Mib,
    /// Entered when some, or all, waited for more than that share, in hundredths of a percent.
    some: u32,
    all: u32,
    /// How long a sign must last before it counts.
    lasting: Span,
    /// How long it must have been calm before the level is left.
    calm: Span,
}

/// Where a level begins, as far as people may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threshold {
    /// Less than that part of all RAM is available, in percent.
    pub available: u64,
    /// No more than that is left until a limit that counts cache.
    pub left: Mib,
}

/// Where the levels above the lowest begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// [`Pressure::Moderate`].
    pub moderate: Threshold,
    /// [`Pressure::High`].
    pub high: Threshold,
    /// [`Pressure::Critical`].
    pub critical: Threshold,
}

impl Default for Thresholds {
    fn default() -> Self {
        let of = |bounds: Bounds| Threshold { available: bounds.below.0, left: bounds.until_limit };
        Self { moderate: of(MODERATE), high: of(HIGH), critical: of(CRITICAL) }
    }
}

impl Thresholds {
    /// The levels above the lowest, with their numbers.
    fn levels(&self) -> [(Pressure, Bounds); 3] {
        [
            (Pressure::Moderate, MODERATE.from(self.moderate)),
            (Pressure::High, HIGH.from(self.high)),
            (Pressure::Critical, CRITICAL.from(self.critical)),
        ]
    }
}

impl Bounds {
    /// The same, beginning there. What must be available to leave the level keeps its distance.
    fn from(self, threshold: Threshold) -> Self {
        let distance = self.above.0 - self.below.0;
        let (below, above) = (threshold.available, threshold.available + distance);
        Self { below: (below, self.below.1), above: (above, self.above.1), until_limit: threshold.left, ..self }
    }
}

const fn gib(n: u64) -> Mib {
    Mib::from_mib(n * 1024)
}

/// More than a share can be: a sign that never shows.
const NEVER: u32 = u32::MAX;

const MODERATE: Bounds = Bounds {
    below: (10, gib(16)),
    above: (13, gib(20)),
    until_limit: gib(1),
    some: 10_00,
    all: NEVER,
    lasting: Span::from_secs(10),
    calm: Span::from_secs(60),
};

const HIGH: Bounds = Bounds {
    below: (5, gib(8)),
    above: (7, gib(11)),
    until_limit: Mib::from_mib(384),
    some: 40_00,
    all: 5_00,
    lasting: Span::from_secs(2),
    calm: Span::from_secs(60),
};

const CRITICAL: Bounds = Bounds {
    below: (2, gib(4)),
    above: (5, gib(8)),
    until_limit: Mib::from_mib(64),
    some: NEVER,
    all: 60_00,
    lasting: Span::from_secs(1),
    calm: Span::from_secs(300),
};

impl Signals {
    fn part(&self, (percent, most): (u64, Mib)) -> Mib {
        Mib::from_mib(self.total.mib().saturating_mul(percent) / 100).min(most)
    }

    fn sign_of(&self, bounds: &Bounds) -> Option<Sign> {
        let stalls = |share: Option<u32>, most: u32| share.is_some_and(|share| share > most);
        if self.available < self.part(bounds.below) {
            Some(Sign::LittleAvailable)
        } else if self.until_limit.is_some_and(|left| left <= bounds.until_limit) {
            Some(Sign::LimitNear)
        } else if stalls(self.stalled_some, bounds.some) || stalls(self.stalled_all, bounds.all) {
            Some(Sign::Stalls)
        } else {
            None
        }
    }

    fn is_calm(&self, bounds: &Bounds) -> bool {
        let half = |share: Option<u32>, most: u32| share.is_none_or(|share| share <= most / 2);
        self.available >= self.part(bounds.above)
            && !self.is_near_limit(bounds)
            && half(self.stalled_some, bounds.some)
            && half(self.stalled_all, bounds.all)
    }

    fn is_near_limit(&self, bounds: &Bounds) -> bool {
        self.until_limit.is_some_and(|left| left.mib() <= bounds.until_limit.mib() * 3 / 2)
    }

    /// The level that these signals show by themselves, and what it rests on: for one look, with nothing known of before.
    #[must_use]
    pub fn level(&self) -> (Pressure, Option<Sign>) {
        self.level_by(&Thresholds::default())
    }

    /// The same, with levels that begin elsewhere.
    #[must_use]
    pub fn level_by(&self, thresholds: &Thresholds) -> (Pressure, Option<Sign>) {
        let levels = thresholds.levels();
        let shown = levels.iter().rev().find_map(|(level, bounds)| Some((*level, Some(self.sign_of(bounds)?))));
        shown.unwrap_or((Pressure::Low, None))
    }

    /// What would help at that level.
    #[must_use]
    pub fn cause(&self, level: Pressure) -> Cause {
        self.cause_by(&Thresholds::default(), level)
    }

    /// The same, with levels that begin elsewhere.
    #[must_use]
    pub fn cause_by(&self, thresholds: &Thresholds, level: Pressure) -> Cause {
        let moderate = MODERATE.from(thresholds.moderate);
        // What that level rests on goes before what is only not quite well.
        let rests_on_limit = thresholds
            .levels()
            .iter()
            .any(|(at, bounds)| *at == level && self.sign_of(bounds) == Some(Sign::LimitNear));
        let stalls = |share: Option<u32>, most: u32| share.is_some_and(|share| share > most / 2);
        if level == Pressure::Low {
            Cause::Nothing
        } else if rests_on_limit {
            Cause::Cache
        } else if self.available < self.part(moderate.above) {
            Cause::InUse
        } else if self.is_near_limit(&moderate) {
            Cause::Cache
        } else if stalls(self.stalled_some, MODERATE.some) || stalls(self.stalled_all, HIGH.all) {
            Cause::Stalls
        } else {
            Cause::Nothing
        }
    }

    /// What must become free until that level would be left; nothing at the lowest.
    #[must_use]
    pub fn missing_by(&self, thresholds: &Thresholds, level: Pressure) -> Mib {
        let levels = thresholds.levels();
        let Some((_, bounds)) = levels.iter().find(|(at, _)| *at == level) else { return Mib::ZERO };
        let until_limit = |left: Mib| Mib::from_mib(bounds.until_limit.mib() * 3 / 2 + 1).minus(left);
        let below_limit = self.until_limit.map(until_limit).unwrap_or_default();
        self.part(bounds.above).minus(self.available).max(below_limit)
    }
}

/// The level over time.
#[derive(Clone, Debug, Default)]
pub struct Gauge {
    thresholds: Thresholds,
    level: Pressure,
    sign: Option<Sign>,
    /// Since when each level's signs have been there without a break.
    seen: [Option<Moment>; 3],
    /// Since when it has been calm enough to leave the present level.
    calm: Option<Moment>,
}

impl Gauge {
    /// One with levels that begin there.
    #[must_use]
    pub fn new(thresholds: Thresholds) -> Self {
        Self { thresholds, ..Self::default() }
    }

    /// Takes in one look; what the level is now.
    pub fn look(&mut self, signals: &Signals, now: Moment) -> Pressure {
        let mut shown = (Pressure::Low, None);
        for (at, (level, bounds)) in self.thresholds.levels().iter().enumerate() {
            let sign = signals.sign_of(bounds);
            let since = sign.map(|_| self.seen[at].unwrap_or(now));
            self.seen[at] = since;
            if since.is_some_and(|since| now.since(since) >= bounds.lasting) {
                shown = (*level, sign);
            }
        }
        if shown.0 >= self.level {
            (self.level, self.sign, self.calm) =
                (shown.0, shown.1.or(self.sign.filter(|_| shown.0 != Pressure::Low)), None);
            return self.level;
        }
        self.calm_down(signals, now);
        self.level
    }

    fn calm_down(&mut self, signals: &Signals, now: Moment) {
        let levels = self.thresholds.levels();
        let Some((_, bounds)) = levels.iter().find(|(level, _)| *level == self.level) else { return };
        if !signals.is_calm(bounds) {
            self.calm = None;
            return;
        }
        let since = *self.calm.get_or_insert(now);
        if now.since(since) >= bounds.calm {
            let below = Pressure::ALL.into_iter().rev().find(|level| *level < self.level);
            self.level = below.unwrap_or_default();
            self.calm = Some(now);
            if self.level == Pressure::Low {
                self.sign = None;
            }
        }
    }

    /// The level.
    #[must_use]
    pub const fn level(&self) -> Pressure {
        self.level
    }

    /// What it rests on, or rested on when it rose.
    #[must_use]
    pub const fn sign(&self) -> Option<Sign> {
        self.sign
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Moment {
        Moment::from_millis(secs * 1000)
    }

    fn of_24g(available_percent: u64) -> Signals {
        let total = gib(24);
        Signals { total, available: Mib::from_mib(total.mib() * available_percent / 100), ..Signals::default() }
    }

    #[test]
    fn one_look_shows_a_level_what_it_rests_on_and_what_would_help() {
        let base = of_24g(50);
        let near = Signals { until_limit: Some(Mib::from_mib(300)), ..base };
        let stalled = Signals { stalled_some: Some(15_00), ..base };
        let cases = [
            (base, Pressure::Low, None, Cause::Nothing),
            (of_24g(9), Pressure::Moderate, Some(Sign::LittleAvailable), Cause::InUse),
            (of_24g(4), Pressure::High, Some(Sign::LittleAvailable), Cause::InUse),
            (of_24g(1), Pressure::Critical, Some(Sign::LittleAvailable), Cause::InUse),
            (near, Pressure::High, Some(Sign::LimitNear), Cause::Cache),
            // Not quite well otherwise, either: that does not press.
            (Signals { available: gib(3), ..near }, Pressure::High, Some(Sign::LimitNear), Cause::Cache),
            (Signals { available: gib(1), ..near }, Pressure::High, Some(Sign::LittleAvailable), Cause::InUse),
            (stalled, Pressure::Moderate, Some(Sign::Stalls), Cause::Stalls),
            // A limit that is far has nothing to do with it.
            (Signals { until_limit: Some(gib(10)), ..stalled }, Pressure::Moderate, Some(Sign::Stalls), Cause::Stalls),
            (Signals { stalled_all: Some(61_00), ..base }, Pressure::Critical, Some(Sign::Stalls), Cause::Stalls),
            // A terabyte with 5 % left has 51 GiB: that is not little.
            (Signals { total: gib(1024), available: gib(51), ..base }, Pressure::Low, None, Cause::Nothing),
        ];
        for (signals, level, sign, cause) in cases {
            assert_eq!(signals.level(), (level, sign), "{signals:?}");
            assert_eq!(signals.cause(level), cause, "{signals:?}");
        }
    }

    #[test]
    fn a_flicker_changes_nothing_and_what_lasts_does() {
        let mut gauge = Gauge::default();
        for (second, percent, level) in [
            (0, 9, Pressure::Low),
            (5, 50, Pressure::Low),
            (6, 9, Pressure::Low),
            (15, 9, Pressure::Low),
            (16, 9, Pressure::Moderate),
            (17, 4, Pressure::Moderate),
            (19, 4, Pressure::High),
        ] {
            assert_eq!(gauge.look(&of_24g(percent), at(second)), level, "at {second} s");
        }
        assert_eq!(gauge.sign(), Some(Sign::LittleAvailable));
    }

    #[test]
    fn it_goes_down_late_and_one_level_at_a_time() {
        let mut gauge = Gauge::default();
        gauge.look(&of_24g(1), at(0));
        assert_eq!(gauge.look(&of_24g(1), at(1)), Pressure::Critical);
        // Better, but not well: above what enters and below what leaves.
        assert_eq!(gauge.look(&of_24g(4), at(1000)), Pressure::Critical);
        gauge.look(&of_24g(50), at(2000));
        assert_eq!(gauge.look(&of_24g(50), at(2299)), Pressure::Critical);
        assert_eq!(gauge.look(&of_24g(50), at(2300)), Pressure::High);
        assert_eq!(gauge.look(&of_24g(50), at(2359)), Pressure::High);
        assert_eq!(gauge.look(&of_24g(50), at(2360)), Pressure::Moderate);
        assert_eq!(gauge.look(&of_24g(50), at(2420)), Pressure::Low);
        assert_eq!(gauge.sign(), None);
    }

    #[test]
    fn levels_begin_where_people_say_and_tell_what_is_missing() {
        let mut thresholds = Thresholds::default();
        (thresholds.high.available, thresholds.high.left) = (20, Mib::from_mib(2000));
        assert_eq!(of_24g(15).level(), (Pressure::Low, None));
        assert_eq!(of_24g(15).level_by(&thresholds), (Pressure::High, Some(Sign::LittleAvailable)));
        // A fifth of 24 GiB enters, and two percent more leaves.
        let missing = of_24g(15).missing_by(&thresholds, Pressure::High).mib();
        assert!(missing.abs_diff(24 * 1024 * 7 / 100) <= 1, "{missing}");
        let near = Signals { until_limit: Some(Mib::from_mib(1500)), ..of_24g(50) };
        assert_eq!(near.level_by(&thresholds), (Pressure::High, Some(Sign::LimitNear)));
        assert_eq!(near.missing_by(&thresholds, Pressure::High), Mib::from_mib(1501));
        assert_eq!(near.missing_by(&thresholds, Pressure::Low), Mib::ZERO);
    }

    #[test]
    fn a_level_that_is_only_kept_needs_no_help() {
        assert_eq!(of_24g(50).cause(Pressure::High), Cause::Nothing);
    }
}
