//! The engine: leases, the queue and the ledger together, for one node (in the agent) or many (in the operator). It takes in facts and requests;
//! what follows from them is decided in `decide.rs`, and the steps of a lease's life are in `life.rs`.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap};
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::decide::Decision;
use crate::estimate::Pace;
use crate::ids::{GpuUuid, LeaseId, NodeName};
use crate::ledger::{Ledger, NodeFacts, Spots};
use crate::order::{LineIx, OrderKey, Queue};
use crate::place::Asker;
use crate::policy::Policy;
use crate::pool::{LeaseIx, PoolIx};
use crate::refuse::{Closed, Refused, Waiting};
use crate::request::{Placement, Request};
use crate::state::{Phase, Token};
use crate::units::Moment;

/// Where lookups by id go. The hasher has no random seed, so that two runs do the same.
type ById = HashMap<LeaseId, LeaseIx, BuildHasherDefault<DefaultHasher>>;

#[derive(Clone, Debug)]
pub(crate) struct HeldClaim {
    /// Claims are served in the order in which they were made, but for those that may take others' memory.
    pub(crate) made: u64,
    pub(crate) spots: Spots,
    pub(crate) victims: Vec<LeaseIx>,
}

#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) request: Arc<Request>,
    pub(crate) order: OrderKey,
    pub(crate) phase: Phase,
    pub(crate) token: Token,
    /// What is charged to it.
    pub(crate) spots: Option<Spots>,
    pub(crate) claim: Option<HeldClaim>,
    pub(crate) line: Option<LineIx>,
    /// The pools where it is first in line.
    pub(crate) first_at: Vec<PoolIx>,
    pub(crate) why: Waiting,
}

impl Lease {
    pub(crate) fn active_since(&self) -> Option<Moment> {
        match &self.phase {
            Phase::Active { since } | Phase::Revoking { since, .. } => Some(*since),
            _ => None,
        }
    }
}

/// A lease as it is written down, to be adopted after a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// What was asked.
    pub request: Request,
    /// Where it is in its life.
    pub phase: Phase,
    /// What is charged to it.
    pub placement: Option<Placement>,
    /// The proof of its grant.
    pub token: Token,
}

/// How a node's agent answers a placement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Charged.
    Reserved {
        /// The proof.
        token: Token,
    },
    /// Claimed: it is charged when what is on its way has come free.
    Claimed {
        /// Who gives way for it.
        victims: Vec<LeaseId>,
    },
}

/// The rules at work on a set of nodes.
#[derive(Clone, Debug)]
pub struct Engine {
    pub(crate) policy: Policy,
    pub(crate) ledger: Ledger,
    pub(crate) queue: Queue,
    leases: Vec<Option<Lease>>,
    vacant: Vec<LeaseIx>,
    by_id: ById,
    pub(crate) claimants: BTreeSet<LeaseIx>,
    pub(crate) timers: BTreeSet<(Moment, LeaseIx)>,
    /// When protected victims are worth another look.
    pub(crate) retry_at: Option<Moment>,
    /// Those whose holders are being ended.
    pub(crate) stopping: BTreeSet<LeaseIx>,
    /// How many are held and undisturbed.
    pub(crate) active: usize,
    /// Decisions made between two calls of `decide`.
    pub(crate) pending: Vec<Decision>,
    /// Leases that may have changed, once somebody has asked for them.
    touched: Option<BTreeSet<LeaseId>>,
    token: Token,
    pub(crate) arrivals: u64,
    /// Whoever came as one of the first so many and waits still was not served at once.
    pub(crate) looked_at: u64,
    pub(crate) claims_made: u64,
    /// How fast those who wait are served.
    pub(crate) pace: Pace,
}

impl Engine {
    /// An engine that knows no node and no lease. Its tokens follow `last`.
    #[must_use]
    pub fn new(policy: Policy, last: Token) -> Self {
        Self {
            policy,
            ledger: Ledger::default(),
            queue: Queue::default(),
            leases: Vec::new(),
            vacant: Vec::new(),
            by_id: ById::default(),
            claimants: BTreeSet::new(),
            timers: BTreeSet::new(),
            retry_at: None,
            stopping: BTreeSet::new(),
            active: 0,
            pending: Vec::new(),
            touched: None,
            token: last,
            arrivals: 0,
            looked_at: 0,
            claims_made: 0,
            pace: Pace::default(),
        }
    }

