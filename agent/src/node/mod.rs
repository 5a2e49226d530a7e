//! One node's truth: the rules engine, what was seen, what was ordered. [`Node`] is its single owner and takes in one input at a time; it does no
//! input or output itself and has no clock, so that any history can be played in a test. `task.rs` runs it.
//!
//! - what it takes in: `input.rs`
//! - what was seen of GPUs: `facts.rs`; who is gone and what is free: `observe.rs`
//! - placements: `orders.rs`; after a restart or a loss: `recover.rs`
//! - RAM under pressure: `relief.rs`
//! - what holders ask: `holders.rs`; leases in code: `clients/`; what root asks: `admin.rs`; what others are shown: `view.rs`
//! - what must outlive the process: `written.rs`; when all of it is gone through to show it: `outlook.rs`

pub mod admin;
pub mod clients;
mod facts;
mod holders;
mod input;
mod observe;
mod orders;
mod outlook;
mod recover;
pub mod relief;
pub mod task;
pub mod view;
mod written;

use std::collections::{BTreeMap, BTreeSet};

use memboss_core::{
    Decision, EndReason, Engine, GpuUuid, LeaseId, Mib, Moment, NodeName, Phase, Policy, Refused, Span, Token,
};
use memboss_crds::LeaseKind;

use crate::health::Recovery;
use crate::noted::Noted;
use crate::order::{Answered, Epoch, Order};
use crate::probes::meminfo::Ram;
use crate::probes::nvml::{NoNvml, Reading};
use crate::probes::processes::PodUid;
use crate::store::{Ended, Holder};

pub use facts::GpuState;
pub use holders::{Ask, Denied, GiveBack, Prepared, RamWish};
pub use input::{Input, Observation, PodFact, PodState, Presence, RamUser};

/// The settings of a node.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name.
    pub name: NodeName,
    /// The present boot.
    pub boot_id: String,
    /// What of each GPU is never leased.
    pub margin: Margin,
    /// The numbers of the rules.
    pub policy: Policy,
    /// When a GPU counts as well again.
    pub recovery: Recovery,
    /// Whether an API server knows leases that this node may have lost.
    pub cluster: Cluster,
    /// After how long above its lease a holder is ended, by class from BATCH; never where nothing is said.
    pub over_lease: [Option<Span>; 5],
    /// How long a holder may take to give back what it said it would.
    pub give_back: Span,
    /// What processes that lease in code may have.
    pub clients: clients::Limits,
    /// What is done about RAM under pressure.
    pub relief: relief::Settings,
}

/// Whether there is an API server to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cluster {
    /// There is.
    Kubernetes,
    /// The agent is alone.
    None,
}

/// The part of a GPU that is never leased: what the driver needs beside what it says that it keeps, and what page rounding takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Margin {
    /// At least so much.
    pub least: Mib,
    /// At least that part of the whole, in percent.
    pub percent: u64,
}

impl Default for Margin {
    /// 256 MiB is one unit and covers a context of the driver's own; 1 % grows with what large GPUs lose to rounding and retired pages.
    fn default() -> Self {
        Self { least: Mib::from_mib(256), percent: 1 }
    }
}

impl Margin {
    /// What can be leased of a GPU.
    #[must_use]
    pub fn leasable(self, total: Mib, reserved: Mib) -> Mib {
        total.minus(reserved).minus(self.least.max(Mib::from_mib(total.mib().saturating_mul(self.percent) / 100)))
    }
}

/// Why nothing is granted on the node for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Nothing stands in the way.
    Open,
    /// The machine was booted, or this is the first start: leases of pods that are bound here come first.
    Rebuilding(&'static str),
    /// The ledger of this boot was lost.
    Quarantine,
}

/// A placement that was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RefusedOrder {
    pub(crate) answered: Answered,
    pub(crate) epoch: Epoch,
    pub(crate) why: Refused,
}

