//! Who gives way, when somebody has to. It may not ask them: it returns a plan, or says why there is none.
//!
//! A victim is of a strictly lower class than the preemptor, past its protection, within its preemption budget, and not already leaving.
//! Nobody is named unless the whole request then fits. Among candidates: lowest class, then whoever can shrink or offload, then the least work
//! lost, then the least memory in excess, then the youngest; whoever turns out not to be needed is dropped again. Among places: the same order.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::class::Class;
use crate::engine::Engine;
use crate::ledger::{Node, Spots};
use crate::place::{Asker, SEARCH_LIMIT, assign};
use crate::pool::{LeaseIx, Pool, PoolIx};
use crate::request::Request;
use crate::state::Phase;
use crate::units::{Mib, Moment, Span};

/// A place, and who has to leave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) spots: Spots,
    pub(crate) victims: Vec<LeaseIx>,
    /// What must become free on each slot of each victim, so that one that can shrink need not give all.
    pub(crate) needed: BTreeMap<LeaseIx, BTreeMap<PoolIx, Mib>>,
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

/// When a reservation without protection is worth another look.
const LOOK_AGAIN: Span = Span::from_secs(1);

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
    /// Protection is left aside: for whether it is all that stands in the way.
    unprotected: bool,
}

impl Engine {
    /// The cheapest plan by which that request gets room.
    pub(crate) fn plan_preemption(&self, request: &Request, asker: Asker, now: Moment) -> Result<Plan, NoPlan> {
        let plan = |search: &mut Search<'_>| {
            let plans = match request.demand.slots.as_slice() {
                [slot] => search.on_gpus(slot.fixed),
                _ => search.on_nodes(),
            };
            plans.into_iter().min_by(|a, b| a.cost.cmp(&b.cost))
        };
        self.search(request, asker, now, &plan)
    }

    /// The plan for exactly that place.
    pub(crate) fn plan_at(&self, request: &Request, asker: Asker, spots: &Spots, now: Moment) -> Result<Plan, NoPlan> {
        self.search(request, asker, now, &|search| search.complete(spots.clone()))
    }

    /// Searches, and where nothing is found, once more as if nobody were protected: only what that finds is worth waiting for.
    fn search(
        &self,
        request: &Request,
        asker: Asker,
        now: Moment,
        plan: &dyn Fn(&mut Search<'_>) -> Option<Plan>,
    ) -> Result<Plan, NoPlan> {
        let mut search = Search { engine: self, request, asker, now, protected_until: None, unprotected: false };
        if let Some(mut plan) = plan(&mut search) {
            plan.needed = search.needed(&plan);
            return Ok(plan);
        }
        let Some(until) = search.protected_until else { return Err(NoPlan::Nobody) };
        search.unprotected = true;
        Err(if plan(&mut search).is_some() { NoPlan::Protected(until) } else { NoPlan::Nobody })
    }
}

/// What is missing on a pool for the asker: it depends on how much its holders free there, and not on whom.
struct Gap<'a> {
    ix: PoolIx,
    pool: &'a Pool,
    need: Mib,
    /// What others have, once those who are leaving have left.
    spoken_for: Mib,
    /// What is free then, and what of that is the asker's.
    soon: Mib,
    open: Mib,
}

impl Gap<'_> {
    /// Where more is spoken for than there is, what becomes free pays that debt first.
    fn short(&self, freed: Mib) -> Mib {
        let then = self.pool.leasable.minus(self.spoken_for.minus(freed));
        self.need.minus(self.open.plus(then.minus(self.soon)))
    }

    /// By how much more is spoken for than there is.
    fn debt(&self, freed: Mib) -> Mib {
        self.spoken_for.minus(freed).minus(self.pool.leasable)
    }

    fn freed_by(&self, victims: &[LeaseIx]) -> Mib {
        victims.iter().map(|victim| self.pool.held_by(*victim)).sum()
    }
}

