//! `ModelLoad`: a model that is to be on a node's disk, in its RAM or in its VRAM. It may hold fields and their checks only.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::terms::{Class, Layout};
use crate::vram_lease::GpuSelector;

/// What is wanted.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "memboss.dev",
    version = "v1alpha1",
    kind = "ModelLoad",
    plural = "modelloads",
    shortname = "mload",
    category = "memboss",
    namespaced,
    status = "ModelLoadStatus",
    doc = "A model that is to be loaded: from where, how far (disk, RAM, VRAM), how important, for how long.",
    derive = "PartialEq",
    selectable = ".spec.class",
    selectable = ".status.phase",
    printcolumn = r#"{"name":"Tier","type":"string","jsonPath":".spec.tier"}"#,
    printcolumn = r#"{"name":"Class","type":"string","jsonPath":".spec.class"}"#,
    printcolumn = r#"{"name":"State","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Memory","type":"string","jsonPath":".status.estimate"}"#,
    printcolumn = r#"{"name":"Served","type":"string","jsonPath":".status.conditions[?(@.type=='Served')].reason"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ModelLoadSpec {
    /// Where it comes from.
    pub source: Source,
    /// Its format; found out from the files if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// How far it is to be loaded.
    #[serde(default)]
    pub tier: Tier,
    /// What it needs in VRAM or RAM; estimated from the files if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[1-9][0-9]{0,9}(Mi|Gi)$"))]
    pub memory: Option<String>,
    /// Its class.
    #[serde(default)]
    pub class: Class,
    /// Where it may go.
    #[serde(default)]
    pub placement: ModelPlacement,
    /// How long it stays after its last use; until it is deleted if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_alive_seconds: Option<u64>,
    /// What loads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Runtime>,
}

/// Where a model comes from: exactly one of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("[has(self.hf), has(self.s3), has(self.oci), has(self.http), has(self.pvc), has(self.file)].filter(x, x).size() == 1").message("name exactly one source: hf, s3, oci, http, pvc or file"))]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// A repository of a model hub (`owner/name`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hf: Option<String>,
    /// `s3://bucket/path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<String>,
    /// An OCI artefact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oci: Option<String>,
    /// A file by HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// `claim/path` of the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pvc: Option<String>,
    /// A path on the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Which revision of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// What its content must hash to (`sha256:…`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^sha256:[0-9a-f]{64}$"))]
    pub digest: Option<String>,
    /// A Secret of the same namespace with what is needed to get it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// A model's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Safetensors of a transformer.
    Safetensors,
    /// A diffusion pipeline.
    Diffusers,
    /// llama.cpp's format.
    Gguf,
    /// ONNX.
    Onnx,
    /// Whisper.
    Whisper,
}

/// How far a model is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Tier {
    /// Files on the node.
    Disk,
    /// In the node's RAM.
    Ram,
    /// On a GPU.
    #[default]
    Vram,
}

/// Where a model may go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelPlacement {
    /// Labels that its node must have.
    #[serde(default)]
    pub node_selector: std::collections::BTreeMap<String, String>,
    /// Which GPUs will do.
    #[serde(default)]
    pub gpus: GpuSelector,
    /// On how many nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub replicas: Option<u32>,
    /// Pack or spread.
    #[serde(default)]
    pub layout: Layout,
}

/// What loads a model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Runtime {
    /// The driver's name (`vllm`, `ollama`, `llama-server`, …).
    pub driver: String,
    /// Where it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}

/// How it stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelLoadStatus {
    /// The one word for its state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<ModelPhase>,
    /// What the source resolved to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_digest: Option<String>,
    /// What it is thought to need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate: Option<String>,
    /// The most that it was seen to use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_peak: Option<String>,
    /// Node by node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<ModelOnNode>,
    /// In the words of the API conventions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// The state in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ModelPhase {
    /// Nothing done yet.
    #[default]
    Pending,
    /// Its files are coming.
    Downloading,
    /// Its files are checked.
    Verifying,
    /// It waits for its leases.
    Waiting,
    /// It is being loaded.
    Loading,
    /// It can be used.
    Ready,
    /// It is being unloaded.
    Unloading,
    /// It did not work; the conditions say why.
    Failed,
}

/// A model on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelOnNode {
    /// The node.
    pub node: String,
    /// Its state there.
    pub phase: ModelPhase,
    /// Its leases there.
    #[serde(default)]
    pub leases: Vec<String>,
    /// More about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
