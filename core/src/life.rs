//! The steps of a lease's life, as facts that somebody observed: it came, it gives back, it was told, it is gone. A step that does not follow
//! from the lease's phase is refused and changes nothing. Steps may not choose anybody: `decide.rs` does.

use crate::decide::Decision;
use crate::engine::Engine;
use crate::ids::{GpuUuid, LeaseId, NodeName};
use crate::pool::LeaseIx;
use crate::refuse::{Closed, Refused, Waiting};
use crate::request::NodeSelector;
use crate::state::{EndReason, Notice, Phase, Token};
use crate::units::{Mib, Moment};

/// What is to be emptied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DrainScope {
    /// One GPU.
    Gpu(GpuUuid),
    /// A whole node.
    Node(NodeName),
}

impl Engine {
    /// The holder has come: Reserved → Active. Again is no error.
    ///
    /// # Errors
    /// When the lease is in no phase that can become active.
    pub fn activate(&mut self, id: &LeaseId, now: Moment) -> Result<Token, Refused> {
        let ix = self.find(id)?;
        let Some(lease) = self.lease_at(ix) else { return Err(Refused::UnknownLease(id.clone())) };
        let token = lease.token;
        let may_give_way = now.after(self.policy.protection_for(lease.request.class, lease.request.protection));
        match &lease.phase {
            Phase::Reserved { .. } => {
                self.set_phase(ix, Phase::Active { since: now });
                // Whoever waits until a victim may be asked was told an early moment to look again; this one's may be earlier still.
                self.retry_at = self.retry_at.map(|at| at.min(may_give_way));
            }
            Phase::Active { .. } | Phase::Revoking { .. } => {}
            phase => return Err(wrong(id, phase, "activate")),
        }
        Ok(token)
    }

    /// Whether that token is the lease's present one.
    ///
    /// # Errors
    /// [`Refused::StaleToken`] for any other.
    pub fn check_token(&self, id: &LeaseId, token: Token) -> Result<(), Refused> {
        let lease =
            self.find(id).ok().and_then(|ix| self.lease_at(ix)).ok_or_else(|| Refused::UnknownLease(id.clone()))?;
        if lease.token == token { Ok(()) } else { Err(Refused::StaleToken) }
    }

    /// The holder goes or has gone, or is to be ended at once: → Stopping. Charged until [`Engine::end`]. A waiting lease ends at once.
    ///
    /// # Errors
    /// When there is no such lease.
    pub fn stop(&mut self, id: &LeaseId, reason: EndReason) -> Result<(), Refused> {
        let ix = self.find(id)?;
        let Some(lease) = self.lease_at(ix) else { return Err(Refused::UnknownLease(id.clone())) };
        match (&lease.phase, lease.spots.clone()) {
            (Phase::Stopping { .. }, _) => {}
            (phase, Some(spots)) if phase.is_charged() => {
                // Whoever was told to go and goes was preempted, also when it went by itself.
                let reason = if let Phase::Revoking { notice, .. } = phase { notice.reason } else { reason };
                self.ledger.set_leaving(ix, &spots, true);
                self.set_phase(ix, Phase::Stopping { reason });
            }
            _ => drop(self.end(id, reason)?),
        }
        Ok(())
    }

    /// The memory was seen free: charged no longer, and forgotten here. Returns the reason it ended for.
    ///
    /// # Errors
    /// When there is no such lease.
    pub fn end(&mut self, id: &LeaseId, reason: EndReason) -> Result<EndReason, Refused> {
        let ix = self.find(id)?;
        self.leave_queue(ix);
        let mut out = std::mem::take(&mut self.pending);
        self.drop_claim(ix, &mut out);
        self.pending = out;
        let Some(lease) = self.lease_at(ix) else { return Err(Refused::UnknownLease(id.clone())) };
        let reason = match &lease.phase {
            Phase::Stopping { reason } => *reason,
            Phase::Revoking { notice, .. } => notice.reason,
            _ => reason,
        };
        let spots = lease.spots.clone();
        self.set_phase(ix, Phase::Ended(reason));
        if let Some(spots) = spots {
            self.ledger.discharge(ix, &spots);
        }
        self.remove(ix);
        Ok(reason)
    }

