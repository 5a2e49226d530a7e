//! Why a lease is granted, queued, or preempts: the whole rule, in the order in which it is applied.
//!
//! 1. What is overdue happens: reservations nobody came for go back to the queue, notices that ran out become stops.
//! 2. Claims come first: memory that a preemption freed goes to its preemptor, in the order in which they were made. Only a strictly higher class
//!    that also stands before the claimant may take it.
//! 3. Then the queue, earliest first, line by line:
//!    - **granted** where all of it fits now, without delaying who is first in line at that GPU;
//!    - else, if strictly lower classes can make room, it **claims** that place and they get a notice;
//!    - else it **waits**: as the first in line at the GPU with the most free, if that GPU has no earlier first.

use crate::engine::{Engine, HeldClaim};
use crate::ids::LeaseId;
use crate::ledger::Spots;
use crate::order::{LineIx, OrderKey};
use crate::place::Asker;
use crate::pool::{LeaseIx, PoolIx};
use crate::refuse::Waiting;
use crate::request::Placement;
use crate::state::{EndReason, Notice, Phase, Token};
use crate::units::{Mib, Moment};
use crate::victims::{NoPlan, Plan};

/// What an engine decided. Whoever runs it carries these out and tells people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It has its memory.
    Grant {
        /// Who.
        lease: LeaseId,
        /// Where.
        placement: Placement,
        /// The proof.
        token: Token,
    },
    /// It will have that memory when its victims have left it; nobody of its class or lower, and nobody behind it, can take it in between.
    Claim {
        /// Who.
        lease: LeaseId,
        /// Where.
        placement: Placement,
        /// Who gives way; none if what it needs is on its way already.
        victims: Vec<LeaseId>,
    },
    /// A holder is asked to give memory back.
    Notice {
        /// Who.
        lease: LeaseId,
        /// What it is told.
        notice: Notice,
    },
    /// A notice is withdrawn: enough came free without it.
    Spare {
        /// Who.
        lease: LeaseId,
    },
    /// A holder's time is up: it is to be ended.
    Stop {
        /// Who.
        lease: LeaseId,
        /// Why.
        reason: EndReason,
    },
    /// It waits, for a reason that is new.
    Wait {
        /// Who.
        lease: LeaseId,
        /// Why.
        why: Waiting,
    },
}

impl Decision {
    /// Whom it is about.
    #[must_use]
    pub const fn lease(&self) -> &LeaseId {
        match self {
            Self::Grant { lease, .. }
            | Self::Claim { lease, .. }
            | Self::Notice { lease, .. }
            | Self::Spare { lease }
            | Self::Stop { lease, .. }
            | Self::Wait { lease, .. } => lease,
        }
    }
}

/// What one pass decides can make more possible (a first place that is free again, a claim that was overtaken): then there is another, up to so many.
const PASSES: usize = 64;

impl Engine {
    /// Brings everything up to `now` and serves whoever can be served.
    pub fn decide(&mut self, now: Moment) -> Vec<Decision> {
        let mut out = std::mem::take(&mut self.pending);
        self.act_on_overdue(now, &mut out);
        for _ in 0..PASSES {
            self.serve_claims(now, &mut out);
            self.serve_queue(now, &mut out);
            if !self.ledger.changed {
                break;
            }
        }
        self.looked_at = self.arrivals;
        out
    }

    fn act_on_overdue(&mut self, now: Moment, out: &mut Vec<Decision>) {
        while let Some((due, ix)) = self.timers.first().copied().filter(|(due, _)| *due <= now) {
            self.timers.remove(&(due, ix));
            let Some(lease) = self.lease_at(ix) else { continue };
            match lease.phase.clone() {
                Phase::Reserved { .. } => self.put_back(ix, out),
                Phase::Revoking { notice, .. } => {
                    self.set_phase(ix, Phase::Stopping { reason: notice.reason });
                    out.push(Decision::Stop { lease: self.id_of(ix), reason: notice.reason });
                }
                _ => {}
            }
        }
    }

    fn serve_queue(&mut self, now: Moment, out: &mut Vec<Decision>) {
        let everybody = std::mem::take(&mut self.ledger.changed) || self.retry_at.is_some_and(|at| at <= now);
        let heads: Vec<_> = if everybody { self.queue.heads().collect() } else { self.queue.fresh().collect() };
        if everybody {
            self.retry_at = None;
        }
        let mut to_serve: std::collections::BTreeSet<(OrderKey, LineIx)> = heads.into_iter().collect();
        while let Some((_, line)) = to_serve.pop_first() {
            let Some((order, ix)) = self.queue.head_of(line) else { continue };
            if self.serve(line, Asker { lease: ix, order }, now, out)
                && let Some((next, _)) = self.queue.head_of(line)
            {
                to_serve.insert((next, line));
            }
        }
    }

    /// Serves the first of a line; whether the next one is to be looked at too.
    fn serve(&mut self, line: LineIx, asker: Asker, now: Moment, out: &mut Vec<Decision>) -> bool {
        let Some(request) = self.lease_at(asker.lease).map(|lease| lease.request.clone()) else { return false };
        let full = match self.ledger.find_room(&request, asker) {
            Ok(spots) => {
                self.leave_queue(asker.lease);
                self.grant(asker.lease, spots, now, out);
                return true;
            }
            Err(full) => full,
        };
        let why = match self.try_preemption(asker, now, out) {
            Ok(()) => return true,
            Err(NoPlan::Protected(until)) => Waiting::VictimsProtected { until },
            Err(NoPlan::Nobody) => self.why_not(line, asker, full),
        };
        if why.is_unsatisfiable() {
            self.stand_no_more(asker.lease);
        } else {
            self.stand_first(asker);
        }
        if let Some(line) = self.queue.line_mut(line) {
            line.fresh = false;
        }
        self.say_waiting(asker.lease, why, out);
        false
    }

