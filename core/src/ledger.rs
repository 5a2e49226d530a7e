//! The pools of all nodes that an engine knows, and the indexes that keep a decision as quick with 10,000 GPUs as with one.
//! It may account and search; whether a lease is granted is decided in `decide.rs`.

use std::collections::{BTreeMap, BTreeSet};

use crate::check::ensure;
use crate::class::Class;
use crate::ids::{GpuModel, GpuUuid, NodeName};
use crate::order::OrderKey;
use crate::pool::{Claim, Closure, LeaseIx, NodeIx, Pool, PoolIx, PoolKind, Shadow};
use crate::refuse::{Closed, Refused};
use crate::request::{GpuShare, Placement, Request};
use crate::units::Mib;

/// What is known of a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuFacts {
    /// Its UUID.
    pub uuid: GpuUuid,
    /// Its model.
    pub model: GpuModel,
    /// What can be leased when nothing else uses it: total − driver-reserved − safety margin.
    pub leasable: Mib,
    /// What is in use that no lease explains.
    pub foreign: Mib,
    /// Why it takes nothing new, if so.
    pub closed: Option<Closed>,
}

/// What is known of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its name.
    pub name: NodeName,
    /// All its GPUs: one that is missing here is gone.
    pub gpus: Vec<GpuFacts>,
    /// Whether it may have GPUs that nobody could look at yet: then nothing is known to be too much for it.
    pub gpus_unread: bool,
    /// RAM that can be leased.
    pub ram: Mib,
    /// Why its RAM takes nothing new, if so.
    pub ram_closed: Option<Closed>,
    /// Why it takes nothing new, if so.
    pub closed: Option<Closed>,
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) name: NodeName,
    pub(crate) gpus: BTreeMap<GpuUuid, PoolIx>,
    pub(crate) gpus_unread: bool,
    pub(crate) ram: PoolIx,
    pub(crate) closed: Closure,
}

/// A placement in the engine's own terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spots {
    pub(crate) node: NodeIx,
    pub(crate) gpus: Vec<(PoolIx, Mib)>,
    pub(crate) ram: (PoolIx, Mib),
}

impl Spots {
    /// Every pool with its amount, the RAM only if some is asked.
    pub(crate) fn all(&self) -> impl Iterator<Item = (PoolIx, Mib)> + '_ {
        self.gpus.iter().copied().chain((!self.ram.1.is_zero()).then_some(self.ram))
    }
}

/// What a pool is filed under in the indexes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Filed {
    free: Mib,
    reach: [Mib; 5],
    shadow: Option<OrderKey>,
    listed: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    pools: Vec<Pool>,
    filed: Vec<Filed>,
    nodes: BTreeMap<NodeIx, Node>,
    by_name: BTreeMap<NodeName, NodeIx>,
    next_node: NodeIx,
    /// GPUs by what is free.
    by_free: BTreeSet<(Mib, PoolIx)>,
    /// GPUs by what a preemptor of each class could reach.
    by_reach: [BTreeSet<(Mib, PoolIx)>; 5],
    /// GPUs without a first in line, by what is free.
    unshadowed: BTreeSet<(Mib, PoolIx)>,
    /// GPUs by the order of their first in line.
    shadowed: BTreeSet<(OrderKey, PoolIx)>,
    /// Something became possible since the last decision.
    pub(crate) changed: bool,
    /// Counts the changes of what there is, so that whoever derived something from it knows when to look again.
    pub(crate) inventory: u64,
}

impl Ledger {
    pub(crate) fn pool(&self, ix: PoolIx) -> &Pool {
        &self.pools[ix as usize]
    }

