//! Plans from worlds made by hand: what is written next, and that nothing is written twice.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::bed::*;
use super::*;

#[test]
fn a_gated_pod_gets_a_lease_a_place_and_its_gate_opened_when_its_agent_has_it() {
    let mut world = world(1);
    world.pod(pod("a", "8Gi", "normal"));
    let first = settle(&mut world);
    assert!(matches!(&first[0], Act::Create(lease) if lease.spec.requested == "8Gi"), "{first:?}");
    let placed = first
        .iter()
        .find_map(|act| if let Act::Place(_, placement, _) = act { Some(placement) } else { None })
        .unwrap();
    assert_eq!((placed.node.as_str(), placed.attempt, placed.epoch.number), ("node1", 1, 7));
    assert!(is_gated(&world.pods["ns/a"]), "not before the agent has answered");
    let lease = lease_of(&world, "a");
    agent_says(&mut world, &lease, AllocationState::Reserved);
    assert!(settle(&mut world).iter().any(|act| matches!(act, Act::OpenGate(pod, _) if pod == "ns/a")));
    assert!(acts(&world).is_empty(), "a world in which all was done gives no plan");
}

#[test]
fn pods_of_one_plan_do_not_take_the_same_room_beside_their_gpu_memory() {
    let mut world = world(4);
    world.nodes.get_mut("node1").unwrap().allocatable.pods = 5;
    for n in 0..8 {
        world.pod(pod(&format!("p{n}"), "1Gi", "normal"));
    }
    let plans = settle(&mut world);
    assert_eq!(plans.iter().filter(|act| matches!(act, Act::Place(..))).count(), 5);
    let waiting: Vec<_> = world.leases.values().filter_map(|lease| lease.status.clone()).collect();
    let nowhere = waiting.iter().filter(|status| status.why.as_deref() == Some("NoEligibleNode"));
    assert_eq!(nowhere.count(), 3, "{waiting:?}");
}

#[test]
fn a_waiting_lease_says_its_place_and_why() {
    let mut world = world(1);
    for name in ["a", "b", "c"] {
        world.pod(pod(name, "16Gi", "normal"));
        settle(&mut world);
    }
    let b = world.leases[&lease_of(&world, "b")].status.clone().unwrap();
    let queue = b.queue.unwrap();
    assert_eq!(
        (b.phase, queue.position, queue.reason.as_deref()),
        (Some(LeasePhase::Waiting), Some(1), Some("NoRoom"))
    );
    let c = world.leases[&lease_of(&world, "c")].status.clone().unwrap();
    assert_eq!(c.queue.unwrap().position, Some(2));
}

#[test]
fn whoever_could_go_to_a_node_whose_driver_has_told_of_no_gpus_yet_waits_for_them() {
    let mut world = world(0);
    let read = world.memory["node1"].clone();
    world.memory.get_mut("node1").unwrap().status.as_mut().unwrap().gpus_unread = true;
    world.pod(pod("a", "16Gi", "normal"));
    settle(&mut world);
    let lease = lease_of(&world, "a");
    let told = |world: &World| world.leases[&lease].status.clone().map(|status| (status.phase, status.why)).unwrap();
    assert_eq!(told(&world), (Some(LeasePhase::Waiting), Some("Closed".into())));
    let conditions = world.leases[&lease].status.clone().unwrap().conditions;
    let unsatisfiable = conditions.iter().find(|condition| condition.type_ == "Unsatisfiable").unwrap();
    assert_eq!(
        (unsatisfiable.status.as_str(), unsatisfiable.message.as_str()),
        ("False", "the driver of a node has not told of its GPUs yet")
    );
    world.memory.insert("node1".into(), read);
    settle(&mut world);
    assert_eq!(told(&world), (Some(LeasePhase::Unsatisfiable), Some("Unsatisfiable".into())));
}

