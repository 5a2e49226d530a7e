//! `RamLease`: host RAM of one node for one pod that asks for no GPU memory; RAM beside GPU memory is a part of its `VramLease`. Its status is a
//! `VramLease`'s, without GPUs. It may hold fields, their checks, and the way from one kind to the other.

use kube::core::ApiResource;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::terms::Class;
use crate::vram_lease::{Subject, VramLease, VramLeaseSpec, VramLeaseStatus};

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
    status = "VramLeaseStatus",
    doc = "A lease of host RAM: who holds or waits for how much of which node, in which class, and why.",
    derive = "PartialEq",
    selectable = ".spec.class",
    selectable = ".status.phase",
    selectable = ".status.placement.node",
    printcolumn = r#"{"name":"Pod","type":"string","jsonPath":".spec.subject.podName"}"#,
    printcolumn = r#"{"name":"Class","type":"string","jsonPath":".spec.class"}"#,
    printcolumn = r#"{"name":"Requested","type":"string","jsonPath":".spec.memory"}"#,
    printcolumn = r#"{"name":"State","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".status.placement.node"}"#,
    printcolumn = r#"{"name":"Used","type":"string","jsonPath":".status.allocation.used"}"#,
    printcolumn = r#"{"name":"Place","type":"integer","jsonPath":".status.queue.position"}"#,
    printcolumn = r#"{"name":"Why","type":"string","jsonPath":".status.why"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Queued at","type":"string","jsonPath":".spec.queuedAt","priority":1}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.message","priority":1}"#
)]
#[x_kube(validation = Rule::new("self.memory == oldSelf.memory").message("what a lease holds is fixed when it is made; make another lease").field_path(".memory"))]
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
}

/// What stands before the name of a `RamLease` wherever leases of both kinds are named together: no object's name has a colon.
pub const RAM_MARK: &str = "ram:";

/// The kind and the object's name that a lease's name among both kinds stands for.
#[must_use]
pub fn kind_of(name: &str) -> (LeaseKind, &str) {
    name.strip_prefix(RAM_MARK).map_or((LeaseKind::Vram, name), |name| (LeaseKind::Ram, name))
}

/// The kind, namespace and name of the object that stands behind `namespace/name` of a lease among both kinds.
#[must_use]
pub fn object_of(key: &str) -> (LeaseKind, &str, &str) {
    let (namespace, name) = key.split_once('/').unwrap_or(("", key));
    let (kind, name) = kind_of(name);
    (kind, namespace, name)
}

/// The kinds of leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeaseKind {
    /// GPU memory, perhaps with RAM.
    Vram,
    /// RAM alone.
    Ram,
}

impl LeaseKind {
    /// As the API calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vram => "VramLease",
            Self::Ram => "RamLease",
        }
    }

    /// How the API server is asked for it where the kind is known only then.
    #[must_use]
    pub fn resource(self) -> ApiResource {
        match self {
            Self::Vram => ApiResource::erase::<VramLease>(&()),
            Self::Ram => ApiResource::erase::<RamLease>(&()),
        }
    }
}

/// So that one set of rules serves both: a lease without slots, under its name among both kinds.
impl From<RamLease> for VramLease {
    fn from(lease: RamLease) -> Self {
        let spec = lease.spec;
        let mut metadata = lease.metadata;
        metadata.name = metadata.name.map(|name| format!("{RAM_MARK}{name}"));
        let spec = VramLeaseSpec {
            subject: spec.subject,
            class: spec.class,
            requested: spec.memory.clone(),
            ram: Some(spec.memory),
            queued_at: spec.queued_at,
            preempted: spec.preempted,
            notice_seconds: spec.notice_seconds,
            protection_seconds: spec.protection_seconds,
            can_shrink: spec.can_shrink,
            ..VramLeaseSpec::default()
        };
        Self { metadata, spec, status: lease.status }
    }
}

impl VramLease {
    /// Whether it stands for a `RamLease`.
    #[must_use]
    pub fn kind(&self) -> LeaseKind {
        kind_of(self.metadata.name.as_deref().unwrap_or_default()).0
    }

    /// The object that it stands for, if that is a `RamLease`.
    #[must_use]
    pub fn as_ram(&self) -> Option<RamLease> {
        let (LeaseKind::Ram, name) = kind_of(self.metadata.name.as_deref()?) else { return None };
        let spec = self.spec.clone();
        let spec = RamLeaseSpec {
            subject: spec.subject,
            class: spec.class,
            memory: spec.ram?,
            queued_at: spec.queued_at,
            preempted: spec.preempted,
            notice_seconds: spec.notice_seconds,
            protection_seconds: spec.protection_seconds,
            can_shrink: spec.can_shrink,
        };
        let mut metadata = self.metadata.clone();
        metadata.name = Some(name.to_owned());
        Some(RamLease { metadata, spec, status: self.status.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ram_lease_is_the_same_after_it_was_seen_as_one_of_both_kinds() {
        let lease: RamLease = serde_json::from_value(serde_json::json!({
            "apiVersion": "memboss.dev/v1alpha1", "kind": "RamLease", "metadata": { "name": "a", "namespace": "n", "uid": "u" },
            "spec": {
                "subject": { "podName": "p", "podUid": "v" }, "class": "low", "memory": "4Gi", "queuedAt": "2026-01-01T00:00:00.000000Z",
                "preempted": 2, "noticeSeconds": 5, "protectionSeconds": 7, "canShrink": true
            },
            "status": { "phase": "Active" }
        }))
        .unwrap();
        let among = VramLease::from(lease.clone());
        assert_eq!((among.metadata.name.as_deref(), among.kind()), (Some("ram:a"), LeaseKind::Ram));
        assert!(among.spec.slots.is_empty());
        assert_eq!(among.as_ram(), Some(lease));
    }

    #[test]
    fn a_vram_lease_is_no_ram_lease() {
        let lease = VramLease::new("a", VramLeaseSpec { ram: Some("1Gi".into()), ..VramLeaseSpec::default() });
        assert_eq!((lease.kind(), lease.as_ram()), (LeaseKind::Vram, None));
    }
}
