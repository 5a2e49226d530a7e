//! What people ask of an engine: how a lease stands and why, what a request would lead to, how the memory is divided. It changes nothing.

use crate::class::Class;
use crate::engine::{Engine, Lease, LeaseRecord};
use crate::estimate::Estimate;
use crate::ids::{GpuUuid, LeaseId, NodeName};
use crate::order::OrderKey;
use crate::place::{Asker, Fits, Full};
use crate::pool::{LeaseIx, PoolKind};
use crate::refuse::{Closed, Refused, Waiting};
use crate::request::{Placement, Request};
use crate::state::{EndReason, Phase, Token};
use crate::units::{Mib, Moment};
use crate::victims::NoPlan;

/// A lease as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseView {
    /// Its name.
    pub id: LeaseId,
    /// Its class.
    pub class: Class,
    /// Where it is in its life.
    pub phase: Phase,
    /// What is charged to it, or claimed for it.
    pub placement: Option<Placement>,
    /// The proof of its grant.
    pub token: Token,
    /// Why it waits, if it does.
    pub why: Option<Waiting>,
    /// Who gives way for it, if it holds a claim.
    pub victims: Vec<LeaseId>,
}

/// What a request would lead to now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forecast {
    /// It would be granted there.
    Grant(Placement),
    /// It would claim that place, and these would be asked to give way.
    Preempt {
        /// Where.
        placement: Placement,
        /// Who.
        victims: Vec<LeaseId>,
    },
    /// It would wait.
    Wait {
        /// How many would stand before it.
        ahead: usize,
        /// Whether it could ever be granted with what is there.
        satisfiable: bool,
        /// What would have to change.
        why: Waiting,
    },
}

/// How a GPU's memory is divided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuView {
    /// Its node.
    pub node: NodeName,
    /// Its UUID.
    pub uuid: GpuUuid,
    /// What can be leased.
    pub leasable: Mib,
    /// What is charged to leases.
    pub leased: Mib,
    /// What is set aside for preemptors.
    pub claimed: Mib,
    /// What others use.
    pub foreign: Mib,
    /// What is free.
    pub free: Mib,
    /// Why it takes nothing new, if so.
    pub closed: Option<Closed>,
}

impl Engine {
    /// A lease as it stands.
    #[must_use]
    pub fn lease(&self, id: &LeaseId) -> Option<LeaseView> {
        self.find(id).ok().and_then(|ix| self.lease_at(ix)).map(|lease| self.view(lease))
    }

    /// Where a lease is in its life.
    #[must_use]
    pub fn phase(&self, id: &LeaseId) -> Option<&Phase> {
        self.find(id).ok().and_then(|ix| self.lease_at(ix)).map(|lease| &lease.phase)
    }

    /// All leases, in the order in which they are kept.
    #[must_use]
    pub fn leases(&self) -> Vec<LeaseView> {
        self.all_leases().map(|(_, lease)| self.view(lease)).collect()
    }

    fn view(&self, lease: &Lease) -> LeaseView {
        let spots = lease.spots.as_ref().or(lease.claim.as_ref().map(|claim| &claim.spots));
        LeaseView {
            id: lease.request.id.clone(),
            class: lease.request.class,
            phase: lease.phase.clone(),
            placement: spots.and_then(|spots| self.ledger.placement(spots)),
            token: lease.token,
            why: matches!(lease.phase, Phase::Waiting).then(|| self.reason_of(lease)),
            victims: lease.claim.iter().flat_map(|claim| &claim.victims).map(|victim| self.id_of(*victim)).collect(),
        }
    }

    /// What has to be written down to take all this up again, in the order in which the leases came: who adopts them in that order keeps the places
    /// of those that came together.
    #[must_use]
    pub fn records(&self) -> Vec<LeaseRecord> {
        let mut leases: Vec<_> = self.all_leases().map(|(_, lease)| lease).collect();
        leases.sort_by_key(|lease| lease.order.arrival());
        leases.into_iter().map(|lease| self.record_of(lease)).collect()
    }

    /// What has to be written down of one lease, with the how many-th it came as.
    #[must_use]
    pub fn record(&self, id: &LeaseId) -> Option<(u64, LeaseRecord)> {
        let lease = self.find(id).ok().and_then(|ix| self.lease_at(ix))?;
        Some((lease.order.arrival(), self.record_of(lease)))
    }

    fn record_of(&self, lease: &Lease) -> LeaseRecord {
        LeaseRecord {
            request: (*lease.request).clone(),
            phase: lease.phase.clone(),
            placement: lease.spots.as_ref().and_then(|spots| self.ledger.placement(spots)),
            token: lease.token,
        }
    }

    /// Those whose holders are being ended, with why.
    pub fn stopping(&self) -> impl Iterator<Item = (&LeaseId, EndReason)> {
        self.stopping.iter().filter_map(|ix| {
            let lease = self.lease_at(*ix)?;
            let Phase::Stopping { reason } = &lease.phase else { return None };
            Some((&lease.request.id, *reason))
        })
    }