    /// The holder has given a part back, and that was seen free: slot `i` holds `memory[i]` from now on. One that was told to give exactly that much
    /// is Active again.
    ///
    /// # Errors
    /// When it would grow, or nothing is charged to the lease.
    pub fn shrink(&mut self, id: &LeaseId, memory: &[Mib], ram: Mib) -> Result<(), Refused> {
        let ix = self.find(id)?;
        let Some(lease) = self.lease_at(ix) else { return Err(Refused::UnknownLease(id.clone())) };
        let (Some(mut spots), true) = (lease.spots.clone(), lease.phase.is_charged()) else {
            return Err(wrong(id, &lease.phase, "shrink"));
        };
        only_gives_back(&spots, memory)?;
        if ram > spots.ram.1 {
            return Err(Refused::Grows { slot: memory.len(), has: spots.ram.1, wants: ram });
        }
        let before = spots.clone();
        spots.gpus.iter_mut().zip(memory).for_each(|((_, has), wants)| *has = *wants);
        spots.ram.1 = ram;
        self.recharge(ix, &before, spots);
        self.settle_notice(ix, &before);
        Ok(())
    }

    /// Moves a part into host RAM: what the GPUs give up is charged to the node's RAM in the same step, or nothing changes. As with shrinking, the
    /// GPU part is to be seen free first.
    ///
    /// # Errors
    /// [`Refused::NoRoom`] when the RAM is not there.
    pub fn offload(&mut self, id: &LeaseId, memory: &[Mib], more_ram: Mib) -> Result<(), Refused> {
        let ix = self.find(id)?;
        let Some(lease) = self.lease_at(ix) else { return Err(Refused::UnknownLease(id.clone())) };
        let (Some(spots), true) = (&lease.spots, lease.phase.is_charged()) else {
            return Err(wrong(id, &lease.phase, "offload"));
        };
        let ram = spots.ram.1.plus(more_ram);
        only_gives_back(spots, memory)?;
        self.reserve_ram(id, more_ram)?;
        self.shrink(id, memory, ram)
    }

    /// Charges more host RAM to a lease, before its holder moves anything there.
    ///
    /// # Errors
    /// [`Refused::NoRoom`] when it is not free for the lease's class.
    pub fn reserve_ram(&mut self, id: &LeaseId, more: Mib) -> Result<(), Refused> {
        let ix = self.find(id)?;
        let Some(lease) = self.lease_at(ix) else { return Err(Refused::UnknownLease(id.clone())) };
        let (Some(before), true) = (lease.spots.clone(), lease.phase.is_charged()) else {
            return Err(wrong(id, &lease.phase, "offload"));
        };
        let pool = self.ledger.pool(before.ram.0);
        let beside = pool.first_before(ix, lease.order).map(|first| pool.beside_shadow(first.need, ix));
        let free = pool.free_for(lease.request.class, lease.order).min(beside.unwrap_or(more));
        if free < more {
            return Err(Refused::NoRoom { place: self.ledger.name_of(before.ram.0), need: more, free });
        }
        let mut phase = lease.phase.clone();
        if let Phase::Revoking { notice, .. } = &mut phase
            && !notice.needed_ram.is_zero()
        {
            // What it takes now is no progress when it gives it back.
            notice.needed_ram = notice.needed_ram.plus(more);
        }
        let mut spots = before.clone();
        spots.ram.1 = spots.ram.1.plus(more);
        self.recharge(ix, &before, spots);
        self.set_phase(ix, phase);
        Ok(())
    }

    fn recharge(&mut self, ix: LeaseIx, before: &crate::ledger::Spots, spots: crate::ledger::Spots) {
        let Some(lease) = self.lease_at(ix) else { return };
        let class = lease.request.class;
        let leaving = matches!(lease.phase, Phase::Revoking { .. } | Phase::Stopping { .. });
        self.ledger.discharge(ix, before);
        self.ledger.charge(ix, class, &spots);
        self.ledger.set_leaving(ix, &spots, leaving);
        if let Some(lease) = self.lease_at_mut(ix) {
            lease.spots = Some(spots);
        }
    }

    /// A notice of which everything has been given back is done; one that is not done keeps asking for the rest.
    fn settle_notice(&mut self, ix: LeaseIx, before: &crate::ledger::Spots) {
        let Some(lease) = self.lease_at(ix) else { return };
        let (Phase::Revoking { since, notice }, Some(spots)) = (lease.phase.clone(), lease.spots.clone()) else {
            return;
        };
        let mut rest = notice.clone();
        for (slot, ((_, had), (_, has))) in before.gpus.iter().zip(&spots.gpus).enumerate() {
            if let Some(needed) = rest.needed.get_mut(slot) {
                *needed = needed.minus(had.minus(*has));
            }
        }
        rest.needed_ram = rest.needed_ram.minus(before.ram.1.minus(spots.ram.1));
        // Only a preemptor is content with memory: whoever was asked to go for another reason has to go.
        if rest.reason == EndReason::Preempted
            && rest.needed.iter().all(|needed| needed.is_zero())
            && rest.needed_ram.is_zero()
        {
            self.ledger.set_leaving(ix, &spots, false);
            self.set_phase(ix, Phase::Active { since });
        } else {
            self.set_phase(ix, Phase::Revoking { since, notice: rest });
        }
    }

