//! `VramLease`: GPU memory of one node for one pod or process. The operator writes the spec and all of the status but `allocation`; the node's agent
//! writes `allocation`. It may hold fields and their checks; rules are in `memboss-core`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::terms::{Class, Epoch, Layout, Owner};

/// What is asked.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "memboss.dev",
    version = "v1alpha1",
    kind = "VramLease",
    plural = "vramleases",
    shortname = "vram",
    shortname = "vramlease",
    category = "memboss",
    namespaced,
    status = "VramLeaseStatus",
    doc = "A lease of GPU memory: who holds or waits for how much of which GPU, in which class, and why.",
    derive = "PartialEq",
    selectable = ".spec.class",
    selectable = ".status.phase",
    selectable = ".status.placement.node",
    printcolumn = r#"{"name":"Pod","type":"string","jsonPath":".spec.subject.podName"}"#,
    printcolumn = r#"{"name":"Class","type":"string","jsonPath":".spec.class"}"#,
    printcolumn = r#"{"name":"Requested","type":"string","jsonPath":".spec.requested"}"#,
    printcolumn = r#"{"name":"State","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".status.placement.node"}"#,
    printcolumn = r#"{"name":"GPU","type":"string","jsonPath":".status.allocation.display"}"#,
    printcolumn = r#"{"name":"Used","type":"string","jsonPath":".status.allocation.used"}"#,
    printcolumn = r#"{"name":"Place","type":"integer","jsonPath":".status.queue.position"}"#,
    printcolumn = r#"{"name":"Why","type":"string","jsonPath":".status.why"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"RAM","type":"string","jsonPath":".spec.ram","priority":1}"#,
    printcolumn = r#"{"name":"Queued at","type":"string","jsonPath":".spec.queuedAt","priority":1}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.message","priority":1}"#
)]
#[x_kube(validation = Rule::new("self.slots == oldSelf.slots").message("what a lease holds is fixed when it is made; make another lease").field_path(".slots"))]
#[x_kube(validation = Rule::new("has(self.ram) == has(oldSelf.ram) && (!has(self.ram) || self.ram == oldSelf.ram)").message("what a lease holds is fixed when it is made; make another lease").field_path(".ram"))]
#[x_kube(validation = Rule::new("self.subject == oldSelf.subject").message("a lease belongs to its subject for ever").field_path(".subject"))]
#[x_kube(validation = Rule::new("self.containers.all(c, c.slots.all(i, i >= 0 && i < size(self.slots)))").message("a container can only use slots that the lease has").field_path(".containers"))]
#[serde(rename_all = "camelCase")]
pub struct VramLeaseSpec {
    /// Who holds it.
    pub subject: Subject,
    /// Its class.
    #[serde(default)]
    pub class: Class,
    /// What it asks on each GPU; every slot is another GPU of the same node.
    #[schemars(length(min = 1, max = 16))]
    pub slots: Vec<Slot>,
    /// The same as people write it (`8Gi`, `2x8Gi`, `50%`).
    #[serde(default)]
    pub requested: String,
    /// Which container uses which slots.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub containers: Vec<ContainerSlots>,
    /// Host RAM of the same node, granted in the same step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[1-9][0-9]{0,9}(Mi|Gi)$"))]
    pub ram: Option<String>,
    /// Which GPUs will do.
    #[serde(default)]
    pub selector: GpuSelector,
    /// Pack or spread.
    #[serde(default)]
    pub layout: Layout,
    /// Its place in the queue: RFC 3339, microseconds. A lease that follows a preempted one keeps the old place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub queued_at: Option<String>,
    /// How often the work was preempted before.
    #[serde(default)]
    pub preempted: u32,
    /// The time it wishes for between notice and stop; at most 300.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 300))]
    pub notice_seconds: Option<u32>,
    /// A shorter protection after becoming active than its class has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protection_seconds: Option<u32>,
    /// Its holder can give a part back and go on.
    #[serde(default)]
    pub can_shrink: bool,
    /// Its holder can move a part into host RAM and go on.
    #[serde(default)]
    pub can_offload: bool,
}

/// Who holds a lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    /// The pod's name.
    pub pod_name: String,
    /// The pod's UID: another pod of the same name is another holder.
    pub pod_uid: String,
    /// What made the pod and would make it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
}

/// A demand on one GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.memory) || has(self.percent)").message("a slot needs memory (such as 8Gi), a percent (1 to 100), or both"))]
#[serde(rename_all = "camelCase")]
pub struct Slot {
    /// A fixed amount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[1-9][0-9]{0,9}(Mi|Gi)$"))]
    pub memory: Option<String>,
    /// A share of the GPU's leasable capacity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub percent: Option<u8>,
}

