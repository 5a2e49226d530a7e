//! Where a request fits now: one GPU or several of one node, and RAM, all at once or not at all. It may not ask anybody to go (`victims.rs` does).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::ledger::{Ledger, Node, Spots};
use crate::order::OrderKey;
use crate::pool::{LeaseIx, NodeIx, PoolIx};
use crate::refuse::Refused;
use crate::request::{Layout, Request, Slot};
use crate::units::Mib;

/// How many GPUs or nodes are looked at before a search is given up as crowded.
pub(crate) const SEARCH_LIMIT: usize = 256;

/// Who asks: its place in the table and in the order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    pub(crate) lease: LeaseIx,
    pub(crate) order: OrderKey,
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// Not enough is free.
    NoRoom,
    /// It is, but it is kept for that lease.
    KeptFor(LeaseIx, PoolIx),
}

/// Whether a request could be granted with what is there, if nobody had any of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fits {
    /// It could.
    Yes,
    /// Only by a node of whose GPUs nothing is known yet.
    Perhaps,
    /// Never.
    No,
}

impl Ledger {
    /// The best place where all of the request fits now.
    pub(crate) fn find_room(&self, request: &Request, asker: Asker) -> Result<Spots, Full> {
        match request.demand.slots.as_slice() {
            [slot] => self.find_gpu(request, *slot, asker),
            _ => self.find_node(request, asker),
        }
    }

    /// One slot: straight from the index of what is free. Packing takes the fullest GPU that has room, spreading the emptiest.
    fn find_gpu(&self, request: &Request, slot: Slot, asker: Asker) -> Result<Spots, Full> {
        let mut full = Full::NoRoom;
        let mut look = |ix: PoolIx| -> Option<Spots> {
            if !self.accepts(request, ix) {
                return None;
            }
            let pool = self.pool(ix);
            let node = self.node(pool.node)?;
            let need = slot.on(pool.leasable);
            let fit = self
                .fits(request, asker, ix, need)
                .and_then(|()| self.fits(request, asker, node.ram, request.demand.ram));
            match fit {
                Ok(()) => Some(Spots { node: pool.node, gpus: vec![(ix, need)], ram: (node.ram, request.demand.ram) }),
                Err(kept @ Full::KeptFor(..)) => {
                    full = kept;
                    None
                }
                Err(Full::NoRoom) => None,
            }
        };
        let candidates = self.gpus_by_free().range((slot.fixed, 0)..);
        let found = match request.layout {
            Layout::Pack => candidates.map(|(_, ix)| *ix).find_map(&mut look),
            Layout::Spread => candidates.rev().map(|(_, ix)| *ix).find_map(&mut look),
        };
        found.ok_or(full)
    }

    /// Several slots, or RAM alone: node by node, the fullest (or emptiest) that has room for all.
    fn find_node(&self, request: &Request, asker: Asker) -> Result<Spots, Full> {
        let mut full = Full::NoRoom;
        let mut best: Option<(Mib, Spots)> = None;
        for (ix, node) in
            self.nodes().filter(|(_, node)| request.nodes.accepts(&node.name) && node.closed.why().is_none())
        {
            match self.fit_on_node(request, asker, ix, node) {
                Ok(spots) => {
                    let left = node
                        .gpus
                        .values()
                        .map(|gpu| self.pool(*gpu).free())
                        .sum::<Mib>()
                        .plus(self.pool(node.ram).free());
                    let better = best.as_ref().is_none_or(|(least, _)| match request.layout {
                        Layout::Pack => left < *least,
                        Layout::Spread => left > *least,
                    });
                    if better {
                        best = Some((left, spots));
                    }
                }
                Err(kept @ Full::KeptFor(..)) => full = kept,
                Err(Full::NoRoom) => {}
            }
        }
        best.map(|(_, spots)| spots).ok_or(full)
    }

    /// The largest slot first, each on the GPU where the least (or most) stays free.
    fn fit_on_node(&self, request: &Request, asker: Asker, ix: NodeIx, node: &Node) -> Result<Spots, Full> {
        self.fits(request, asker, node.ram, request.demand.ram)?;
        let mut full = Full::NoRoom;
        let choices: Vec<_> =
            request.demand.slots.iter().map(|slot| self.choices(request, *slot, asker, node, &mut full)).collect();
        let Some(chosen) = assign(&request.demand.slots, &choices) else { return Err(full) };
        let gpus =
            chosen.iter().zip(&request.demand.slots).map(|(gpu, slot)| (*gpu, slot.on(self.pool(*gpu).leasable)));
        Ok(Spots { node: ix, gpus: gpus.collect(), ram: (node.ram, request.demand.ram) })
    }

    /// The GPUs of that node where that slot fits now, the best first.
    fn choices(&self, request: &Request, slot: Slot, asker: Asker, node: &Node, full: &mut Full) -> Vec<PoolIx> {
        let eligible = node.gpus.values().copied().filter(|gpu| self.accepts(request, *gpu));
        let fits = eligible.filter(|gpu| match self.fits(request, asker, *gpu, slot.on(self.pool(*gpu).leasable)) {
            Ok(()) => true,
            Err(Full::NoRoom) => false,
            Err(kept) => {
                *full = kept;
                false
            }
        });
        let mut fitting: Vec<_> = fits.collect();
        match request.layout {
            Layout::Pack => fitting.sort_by_key(|gpu| (self.pool(*gpu).free(), *gpu)),
            Layout::Spread => fitting.sort_by_key(|gpu| (Reverse(self.pool(*gpu).free()), *gpu)),
        }
        fitting
    }

