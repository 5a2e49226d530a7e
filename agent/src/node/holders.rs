//! What holders and the node's root processes ask for: to bind a container, to give memory back, to go.

use memboss_core::{EndReason, GpuShare, LeaseId, Mib, Moment, Phase, Refused};
use tokio::sync::oneshot;

use super::{Hold, Node};
use crate::health::Health;
use crate::order::part_of;
use crate::probes::processes::PodUid;

/// A question, with the way to answer it. The answer goes out once the ledger that it rests on is written.
#[derive(Debug)]
pub enum Ask {
    /// The GPUs of a container that is about to start.
    Prepare {
        /// Its pod's UID, if known.
        uid: Option<PodUid>,
        /// Its pod's namespace.
        namespace: String,
        /// Its pod's name.
        name: String,
        /// The container.
        container: String,
        /// The answer.
        reply: oneshot::Sender<Result<Prepared, Denied>>,
    },
    /// Why a lease is where it is.
    Explain {
        /// Which.
        lease: String,
        /// The answer.
        reply: oneshot::Sender<Result<Vec<String>, Denied>>,
    },
    /// A part is given back, or moved into host RAM.
    GiveBack {
        /// The pod that asks.
        pod: PodUid,
        /// What.
        what: GiveBack,
        /// The answer, when the memory was seen free.
        reply: oneshot::Sender<Result<LeaseId, Denied>>,
    },
    /// The holder goes.
    Leave {
        /// The pod that asks.
        pod: PodUid,
        /// The notice that it heeds; empty for none.
        notice: String,
        /// The answer.
        reply: oneshot::Sender<Result<LeaseId, Denied>>,
    },
}

/// A container's binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The lease.
    pub lease: LeaseId,
    /// Its GPUs in slot order: UUID, index, amount.
    pub gpus: Vec<(String, u32, Mib)>,
}

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// There is no such thing here.
    #[error("{0}")]
    NotFound(String),
    /// Not in this state; perhaps later.
    #[error("{0}")]
    NotNow(String),
    /// The rules say no.
    #[error("{0}")]
    Refused(Refused),
    /// The memory was not seen free in time.
    #[error("{0}")]
    TimedOut(String),
    /// What is asked makes no sense.
    #[error("{0}")]
    BadRequest(String),
    /// It would have to wait, and was not to.
    #[error("{0}")]
    WouldWait(String),
    /// One has as much as anybody may.
    #[error("{0}")]
    TooMany(String),
    /// It is another's.
    #[error("{0}")]
    NotYours(String),
}

/// What is to become of the host RAM of a lease that gives memory back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RamWish {
    /// It stays as it is.
    Same,
    /// It holds no more than that.
    Down(Mib),
    /// So much comes in addition, before anything is moved there.
    More(Mib),
}

/// What a holder gives back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GiveBack {
    /// What each slot is to hold; nothing for all as they are.
    pub memory: Vec<Mib>,
    /// What becomes of its RAM.
    pub ram: RamWish,
    /// The notice that it heeds; empty for none.
    pub notice: String,
}

/// What a holder may give back.
struct Gift {
    /// What each slot is to hold.
    memory: Vec<Mib>,
    /// What becomes of its RAM; more of it is charged.
    ram: RamWish,
    /// Whether a look has to show it.
    to_be_seen: bool,
    until: Moment,
}

/// A part that a holder is about to give back.
pub(crate) struct Give {
    pub(in crate::node) lease: LeaseId,
    pub(in crate::node) memory: Vec<Mib>,
    pub(in crate::node) ram: RamWish,
    /// Whether a look has to show it.
    to_be_seen: bool,
    pub(crate) asked: Moment,
    pub(crate) until: Moment,
    reply: oneshot::Sender<Result<LeaseId, Denied>>,
}

impl Node {
    pub(super) fn ask(&mut self, ask: Ask, now: Moment) {
        match ask {
            Ask::Prepare { uid, namespace, name, container, reply } => {
                let answer = self.prepare(uid.as_ref(), &namespace, &name, &container, now);
                self.answer(reply, answer);
            }
            Ask::Explain { lease, reply } => {
                let answer = self.explain(&lease, now);
                self.answer(reply, answer);
            }
            Ask::GiveBack { pod, what, reply } => match self.held_by(&pod) {
                Ok(lease) => self.begin_to_give(lease, &what, reply, now),
                Err(denied) => self.answer(reply, Err(denied)),
            },
            Ask::Leave { pod, notice, reply } => {
                let answer = self.leave(&pod, &notice);
                self.answer(reply, answer);
            }
        }
    }

