//! The kinds as clients and the API server see them: the committed YAML, what may be left out, and what comes back as it was written.

#![expect(clippy::unwrap_used, reason = "a test that cannot read its own input has failed")]

use std::path::Path;

use memboss_crds::{
    AllocationState, Class, LeasePhase, MemoryNode, MemoryNodeStatus, ModelLoad, RamLease, Tier, VramLease, definitions,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn read<T: DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

fn reads_back_as_written<T: Serialize + DeserializeOwned>(value: &Value) {
    assert_eq!(&serde_json::to_value(read::<T>(value)).unwrap(), value);
}

fn lease(rest: &Value) -> Value {
    let mut lease = json!({
        "apiVersion": "memboss.dev/v1alpha1",
        "kind": "VramLease",
        "metadata": {"name": "train-0a1b2", "namespace": "team"},
        "spec": {"subject": {"podName": "train", "podUid": "0a1b2"}, "slots": [{"memory": "8Gi"}]},
    });
    for (field, value) in rest.as_object().unwrap() {
        lease[field] = value.clone();
    }
    lease
}

#[test]
fn the_committed_yaml_is_what_the_types_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/memboss/files/crds");
    for (name, yaml) in definitions().unwrap() {
        let committed = std::fs::read_to_string(folder.join(name)).unwrap();
        assert!(committed == yaml, "{name} is out of date: run `make crds`");
    }
}

#[test]
fn every_kind_has_a_status_of_its_own_and_one_served_version() {
    for (name, yaml) in definitions().unwrap() {
        let definition: Value = serde_saphyr::from_str(&yaml).unwrap();
        let versions = definition["spec"]["versions"].as_array().unwrap();
        assert_eq!(versions.len(), 1, "{name}");
        assert_eq!(versions[0]["subresources"]["status"], json!({}), "{name}");
        let conditions = &versions[0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]["conditions"];
        assert_eq!(conditions["x-kubernetes-list-type"], "map", "{name}: several may write conditions");
        assert_eq!(conditions["x-kubernetes-list-map-keys"], json!(["type"]), "{name}");
    }
}

#[test]
fn the_shortest_lease_is_normal_packed_and_on_any_gpu() {
    let lease: VramLease = read(&lease(&json!({})));
    assert_eq!(lease.spec.class, Class::Normal);
    assert_eq!(lease.spec.layout, memboss_crds::Layout::Pack);
    assert!(lease.spec.selector.models.is_empty() && lease.spec.selector.uuids.is_empty());
    assert_eq!(lease.status, None);
}

#[test]
fn a_status_that_only_one_side_wrote_can_be_read() {
    let placed: VramLease = read(&lease(&json!({"status": {
        "placement": {"node": "n", "epoch": {"incarnation": "i", "number": 1}, "attempt": 1},
    }})));
    assert_eq!(placed.status.unwrap().allocation, None);
    let allocated: VramLease = read(&lease(&json!({"status": {"allocation": {"state": "Claimed", "attempt": 1}}})));
    let status = allocated.status.unwrap();
    assert_eq!((status.phase, status.placement), (None, None));
    assert_eq!(status.allocation.unwrap().state, AllocationState::Claimed);
}

#[test]
fn a_lease_with_everything_reads_back_as_it_was_written() {
    reads_back_as_written::<VramLease>(&lease(&json!({
        "spec": {
            "subject": {
                "podName": "train", "podUid": "0a1b2", "owner": {"kind": "Job", "name": "train", "uid": "9"},
            },
            "class": "high",
            "slots": [{"memory": "8Gi"}, {"percent": 50}],
            "requested": "8Gi,50%",
            "containers": [{"name": "main", "slots": [0, 1], "asks": [{"memory": "8Gi"}, {"percent": 50}]}],
            "selector": {"models": ["H100"], "uuids": ["GPU-1"]},
            "layout": "Spread",
            "queuedAt": "2026-01-01T00:00:00.000001Z",
            "preempted": 1,
            "noticeSeconds": 60,
            "protectionSeconds": 0,
            "canShrink": true,
            "canOffload": false,
        },
        "status": {
            "phase": "Revoking",
            "why": "Preempted",
            "message": "gives way",
            "placement": {
                "node": "n",
                "gpus": [{"uuid": "GPU-1", "memory": "8Gi"}],
                "epoch": {"incarnation": "i", "number": 3},
                "attempt": 2,
                "victims": ["team/other"],
                "withdrawn": "Preempted",
            },
            "allocation": {
                "state": "Revoking",
                "attempt": 2,
                "gpus": [{"uuid": "GPU-1", "index": 0, "model": "H100", "memory": "8Gi"}],
                "display": "gpu0",
                "token": {"epoch": 1, "sequence": 7},
                "notice": {
                    "preemptor": "team/urgent", "preemptorClass": "urgent", "reason": "Preemption", "needed": ["4Gi"],
                    "deadlineSeconds": 5, "sentAt": "2026-01-01T00:00:00Z",
                },
                "reason": "Preempted",
                "message": "gives way",
                "used": "7000Mi",
                "overLease": false,
            },
            "queue": {"position": 3, "reason": "NoRoom", "message": "24Gi are in use"},
            "reservedAt": "2026-01-01T00:00:00Z",
            "activeAt": "2026-01-01T00:00:01Z",
            "observedGeneration": 1,
        },
    })));
}

#[test]
fn the_words_of_states_are_those_of_the_table() {
    let phases = [
        (LeasePhase::Waiting, "Waiting"),
        (LeasePhase::Unsatisfiable, "Unsatisfiable"),
        (LeasePhase::Reserved, "Reserved"),
        (LeasePhase::Active, "Active"),
        (LeasePhase::Revoking, "Revoking"),
        (LeasePhase::Stopping, "Stopping"),
        (LeasePhase::Ended, "Ended"),
    ];
    for (phase, word) in phases {
        assert_eq!(serde_json::to_value(phase).unwrap(), word);
    }
}

#[test]
fn classes_are_ordered_and_go_to_the_rules_and_back() {
    let classes = [Class::Batch, Class::Low, Class::Normal, Class::High, Class::Urgent];
    assert!(classes.is_sorted());
    for class in classes {
        assert_eq!(Class::from(memboss_core::Class::from(class)), class);
        assert_eq!(serde_json::to_value(class).unwrap(), memboss_core::Class::from(class).name());
    }
}

#[test]
fn a_node_that_was_never_seen_has_no_gpus_and_is_not_drained() {
    let node: MemoryNode = read(
        &json!({"apiVersion": "memboss.dev/v1alpha1", "kind": "MemoryNode", "metadata": {"name": "n"}, "spec": {}}),
    );
    assert!(!node.spec.drain && node.spec.drain_gpus.is_empty());
    assert_eq!(read::<MemoryNodeStatus>(&json!({})), MemoryNodeStatus::default());
}

#[test]
fn leases_of_ram_and_loads_of_models_can_be_written_in_a_few_lines() {
    let ram: RamLease = read(&json!({
        "apiVersion": "memboss.dev/v1alpha1", "kind": "RamLease", "metadata": {"name": "r"},
        "spec": {"subject": {"podName": "p", "podUid": "1"}, "memory": "16Gi"},
    }));
    assert_eq!(ram.spec.class, Class::Normal);
    let load: ModelLoad = read(&json!({
        "apiVersion": "memboss.dev/v1alpha1", "kind": "ModelLoad", "metadata": {"name": "m"},
        "spec": {"source": {"hf": "owner/name"}},
    }));
    assert_eq!(load.spec.tier, Tier::Vram);
}
