//! Leases in code: a process asks over the socket and holds its lease by its connection, or by renewing it. Who it is, the kernel said; nothing that it says
//! of itself counts. What becomes of a lease is told to whoever listens, once the ledger that it rests on is written.

use std::collections::{BTreeMap, BTreeSet};

use memboss_core::{
    Decision, EndReason, Forecast, LeaseId, LeaseView, Mib, Moment, NodeSelector, Phase, Refused, Request, Span,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, oneshot};

use super::holders::{Denied, GiveBack};
use super::{Cluster, Hold, Node};
use crate::probes::processes::{Caller, Process};
use crate::store::hex;

/// What a process may have of leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Leases of one user, those that wait included.
    pub leases: usize,
    /// How long a lease whose connection broke can be taken up again.
    pub grace: Span,
    /// How long after SIGTERM a process that must go is killed.
    pub kill_after: Span,
}

impl Default for Limits {
    fn default() -> Self {
        Self { leases: 1024, grace: Span::from_secs(10), kill_after: Span::from_secs(10) }
    }
}

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
}

/// Who hears of a lease.
#[derive(Debug)]
pub struct Listener {
    /// Tells one connection from the next.
    pub connection: u64,
    /// Where it hears; a listener that does not take what it is told is one that is gone.
    pub events: mpsc::Sender<Told>,
}

/// What a listener is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The lease.
    pub lease: LeaseView,
    /// Its place in the queue, from 1, while it waits.
    pub position: Option<usize>,
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
        /// Whose lease.
        lease: LeaseId,
        /// Which connection.
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
    pub(crate) known: BTreeMap<LeaseId, Client>,
    listeners: BTreeMap<LeaseId, Listener>,
    last: BTreeMap<LeaseId, Told>,
    pushed: BTreeMap<LeaseId, Push>,
    named: u64,
}

/// The digest by which a secret is known.
fn digest(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes()))
}

impl Clients {
    /// Those of the ledger. Their connections are gone since now.
    pub(crate) fn taken_up(mut known: BTreeMap<LeaseId, Client>, now: Moment) -> Self {
        known.values_mut().filter(|client| client.ttl.is_none()).for_each(|client| client.alive = now);
        Self { known, ..Self::default() }
    }

