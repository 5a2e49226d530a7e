//! Every reason to refuse and every reason to wait: one variant each, with one name (for the log, condition, event, metric and command)
//! and one message. It may not decide anything.

use serde::{Deserialize, Serialize};

use crate::ids::{GpuUuid, LeaseId, NodeName};
use crate::units::{Mib, Moment};

/// Why something was not done. Nothing has changed when one of these comes back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Refused {
    /// Nothing is asked.
    #[error("the request asks for no memory: give it at least one slot or some RAM")]
    AsksNothing,
    /// The id is in use for something else.
    #[error("lease {0} exists with another demand or class: use a new id")]
    IdInUse(LeaseId),
    /// No such lease.
    #[error("no lease {0} is known here")]
    UnknownLease(LeaseId),
    /// No such node.
    #[error("no node {0} is known here")]
    UnknownNode(NodeName),
    /// No such GPU on that node.
    #[error("node {node} has no GPU {gpu}")]
    UnknownGpu {
        /// The node.
        node: NodeName,
        /// The GPU.
        gpu: GpuUuid,
    },
    /// The same GPU for two slots, or another number of GPUs than slots.
    #[error("the placement does not match the demand: each of {slots} slots needs a GPU of its own")]
    MisfitPlacement {
        /// How many slots there are.
        slots: usize,
    },
    /// A placement where the request did not ask to be.
    #[error("{place} is none that the request accepts: its model, UUID or node is another")]
    NotWanted {
        /// GPU, or the node's RAM.
        place: String,
    },
    /// The GPU or node takes nothing new.
    #[error("{place} takes no new leases: {why}")]
    Closed {
        /// GPU or node.
        place: String,
        /// Why.
        why: Closed,
    },
    /// Not enough is free.
    #[error("{place} has {free} free for this class, {need} is needed")]
    NoRoom {
        /// GPU, or the node's RAM.
        place: String,
        /// What is needed.
        need: Mib,
        /// What is free for the class.
        free: Mib,
    },
    /// The step does not follow that phase.
    #[error("lease {lease} is {phase}: {step} is not possible from there")]
    WrongPhase {
        /// The lease.
        lease: LeaseId,
        /// Its phase.
        phase: String,
        /// The step.
        step: &'static str,
    },
    /// A token from before the present grant.
    #[error("the token is older than the lease's present one")]
    StaleToken,
    /// A placement by a leader that is one no longer.
    #[error("the placement's epoch {given} is older than {seen}, which this node has seen")]
    StaleEpoch {
        /// The newest seen.
        seen: u64,
        /// What came.
        given: u64,
    },
    /// A shrink that would grow.
    #[error("a lease can only give memory back: slot {slot} holds {has}, {wants} was asked")]
    Grows {
        /// Which slot.
        slot: usize,
        /// What it holds.
        has: Mib,
        /// What was asked.
        wants: Mib,
    },
}

impl Refused {
    /// Its one name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::AsksNothing => "AsksNothing",
            Self::IdInUse(_) => "IdInUse",
            Self::UnknownLease(_) => "UnknownLease",
            Self::UnknownNode(_) => "UnknownNode",
            Self::UnknownGpu { .. } => "UnknownGpu",
            Self::MisfitPlacement { .. } => "MisfitPlacement",
            Self::NotWanted { .. } => "NotWanted",
            Self::Closed { why: Closed::NodePressure, .. } => "NodePressure",
            Self::Closed { .. } => "Closed",
            Self::NoRoom { .. } => "NoRoom",
            Self::WrongPhase { .. } => "WrongPhase",
            Self::StaleToken => "StaleToken",
            Self::StaleEpoch { .. } => "StaleEpoch",
            Self::Grows { .. } => "Grows",
        }
    }
}

/// Why a GPU or a node takes nothing new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error, Serialize, Deserialize)]
pub enum Closed {
    /// Its GPU is gone or answers no more.
    #[error("the GPU is lost: it is gone, or answers no more")]
    Lost,
    /// It is not well; what runs goes on.
    #[error("the GPU is degraded")]
    Degraded,
    /// It is being emptied.
    #[error("it is being drained")]
    Draining,
    /// Its heartbeat is missing.
    #[error("its heartbeat is missing")]
    Suspect,
    /// Its ledger is being rebuilt.
    #[error("its ledger is in quarantine")]
    Quarantine,
    /// Its driver has not answered yet.
    #[error("the driver has not told yet which GPUs there are")]
    Unread,
    /// Its RAM is hard pressed.
    #[error("its RAM is under pressure")]
    NodePressure,
}

