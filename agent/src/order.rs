//! Placements that this node was given, and what is to be done about one. The decision is a pure function of what was ordered and what is held.

use std::collections::BTreeMap;

use memboss_core::{EndReason, LeaseId, Mib, Phase, Placement, Request, Slot, Token};
use memboss_crds::{LeaseKind, object_of};
use serde::{Deserialize, Serialize};

use crate::probes::processes::PodUid;

/// Which leader of which installation decided something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    /// The installation.
    pub incarnation: String,
    /// Its leaders, counted.
    pub number: u64,
}

/// Who holds a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The pod's UID.
    pub pod: PodUid,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Which slots a container uses, and how much of each is its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSlots {
    /// Places in the demand.
    pub slots: Vec<usize>,
    /// Its own part of each; empty for all of it.
    pub asks: Vec<Slot>,
}

/// A lease that is to be on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The UID of the object that carries it.
    pub object: String,
    /// Who is to hold it.
    pub subject: Subject,
    /// What is asked, with the amounts fixed at placement.
    pub request: Request,
    /// Where.
    pub placement: Placement,
    /// What leases may hold of this node's RAM in all, as the operator sees it from what pods request; nothing where no RAM is asked.
    pub ram_room: Option<Mib>,
    /// Whether others may be asked to give way.
    pub may_preempt: bool,
    /// Who decided.
    pub epoch: Epoch,
    /// Counts the placements of this lease.
    pub attempt: u32,
    /// Why it is not wanted any more, if so.
    pub unwanted: Option<EndReason>,
    /// Its object is being deleted, and goes once its memory was seen free.
    pub deleting: bool,
    /// Which container uses what.
    pub containers: BTreeMap<String, ContainerSlots>,
    /// What the object says became of it: all that is left when the ledger is lost.
    pub recorded: Option<Recorded>,
}

/// What a lease's object says of its memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The state it had.
    pub state: State,
    /// The attempt it had it for.
    pub attempt: u32,
    /// Where it was.
    pub gpus: Vec<memboss_core::GpuShare>,
    /// The host RAM it had.
    pub ram: Mib,
    /// The token it had.
    pub token: Token,
    /// Why it was stopping, if it was.
    pub reason: Option<EndReason>,
}

/// The agent's state of a lease as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Not taken.
    Refused,
    /// A reservation nobody came for in time: it waits for this node.
    Waiting,
    /// Memory is on its way.
    Claimed,
    /// Charged.
    Reserved,
    /// Held.
    Active,
    /// Told to give memory back.
    Revoking,
    /// Being ended.
    Stopping,
    /// Seen free.
    Ended,
}

impl State {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "Refused",
            Self::Waiting => "Waiting",
            Self::Claimed => "Claimed",
            Self::Reserved => "Reserved",
            Self::Active => "Active",
            Self::Revoking => "Revoking",
            Self::Stopping => "Stopping",
            Self::Ended => "Ended",
        }
    }

    /// Whether memory is charged.
    #[must_use]
    pub const fn is_charged(self) -> bool {
        matches!(self, Self::Reserved | Self::Active | Self::Revoking | Self::Stopping)
    }
}

/// Which answer a placement has had: an attempt is judged anew when another leader repeats it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// The object.
    pub object: String,
    /// The attempt.
    pub attempt: u32,
}

/// What this node has of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held<'a> {
    /// Nothing.
    Nothing,
    /// It is in the ledger.
    Lease {
        /// The placement it was taken for.
        answered: &'a Answered,
        /// Where it is in its life.
        phase: &'a Phase,
        /// Where it is or is to be.
        placement: Option<&'a Placement>,
    },
    /// It was refused.
    Refused {
        /// Which placement.
        answered: &'a Answered,
        /// Whose.
        epoch: &'a Epoch,
    },
    /// It is over.
    Ended {
        /// The placement it was taken for.
        answered: &'a Answered,
    },
}

/// What is to be done about an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing new.
    Keep,
    /// The same place under a new number.
    Renumber,
    /// Give it back; when it is free, look again.
    Release(EndReason),
    /// It is unwanted and nothing is held: say that it is over.
    Close(EndReason),
    /// Take it, or refuse it with a reason.
    Admit,
    /// Nothing can be granted now; look again later.
    Later,
    /// Another installation decided it: ask the API server whether that is true.
    Confirm,
    /// A leader that is one no longer decided it.
    Stale {
        /// The newest number seen.
        seen: u64,
    },
}

/// What is to be done about that order, given what is held, the newest epoch seen, and whether anything may be granted now.
#[must_use]
pub fn judge(order: &Order, held: &Held<'_>, floor: Option<&Epoch>, may_grant: bool) -> Action {
    if let Some(reason) = order.unwanted {
        return match held {
            Held::Lease { phase: Phase::Stopping { .. }, .. } | Held::Ended { .. } => Action::Keep,
            Held::Lease { .. } => Action::Release(reason),
            Held::Nothing | Held::Refused { .. } => Action::Close(reason),
        };
    }
    if let (Held::Nothing | Held::Refused { .. }, Some(reason)) = (held, over_by_record(order)) {
        return Action::Close(reason);
    }
    match held {
        Held::Lease { answered, phase, placement } => {
            let same_object = answered.object == order.object;
            if same_object && answered.attempt >= order.attempt {
                return Action::Keep;
            }
            match phase {
                // Its holder is there: memory decides, not a number.
                Phase::Active { .. } | Phase::Revoking { .. } | Phase::Stopping { .. } | Phase::Ended(_) => {
                    Action::Keep
                }
                _ if *placement == Some(&order.placement) => Action::Renumber,
                _ => Action::Release(EndReason::Released),
            }
        }
        Held::Refused { answered, epoch } if is_answer_to(answered, order) && **epoch == order.epoch => Action::Keep,
        Held::Ended { answered } if is_answer_to(answered, order) => Action::Keep,
        _ if !may_grant => Action::Later,
        _ => match floor {
            Some(floor) if floor.incarnation != order.epoch.incarnation => Action::Confirm,
            Some(floor) if floor.number > order.epoch.number => Action::Stale { seen: floor.number },
            Some(_) => Action::Admit,
            None => Action::Confirm,
        },
    }
}

/// Why that very placement is over, if its object says so: the ledger that knew may be lost.
fn over_by_record(order: &Order) -> Option<EndReason> {
    let recorded = order.recorded.as_ref()?;
    let over = recorded.state == State::Ended && recorded.attempt >= order.attempt;
    over.then(|| recorded.reason.unwrap_or(EndReason::Exited))
}

fn is_answer_to(answered: &Answered, order: &Order) -> bool {
    answered.object == order.object && answered.attempt >= order.attempt
}

/// A container's part of a lease's GPUs: each of its slots with its own amount.
#[must_use]
pub fn part_of(container: Option<&ContainerSlots>, shares: &[Mib], leasable: &[Mib]) -> Vec<(usize, Mib)> {
    let Some(container) = container else { return shares.iter().copied().enumerate().collect() };
    let own = |at: usize, slot: usize| {
        let share = shares.get(slot).copied()?;
        let asked = container.asks.get(at).map(|ask| ask.on(leasable.get(slot).copied().unwrap_or_default()));
        Some((slot, asked.filter(|asked| !asked.is_zero()).unwrap_or(share).min(share)))
    };
    container.slots.iter().enumerate().filter_map(|(at, slot)| own(at, *slot)).collect()
}

/// The kind of the object that a lease's id stands for, its namespace and its name.
#[must_use]
pub fn object_name(lease: &LeaseId) -> (LeaseKind, &str, &str) {
    object_of(lease.as_str())
}

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;
