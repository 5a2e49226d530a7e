//! RAM under pressure: how hard, what is to be done, and what came of it. What follows from what, `memboss_core::relief` says; here it is asked after
//! each look, and its steps are taken. Cache is dropped by a thread of its own (`cleaner.rs`): this only orders it.

use std::fmt;

use memboss_core::{
    Cause, Class, Cleaning, Closed, EndReason, Gauge, LastCleaning, LeaseId, LeaseView, Mib, Moment, Phase, Pressure,
    RamHolder, Rests, Sign, Signals, Situation, Span, Stay, Step, Thresholds,
};

use super::{Node, Severity};

/// What is told of it is told under one name.
pub const NODE_PRESSURE: &str = EndReason::NodePressure.name();
/// Dropping is bounded by its mode; looking for files is not: after so long nobody waits for it any more.
const CLEAN_LIMIT: Span = Span::from_secs(30);
/// The same at `critical`: dropping takes milliseconds, and what takes longer may come too late.
const CLEAN_LIMIT_CRITICAL: Span = Span::from_secs(2);
/// So often in a row it is gone on with before it rests: else what comes back at once would be dropped for ever.
const IN_A_ROW: u32 = 3;
/// A holder that is being ended for so long is waited for no more.
const STUCK_AFTER: Span = Span::from_secs(60);

/// What is done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether anything is done; it is told in any case.
    pub act: bool,
    /// Whether there is anything that cleaning may touch.
    pub may_clean: bool,
    /// Where the levels begin.
    pub thresholds: Thresholds,
}

impl Default for Settings {
    fn default() -> Self {
        Self { act: true, may_clean: false, thresholds: Thresholds::default() }
    }
}

/// What is to be cleaned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanOrder {
    /// How far to go.
    pub how: Cleaning,
    /// Enough.
    pub target: Mib,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cleaned {
    /// When it ended, as a wall clock's time in RFC 3339.
    pub at: String,
    /// How far it was to go.
    pub how: Cleaning,
    /// What was dropped.
    pub dropped: Mib,
    /// That was as much as it was to be.
    pub enough: bool,
    /// Of so many files.
    pub files: usize,
    /// How long it took.
    pub took: Span,
    /// Available memory before and after.
    pub available: (Mib, Mib),
    /// What of it was in the cache again some time later, once that was looked at.
    pub came_back: Option<Mib>,
    /// What went wrong, if something did.
    pub failed: Option<String>,
}

impl fmt::Display for Cleaned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = self.how_name();
        if let Some(why) = &self.failed {
            return write!(f, "nothing could be dropped from the cache ({how}): {why}");
        }
        let (before, after) = self.available;
        write!(
            f,
            "dropped {} of {} file(s) from the cache ({how}) in {}; available {before} -> {after}",
            self.dropped, self.files, self.took
        )?;
        self.came_back.map_or(Ok(()), |back| write!(f, "; {back} came back later"))
    }
}

impl Cleaned {
    /// The mode's name.
    #[must_use]
    pub const fn how_name(&self) -> &'static str {
        match self.how {
            Cleaning::Balanced => "balanced",
            Cleaning::Aggressive => "aggressive",
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
enum Run {
    #[default]
    Never,
    /// Ordered, and not heard of since.
    Since(Moment),
    Ended(Moment),
}

/// How it stands.
#[derive(Debug, Default)]
pub(crate) struct Relief {
    gauge: Gauge,
    seen: Option<Signals>,
    run: Run,
    rests: Rests,
    /// How often in a row as much was dropped as was to be, and did not suffice.
    in_a_row: u32,
    order: Option<CleanOrder>,
    pub(crate) last: Option<Cleaned>,
    /// How often cache was dropped, and how much in all.
    pub(crate) cleanings: u64,
    pub(crate) dropped: Mib,
}

impl Relief {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self { gauge: Gauge::new(settings.thresholds), ..Self::default() }
    }

    /// The level, and what it rests on.
    pub(crate) const fn level(&self) -> (Pressure, Option<Sign>) {
        (self.gauge.level(), self.gauge.sign())
    }

    fn cleaning(&self, pressed: Pressure, settings: &Settings, look_began: Moment, now: Moment) -> LastCleaning {
        let limit = if pressed == Pressure::Critical { CLEAN_LIMIT_CRITICAL } else { CLEAN_LIMIT };
        match self.run {
            _ if !settings.may_clean => LastCleaning::Impossible,
            Run::Never => LastCleaning::LongAgo,
            Run::Since(since) if now.since(since) < limit => LastCleaning::Running,
            // Its thread is still there: another one would only stand beside it.
            Run::Since(_) => LastCleaning::JustDone,
            Run::Ended(at) if look_began <= at => LastCleaning::Running,
            Run::Ended(_) if self.rests.are_over(Cleaning::at(pressed), now) => LastCleaning::LongAgo,
            Run::Ended(_) => LastCleaning::JustDone,
        }
    }
}

impl Node {
    /// Takes in how the node's RAM is, before anything is granted of it.
    pub(super) fn gauge_ram(&mut self, signals: Option<Signals>, now: Moment) {
        let before = self.relief.gauge.level();
        self.relief.seen = signals;
        let Some(signals) = signals else { return };
        let level = self.relief.gauge.look(&signals, now);
        if level == before {
            return;
        }
        let sign = self.relief.gauge.sign().map_or("calm", Sign::name);
        let left = signals.until_limit.map_or(String::new(), |left| format!(", {left} left until the kubelet evicts"));
        let closed = if self.ram_closed().is_some() { "; nothing of it is granted meanwhile" } else { "" };
        let severity = if level >= Pressure::High { Severity::Warning } else { Severity::Normal };
        let message = format!("RAM pressure is {level} ({sign}): {} available{left}{closed}", signals.available);
        self.tell(None, severity, NODE_PRESSURE, message);
    }

