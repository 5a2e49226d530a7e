//! What root on the node asks for: to empty a GPU or all, to end what nobody keeps, to ask a holder to go. What the cluster wants closed comes here too, so
//! that both are one.

use std::collections::{BTreeMap, BTreeSet};

use memboss_core::{DrainScope, EndReason, GpuUuid, LeaseId, Moment, Phase, Placement, Span};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::holders::Denied;
use super::{Node, Severity};
use crate::probes::processes::Process;

/// A question of root's, with the way to answer it.
#[derive(Debug)]
pub enum AdminInput {
    /// Nothing new is granted there, and those who hold are asked to go.
    Drain {
        /// Where.
        scope: Scope,
        /// Whoever is still there then is ended.
        deadline: Option<Span>,
        /// Nothing is to change.
        dry_run: bool,
        /// Who is there, lower classes first.
        reply: oneshot::Sender<Result<Vec<LeaseId>, Denied>>,
    },
    /// Grants are open there again.
    Undrain {
        /// Where.
        scope: Scope,
        /// The answer.
        reply: oneshot::Sender<Result<(), Denied>>,
    },
    /// What nobody keeps any more is to end.
    Cleanup {
        /// Processes that were looked for and are gone.
        gone: BTreeSet<Process>,
        /// Only leases of RAM, alone or beside GPU memory.
        ram_only: bool,
        /// Nothing is to change.
        dry_run: bool,
        /// Who ends, and why.
        reply: oneshot::Sender<Result<Vec<(LeaseId, EndReason)>, Denied>>,
    },
    /// A holder is to go.
    Preempt {
        /// Which.
        lease: String,
        /// At once.
        force: bool,
        /// Nothing is to change.
        dry_run: bool,
        /// What becomes free.
        reply: oneshot::Sender<Result<Freed, Denied>>,
    },
}

/// Where something is closed or opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Everywhere, the host's RAM too.
    pub node: bool,
    /// On these GPUs.
    pub gpus: BTreeSet<GpuUuid>,
}

/// What comes of asking a holder to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freed {
    /// The lease.
    pub lease: LeaseId,
    /// What it holds.
    pub placement: Placement,
    /// Who waits for something that it could have, the first first.
    pub waiting: Vec<LeaseId>,
}

/// When whoever is still there is ended; never without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadline(pub Option<Moment>);

/// What is closed, and until when those who are there have time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// All of it.
    pub node: Option<Deadline>,
    /// These GPUs.
    pub gpus: BTreeMap<GpuUuid, Deadline>,
}

/// What the cluster wants closed: the whole of it, each time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Where.
    pub scope: Scope,
    /// Whoever is still there so long after it was read is ended.
    pub within: Option<Span>,
}

/// What the cluster has closed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wished {
    /// It.
    pub drained: Drained,
    /// The time that its deadlines came from.
    pub within: Option<Span>,
}

/// What is closed: by the cluster, and by root here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drains {
    pub(crate) cluster: Wished,
    pub(crate) here: Drained,
}

impl Drained {
    /// The wish of that moment takes the place of this one. What was closed before keeps its deadline, unless another time is wished for.
    fn wished(&self, wish: &Wish, same_time: bool, now: Moment) -> Self {
        let end = Deadline(wish.within.map(|span| now.after(span)));
        let kept = |before: Option<&Deadline>| before.filter(|_| same_time).copied().unwrap_or(end);
        Self {
            node: wish.scope.node.then(|| kept(self.node.as_ref())),
            gpus: wish.scope.gpus.iter().map(|uuid| (uuid.clone(), kept(self.gpus.get(uuid)))).collect(),
        }
    }

    fn deadlines(&self) -> impl Iterator<Item = Moment> {
        self.node.iter().chain(self.gpus.values()).filter_map(|deadline| deadline.0)
    }

    /// Where a deadline is over. It is no more then: everything stays closed, and nobody new can come.
    fn take_due(&mut self, now: Moment) -> Scope {
        let mut is_due = |deadline: &mut Deadline| deadline.0.take_if(|at| now >= *at).is_some();
        let node = self.node.as_mut().is_some_and(&mut is_due);
        let gpus = self.gpus.iter_mut().filter_map(|(uuid, deadline)| is_due(deadline).then(|| uuid.clone()));
        Scope { node, gpus: gpus.collect() }
    }
}