/// The dearest first: whoever is not needed stays.
fn drop_needless(gaps: &[Gap<'_>], victims: &mut Vec<LeaseIx>) {
    let mut freed: Vec<Mib> = gaps.iter().map(|gap| gap.freed_by(victims)).collect();
    for at in (0..victims.len()).rev() {
        let held = |gap: &Gap<'_>| gap.pool.held_by(victims[at]);
        if gaps.iter().zip(&freed).all(|(gap, freed)| gap.short(freed.minus(held(gap))).is_zero()) {
            freed = gaps.iter().zip(&freed).map(|(gap, freed)| freed.minus(held(gap))).collect();
            victims.remove(at);
        }
    }
}

impl<'a> Search<'a> {
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
        let open =
            ledger.nodes().filter(|(_, node)| node.closed.why().is_none() && self.request.nodes.accepts(&node.name));
        let candidates: Vec<_> = open.take(SEARCH_LIMIT).map(|(ix, node)| (ix, node.clone())).collect();
        candidates.into_iter().filter_map(|(ix, node)| self.on_node(ix, &node)).collect()
    }

    /// Each slot on the GPU where it costs least.
    fn on_node(&mut self, ix: u32, node: &Node) -> Option<Plan> {
        let slots = &self.request.demand.slots;
        let eligible: Vec<PoolIx> =
            node.gpus.values().copied().filter(|gpu| self.engine.ledger.accepts(self.request, *gpu)).collect();
        let mut choices: Vec<Vec<PoolIx>> = Vec::with_capacity(slots.len());
        for slot in slots {
            let priced = eligible.iter().filter_map(|gpu| {
                let need = slot.on(self.engine.ledger.pool(*gpu).leasable);
                let one = Spots { node: ix, gpus: vec![(*gpu, need)], ram: (node.ram, Mib::ZERO) };
                self.complete(one).map(|plan| (plan.cost, *gpu))
            });
            let mut priced: Vec<_> = priced.collect();
            priced.sort_unstable();
            choices.push(priced.into_iter().map(|(_, gpu)| gpu).collect());
        }
        let chosen = assign(slots, &choices)?;
        let on =
            |(gpu, slot): (&PoolIx, &crate::request::Slot)| (*gpu, slot.on(self.engine.ledger.pool(*gpu).leasable));
        let gpus: Vec<_> = chosen.iter().zip(slots).map(on).collect();
        self.complete(Spots { node: ix, gpus, ram: (node.ram, self.request.demand.ram) })
    }

    /// Who has to leave those spots; `None` if that does not free enough.
    fn complete(&mut self, spots: Spots) -> Option<Plan> {
        if spots.all().any(|(ix, _)| self.engine.ledger.closed(ix).is_some()) {
            return None;
        }
        let gaps = self.gaps(&spots);
        let mut victims: Vec<LeaseIx> = Vec::new();
        for gap in &gaps {
            if !gap.short(gap.freed_by(&victims)).is_zero() {
                self.choose(gap, &mut victims)?;
            }
        }
        drop_needless(&gaps, &mut victims);
        let cost = self.cost(&gaps, &victims);
        Some(Plan { spots, victims, needed: BTreeMap::new(), cost })
    }

    fn gaps(&self, spots: &Spots) -> Vec<Gap<'a>> {
        spots.all().map(|(ix, need)| self.gap(ix, need)).collect()
    }

    fn gap(&self, ix: PoolIx, need: Mib) -> Gap<'a> {
        let pool = self.engine.ledger.pool(ix);
        let spoken_for = pool.spoken_for(self.request.class, self.asker.order);
        let soon = pool.leasable.minus(spoken_for);
        // What is free anyway is the first in line's, if that one stands before the asker: the asker gets only what may stand beside it.
        let first = pool.first_before(self.asker.lease, self.asker.order);
        let open = first.map_or(soon, |first| soon.min(pool.beside_shadow(first.need, self.asker.lease)));
        Gap { ix, pool, need, spoken_for, soon, open }
    }

    fn choose(&mut self, gap: &Gap<'_>, victims: &mut Vec<LeaseIx>) -> Option<()> {
        let chosen: BTreeSet<LeaseIx> = victims.iter().copied().collect();
        let mut candidates: Vec<_> = self.candidates(gap.pool).into_iter().filter(|v| !chosen.contains(v)).collect();
        let mut freed = gap.freed_by(victims);
        let all = candidates.iter().fold(freed, |sum, lease| sum.plus(gap.pool.held_by(*lease)));
        // Before they are put in order: whoever asks in vain, again and again, shall cost little.
        if !gap.short(all).is_zero() {
            return None;
        }
        let short = gap.short(freed).plus(gap.debt(freed));
        candidates.sort_by_cached_key(|lease| self.price(*lease, gap.pool.held_by(*lease), short));
        for lease in candidates {
            if gap.short(freed).is_zero() {
                break;
            }
            freed = freed.plus(gap.pool.held_by(lease));
            victims.push(lease);
        }
        Some(())
    }

    fn needed(&self, plan: &Plan) -> BTreeMap<LeaseIx, BTreeMap<PoolIx, Mib>> {
        let mut needed: BTreeMap<LeaseIx, BTreeMap<PoolIx, Mib>> = BTreeMap::new();
        for gap in self.gaps(&plan.spots) {
            let short = gap.short(Mib::ZERO);
            let mut short = if short.is_zero() { short } else { short.plus(gap.debt(Mib::ZERO)) };
            for victim in &plan.victims {
                let from_it = gap.pool.held_by(*victim).min(short);
                short = short.minus(from_it);
                needed.entry(*victim).or_default().insert(gap.ix, from_it);
            }
        }
        needed
    }

    /// The leases on that pool that may be asked to go.
    fn candidates(&mut self, pool: &Pool) -> Vec<LeaseIx> {
        let lower: Vec<_> = pool
            .charges
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
        let protection = self.engine.policy.protection_for(lease.request.class, lease.request.protection);
        // Not started yet: nothing would be lost, but it would never start if it could be taken each time. It is looked at again as if it started now.
        let until = match lease.phase {
            Phase::Active { since } => since.after(protection),
            _ => self.now.after(protection.max(LOOK_AGAIN)),
        };
        if self.now < until {
            self.learn(until);
        }
        self.unprotected || self.now >= until
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

    fn cost(&self, gaps: &[Gap<'_>], victims: &[LeaseIx]) -> Cost {
        let leases: Vec<_> = victims.iter().filter_map(|v| self.engine.lease_at(*v)).collect();
        let highest_class = leases.iter().map(|l| l.request.class).max();
        let freed: Mib = gaps.iter().map(|gap| gap.freed_by(victims)).sum();
        let short: Mib = gaps.iter().map(|gap| gap.short(Mib::ZERO)).sum();
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
}
