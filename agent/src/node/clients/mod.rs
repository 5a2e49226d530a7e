//! Leases in code: a process asks over the socket and holds its lease by its connection, or by renewing it. Who it is, the kernel said; nothing that it says
//! of itself counts.
//!
//! - what may be had: `limits.rs`; how a lease begins and is taken up again: `begin.rs`
//! - how it is kept alive, and what ends it: `alive.rs`; how its holder is ended: `push.rs`
//! - what its holder is told, once the ledger that it rests on is written: `tell.rs`
//! - leases in code out of a pod's own lease: `parts.rs`

mod alive;
mod begin;
mod limits;
mod parts;
mod push;
mod tell;

use std::collections::{BTreeMap, BTreeSet};

use memboss_core::{EndReason, Estimate, Forecast, LeaseId, LeaseView, Mib, Moment, Request, Span};
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};

use super::Node;
use super::holders::{Denied, GiveBack};
use crate::noted::Noted;
use crate::probes::processes::{Caller, Process};

pub use limits::{Ceilings, Limits};
pub(crate) use parts::{Part, Parts};
pub use push::{Push, Pushed};

/// A lease in code, as the ledger remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// Whose it is.
    pub caller: Caller,
    /// Shown to people.
    pub label: String,
    /// The digest of what takes it up again.
    pub secret: String,
    /// It lives by being renewed within that time; by its connection without one.
    pub ttl: Option<Span>,
    /// When it was renewed, or its connection broke.
    pub alive: Moment,
    /// When its holder stops waiting.
    pub give_up: Option<Moment>,
    /// Its holder has given it back, or nobody kept it alive: its process goes on without it, and what that still uses counts as foreign.
    #[serde(default)]
    pub given_back: bool,
    /// Its process has ended.
    #[serde(default)]
    pub gone: bool,
    /// The lease of its pod that it is a part of; nothing if it holds memory of the node itself.
    #[serde(default)]
    pub part_of: Option<LeaseId>,
}

impl Client {
    /// Whether it holds a part of its pod's lease.
    pub(in crate::node) const fn is_part(&self) -> bool {
        self.part_of.is_some()
    }
}

/// Who hears of a lease: always how it is now, so that one who does not listen costs nothing and hears the latest when it does.
#[derive(Debug)]
pub struct Listener {
    /// Tells one connection from the next.
    pub connection: u64,
    /// Where it hears; nothing has been told at first.
    pub events: watch::Sender<Option<Told>>,
}

/// What a listener is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The lease.
    pub lease: LeaseView,
    /// Its place in the queue, from 1, while it waits.
    pub position: Option<usize>,
    /// When it will probably be granted, while it waits.
    pub estimate: Option<Estimate>,
    /// Why it ended, if it has.
    pub ended: Option<EndReason>,
}

/// A request, in the words of the rules but for its name.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The caller's own name for it; empty for none.
    pub name: String,
    /// Everything that the rules know of.
    pub request: Request,
    /// How long it waits; for ever without.
    pub timeout: Option<Span>,
    /// It does not wait at all.
    pub no_wait: bool,
    /// It lives by being renewed within that time.
    pub ttl: Option<Span>,
    /// Shown to people.
    pub label: String,
}

/// A lease that was taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its name.
    pub lease: LeaseId,
    /// What takes it up again.
    pub secret: String,
}

