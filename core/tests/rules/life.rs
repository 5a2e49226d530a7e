//! From the reservation to the end: holders that come late, give back, move to RAM, and places that are drained or lost.

use memboss_core::{
    Class, Closed, Decision, DrainScope, EndReason, Forecast, GpuSelector, LeaseRecord, NodeFacts, NodeSelector, Phase,
    Request, Token, Waiting,
};

use crate::world::*;

const B: Class = Class::Batch;
const N: Class = Class::Normal;

#[test]
fn a_reservation_that_nobody_comes_for_waits_again_bound_to_its_node() {
    let mut engine = engine(&[node("n", &[gpu("a", 8000)]), node("m", &[gpu("b", 8000)])]);
    submit(&mut engine, ask("x", N, 8000, 0), 0);
    let home = engine.lease(&id("x")).unwrap().placement.unwrap().node;
    assert_eq!(engine.next_wake(), Some(at(300)));
    assert_eq!(granted(&engine.decide(at(300))), ["x"], "its own place is free again");
    assert_eq!(engine.request(&id("x")).unwrap().nodes, NodeSelector::Only([home].into()));
}

#[test]
fn a_holder_that_came_is_not_put_back() {
    let mut engine = engine(&[node("n", &[gpu("a", 8000)])]);
    run(&mut engine, ask("x", N, 8000, 0), 0);
    assert!(engine.decide(at(10_000)).is_empty());
    assert_eq!(phase(&engine, "x"), "Active");
}

#[test]
fn activating_twice_gives_the_same_token_and_keeps_the_first_moment() {
    let mut engine = engine(&[node("n", &[gpu("a", 8000)])]);
    submit(&mut engine, ask("x", N, 8000, 0), 0);
    let token = engine.activate(&id("x"), at(1)).unwrap();
    assert_eq!(engine.activate(&id("x"), at(2)), Ok(token));
    assert_eq!(engine.lease(&id("x")).unwrap().phase, Phase::Active { since: at(1) });
}

#[test]
fn a_newer_grant_makes_the_older_token_stale() {
    let mut engine = engine(&[node("n", &[gpu("a", 8000)])]);
    submit(&mut engine, ask("x", N, 8000, 0), 0);
    let old = engine.lease(&id("x")).unwrap().token;
    engine.requeue(&id("x")).unwrap();
    engine.decide(at(1));
    assert!(engine.lease(&id("x")).unwrap().token > old);
    assert_eq!(engine.check_token(&id("x"), old).unwrap_err().name(), "StaleToken");
}

#[test]
fn a_lease_is_charged_until_its_memory_is_seen_free() {
    let mut engine = engine(&[node("n", &[gpu("a", 8000)])]);
    run(&mut engine, ask("x", N, 8000, 0), 0);
    engine.stop(&id("x"), EndReason::Released).unwrap();
    assert_eq!(free(&engine, "a"), 0);
    assert_eq!(engine.end(&id("x"), EndReason::Exited), Ok(EndReason::Released));
    assert_eq!(free(&engine, "a"), 8000);
    assert!(engine.lease(&id("x")).is_none());
}

#[test]
fn shrinking_frees_exactly_what_is_given_back() {
    let mut engine = engine(&[ram_node("n", &[gpu("a", 8000)], 5000)]);
    run(&mut engine, ask_for("x", N, demand(&[8000], 2000), 0), 0);
    engine.shrink(&id("x"), &[mib(3000)], mib(500)).unwrap();
    assert_eq!((free(&engine, "a"), engine.ram(&node_name("n"))), (5000, Some((mib(5000), mib(500)))));
}

#[test]
fn shrinking_never_grows() {
    let mut engine = engine(&[ram_node("n", &[gpu("a", 8000)], 5000)]);
    run(&mut engine, ask_for("x", N, demand(&[4000], 100), 0), 0);
    let refused = |engine: &mut memboss_core::Engine, memory: &[u64], ram| {
        let memory: Vec<_> = memory.iter().map(|n| mib(*n)).collect();
        engine.shrink(&id("x"), &memory, mib(ram)).unwrap_err().name()
    };
    assert_eq!(refused(&mut engine, &[4001], 100), "Grows");
    assert_eq!(refused(&mut engine, &[4000], 101), "Grows");
    assert_eq!(refused(&mut engine, &[1, 1], 100), "MisfitPlacement");
    assert_eq!(free(&engine, "a"), 4000);
}

