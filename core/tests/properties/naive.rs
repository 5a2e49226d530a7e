//! The rules once more, written down as naively as possible over what an engine shows: every place is tried, every order of departures. It may not
//! use the engine's own searches.

use std::collections::BTreeMap;

use memboss_core::{Class, Engine, LeaseId, Mib, NodeFacts, OrderKey, Phase, Placement, Policy, Request};

/// A pool: its node, and the GPU unless it is the RAM.
pub type PoolName = (String, Option<String>);

#[derive(Clone, Debug, Default)]
pub struct NaivePool {
    pub size: u64,
    pub foreign: u64,
    pub closed: bool,
    pub charges: BTreeMap<LeaseId, (Class, u64, bool)>,
    pub claims: BTreeMap<LeaseId, (Class, u64, OrderKey)>,
    pub first: Option<(LeaseId, u64)>,
}

impl NaivePool {
    pub fn used(&self) -> u64 {
        self.foreign + self.charges.values().map(|(_, memory, _)| memory).sum::<u64>()
    }

    pub fn free(&self) -> u64 {
        self.size.saturating_sub(self.used())
    }

    /// What is claimed and out of reach: for its class, or because it would have to stand behind.
    pub fn claimed_from(&self, class: Class, place: OrderKey) -> u64 {
        let kept = self.claims.values().filter(|(other, _, theirs)| *other >= class || *theirs < place);
        kept.map(|(_, memory, _)| memory).sum()
    }

    pub fn leaving(&self) -> u64 {
        self.charges.values().filter(|(.., leaving)| *leaving).map(|(_, memory, _)| memory).sum()
    }

    /// Whether that newcomer could keep the first in line waiting: for some of the others staying, the first fits without it and not with it.
    pub fn delays_first(&self, newcomer: &LeaseId, memory: u64) -> bool {
        let Some((first, need)) = &self.first else { return false };
        let charges = self.charges.iter().map(|(lease, (_, memory, _))| (lease, *memory));
        let claims = self.claims.iter().map(|(lease, (_, memory, _))| (lease, *memory));
        let others = charges.chain(claims).filter(|(lease, _)| *lease != newcomer && *lease != first);
        let others: Vec<u64> = others.map(|(_, memory)| memory).collect();
        (0..1u32 << others.len()).any(|set| {
            let stay: u64 =
                others.iter().enumerate().filter(|(at, _)| set >> at & 1 == 1).map(|(_, memory)| memory).sum();
            let without = self.foreign + stay + need;
            without <= self.size && without + memory > self.size
        })
    }
}

/// Its place in the queue; leases are numbered in the order in which they came.
pub fn place_of(request: &Request) -> OrderKey {
    let arrival = request.id.as_str().trim_start_matches('l').parse().unwrap();
    OrderKey::new(&Policy::default(), request.class, request.enqueued, arrival)
}

/// All pools, from what the engine shows and what it was told.
pub fn pools(engine: &Engine, facts: &[NodeFacts]) -> BTreeMap<PoolName, NaivePool> {
    let mut pools: BTreeMap<PoolName, NaivePool> = BTreeMap::new();
    for view in engine.gpus() {
        let pool = NaivePool {
            size: view.leasable.mib(),
            foreign: view.foreign.mib(),
            closed: view.closed.is_some(),
            ..NaivePool::default()
        };
        pools.insert((view.node.to_string(), Some(view.uuid.to_string())), pool);
    }
    for node in facts {
        let pool = NaivePool { size: node.ram.mib(), closed: node.closed.is_some(), ..NaivePool::default() };
        pools.insert((node.name.to_string(), None), pool);
    }
    for lease in engine.leases() {
        let Some(placement) = lease.placement else { continue };
        let leaving = matches!(lease.phase, Phase::Revoking { .. } | Phase::Stopping { .. });
        for (name, memory) in parts(&placement) {
            let Some(pool) = pools.get_mut(&name) else { continue };
            if lease.phase.is_charged() {
                pool.charges.insert(lease.id.clone(), (lease.class, memory, leaving));
            } else {
                let place = place_of(&engine.request(&lease.id).unwrap());
                pool.claims.insert(lease.id.clone(), (lease.class, memory, place));
            }
        }
    }
    for (node, uuid, lease, need) in engine.firsts() {
        if let Some(pool) = pools.get_mut(&(node.to_string(), uuid.map(|u| u.to_string()))) {
            pool.first = Some((lease, need.mib()));
        }
    }
    pools
}

/// A placement pool by pool, without what is nothing.
pub fn parts(placement: &Placement) -> Vec<(PoolName, u64)> {
    let node = placement.node.to_string();
    let gpus = placement.gpus.iter().map(|s| ((node.clone(), Some(s.uuid.to_string())), s.memory.mib()));
    gpus.chain([((node.clone(), None), placement.ram.mib())]).filter(|(_, memory)| *memory > 0).collect()
}

/// Every way to put the request somewhere: each slot on a GPU of its own, all of one node.
pub fn ways(request: &Request, facts: &[NodeFacts]) -> Vec<Vec<(PoolName, u64)>> {
    let mut all = Vec::new();
    for node in facts.iter().filter(|node| request.nodes.accepts(&node.name)) {
        let ram = ((node.name.to_string(), None), request.demand.ram.mib());
        let mut ways: Vec<Vec<(PoolName, u64)>> = vec![vec![ram]];
        for slot in &request.demand.slots {
            let mut longer = Vec::new();
            for way in &ways {
                for gpu in node.gpus.iter().filter(|gpu| request.gpus.accepts(&gpu.uuid, &gpu.model)) {
                    let name = (node.name.to_string(), Some(gpu.uuid.to_string()));
                    if way.iter().all(|(used, _)| *used != name) {
                        longer.push([way.clone(), vec![(name, slot.on(gpu.leasable).mib())]].concat());
                    }
                }
            }
            ways = longer;
        }
        all.extend(ways);
    }
    all.into_iter().map(|way| way.into_iter().filter(|(_, memory)| *memory > 0).collect()).collect()
}

/// Whether the request fits there now without delaying whoever stands first and before it.
pub fn fits(
    pools: &BTreeMap<PoolName, NaivePool>,
    way: &[(PoolName, u64)],
    request: &Request,
    stands_before: &dyn Fn(&LeaseId) -> bool,
) -> bool {
    way.iter().all(|(name, memory)| {
        let pool = &pools[name];
        let kept = pool.first.as_ref().is_some_and(|(first, _)| *first != request.id && stands_before(first));
        !pool.closed
            && pool.free().saturating_sub(pool.claimed_from(request.class, place_of(request))) >= *memory
            && !(kept && pool.delays_first(&request.id, *memory))
    })
}

/// Whether the request could be granted if everything were empty, open and unused by others.
pub fn could_ever(request: &Request, facts: &[NodeFacts]) -> bool {
    let size = |name: &PoolName| -> Mib {
        let node = facts.iter().find(|node| node.name.as_str() == name.0).unwrap();
        match &name.1 {
            Some(uuid) => node.gpus.iter().find(|gpu| gpu.uuid.as_str() == uuid).unwrap().leasable,
            None => node.ram,
        }
    };
    ways(request, facts).iter().any(|way| way.iter().all(|(name, memory)| *memory <= size(name).mib()))
}
