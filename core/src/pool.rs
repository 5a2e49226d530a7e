//! One pool of memory: a GPU's, or a node's RAM. It holds what is charged, what is claimed, what others use, and who is first in line.
//! It may not know a lease's class rules or phases beyond the numbers it is given.

use std::collections::BTreeMap;

use crate::class::Class;
use crate::ids::{GpuModel, GpuUuid};
use crate::order::OrderKey;
use crate::refuse::Closed;
use crate::units::Mib;

/// A lease's place in the engine's table.
pub(crate) type LeaseIx = u32;
/// A pool's place in the engine's table.
pub(crate) type PoolIx = u32;
/// A node's place in the engine's table.
pub(crate) type NodeIx = u32;

/// Which memory a pool is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PoolKind {
    /// One GPU's.
    Gpu {
        uuid: GpuUuid,
        model: GpuModel,
    },
    Ram,
}

/// An amount set aside for a preemptor while its victims leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) class: Class,
    pub(crate) order: OrderKey,
    pub(crate) memory: Mib,
}

impl Claim {
    /// Whether somebody of that class and place may take what is claimed: only a strictly higher class, and none that has to stand behind the
    /// claimant. Else a stream of higher ones would take from a waiter what its long wait keeps for it.
    pub(crate) fn yields_to(&self, class: Class, order: OrderKey) -> bool {
        class > self.class && order < self.order
    }
}

/// The first in line for this pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shadow {
    pub(crate) lease: LeaseIx,
    pub(crate) order: OrderKey,
    pub(crate) need: Mib,
}

/// A charge on this pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Charge {
    pub(crate) class: Class,
    pub(crate) memory: Mib,
    /// Its holder is already going.
    pub(crate) leaving: bool,
}

/// Why a GPU or a node takes nothing new. What was closed here stays closed until it is opened here, or until facts that called it closed call it open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Closure {
    facts: Option<Closed>,
    here: Option<Closed>,
}

impl Closure {
    pub(crate) fn why(self) -> Option<Closed> {
        self.facts.or(self.here)
    }

    pub(crate) fn by_facts(self, facts: Option<Closed>) -> Self {
        let opened = self.facts.is_some() && facts.is_none();
        Self { facts, here: self.here.filter(|_| !opened) }
    }