/// `b` holds 8000 of `g` and 1000 of 3000 RAM; `n` has claimed 3000 of the GPU.
fn asked_to_offload(ram: u64) -> memboss_core::Engine {
    let mut engine = with_policy(&[ram_node("n", &[gpu("g", 8000)], ram)], unprotected());
    let mut request = ask_for("b", B, demand(&[8000], 1000), 0);
    request.flexibility.offloads = true;
    run(&mut engine, request, 0);
    submit(&mut engine, ask("n", N, 3000, 1), 100);
    assert_eq!(phase(&engine, "b"), "Revoking");
    engine
}

#[test]
fn offloading_serves_the_preemptor_and_the_victim_goes_on() {
    let mut engine = asked_to_offload(4000);
    engine.offload(&id("b"), &[mib(5000)], mib(3000)).unwrap();
    assert_eq!(granted(&engine.decide(at(101))), ["n"]);
    assert_eq!(phase(&engine, "b"), "Active");
    assert_eq!(engine.ram(&node_name("n")), Some((mib(4000), mib(4000))));
}

#[test]
fn offloading_without_ram_changes_nothing() {
    let mut engine = asked_to_offload(3000);
    let before = engine.lease(&id("b"));
    assert_eq!(engine.offload(&id("b"), &[mib(5000)], mib(3000)).unwrap_err().name(), "NoRoom");
    assert_eq!(engine.lease(&id("b")), before);
    assert!(engine.decide(at(101)).is_empty());
}

#[test]
fn an_offload_that_would_grow_a_slot_changes_nothing() {
    let mut engine = asked_to_offload(4000);
    let before = engine.lease(&id("b"));
    assert_eq!(engine.offload(&id("b"), &[mib(9000)], mib(3000)).unwrap_err().name(), "Grows");
    assert_eq!((engine.lease(&id("b")), engine.ram(&node_name("n"))), (before, Some((mib(4000), mib(1000)))));
}

#[test]
fn taking_ram_and_giving_it_back_is_not_giving_way() {
    let mut engine = with_policy(&[ram_node("n", &[], 5000)], unprotected());
    let mut request = ask_for("b", B, demand(&[], 3000), 0);
    request.flexibility.shrinks = true;
    run(&mut engine, request, 0);
    submit(&mut engine, ask_for("n", Class::High, demand(&[], 3000), 1), 100);
    engine.set_node(&ram_node("n", &[], 7000));
    engine.reserve_ram(&id("b"), mib(1000)).unwrap();
    engine.shrink(&id("b"), &[], mib(3000)).unwrap();
    assert_eq!(phase(&engine, "b"), "Revoking");
    engine.shrink(&id("b"), &[], mib(2000)).unwrap();
    assert_eq!(phase(&engine, "b"), "Active");
}

#[test]
fn draining_a_node_closes_it_and_asks_everybody_the_lowest_class_first() {
    let mut engine = engine(&[node("n", &[gpu("a", 8000), gpu("b", 8000)])]);
    hold(&mut engine, ask("x", N, 1000, 0), "a", 50);
    hold(&mut engine, ask("y", B, 1000, 0), "b", 50);
    let told = engine.drain(&DrainScope::Node(node_name("n")), at(51)).unwrap();
    assert_eq!(told, [id("y"), id("x")]);
    assert_eq!(noticed(&engine.decide(at(51))), ["y", "x"]);
    assert!(granted(&submit(&mut engine, ask("z", N, 1000, 52), 52)).is_empty());
    assert_eq!(stopped(&engine.decide(at(81))).len(), 2);
}

#[test]
fn draining_a_gpu_closes_that_gpu_until_it_is_opened() {
    let facts = node("n", &[gpu("a", 8000), gpu("b", 4000)]);
    let mut engine = engine(std::slice::from_ref(&facts));
    hold(&mut engine, ask("x", N, 1000, 0), "a", 0);
    engine.drain(&DrainScope::Gpu(uuid("a")), at(1)).unwrap();
    engine.set_node(&facts);
    run(&mut engine, ask("z", N, 1000, 2), 2);
    assert_eq!(gpus_of(&engine, "z"), ["b"]);
    assert!(granted(&submit(&mut engine, ask("large", N, 5000, 2), 2)).is_empty());
    engine.close_gpu(&uuid("a"), None).unwrap();
    assert_eq!(granted(&engine.decide(at(3))), ["large"]);
}