/// Something that people should know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// The lease that it is about, if it is about one.
    pub lease: Option<LeaseId>,
    /// Its name.
    pub reason: String,
    /// The sentence.
    pub message: String,
    /// Whether somebody should do something.
    pub severity: Severity,
}

/// Whether news is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// As it should be.
    Normal,
    /// Somebody should look.
    Warning,
}

/// Counted since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Grants.
    pub grants: u64,
    /// Notices.
    pub notices: u64,
    /// Refusals by name.
    pub refusals: BTreeMap<&'static str, u64>,
    /// Ends by reason.
    pub ends: BTreeMap<&'static str, u64>,
}

/// What the driver has told of the GPUs, since the agent began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Driver {
    /// Nothing yet: it is slow, or hangs.
    Unread,
    /// That it is not there, or does not start.
    Absent,
    /// Which GPUs there are.
    Read,
}

impl Driver {
    /// What it has told with that.
    fn after(self, reading: &Reading) -> Self {
        match (self, reading) {
            (_, Ok(_)) | (Self::Read, _) => Self::Read,
            (_, Err(NoNvml::Load(_))) => Self::Absent,
            // One that was not there before may have come.
            (_, Err(_)) => Self::Unread,
        }
    }
}

/// One node.
pub struct Node {
    pub(crate) settings: Settings,
    pub(crate) engine: Engine,
    pub(crate) agent_epoch: u32,
    pub(crate) floor: Option<Epoch>,
    pub(crate) hold: Hold,
    pub(crate) gpus: BTreeMap<GpuUuid, GpuState>,
    pub(crate) driver: Driver,
    pub(crate) ram: Ram,
    /// What leases may hold of it in all, by the last placement that asked for some.
    pub(crate) ram_room: Option<Mib>,
    /// What holders of RAM have of it, by the last look.
    pub(crate) ram_used: BTreeMap<LeaseId, Mib>,
    pub(crate) holders: Noted<LeaseId, Holder>,
    pub(crate) ended: Noted<LeaseId, Ended>,
    pub(crate) refused: BTreeMap<LeaseId, RefusedOrder>,
    pub(crate) orders: BTreeMap<LeaseId, Order>,
    /// The kinds of which all placements have been told.
    pub(crate) orders_told: BTreeSet<LeaseKind>,
    pub(crate) pods: BTreeMap<PodUid, PodFact>,
    pub(crate) pods_known: bool,
    /// The last look at the pods' cgroups.
    pub(crate) cgroups: Option<BTreeSet<PodUid>>,
    /// When the last step was.
    pub(crate) now: Moment,
    /// When the last look began.
    pub(crate) look_began: Moment,
    /// Since when a lease is stopping: only a look that began later shows its memory free.
    pub(crate) stopping_since: BTreeMap<LeaseId, Moment>,
    /// What was said until then has been heard; always all of it, where nothing is said here.
    heard_until: Option<Moment>,
    /// When a lease ended last whose holder used RAM when that was looked at.
    ram_left: Option<Moment>,
    /// Since when a lease uses more than it holds.
    pub(crate) over_since: BTreeMap<LeaseId, (Moment, String)>,
    pub(crate) strangers: BTreeSet<PodUid>,
    pub(crate) gives: Vec<holders::Give>,
    pub(crate) clients: clients::Clients,
    pub(crate) parts: clients::Parts,
    pub(crate) pushes: Vec<clients::Pushed>,
    pub(crate) drains: admin::Drains,
    /// The name of each lease's phase, and since when it is in it.
    pub(crate) phases: BTreeMap<LeaseId, (&'static str, Moment)>,
    /// How many device plugins watch; not known before the first one has come.
    pub(crate) plugins: Option<usize>,
    pub(crate) wants_incarnation: bool,
    pub(crate) relief: relief::Relief,
    pub(crate) news: Vec<News>,
    pub(crate) counters: Counters,
    unwritten: written::Unwritten,
    answers: Vec<Answer>,
}

/// An answer that may go out once the ledger is written.
type Answer = Box<dyn FnOnce() + Send>;

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("name", &self.settings.name).field("hold", &self.hold).finish_non_exhaustive()
    }
}

