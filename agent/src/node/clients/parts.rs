//! Leases in code of a pod that has a lease of its own, the whole: they are parts of what that holds, and cost the node nothing more. Over each whole stands
//! an engine of its own that knows no other memory, so that the same rules serve the queue of one pod. What becomes of a whole reaches all its parts: a
//! notice, its withdrawal, the end. It may not touch the whole.

use std::collections::{BTreeMap, BTreeSet};

use memboss_core::{
    Closed, Decision, EndReason, Engine, GpuFacts, LeaseId, LeaseRecord, LeaseView, Mib, Moment, NodeFacts, Notice,
    Phase, Policy, Token,
};

use crate::health::Health;
use crate::node::holders::Denied;
use crate::node::{GpuState, Node, RamWish};
use crate::probes::processes::Caller;

/// What is shared out of one pod's lease.
#[derive(Debug)]
pub(crate) struct Part {
    engine: Engine,
    /// The notice that was passed on to all.
    passed_on: Option<Notice>,
}

/// All of them, by the whole.
pub(crate) type Parts = BTreeMap<LeaseId, Part>;

impl Part {
    fn new(policy: Policy, agent_epoch: u32) -> Self {
        Self { engine: Engine::new(policy, Token { epoch: agent_epoch, sequence: 0 }), passed_on: None }
    }

    /// Leases that may have changed since this was last asked.
    pub(in crate::node) fn take_touched(&mut self) -> BTreeSet<LeaseId> {
        self.engine.take_touched()
    }

    /// Everybody's place in the queue, from 1.
    pub(in crate::node) fn places(&self) -> impl Iterator<Item = (LeaseId, usize)> {
        self.engine.queue().into_iter().zip(1..)
    }
}

impl Node {
    /// The lease of the caller's pod, out of which it leases in code; nothing if it leases from the node.
    pub(super) fn whole_of(&self, caller: &Caller) -> Result<Option<LeaseId>, Denied> {
        let Some(pod) = &caller.pod else { return Ok(None) };
        let held = self.holders.iter().find(|(_, holder)| holder.subject.pod == *pod).map(|(lease, _)| lease);
        let Some(whole) = held else {
            let has_one = self.pods.get(pod).is_some_and(|pod| pod.has_lease);
            let gone = || Denied::NotNow(format!("pod {pod} leases in code out of its own lease, and holds none now"));
            return if has_one { Err(gone()) } else { Ok(None) };
        };
        match self.engine.phase(whole) {
            Some(Phase::Reserved { .. } | Phase::Active { .. }) => Ok(Some(whole.clone())),
            Some(phase) => {
                let phase = phase.name();
                Err(Denied::NotNow(format!("lease {whole}, out of which pod {pod} leases in code, is {phase}")))
            }
            None => Err(Denied::NotNow(format!("lease {whole} of pod {pod} is over"))),
        }
    }

    /// The engine that decides out of that whole; the node's without one.
    pub(super) fn engine_over(&mut self, whole: Option<&LeaseId>) -> &mut Engine {
        let Some(whole) = whole else { return &mut self.engine };
        if !self.parts.contains_key(whole) {
            let facts = self.engine.lease(whole).map(|view| self.facts_of(&view));
            let mut part = Part::new(self.settings.policy.clone(), self.agent_epoch);
            facts.iter().for_each(|facts| part.engine.set_node(facts));
            self.parts.insert(whole.clone(), part);
        }
        self.parts.get_mut(whole).map_or(&mut self.engine, |part| &mut part.engine)
    }

    /// The engine that knows that lease.
    pub(in crate::node) fn engine_of(&self, lease: &LeaseId) -> &Engine {
        let whole = self.clients.known.get(lease).and_then(|client| client.part_of.as_ref());
        whole.and_then(|whole| self.parts.get(whole)).map_or(&self.engine, |part| &part.engine)
    }

    /// The same, to change it.
    pub(in crate::node) fn engine_of_mut(&mut self, lease: &LeaseId) -> &mut Engine {
        let whole = self.clients.known.get(lease).and_then(|client| client.part_of.as_ref());
        whole.and_then(|whole| self.parts.get_mut(whole)).map_or(&mut self.engine, |part| &mut part.engine)
    }

    /// A lease as it stands, whichever engine knows it.
    pub(in crate::node) fn lease_seen(&self, lease: &LeaseId) -> Option<LeaseView> {
        self.engine_of(lease).lease(lease)
    }

    /// All whose holders are being ended, with why.
    pub(in crate::node) fn all_stopping(&self) -> Vec<(LeaseId, EndReason)> {
        let engines = std::iter::once(&self.engine).chain(self.parts.values().map(|part| &part.engine));
        engines.flat_map(Engine::stopping).map(|(lease, reason)| (lease.clone(), reason)).collect()
    }

    /// What is written down of the parts.
    pub(in crate::node) fn part_records(&self) -> impl Iterator<Item = LeaseRecord> {
        self.parts.values().flat_map(|part| part.engine.records())
    }

