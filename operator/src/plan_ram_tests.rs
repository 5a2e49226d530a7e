//! Plans for pods that lease host RAM, alone or in one grant with GPU memory.

use super::bed::*;
use super::*;

fn settled_ram(world: &mut World, name: &str, ram: &str, class: &str) -> Key {
    world.pod(ram_pod(name, ram, class));
    settle(world);
    lease_of(world, name)
}

#[test]
fn a_pod_that_asks_for_ram_alone_gets_a_lease_of_its_kind_and_starts_where_the_ram_is() {
    let mut world = world(0);
    let lease = settled_ram(&mut world, "a", "8Gi", "normal");
    assert_eq!(lease, "ns/ram:a-ad");
    let placed = said(&world, &lease).placement.unwrap();
    assert_eq!((placed.node.as_str(), placed.ram.as_deref(), placed.gpus.len()), ("node1", Some("8Gi"), 0));
    agent_says(&mut world, &lease, AllocationState::Reserved);
    assert!(settle(&mut world).iter().any(|act| matches!(act, Act::OpenGate(pod, _) if pod == "ns/a")));
    assert!(said(&world, &lease).message.unwrap().contains("8Gi of RAM on node1"));
}

#[test]
fn ram_is_queued_and_what_pods_without_a_lease_request_is_not_leased() {
    let mut world = world(0);
    let mut other = ram_pod("other", "50Gi", "normal");
    other.metadata.labels = None;
    other.spec.as_mut().unwrap().node_name = Some("node1".into());
    world.pod(other);
    // Of 64 GiB that the kubelet gives 50 are taken.
    let lease = settled_ram(&mut world, "a", "16Gi", "normal");
    let told = said(&world, &lease);
    assert_eq!((told.placement, told.why.as_deref()), (None, Some("NoRam")));
    assert!(told.message.as_ref().unwrap().contains("14Gi"), "{:?}", told.message);
    world.no_pod(&"ns/other".to_owned());
    settle(&mut world);
    assert!(said(&world, &lease).placement.is_some());
    let next = settled_ram(&mut world, "b", "20Gi", "normal");
    let waits = said(&world, &next);
    assert_eq!((waits.phase, waits.why.as_deref()), (Some(LeasePhase::Waiting), Some("NoRam")), "{:?}", waits.message);
}

#[test]
fn more_ram_than_any_node_has_is_unsatisfiable_at_once_until_one_comes_that_has_it() {
    let mut world = world(0);
    let lease = settled_ram(&mut world, "big", "500Gi", "normal");
    let told = said(&world, &lease);
    assert_eq!((told.phase, told.why.as_deref()), (Some(LeasePhase::Unsatisfiable), Some("NoRam")));
    assert!(told.message.unwrap().contains("64Gi"), "the largest is named");
    assert!(told.conditions.iter().any(|c| c.type_ == "Unsatisfiable" && c.status == "True" && c.reason == "NoRam"));
    let ram = &mut world.memory.get_mut("node1").unwrap().status.as_mut().unwrap().ram;
    (ram.total, ram.leasable) = ("1Ti".into(), "1000Gi".into());
    world.nodes.get_mut("node1").unwrap().allocatable.memory = 1 << 40;
    settle(&mut world);
    assert!(said(&world, &lease).placement.is_some());
}

#[test]
fn ram_of_a_lower_class_is_claimed_though_its_pods_request_still_fills_the_node() {
    let mut world = world(0);
    world.nodes.get_mut("node1").unwrap().allocatable.memory = 24 << 30;
    let victim = settled_ram(&mut world, "batch", "20Gi", "batch");
    agent_says(&mut world, &victim, AllocationState::Active);
    settle(&mut world);
    let mut running = ram_pod("batch", "20Gi", "batch");
    running.spec.as_mut().unwrap().scheduling_gates = None;
    running.spec.as_mut().unwrap().node_name = Some("node1".into());
    world.pod(running);
    status(&mut world, &victim).active_at =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
    let urgent = settled_ram(&mut world, "urgent", "20Gi", "urgent");
    assert_eq!(said(&world, &urgent).placement.unwrap().victims, vec![victim]);
}

#[test]
fn both_kinds_of_memory_come_in_one_placement_or_not_at_all() {
    let mut world = world(1);
    let both = |name: &str, ram: &str| {
        let mut pod = ram_pod(name, ram, "normal");
        pod.metadata.annotations.as_mut().unwrap().insert("memboss.dev/vram".into(), "8Gi".into());
        pod
    };
    world.pod(both("a", "24Gi"));
    settle(&mut world);
    let a = lease_of(&world, "a");
    let placed = said(&world, &a).placement.unwrap();
    assert_eq!((placed.gpus.len(), placed.ram.as_deref()), (1, Some("24Gi")));
    world.pod(both("b", "24Gi"));
    settle(&mut world);
    assert_eq!(said(&world, &lease_of(&world, "b")).placement, None, "the GPU has room, the host has not");
}
