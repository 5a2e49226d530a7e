//! Claims: memory set aside for a preemptor while its victims leave. When one is served, when it cannot come any more, and what becomes of its
//! victims then. It may not choose victims (`victims.rs` does).

use std::collections::BTreeSet;

use crate::decide::Decision;
use crate::engine::Engine;
use crate::ids::LeaseId;
use crate::ledger::Spots;
use crate::pool::{Charge, LeaseIx, PoolIx};
use crate::refuse::Waiting;
use crate::state::Phase;
use crate::units::{Mib, Moment};

impl Engine {
    /// In the order in which they were made. A claim whose memory somebody of a higher class took goes back to the queue; what it had set aside may serve
    /// another, also one that was looked at before it.
    pub(crate) fn serve_claims(&mut self, now: Moment, out: &mut Vec<Decision>) {
        while self.serve_each_claim(now, out) {}
    }

    /// Whether one went back to the queue: there is one fewer then, so this comes to an end.
    fn serve_each_claim(&mut self, now: Moment, out: &mut Vec<Decision>) -> bool {
        let mut dropped = false;
        for ix in self.claims_in_order() {
            let Some(claim) = self.lease_at(ix).and_then(|lease| lease.claim.clone()) else { continue };
            if claim.spots.all().all(|(pool, need)| self.claim_is_free(ix, pool, need, &claim.victims)) {
                self.grant(ix, claim.spots, now, out);
                self.drop_claim(ix, out);
            } else if !claim.spots.all().all(|(pool, need)| self.claim_can_come(ix, pool, need)) {
                self.drop_claim_and_wait(ix, out);
                dropped = true;
            }
        }
        dropped
    }

    /// Those there who have notice for that lease already, as after a restart: claims are not written down, notices are.
    pub(crate) fn going_for(&self, claimant: &LeaseId, spots: &Spots) -> BTreeSet<LeaseIx> {
        let leaving = |pool: PoolIx| self.ledger.pool(pool).charges.iter().filter(|(_, charge)| charge.leaving);
        let going = spots.all().flat_map(|(pool, _)| leaving(pool)).map(|(lease, _)| *lease);
        let phase = |lease: &LeaseIx| self.lease_at(*lease).map(|lease| &lease.phase);
        going
            .filter(
                |lease| matches!(phase(lease), Some(Phase::Revoking { notice, .. }) if notice.makes_room_for(claimant)),
            )
            .collect()
    }

    fn claims_in_order(&self) -> Vec<LeaseIx> {
        let made = |ix: &LeaseIx| Some((self.lease_at(*ix)?.claim.as_ref()?.made, *ix));
        let mut claims: Vec<_> = self.claimants.iter().filter_map(made).collect();
        claims.sort_unstable();
        claims.into_iter().map(|(_, ix)| ix).collect()
    }

    /// Whether all that a claim needs of a pool is free, what stronger claims hold left aside. Beside an earlier first in line it is served from
    /// what its victims free, so it waits until they have.
    fn claim_is_free(&self, ix: LeaseIx, pool: PoolIx, need: Mib, victims: &[LeaseIx]) -> bool {
        let (held, Some(me)) = (self.ledger.pool(pool), self.lease_at(ix)) else { return false };
        let delays_nobody = held.first_before(ix, me.order).is_none_or(|first| {
            need <= held.beside_shadow(first.need, ix)
                || !victims.iter().filter_map(|victim| held.charges.get(victim)).any(|charge| charge.leaving)
        });
        delays_nobody && self.ledger.closed(pool).is_none() && held.free().minus(self.stronger_claims(ix, pool)) >= need
    }

    /// Whether a claim can still be met when those who are leaving have left.
    fn claim_can_come(&self, ix: LeaseIx, pool: PoolIx, need: Mib) -> bool {
        self.ledger.closed(pool).is_none() && self.claim_lacks(ix, pool, need, |_, charge| charge.leaving).is_zero()
    }

    /// What a claim lacks once those have gone.
    fn claim_lacks(&self, ix: LeaseIx, pool: PoolIx, need: Mib, gone: impl Fn(LeaseIx, &Charge) -> bool) -> Mib {
        let held = self.ledger.pool(pool);
        let staying: Mib = held.charges.iter().filter(|(lease, c)| !gone(**lease, c)).map(|(_, c)| c.memory).sum();
        need.plus(self.stronger_claims(ix, pool)).plus(held.foreign).plus(staying).minus(held.leasable)
    }