    /// Opening here opens for good: facts that say otherwise come again.
    pub(crate) fn by_hand(self, here: Option<Closed>) -> Self {
        Self { facts: self.facts.filter(|_| here.is_some()), here }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Pool {
    pub(crate) node: NodeIx,
    pub(crate) kind: PoolKind,
    /// What can be leased when nothing else uses it.
    pub(crate) leasable: Mib,
    pub(crate) foreign: Mib,
    /// Why it takes nothing new, from the facts or, if they say nothing, from a drain.
    pub(crate) closed: Closure,
    pub(crate) charges: BTreeMap<LeaseIx, Charge>,
    pub(crate) charged: Mib,
    pub(crate) claims: BTreeMap<LeaseIx, Claim>,
    pub(crate) shadow: Option<Shadow>,
}

impl Pool {
    pub(crate) fn new(node: NodeIx, kind: PoolKind) -> Self {
        Self {
            node,
            kind,
            leasable: Mib::ZERO,
            foreign: Mib::ZERO,
            closed: Closure::default(),
            charges: BTreeMap::new(),
            charged: Mib::ZERO,
            claims: BTreeMap::new(),
            shadow: None,
        }
    }

    /// What nobody has and nobody uses.
    pub(crate) fn free(&self) -> Mib {
        self.leasable.minus(self.foreign).minus(self.charged)
    }

    /// What of it a lease of that class and place in the queue may take.
    pub(crate) fn free_for(&self, class: Class, order: OrderKey) -> Mib {
        self.free().minus(self.claimed_from(class, order))
    }

    /// What others have of it, for that class and place, once those who are leaving have left.
    pub(crate) fn spoken_for(&self, class: Class, order: OrderKey) -> Mib {
        let staying: Mib = self.charges.values().filter(|c| !c.leaving).map(|c| c.memory).sum();
        self.foreign.plus(staying).plus(self.claimed_from(class, order))
    }

    /// What that lease has of it.
    pub(crate) fn held_by(&self, lease: LeaseIx) -> Mib {
        self.charges.get(&lease).map(|c| c.memory).unwrap_or_default()
    }

    /// The first in line here, if it stands before that asker.
    pub(crate) fn first_before(&self, lease: LeaseIx, order: OrderKey) -> Option<Shadow> {
        self.shadow.filter(|first| first.lease != lease && first.order < order)
    }

    /// The most that a preemptor of that class could ever get here now: an upper bound for the search.
    pub(crate) fn reach(&self, class: Class) -> Mib {
        if self.closed.why().is_some() {
            return Mib::ZERO;
        }
        let staying = self.charges.values().filter(|c| c.class >= class && !c.leaving).map(|c| c.memory).sum();
        self.leasable.minus(self.foreign).minus(staying)
    }

    fn claimed_from(&self, class: Class, order: OrderKey) -> Mib {
        self.claims.values().filter(|claim| !claim.yields_to(class, order)).map(|claim| claim.memory).sum()
    }

    pub(crate) fn charge(&mut self, lease: LeaseIx, class: Class, memory: Mib) {
        self.discharge(lease);
        if !memory.is_zero() {
            self.charges.insert(lease, Charge { class, memory, leaving: false });
            self.charged = self.charged.plus(memory);
        }
    }

    pub(crate) fn discharge(&mut self, lease: LeaseIx) {
        if let Some(charge) = self.charges.remove(&lease) {
            self.charged = self.charged.minus(charge.memory);
        }
    }

    /// How much may be given to others without delaying the first in line, whichever leases leave first:
    /// the first is served once what is charged and claimed has fallen to some sum of it that leaves it room, and the largest such sum must still
    /// leave it room with the newcomer there. The newcomer's own claim is left aside.
    pub(crate) fn beside_shadow(&self, need: Mib, newcomer: LeaseIx) -> Mib {
        let claims = self.claims.iter().filter(|(lease, _)| **lease != newcomer).map(|(_, claim)| claim.memory);
        let room = self.leasable.minus(self.foreign).minus(need);
        room.minus(largest_sum_within(self.charges.values().map(|c| c.memory).chain(claims), room))
    }
}

/// The largest sum of some of `amounts` that is at most `limit`: one bit for each reachable sum, counted in what all amounts are multiples of.
fn largest_sum_within(amounts: impl Iterator<Item = Mib>, limit: Mib) -> Mib {
    let amounts: Vec<u64> = amounts.map(Mib::mib).collect();
    let all = Mib::from_mib(amounts.iter().sum());
    if all <= limit {
        return all;
    }
    let unit = amounts.iter().copied().fold(0, common_divisor).max(1);
    let Ok(steps) = usize::try_from(limit.mib() / unit) else { return limit };
    let mut reachable = vec![0u64; steps / 64 + 1];
    reachable[0] = 1;
    for amount in amounts {
        if let Ok(step) = usize::try_from(amount / unit) {
            shift_or(&mut reachable, step);
        }
    }
    let highest = (0..=steps).rev().find(|sum| reachable[sum / 64] >> (sum % 64) & 1 == 1);
    Mib::from_mib(highest.map_or(0, |sum| sum as u64 * unit))
}

fn common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

/// Sets every bit that lies `step` above a set one: each amount is in the sum or not.
fn shift_or(bits: &mut [u64], step: usize) {
    let (words, rest) = (step / 64, step % 64);
    for at in (words..bits.len()).rev() {
        let low = bits[at - words] << rest;
        let carry = if rest > 0 && at > words { bits[at - words - 1] >> (64 - rest) } else { 0 };
        bits[at] |= low | carry;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mib(n: u64) -> Mib {
        Mib::from_mib(n)
    }

    #[test]
    fn the_largest_sum_is_exact() {
        let amounts = [mib(12_288), mib(4096), mib(3000)];
        for (limit, expect) in [(20_000, 19_384), (16_500, 16_384), (15_300, 15_288), (7095, 4096), (2999, 0), (0, 0)] {
            assert_eq!(largest_sum_within(amounts.iter().copied(), mib(limit)), mib(expect), "limit {limit}");
        }
    }

    #[test]
    fn a_small_lease_may_stand_beside_the_first_in_line_where_it_cannot_delay_it() {
        // 24 GiB, 12 GiB held by one lease; the first in line needs 20 GiB: it starts when that one goes, and 4 GiB beside it never matter.
        let mut pool = Pool::new(0, PoolKind::Ram);
        pool.leasable = mib(24 * 1024);
        pool.charge(7, Class::Normal, mib(12 * 1024));
        assert_eq!(pool.beside_shadow(mib(20 * 1024), 9), mib(4 * 1024));
        // With 4 GiB held by a second, the first starts as soon as the 12 go: nothing may stand beside.
        pool.charge(8, Class::Normal, mib(4 * 1024));
        assert_eq!(pool.beside_shadow(mib(20 * 1024), 9), Mib::ZERO);
    }
}