    /// Asks a holder to go for a reason other than preemption. A waiting lease ends at once.
    ///
    /// # Errors
    /// When there is no such lease.
    pub fn revoke(&mut self, id: &LeaseId, reason: EndReason, now: Moment) -> Result<(), Refused> {
        let ix = self.find(id)?;
        match self.lease_at(ix).map(|lease| lease.phase.clone()) {
            Some(Phase::Waiting) => drop(self.end(id, reason)?),
            Some(Phase::Reserved { .. } | Phase::Active { .. }) => {
                let mut out = std::mem::take(&mut self.pending);
                self.tell(ix, reason, None, &|_| None, now, &mut out);
                self.pending = out;
            }
            // It was to give way and might have been spared; now it has to go in any case.
            Some(Phase::Revoking { since, mut notice }) if notice.reason == EndReason::Preempted => {
                let mut out = std::mem::take(&mut self.pending);
                self.tell(ix, reason, None, &|_| None, now, &mut out);
                if let (Some(Phase::Revoking { notice: told, .. }), Some(Decision::Notice { notice: said, .. })) =
                    (self.lease_at(ix).map(|lease| lease.phase.clone()), out.last_mut())
                {
                    notice = crate::state::Notice { deadline: told.deadline.min(notice.deadline), ..told };
                    *said = notice.clone();
                }
                self.pending = out;
                self.set_phase(ix, Phase::Revoking { since, notice });
            }
            _ => {}
        }
        Ok(())
    }

    /// Passes on what the holder of all the memory here was told: whoever holds some has to go by then, or before. Again is no error.
    pub fn pass_on(&mut self, notice: &Notice) {
        for ix in self.holding() {
            let Some(lease) = self.lease_at(ix) else { continue };
            let (Some(since), Some(spots)) = (lease.active_since(), lease.spots.clone()) else { continue };
            let before = if let Phase::Revoking { notice, .. } = &lease.phase { Some(notice.deadline) } else { None };
            let deadline = before.map_or(notice.deadline, |before| before.min(notice.deadline));
            let told = Notice {
                needed: spots.gpus.iter().map(|(_, held)| *held).collect(),
                needed_ram: spots.ram.1,
                deadline,
                ..notice.clone()
            };
            self.ledger.set_leaving(ix, &spots, true);
            self.set_phase(ix, Phase::Revoking { since, notice: told });
        }
    }

    /// Takes back what was passed on, of those who have not gone yet.
    pub fn take_back(&mut self, notice: &Notice) {
        for ix in self.holding() {
            let Some(lease) = self.lease_at(ix) else { continue };
            let (Phase::Revoking { since, notice: told }, Some(spots)) = (&lease.phase, lease.spots.clone()) else {
                continue;
            };
            let since = *since;
            if (&told.preemptor, told.reason) == (&notice.preemptor, notice.reason) {
                self.ledger.set_leaving(ix, &spots, false);
                self.set_phase(ix, Phase::Active { since });
            }
        }
    }

    fn holding(&self) -> Vec<LeaseIx> {
        let held = |lease: &crate::engine::Lease| lease.active_since().is_some();
        self.all_leases().filter(|(_, lease)| held(lease)).map(|(ix, _)| ix).collect()
    }

    /// Back to the queue with its old place: the node that was to have it did not take it, or nobody came.
    ///
    /// # Errors
    /// When there is no such lease, or its holder is there already.
    pub fn requeue(&mut self, id: &LeaseId) -> Result<(), Refused> {
        let ix = self.find(id)?;
        match self.lease_at(ix).map(|lease| lease.phase.clone()) {
            Some(Phase::Reserved { .. }) => {
                self.uncharge(ix);
                self.enqueue(ix);
                Ok(())
            }
            Some(Phase::Waiting) => {
                let mut out = std::mem::take(&mut self.pending);
                if self.lease_at(ix).is_some_and(|lease| lease.claim.is_some()) {
                    self.drop_claim_and_wait(ix, &mut out);
                } else {
                    self.enqueue(ix);
                }
                self.pending = out;
                Ok(())
            }
            Some(phase) => Err(wrong(id, &phase, "requeue")),
            None => Err(Refused::UnknownLease(id.clone())),
        }
    }