#[test]
fn whoever_waits_for_gpus_that_are_all_closed_is_told_so() {
    let mut engine = engine(&[node("n", &[gpu("a", 8000), gpu("b", 4000)])]);
    let only_a = |name| Request {
        gpus: GpuSelector { uuids: vec![uuid("a")], ..GpuSelector::default() },
        ..ask(name, N, 1000, 2)
    };
    engine.drain(&DrainScope::Gpu(uuid("a")), at(1)).unwrap();
    submit(&mut engine, only_a("x"), 2);
    let why = engine.lease(&id("x")).unwrap().why.unwrap();
    assert_eq!((why.name(), why.to_string().contains("drained")), ("Closed", true));
    assert!(matches!(
        engine.dry_run(&only_a("y"), at(3)),
        Ok(Forecast::Wait { why: Waiting::Closed { why: Closed::Draining, .. }, .. })
    ));
    run(&mut engine, ask("z", N, 4000, 3), 3);
    submit(&mut engine, ask("w", N, 4000, 3), 3);
    assert_eq!(engine.lease(&id("w")).unwrap().why.unwrap().name(), "NoRoom", "another GPU is open");
}

#[test]
fn nothing_is_too_much_for_a_node_whose_gpus_nobody_could_look_at_yet() {
    let unread = NodeFacts { gpus_unread: true, ..node("n", &[]) };
    let mut engine = engine(std::slice::from_ref(&unread));
    let of = |name, slots: &[u64], ram| ask_for(name, N, demand(slots, ram), 1);
    submit(&mut engine, of("x", &[8000], 0), 1);
    let why = engine.lease(&id("x")).unwrap().why.unwrap();
    let said = "no GPU that would do takes new leases; those of n: the driver has not told yet which GPUs there are";
    assert_eq!((why.name(), why.to_string().as_str()), ("Closed", said));
    let forecast = |request| match engine.dry_run(&request, at(1)).unwrap() {
        Forecast::Wait { satisfiable, why, .. } => (satisfiable, why.name()),
        other => panic!("{other:?}"),
    };
    assert_eq!(forecast(of("y", &[80_000_000, 1], 0)), (true, "Closed"));
    assert_eq!(forecast(of("y", &[1], 2_000_000)), (false, "NoRam"), "of its RAM all is known");

    // What the GPUs of others have too little of, or give nobody now, is not what it waits for.
    engine.set_node(&node("m", &[gpu("c", 4000)]));
    engine.decide(at(1));
    assert_eq!(engine.lease(&id("x")).unwrap().why.unwrap().to_string(), said);
    let drained = NodeFacts { closed: Some(Closed::Draining), ..unread };
    engine.set_node(&drained);
    engine.decide(at(1));
    let told = engine.lease(&id("x")).unwrap().why.unwrap().to_string();
    assert!(told.ends_with("those of n: it is being drained"), "{told}");
    assert_eq!(granted(&submit(&mut engine, of("small", &[4000], 0), 1)), ["small"], "nothing is kept for x there");

    engine.set_node(&node("n", &[gpu("a", 4000)]));
    assert!(granted(&engine.decide(at(2))).is_empty());
    assert_eq!(engine.lease(&id("x")).unwrap().why.unwrap().name(), "Unsatisfiable");
    engine.set_node(&node("n", &[gpu("a", 4000), gpu("b", 8000)]));
    assert_eq!(granted(&engine.decide(at(3))), ["x"]);
}

#[test]
fn facts_do_not_open_a_node_that_was_closed_here_unless_they_had_closed_it() {
    let open = node("n", &[gpu("a", 8000)]);
    let mut engine = engine(std::slice::from_ref(&open));
    engine.close_node(&node_name("n"), Some(Closed::Suspect)).unwrap();
    engine.set_node(&open);
    assert!(granted(&submit(&mut engine, ask("x", N, 1000, 0), 0)).is_empty());
    engine.set_node(&NodeFacts { closed: Some(Closed::Draining), ..open.clone() });
    engine.set_node(&open);
    assert_eq!(granted(&engine.decide(at(1))), ["x"]);
}

#[test]
fn whoever_is_drained_is_not_spared_though_its_preemptor_goes() {
    let mut engine = one_gpu(8000);
    hold(&mut engine, ask("b", B, 8000, 0), "g", 0);
    submit(&mut engine, ask("n", N, 8000, 1), 100);
    engine.drain(&DrainScope::Node(node_name("n")), at(101)).unwrap();
    assert!(spared(&engine.decide(at(101))).is_empty());
    assert_eq!(stopped(&engine.decide(at(130))), ["b"], "the deadline that it had been told holds");
    assert_eq!(engine.end(&id("b"), EndReason::Exited), Ok(EndReason::Drained));
}