    /// Why nothing is granted of the node's RAM, if so.
    pub(super) fn ram_closed(&self) -> Option<Closed> {
        let pressed = self.settings.relief.act && self.relief.gauge.level() >= Pressure::High;
        pressed.then_some(Closed::NodePressure)
    }

    /// Whether the node should be looked at more often.
    pub(super) fn is_pressed(&self) -> bool {
        let shown = self.relief.seen.map(|signals| signals.level_by(&self.settings.relief.thresholds).0);
        shown > Some(Pressure::Low) || self.relief.gauge.level() >= Pressure::High
    }

    /// Takes the next step, if one is due.
    pub(super) fn relieve(&mut self, now: Moment) {
        let settings = &self.settings.relief;
        let (Some(signals), true) = (self.relief.seen, settings.act) else { return };
        let (shown, _) = signals.level_by(&settings.thresholds);
        let level = self.relief.gauge.level();
        let pressed = level.min(shown);
        let cause = signals.cause_by(&settings.thresholds, shown);
        let missing = signals.missing_by(&settings.thresholds, pressed);
        let cleaning = self.relief.cleaning(pressed, settings, self.look_began, now);
        let holders = self.ram_holders(now);
        match (Situation { level, shown, cause, missing, cleaning, holders: &holders }).next() {
            Step::Nothing => {}
            Step::Clean(how) => {
                // As much as makes it well again at once, not only until the next look.
                let target = signals.missing_by(&settings.thresholds, Pressure::Moderate).max(missing);
                tracing::info!(reason = NODE_PRESSURE, ?how, %target, "cache is to be dropped");
                self.relief.order = Some(CleanOrder { how, target });
                self.relief.run = Run::Since(now);
            }
            Step::Preempt(leases) => self.ask_to_go(&leases, &holders, missing, cause, now),
        }
    }

    fn ask_to_go(&mut self, leases: &[LeaseId], holders: &[RamHolder], missing: Mib, cause: Cause, now: Moment) {
        for holder in holders.iter().filter(|holder| leases.contains(&holder.lease)) {
            if let Err(refused) = self.engine.revoke(&holder.lease, EndReason::NodePressure, now) {
                tracing::error!(lease = %holder.lease, %refused, "cannot be asked to go");
                continue;
            }
            let within = self.settings.policy.notice_for(Class::Urgent, None);
            let message = format!(
                "uses {} of RAM and leased {}; {missing} must become free on its node ({}): it is asked to go within {within}",
                holder.used,
                holder.held,
                cause.name()
            );
            self.tell(Some(&holder.lease), Severity::Warning, NODE_PRESSURE, message);
        }
    }

    fn ram_holders(&self, now: Moment) -> Vec<RamHolder> {
        let holder = |view: LeaseView| {
            let stay = self.stay_of(&view, now)?;
            self.asked_ram(&view.id)?;
            let held = view.placement.map(|placement| placement.ram).unwrap_or_default();
            let used = self.ram_used.get(&view.id).copied().unwrap_or_default();
            Some(RamHolder { lease: view.id, class: view.class, held, used, stay })
        };
        self.engine.leases().into_iter().filter_map(holder).collect()
    }

    fn stay_of(&self, view: &LeaseView, now: Moment) -> Option<Stay> {
        match &view.phase {
            Phase::Waiting | Phase::Ended(_) => None,
            Phase::Reserved { .. } => Some(Stay::Protected),
            Phase::Revoking { .. } => Some(Stay::Going),
            Phase::Stopping { .. } => {
                let since = self.stopping_since.get(&view.id).copied().unwrap_or(now);
                Some(if now.since(since) < STUCK_AFTER { Stay::Going } else { Stay::Stuck })
            }
            Phase::Active { since } => {
                let request = self.engine.request(&view.id)?;
                let policy = &self.settings.policy;
                let spent = request.preempted >= policy.preemption_budget;
                let protection = policy.protection_for(view.class, request.protection);
                let protected = spent || now < since.after(protection);
                Some(if protected { Stay::Protected } else { Stay::Open })
            }
        }
    }

    /// What is to be cleaned, once.
    #[must_use]
    pub fn take_clean_order(&mut self) -> Option<CleanOrder> {
        self.relief.order.take()
    }

    /// Cleaning has come to an end.
    pub(super) fn cleaned(&mut self, cleaned: Cleaned, now: Moment) {
        self.relief.run = Run::Ended(now);
        // It counts what was in the cache, and not all of that counts against the limit: as long as there is more, more of it may help.
        if cleaned.enough && self.relief.in_a_row < IN_A_ROW {
            self.relief.in_a_row += 1;
        } else {
            self.relief.in_a_row = 0;
            self.relief.rests.ended(cleaned.how, now);
        }
        self.relief.cleanings += 1;
        self.relief.dropped = self.relief.dropped.plus(cleaned.dropped);
        let severity = if cleaned.failed.is_some() { Severity::Warning } else { Severity::Normal };
        self.tell(None, severity, NODE_PRESSURE, cleaned.to_string());
        self.relief.last = Some(cleaned);
    }

    /// So much of what was dropped last is in the cache again.
    pub(super) fn came_back(&mut self, back: Mib) {
        let Some(last) = &mut self.relief.last else { return };
        last.came_back = Some(back);
        let (how, dropped) = (last.how, last.dropped);
        self.relief.rests.came_back(how, dropped, back);
        if !back.is_zero() {
            let message =
                format!("{back} of {dropped} that were dropped from the cache came back: somebody needed them");
            self.tell(None, Severity::Normal, NODE_PRESSURE, message);
        }
    }
}