    /// The processes whose end must be noticed.
    pub(crate) fn processes(&self) -> impl Iterator<Item = Process> + '_ {
        self.known.values().map(|client| client.caller.process)
    }

    fn of_user(&self, caller: &Caller) -> usize {
        self.known.values().filter(|client| client.caller.is_of(caller)).count()
    }

    fn is_heard(&self, lease: &LeaseId) -> bool {
        self.listeners.get(lease).is_some_and(|listener| !listener.events.is_closed())
    }

    /// When the lease ends by itself, unless somebody does something: for want of patience, of a connection, or of renewal.
    fn due(&self, lease: &LeaseId, client: &Client, waits: bool, grace: Span) -> Option<Moment> {
        let silent = match client.ttl {
            Some(ttl) => Some(client.alive.after(ttl)),
            None => (!self.is_heard(lease)).then(|| client.alive.after(grace)),
        };
        let impatient = client.give_up.filter(|_| waits);
        [silent, impatient].into_iter().flatten().min()
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
            ClientInput::Broke { lease, connection } => self.broke(&lease, connection, now),
            ClientInput::Gone(process) => self.process_gone(process),
            ClientInput::Renew { caller, lease, reply } => {
                let answer = self.renew(&caller, &lease, now);
                self.answer(reply, answer);
            }
            ClientInput::Release { caller, lease, reply } => {
                let answer = self.own(&caller, &lease);
                if let Ok(lease) = &answer {
                    self.give_back(lease, EndReason::Released);
                }
                self.answer(reply, answer);
            }
            ClientInput::GiveBack { caller, lease, what, reply } => match self.own(&caller, &lease) {
                Ok(lease) => self.begin_to_give(lease, what, reply, now),
                Err(denied) => self.answer(reply, Err(denied)),
            },
            ClientInput::DryRun { caller, wish, reply } => {
                let answer = self
                    .wished(&caller, &wish, now)
                    .and_then(|request| self.engine.dry_run(&request, now).map_err(Denied::Refused));
                self.answer(reply, answer);
            }
        }
    }

    /// The request under the name that it has here: its owner's, so that nobody can name another's.
    fn wished(&self, caller: &Caller, wish: &Wish, now: Moment) -> Result<Request, Denied> {
        let name = if wish.name.is_empty() {
            format!("{}-{}", self.agent_epoch, self.clients.named + 1)
        } else {
            wish.name.clone()
        };
        let id =
            LeaseId::new(format!("{}/{name}", caller.owner())).map_err(|bad| Denied::BadRequest(bad.to_string()))?;
        let nodes = NodeSelector::Only([self.settings.name.clone()].into());
        Ok(Request { id, nodes, enqueued: now, ..wish.request.clone() })
    }

    fn acquire(
        &mut self,
        caller: &Caller,
        wish: Wish,
        secret: String,
        listener: Listener,
        now: Moment,
    ) -> Result<Accepted, Denied> {
        if self.settings.cluster == Cluster::Kubernetes {
            let why = "on a node of a cluster pods lease by annotation; leases in code are served by an agent that runs alone";
            return Err(Denied::NotNow(why.to_owned()));
        }
        if self.hold != Hold::Open {
            return Err(Denied::NotNow(
                "the ledger of this machine is being rebuilt: ask again in a moment".to_owned(),
            ));
        }
        let mut request = self.wished(caller, &wish, now)?;
        let lease = request.id.clone();
        let again = self.clients.known.contains_key(&lease);
        if !again && self.clients.of_user(caller) >= self.settings.clients.leases {
            let most = self.settings.clients.leases;
            return Err(Denied::TooMany(format!("{} has {most} leases here, which is the most", caller.owner())));
        }
        if let Some(before) = self.engine.request(&lease).filter(|_| again) {
            request.enqueued = before.enqueued;
        }
        if wish.no_wait && !again {
            match self.engine.dry_run(&request, now).map_err(Denied::Refused)? {
                Forecast::Grant(_) => {}
                other => return Err(Denied::WouldWait(would_wait(&other))),
            }
        }
        self.engine.submit(request).map_err(Denied::Refused)?;
        self.clients.named += u64::from(wish.name.is_empty());
        let client = Client {
            caller: caller.clone(),
            label: wish.label,
            secret: digest(&secret),
            ttl: wish.ttl,
            alive: now,
            give_up: wish.timeout.map(|timeout| now.after(timeout)),
            given_back: false,
        };
        self.clients.known.insert(lease.clone(), client);
        self.clients.last.remove(&lease);
        self.clients.listeners.insert(lease.clone(), listener);
        Ok(Accepted { lease, secret })
    }

    /// The lease of that name, if it is the caller's.
    fn own(&self, caller: &Caller, lease: &str) -> Result<LeaseId, Denied> {
        let found = self.clients.known.get_key_value(lease);
        let (lease, client) = found.ok_or_else(|| Denied::NotFound(format!("no lease {lease} is known here")))?;
        // Root may steer everybody's, but not from within a pod.
        if client.caller.is_of(caller) || (caller.pod.is_none() && caller.user == 0) {
            Ok(lease.clone())
        } else {
            Err(Denied::NotYours(format!("lease {lease} is another's")))
        }
    }

    fn resume(&mut self, caller: &Caller, lease: &str, secret: &str, listener: Listener) -> Result<LeaseId, Denied> {
        let lease = self.own(caller, lease)?;
        let Some(client) = self.clients.known.get_mut(&lease) else {
            return Err(Denied::NotFound(format!("no lease {lease} is known here")));
        };
        if client.secret != digest(secret) || !client.caller.is_of(caller) {
            return Err(Denied::NotYours(format!("lease {lease} has another secret")));
        }
        // Another process of the same owner may take it over: a program that was started again.
        client.caller = caller.clone();
        self.clients.last.remove(&lease);
        self.clients.listeners.insert(lease.clone(), listener);
        Ok(lease)
    }

    fn renew(&mut self, caller: &Caller, lease: &str, now: Moment) -> Result<Told, Denied> {
        let lease = self.own(caller, lease)?;
        let Some(client) = self.clients.known.get_mut(&lease) else {
            return Err(Denied::NotFound(format!("no lease {lease} is known here")));
        };
        if client.ttl.is_none() {
            return Err(Denied::NotNow(format!("lease {lease} lives by its connection: there is nothing to renew")));
        }
        client.alive = now;
        self.told(&lease).ok_or_else(|| Denied::Refused(Refused::UnknownLease(lease)))
    }

    fn broke(&mut self, lease: &LeaseId, connection: u64, now: Moment) {
        // A lease that was taken up again has another connection by now.
        if self.clients.listeners.get(lease).is_some_and(|listener| listener.connection == connection) {
            self.clients.listeners.remove(lease);
            if let Some(client) = self.clients.known.get_mut(lease).filter(|client| client.ttl.is_none()) {
                client.alive = now;
            }
        }
    }

    fn process_gone(&mut self, process: Process) {
        let its = self.clients.known.iter().filter(|(_, client)| client.caller.process == process);
        let its: Vec<LeaseId> = its.map(|(lease, _)| lease.clone()).collect();
        its.iter().for_each(|lease| self.release(lease, EndReason::Exited));
    }

    /// Ends what nobody keeps alive any more.
    pub(super) fn end_silent_clients(&mut self, now: Moment) {
        let due = self.clients.known.iter().filter(|(lease, client)| {
            let phase = self.engine.lease(lease).map(|view| view.phase);
            let over = matches!(phase, None | Some(Phase::Stopping { .. }));
            let due = self.clients.due(lease, client, phase == Some(Phase::Waiting), self.settings.clients.grace);
            !over && due.is_some_and(|due| now >= due)
        });
        let due: Vec<LeaseId> = due.map(|(lease, _)| lease.clone()).collect();
        due.iter().for_each(|lease| self.give_back(lease, EndReason::Expired));
    }

    /// Ends what nobody keeps: processes that are gone though their end was not noticed, and those whose time is over. In a dry run it only tells.
    pub(super) fn clean_up(
        &mut self,
        gone: &BTreeSet<Process>,
        dry_run: bool,
        now: Moment,
    ) -> Vec<(LeaseId, EndReason)> {
        let stale = self.clients.known.iter().filter_map(|(lease, client)| {
            let phase = self.engine.lease(lease)?.phase;
            let due = self.clients.due(lease, client, phase == Phase::Waiting, self.settings.clients.grace);
            let reason = match phase {
                Phase::Stopping { .. } => return None,
                _ if gone.contains(&client.caller.process) => EndReason::Exited,
                _ if due.is_some_and(|due| now >= due) => EndReason::Expired,
                _ => return None,
            };
            Some((lease.clone(), reason))
        });
        let stale: Vec<_> = stale.collect();
        for (lease, reason) in stale.iter().filter(|_| !dry_run) {
            match reason {
                EndReason::Exited => self.release(lease, *reason),
                _ => self.give_back(lease, *reason),
            }
        }
        stale
    }

    fn give_back(&mut self, lease: &LeaseId, reason: EndReason) {
        if let Some(client) = self.clients.known.get_mut(lease) {
            client.given_back = true;
        }
        self.release(lease, reason);
    }

    /// When the next of them ends by itself.
    pub(super) fn next_silent_client(&self) -> Option<Moment> {
        let due = |(lease, client): (&LeaseId, &Client)| {
            let waits = self.engine.lease(lease).is_some_and(|view| view.phase == Phase::Waiting);
            self.clients.due(lease, client, waits, self.settings.clients.grace)
        };
        self.clients.known.iter().filter_map(due).min()
    }

    /// Whoever is granted holds it at once: it is there and listens.
    pub(super) fn activate_client(&mut self, decision: &Decision, now: Moment) {
        if let Decision::Grant { lease, .. } = decision
            && self.clients.known.contains_key(lease)
            && let Err(refused) = self.engine.activate(lease, now)
        {
            tracing::error!(%lease, %refused, "a granted lease cannot be held");
        }
    }

    fn told(&self, lease: &LeaseId) -> Option<Told> {
        let view = self.engine.lease(lease)?;
        let waits = view.phase == Phase::Waiting && view.placement.is_none();
        let position = if waits { self.engine.position(lease).ok() } else { None };
        Some(Told { lease: view, position, ended: None })
    }

    /// Tells everybody what is news to them.
    pub(super) fn tell_clients(&mut self) {
        let heard: Vec<LeaseId> = self.clients.listeners.keys().cloned().collect();
        for lease in heard {
            let Some(told) = self.told(&lease) else { continue };
            if self.clients.last.get(&lease) != Some(&told) {
                self.clients.last.insert(lease.clone(), told.clone());
                self.say(&lease, told);
            }
        }
    }

    fn say(&mut self, lease: &LeaseId, told: Told) {
        let Some(listener) = self.clients.listeners.get(lease) else { return };
        let events = listener.events.clone();
        // One that does not take what it is told for so long is as good as gone: its stream ends with the channel.
        self.answers.push(Box::new(move || drop(events.try_send(told))));
    }

    /// A lease in code is over.
    pub(super) fn client_ended(&mut self, view: &LeaseView, reason: EndReason) {
        if self.clients.known.remove(&view.id).is_some() {
            self.say(&view.id, Told { lease: view.clone(), position: None, ended: Some(reason) });
            self.clients.listeners.remove(&view.id);
            self.clients.last.remove(&view.id);
            self.clients.pushed.remove(&view.id);
        }
    }

    /// Whether nothing stands against ending a lease in code that is stopping. RAM shows by itself: what its process still has is missing in what is
    /// available. On a GPU a look must have shown it unused, or its process has given it back and goes on, and what it still uses counts as foreign.
    pub(super) fn is_given_up(&self, lease: &LeaseId) -> bool {
        let Some(view) = self.engine.lease(lease) else { return false };
        let gpus = view.placement.map(|placement| placement.gpus).unwrap_or_default();
        let looked = self.stopping_since.get(lease).is_some_and(|since| *since <= self.look_began);
        let read = gpus.iter().all(|share| self.gpus.get(&share.uuid).is_some_and(|gpu| gpu.present.is_some()));
        let given_back = self.clients.known.get(lease).is_some_and(|client| client.given_back);
        let unused = || self.used_by(lease).iter().all(|used| used.is_zero());
        gpus.is_empty() || (looked && read && (given_back || unused()))
    }

    /// Whether any process leases in code: only then is it worth knowing from whom others descend.
    #[must_use]
    pub fn has_clients(&self) -> bool {
        !self.clients.known.is_empty()
    }

    /// The processes of leases in code, whose end must be noticed.
    #[must_use]
    pub fn client_processes(&self) -> Vec<Process> {
        self.clients.processes().collect()
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

/// What is done to a process whose time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Push {
    /// It is asked to end (SIGTERM).
    Term,
    /// It is ended (SIGKILL).
    Kill,
}