impl Drains {
    pub(crate) fn is_node_closed(&self) -> bool {
        self.cluster.drained.node.is_some() || self.here.node.is_some()
    }

    pub(crate) fn is_gpu_closed(&self, uuid: &GpuUuid) -> bool {
        self.cluster.drained.gpus.contains_key(uuid) || self.here.gpus.contains_key(uuid)
    }

    fn closed(&self) -> Scope {
        let gpus = self.cluster.drained.gpus.keys().chain(self.here.gpus.keys());
        Scope { node: self.is_node_closed(), gpus: gpus.cloned().collect() }
    }

    /// When the next deadline is.
    pub(crate) fn next_end(&self) -> Option<Moment> {
        self.cluster.drained.deadlines().chain(self.here.deadlines()).min()
    }
}

impl Node {
    pub(super) fn admin(&mut self, input: AdminInput, now: Moment) {
        match input {
            AdminInput::Drain { scope, deadline, dry_run, reply } => {
                let answer = self.drain_here(scope, deadline, dry_run, now);
                self.answer(reply, answer);
            }
            AdminInput::Undrain { scope, reply } => {
                let answer = self.undrain(&scope);
                self.answer(reply, answer);
            }
            AdminInput::Cleanup { gone, ram_only, dry_run, reply } => {
                let answer = self.clean_up(&gone, ram_only, dry_run, now);
                self.answer(reply, Ok(answer));
            }
            AdminInput::Preempt { lease, force, dry_run, reply } => {
                let answer = self.preempt(&lease, force, dry_run, now);
                self.answer(reply, answer);
            }
        }
    }

    /// The whole of what the cluster wants closed.
    pub(super) fn drain_as_the_cluster_wishes(&mut self, wish: &Wish, now: Moment) {
        let before = self.drains.closed();
        let Wished { drained, within } = &self.drains.cluster;
        let drained = drained.wished(wish, *within == wish.within, now);
        self.drains.cluster = Wished { drained, within: wish.within };
        self.close_what_is_new(&before, now);
    }

    fn drain_here(
        &mut self,
        scope: Scope,
        deadline: Option<Span>,
        dry_run: bool,
        now: Moment,
    ) -> Result<Vec<LeaseId>, Denied> {
        self.check_scope(&scope)?;
        let there = self.held_in(&scope);
        if dry_run {
            return Ok(there);
        }
        let before = self.drains.closed();
        let deadline = Deadline(deadline.map(|span| now.after(span)));
        if scope.node {
            self.drains.here.node = Some(deadline);
        }
        self.drains.here.gpus.extend(scope.gpus.into_iter().map(|uuid| (uuid, deadline)));
        self.close_what_is_new(&before, now);
        Ok(there)
    }

    fn close_what_is_new(&mut self, before: &Scope, now: Moment) {
        let closed = self.drains.closed();
        if closed == *before {
            return;
        }
        self.tell_facts();
        let mut scopes = Vec::new();
        if closed.node && !before.node {
            scopes.push(DrainScope::Node(self.settings.name.clone()));
        }
        scopes.extend(closed.gpus.difference(&before.gpus).cloned().map(DrainScope::Gpu));
        for scope in scopes {
            match self.engine.drain(&scope, now) {
                Ok(told) => tracing::info!(?scope, told = told.len(), "draining"),
                Err(refused) => tracing::warn!(?scope, %refused, "cannot drain"),
            }
        }
    }

    fn undrain(&mut self, scope: &Scope) -> Result<(), Denied> {
        self.check_scope(scope)?;
        if scope.node {
            self.drains.here.node = None;
        }
        self.drains.here.gpus.retain(|uuid, _| !scope.gpus.contains(uuid));
        self.tell_facts();
        let wished = &self.drains.cluster.drained;
        if (scope.node && wished.node.is_some()) || scope.gpus.iter().any(|uuid| wished.gpus.contains_key(uuid)) {
            let node = &self.settings.name;
            return Err(Denied::NotNow(format!(
                "opened here, but MemoryNode {node} still asks for the drain: change its spec.drain or spec.drainGpus"
            )));
        }
        let closed = self.drains.closed();
        if closed.node {
            return Err(Denied::NotNow(
                "opened, but the whole node is drained too: undo that (--node --undo)".to_owned(),
            ));
        }
        if scope.node && !closed.gpus.is_empty() {
            let gpus: Vec<&str> = closed.gpus.iter().map(GpuUuid::as_str).collect();
            let gpus = gpus.join(" ");
            return Err(Denied::NotNow(format!(
                "opened, but for what is drained by itself: undo that ({gpus} --undo)"
            )));
        }
        Ok(())
    }

