//! Samples, figures and goals, and how they are printed. It may not know what they are of.

use std::time::Duration;

/// Durations of the same thing, measured again and again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// One more.
    pub(crate) fn push(&mut self, sample: Duration) {
        self.0.push(sample.as_secs_f64() * 1e3);
    }

    /// Those of another.
    pub(crate) fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// What so many of a hundred stay below, in milliseconds.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
        sorted.get(at).copied().unwrap_or_default()
    }
}

/// A goal: which figure it is of is said by where it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    /// No more than that.
    AtMost(f64),
    /// No less than that.
    AtLeast(f64),
}

impl Goal {
    fn verdict(self, value: f64) -> String {
        let (met, words) = match self {
            Self::AtMost(most) => (value <= most, format!("≤ {most}")),
            Self::AtLeast(least) => (value >= least, format!("≥ {least}")),
        };
        format!("goal {words}: {}", if met { "met" } else { "MISSED" })
    }
}

/// What was measured, line by line.
#[derive(Debug, Default)]
pub(crate) struct Table;

impl Table {
    /// A line of times in milliseconds, with goals for the median and for what 99 of 100 stay below.
    pub(crate) fn times(&self, what: &str, samples: &Samples, p50: Option<Goal>, p99: Option<Goal>) {
        let (median, worst, most) = (samples.percentile(50), samples.percentile(99), samples.percentile(100));
        let n = samples.len();
        println!("{what:<54} p50 {median:>8.3} ms  p99 {worst:>8.3} ms  max {most:>8.2} ms  n {n}");
        for (name, goal, value) in [("p50", p50, median), ("p99", p99, worst)] {
            if let Some(goal) = goal {
                println!("{:<54}   {name}: {}", "", goal.verdict(value));
            }
        }
    }

    /// A line with one figure.
    pub(crate) fn figure(&self, what: &str, value: f64, unit: &str, goal: Option<Goal>) {
        let goal = goal.map(|goal| format!("   {}", goal.verdict(value))).unwrap_or_default();
        println!("{what:<54} {value:>12.2} {unit}{goal}");
    }
}
