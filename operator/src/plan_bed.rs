//! Worlds made by hand, and an API server and agents that do what was planned and answer as told. Only for tests of plans.

use super::*;
use k8s_openapi::api::core::v1::Pod;
use memboss_crds::{Allocation, Gpu, MemoryNode, MemoryNodeSpec, MemoryNodeStatus};
use serde_json::json;

use crate::world::{Amounts, NodeInfo};

pub(super) fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

pub(super) fn planning() -> Planning {
    Planning { epoch: Epoch { incarnation: "here".into(), number: 7 }, history: std::time::Duration::from_secs(3600) }
}

/// One node with GPUs of 24 GiB.
pub(super) fn world(gpus: usize) -> World {
    let mut world = World::default();
    let mut node = MemoryNode::new("node1", MemoryNodeSpec::default());
    let gpu = |at: usize| Gpu {
        uuid: format!("GPU-{at}"),
        model: "A".into(),
        leasable: "24Gi".into(),
        foreign: "0Mi".into(),
        ..Gpu::default()
    };
    let ram = memboss_crds::Ram { total: "64Gi".into(), leasable: "32Gi".into(), ..memboss_crds::Ram::default() };
    node.status = Some(MemoryNodeStatus { gpus: (0..gpus).map(gpu).collect(), ram, ..MemoryNodeStatus::default() });
    world.memory.insert("node1".into(), node);
    let allocatable = Amounts { cpu: 8000, memory: 1 << 36, storage: 1 << 36, pods: 110 };
    world.nodes.insert("node1".into(), NodeInfo { ready: true, allocatable, ..NodeInfo::default() });
    world
}

pub(super) fn pod(name: &str, vram: &str, class: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {
            "name": name, "namespace": "ns", "uid": format!("{name}-uid"), "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": { "memboss.dev/leased": "true" },
            "annotations": { "memboss.dev/vram": vram, "memboss.dev/priority": class },
            "ownerReferences": [{ "apiVersion": "v1", "kind": "ReplicaSet", "name": "set", "uid": "set-uid", "controller": true }],
        },
        "spec": { "containers": [{ "name": "main" }], "schedulingGates": [{ "name": "memboss.dev/lease" }] }
    }))
    .unwrap()
}

pub(super) fn acts(world: &World) -> Vec<Act> {
    plan(world, &planning(), &Lately::default(), now()).0
}

/// Does what was planned, as the API server would.
pub(super) fn carry_out(world: &mut World, acts: Vec<Act>) {
    for act in acts {
        match act {
            Act::Create(lease) => drop(world.leases.insert(key(lease.as_ref()), *lease)),
            Act::Place(key, placement, said) => {
                *status(world, &key) = VramLeaseStatus { placement: Some(placement), ..*said };
            }
            // A merge: what the plan does not name stays.
            Act::Say(key, said) => {
                let inherited_by = status(world, &key).inherited_by.clone();
                *status(world, &key) = VramLeaseStatus { inherited_by, ..*said };
            }
            Act::Withdraw(key, reason) => {
                if let Some(placement) = status(world, &key).placement.as_mut() {
                    placement.withdrawn = Some(reason.name().into());
                }
            }
            Act::Inherited(key, heir) => status(world, &key).inherited_by = Some(heir),
            Act::OpenGate(key, _) => world.pods.get_mut(&key).unwrap().spec.as_mut().unwrap().scheduling_gates = None,
            _ => {}
        }
    }
}

pub(super) fn status<'a>(world: &'a mut World, key: &str) -> &'a mut VramLeaseStatus {
    world.leases.get_mut(key).unwrap().status.get_or_insert_default()
}

/// What the agent answers.
pub(super) fn agent_says(world: &mut World, key: &str, state: AllocationState) {
    let placed = status(world, key).placement.clone().unwrap();
    let gpus = placed.gpus.iter().map(|gpu| memboss_crds::AllocatedGpu {
        uuid: gpu.uuid.clone(),
        memory: gpu.memory.clone(),
        ..Default::default()
    });
    let reason = (state == AllocationState::Stopping).then(|| "Preempted".to_owned());
    status(world, key).allocation = Some(Allocation {
        state,
        attempt: placed.attempt,
        gpus: gpus.collect(),
        ram: placed.ram,
        reason,
        ..Allocation::default()
    });
}

pub(super) fn settle(world: &mut World) -> Vec<Act> {
    let mut all = Vec::new();
    for _ in 0..20 {
        let next = acts(world);
        if next.is_empty() {
            return all;
        }
        all.extend(next.clone());
        carry_out(world, next);
    }
    panic!("it never comes to rest: {:?}", acts(world));
}

pub(super) fn lease_of(world: &World, pod: &str) -> Key {
    world.leases.iter().find(|(_, lease)| lease.spec.subject.pod_name == pod).map(|(key, _)| key.clone()).unwrap()
}

/// A pod that leases RAM alone, as the webhook leaves it.
pub(super) fn ram_pod(name: &str, ram: &str, class: &str) -> Pod {
    let mut pod = pod(name, "1Gi", class);
    pod.metadata.annotations = Some(
        [("memboss.dev/ram".to_owned(), ram.to_owned()), ("memboss.dev/priority".to_owned(), class.to_owned())].into(),
    );
    let resources = json!({ "requests": { "memory": ram } });
    pod.spec.as_mut().unwrap().containers[0].resources = Some(serde_json::from_value(resources).unwrap());
    pod
}

/// A pod whose lease went as far as it could without an answer of its agent.
pub(super) fn settled(world: &mut World, name: &str, vram: &str, class: &str) -> Key {
    world.pod(pod(name, vram, class));
    settle(world);
    lease_of(world, name)
}

/// And whose agent has answered so.
pub(super) fn answered(world: &mut World, name: &str, vram: &str, class: &str, state: AllocationState) -> Key {
    let lease = settled(world, name, vram, class);
    agent_says(world, &lease, state);
    lease
}

/// What is said of it.
pub(super) fn said(world: &World, lease: &str) -> VramLeaseStatus {
    world.leases[lease].status.clone().unwrap()
}

pub(super) fn second_node(world: &mut World) {
    let mut node = world.memory["node1"].clone();
    node.metadata.name = Some("node2".into());
    node.status.as_mut().unwrap().gpus[0].uuid = "GPU-second".into();
    world.memory.insert("node2".into(), node);
    let info = world.nodes["node1"].clone();
    world.nodes.insert("node2".into(), info);
}

pub(super) fn placed_on(world: &World, lease: &str) -> (String, u32) {
    let placed = said(world, lease).placement.unwrap();
    (placed.node, placed.attempt)
}
