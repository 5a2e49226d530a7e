//! What a node takes in: what was seen, what is wished, what is asked. Plain data: nothing here changes anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use memboss_core::{Class, LeaseId, Mib, Moment, Signals};
use memboss_crds::LeaseKind;
use tokio::sync::oneshot;

use super::admin::{AdminInput, Wish};
use super::clients::ClientInput;
use super::holders::Ask;
use super::relief;
use super::view::Snapshot;
use crate::order::{Order, Subject};
use crate::probes::meminfo::Ram;
use crate::probes::nvml::{NoNvml, Sample};
use crate::probes::processes::{Owner, PodUid, Process};
use crate::probes::xid::Xid;

/// One look at the node: the pods first, then the GPUs, so that a pod that is gone in it had nothing left to start with.
#[derive(Debug)]
pub struct Observation {
    /// When it began.
    pub began: Moment,
    /// Pods that have a cgroup; `None` when that cannot be told.
    pub pods: Option<BTreeSet<PodUid>>,
    /// The GPUs, or why they cannot be seen.
    pub reading: Result<Sample, NoNvml>,
    /// Whose the processes on them are; `None` for one that is gone.
    pub owners: BTreeMap<u32, Option<Owner>>,
    /// From whom they descend, themselves first; looked at only where processes lease in code.
    pub lineages: BTreeMap<u32, Vec<Process>>,
    /// Host memory, if it can be read.
    pub ram: Option<Ram>,
    /// What holders of RAM have of it that cannot be dropped; looked at only where [`super::Node::wants_ram_of`] says.
    pub ram_used: BTreeMap<LeaseId, Mib>,
    /// How hard pressed RAM is, if that can be told.
    pub signals: Option<Signals>,
}

/// Who uses the RAM of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RamUser {
    /// All processes of that pod.
    Pod(PodUid),
    /// That process and those that it began.
    Process(Process),
}

impl RamUser {
    /// The pod, if it is one.
    #[must_use]
    pub const fn pod(&self) -> Option<&PodUid> {
        if let Self::Pod(pod) = self { Some(pod) } else { None }
    }

    /// The process, if it is one.
    #[must_use]
    pub const fn process(&self) -> Option<Process> {
        if let Self::Process(process) = self { Some(*process) } else { None }
    }
}

/// What the API server says of a pod on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFact {
    /// Its UID.
    pub uid: PodUid,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// How it is.
    pub state: PodState,
    /// Its class, which none of what it leases in code is above.
    pub class: Class,
    /// It asked for a lease of its own, and leases in code out of that.
    pub has_lease: bool,
}

impl PodFact {
    /// Who it is.
    #[must_use]
    pub fn subject(&self) -> Subject {
        Subject { pod: self.uid.clone(), namespace: self.namespace.clone(), name: self.name.clone() }
    }
}

/// How a pod is, as the API server says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodState {
    /// It runs, or will.
    Live,
    /// It is being deleted.
    Leaving,
    /// It has succeeded or failed, or is gone.
    Over,
}

/// What a node takes in.
#[derive(Debug)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// A look at the node.
    Seen(Box<Observation>),
    /// A GPU reported an error.
    Xid(Xid),
    /// All placements of that kind on this node.
    Orders(LeaseKind, Vec<Order>),
    /// One placement, new or changed.
    Order(Box<Order>),
    /// A lease whose object is gone or went to another node.
    OrderGone(LeaseId),
    /// All pods of leases on this node.
    Pods(Vec<PodFact>),
    /// One pod, new or changed.
    Pod(PodFact),
    /// What the API server says that the installation is.
    Incarnation(String),
    /// The administrator's wish.
    Drain(Wish),
    /// A device plugin came or went.
    Plugin(Presence),
    /// Somebody on the node asks.
    Ask(Ask),
    /// A process that leases in code asks, or something happened to it.
    Client(ClientInput),
    /// Root on the node asks.
    Admin(AdminInput),
    /// Cache was dropped.
    Cleaned(relief::Cleaned),
    /// So much of what was dropped is in the cache again.
    CameBack(Mib),
    /// Somebody wants to see the node as it is when all that came before this is done. The task answers.
    Show(oneshot::Sender<Arc<Snapshot>>),
}

/// Whether somebody came or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Came.
    Came,
    /// Went.
    Went,
}

impl Presence {
    pub(super) const fn counted(self, there: usize) -> usize {
        match self {
            Self::Came => there + 1,
            Self::Went => there.saturating_sub(1),
        }
    }
}