impl Node {
    /// Takes in one thing and does all that follows from it.
    pub fn step(&mut self, input: Input, now: Moment) {
        self.now = now;
        match input {
            Input::Tick | Input::Show(_) => {}
            Input::Seen(observation) => self.see(*observation, now),
            Input::Xid(xid) => self.xid(&xid, now),
            Input::Orders(kind, orders) => self.take_orders(kind, orders),
            Input::Order(order) => drop(self.orders.insert(order.request.id.clone(), *order)),
            Input::OrderGone(lease) => drop(self.orders.remove(&lease)),
            Input::Pods(pods) => self.take_pods(pods),
            Input::Pod(pod) => self.take_pod(pod),
            Input::Incarnation(incarnation) => self.learn_incarnation(&incarnation),
            Input::Drain(wish) => self.drain_as_the_cluster_wishes(&wish, now),
            Input::Plugin(presence) => self.plugins = Some(presence.counted(self.plugins.unwrap_or(0))),
            Input::Ask(ask) => self.ask(ask, now),
            Input::Client(input) => self.client(input, now),
            Input::Admin(input) => self.admin(input, now),
            Input::Cleaned(cleaned) => self.cleaned(cleaned, now),
            Input::CameBack(back) => self.came_back(back),
        }
        self.end_drains(now);
        self.rebuild_if_due(now);
        self.end_silent_clients(self.heard_until.map_or(now, |heard| heard.min(now)));
        self.end_what_is_free(now);
        self.reconcile_orders(now);
        self.decide(now);
        self.settle_gives(now);
        self.follow_leases(now);
        self.push_processes(now);
    }

    /// All that was said until then has been heard. Whether somebody was silent for too long by then.
    pub fn has_heard_until(&mut self, at: Moment) -> bool {
        self.heard_until = Some(at);
        self.next_silent_client().is_some_and(|due| due <= at)
    }

    /// Whether something has begun to stop since the last look, so that looking at once is worth it.
    #[must_use]
    pub fn wants_look(&self) -> bool {
        self.stopping_since.values().chain(&self.ram_left).any(|since| *since > self.look_began)
            || self.gives.iter().any(|give| give.asked > self.look_began)
    }

    /// When to step again though nothing comes in.
    #[must_use]
    pub fn next_wake(&self) -> Option<Moment> {
        let gives = self.gives.iter().map(|give| give.until);
        let own = [self.next_silent_client(), self.next_push(), self.next_part(), self.drains.next_end()];
        self.engine.next_wake().into_iter().chain(gives).chain(own.into_iter().flatten()).min()
    }

    /// Whether something is on its way, so that looking more often is worth it.
    #[must_use]
    pub fn is_in_transition(&self) -> bool {
        let moving = !self.engine.is_at_rest();
        let leaving = self.pods.values().any(|pod| {
            pod.state != PodState::Live && self.holders.values().any(|holder| holder.subject.pod == pod.uid)
        });
        moving || leaving || self.is_pressed() || !self.gives.is_empty() || self.hold != Hold::Open
    }