impl Node {
    /// Pushes the processes whose leases are stopping and needed: first asked, and after a while ended.
    pub(super) fn push_processes(&mut self, now: Moment) {
        let mut pushes = Vec::new();
        for (lease, client) in &self.clients.known {
            let phase = self.engine.lease(lease).map(|view| view.phase);
            let Some(Phase::Stopping { reason }) = phase else { continue };
            if client.given_back || reason == EndReason::Exited {
                continue;
            }
            let since = self.stopping_since.get(lease).copied().unwrap_or(now);
            let late = now.since(since) >= self.settings.clients.kill_after;
            let push = if late { Push::Kill } else { Push::Term };
            if self.clients.pushed.get(lease).is_none_or(|before| *before < push) {
                pushes.push((lease.clone(), client.caller.process, push));
            }
        }
        for (lease, process, push) in pushes {
            tracing::info!(%lease, pid = process.pid, ?push, "its time is up");
            self.clients.pushed.insert(lease, push);
            self.pushes.push((process, push));
        }
    }

    /// Processes to be pushed once the ledger is written.
    #[must_use]
    pub fn take_pushes(&mut self) -> Vec<(Process, Push)> {
        std::mem::take(&mut self.pushes)
    }

    /// When the next process is to be ended.
    pub(super) fn next_push(&self) -> Option<Moment> {
        let asked = self.clients.pushed.iter().filter(|(_, push)| **push == Push::Term);
        let due = asked.filter_map(|(lease, _)| self.stopping_since.get(lease));
        due.map(|since| since.after(self.settings.clients.kill_after)).min()
    }
}

fn would_wait(forecast: &Forecast) -> String {
    match forecast {
        Forecast::Grant(_) => "it would be granted".to_owned(),
        Forecast::Preempt { victims, .. } => format!("{} lease(s) would have to give way first", victims.len()),
        Forecast::Wait { ahead, largest, satisfiable, .. } if *satisfiable => {
            format!("{ahead} wait before it; the largest GPU that would do has {largest}")
        }
        Forecast::Wait { largest, .. } => format!("no GPU here could ever hold it: the largest has {largest}"),
    }
}