    fn stronger_claims(&self, ix: LeaseIx, pool: PoolIx) -> Mib {
        let claims = &self.ledger.pool(pool).claims;
        let Some(mine) = claims.get(&ix) else { return Mib::ZERO };
        let made = |ix: LeaseIx| self.lease_at(ix).and_then(|lease| lease.claim.as_ref()).map(|claim| claim.made);
        // The earlier one, unless the later one may take what the earlier one claims.
        let stronger = claims.iter().filter(|(other, claim)| {
            if made(**other) < made(ix) {
                !claim.yields_to(mine.class, mine.order)
            } else {
                mine.yields_to(claim.class, claim.order)
            }
        });
        stronger.map(|(_, claim)| claim.memory).sum()
    }

    /// Ends a claim; its lease waits again, with its old place.
    pub(crate) fn drop_claim_and_wait(&mut self, ix: LeaseIx, out: &mut Vec<Decision>) {
        self.drop_claim(ix, out);
        if let Some(lease) = self.lease_at_mut(ix) {
            lease.why = Waiting::New;
        }
        self.enqueue(ix);
    }

    /// Ends a claim; victims that have not begun to stop and that nobody else needs are spared.
    pub(crate) fn drop_claim(&mut self, ix: LeaseIx, out: &mut Vec<Decision>) {
        self.claimants.remove(&ix);
        let Some(claim) = self.lease_at_mut(ix).and_then(|lease| lease.claim.take()) else { return };
        self.ledger.unclaim(ix, &claim.spots);
        for victim in claim.victims {
            self.let_off(victim, ix, out);
        }
    }

    /// A victim that its preemptor needs no longer: it goes on, or goes for another claim that counts on its leaving.
    fn let_off(&mut self, victim: LeaseIx, preemptor: LeaseIx, out: &mut Vec<Decision>) {
        let Some(lease) = self.lease_at(victim) else { return };
        let (Phase::Revoking { since, notice }, Some(spots)) = (lease.phase.clone(), lease.spots.clone()) else {
            return;
        };
        if !notice.makes_room_for(&self.id_of(preemptor)) {
            return;
        }
        let (id, class) = (lease.request.id.clone(), lease.request.class);
        let needs = |heir: &LeaseIx| self.needed_by_claim(*heir, victim);
        let heir = self.claims_in_order().into_iter().find_map(|heir| needs(&heir).map(|needed| (heir, needed)));
        let heir = heir.filter(|(heir, _)| self.lease_at(*heir).is_some_and(|l| l.request.class > class));
        let Some((heir, needed)) = heir else {
            self.ledger.set_leaving(victim, &spots, false);
            self.set_phase(victim, Phase::Active { since });
            out.push(Decision::Spare { lease: id });
            return;
        };
        let mut notice = notice;
        notice.preemptor = Some(self.id_of(heir));
        notice.class = self.lease_at(heir).map(|l| l.request.class);
        let asked = |pool: PoolIx| needed.iter().filter(|(at, _)| *at == pool).map(|(_, lack)| *lack).sum::<Mib>();
        notice.needed = spots.gpus.iter().map(|(pool, _)| asked(*pool)).collect();
        notice.needed_ram = asked(spots.ram.0);
        self.set_phase(victim, Phase::Revoking { since, notice: notice.clone() });
        if let Some(claim) = self.lease_at_mut(heir).and_then(|lease| lease.claim.as_mut()) {
            claim.victims.push(victim);
        }
        out.push(Decision::Notice { lease: id, notice });
    }

    /// What of that victim's memory a claim counts on, pool by pool; nothing if it can come without.
    fn needed_by_claim(&self, claimant: LeaseIx, victim: LeaseIx) -> Option<Vec<(PoolIx, Mib)>> {
        let claim = self.lease_at(claimant)?.claim.as_ref()?;
        let mut needed = Vec::new();
        for (pool, need) in claim.spots.all() {
            let Some(held) = self.ledger.pool(pool).charges.get(&victim).map(|charge| charge.memory) else { continue };
            let lack = self.claim_lacks(claimant, pool, need, |lease, charge| charge.leaving && lease != victim);
            if !lack.is_zero() {
                needed.push((pool, lack.min(held)));
            }
        }
        (!needed.is_empty()).then_some(needed)
    }
}
