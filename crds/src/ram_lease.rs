//! `RamLease`: host RAM of one node for one pod or process. It may hold fields and their checks only.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::terms::{Class, Epoch};
use crate::vram_lease::{AllocationState, LeasePhase, Notice, QueueStatus, Subject, Token};

/// What is asked.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "memboss.dev",
    version = "v1alpha1",
    kind = "RamLease",
    plural = "ramleases",
    shortname = "ramlease",
    category = "memboss",
    namespaced,
    status = "RamLeaseStatus",
    doc = "A lease of host RAM: who holds or waits for how much of which node, in which class, and why.",
    derive = "PartialEq",
    selectable = ".spec.class",
    selectable = ".status.phase",
    printcolumn = r#"{"name":"Pod","type":"string","jsonPath":".spec.subject.podName"}"#,
    printcolumn = r#"{"name":"Class","type":"string","jsonPath":".spec.class"}"#,
    printcolumn = r#"{"name":"Requested","type":"string","jsonPath":".spec.memory"}"#,
    printcolumn = r#"{"name":"State","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".status.placement.node"}"#,
    printcolumn = r#"{"name":"Served","type":"string","jsonPath":".status.conditions[?(@.type=='Served')].reason"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[x_kube(validation = Rule::new("self.subject == oldSelf.subject").message("a lease belongs to its subject for ever").field_path(".subject"))]
#[serde(rename_all = "camelCase")]
pub struct RamLeaseSpec {
    /// Who holds it.
    pub subject: Subject,
    /// Its class.
    #[serde(default)]
    pub class: Class,
    /// How much.
    #[schemars(regex(pattern = r"^[1-9][0-9]{0,9}(Mi|Gi)$"))]
    pub memory: String,
    /// The VramLease of the same pod, granted in the same step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vram_lease: Option<String>,
    /// Its place in the queue: RFC 3339, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub queued_at: Option<String>,
    /// Its holder can give a part back and go on.
    #[serde(default)]
    pub can_shrink: bool,
}

/// How it stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RamLeaseStatus {
    /// The one word for its state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<LeasePhase>,
    /// Where it is to go: the operator's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<RamPlacement>,
    /// What became of that: the agent's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocation: Option<RamAllocation>,
    /// How it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueStatus>,
    /// In the words of the API conventions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Where it is to go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RamPlacement {
    /// The node.
    pub node: String,
    /// Which leader decided it.
    pub epoch: Epoch,
    /// Counts the placements of this lease.
    pub attempt: u32,
}

/// What became of a placement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RamAllocation {
    /// The agent's state for it.
    pub state: AllocationState,
    /// The attempt that this answers.
    pub attempt: u32,
    /// What is charged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// The part that the pod's own memory request carries already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carried: Option<String>,
    /// The proof of the grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// What its holder was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<Notice>,
    /// What its holder uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<String>,
}
