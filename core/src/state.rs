//! The life of a lease: its phases, which step follows which, its token and its notice. It may not decide when a step is due.
//!
//! ```text
//! Waiting --> Reserved --> Active <--> Revoking --> Stopping --> Ended
//!    ^           |            \____________\___________________--^
//!    +-----------+ (the reservation timed out)
//! ```
//! Charged = Reserved + Active + Revoking + Stopping.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::class::Class;
use crate::ids::LeaseId;
use crate::units::{Mib, Moment};

/// Where a lease is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// In the queue, or holding a claim on memory that its victims are about to free. Nothing is charged.
    Waiting,
    /// Charged; its holder has not come yet.
    Reserved {
        /// When it is put back if nobody comes.
        until: Moment,
    },
    /// Charged and held.
    Active {
        /// Since when.
        since: Moment,
    },
    /// Charged; its holder has been told to give memory back.
    Revoking {
        /// Since when it had been active, to return to if it is spared.
        since: Moment,
        /// What it was told.
        notice: Notice,
    },
    /// Charged; its holder is being ended.
    Stopping {
        /// Why.
        reason: EndReason,
    },
    /// Over; nothing is charged.
    Ended(EndReason),
}

impl Phase {
    /// Whether memory is charged to it.
    #[must_use]
    pub const fn is_charged(&self) -> bool {
        !matches!(self, Self::Waiting | Self::Ended(_))
    }

    /// The phase's name as users see it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Waiting => "Waiting",
            Self::Reserved { .. } => "Reserved",
            Self::Active { .. } => "Active",
            Self::Revoking { .. } => "Revoking",
            Self::Stopping { .. } => "Stopping",
            Self::Ended(_) => "Ended",
        }
    }
}

/// Why a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum EndReason {
    /// Its holder gave it back.
    Released,
    /// Its holder is gone.
    Exited,
    /// Its time was up.
    Expired,
    /// It gave way to a higher class.
    Preempted,
    /// Its GPU or node was drained.
    Drained,
    /// Its object was deleted.
    Deleted,
    /// Its GPU is gone.
    GpuLost,
    /// Its node is gone.
    NodeLost,
    /// It used more than it leased, and its class's policy is to end such leases.
    OverLease,
    /// Its node's RAM was so hard pressed that somebody had to go.
    NodePressure,
}

impl EndReason {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Released,
        Self::Exited,
        Self::Expired,
        Self::Preempted,
        Self::Drained,
        Self::Deleted,
        Self::GpuLost,
        Self::NodeLost,
        Self::OverLease,
        Self::NodePressure,
    ];

    /// The one name it has in conditions, events, metrics and commands.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Released => "Released",
            Self::Exited => "Exited",
            Self::Expired => "Expired",
            Self::Preempted => "Preempted",
            Self::Drained => "Drained",
            Self::Deleted => "Deleted",
            Self::GpuLost => "GpuLost",
            Self::NodeLost => "NodeLost",
            Self::OverLease => "OverLease",
            Self::NodePressure => "NodePressure",
        }
    }

    /// The reason of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a holder is told before its memory is taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// For whom, if for somebody.
    pub preemptor: Option<LeaseId>,
    /// The preemptor's class.
    pub class: Option<Class>,
    /// Why.
    pub reason: EndReason,
    /// What must become free on each of the holder's slots.
    pub needed: Vec<Mib>,
    /// What must become free of its RAM.
    pub needed_ram: Mib,
    /// When the next rung of the ladder is due.
    pub deadline: Moment,
}

impl Notice {
    /// Whether its holder goes to make room for that lease, and for nothing else.
    #[must_use]
    pub fn makes_room_for(&self, lease: &LeaseId) -> bool {
        self.reason == EndReason::Preempted && self.preemptor.as_ref() == Some(lease)
    }
}

/// Proof that a lease was granted, and which grant is the newer: both parts only grow on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Token {
    /// The agent's start, counted.
    pub epoch: u32,
    /// The grant within it.
    pub sequence: u64,
}