/// What processes that lease in code ask, or what happens to them.
#[derive(Debug)]
pub enum ClientInput {
    /// One asks for a lease.
    Acquire {
        /// Who.
        caller: Caller,
        /// What.
        wish: Box<Wish>,
        /// A new secret.
        secret: String,
        /// Who hears of it.
        listener: Listener,
        /// The answer.
        reply: oneshot::Sender<Result<Accepted, Denied>>,
    },
    /// One takes a lease up again.
    Resume {
        /// Who.
        caller: Caller,
        /// Which.
        lease: String,
        /// The proof.
        secret: String,
        /// Who hears of it from now on.
        listener: Listener,
        /// The answer.
        reply: oneshot::Sender<Result<LeaseId, Denied>>,
    },
    /// A connection broke.
    Broke {
        /// Which.
        connection: u64,
    },
    /// A process has ended.
    Gone(Process),
    /// One renews.
    Renew {
        /// Who.
        caller: Caller,
        /// Which.
        lease: String,
        /// The answer.
        reply: oneshot::Sender<Result<Told, Denied>>,
    },
    /// One gives all back.
    Release {
        /// Who.
        caller: Caller,
        /// Which.
        lease: String,
        /// The answer.
        reply: oneshot::Sender<Result<LeaseId, Denied>>,
    },
    /// One gives a part back, or moves it into host RAM.
    GiveBack {
        /// Who.
        caller: Caller,
        /// Which.
        lease: String,
        /// What.
        what: GiveBack,
        /// The answer, when it was seen.
        reply: oneshot::Sender<Result<LeaseId, Denied>>,
    },
    /// One asks what would come of a request.
    DryRun {
        /// Who.
        caller: Caller,
        /// What.
        wish: Box<Wish>,
        /// The answer.
        reply: oneshot::Sender<Result<Forecast, Denied>>,
    },
}

/// All leases in code, and who listens.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    pub(crate) known: Noted<LeaseId, Client>,
    /// How many each owner has.
    counts: BTreeMap<String, usize>,
    /// When each ends by itself, unless somebody does something; the earliest first, too.
    due: BTreeMap<LeaseId, Moment>,
    dues: BTreeSet<(Moment, LeaseId)>,
    /// Those of whom something may be news to their listeners.
    to_tell: BTreeSet<LeaseId>,
    listeners: BTreeMap<LeaseId, Listener>,
    connections: BTreeMap<u64, LeaseId>,
    /// Last words to those whose leases are over.
    farewells: Vec<(Listener, Told)>,
    /// Processes whose end must be noticed from now on.
    to_watch: Vec<Process>,
    /// What was done last to those that are to end, and when.
    pushed: BTreeMap<LeaseId, (Push, Moment)>,
    named: u64,
}

impl Clients {
    /// Those of the ledger. Their connections are gone since now, and nobody could renew while the agent was away.
    pub(crate) fn taken_up(mut known: BTreeMap<LeaseId, Client>, now: Moment) -> Self {
        known.values_mut().for_each(|client| client.alive = now);
        let to_watch = known.values().map(|client| client.caller.process).collect();
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        known.values().for_each(|client| *counts.entry(client.caller.owner()).or_default() += 1);
        Self { known: Noted::new(known), counts, to_watch, ..Self::default() }
    }

    fn of_owner<'a>(&'a self, caller: &'a Caller) -> impl Iterator<Item = &'a LeaseId> {
        self.known.iter().filter(|(_, client)| client.caller.is_of(caller)).map(|(lease, _)| lease)
    }

    fn count_of(&self, caller: &Caller) -> usize {
        self.counts.get(&caller.owner()).copied().unwrap_or_default()
    }

    fn add(&mut self, lease: LeaseId, client: Client) {
        *self.counts.entry(client.caller.owner()).or_default() += 1;
        if let Some(before) = self.known.insert(lease, client) {
            self.uncount(&before);
        }
    }

    fn uncount(&mut self, client: &Client) {
        let owner = client.caller.owner();
        if let Some(count) = self.counts.get_mut(&owner) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.counts.remove(&owner);
            }
        }
    }

    fn hears(&mut self, lease: &LeaseId, listener: Listener) {
        self.connections.insert(listener.connection, lease.clone());
        if let Some(before) = self.listeners.insert(lease.clone(), listener) {
            self.connections.remove(&before.connection);
        }
        self.to_tell.insert(lease.clone());
    }

    pub(crate) fn forget(&mut self, lease: &LeaseId) -> Option<Listener> {
        let client = self.known.remove(lease)?;
        self.uncount(&client);
        self.pushed.remove(lease);
        let listener = self.listeners.remove(lease)?;
        self.connections.remove(&listener.connection);
        Some(listener)
    }

    /// When it ends by itself from now on.
    fn set_due(&mut self, lease: &LeaseId, due: Option<Moment>) {
        let before = match due {
            Some(due) => self.due.insert(lease.clone(), due),
            None => self.due.remove(lease),
        };
        if let Some(before) = before.filter(|before| Some(*before) != due) {
            self.dues.remove(&(before, lease.clone()));
        }
        if let Some(due) = due {
            self.dues.insert((due, lease.clone()));
        }
    }
}