/// Which slots a container uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerSlots {
    /// The container.
    pub name: String,
    /// Places in `slots`.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub slots: Vec<u32>,
    /// Its own part of each of them, as it asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asks: Vec<Slot>,
}

/// Which GPUs will do; an empty list means any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GpuSelector {
    /// Parts of model names; one match is enough.
    #[serde(default)]
    pub models: Vec<String>,
    /// Exactly these.
    #[serde(default)]
    pub uuids: Vec<String>,
}

/// How it stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct VramLeaseStatus {
    /// The one word for its state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<LeasePhase>,
    /// The reason's name, for the table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The reason in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Where it is to go: the operator's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// What became of that: the agent's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocation: Option<Allocation>,
    /// How it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueStatus>,
    /// When its memory was reserved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved_at: Option<Time>,
    /// When its holder came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_at: Option<Time>,
    /// When its memory was seen free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Time>,
    /// Why it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<String>,
    /// The lease that took over its place in the queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inherited_by: Option<String>,
    /// The spec's generation that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// In the words of the API conventions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// The state in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LeasePhase {
    /// In the queue, or waiting for its victims to leave.
    #[default]
    Waiting,
    /// Could never be granted with what the cluster has.
    Unsatisfiable,
    /// Charged; its holder has not come yet.
    Reserved,
    /// Held.
    Active,
    /// Its holder has been told to give memory back.
    Revoking,
    /// Its holder is being ended; its memory is in use still.
    Stopping,
    /// Over.
    Ended,
}

/// Where a lease is to go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// The node.
    pub node: String,
    /// Slot by slot.
    #[serde(default)]
    pub gpus: Vec<GpuAmount>,
    /// Host RAM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ram: Option<String>,
    /// What leases may hold of the node's RAM in all: what its kubelet gives to pods, less what they request beside their leases. The agent sees what is
    /// really there and knows no requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ram_room: Option<String>,
    /// Which leader decided it.
    pub epoch: Epoch,
    /// Counts the placements of this lease: an answer to an older one is out of date.
    pub attempt: u32,
    /// Leases (`namespace/name`) that are to give way.
    #[serde(default)]
    pub victims: Vec<String>,
    /// Set when the lease is not wanted any more: the agent ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawn: Option<String>,
}

/// An amount of one GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GpuAmount {
    /// The GPU.
    pub uuid: String,
    /// How much.
    pub memory: String,
}

/// What became of a placement.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Allocation {
    /// The agent's state for it.
    pub state: AllocationState,
    /// The attempt that this answers.
    pub attempt: u32,
    /// Slot by slot.
    #[serde(default)]
    pub gpus: Vec<AllocatedGpu>,
    /// The GPUs in short, for the table (`gpu0`, `gpu0,gpu1`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display: Option<String>,
    /// Host RAM charged to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ram: Option<String>,
    /// The proof of the grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// What its holder was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<Notice>,
    /// The name of the reason for the state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The reason in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What its holder is seen to use: on GPUs as NVML shows it, of a RamLease as its control group tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<String>,
    /// Whether it uses more than it leased.
    #[serde(default)]
    pub over_lease: bool,
}

/// The agent's state of a lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AllocationState {
    /// Not taken: the reason says why.
    #[default]
    Refused,
    /// A reservation that timed out: it waits, bound to this node.
    Waiting,
    /// Memory is on its way to it.
    Claimed,
    /// Charged.
    Reserved,
    /// Held.
    Active,
    /// Its holder was told.
    Revoking,
    /// Its holder is to be ended.
    Stopping,
    /// Its memory was seen free.
    Ended,
}

/// A GPU of a lease, as its agent knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AllocatedGpu {
    /// The GPU.
    pub uuid: String,
    /// Its number on the node.
    pub index: u32,
    /// Its model.
    #[serde(default)]
    pub model: String,
    /// How much.
    pub memory: String,
}

/// Proof of a grant: only grows on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Token {
    /// The agent's start, counted.
    pub epoch: u32,
    /// The grant within it.
    pub sequence: u64,
}

/// What a holder was told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Notice {
    /// For whom (`namespace/name`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preemptor: Option<String>,
    /// The preemptor's class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preemptor_class: Option<Class>,
    /// Why.
    pub reason: String,
    /// What must become free on each slot.
    #[serde(default)]
    pub needed: Vec<String>,
    /// What must become free of its RAM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needed_ram: Option<String>,
    /// Time between notice and stop.
    pub deadline_seconds: u64,
    /// When it was told, for people; no decision rests on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<Time>,
}

/// How a lease waits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueueStatus {
    /// Its place, from 1; only the first hundred are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u32>,
    /// The name of the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The reason in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