    /// A reservation nobody came for: its lease waits again, bound to the node to which its holder may be bound already.
    pub(crate) fn put_back(&mut self, ix: LeaseIx, out: &mut Vec<Decision>) {
        let node = self
            .lease_at(ix)
            .and_then(|lease| lease.spots.as_ref())
            .and_then(|spots| self.ledger.node(spots.node))
            .map(|n| n.name.clone());
        self.uncharge(ix);
        if let (Some(node), Some(lease)) = (node, self.lease_at_mut(ix)) {
            let mut request = (*lease.request).clone();
            request.nodes = NodeSelector::Only([node].into());
            lease.request = std::sync::Arc::new(request);
        }
        self.enqueue(ix);
        let (lease, why) = (self.id_of(ix), Waiting::New);
        out.push(Decision::Wait { lease, why });
    }

    fn uncharge(&mut self, ix: LeaseIx) {
        let spots = self.lease_at_mut(ix).and_then(|lease| lease.spots.take());
        if let Some(spots) = spots {
            self.ledger.discharge(ix, &spots);
        }
        self.set_phase(ix, Phase::Waiting);
        if let Some(lease) = self.lease_at_mut(ix) {
            lease.why = Waiting::New;
        }
    }

    /// Closes a GPU or node and asks its holders to go, the lowest class first. Holders that are protected are asked too: an operator of the machine wants it.
    ///
    /// # Errors
    /// When there is no such node or GPU.
    pub fn drain(&mut self, scope: &DrainScope, now: Moment) -> Result<Vec<LeaseId>, Refused> {
        let pools = match scope {
            DrainScope::Node(name) => {
                let ix = self.ledger.node_ix(name).ok_or_else(|| Refused::UnknownNode(name.clone()))?;
                self.ledger.close_node(ix, Some(Closed::Draining));
                self.ledger
                    .node(ix)
                    .map(|n| n.gpus.values().copied().chain([n.ram]).collect::<Vec<_>>())
                    .unwrap_or_default()
            }
            DrainScope::Gpu(uuid) => {
                let ix = self.ledger.gpu_ix(uuid)?;
                self.ledger.close_gpu(ix, Some(Closed::Draining));
                vec![ix]
            }
        };
        let mut holders: Vec<_> =
            pools.iter().flat_map(|ix| self.ledger.pool(*ix).charges.iter().map(|(l, c)| (c.class, *l))).collect();
        holders.sort_unstable();
        holders.dedup();
        let ids: Vec<_> = holders.into_iter().map(|(_, ix)| self.id_of(ix)).collect();
        for id in &ids {
            self.revoke(id, EndReason::Drained, now)?;
        }
        Ok(ids)
    }

    /// The one door through which a phase changes: timers and the lists of who is where follow it.
    pub(crate) fn set_phase(&mut self, ix: LeaseIx, phase: Phase) {
        let due = |phase: &Phase| match phase {
            Phase::Reserved { until } => Some(*until),
            Phase::Revoking { notice, .. } => Some(notice.deadline),
            _ => None,
        };
        let Some(lease) = self.lease_at_mut(ix) else { return };
        let before = due(&lease.phase);
        let after = due(&phase);
        let was_active = matches!(lease.phase, Phase::Active { .. });
        let (is_active, is_stopping) = (matches!(phase, Phase::Active { .. }), matches!(phase, Phase::Stopping { .. }));
        lease.phase = phase;
        self.active = self.active + usize::from(is_active) - usize::from(was_active);
        if is_stopping {
            self.stopping.insert(ix);
        } else {
            self.stopping.remove(&ix);
        }
        if let Some(before) = before {
            self.timers.remove(&(before, ix));
        }
        if let Some(after) = after {
            self.timers.insert((after, ix));
        }
    }
}

/// Refuses what does not match the slots, or would grow one.
fn only_gives_back(spots: &crate::ledger::Spots, memory: &[Mib]) -> Result<(), Refused> {
    if memory.len() != spots.gpus.len() {
        return Err(Refused::MisfitPlacement { slots: spots.gpus.len() });
    }
    let grown = spots.gpus.iter().zip(memory).position(|((_, has), wants)| wants > has);
    grown.map_or(Ok(()), |slot| Err(Refused::Grows { slot, has: spots.gpus[slot].1, wants: memory[slot] }))
}

fn wrong(id: &LeaseId, phase: &Phase, step: &'static str) -> Refused {
    Refused::WrongPhase { lease: id.clone(), phase: phase.name().to_owned(), step }
}