    pub(super) fn answer<T: Send + 'static>(&mut self, reply: oneshot::Sender<T>, answer: T) {
        // Whoever asked may have gone.
        self.answers.push(Box::new(move || drop(reply.send(answer))));
    }

    fn prepare(
        &mut self,
        uid: Option<&PodUid>,
        namespace: &str,
        name: &str,
        container: &str,
        now: Moment,
    ) -> Result<Prepared, Denied> {
        let lease = self.lease_of(uid, namespace, name)?;
        if let Some(why) = self.lost_gpu_of(&lease) {
            return Err(Denied::NotNow(why));
        }
        self.engine.activate(&lease, now).map_err(|refused| {
            let lines = self.engine.explain(&lease, now).unwrap_or_default();
            Denied::NotNow(format!("{refused}; {}", lines.join("; ")))
        })?;
        let view = self.engine.lease(&lease).ok_or_else(|| Denied::Refused(Refused::UnknownLease(lease.clone())))?;
        let shares = view.placement.map(|placement| placement.gpus).unwrap_or_default();
        let amounts: Vec<Mib> = shares.iter().map(|share| share.memory).collect();
        let state = |at: usize| shares.get(at).and_then(|share| self.gpus.get(&share.uuid));
        let leasable: Vec<Mib> = (0..shares.len())
            .map(|at| state(at).map(|gpu| self.settings.margin.leasable(gpu.total, gpu.reserved)).unwrap_or_default())
            .collect();
        let slots = self.holders.get(&lease).and_then(|holder| holder.containers.get(container));
        let gpus = part_of(slots, &amounts, &leasable)
            .into_iter()
            .map(|(at, memory)| (shares[at].uuid.to_string(), state(at).map_or(0, |gpu| gpu.index), memory))
            .collect();
        Ok(Prepared { lease, gpus })
    }

    /// The lease of that pod; by name only where the UID is not known, and then of the pod that lives.
    fn lease_of(&self, uid: Option<&PodUid>, namespace: &str, name: &str) -> Result<LeaseId, Denied> {
        let live: Vec<&PodUid> = self
            .pods
            .values()
            .filter(|pod| pod.namespace == namespace && pod.name == name && pod.state == super::PodState::Live)
            .map(|pod| &pod.uid)
            .collect();
        // The kubelet tells no UID; of two pods with one name only the later one can be about to start.
        let uid = uid.or(if let [only] = live.as_slice() { Some(*only) } else { None });
        let named = |subject: &crate::order::Subject| match uid {
            Some(uid) => subject.pod == *uid,
            None => subject.namespace == namespace && subject.name == name,
        };
        let found: Vec<_> = self.holders.iter().filter(|(_, holder)| named(&holder.subject)).collect();
        if let [(lease, _)] = found.as_slice() {
            return Ok((*lease).clone());
        }
        if found.len() > 1 {
            return Err(Denied::NotNow(format!("several leases name a pod {namespace}/{name}: its UID is needed")));
        }
        let ordered = self.orders.values().find(|order| named(&order.subject));
        match (ordered, &self.hold) {
            (Some(order), _) => {
                let lease = &order.request.id;
                let why = match (self.refused.get(lease), self.ended.get(lease)) {
                    (Some(refused), _) => format!("was refused here: {}", refused.why),
                    (_, Some(ended)) => format!("has ended: {}", ended.reason),
                    _ => "is not admitted yet".to_owned(),
                };
                Err(Denied::NotNow(format!("lease {lease} {why}")))
            }
            (None, Hold::Open) => Err(Denied::NotFound(format!("no lease on this node names pod {namespace}/{name}"))),
            (None, _) => Err(Denied::NotNow("the ledger of this node is being rebuilt".to_owned())),
        }
    }

    fn lost_gpu_of(&self, lease: &LeaseId) -> Option<String> {
        let placement = self.engine.lease(lease)?.placement?;
        placement.gpus.iter().find_map(|share| {
            let gpu = self.gpus.get(&share.uuid)?;
            let lost = gpu.health.health() == Health::Lost;
            lost.then(|| format!("GPU {} is lost: {}", share.uuid, gpu.health.reason()))
        })
    }

    fn explain(&self, lease: &str, now: Moment) -> Result<Vec<String>, Denied> {
        let id = LeaseId::new(lease).map_err(|bad| Denied::NotFound(bad.to_string()))?;
        if let Some(refused) = self.refused.get(&id) {
            return Ok(vec![format!("{id} was refused: {}", refused.why)]);
        }
        if let Some(ended) = self.ended.get(&id) {
            return Ok(vec![format!("{id} has ended: {}", ended.reason)]);
        }
        self.engine_of(&id).explain(&id, now).map_err(|refused| Denied::NotFound(refused.to_string()))
    }

    fn held_by(&self, pod: &PodUid) -> Result<LeaseId, Denied> {
        let found = self.holders.iter().find(|(_, holder)| holder.subject.pod == *pod);
        found.map(|(lease, _)| lease.clone()).ok_or_else(|| Denied::NotFound(format!("pod {pod} holds no lease here")))
    }

    fn check_notice(&self, lease: &LeaseId, notice: &str) -> Result<(), Denied> {
        let current = self.lease_seen(lease).and_then(|view| super::view::notice_id(&view));
        if notice.is_empty() || current.as_deref() == Some(notice) {
            Ok(())
        } else {
            Err(Denied::NotNow(format!("notice {notice} stands no longer: watch for what holds now")))
        }
    }

    /// Takes in that a holder gives memory back. It is answered when that was seen, or not in time.
    pub(super) fn begin_to_give(
        &mut self,
        lease: LeaseId,
        what: &GiveBack,
        reply: oneshot::Sender<Result<LeaseId, Denied>>,
        now: Moment,
    ) {
        match self.check_gift(&lease, what, now) {
            Ok(Gift { memory, ram, to_be_seen, until }) => {
                self.gives.push(Give { lease, memory, ram, to_be_seen, asked: now, until, reply });
            }
            Err(denied) => self.answer(reply, Err(denied)),
        }
    }

    /// What is given, if that makes sense; RAM to move into is charged now.
    fn check_gift(&mut self, lease: &LeaseId, what: &GiveBack, now: Moment) -> Result<Gift, Denied> {
        self.check_notice(lease, &what.notice)?;
        let view = self.lease_seen(lease).ok_or_else(|| Denied::Refused(Refused::UnknownLease(lease.clone())))?;
        let until = match &view.phase {
            Phase::Revoking { notice, .. } => notice.deadline,
            Phase::Active { .. } => now.after(self.settings.give_back),
            phase => return Err(Denied::NotNow(format!("lease {lease} is {}", phase.name()))),
        };
        let (shares, ram) = view.placement.map(|placement| (placement.gpus, placement.ram)).unwrap_or_default();
        let held: Vec<Mib> = shares.iter().map(|share| share.memory).collect();
        let memory = if what.memory.is_empty() { held.clone() } else { what.memory.clone() };
        if memory.len() != held.len() {
            return Err(Denied::Refused(Refused::MisfitPlacement { slots: held.len() }));
        }
        if let Some(slot) = held.iter().zip(&memory).position(|(has, wants)| wants > has) {
            return Err(Denied::Refused(Refused::Grows { slot, has: held[slot], wants: memory[slot] }));
        }
        let (parts, parts_ram) = self.shared_out(lease);
        if let Some((part, _)) = parts.iter().zip(&memory).find(|(part, wants)| part > wants) {
            return Err(Denied::NotNow(format!(
                "{part} of lease {lease} is leased in code: give that back before the lease holds less"
            )));
        }
        if matches!(what.ram, RamWish::Down(wants) if wants < parts_ram) {
            return Err(Denied::NotNow(format!("{parts_ram} of RAM of lease {lease} is leased in code")));
        }
        if self.gives.iter().any(|give| give.lease == *lease) {
            return Err(Denied::NotNow(format!("lease {lease} is giving memory back already")));
        }
        let freed = held.iter().copied().sum::<Mib>().minus(memory.iter().copied().sum());
        let mut charged = what.ram;
        match what.ram {
            RamWish::Down(wants) if wants > ram => {
                return Err(Denied::BadRequest(format!(
                    "a lease can only give memory back: it holds {ram} of RAM, {wants} was asked"
                )));
            }
            RamWish::More(more) if !more.is_zero() => {
                // Before it is said whether there is so much: else a lease could grow past everybody who waits.
                if more > freed {
                    return Err(Denied::BadRequest(format!(
                        "what is moved into RAM comes off the GPUs: {freed} less is held there, and {more} of RAM was asked"
                    )));
                }
                let more = more.min(self.ram_after(lease, &shares, &memory).minus(ram));
                self.engine_of_mut(lease).reserve_ram(lease, more).map_err(Denied::Refused)?;
                charged = RamWish::More(more);
            }
            _ => {}
        }
        let to_be_seen = memory != held;
        Ok(Gift { memory, ram: charged, to_be_seen, until })
    }

    /// The most of RAM that a lease may hold when it has moved all but that there: what it asked for, and what it has of its GPUs no more. A move that an
    /// agent did not see the end of is charged already; asked for again, it costs nothing more, unless the lease shrank in another way too.
    fn ram_after(&self, lease: &LeaseId, shares: &[GpuShare], kept: &[Mib]) -> Mib {
        let Some(request) = self.engine_of(lease).request(lease) else { return Mib::ZERO };
        let granted = shares.iter().zip(&request.demand.slots).map(|(share, slot)| {
            let whole = self.gpus.get(&share.uuid).map(|gpu| self.settings.margin.leasable(gpu.total, gpu.reserved));
            whole.map_or(share.memory, |whole| slot.on(whole)).max(share.memory)
        });
        let moved: Mib = granted.zip(kept).map(|(granted, kept)| granted.minus(*kept)).sum();
        request.demand.ram.plus(moved)
    }

    /// Gives that the last look showed done are taken into the ledger; those that took too long fail.
    pub(super) fn settle_gives(&mut self, now: Moment) {
        let mut at = 0;
        while let Some(give) = self.gives.get(at) {
            let phase = self.lease_seen(&give.lease).map(|view| view.phase);
            let held = matches!(phase, Some(Phase::Active { .. } | Phase::Revoking { .. }));
            let given = held && self.is_given(give);
            if held && !given && now < give.until {
                at += 1;
                continue;
            }
            // The others stay where they are: who is served meanwhile must not get what they are giving back.
            let give = self.gives.remove(at);
            if given {
                let held = self.ram_of(&give.lease);
                let ram = if let RamWish::Down(wants) = give.ram { wants.min(held) } else { held };
                let lease = give.lease.clone();
                let done = self.engine_of_mut(&lease).shrink(&lease, &give.memory, ram).map_err(Denied::Refused);
                self.tell_facts();
                self.decide(now);
                self.answer(give.reply, done.map(|()| lease));
            } else {
                if let RamWish::More(more) = give.ram {
                    self.take_ram_back(&give.lease, more);
                }
                let why = format!("lease {} did not get down to what it said it would in time", give.lease);
                self.answer(give.reply, Err(Denied::TimedOut(why)));
            }
        }
    }

    fn is_given(&self, give: &Give) -> bool {
        if !give.to_be_seen {
            return true;
        }
        let readable = self.lease_seen(&give.lease).and_then(|view| view.placement).is_some_and(|placement| {
            placement.gpus.iter().all(|share| self.gpus.get(&share.uuid).is_some_and(|gpu| gpu.present.is_some()))
        });
        let used = self.used_by(&give.lease);
        readable && self.look_began >= give.asked && used.iter().zip(&give.memory).all(|(used, target)| used <= target)
    }

    fn ram_of(&self, lease: &LeaseId) -> Mib {
        self.lease_seen(lease).and_then(|view| view.placement).map(|placement| placement.ram).unwrap_or_default()
    }

    fn take_ram_back(&mut self, lease: &LeaseId, more: Mib) {
        let Some(placement) = self.lease_seen(lease).and_then(|view| view.placement) else { return };
        let same: Vec<Mib> = placement.gpus.iter().map(|share| share.memory).collect();
        if let Err(refused) = self.engine_of_mut(lease).shrink(lease, &same, placement.ram.minus(more)) {
            tracing::warn!(%lease, %refused, "cannot take back the RAM of an offload that failed");
        }
    }

    fn leave(&mut self, pod: &PodUid, notice: &str) -> Result<LeaseId, Denied> {
        let lease = self.held_by(pod)?;
        self.check_notice(&lease, notice)?;
        self.engine.stop(&lease, EndReason::Released).map_err(Denied::Refused)?;
        Ok(lease)
    }
}