#[test]
fn more_than_any_gpu_has_is_unsatisfiable_at_once_until_one_comes_that_has_it() {
    let mut world = world(1);
    let lease = settled(&mut world, "big", "30Gi", "normal");
    let told = said(&world, &lease);
    assert_eq!(told.phase, Some(LeasePhase::Unsatisfiable));
    assert!(told.message.unwrap().contains("24Gi"), "the largest is named");
    assert!(told.conditions.iter().any(|c| c.type_ == "Unsatisfiable" && c.status == "True"));
    world.memory.get_mut("node1").unwrap().status.as_mut().unwrap().gpus[0].leasable = "80Gi".into();
    settle(&mut world);
    assert!(said(&world, &lease).placement.is_some());
}

#[test]
fn a_refused_lease_is_placed_again_with_another_attempt_once_its_pause_is_over() {
    let mut world = world(1);
    let lease = answered(&mut world, "a", "8Gi", "normal", AllocationState::Refused);
    let lately = Lately { refused: BTreeSet::from([lease.clone()]), ..Lately::default() };
    let (while_paused, _) = plan(&world, &planning(), &lately, now());
    assert!(!while_paused.iter().any(|act| matches!(act, Act::Place(..))), "{while_paused:?}");
    let again = acts(&world);
    assert!(again.iter().any(|act| matches!(act, Act::Place(_, placement, _) if placement.attempt == 2)), "{again:?}");
}

fn with_running_batch(world: &mut World) -> Key {
    let victim = answered(world, "batch", "20Gi", "batch", AllocationState::Active);
    settle(world);
    // Its protection is long over.
    status(world, &victim).active_at = Some(Time("2026-01-01T00:00:00Z".parse().unwrap()));
    victim
}

#[test]
fn an_urgent_lease_is_placed_with_its_victims_named_and_the_victims_pod_evicted_only_when_its_time_is_over() {
    let mut world = world(1);
    let victim = with_running_batch(&mut world);
    world.pod(pod("urgent", "20Gi", "urgent"));
    let done = settle(&mut world);
    let victims = done
        .iter()
        .find_map(|act| if let Act::Place(_, placement, _) = act { Some(placement.victims.clone()) } else { None });
    assert_eq!(victims, Some(vec![victim.clone()]));
    let urgent = lease_of(&world, "urgent");
    agent_says(&mut world, &urgent, AllocationState::Claimed);
    agent_says(&mut world, &victim, AllocationState::Revoking);
    assert!(!settle(&mut world).iter().any(|act| matches!(act, Act::Evict(..))), "it has its time");
    agent_says(&mut world, &victim, AllocationState::Stopping);
    let next = acts(&world);
    carry_out(&mut world, next);
    assert!(acts(&world).iter().any(|act| matches!(act, Act::Evict(pod, EndReason::Preempted) if pod == "ns/batch")));
}

#[test]
fn the_next_pod_of_a_preempted_ones_owner_takes_over_its_place_in_the_queue() {
    let mut world = world(1);
    let victim = with_running_batch(&mut world);
    agent_says(&mut world, &victim, AllocationState::Stopping);
    world.no_pod(&"ns/batch".to_owned());
    let mut again = pod("again", "20Gi", "batch");
    again.metadata.creation_timestamp = Some(Time("2026-01-01T00:59:00Z".parse().unwrap()));
    world.pod(again);
    settle(&mut world);
    let heir = &world.leases[&lease_of(&world, "again")];
    assert_eq!(heir.spec.queued_at, world.leases[&victim].spec.queued_at);
    assert_eq!(heir.spec.preempted, 1);
    assert_eq!(said(&world, &victim).inherited_by, Some(heir.name_any()));
}

#[test]
fn a_pod_that_is_over_gives_its_lease_back_and_one_that_never_ran_ends_it_at_once() {
    let mut world = world(1);
    let lease = answered(&mut world, "a", "20Gi", "normal", AllocationState::Active);
    settle(&mut world);
    let waiting = settled(&mut world, "b", "20Gi", "normal");
    world.no_pod(&"ns/a".to_owned());
    world.no_pod(&"ns/b".to_owned());
    settle(&mut world);
    assert_eq!(said(&world, &lease).placement.as_ref().unwrap().withdrawn.as_deref(), Some("Deleted"));
    assert_eq!(said(&world, &waiting).phase, Some(LeasePhase::Ended));
}

