//! Whether an engine's books agree with each other: every total, index and back reference against what it is derived from. For tests and for
//! whoever doubts an engine. It changes nothing.

use std::collections::BTreeSet;

use crate::engine::{Engine, Lease};
use crate::ids::{GpuUuid, LeaseId, NodeName};
use crate::pool::{LeaseIx, PoolKind};
use crate::state::Phase;
use crate::units::{Mib, Moment};

impl Engine {
    /// Compares everything that is kept twice.
    ///
    /// # Errors
    /// The first disagreement, in words.
    #[doc(hidden)]
    pub fn check(&self) -> Result<(), String> {
        self.ledger.check()?;
        self.queue.check()?;
        let mut timers: BTreeSet<(Moment, LeaseIx)> = BTreeSet::new();
        let mut charges = 0;
        let mut queued = 0;
        for (ix, lease) in self.all_leases() {
            self.check_lease(ix, lease).map_err(|text| format!("{}: {text}", lease.request.id))?;
            charges += lease.spots.iter().flat_map(crate::ledger::Spots::all).filter(|(_, m)| !m.is_zero()).count();
            queued += usize::from(lease.line.is_some());
            match &lease.phase {
                Phase::Reserved { until } => timers.insert((*until, ix)),
                Phase::Revoking { notice, .. } => timers.insert((notice.deadline, ix)),
                _ => false,
            };
        }
        ensure(timers == self.timers, || "the timers are not those of the phases".to_owned())?;
        let in_phase = |is: fn(&Phase) -> bool| self.all_leases().filter(move |(_, l)| is(&l.phase)).map(|(ix, _)| ix);
        let stopping: BTreeSet<LeaseIx> = in_phase(|phase| matches!(phase, Phase::Stopping { .. })).collect();
        ensure(stopping == self.stopping, || "others are listed as stopping than those who are".to_owned())?;
        let active = in_phase(|phase| matches!(phase, Phase::Active { .. })).count();
        ensure(active == self.active, || format!("{active} are active, {} are counted", self.active))?;
        ensure(queued == self.queue.len(), || "the queue holds others than those who wait".to_owned())?;
        let on_pools: usize = self.ledger.pools().map(|(_, pool)| pool.charges.len()).sum();
        ensure(on_pools == charges, || format!("{on_pools} charges on pools, {charges} of leases"))?;
        self.check_pools()
    }

    fn check_lease(&self, ix: LeaseIx, lease: &Lease) -> Result<(), String> {
        ensure(self.find(&lease.request.id) == Ok(ix), || "is not found by its id".to_owned())?;
        ensure(lease.phase.is_charged() == lease.spots.is_some(), || "charged and without a place, or not".to_owned())?;
        let waits = matches!(lease.phase, Phase::Waiting);
        ensure(waits == (lease.line.is_some() || lease.claim.is_some()), || "waits nowhere".to_owned())?;
        ensure(lease.line.is_none() || lease.claim.is_none(), || "waits and holds a claim".to_owned())?;
        ensure(lease.claim.is_some() == self.claimants.contains(&ix), || "claims, or not".to_owned())?;
        let leaving = matches!(lease.phase, Phase::Revoking { .. } | Phase::Stopping { .. });
        for (pool, memory) in lease.spots.iter().flat_map(crate::ledger::Spots::all).filter(|(_, m)| !m.is_zero()) {
            let charge = self.ledger.pool(pool).charges.get(&ix);
            let same = charge.is_some_and(|c| (c.memory, c.class, c.leaving) == (memory, lease.request.class, leaving));
            ensure(same, || format!("is charged as {charge:?} for {memory}, leaving: {leaving}"))?;
        }
        for (pool, memory) in lease.claim.iter().flat_map(|claim| claim.spots.all()) {
            let claim = self.ledger.pool(pool).claims.get(&ix);
            ensure(claim.is_some_and(|c| c.memory == memory), || format!("claims {memory} and is noted {claim:?}"))?;
        }
        let is_head = lease.line.and_then(|line| self.queue.head_of(line)).is_some_and(|(_, head)| head == ix);
        ensure(lease.first_at.is_empty() || is_head, || "stands first and is not the first of its line".to_owned())?;
        let stands = |pool: &u32| self.ledger.pool(*pool).shadow.is_some_and(|first| first.lease == ix);
        ensure(lease.first_at.iter().all(stands), || "believes to stand first".to_owned())
    }

    fn check_pools(&self) -> Result<(), String> {
        for (ix, pool) in self.ledger.pools() {
            let name = || self.ledger.name_of(ix);
            let known = |lease: &LeaseIx| self.lease_at(*lease).is_some();
            ensure(pool.charges.keys().all(known), || format!("{} is charged to nobody", name()))?;
            let claims = |lease: &LeaseIx| self.lease_at(*lease).is_some_and(|l| l.claim.is_some());
            ensure(pool.claims.keys().all(claims), || format!("{} is claimed by nobody", name()))?;
            let stands =
                pool.shadow.is_none_or(|first| self.lease_at(first.lease).is_some_and(|l| l.first_at.contains(&ix)));
            ensure(stands, || format!("at {} stands one who does not know", name()))?;
        }
        Ok(())
    }

    /// Who stands first where (no GPU means the node's RAM), and for how much.
    #[doc(hidden)]
    #[must_use]
    pub fn firsts(&self) -> Vec<(NodeName, Option<GpuUuid>, LeaseId, Mib)> {
        let first = |(_, pool): (u32, &crate::pool::Pool)| {
            let (node, shadow) = (self.ledger.node(pool.node)?, pool.shadow?);
            let uuid = if let PoolKind::Gpu { uuid, .. } = &pool.kind { Some(uuid.clone()) } else { None };
            Some((node.name.clone(), uuid, self.id_of(shadow.lease), shadow.need))
        };
        self.ledger.pools().filter_map(first).collect()
    }
}

pub(crate) fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}