    /// Takes the parts up again whose whole is there.
    pub(in crate::node) fn adopt_parts(&mut self, records: Vec<LeaseRecord>) {
        for record in records {
            let lease = record.request.id.clone();
            let whole = self.clients.known.get(&lease).and_then(|client| client.part_of.clone());
            if whole.as_ref().is_none_or(|whole| self.engine.phase(whole).is_none()) {
                continue;
            }
            if let Err(refused) = self.engine_over(whole.as_ref()).adopt(record) {
                tracing::error!(%lease, %refused, "a part of a lease cannot be adopted");
            }
        }
    }

    /// When the next of them is due.
    pub(in crate::node) fn next_part(&self) -> Option<Moment> {
        self.parts.values().filter_map(|part| part.engine.next_wake()).min()
    }

    /// What parts hold of each GPU of that whole, and of its RAM.
    pub(in crate::node) fn shared_out(&self, whole: &LeaseId) -> (Vec<Mib>, Mib) {
        let Some((part, view)) = self.parts.get(whole).zip(self.engine.lease(whole)) else { return Default::default() };
        let gpus = part.engine.gpus();
        let of = |uuid| gpus.iter().find(|gpu| gpu.uuid == uuid).map(|gpu| gpu.leased).unwrap_or_default();
        let placement = view.placement.map(|placement| placement.gpus).unwrap_or_default();
        let ram = part.engine.ram(&self.settings.name).map(|(_, leased)| leased).unwrap_or_default();
        (placement.into_iter().map(|share| of(share.uuid)).collect(), ram)
    }

    /// Lets the parts follow their wholes, and serves who can be served.
    pub(in crate::node) fn serve_parts(&mut self, now: Moment) -> Vec<Decision> {
        if self.parts.is_empty() {
            return Vec::new();
        }
        for whole in self.parts.keys().cloned().collect::<Vec<_>>() {
            self.follow(&whole);
        }
        self.parts.values_mut().flat_map(|part| part.engine.decide(now)).collect()
    }

    fn follow(&mut self, whole: &LeaseId) {
        let view = self.engine.lease(whole);
        let facts = view.as_ref().map(|view| self.facts_of(view));
        let Some(part) = self.parts.get_mut(whole) else { return };
        facts.iter().for_each(|facts| part.engine.set_node(facts));
        let ending = match view.map(|view| view.phase) {
            Some(Phase::Revoking { notice, .. }) => {
                part.engine.pass_on(&notice);
                part.passed_on = Some(notice);
                return;
            }
            Some(Phase::Stopping { reason }) => reason,
            Some(_) => {
                if let Some(notice) = part.passed_on.take() {
                    part.engine.take_back(&notice);
                }
                return;
            }
            None => self.ended.get(whole).map_or(EndReason::Exited, |ended| ended.reason),
        };
        let over = self.engine.lease(whole).is_none();
        let leases = self.parts.get(whole).map(|part| part.engine.leases()).unwrap_or_default();
        for lease in leases {
            match lease.phase {
                _ if over => self.end(&lease.id, ending),
                Phase::Stopping { .. } => {}
                _ => self.release(&lease.id, ending),
            }
        }
        if over {
            self.parts.remove(whole);
        }
    }

    /// A whole, as if it were a node.
    fn facts_of(&self, whole: &LeaseView) -> NodeFacts {
        let placement = whole.placement.as_ref();
        let held = matches!(whole.phase, Phase::Reserved { .. } | Phase::Active { .. });
        // What the whole is about to give back, no part gets any more.
        let giving = self.gives.iter().find(|give| give.lease == whole.id);
        let kept = |slot: usize, share: &memboss_core::GpuShare| {
            giving.and_then(|give| give.memory.get(slot)).map_or(share.memory, |kept| share.memory.min(*kept))
        };
        let kept_ram = |ram: Mib| match giving.map(|give| give.ram) {
            Some(RamWish::Down(wants)) => ram.min(wants),
            // Charged already, and taken back if it does not come to it.
            Some(RamWish::More(more)) => ram.minus(more),
            Some(RamWish::Same) | None => ram,
        };
        let gpu = |(slot, share): (usize, &memboss_core::GpuShare)| {
            let gpu: &GpuState = self.gpus.get(&share.uuid)?;
            let closed = (gpu.health.health() == Health::Lost).then_some(Closed::Lost);
            let (uuid, model) = (share.uuid.clone(), gpu.model.clone());
            Some(GpuFacts { uuid, model, leasable: kept(slot, share), foreign: Mib::ZERO, closed })
        };
        NodeFacts {
            name: self.settings.name.clone(),
            gpus: placement.iter().flat_map(|placement| placement.gpus.iter().enumerate()).filter_map(gpu).collect(),
            gpus_unread: false,
            ram: kept_ram(placement.map(|placement| placement.ram).unwrap_or_default()),
            ram_closed: None,
            closed: (!held).then_some(Closed::Draining),
        }
    }
}