impl Node {
    pub(super) fn client(&mut self, input: ClientInput, now: Moment) {
        match input {
            ClientInput::Acquire { caller, wish, secret, listener, reply } => {
                let answer = self.acquire(&caller, *wish, secret, listener, now);
                self.answer(reply, answer);
            }
            ClientInput::Resume { caller, lease, secret, listener, reply } => {
                let answer = self.resume(&caller, &lease, &secret, listener);
                self.answer(reply, answer);
            }
            ClientInput::Broke { connection } => self.broke(connection, now),
            ClientInput::Gone(process) => self.process_gone(process),
            ClientInput::Renew { caller, lease, reply } => {
                let answer = self.renew(&caller, &lease, now);
                self.answer(reply, answer);
            }
            ClientInput::Release { caller, lease, reply } => {
                let answer = self.own(&caller, &lease);
                if let Ok(lease) = &answer {
                    self.let_go(lease, EndReason::Released);
                }
                self.answer(reply, answer);
            }
            ClientInput::GiveBack { caller, lease, what, reply } => match self.own(&caller, &lease) {
                Ok(lease) => self.begin_to_give(lease, &what, reply, now),
                Err(denied) => self.answer(reply, Err(denied)),
            },
            ClientInput::DryRun { caller, wish, reply } => {
                let answer = self.forecast(&caller, &wish, now);
                self.answer(reply, answer);
            }
        }
    }

    /// The lease of that name, if the caller may change it: its own, or anybody's for root and for the user that the agent runs as.
    fn own(&self, caller: &Caller, lease: &str) -> Result<LeaseId, Denied> {
        let unknown = || Denied::NotFound(format!("no lease {lease} is known here"));
        let in_code = self.clients.known.get_key_value(lease);
        let (lease, client) = in_code.ok_or_else(|| self.pods_own(caller, lease).unwrap_or_else(unknown))?;
        if client.caller.is_of(caller) || self.settings.clients.steers_all(caller) {
            return Ok(lease.clone());
        }
        // A pod does not even learn what others are called.
        if caller.pod.is_some() {
            return Err(unknown());
        }
        Err(Denied::NotYours(format!("lease {lease} is another's: its owner or root may change it")))
    }

    /// Why a pod's own lease cannot be changed so, for whoever may know of it.
    fn pods_own(&self, caller: &Caller, lease: &str) -> Option<Denied> {
        let holder = self.holders.get(lease).filter(|_| caller.pod.is_none())?;
        let (namespace, pod) = (&holder.subject.namespace, &holder.subject.name);
        Some(Denied::NotNow(format!(
            "lease {lease} is that of pod {namespace}/{pod} and ends with it: delete the pod, or ask it to go (memboss lease preempt)"
        )))
    }

    /// Whether any process leases in code: only then is it worth knowing from whom others descend.
    #[must_use]
    pub fn has_clients(&self) -> bool {
        !self.clients.known.is_empty()
    }

    /// Processes whose end must be noticed from now on.
    #[must_use]
    pub fn take_processes_to_watch(&mut self) -> Vec<Process> {
        std::mem::take(&mut self.clients.to_watch)
    }

    /// The leases in code on that GPU of the process that this one is or descends from.
    pub(super) fn client_leases(&self, lineage: &[Process], charged: &BTreeMap<LeaseId, Mib>) -> Vec<LeaseId> {
        let of = |process: &Process| {
            let its = self
                .clients
                .known
                .iter()
                .filter(|(lease, client)| client.caller.process == *process && charged.contains_key(*lease));
            its.map(|(lease, _)| lease.clone()).collect::<Vec<_>>()
        };
        lineage.iter().map(of).find(|leases| !leases.is_empty()).unwrap_or_default()
    }
}
