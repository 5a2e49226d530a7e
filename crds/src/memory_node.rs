//! `MemoryNode`: what a node's agent sees, one object for each node, named like it. Its agent alone writes the status. It may hold fields only.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// No drain has a later deadline: a week.
pub const LONGEST_DRAIN_SECONDS: u32 = 604_800;

/// What an administrator wants of the node.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "memboss.dev",
    version = "v1alpha1",
    kind = "MemoryNode",
    plural = "memorynodes",
    shortname = "memnode",
    category = "memboss",
    status = "MemoryNodeStatus",
    doc = "The memory of one node: its GPUs and its RAM, what is leased of it, what others use, what is free.",
    derive = "PartialEq",
    printcolumn = r#"{"name":"GPUs","type":"integer","jsonPath":".status.summary.gpus"}"#,
    printcolumn = r#"{"name":"Models","type":"string","jsonPath":".status.summary.models"}"#,
    printcolumn = r#"{"name":"VRAM","type":"string","jsonPath":".status.summary.leasable"}"#,
    printcolumn = r#"{"name":"Leased","type":"string","jsonPath":".status.summary.leased"}"#,
    printcolumn = r#"{"name":"Foreign","type":"string","jsonPath":".status.summary.foreign"}"#,
    printcolumn = r#"{"name":"Free","type":"string","jsonPath":".status.summary.free"}"#,
    printcolumn = r#"{"name":"RAM free","type":"string","jsonPath":".status.ram.available"}"#,
    printcolumn = r#"{"name":"Pressure","type":"string","jsonPath":".status.ram.pressure"}"#,
    printcolumn = r#"{"name":"Health","type":"string","jsonPath":".status.summary.health"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct MemoryNodeSpec {
    /// Empty the whole node: nothing new, and everybody there gets notice.
    #[serde(default)]
    pub drain: bool,
    /// Empty these GPUs.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub drain_gpus: Vec<String>,
    /// Whoever is still there so many seconds after the node's agent read the wish is ended; without, each notice runs its time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = LONGEST_DRAIN_SECONDS))]
    pub drain_deadline_seconds: Option<u32>,
}

/// What the agent sees.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemoryNodeStatus {
    /// The node's present boot.
    #[serde(default)]
    pub boot_id: String,
    /// The agent's start, counted.
    #[serde(default)]
    pub agent_epoch: u32,
    /// The agent's version.
    #[serde(default)]
    pub agent_version: String,
    /// GPU by GPU.
    #[serde(default)]
    pub gpus: Vec<Gpu>,
    /// Whether the driver has not told yet which GPUs there are, since the agent began.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gpus_unread: bool,
    /// Host RAM.
    #[serde(default)]
    pub ram: Ram,
    /// Why nothing is granted on the whole node, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
    /// For the table.
    #[serde(default)]
    pub summary: Summary,
    /// In the words of the API conventions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// One GPU. Amounts are such as `24000Mi`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gpu {
    /// Its UUID.
    pub uuid: String,
    /// Its number on the node.
    pub index: u32,
    /// Its model, with dashes for spaces.
    pub model: String,
    /// All of its memory.
    pub total: String,
    /// What the driver keeps.
    pub reserved: String,
    /// Total − reserved − the safety margin.
    pub leasable: String,
    /// What is charged to leases.
    pub leased: String,
    /// What is in use that no lease explains.
    pub foreign: String,
    /// What is in use by anybody.
    pub used: String,
    /// Whether it can be relied on.
    pub health: Health,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_reason: Option<String>,
}

/// Whether a GPU can be relied on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Health {
    /// Yes.
    #[default]
    Healthy,
    /// Nothing new goes there; what runs goes on.
    Degraded,
    /// Gone, or it does not answer.
    Lost,
}

/// Host RAM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ram {
    /// MemTotal.
    #[serde(default)]
    pub total: String,
    /// MemAvailable.
    #[serde(default)]
    pub available: String,
    /// What can be leased.
    #[serde(default)]
    pub leasable: String,
    /// What is charged to leases.
    #[serde(default)]
    pub leased: String,
    /// How hard pressed it is: low, moderate, high or critical.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pressure: Option<String>,
    /// What that rests on: LittleAvailable, LimitNear or Stalls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pressure_sign: Option<String>,
    /// Why nothing of it is granted, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<String>,
    /// What was dropped from the cache last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_cleaning: Option<Cleaning>,
}

/// Cache that was dropped under pressure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cleaning {
    /// When it ended, in RFC 3339.
    pub at: String,
    /// How far it went: balanced or aggressive.
    pub mode: String,
    /// How much was dropped.
    pub dropped: String,
    /// How much of that was in the cache again 50 s later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub came_back: Option<String>,
    /// The same in a sentence, or what went wrong.
    pub message: String,
}

/// The GPUs' sums, for the table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// How many GPUs.
    #[serde(default)]
    pub gpus: u32,
    /// Their models.
    #[serde(default)]
    pub models: String,
    /// What can be leased.
    #[serde(default)]
    pub leasable: String,
    /// What is leased.
    #[serde(default)]
    pub leased: String,
    /// What others use.
    #[serde(default)]
    pub foreign: String,
    /// What is free.
    #[serde(default)]
    pub free: String,
    /// The worst health, with the number of GPUs that are not healthy; `Unread` where none is known, since the driver has not told yet.
    #[serde(default)]
    pub health: String,
}
