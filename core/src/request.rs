//! What is asked: memory on one or several GPUs and host RAM of one node, by whom it may be given, and how urgent it is.
//! It may not know who holds what.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::class::Class;
use crate::ids::{GpuModel, GpuUuid, LeaseId, NodeName};
use crate::units::{Mib, Moment, Percent, Span};

/// The demand on one GPU: a fixed amount, a share of whichever GPU it becomes, or the sum of both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slot {
    /// Fixed part.
    #[serde(default)]
    pub fixed: Mib,
    /// Part that is a share of the GPU's leasable capacity.
    #[serde(default)]
    pub share: Option<Percent>,
}

impl Slot {
    /// A fixed amount.
    #[must_use]
    pub const fn fixed(mib: Mib) -> Self {
        Self { fixed: mib, share: None }
    }

    /// What this comes to on a GPU with that leasable capacity.
    #[must_use]
    pub fn on(self, leasable: Mib) -> Mib {
        self.share.map_or(self.fixed, |share| self.fixed.plus(leasable.share(share)))
    }
}

/// All that one lease holds, granted in one step or not at all. Each slot is a different GPU of the same node.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Demand {
    /// One entry for each GPU.
    #[serde(default)]
    pub slots: Vec<Slot>,
    /// Host RAM.
    #[serde(default)]
    pub ram: Mib,
}

impl Demand {
    /// Whether it is nothing at all, or a slot of it is.
    pub(crate) fn asks_nothing(&self) -> bool {
        (self.slots.is_empty() && self.ram.is_zero())
            || self.slots.iter().any(|slot| slot.fixed.is_zero() && slot.share.is_none())
    }
}

/// Which GPUs will do. Empty lists mean any.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GpuSelector {
    /// Wishes such as `H100`; one match is enough.
    #[serde(default)]
    pub models: Vec<String>,
    /// Exactly these.
    #[serde(default)]
    pub uuids: Vec<GpuUuid>,
}

impl GpuSelector {
    /// Whether that GPU will do.
    #[must_use]
    pub fn accepts(&self, uuid: &GpuUuid, model: &GpuModel) -> bool {
        (self.models.is_empty() || self.models.iter().any(|wish| model.matches(wish)))
            && (self.uuids.is_empty() || self.uuids.contains(uuid))
    }
}

/// Which nodes will do.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum NodeSelector {
    /// Any.
    #[default]
    Any,
    /// One of these.
    Only(BTreeSet<NodeName>),
}

impl NodeSelector {
    /// Whether that node will do.
    #[must_use]
    pub fn accepts(&self, node: &NodeName) -> bool {
        match self {
            Self::Any => true,
            Self::Only(nodes) => nodes.contains(node),
        }
    }
}

/// Where to put a lease that fits in several places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Layout {
    /// Where the least stays free, so that large requests find room.
    #[default]
    Pack,
    /// Where the most stays free, so that neighbours disturb each other least.
    Spread,
}

/// What the holder can do other than going when it is asked for memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Flexibility {
    /// It can give a part back and go on.
    pub shrinks: bool,
    /// It can move a part into host RAM and go on.
    pub offloads: bool,
}

impl Flexibility {
    /// Whether there is a cheaper way than ending it.
    #[must_use]
    pub const fn any(self) -> bool {
        self.shrinks || self.offloads
    }
}

/// A request for a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Its name; the same name twice is one lease.
    pub id: LeaseId,
    /// Its class.
    pub class: Class,
    /// What it holds.
    pub demand: Demand,
    /// Which GPUs will do.
    #[serde(default)]
    pub gpus: GpuSelector,
    /// Which nodes will do.
    #[serde(default)]
    pub nodes: NodeSelector,
    /// Pack or spread.
    #[serde(default)]
    pub layout: Layout,
    /// Since when it waits; a preempted lease that comes again keeps its moment.
    pub enqueued: Moment,
    /// What its holder can do when asked for memory.
    #[serde(default)]
    pub flexibility: Flexibility,
    /// Its own wish for the time between notice and stop, instead of its preemptor's class's.
    #[serde(default)]
    pub notice: Option<Span>,
    /// Its own protection after becoming active, instead of its class's. A longer one than the class's is cut to it.
    #[serde(default)]
    pub protection: Option<Span>,
    /// How often it was preempted before.
    #[serde(default)]
    pub preempted: u32,
}

impl Request {
    /// A request of that name, class and demand; everything else as if nothing had been said.
    #[must_use]
    pub fn new(id: LeaseId, class: Class, demand: Demand, enqueued: Moment) -> Self {
        Self {
            id,
            class,
            demand,
            gpus: GpuSelector::default(),
            nodes: NodeSelector::default(),
            layout: Layout::default(),
            enqueued,
            flexibility: Flexibility::default(),
            notice: None,
            protection: None,
            preempted: 0,
        }
    }
}

/// Where a lease is, or is to be: each slot's GPU and amount, in slot order, and the RAM of the same node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The node.
    pub node: NodeName,
    /// Slot by slot.
    pub gpus: Vec<GpuShare>,
    /// Host RAM.
    #[serde(default)]
    pub ram: Mib,
}

/// An amount on one GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuShare {
    /// The GPU.
    pub uuid: GpuUuid,
    /// How much of it.
    pub memory: Mib,
}