    /// The answers that may go out once the ledger is written.
    #[must_use]
    pub fn take_answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answers)
    }

    /// What people should know of.
    #[must_use]
    pub fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    /// Whether the API server should be asked which installation it is.
    #[must_use]
    pub const fn wants_incarnation(&self) -> bool {
        self.wants_incarnation
    }

    /// The present boot.
    #[must_use]
    pub fn boot_id(&self) -> &str {
        &self.settings.boot_id
    }

    /// The newest leader seen.
    #[must_use]
    pub const fn floor(&self) -> Option<&Epoch> {
        self.floor.as_ref()
    }

    fn decide(&mut self, now: Moment) {
        for decision in self.engine.decide(now) {
            self.carry_out(decision, now);
        }
        for decision in self.serve_parts(now) {
            self.carry_out(decision, now);
        }
    }

    fn carry_out(&mut self, decision: Decision, now: Moment) {
        self.activate_client(&decision, now);
        match decision {
            Decision::Grant { lease, token, .. } => {
                self.counters.grants += 1;
                tracing::info!(%lease, epoch = token.epoch, sequence = token.sequence, "reserved");
            }
            Decision::Claim { lease, victims, .. } => {
                tracing::info!(%lease, victims = victims.len(), "memory is on its way");
            }
            Decision::Notice { lease, notice } => {
                self.counters.notices += 1;
                let whom = notice.preemptor.as_ref().map_or("", LeaseId::as_str).to_owned();
                let within = notice.deadline.since(now);
                tracing::info!(%lease, preemptor = whom, %within, reason = %notice.reason, "notice");
            }
            Decision::Spare { lease } => tracing::info!(%lease, "spared"),
            Decision::Stop { lease, reason } => tracing::info!(%lease, %reason, "time is up"),
            Decision::Wait { lease, why } => tracing::info!(%lease, reason = why.name(), "waits"),
        }
    }

    /// What is kept beside each lease follows those that were touched, and these alone.
    fn follow_leases(&mut self, now: Moment) {
        let clients = self.clients.known.take_touched();
        let mut leases = self.engine.take_touched();
        leases.extend(self.parts.values_mut().flat_map(clients::Part::take_touched));
        // A part that is over with its whole is known by its client alone.
        leases.extend(clients.iter().cloned());
        self.note_phases(&leases, now);
        leases.iter().for_each(|lease| self.follow_client(lease));
        self.unwritten.leases.extend(leases);
        self.unwritten.clients.extend(clients);
    }

    fn tell(&mut self, lease: Option<&LeaseId>, severity: Severity, reason: &str, message: String) {
        tracing::info!(lease = lease.map_or("", LeaseId::as_str), reason, "{message}");
        self.news.push(News { lease: lease.cloned(), reason: reason.to_owned(), message, severity });
    }

    /// A lease is to go: what waits ends at once, what is charged when its memory is seen free.
    fn release(&mut self, lease: &LeaseId, reason: EndReason) {
        match self.lease_seen(lease).map(|view| view.phase) {
            Some(Phase::Waiting) => self.end(lease, reason),
            Some(_) => {
                if let Err(refused) = self.engine_of_mut(lease).stop(lease, reason) {
                    tracing::error!(%lease, %refused, "cannot be stopped");
                }
            }
            None => {
                self.holders.remove(lease);
                drop(self.clients.forget(lease));
            }
        }
    }

    /// A lease is over.
    fn end(&mut self, lease: &LeaseId, reason: EndReason) {
        let before = self.lease_seen(lease);
        let Ok(reason) = self.engine_of_mut(lease).end(lease, reason) else { return };
        *self.counters.ends.entry(reason.name()).or_default() += 1;
        tracing::info!(%lease, %reason, "ended: its memory is free");
        self.over_since.remove(lease);
        if let Some(before) = &before {
            self.client_ended(before, reason);
        }
        if let (Some(holder), Some(before)) = (self.holders.remove(lease), before) {
            let gpus = before.placement.map(|placement| placement.gpus).unwrap_or_default();
            let ended = Ended { answered: holder.answered, reason, gpus, token: before.token };
            if self.settings.cluster == Cluster::Kubernetes {
                self.ended.insert(lease.clone(), ended);
            }
        }
    }

    fn next_token(&self) -> Token {
        let last = self.engine.last_token();
        if last.epoch == self.agent_epoch {
            Token { epoch: last.epoch, sequence: last.sequence + 1 }
        } else {
            Token { epoch: self.agent_epoch, sequence: 1 }
        }
    }
}

#[cfg(test)]
mod tests;