    /// Whether that much of that pool may go to the asker now: it must be free for its class, and must not delay who is first in line there.
    pub(crate) fn fits(&self, request: &Request, asker: Asker, ix: PoolIx, need: Mib) -> Result<(), Full> {
        if need.is_zero() {
            return Ok(());
        }
        let pool = self.pool(ix);
        if self.closed(ix).is_some() || pool.free_for(request.class, asker.order) < need {
            return Err(Full::NoRoom);
        }
        match pool.first_before(asker.lease, asker.order) {
            Some(first) if need > pool.beside_shadow(first.need, asker.lease) => Err(Full::KeptFor(first.lease, ix)),
            _ => Ok(()),
        }
    }

    /// Whether the request accepts those spots, whatever is free there.
    pub(crate) fn wants(&self, request: &Request, spots: &Spots) -> Result<(), Refused> {
        let node = self.node(spots.node).is_some_and(|node| request.nodes.accepts(&node.name));
        let unwanted = spots.gpus.iter().map(|(ix, _)| *ix).find(|ix| !self.accepts(request, *ix));
        match unwanted.or((!node).then_some(spots.ram.0)) {
            Some(ix) => Err(Refused::NotWanted { place: self.name_of(ix) }),
            None => Ok(()),
        }
    }

    /// The most that an empty, eligible GPU would give (for several slots: the smallest of the best GPUs of the best node), and whether the request would then fit.
    pub(crate) fn largest(&self, request: &Request) -> (Mib, Fits) {
        let slots = &request.demand.slots;
        if slots.is_empty() {
            let most = self
                .nodes()
                .filter(|(_, n)| request.nodes.accepts(&n.name))
                .map(|(_, n)| self.pool(n.ram).leasable)
                .max();
            let fits = most.is_some_and(|most| most >= request.demand.ram);
            return (most.unwrap_or_default(), if fits { Fits::Yes } else { Fits::No });
        }
        let mut largest = Mib::ZERO;
        let (mut fits, mut may_yet) = (false, false);
        for (_, node) in self.nodes() {
            may_yet |= self.may_yet_hold(request, node);
            let gpus: Vec<_> = node.gpus.values().copied().filter(|gpu| self.accepts(request, *gpu)).collect();
            let mut sizes: Vec<Mib> = gpus.iter().map(|gpu| self.pool(*gpu).leasable).collect();
            sizes.sort_unstable_by(|a, b| b.cmp(a));
            let Some(nth) = sizes.get(slots.len() - 1) else { continue };
            largest = largest.max(*nth);
            let holds = |slot: &Slot| {
                gpus.iter()
                    .copied()
                    .filter(|gpu| slot.on(self.pool(*gpu).leasable) <= self.pool(*gpu).leasable)
                    .collect()
            };
            fits |= request.demand.ram <= self.pool(node.ram).leasable
                && assign(slots, &slots.iter().map(holds).collect::<Vec<_>>()).is_some();
        }
        let fits = match (fits, may_yet) {
            (true, _) => Fits::Yes,
            (false, true) => Fits::Perhaps,
            (false, false) => Fits::No,
        };
        (largest, fits)
    }

    /// Whether that node may have GPUs for it of which nothing is known yet.
    pub(crate) fn may_yet_hold(&self, request: &Request, node: &Node) -> bool {
        node.gpus_unread && request.nodes.accepts(&node.name) && request.demand.ram <= self.pool(node.ram).leasable
    }
}

/// Gives every slot a GPU of its own among its choices, if there is a way at all: the largest slot first, each its best; where a later one would
/// get none, earlier ones move on to their next best.
pub(crate) fn assign(slots: &[Slot], choices: &[Vec<PoolIx>]) -> Option<Vec<PoolIx>> {
    let mut taken: BTreeMap<PoolIx, usize> = BTreeMap::new();
    for at in largest_first(slots) {
        if !seat(at, choices, &mut taken, &mut BTreeSet::new()) {
            return None;
        }
    }
    let mut chosen: Vec<(usize, PoolIx)> = taken.into_iter().map(|(gpu, at)| (at, gpu)).collect();
    chosen.sort_unstable();
    Some(chosen.into_iter().map(|(_, gpu)| gpu).collect())
}

fn seat(at: usize, choices: &[Vec<PoolIx>], taken: &mut BTreeMap<PoolIx, usize>, tried: &mut BTreeSet<PoolIx>) -> bool {
    let Some(own) = choices.get(at) else { return false };
    if let Some(gpu) = own.iter().find(|gpu| !taken.contains_key(gpu)) {
        taken.insert(*gpu, at);
        return true;
    }
    for gpu in own {
        if !tried.insert(*gpu) {
            continue;
        }
        let Some(other) = taken.get(gpu).copied() else { continue };
        if seat(other, choices, taken, tried) {
            taken.insert(*gpu, at);
            return true;
        }
    }
    false
}

/// The slots' places, the largest first. Shares are compared as if all GPUs were alike.
fn largest_first(slots: &[Slot]) -> Vec<usize> {
    let mut places: Vec<usize> = (0..slots.len()).collect();
    places.sort_by_key(|at| Reverse((slots[*at].on(Mib::from_mib(1 << 20)), *at)));
    places
}