    fn try_preemption(&mut self, asker: Asker, now: Moment, out: &mut Vec<Decision>) -> Result<(), NoPlan> {
        let Some(request) = self.lease_at(asker.lease).map(|lease| lease.request.clone()) else {
            return Err(NoPlan::Nobody);
        };
        match self.plan_preemption(&request, asker, now) {
            Ok(plan) => {
                self.leave_queue(asker.lease);
                self.claim(asker.lease, &plan, now, out);
                Ok(())
            }
            Err(no) => {
                if let NoPlan::Protected(until) = no {
                    self.retry_at = Some(self.retry_at.map_or(until, |at| at.min(until)));
                }
                Err(no)
            }
        }
    }

    /// Grants: charged from here on.
    pub(crate) fn grant(&mut self, ix: LeaseIx, spots: Spots, now: Moment, out: &mut Vec<Decision>) {
        let (token, looked_at) = (self.next_token(), self.looked_at);
        let until = now.after(self.policy.reservation);
        let Some(lease) = self.lease_at_mut(ix) else { return };
        lease.token = token;
        let (id, class) = (lease.request.id.clone(), lease.request.class);
        // Not by when it was enqueued: that may be of another machine's clock.
        let waited = lease.order.arrival() <= looked_at;
        if waited {
            self.pace.served(now);
        }
        self.ledger.charge(ix, class, &spots);
        let placement = self.ledger.placement(&spots);
        if let Some(lease) = self.lease_at_mut(ix) {
            lease.spots = Some(spots);
            lease.why = Waiting::New;
        }
        self.set_phase(ix, Phase::Reserved { until });
        if let Some(placement) = placement {
            out.push(Decision::Grant { lease: id, placement, token });
        }
    }

    /// Claims a place and tells its victims, in one step.
    pub(crate) fn claim(&mut self, ix: LeaseIx, plan: &Plan, now: Moment, out: &mut Vec<Decision>) {
        let Some(lease) = self.lease_at(ix) else { return };
        let (id, class, order) = (lease.request.id.clone(), lease.request.class, lease.order);
        let mut needed = plan.needed.clone();
        self.ledger.claim(ix, class, order, &plan.spots);
        self.claimants.insert(ix);
        let mut victims_ix = plan.victims.clone();
        victims_ix.extend(self.going_for(&id, &plan.spots));
        let victims: Vec<_> = victims_ix.iter().map(|victim| self.id_of(*victim)).collect();
        let placement = self.ledger.placement(&plan.spots);
        self.claims_made += 1;
        let (made, spots) = (self.claims_made, plan.spots.clone());
        if let Some(lease) = self.lease_at_mut(ix) {
            lease.claim = Some(HeldClaim { made, spots, victims: victims_ix });
        }
        if let Some(placement) = placement {
            let why = Waiting::Claimed { node: placement.node.clone(), victims: victims.len() };
            out.push(Decision::Claim { lease: id.clone(), placement, victims });
            self.say_waiting(ix, why, out);
        }
        for victim in &plan.victims {
            let pools = needed.remove(victim).unwrap_or_default();
            self.tell(*victim, EndReason::Preempted, Some((&id, class)), &|pool| pools.get(&pool).copied(), now, out);
        }
    }

    /// Gives a holder notice. `needed` says for a pool what must become free there; all that it holds, if it says nothing at all.
    pub(crate) fn tell(
        &mut self,
        ix: LeaseIx,
        reason: EndReason,
        preemptor: Option<(&LeaseId, crate::class::Class)>,
        needed: &dyn Fn(PoolIx) -> Option<Mib>,
        now: Moment,
        out: &mut Vec<Decision>,
    ) {
        let Some(lease) = self.lease_at(ix) else { return };
        let (Some(since), Some(spots)) = (lease.active_since().or(Some(now)), lease.spots.clone()) else { return };
        let span = if reason == EndReason::NodePressure {
            // The node itself is in need, and the kubelet or the kernel would give no time at all: nobody's wish makes that longer.
            self.policy.notice_for(crate::class::Class::Urgent, None)
        } else {
            self.policy.notice_for(preemptor.map_or(lease.request.class, |(_, class)| class), lease.request.notice)
        };
        let notice = Notice {
            preemptor: preemptor.map(|(id, _)| id.clone()),
            class: preemptor.map(|(_, class)| class),
            reason,
            needed: spots
                .gpus
                .iter()
                .map(|(pool, held)| if preemptor.is_some() { needed(*pool).unwrap_or_default() } else { *held })
                .collect(),
            needed_ram: if preemptor.is_some() { needed(spots.ram.0).unwrap_or_default() } else { spots.ram.1 },
            deadline: now.after(span),
        };
        let id = lease.request.id.clone();
        self.ledger.set_leaving(ix, &spots, true);
        self.set_phase(ix, Phase::Revoking { since, notice: notice.clone() });
        out.push(Decision::Notice { lease: id, notice });
    }
}