    fn check_scope(&self, scope: &Scope) -> Result<(), Denied> {
        if !scope.node && scope.gpus.is_empty() {
            return Err(Denied::BadRequest("nothing is named: give GPUs, or the whole node".to_owned()));
        }
        match scope.gpus.iter().find(|uuid| !self.gpus.contains_key(*uuid)) {
            Some(unknown) => {
                let known: Vec<&str> = self.gpus.keys().map(GpuUuid::as_str).collect();
                Err(Denied::NotFound(format!("no GPU {unknown} is here: {} are", known.join(", "))))
            }
            None => Ok(()),
        }
    }

    /// Who holds anything there, lower classes first.
    fn held_in(&self, scope: &Scope) -> Vec<LeaseId> {
        let charged = self.engine.leases().into_iter().filter(|lease| lease.phase.is_charged());
        let there = charged.filter(|lease| {
            let gpus = lease.placement.iter().flat_map(|placement| &placement.gpus);
            scope.node || gpus.into_iter().any(|share| scope.gpus.contains(&share.uuid))
        });
        let mut there: Vec<_> = there.map(|lease| (lease.class, lease.id)).collect();
        there.sort();
        there.into_iter().map(|(_, lease)| lease).collect()
    }

    /// Ends whoever is still there at a drain's deadline.
    pub(super) fn end_drains(&mut self, now: Moment) {
        let mut due = self.drains.here.take_due(now);
        let wished = self.drains.cluster.drained.take_due(now);
        due.node |= wished.node;
        due.gpus.extend(wished.gpus);
        if due == Scope::default() {
            return;
        }
        for lease in self.held_in(&due) {
            self.release(&lease, EndReason::Drained);
        }
    }

    fn preempt(&mut self, lease: &str, force: bool, dry_run: bool, now: Moment) -> Result<Freed, Denied> {
        let unknown = || Denied::NotFound(format!("no lease {lease} is known here"));
        let id = LeaseId::new(lease).map_err(|_| unknown())?;
        let view = self.lease_seen(&id).ok_or_else(unknown)?;
        let (true, Some(placement)) = (view.phase.is_charged(), view.placement) else {
            return Err(Denied::NotNow(format!("lease {lease} waits and holds nothing")));
        };
        let waiting = self.waiting_for(&placement);
        let freed = Freed { lease: id.clone(), placement, waiting };
        if dry_run {
            return Ok(freed);
        }
        if force {
            self.release(&id, EndReason::Preempted);
        } else {
            self.engine_of_mut(&id).revoke(&id, EndReason::Preempted, now).map_err(Denied::Refused)?;
        }
        let how = if force { "at once" } else { "with notice" };
        self.tell(Some(&id), Severity::Normal, "AskedToGo", format!("root asked its holder to go, {how}"));
        Ok(freed)
    }

    /// Who could have something of that place, the first in the queue first.
    fn waiting_for(&self, placement: &Placement) -> Vec<LeaseId> {
        let could = |lease: &LeaseId| {
            let Some(request) = self.engine.request(lease) else { return false };
            let on_gpu = placement.gpus.iter().any(|share| {
                let model = self.gpus.get(&share.uuid).map(|gpu| &gpu.model);
                model.is_some_and(|model| request.gpus.accepts(&share.uuid, model))
            });
            (!request.demand.slots.is_empty() && on_gpu) || (!request.demand.ram.is_zero() && !placement.ram.is_zero())
        };
        let claimants =
            self.engine.leases().into_iter().filter(|lease| lease.phase == Phase::Waiting && lease.placement.is_some());
        let claimants = claimants.map(|lease| lease.id).collect::<Vec<_>>();
        claimants.into_iter().chain(self.engine.queue()).filter(could).collect()
    }
}
