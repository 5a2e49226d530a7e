//! What is done about a node whose RAM is hard pressed: dropping cache that nobody needs, then asking holders of RAM to go, before the kubelet evicts
//! or the kernel kills. One step at a time: it may not ask anybody while what was asked before can still show its effect. It measures nothing, drops
//! nothing and ends nobody: whoever asked carries the step out.
//!
//! - cache that counts against a limit that is near is dropped first: a little from `moderate` on, all that nobody uses from `high` on
//! - holders are asked where dropping would not help, or did not; at `critical` it is waited for less long
//! - whoever has more than it leased goes first, the lowest class first; then the lowest class among the others; one class at a time, and no more
//!   than what is missing takes
//! - protected holders go at `critical` only; an URGENT one only there, and only if it has more than it leased

use std::cmp::Reverse;

use crate::class::Class;
use crate::ids::LeaseId;
use crate::pressure::{Cause, Pressure};
use crate::units::Mib;

/// How far cleaning is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleaning {
    /// Files that have not changed for a while, and not for long.
    Balanced,
    /// Any file that nobody uses.
    Aggressive,
}

impl Cleaning {
    /// How far it is worth going at that level.
    #[must_use]
    pub fn at(level: Pressure) -> Self {
        if level >= Pressure::High { Self::Aggressive } else { Self::Balanced }
    }
}

/// What came of cleaning as far as it would go now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastCleaning {
    /// It may touch nothing here.
    Impossible,
    /// There was none, or so long ago that another one may help.
    LongAgo,
    /// It runs, or nothing has been seen since it ended.
    Running,
    /// It was done a while ago, is let alone for some time since, and this is how things stand after it.
    JustDone,
}

/// What may become of a holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stay {
    /// It may be asked to go.
    Open,
    /// It has not had its minimum time yet.
    Protected,
    /// It was asked to go, and what it has is on its way.
    Going,
    /// It should have gone long ago: nobody waits for it any more.
    Stuck,
}

/// A lease that was asked for with RAM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RamHolder {
    /// Which.
    pub lease: LeaseId,
    /// Its class.
    pub class: Class,
    /// What it leased.
    pub held: Mib,
    /// What it has that cannot be dropped.
    pub used: Mib,
    /// Whether it may be asked.
    pub stay: Stay,
}

impl RamHolder {
    /// What it has above what it leased.
    #[must_use]
    pub fn excess(&self) -> Mib {
        self.used.minus(self.held)
    }
}

/// A node's RAM as it stands.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// The level, judged over time.
    pub level: Pressure,
    /// The level that the last look shows by itself: it is lower as soon as something helped.
    pub shown: Pressure,
    /// What would help.
    pub cause: Cause,
    /// What must become free until it is well again.
    pub missing: Mib,
    /// What cleaning gave.
    pub cleaning: LastCleaning,
    /// Who has RAM.
    pub holders: &'a [RamHolder],
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing, or nothing yet.
    Nothing,
    /// Cache is to be dropped.
    Clean(Cleaning),
    /// These are to be asked to go.
    Preempt(Vec<LeaseId>),
}

impl Situation<'_> {
    /// What is to be done next.
    #[must_use]
    pub fn next(&self) -> Step {
        let pressed = self.level.min(self.shown);
        let dropping_helps = self.cause == Cause::Cache;
        match (pressed, self.cleaning) {
            (Pressure::Low, _) => Step::Nothing,
            (_, LastCleaning::LongAgo) if dropping_helps => Step::Clean(Cleaning::at(pressed)),
            (_, LastCleaning::Running) if dropping_helps => Step::Nothing,
            (Pressure::Moderate, _) => Step::Nothing,
            (Pressure::High | Pressure::Critical, _) => self.preempt(pressed == Pressure::Critical),
        }
    }

    fn preempt(&self, critical: bool) -> Step {
        // More RAM would not help those who wait for a disk.
        let helps = matches!(self.cause, Cause::InUse | Cause::Cache);
        if !helps || self.holders.iter().any(|holder| holder.stay == Stay::Going) {
            return Step::Nothing;
        }
        let mut victims: Vec<_> = self.holders.iter().filter(|holder| may_be_asked(holder, critical)).collect();
        victims.sort_by_key(|v| {
            (v.excess().is_zero(), v.class, v.stay == Stay::Protected, Reverse(v.excess()), Reverse(v.used), &v.lease)
        });
        let Some(first) = victims.first().map(|v| (v.excess().is_zero(), v.class)) else { return Step::Nothing };
        let mut gives = Mib::ZERO;
        let mut chosen = Vec::new();
        for victim in victims.into_iter().take_while(|v| (v.excess().is_zero(), v.class) == first) {
            if !chosen.is_empty() && gives >= self.missing {
                break;
            }
            gives = gives.plus(victim.used);
            chosen.push(victim.lease.clone());
        }
        Step::Preempt(chosen)
    }
}

fn may_be_asked(holder: &RamHolder, critical: bool) -> bool {
    let open = match holder.stay {
        Stay::Open => true,
        Stay::Protected => critical,
        Stay::Going | Stay::Stuck => false,
    };
    let urgent_keeps_it = holder.class == Class::Urgent && (!critical || holder.excess().is_zero());
    open && !holder.used.is_zero() && !urgent_keeps_it
}

#[cfg(test)]
#[path = "relief_tests.rs"]
mod tests;