    /// Whether every lease is held and undisturbed.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.active == self.count()
    }

    /// The request of a lease.
    #[must_use]
    pub fn request(&self, id: &LeaseId) -> Option<Request> {
        self.find(id).ok().and_then(|ix| self.lease_at(ix)).map(|lease| (*lease.request).clone())
    }

    /// How many wait in the queue.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// The waiters, earliest first.
    #[must_use]
    pub fn queue(&self) -> Vec<LeaseId> {
        self.queue.in_order().into_iter().map(|(_, ix)| self.id_of(ix)).collect()
    }

    /// A waiter's place, from 1. The nearer it is to one end of its line, the sooner it is known.
    ///
    /// # Errors
    /// When there is no such lease, or it does not wait.
    pub fn position(&self, id: &LeaseId) -> Result<usize, Refused> {
        let ix = self.find(id)?;
        let lease = self.lease_at(ix).ok_or_else(|| Refused::UnknownLease(id.clone()))?;
        if lease.line.is_none() {
            return Err(Refused::WrongPhase {
                lease: id.clone(),
                phase: lease.phase.name().to_owned(),
                step: "position",
            });
        }
        Ok(self.queue.ahead_of(lease.order) + 1)
    }

    /// What that request would lead to now. Nothing changes.
    ///
    /// # Errors
    /// When it asks for nothing.
    pub fn dry_run(&self, request: &Request, now: Moment) -> Result<Forecast, Refused> {
        if request.demand.asks_nothing() {
            return Err(Refused::AsksNothing);
        }
        let order = OrderKey::new(&self.policy, request.class, request.enqueued, u64::MAX);
        let asker = Asker { lease: LeaseIx::MAX, order };
        let full = match self.ledger.find_room(request, asker).map(|spots| self.ledger.placement(&spots)) {
            Ok(Some(placement)) => return Ok(Forecast::Grant(placement)),
            Ok(None) => Full::NoRoom,
            Err(full) => full,
        };
        let protected = match self.plan_preemption(request, asker, now) {
            Ok(plan) => {
                if let Some(placement) = self.ledger.placement(&plan.spots) {
                    let victims = plan.victims.iter().map(|victim| self.id_of(*victim)).collect();
                    return Ok(Forecast::Preempt { placement, victims });
                }
                None
            }
            Err(NoPlan::Protected(until)) => Some(until),
            Err(NoPlan::Nobody) => None,
        };
        let largest = self.ledger.largest(request);
        let why = match protected {
            Some(until) => Waiting::VictimsProtected { until },
            None => self.in_the_way(request, asker, full, largest),
        };
        Ok(Forecast::Wait { ahead: self.queue.ahead_of(order), satisfiable: largest.1 != Fits::No, why })
    }

    /// Why a lease stands where it stands, in sentences.
    ///
    /// # Errors
    /// When there is no such lease.
    pub fn explain(&self, id: &LeaseId, now: Moment) -> Result<Vec<String>, Refused> {
        let view = self.lease(id).ok_or_else(|| Refused::UnknownLease(id.clone()))?;
        let mut lines = vec![format!("{} is {} in class {}", view.id, view.phase.name(), view.class)];
        if let Some(placement) = &view.placement {
            let shares: Vec<_> =
                placement.gpus.iter().map(|share| format!("{} of GPU {}", share.memory, share.uuid)).collect();
            let ram = if placement.ram.is_zero() { String::new() } else { format!(" and {} of RAM", placement.ram) };
            lines.push(format!("on {}: {}{ram}", placement.node, shares.join(", ")));
        }
        if let Ok(position) = self.position(id) {
            lines.push(format!("place {position} of {} in the queue", self.waiting()));
        }
        if let Some(why) = &view.why {
            lines.push(format!("{}: {why}", why.name()));
        }
        if let Some(Estimate { by, basis }) = self.estimate(&view, self.position(id).ok(), now) {
            lines.push(format!("granted in {}, probably: {basis}", by.since(now)));
        }
        if !view.victims.is_empty() {
            let names: Vec<_> = view.victims.iter().map(LeaseId::as_str).collect();
            lines.push(format!("giving way for it: {}", names.join(", ")));
        }
        if let Phase::Revoking { notice, .. } = &view.phase {
            let whom = notice.preemptor.as_ref().map_or(String::new(), |p| format!(" for {p}"));
            let mut needed: Vec<_> = notice.needed.iter().map(ToString::to_string).collect();
            needed.extend((!notice.needed_ram.is_zero()).then(|| format!("{} of RAM", notice.needed_ram)));
            lines.push(format!(
                "asked to free {}{whom} within {} ({})",
                needed.join(" + "),
                notice.deadline.since(now),
                notice.reason
            ));
        }
        Ok(lines)
    }

    /// How the GPUs' memory is divided.
    #[must_use]
    pub fn gpus(&self) -> Vec<GpuView> {
        let mut views = Vec::new();
        for (_, node) in self.ledger.nodes() {
            for ix in node.gpus.values() {
                let pool = self.ledger.pool(*ix);
                let PoolKind::Gpu { uuid, .. } = &pool.kind else { continue };
                views.push(GpuView {
                    node: node.name.clone(),
                    uuid: uuid.clone(),
                    leasable: pool.leasable,
                    leased: pool.charged,
                    claimed: pool.claims.values().map(|claim| claim.memory).sum(),
                    foreign: pool.foreign,
                    free: pool.free(),
                    closed: self.ledger.closed(*ix),
                });
            }
        }
        views
    }

    /// A node's RAM: what can be leased, and what is charged.
    #[must_use]
    pub fn ram(&self, node: &NodeName) -> Option<(Mib, Mib)> {
        let node = self.ledger.node(self.ledger.node_ix(node)?)?;
        let pool = self.ledger.pool(node.ram);
        Some((pool.leasable, pool.charged))
    }
}