#[test]
fn where_a_pod_cannot_run_it_is_not_placed_and_the_reason_says_so() {
    let mut world = world(1);
    world.nodes.get_mut("node1").unwrap().unschedulable = true;
    world.pod(pod("a", "8Gi", "normal"));
    settle(&mut world);
    let said = world.leases[&lease_of(&world, "a")].status.clone().unwrap();
    assert!(said.placement.is_none());
    assert_eq!(said.why.as_deref(), Some("NoEligibleNode"));
    assert!(said.message.unwrap().contains("cordoned"));
}

#[test]
fn a_lease_whose_node_does_not_answer_goes_to_another_and_stays_where_there_is_none() {
    let mut world = world(1);
    let lease = settled(&mut world, "a", "8Gi", "normal");
    world.suspects.insert("node1".into());
    settle(&mut world);
    assert_eq!(placed_on(&world, &lease), ("node1".into(), 1), "nobody else could take it: its answer may come yet");
    second_node(&mut world);
    settle(&mut world);
    assert_eq!(placed_on(&world, &lease), ("node2".into(), 2));
}

#[test]
fn a_reserved_lease_whose_node_is_deleted_before_its_pod_could_start_goes_to_another() {
    let mut world = world(1);
    let lease = answered(&mut world, "a", "8Gi", "normal", AllocationState::Reserved);
    second_node(&mut world);
    world.nodes.remove("node1");
    world.memory.remove("node1");
    settle(&mut world);
    assert_eq!(placed_on(&world, &lease), ("node2".into(), 2));
}

#[test]
fn a_gate_is_opened_only_for_a_node_that_is_there_and_a_lease_that_goes_on() {
    let reserved = |change: fn(&mut World, &str)| {
        let mut world = world(1);
        let lease = answered(&mut world, "a", "8Gi", "normal", AllocationState::Reserved);
        change(&mut world, &lease);
        acts(&world).iter().any(|act| matches!(act, Act::OpenGate(..)))
    };
    assert!(reserved(|_, _| {}));
    assert!(!reserved(|world, _| {
        world.nodes.remove("node1");
        world.memory.remove("node1");
    }));
    assert!(!reserved(|world, _| world.nodes.get_mut("node1").unwrap().ready = false));
    assert!(!reserved(|world, _| assert!(world.suspects.insert("node1".into()))));
    assert!(!reserved(|world, _| {
        world.memory.get_mut("node1").unwrap().status.as_mut().unwrap().hold = Some("quarantine".into());
    }));
    assert!(!reserved(|world, lease| {
        drop(world.leases.get_mut(lease).unwrap().annotations_mut().insert(FORCE_END.into(), "yes".into()));
    }));
    assert!(!reserved(|world, lease| {
        world.leases.get_mut(lease).unwrap().metadata.deletion_timestamp = Some(Time(now()));
    }));
}

#[test]
fn a_pod_that_is_pinned_to_a_node_that_is_gone_is_made_anew_by_its_controller() {
    let mut world = world(1);
    answered(&mut world, "a", "8Gi", "normal", AllocationState::Reserved);
    settle(&mut world);
    assert!(!is_gated(&world.pods["ns/a"]));
    world.nodes.remove("node1");
    world.memory.remove("node1");
    for _ in 0..3 {
        let next = acts(&world);
        carry_out(&mut world, next);
    }
    let evicted = |act: &Act| matches!(act, Act::Evict(pod, EndReason::NodeLost) if pod == "ns/a");
    assert!(acts(&world).iter().any(evicted), "{:?}", acts(&world));
}

#[test]
fn a_node_that_refused_a_lease_is_tried_again_only_where_there_is_no_other() {
    let mut world = world(1);
    let lease = answered(&mut world, "a", "8Gi", "normal", AllocationState::Refused);
    let lately = Lately { shunned: [(lease.clone(), "node1".to_owned())].into(), ..Lately::default() };
    let next = |world: &World| {
        let (acts, _) = plan(world, &planning(), &lately, now());
        acts.into_iter().find_map(|act| if let Act::Place(_, placed, _) = act { Some(placed.node) } else { None })
    };
    assert_eq!(next(&world).as_deref(), Some("node1"));
    second_node(&mut world);
    assert_eq!(next(&world).as_deref(), Some("node2"));
    // One that wants a GPU of that node has nowhere else to go.
    world.leases.get_mut(&lease).unwrap().spec.selector.uuids = vec!["GPU-0".into()];
    assert_eq!(next(&world).as_deref(), Some("node1"));
}

