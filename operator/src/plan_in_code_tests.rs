//! Plans beside leases in code: what those hold counts, and they are nobody's to place or to end.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::bed::*;
use super::*;

/// The pod's lease becomes one that its agent shows, since long ago.
fn in_code(world: &mut World, pod: &str) -> Key {
    let key = lease_of(world, pod);
    agent_says(world, &key, AllocationState::Active);
    status(world, &key).active_at = Some(Time(Timestamp::UNIX_EPOCH));
    let shown = world.leases.remove(&key).unwrap();
    world.in_code.insert(key.clone(), shown);
    world.no_pod(&format!("ns/{pod}"));
    key
}

#[test]
fn what_is_leased_in_code_counts_and_gives_way_to_a_higher_class() {
    let mut world = world(1);
    settled(&mut world, "worker", "20Gi", "batch");
    let worker = in_code(&mut world, "worker");
    let waits = settled(&mut world, "other", "8Gi", "batch");
    let told = said(&world, &waits);
    assert_eq!((told.placement, told.why.as_deref()), (None, Some("NoRoom")));
    let urgent = settled(&mut world, "urgent", "8Gi", "urgent");
    assert_eq!(said(&world, &urgent).placement.unwrap().victims, vec![worker.clone()]);
    assert!(world.in_code.contains_key(&worker) && !world.leases.contains_key(&worker));
}

#[test]
fn ram_that_is_leased_in_code_is_not_counted_beside_its_pods_request() {
    let mut world = world(0);
    world.nodes.get_mut("node1").unwrap().allocatable.memory = 32 << 30;
    world.pod(ram_pod("worker", "16Gi", "normal"));
    settle(&mut world);
    in_code(&mut world, "worker");
    let mut running = ram_pod("worker", "20Gi", "normal");
    (running.metadata.labels, running.metadata.annotations) = (None, None);
    running.spec.as_mut().unwrap().node_name = Some("node1".into());
    world.pod(running);
    // 20 of 32 GiB are requested, and 16 of these are leased in code.
    for (name, ram, fits) in [("more", "13Gi", false), ("just", "12Gi", true)] {
        world.pod(ram_pod(name, ram, "normal"));
        settle(&mut world);
        assert_eq!(said(&world, &lease_of(&world, name)).placement.is_some(), fits, "{ram}");
        if !fits {
            let lease = lease_of(&world, name);
            world.leases.remove(&lease);
            world.no_pod(&format!("ns/{name}"));
        }
    }
}
