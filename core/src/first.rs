//! Who stands first in line where: the waiter that nobody behind it may delay, at one GPU for each of its slots (and at the RAM, unless an
//! earlier one stands there). It may not grant anything; `decide.rs` says who may stand first.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::engine::Engine;
use crate::ledger::{Ledger, Node};
use crate::place::{Asker, SEARCH_LIMIT, assign};
use crate::pool::{LeaseIx, NodeIx, PoolIx, Shadow};
use crate::request::{Request, Slot};
use crate::units::Mib;

impl Engine {
    /// Makes the asker the first in line where the most is free and no earlier one stands. It stays where it stands while that can serve it.
    pub(crate) fn stand_first(&mut self, asker: Asker) {
        let Some(lease) = self.lease_at(asker.lease) else { return };
        let (request, standing) = (lease.request.clone(), lease.first_at.clone());
        if !standing.is_empty() {
            if self.ledger.can_stay_first(&request, asker, &standing) {
                return;
            }
            self.stand_no_more(asker.lease);
        }
        for (pool, need) in self.ledger.first_places(&request, asker) {
            let shadow = Shadow { lease: asker.lease, order: asker.order, need };
            if let Some(later) = self.ledger.pool(pool).shadow {
                self.stand_no_more(later.lease);
            }
            self.ledger.set_first(pool, Some(shadow));
            if let Some(lease) = self.lease_at_mut(asker.lease) {
                lease.first_at.push(pool);
            }
        }
    }

    /// First in line nowhere from now on. Everybody is looked at again: what was kept for it is free for others, and it may find another place.
    pub(crate) fn stand_no_more(&mut self, ix: LeaseIx) {
        let Some(lease) = self.lease_at_mut(ix) else { return };
        for pool in std::mem::take(&mut lease.first_at) {
            self.ledger.set_first(pool, None);
            self.ledger.changed = true;
        }
    }
}

impl Ledger {
    /// Whether all of that pool that leases can ever have would do, and no earlier one stands there.
    fn could_stand_first(&self, asker: Asker, ix: PoolIx, need: Mib) -> bool {
        let pool = self.pool(ix);
        let taken = pool.shadow.is_some_and(|first| first.lease != asker.lease && first.order < asker.order);
        !taken && self.closed(ix).is_none() && self.could_ever_give(ix, need)
    }

    /// Whether that pool has so much when nobody leases any of it.
    fn could_ever_give(&self, ix: PoolIx, need: Mib) -> bool {
        let pool = self.pool(ix);
        need <= pool.leasable.minus(pool.foreign)
    }

    fn can_stay_first(&self, request: &Request, asker: Asker, standing: &[PoolIx]) -> bool {
        let slots = &request.demand.slots;
        let stays = |ix: PoolIx, need: Mib| {
            self.could_stand_first(asker, ix, need)
                && self.pool(ix).shadow.is_some_and(|first| first.lease == asker.lease && first.need == need)
        };
        let on_gpus = standing.len() >= slots.len()
            && standing
                .iter()
                .zip(slots)
                .all(|(ix, slot)| self.accepts(request, *ix) && stays(*ix, slot.on(self.pool(*ix).leasable)));
        let Some(ram) = standing.first().and_then(|ix| self.node(self.pool(*ix).node)).map(|node| node.ram) else {
            return false;
        };
        // It may stand at its GPUs alone, where an earlier one stands at the RAM: also then the RAM must be able to serve it some day.
        if !self.could_ever_give(ram, request.demand.ram) {
            return false;
        }
        let at_ram = standing.get(slots.len()).copied();
        let ram_stays = at_ram.is_some_and(|ix| stays(ix, request.demand.ram));
        let ram_wanted = self.wants_ram(request, asker, ram);
        on_gpus && if at_ram.is_some() { ram_stays } else { !ram_wanted }
    }

    fn wants_ram(&self, request: &Request, asker: Asker, ram: PoolIx) -> bool {
        !request.demand.ram.is_zero() && self.could_stand_first(asker, ram, request.demand.ram)
    }

    /// A GPU for each slot, in slot order, and after them the RAM if no earlier one stands there; nothing if no node has all of them left.
    fn first_places(&self, request: &Request, asker: Asker) -> Vec<(PoolIx, Mib)> {
        if request.demand.slots.is_empty() {
            return self.first_at_ram(request, asker);
        }
        let without = self.gpus_without_first().iter().rev().take(SEARCH_LIMIT).map(|(_, ix)| *ix);
        let later = self.gpus_by_first().iter().rev().take_while(|(order, _)| *order > asker.order);
        let mut tried: BTreeSet<NodeIx> = BTreeSet::new();
        let nodes = without.chain(later.take(SEARCH_LIMIT).map(|(_, ix)| *ix)).map(|ix| self.pool(ix).node);
        nodes
            .filter(|node| tried.insert(*node))
            .find_map(|node| self.first_on_node(request, asker, self.node(node)?))
            .unwrap_or_default()
    }

    fn first_on_node(&self, request: &Request, asker: Asker, node: &Node) -> Option<Vec<(PoolIx, Mib)>> {
        let slots = &request.demand.slots;
        if !self.could_ever_give(node.ram, request.demand.ram) {
            return None;
        }
        let mut eligible: Vec<_> = node.gpus.values().copied().filter(|ix| self.accepts(request, *ix)).collect();
        eligible.sort_by_key(|ix| (self.pool(*ix).shadow.is_some(), Reverse(self.pool(*ix).free()), Reverse(*ix)));
        let choices = |slot: &Slot| -> Vec<PoolIx> {
            let need = |ix: PoolIx| slot.on(self.pool(ix).leasable);
            eligible.iter().copied().filter(|ix| self.could_stand_first(asker, *ix, need(*ix))).collect()
        };
        let chosen = assign(slots, &slots.iter().map(choices).collect::<Vec<_>>())?;
        let on = |(ix, slot): (&PoolIx, &Slot)| (*ix, slot.on(self.pool(*ix).leasable));
        let mut places: Vec<_> = chosen.iter().zip(slots).map(on).collect();
        if self.wants_ram(request, asker, node.ram) {
            places.push((node.ram, request.demand.ram));
        }
        Some(places)
    }

    fn first_at_ram(&self, request: &Request, asker: Asker) -> Vec<(PoolIx, Mib)> {
        let need = request.demand.ram;
        let nodes = self.nodes().filter(|(_, node)| request.nodes.accepts(&node.name)).map(|(_, node)| node.ram);
        let open = nodes.filter(|ram| self.could_stand_first(asker, *ram, need));
        let emptiest = open.min_by_key(|ram| (self.pool(*ram).shadow.is_some(), Reverse(self.pool(*ram).free()), *ram));
        emptiest.map(|ram| (ram, need)).into_iter().collect()
    }
}