#[test]
fn whoever_is_drained_has_to_go_though_it_gave_everything_back() {
    let mut engine = one_gpu(8000);
    hold(&mut engine, flexible(ask("b", B, 8000, 0)), "g", 0);
    engine.drain(&DrainScope::Gpu(uuid("g")), at(1)).unwrap();
    engine.shrink(&id("b"), &[mib(0)], mib(0)).unwrap();
    assert_eq!(phase(&engine, "b"), "Revoking");
}

#[test]
fn what_does_not_exist_cannot_be_drained() {
    let mut engine = one_gpu(8000);
    assert_eq!(engine.drain(&DrainScope::Node(node_name("m")), at(1)).unwrap_err().name(), "UnknownNode");
    assert_eq!(engine.drain(&DrainScope::Gpu(uuid("h")), at(1)).unwrap_err().name(), "UnknownGpu");
}

#[test]
fn a_lost_gpu_keeps_its_leases_charged_and_serves_again_when_it_is_back() {
    let mut engine = engine(&[node("n", &[gpu("a", 8000), gpu("b", 1000)])]);
    run(&mut engine, ask("x", N, 5000, 0), 0);
    engine.set_node(&node("n", &[gpu("b", 1000)]));
    assert!(granted(&submit(&mut engine, ask("y", N, 3000, 1), 1)).is_empty());
    assert_eq!(phase(&engine, "x"), "Active");
    engine.set_node(&node("n", &[gpu("a", 8000), gpu("b", 1000)]));
    assert_eq!(granted(&engine.decide(at(2))), ["y"]);
    assert_eq!(free(&engine, "a"), 0);
}

#[test]
fn a_removed_node_gives_its_leases_back_and_its_claims_wait_again() {
    let mut engine = one_gpu(8000);
    hold(&mut engine, ask("b", B, 8000, 0), "g", 0);
    submit(&mut engine, ask("n", N, 8000, 1), 100);
    assert_eq!(engine.remove_node(&node_name("n")), [id("b")]);
    engine.decide(at(101));
    assert_eq!(why(&engine, "n"), "Unsatisfiable");
    engine.end(&id("b"), EndReason::NodeLost).unwrap();
    engine.set_node(&node("n", &[gpu("g", 8000)]));
    assert_eq!(granted(&engine.decide(at(102))), ["n"]);
}

#[test]
fn adopting_takes_more_than_there_is_as_a_fact_and_grants_nothing_until_it_is_less() {
    let mut engine = one_gpu(8000);
    hold(&mut engine, ask("x", N, 7000, 0), "g", 0);
    hold(&mut engine, ask("y", N, 7000, 0), "g", 0);
    assert!(granted(&submit(&mut engine, ask("z", N, 1000, 1), 1)).is_empty());
    engine.end(&id("x"), EndReason::Exited).unwrap();
    assert_eq!(granted(&engine.decide(at(2))), ["z"]);
}

#[test]
fn a_record_of_what_ended_brings_nothing_back() {
    let mut engine = one_gpu(8000);
    let phase = Phase::Ended(EndReason::Released);
    let record = LeaseRecord { request: ask("x", N, 1000, 0), phase, placement: None, token: Token::default() };
    engine.adopt(record).unwrap();
    assert!(engine.lease(&id("x")).is_none());
}

#[test]
fn records_bring_everything_back() {
    let mut engine = one_gpu(8000);
    hold(&mut engine, ask("b", B, 8000, 0), "g", 0);
    submit(&mut engine, ask("n", N, 8000, 1), 100);
    let mut again = one_gpu(8000);
    for record in engine.records() {
        again.adopt(record).unwrap();
    }
    assert_eq!((phase(&again, "b"), phase(&again, "n"), free(&again, "g")), ("Revoking", "Waiting", 0));
    assert_eq!(stopped(&again.decide(at(130))), ["b"]);
}

#[test]
fn who_was_told_to_go_before_is_spared_too_when_its_preemptor_goes_away() {
    let mut engine = one_gpu(8000);
    hold(&mut engine, ask("b", B, 8000, 0), "g", 0);
    submit(&mut engine, ask("n", N, 8000, 1), 100);
    let mut again = one_gpu(8000);
    engine.records().into_iter().for_each(|record| again.adopt(record).unwrap());
    let told = again.decide(at(101));
    assert!(matches!(told.first(), Some(Decision::Claim { victims, .. }) if *victims == [id("b")]), "{told:?}");
    assert!(!told.iter().any(|decision| matches!(decision, Decision::Notice { .. })), "once is enough: {told:?}");
    again.stop(&id("n"), EndReason::Released).unwrap();
    again.decide(at(102));
    assert_eq!(phase(&again, "b"), "Active");
}
