//! Who gives way, when somebody has to. It may not ask them: it returns a plan, or says why there is none.
//!
//! A victim is of a strictly lower class than the preemptor, past its protection, within its preemption budget, and not already leaving.
//! Nobody is named unless the whole request then fits. Among candidates: lowest class, then whoever can shrink or offload, then the least work
//! lost, then the least memory in excess, then the youngest; whoever turns out not to be needed is dropped again. Among places: the same order.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::class::Class;
use crate::engine::Engine;
use crate::ledger::{Node, Spots};
use crate::place::{Asker, SEARCH_LIMIT, largest_first};
use crate::pool::{LeaseIx, PoolIx};
use crate::request::Request;
use crate::state::Phase;
use crate::units::{Mib, Moment, Span};

/// A place, and who has to leave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) spots: Spots,
    pub(crate) victims: Vec<LeaseIx>,
    cost: Cost,
}

/// What a plan costs others; the smaller, the better.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    highest_class: Option<Class>,
    of_that_class: usize,
    rigid: usize,
    lost: Span,
    excess: Mib,
}

/// Why there is no plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPlan {
    /// Lower classes do not hold enough.
    Nobody,
    /// They do, but some are protected until then.
    Protected(Moment),
}

/// A search in progress: which leases are protected and until when is learnt on the way.
struct Search<'a> {
    engine: &'a Engine,
    request: &'a Request,
    asker: Asker,
    now: Moment,
    protected_until: Option<Moment>,
}

impl Engine {
    /// The cheapest plan by which that request gets room.
    pub(crate) fn plan_preemption(&self, request: &Request, asker: Asker, now: Moment) -> Result<Plan, NoPlan> {
        let mut search = Search { engine: self, request, asker, now, protected_until: None };
        let plans = match request.demand.slots.as_slice() {
            [slot] => search.on_gpus(slot.fixed),
            _ => search.on_nodes(),
        };
        match plans.into_iter().min_by(|a, b| a.cost.cmp(&b.cost)) {
            Some(plan) => Ok(plan),
            None => Err(search.protected_until.map_or(NoPlan::Nobody, NoPlan::Protected)),
        }
    }

    /// The plan for exactly that place.
    pub(crate) fn plan_at(&self, request: &Request, asker: Asker, spots: &Spots, now: Moment) -> Result<Plan, NoPlan> {
        let mut search = Search { engine: self, request, asker, now, protected_until: None };
        search.complete(spots.clone()).ok_or(search.protected_until.map_or(NoPlan::Nobody, NoPlan::Protected))
    }
}