#[test]
fn a_place_in_the_queue_is_not_lost_when_its_heir_could_not_be_made_at_once() {
    let mut world = world(1);
    let old = with_running_batch(&mut world);
    agent_says(&mut world, &old, AllocationState::Stopping);
    world.pod(pod("next", "16Gi", "batch"));
    let noted: Vec<_> = acts(&world).into_iter().filter(|act| matches!(act, Act::Inherited(..))).collect();
    assert_eq!(noted.len(), 1);
    carry_out(&mut world, noted);
    let made = acts(&world).into_iter().find_map(|act| if let Act::Create(lease) = act { Some(lease) } else { None });
    assert_eq!(made.unwrap().spec.queued_at, world.leases[&old].spec.queued_at);
}

#[test]
fn a_lease_that_was_drained_before_its_pod_could_start_is_placed_again_and_its_pod_is_not_evicted() {
    let mut world = world(1);
    let lease = settled(&mut world, "a", "8Gi", "normal");
    world.memory.get_mut("node1").unwrap().spec.drain = true;
    agent_says(&mut world, &lease, AllocationState::Stopping);
    assert!(!settle(&mut world).iter().any(|act| matches!(act, Act::Evict(..) | Act::OpenGate(..))));
    second_node(&mut world);
    world.memory.get_mut("node2").unwrap().spec.drain = false;
    agent_says(&mut world, &lease, AllocationState::Ended);
    settle(&mut world);
    assert_eq!(placed_on(&world, &lease), ("node2".into(), 2));
}

#[test]
fn an_ended_lease_makes_way_for_another_while_its_pod_waits_at_the_gate() {
    let mut world = world(1);
    let lease = settled(&mut world, "a", "30Gi", "normal");
    world.leases.get_mut(&lease).unwrap().annotations_mut().insert(FORCE_END.into(), "yes".into());
    assert!(settle_but_for_forgetting(&mut world));
}

/// Whether it comes to forgetting the lease at once, though its history is young.
fn settle_but_for_forgetting(world: &mut World) -> bool {
    let next = acts(world);
    carry_out(world, next);
    acts(world).iter().any(|act| matches!(act, Act::Forget(_)))
}

#[test]
fn memory_is_not_kept_for_a_pod_that_others_hold_back() {
    let mut world = world(1);
    let mut held_back = pod("a", "8Gi", "normal");
    let gates = held_back.spec.as_mut().unwrap().scheduling_gates.as_mut().unwrap();
    gates.push(serde_json::from_value(json!({ "name": "kueue.x-k8s.io/admission" })).unwrap());
    world.pod(held_back.clone());
    settle(&mut world);
    let lease = lease_of(&world, "a");
    let said = said(&world, &lease);
    assert_eq!((said.placement, said.why.as_deref()), (None, Some("OtherGates")));
    assert!(said.message.unwrap().contains("kueue.x-k8s.io/admission"));
    held_back.spec.as_mut().unwrap().scheduling_gates.as_mut().unwrap().pop();
    world.pod(held_back);
    settle(&mut world);
    assert_eq!(placed_on(&world, &lease).0, "node1");
}

/// A pod that is bound, whose reservation nobody came for in time.
fn timed_out(world: &mut World, mut pod: Pod) -> Key {
    let name = pod.name_any();
    world.pod(pod.clone());
    settle(world);
    let lease = lease_of(world, &name);
    agent_says(world, &lease, AllocationState::Reserved);
    settle(world);
    pod.spec.as_mut().unwrap().scheduling_gates = None;
    pod.spec.as_mut().unwrap().node_name = Some("node1".into());
    world.pod(pod);
    agent_says(world, &lease, AllocationState::Waiting);
    settle(world);
    lease
}

