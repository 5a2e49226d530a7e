//! Samples and how they are shown: one line of a table each. It may not know what they are of.

use std::fmt::Write as _;
use std::time::Duration;

/// Durations of the same thing, measured again and again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    /// One more.
    pub(crate) fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// The middle one; of an even number the mean of both in the middle.
    pub(crate) fn median(&self) -> Duration {
        let sorted = self.sorted();
        let (lower, upper) = (sorted.len().saturating_sub(1) / 2, sorted.len() / 2);
        let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
        (at(lower) + at(upper)) / 2
    }

    fn sorted(&self) -> Vec<Duration> {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        sorted
    }

    fn at_percent(&self, percent: usize) -> Duration {
        let sorted = self.sorted();
        let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
        sorted.get(at).copied().unwrap_or_default()
    }

    /// A line of the table.
    pub(crate) fn line(&self, what: &str) -> String {
        let (least, median, p99) = (ms(self.at_percent(0)), ms(self.median()), ms(self.at_percent(99)));
        format!("{what:<58}{least:>10}{median:>10}{p99:>10}{:>5}", self.0.len())
    }
}

/// The names of the columns.
pub(crate) fn heading() -> String {
    let mut line = String::new();
    let _ = write!(line, "{:<58}{:>10}{:>10}{:>10}{:>5}", "milliseconds", "min", "median", "p99", "n");
    line
}

/// A single figure, with its goal if it has one.
pub(crate) fn figure(what: &str, value: &str, goal: Option<&str>) -> String {
    let goal = goal.map(|goal| format!("   goal {goal}")).unwrap_or_default();
    format!("  -> {what}: {value}{goal}")
}

/// Milliseconds, to a tenth.
pub(crate) fn ms(span: Duration) -> String {
    format!("{:.1}", span.as_secs_f64() * 1000.0)
}