impl Search<'_> {
    fn on_gpus(&mut self, least: Mib) -> Vec<Plan> {
        let ledger = &self.engine.ledger;
        let reachable = ledger.gpus_by_reach(self.request.class).range((least, 0)..).rev();
        let candidates: Vec<_> =
            reachable.map(|(_, ix)| *ix).filter(|ix| ledger.accepts(self.request, *ix)).take(SEARCH_LIMIT).collect();
        candidates.into_iter().filter_map(|ix| self.on_gpu(ix)).collect()
    }

    fn on_gpu(&mut self, ix: PoolIx) -> Option<Plan> {
        let pool = self.engine.ledger.pool(ix);
        let node = self.engine.ledger.node(pool.node)?;
        let need = self.request.demand.slots.first()?.on(pool.leasable);
        self.complete(Spots { node: pool.node, gpus: vec![(ix, need)], ram: (node.ram, self.request.demand.ram) })
    }

    fn on_nodes(&mut self) -> Vec<Plan> {
        let ledger = &self.engine.ledger;
        let open = ledger.nodes().filter(|(_, node)| node.closed.is_none() && self.request.nodes.accepts(&node.name));
        let candidates: Vec<_> = open.take(SEARCH_LIMIT).map(|(ix, node)| (ix, node.clone())).collect();
        candidates.into_iter().filter_map(|(ix, node)| self.on_node(ix, &node)).collect()
    }

    /// The largest slot first, each on the GPU where it costs least.
    fn on_node(&mut self, ix: u32, node: &Node) -> Option<Plan> {
        let slots = &self.request.demand.slots;
        let mut gpus: Vec<Option<(PoolIx, Mib)>> = vec![None; slots.len()];
        let mut unused: Vec<PoolIx> =
            node.gpus.values().copied().filter(|gpu| self.engine.ledger.accepts(self.request, *gpu)).collect();
        for at in largest_first(slots) {
            let priced = unused.iter().filter_map(|gpu| {
                let need = slots[at].on(self.engine.ledger.pool(*gpu).leasable);
                let one = Spots { node: ix, gpus: vec![(*gpu, need)], ram: (node.ram, Mib::ZERO) };
                self.complete(one).map(|plan| (plan.cost, *gpu, need))
            });
            let priced: Vec<_> = priced.collect();
            let (_, gpu, need) = priced.into_iter().min()?;
            unused.retain(|other| *other != gpu);
            gpus[at] = Some((gpu, need));
        }
        self.complete(Spots {
            node: ix,
            gpus: gpus.into_iter().flatten().collect(),
            ram: (node.ram, self.request.demand.ram),
        })
    }

    /// Who has to leave those spots; `None` if that does not free enough.
    fn complete(&mut self, spots: Spots) -> Option<Plan> {
        let mut victims: Vec<LeaseIx> = Vec::new();
        for (ix, need) in spots.all() {
            if self.engine.ledger.closed(ix).is_some() {
                return None;
            }
            let short = self.shortage(ix, need, &victims);
            if !short.is_zero() {
                self.choose(ix, short, &mut victims)?;
            }
        }
        self.drop_needless(&spots, &mut victims);
        let cost = self.cost(&spots, &victims);
        Some(Plan { spots, victims, cost })
    }

    /// What is missing on that pool when those victims have gone.
    fn shortage(&self, ix: PoolIx, need: Mib, victims: &[LeaseIx]) -> Mib {
        let pool = self.engine.ledger.pool(ix);
        let soon = pool.soon_free_for(self.request.class);
        // What is free already is the first in line's, if that one stands before the asker.
        let there = match pool.shadow {
            Some(first) if first.lease != self.asker.lease && first.order < self.asker.order => {
                soon.min(pool.beside_shadow(first.need))
            }
            _ => soon,
        };
        let freed = victims.iter().filter_map(|v| pool.charges.get(v)).map(|c| c.memory).sum();
        need.minus(there.plus(freed))
    }

    fn choose(&mut self, ix: PoolIx, mut short: Mib, victims: &mut Vec<LeaseIx>) -> Option<()> {
        let mut candidates: Vec<_> = self.candidates(ix).into_iter().filter(|v| !victims.contains(v)).collect();
        let pool = self.engine.ledger.pool(ix);
        let held = |lease: &LeaseIx| pool.charges.get(lease).map(|c| c.memory).unwrap_or_default();
        candidates.sort_by_cached_key(|lease| self.price(*lease, held(lease), short));
        for lease in candidates {
            if short.is_zero() {
                break;
            }
            short = short.minus(held(&lease));
            victims.push(lease);
        }
        short.is_zero().then_some(())
    }

    /// The leases on that pool that may be asked to go.
    fn candidates(&mut self, ix: PoolIx) -> Vec<LeaseIx> {
        let engine = self.engine;
        let charges = &engine.ledger.pool(ix).charges;
        let lower: Vec<_> = charges
            .iter()
            .filter(|(_, c)| c.class < self.request.class && !c.leaving)
            .map(|(lease, _)| *lease)
            .collect();
        lower.into_iter().filter(|lease| self.is_open_to_preemption(*lease)).collect()
    }

    fn is_open_to_preemption(&mut self, ix: LeaseIx) -> bool {
        let Some(lease) = self.engine.lease_at(ix) else { return false };
        if lease.request.preempted >= self.engine.policy.preemption_budget {
            return false;
        }
        let Phase::Active { since } = lease.phase else {
            // Not started yet: nothing would be lost, but it would never start if it could be taken each time; it is protected like one that just did.
            let until =
                self.now.after(self.engine.policy.protection_for(lease.request.class, lease.request.protection));
            self.learn(until);
            return false;
        };
        let until = since.after(self.engine.policy.protection_for(lease.request.class, lease.request.protection));
        if self.now < until {
            self.learn(until);
        }
        self.now >= until
    }

    fn learn(&mut self, until: Moment) {
        self.protected_until = Some(self.protected_until.map_or(until, |known| known.min(until)));
    }

    fn price(&self, ix: LeaseIx, held: Mib, short: Mib) -> (Option<Class>, bool, Span, Mib, Reverse<Moment>) {
        let Some(lease) = self.engine.lease_at(ix) else {
            return (None, false, Span::ZERO, Mib::ZERO, Reverse(self.now));
        };
        let since = lease.active_since().unwrap_or(self.now);
        // Work is compared by the minute: below that, the fit counts more.
        let lost = Span::from_millis(self.now.since(since).millis() / 60_000);
        (Some(lease.request.class), !lease.request.flexibility.any(), lost, held.minus(short), Reverse(since))
    }

    /// The dearest first: whoever is not needed stays.
    fn drop_needless(&self, spots: &Spots, victims: &mut Vec<LeaseIx>) {
        for at in (0..victims.len()).rev() {
            let mut without = victims.clone();
            without.remove(at);
            if spots.all().all(|(ix, need)| self.shortage(ix, need, &without).is_zero()) {
                *victims = without;
            }
        }
    }

    fn cost(&self, spots: &Spots, victims: &[LeaseIx]) -> Cost {
        let leases: Vec<_> = victims.iter().filter_map(|v| self.engine.lease_at(*v)).collect();
        let highest_class = leases.iter().map(|l| l.request.class).max();
        let freed: Mib = spots
            .all()
            .flat_map(|(ix, _)| victims.iter().filter_map(move |v| self.engine.ledger.pool(ix).charges.get(v)))
            .map(|c| c.memory)
            .sum();
        let short: Mib = spots.all().map(|(ix, need)| self.shortage(ix, need, &[])).sum();
        Cost {
            highest_class,
            of_that_class: leases.iter().filter(|l| Some(l.request.class) == highest_class).count(),
            rigid: leases.iter().filter(|l| !l.request.flexibility.any()).count(),
            lost: Span::from_millis(
                leases.iter().filter_map(|l| l.active_since()).map(|s| self.now.since(s).millis() / 60_000).sum(),
            ),
            excess: freed.minus(short),
        }
    }

    // Kept beside `cost`: what each victim is asked for is what its preemptor is short of, no more.
}

impl Engine {
    /// What must become free on each slot of each victim, so that one that can shrink need not give all.
    pub(crate) fn needed_from(&self, plan: &Plan, class: Class) -> BTreeMap<LeaseIx, BTreeMap<PoolIx, Mib>> {
        let mut needed: BTreeMap<LeaseIx, BTreeMap<PoolIx, Mib>> = BTreeMap::new();
        for (ix, need) in plan.spots.all() {
            let pool = self.ledger.pool(ix);
            let mut short = need.minus(pool.soon_free_for(class));
            for victim in &plan.victims {
                let held = pool.charges.get(victim).map(|c| c.memory).unwrap_or_default();
                let from_it = held.min(short);
                short = short.minus(from_it);
                needed.entry(*victim).or_default().insert(ix, from_it);
            }
        }
        needed
    }
}