#[test]
fn a_bound_pod_whose_reservation_timed_out_is_made_anew_by_its_controller_after_a_while() {
    let mut world = world(1);
    let lease = timed_out(&mut world, pod("a", "8Gi", "normal"));
    assert_eq!(said(&world, &lease).why.as_deref(), Some("ReservationTimedOut"));
    assert!(acts(&world).is_empty(), "it has its time");
    let later = "2026-01-01T01:03:00Z".parse().unwrap();
    let (overdue, _) = plan(&world, &planning(), &Lately::default(), later);
    assert_eq!(overdue, vec![Act::Evict("ns/a".into(), EndReason::Expired)]);
}

#[test]
fn a_bare_pod_whose_reservation_timed_out_stays_since_nothing_would_make_it_again() {
    let mut world = world(1);
    let mut bare = pod("a", "8Gi", "normal");
    bare.metadata.owner_references = None;
    timed_out(&mut world, bare);
    let later = "2026-01-01T02:00:00Z".parse().unwrap();
    assert!(plan(&world, &planning(), &Lately::default(), later).0.is_empty());
}

#[test]
fn places_in_the_queue_are_not_written_again_at_once_but_reasons_are() {
    let mut world = world(1);
    for name in ["a", "b", "c"] {
        world.pod(pod(name, "16Gi", "normal"));
        settle(&mut world);
    }
    let c = lease_of(&world, "c");
    // The one before it leaves, so that it moves up.
    world.no_pod(&"ns/b".to_owned());
    let lately = Lately { told: BTreeSet::from([c.clone()]), ..Lately::default() };
    let says = |lately: &Lately, world: &World| {
        let (acts, _) = plan(world, &planning(), lately, now());
        acts.iter().any(|act| matches!(act, Act::Say(key, _) if *key == c))
    };
    let left = lease_of(&world, "b");
    world.leases.remove(&left);
    assert!(!says(&lately, &world) && says(&Lately::default(), &world));
    world.memory.get_mut("node1").unwrap().status.as_mut().unwrap().gpus[0].leasable = "8Gi".into();
    assert!(says(&lately, &world), "that it can never be is told at once");
}

#[test]
fn who_goes_slowly_while_others_wait_for_its_memory_is_hurried_but_never_forced() {
    let grace = |own: Option<i64>| {
        let mut pod = pod("a", "8Gi", "batch");
        pod.spec.as_mut().unwrap().termination_grace_period_seconds = own;
        pod
    };
    let cases = [
        (Some(3600), EndReason::Preempted, 30),
        (Some(3600), EndReason::Drained, 3600),
        (Some(5), EndReason::Preempted, 5),
        (Some(0), EndReason::Preempted, 1),
        (None, EndReason::Preempted, 30),
    ];
    for (own, reason, expect) in cases {
        assert_eq!(grace_for(&grace(own), reason), expect, "{own:?} {reason}");
    }
    let mut going = grace(Some(3600));
    going.metadata.deletion_grace_period_seconds = Some(3600);
    assert!(goes_slowly(&going, EndReason::Preempted) && !goes_slowly(&going, EndReason::Drained));
    going.metadata.deletion_grace_period_seconds = Some(30);
    assert!(!goes_slowly(&going, EndReason::Preempted));
}

#[test]
fn once_an_uninstall_has_begun_no_lease_begins() {
    let mut world = world(1);
    world.pod(pod("a", "16Gi", "normal"));
    world.pod(pod("b", "16Gi", "normal"));
    settle(&mut world);
    let (a, b) = (lease_of(&world, "a"), lease_of(&world, "b"));
    agent_says(&mut world, &a, AllocationState::Ended);
    world.no_pod(&"ns/a".to_owned());
    world.pod(pod("c", "1Gi", "normal"));
    let open = World { closed: false, ..world.clone() };
    assert!(acts(&open).iter().any(|act| matches!(act, Act::Place(lease, ..) if *lease == b)), "its memory is free");
    world.closed = true;
    let done = settle(&mut world);
    assert!(!done.iter().any(|act| matches!(act, Act::Create(_) | Act::Place(..))), "{done:?}");
}