    /// The settings.
    #[must_use]
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The newest token that was given out.
    #[must_use]
    pub const fn last_token(&self) -> Token {
        self.token
    }

    /// When `decide` should be called again though nothing has happened.
    #[must_use]
    pub fn next_wake(&self) -> Option<Moment> {
        let timer = self.timers.first().map(|(due, _)| *due);
        timer.into_iter().chain(self.retry_at).min()
    }

    /// Takes in what is known of a node; a GPU that is missing is lost. Leases stay charged until they are ended.
    pub fn set_node(&mut self, facts: &NodeFacts) {
        self.ledger.set_node(facts);
    }

    /// Opens a node for new leases or closes it. It stays closed until it is opened here, or until facts that called it closed call it open.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn close_node(&mut self, node: &NodeName, why: Option<Closed>) -> Result<(), Refused> {
        let ix = self.ledger.node_ix(node).ok_or_else(|| Refused::UnknownNode(node.clone()))?;
        self.ledger.close_node(ix, why);
        Ok(())
    }

    /// Opens a GPU for new leases or closes it.
    ///
    /// # Errors
    /// When no node has that GPU.
    pub fn close_gpu(&mut self, gpu: &GpuUuid, why: Option<Closed>) -> Result<(), Refused> {
        let ix = self.ledger.gpu_ix(gpu)?;
        self.ledger.close_gpu(ix, why);
        Ok(())
    }

    /// Forgets a node. Its leases are returned, each to be ended by whoever knows that their memory is gone.
    pub fn remove_node(&mut self, name: &NodeName) -> Vec<LeaseId> {
        let Some(ix) = self.ledger.node_ix(name) else { return Vec::new() };
        // By where they are and not by what they are charged: one that has given everything back is there, too.
        let there = |(_, lease): &(LeaseIx, &Lease)| lease.spots.as_ref().is_some_and(|spots| spots.node == ix);
        let leases: Vec<LeaseIx> = self.all_leases().filter(there).map(|(ix, _)| ix).collect();
        let Some(node) = self.ledger.remove_node(name) else { return Vec::new() };
        for pool in node.gpus.values().chain([&node.ram]) {
            for claimant in self.ledger.pool(*pool).claims.keys().copied().collect::<Vec<_>>() {
                let mut out = std::mem::take(&mut self.pending);
                self.drop_claim_and_wait(claimant, &mut out);
                self.pending = out;
            }
            if let Some(first) = self.ledger.pool(*pool).shadow {
                self.stand_no_more(first.lease);
            }
        }
        leases.into_iter().map(|ix| self.id_of(ix)).collect()
    }

    /// Takes a request into the queue. The same request twice is one.
    ///
    /// # Errors
    /// When it asks for nothing, or its id is in use for something else.
    pub fn submit(&mut self, request: Request) -> Result<(), Refused> {
        if let Some(ix) = self.known(&request)? {
            return self.lease_at(ix).map(|_| ()).ok_or(Refused::UnknownLease(request.id));
        }
        let ix = self.insert(request, Phase::Waiting, Token::default());
        self.enqueue(ix);
        Ok(())
    }

    /// Takes a placement that was decided elsewhere: charges it, or claims it where `may_preempt` and lower classes can make room.
    ///
    /// # Errors
    /// The reason, when it does not fit here; nothing has changed then.
    pub fn admit(
        &mut self,
        request: Request,
        placement: &Placement,
        may_preempt: bool,
        now: Moment,
    ) -> Result<Admission, Refused> {
        let spots = self.ledger.spots(placement, request.demand.slots.len())?;
        let known = self.known(&request)?;
        if let Some(answer) = known.and_then(|ix| self.admitted(ix)) {
            return Ok(answer);
        }
        self.ledger.wants(&request, &spots)?;
        // One that waits here already keeps its place; one that does not comes last among its equals.
        let new = OrderKey::new(&self.policy, request.class, request.enqueued, self.arrivals + 1);
        let order = known.and_then(|ix| self.lease_at(ix)).map_or(new, |lease| lease.order);
        let asker = Asker { lease: known.unwrap_or(LeaseIx::MAX), order };
        let refused = match self.room_at(&request, asker, &spots) {
            Ok(()) => {
                let ix = self.take_in(known, request);
                let mut out = std::mem::take(&mut self.pending);
                self.grant(ix, spots, now, &mut out);
                self.pending = out;
                return Ok(Admission::Reserved { token: self.token });
            }
            Err(refused) => refused,
        };
        // What is on its way already counts as well; victims only where the one who decided meant that.
        match self.plan_at(&request, asker, &spots, now) {
            Ok(plan) if may_preempt || plan.victims.is_empty() => {
                let victims = plan.victims.iter().map(|victim| self.id_of(*victim)).collect();
                let ix = self.take_in(known, request);
                let mut out = std::mem::take(&mut self.pending);
                self.claim(ix, &plan, now, &mut out);
                self.pending = out;
                Ok(Admission::Claimed { victims })
            }
            _ => Err(refused),
        }
    }

    /// Takes a lease as a fact: charged where the record says, whatever the capacity, since its memory is in use.
    ///
    /// # Errors
    /// When its place is unknown here, or its id is in use for something else.
    pub fn adopt(&mut self, record: LeaseRecord) -> Result<(), Refused> {
        if self.known(&record.request)?.is_some() || matches!(record.phase, Phase::Ended(_)) {
            return Ok(());
        }
        let spots = match &record.placement {
            Some(placement) => Some(self.ledger.spots(placement, record.request.demand.slots.len())?),
            None => None,
        };
        self.token = self.token.max(record.token);
        let class = record.request.class;
        let ix = self.insert(record.request, Phase::Waiting, record.token);
        match spots {
            Some(spots) if record.phase.is_charged() => {
                self.ledger.charge(ix, class, &spots);
                let leaving = matches!(record.phase, Phase::Revoking { .. } | Phase::Stopping { .. });
                self.ledger.set_leaving(ix, &spots, leaving);
                if let Some(lease) = self.lease_at_mut(ix) {
                    lease.spots = Some(spots);
                }
                self.set_phase(ix, record.phase);
            }
            _ => {
                // It waited before, too.
                self.looked_at = self.arrivals;
                self.enqueue(ix);
            }
        }
        Ok(())
    }

    /// The lease of that id, if the request is the same; an error if it is another.
    fn known(&self, request: &Request) -> Result<Option<LeaseIx>, Refused> {
        if request.demand.asks_nothing() {
            return Err(Refused::AsksNothing);
        }
        let Some(ix) = self.by_id.get(&request.id).copied() else { return Ok(None) };
        let same = self
            .lease_at(ix)
            .is_some_and(|lease| lease.request.demand == request.demand && lease.request.class == request.class);
        if same { Ok(Some(ix)) } else { Err(Refused::IdInUse(request.id.clone())) }
    }

    fn admitted(&self, ix: LeaseIx) -> Option<Admission> {
        let lease = self.lease_at(ix)?;
        if let Some(claim) = &lease.claim {
            return Some(Admission::Claimed { victims: claim.victims.iter().map(|v| self.id_of(*v)).collect() });
        }
        lease.phase.is_charged().then_some(Admission::Reserved { token: lease.token })
    }

    fn take_in(&mut self, known: Option<LeaseIx>, request: Request) -> LeaseIx {
        if let Some(ix) = known {
            self.leave_queue(ix);
            return ix;
        }
        self.insert(request, Phase::Waiting, Token::default())
    }

    /// Why those spots will not do now, if so.
    fn room_at(&self, request: &Request, asker: Asker, spots: &Spots) -> Result<(), Refused> {
        for (ix, need) in spots.all() {
            let place = || self.ledger.name_of(ix);
            if let Some(why) = self.ledger.closed(ix) {
                return Err(Refused::Closed { place: place(), why });
            }
            // The first in line here keeps its memory also from a placement by somebody who did not know of it.
            if self.ledger.fits(request, asker, ix, need).is_err() {
                return Err(Refused::NoRoom {
                    place: place(),
                    need,
                    free: self.ledger.pool(ix).free_for(request.class, asker.order),
                });
            }
        }
        Ok(())
    }

    fn insert(&mut self, request: Request, phase: Phase, token: Token) -> LeaseIx {
        self.arrivals += 1;
        let order = OrderKey::new(&self.policy, request.class, request.enqueued, self.arrivals);
        let id = request.id.clone();
        let request = Arc::new(request);
        let lease = Lease {
            request,
            order,
            phase,
            token,
            spots: None,
            claim: None,
            line: None,
            first_at: Vec::new(),
            why: Waiting::New,
        };
        let ix = if let Some(ix) = self.vacant.pop() {
            self.leases[ix as usize] = Some(lease);
            ix
        } else {
            self.leases.push(Some(lease));
            LeaseIx::try_from(self.leases.len() - 1).unwrap_or(LeaseIx::MAX)
        };
        self.touch(&id);
        self.by_id.insert(id, ix);
        ix
    }

    fn touch(&mut self, id: &LeaseId) {
        if let Some(touched) = &mut self.touched {
            touched.insert(id.clone());
        }
    }

    /// The leases that may have changed since this was last asked, those that are gone among them; all at the first time. Whoever has to follow many
    /// leases looks at these alone.
    pub fn take_touched(&mut self) -> BTreeSet<LeaseId> {
        let all = || self.by_id.keys().cloned().collect();
        let touched = self.touched.take().unwrap_or_else(all);
        self.touched = Some(BTreeSet::new());
        touched
    }

    pub(crate) fn remove(&mut self, ix: LeaseIx) {
        if let Some(lease) = self.leases.get_mut(ix as usize).and_then(Option::take) {
            self.touch(&lease.request.id);
            self.by_id.remove(&lease.request.id);
            self.vacant.push(ix);
            self.pending.retain(|decision| *decision.lease() != lease.request.id);
            // Its place in the table may soon be another's, who gives way for nobody.
            for claimant in self.claimants.clone() {
                if let Some(claim) = self.lease_at_mut(claimant).and_then(|lease| lease.claim.as_mut()) {
                    claim.victims.retain(|victim| *victim != ix);
                }
            }
        }
    }

    pub(crate) fn lease_at(&self, ix: LeaseIx) -> Option<&Lease> {
        self.leases.get(ix as usize).and_then(Option::as_ref)
    }

    pub(crate) fn lease_at_mut(&mut self, ix: LeaseIx) -> Option<&mut Lease> {
        let lease = self.leases.get_mut(ix as usize).and_then(Option::as_mut)?;
        if let Some(touched) = &mut self.touched {
            touched.insert(lease.request.id.clone());
        }
        Some(lease)
    }

    pub(crate) fn find(&self, id: &LeaseId) -> Result<LeaseIx, Refused> {
        self.by_id.get(id).copied().ok_or_else(|| Refused::UnknownLease(id.clone()))
    }

    pub(crate) fn all_leases(&self) -> impl Iterator<Item = (LeaseIx, &Lease)> {
        self.leases.iter().enumerate().filter_map(|(ix, lease)| Some((LeaseIx::try_from(ix).ok()?, lease.as_ref()?)))
    }

    /// How many leases there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn id_of(&self, ix: LeaseIx) -> LeaseId {
        // A lease that is gone is named only in a message that is about to be corrected by the next decision.
        self.lease_at(ix).map_or_else(LeaseId::gone, |lease| lease.request.id.clone())
    }

    pub(crate) fn next_token(&mut self) -> Token {
        self.token.sequence += 1;
        self.token
    }

    pub(crate) fn enqueue(&mut self, ix: LeaseIx) {
        let Some(lease) = self.lease_at(ix) else { return };
        let (request, order) = (lease.request.clone(), lease.order);
        let (line, former) = self.queue.push(&request, order, ix);
        if let Some(former) = former {
            // Only the first of a line stands first in line.
            self.stand_no_more(former);
        }
        if let Some(lease) = self.lease_at_mut(ix) {
            lease.line = Some(line);
        }
    }

    /// Out of the queue, and no longer first in line anywhere.
    pub(crate) fn leave_queue(&mut self, ix: LeaseIx) {
        let Some(lease) = self.lease_at_mut(ix) else { return };
        let (line, order) = (lease.line.take(), lease.order);
        if let Some(line) = line {
            self.queue.remove(line, order, ix);
        }
        self.stand_no_more(ix);
    }
}