impl Closed {
    /// Its one name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lost => "Lost",
            Self::Degraded => "Degraded",
            Self::Draining => "Draining",
            Self::Suspect => "Suspect",
            Self::Quarantine => "Quarantine",
            Self::Unread => "Unread",
            Self::NodePressure => "NodePressure",
        }
    }
}

fn on_its_way(victims: usize) -> String {
    match victims {
        0 => "what it needs is about to become free".to_owned(),
        some => format!("{some} lower lease(s) were asked to give way"),
    }
}

fn largest_gpu(largest: Mib) -> String {
    if largest.is_zero() {
        "none has so many that it allows".to_owned()
    } else {
        format!("the largest that is there for it has {largest}")
    }
}

fn most_ram(most: Mib, when_empty: bool) -> String {
    if when_empty {
        format!("no node has more than {most} for it now")
    } else {
        format!("the most that is free for it on one node is {most}")
    }
}

/// Why a lease waits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Waiting {
    /// Just come.
    #[error("not looked at yet")]
    New,
    /// Nowhere is enough free, and nobody of a lower class may be asked to go.
    #[error("needs {need} on one GPU; the most that is free for class {class} on an eligible GPU is {most_free}")]
    NoRoom {
        /// The largest slot.
        need: Mib,
        /// The most that is free.
        most_free: Mib,
        /// The class.
        class: crate::class::Class,
    },
    /// Every GPU that would do takes nothing new, or none is known yet on the nodes that may have one.
    #[error("no GPU that would do takes new leases; {gpu}: {why}")]
    Closed {
        /// One of them, or those of such a node.
        gpu: String,
        /// Why.
        why: Closed,
    },
    /// It would fit, but would delay the lease before it.
    #[error("would fit on {gpu}, but that memory is kept for {head}, which is before it in the queue")]
    Behind {
        /// The head of that queue.
        head: LeaseId,
        /// Where.
        gpu: String,
    },
    /// Lower classes hold enough, but they are protected for now.
    #[error("lower classes hold enough, but they are protected until they have run for their minimum time")]
    VictimsProtected {
        /// When the first protection ends.
        until: Moment,
    },
    /// Memory is on its way: victims have been told.
    #[error("holds a claim on {node}: {}", on_its_way(*victims))]
    Claimed {
        /// Where.
        node: NodeName,
        /// How many.
        victims: usize,
    },
    /// No GPU could ever hold it.
    #[error("needs {need} on each of {gpus} GPU(s) of one node; {}", largest_gpu(*largest))]
    Unsatisfiable {
        /// The largest slot.
        need: Mib,
        /// How many GPUs.
        gpus: usize,
        /// The most that an eligible GPU could give if it were empty; for several slots, the smallest of a node's best GPUs.
        largest: Mib,
    },
    /// No node's RAM could ever hold it, or not enough is free.
    #[error("needs {need} of RAM; {}", most_ram(*most, *when_empty))]
    NoRam {
        /// What is needed.
        need: Mib,
        /// The most that one node has for it.
        most: Mib,
        /// That is when nobody leases any of it, and too little even so; else it is what is free now.
        when_empty: bool,
    },
    /// A node where it could go is so hard pressed for RAM that nothing new is granted of it for now.
    #[error("needs {need} of RAM, and nothing is granted of the RAM of {node} while that is under pressure")]
    NodePressure {
        /// What is needed.
        need: Mib,
        /// Where.
        node: NodeName,
    },
}

impl Waiting {
    /// Its one name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::New => "New",
            Self::NoRoom { .. } => "NoRoom",
            Self::Closed { .. } => "Closed",
            Self::Behind { .. } => "Behind",
            Self::VictimsProtected { .. } => "VictimsProtected",
            Self::Claimed { .. } => "Claimed",
            Self::Unsatisfiable { .. } => "Unsatisfiable",
            Self::NoRam { .. } => "NoRam",
            Self::NodePressure { .. } => "NodePressure",
        }
    }

    /// Whether only another GPU or node can change it.
    #[must_use]
    pub const fn is_unsatisfiable(&self) -> bool {
        matches!(self, Self::Unsatisfiable { .. })
    }
}