    pub(crate) fn node(&self, ix: NodeIx) -> Option<&Node> {
        self.nodes.get(&ix)
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = (NodeIx, &Node)> {
        self.nodes.iter().map(|(ix, node)| (*ix, node))
    }

    pub(crate) fn node_ix(&self, name: &NodeName) -> Option<NodeIx> {
        self.by_name.get(name).copied()
    }

    /// A GPU, on whichever node it is.
    pub(crate) fn gpu_ix(&self, uuid: &GpuUuid) -> Result<PoolIx, Refused> {
        let found = self.nodes.values().find_map(|node| node.gpus.get(uuid).copied());
        let node = || self.nodes.values().next().map_or_else(NodeName::nowhere, |node| node.name.clone());
        found.ok_or_else(|| Refused::UnknownGpu { node: node(), gpu: uuid.clone() })
    }

    pub(crate) fn gpus_by_free(&self) -> &BTreeSet<(Mib, PoolIx)> {
        &self.by_free
    }

    pub(crate) fn gpus_by_reach(&self, class: Class) -> &BTreeSet<(Mib, PoolIx)> {
        &self.by_reach[class.rank()]
    }

    pub(crate) fn gpus_without_first(&self) -> &BTreeSet<(Mib, PoolIx)> {
        &self.unshadowed
    }

    pub(crate) fn gpus_by_first(&self) -> &BTreeSet<(OrderKey, PoolIx)> {
        &self.shadowed
    }

    /// Why that pool takes nothing new, if so.
    pub(crate) fn closed(&self, ix: PoolIx) -> Option<Closed> {
        let pool = self.pool(ix);
        pool.closed.why().or_else(|| self.nodes.get(&pool.node).and_then(|node| node.closed.why()))
    }

    /// Whether that request may go to that GPU at all.
    pub(crate) fn accepts(&self, request: &Request, ix: PoolIx) -> bool {
        let pool = self.pool(ix);
        let (Some(node), PoolKind::Gpu { uuid, model }) = (self.nodes.get(&pool.node), &pool.kind) else {
            return false;
        };
        request.gpus.accepts(uuid, model) && request.nodes.accepts(&node.name)
    }

    /// A pool as people would call it.
    pub(crate) fn name_of(&self, ix: PoolIx) -> String {
        let pool = self.pool(ix);
        let node = self.nodes.get(&pool.node).map_or("a lost node", |node| node.name.as_str());
        match &pool.kind {
            PoolKind::Gpu { uuid, .. } => format!("GPU {uuid} on {node}"),
            PoolKind::Ram => format!("the RAM of {node}"),
        }
    }

    /// Takes in what is known of a node; returns the GPUs that it had before and has no longer.
    pub(crate) fn set_node(&mut self, facts: &NodeFacts) -> Vec<PoolIx> {
        let node_ix = self.node_ix(&facts.name).unwrap_or_else(|| self.add_node(facts.name.clone()));
        let mut known = BTreeMap::new();
        if let Some(node) = self.nodes.get_mut(&node_ix) {
            let closed = node.closed.by_facts(facts.closed);
            if node.closed != closed {
                node.closed = closed;
                self.changed = true;
            }
            if node.gpus_unread != facts.gpus_unread {
                node.gpus_unread = facts.gpus_unread;
                self.inventory += 1;
                self.changed = true;
            }
            known = node.gpus.clone();
        }
        let mut present = BTreeSet::new();
        for gpu in &facts.gpus {
            let ix = known.get(&gpu.uuid).copied().unwrap_or_else(|| self.add_gpu(node_ix, gpu));
            present.insert(ix);
            self.set_pool(ix, gpu.leasable, gpu.foreign, gpu.closed);
        }
        if let Some(ram) = self.nodes.get(&node_ix).map(|node| node.ram) {
            self.set_pool(ram, facts.ram, Mib::ZERO, facts.ram_closed);
        }
        for ix in known.values() {
            self.refile(*ix);
        }
        let gone: Vec<_> = known.values().copied().filter(|ix| !present.contains(ix)).collect();
        for ix in &gone {
            self.set_pool(*ix, self.pool(*ix).leasable, self.pool(*ix).foreign, Some(Closed::Lost));
        }
        gone
    }

    pub(crate) fn remove_node(&mut self, name: &NodeName) -> Option<Node> {
        let ix = self.by_name.remove(name)?;
        let node = self.nodes.remove(&ix)?;
        self.inventory += 1;
        self.changed = true;
        for pool in node.gpus.values().chain([&node.ram]) {
            let pool_closed = &mut self.pools[*pool as usize].closed;
            *pool_closed = pool_closed.by_facts(Some(Closed::Lost));
            self.refile(*pool);
        }
        Some(node)
    }

    fn add_node(&mut self, name: NodeName) -> NodeIx {
        let ix = self.next_node;
        self.next_node += 1;
        let ram = self.add_pool(Pool::new(ix, PoolKind::Ram));
        self.by_name.insert(name.clone(), ix);
        self.nodes
            .insert(ix, Node { name, gpus: BTreeMap::new(), gpus_unread: false, ram, closed: Closure::default() });
        ix
    }

    fn add_gpu(&mut self, node: NodeIx, gpu: &GpuFacts) -> PoolIx {
        let kind = PoolKind::Gpu { uuid: gpu.uuid.clone(), model: gpu.model.clone() };
        let ix = self.add_pool(Pool::new(node, kind));
        if let Some(node) = self.nodes.get_mut(&node) {
            node.gpus.insert(gpu.uuid.clone(), ix);
        }
        ix
    }

    fn add_pool(&mut self, pool: Pool) -> PoolIx {
        let ix = PoolIx::try_from(self.pools.len()).unwrap_or(PoolIx::MAX);
        self.pools.push(pool);
        self.filed.push(Filed::default());
        ix
    }

    fn set_pool(&mut self, ix: PoolIx, leasable: Mib, foreign: Mib, closed: Option<Closed>) {
        let pool = &mut self.pools[ix as usize];
        let closed = pool.closed.by_facts(closed);
        if (pool.leasable, pool.foreign, pool.closed) != (leasable, foreign, closed) {
            self.inventory += u64::from(pool.leasable != leasable || pool.closed != closed);
            (pool.leasable, pool.foreign, pool.closed) = (leasable, foreign, closed);
            self.changed = true;
        }
        self.refile(ix);
    }

    pub(crate) fn close_node(&mut self, ix: NodeIx, why: Option<Closed>) {
        if let Some(node) = self.nodes.get_mut(&ix) {
            node.closed = node.closed.by_hand(why);
            let pools: Vec<_> = node.gpus.values().copied().collect();
            pools.into_iter().for_each(|pool| self.refile(pool));
            self.changed = true;
        }
    }

    pub(crate) fn close_gpu(&mut self, ix: PoolIx, why: Option<Closed>) {
        let pool = &mut self.pools[ix as usize];
        pool.closed = pool.closed.by_hand(why);
        self.inventory += 1;
        self.changed = true;
        self.refile(ix);
    }

    pub(crate) fn charge(&mut self, lease: LeaseIx, class: Class, spots: &Spots) {
        for (pool, memory) in spots.all() {
            self.pools[pool as usize].charge(lease, class, memory);
            self.refile(pool);
            // A weaker claim may not come any more.
            self.changed |= !self.pool(pool).claims.is_empty();
        }
    }

    pub(crate) fn discharge(&mut self, lease: LeaseIx, spots: &Spots) {
        for (pool, _) in spots.all() {
            self.pools[pool as usize].discharge(lease);
            self.refile(pool);
        }
        self.changed = true;
    }

    pub(crate) fn set_leaving(&mut self, lease: LeaseIx, spots: &Spots, leaving: bool) {
        for (pool, _) in spots.all() {
            if let Some(charge) = self.pools[pool as usize].charges.get_mut(&lease) {
                charge.leaving = leaving;
            }
            self.refile(pool);
        }
        self.changed = true;
    }

    pub(crate) fn claim(&mut self, lease: LeaseIx, class: Class, order: OrderKey, spots: &Spots) {
        for (pool, memory) in spots.all() {
            self.changed |= !self.pool(pool).claims.is_empty();
            self.pools[pool as usize].claims.insert(lease, Claim { class, order, memory });
            self.refile(pool);
        }
    }

    pub(crate) fn unclaim(&mut self, lease: LeaseIx, spots: &Spots) {
        for (pool, _) in spots.all() {
            self.pools[pool as usize].claims.remove(&lease);
            self.refile(pool);
        }
        self.changed = true;
    }

    pub(crate) fn set_first(&mut self, ix: PoolIx, shadow: Option<Shadow>) -> Option<Shadow> {
        let before = std::mem::replace(&mut self.pools[ix as usize].shadow, shadow);
        self.refile(ix);
        before
    }

    /// Brings the indexes up to date with one pool.
    fn refile(&mut self, ix: PoolIx) {
        let old = self.filed[ix as usize];
        let new = self.filing(ix);
        if old == new {
            return;
        }
        if old.listed {
            self.by_free.remove(&(old.free, ix));
            for (index, reach) in self.by_reach.iter_mut().zip(old.reach) {
                index.remove(&(reach, ix));
            }
            match old.shadow {
                Some(order) => self.shadowed.remove(&(order, ix)),
                None => self.unshadowed.remove(&(old.free, ix)),
            };
        }
        if new.listed {
            self.by_free.insert((new.free, ix));
            for (index, reach) in self.by_reach.iter_mut().zip(new.reach) {
                index.insert((reach, ix));
            }
            match new.shadow {
                Some(order) => self.shadowed.insert((order, ix)),
                None => self.unshadowed.insert((new.free, ix)),
            };
        }
        self.filed[ix as usize] = new;
    }

    fn filing(&self, ix: PoolIx) -> Filed {
        let pool = self.pool(ix);
        let listed = matches!(pool.kind, PoolKind::Gpu { .. })
            && self.closed(ix).is_none()
            && self.nodes.contains_key(&pool.node);
        Filed {
            free: pool.free(),
            reach: Class::ALL.map(|class| pool.reach(class)),
            shadow: pool.shadow.map(|s| s.order),
            listed,
        }
    }

    /// A placement in the engine's own terms.
    ///
    /// # Errors
    /// When it names what is not there, or does not match the demand.
    pub(crate) fn spots(&self, placement: &Placement, slots: usize) -> Result<Spots, Refused> {
        let node_ix = self.node_ix(&placement.node).ok_or_else(|| Refused::UnknownNode(placement.node.clone()))?;
        let node = self.node(node_ix).ok_or_else(|| Refused::UnknownNode(placement.node.clone()))?;
        let mut seen = BTreeSet::new();
        let mut gpus = Vec::with_capacity(placement.gpus.len());
        for share in &placement.gpus {
            let pool = node
                .gpus
                .get(&share.uuid)
                .ok_or_else(|| Refused::UnknownGpu { node: placement.node.clone(), gpu: share.uuid.clone() })?;
            seen.insert(*pool);
            gpus.push((*pool, share.memory));
        }
        if gpus.len() != slots || seen.len() != slots {
            return Err(Refused::MisfitPlacement { slots });
        }
        Ok(Spots { node: node_ix, gpus, ram: (node.ram, placement.ram) })
    }

    /// The placement that those spots are.
    pub(crate) fn placement(&self, spots: &Spots) -> Option<Placement> {
        let node = self.node(spots.node)?.name.clone();
        let gpus = spots.gpus.iter().filter_map(|(ix, memory)| match &self.pool(*ix).kind {
            PoolKind::Gpu { uuid, .. } => Some(GpuShare { uuid: uuid.clone(), memory: *memory }),
            PoolKind::Ram => None,
        });
        Some(Placement { node, gpus: gpus.collect(), ram: spots.ram.1 })
    }

    pub(crate) fn pools(&self) -> impl Iterator<Item = (PoolIx, &Pool)> {
        self.pools.iter().enumerate().filter_map(|(ix, pool)| Some((PoolIx::try_from(ix).ok()?, pool)))
    }

    /// Compares the totals and indexes with what they are derived from.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut listed = 0;
        for (ix, pool) in self.pools() {
            let sum: Mib = pool.charges.values().map(|charge| charge.memory).sum();
            ensure(sum == pool.charged, || format!("{}: {sum} is not {}", self.name_of(ix), pool.charged))?;
            let filed = self.filing(ix);
            ensure(filed == self.filed[ix as usize], || format!("{} is filed under what was", self.name_of(ix)))?;
            if !filed.listed {
                continue;
            }
            listed += 1;
            let reached = self.by_reach.iter().zip(filed.reach).all(|(index, reach)| index.contains(&(reach, ix)));
            let stands = match filed.shadow {
                Some(order) => self.shadowed.contains(&(order, ix)),
                None => self.unshadowed.contains(&(filed.free, ix)),
            };
            let found = self.by_free.contains(&(filed.free, ix)) && reached && stands;
            ensure(found, || format!("{} is not in its index", self.name_of(ix)))?;
        }
        let sizes = self
            .by_reach
            .iter()
            .map(BTreeSet::len)
            .chain([self.by_free.len(), self.shadowed.len() + self.unshadowed.len()]);
        ensure(sizes.into_iter().all(|size| size == listed), || "an index holds what is not there".to_owned())
    }
}
