//! Who gives way to whom, what is claimed meanwhile, and who gets it.

use memboss_core::{Class, Decision, Demand, DrainScope, EndReason, Forecast, GpuFacts, Mib, Phase, Policy, Span};

use crate::world::*;

const B: Class = Class::Batch;
const L: Class = Class::Low;
const N: Class = Class::Normal;
const H: Class = Class::High;

fn victims(decisions: &[Decision]) -> Vec<String> {
    claimed(decisions).into_iter().flat_map(|(_, victims)| victims).collect()
}

/// What a preemptor `p` of class HIGH that needs `need` does to these leases `(name, class, size, active since, flexible)` on 10,000.
fn who_goes(leases: &[(&str, Class, u64, u64, bool)], need: u64) -> Vec<String> {
    let mut engine = one_gpu(10_000);
    for (name, class, size, since, shrinks) in leases {
        let mut request = ask(name, *class, *size, 0);
        request.flexibility.shrinks = *shrinks;
        hold(&mut engine, request, "g", *since);
    }
    victims(&submit(&mut engine, ask("p", H, need, 6000), 6000))
}

#[test]
fn victims_are_chosen_in_that_order() {
    let rigid = false;
    // The lowest class first.
    assert_eq!(who_goes(&[("n", N, 5000, 5000, true), ("b", B, 5000, 0, rigid)], 5000), ["b"]);
    // Then who can shrink.
    assert_eq!(who_goes(&[("a", N, 5000, 5000, rigid), ("f", N, 5000, 0, true)], 5000), ["f"]);
    // Then the least work lost.
    assert_eq!(who_goes(&[("old", N, 5000, 0, rigid), ("new", N, 5000, 5000, rigid)], 5000), ["new"]);
    // Then the least in excess.
    assert_eq!(who_goes(&[("large", N, 7000, 5000, rigid), ("small", N, 3000, 5000, rigid)], 3000), ["small"]);
    // Then the youngest.
    assert_eq!(who_goes(&[("elder", N, 5000, 5940, rigid), ("younger", N, 5000, 5950, rigid)], 5000), ["younger"]);
}

#[test]
fn whoever_turns_out_not_to_be_needed_stays() {
    assert_eq!(who_goes(&[("b", B, 2000, 0, false), ("n", N, 8000, 0, false)], 8000), ["n"]);
}

#[test]
fn equal_and_higher_classes_never_give_way() {
    assert!(who_goes(&[("h", H, 5000, 0, false), ("u", Class::Urgent, 5000, 0, false)], 1000).is_empty());
}

#[test]
fn nobody_goes_where_the_whole_would_not_fit_then() {
    assert!(who_goes(&[("b", B, 5000, 0, false), ("h", H, 5000, 0, false)], 6000).is_empty());
}

#[test]
fn the_cheapest_place_is_claimed() {
    let mut engine = with_policy(&[node("n", &[gpu("a", 8000), gpu("b", 8000)])], unprotected());
    hold(&mut engine, ask("n", N, 8000, 0), "a", 0);
    hold(&mut engine, ask("b", B, 8000, 0), "b", 0);
    assert_eq!(victims(&submit(&mut engine, ask("p", H, 8000, 1), 1)), ["b"]);
    assert_eq!(gpus_of(&engine, "p"), ["b"]);
}

#[test]
fn a_protected_lease_stays_until_its_time_is_over_and_the_engine_says_when() {
    let mut engine = engine(&[node("n", &[gpu("g", 8000)])]);
    hold(&mut engine, ask("x", L, 8000, 0), "g", 100);
    assert!(claimed(&submit(&mut engine, ask("p", H, 8000, 101), 101)).is_empty());
    assert_eq!(why(&engine, "p"), "VictimsProtected");
    assert_eq!(engine.next_wake(), Some(at(130)));
    assert!(claimed(&engine.decide(at(129))).is_empty());
    assert_eq!(victims(&engine.decide(at(130))), ["x"]);
}

#[test]
fn a_wish_for_longer_protection_is_cut_to_the_class() {
    let mut engine = engine(&[node("n", &[gpu("g", 8000)])]);
    let mut request = ask("x", L, 8000, 0);
    request.protection = Some(Span::from_secs(10_000));
    hold(&mut engine, request, "g", 100);
    assert_eq!(victims(&submit(&mut engine, ask("p", H, 8000, 101), 130)), ["x"]);
}

#[test]
fn whoever_was_preempted_often_enough_stays() {
    let mut engine = one_gpu(8000);
    let mut request = ask("x", B, 8000, 0);
    request.preempted = Policy::default().preemption_budget;
    hold(&mut engine, request, "g", 0);
    assert!(claimed(&submit(&mut engine, ask("p", H, 8000, 1), 100)).is_empty());
}

#[test]
fn a_reservation_gives_way_to_nobody() {
    let mut engine = one_gpu(8000);
    submit(&mut engine, ask("x", B, 8000, 0), 0);
    assert!(claimed(&submit(&mut engine, ask("p", H, 8000, 1), 1)).is_empty());
    assert!(engine.next_wake() > Some(at(1)), "it is not looked at again and again at once");
}

#[test]
fn whoever_waits_looks_again_at_once_when_a_reservation_becomes_a_victim_that_nothing_protects() {
    let mut engine = one_gpu(8000);
    submit(&mut engine, ask("x", B, 8000, 0), 0);
    assert!(claimed(&submit(&mut engine, ask("p", H, 8000, 1), 1)).is_empty());
    engine.activate(&id("x"), at(1)).unwrap();
    assert_eq!(victims(&engine.decide(at(1))), ["x"]);
}

#[test]
fn memory_on_its_way_is_waited_for_rather_than_preempting_more() {
    let mut engine = one_gpu(10_000);
    hold(&mut engine, ask("going", N, 5000, 0), "g", 0);
    hold(&mut engine, ask("staying", B, 5000, 0), "g", 0);
    engine.stop(&id("going"), EndReason::Exited).unwrap();
    let decisions = submit(&mut engine, ask("p", H, 5000, 1), 1);
    assert_eq!(claimed(&decisions), [("p".to_owned(), vec![])]);
    assert!(noticed(&decisions).is_empty());
}

/// `b` of class BATCH holds all of `g`; `n` has claimed it and `b` has its notice.
fn claimed_world() -> memboss_core::Engine {
    let mut engine = one_gpu(8000);
    hold(&mut engine, ask("b", B, 8000, 0), "g", 0);
    assert_eq!(victims(&submit(&mut engine, ask("n", N, 8000, 1), 100)), ["b"]);
    engine
}

#[test]
fn a_claim_is_charged_when_its_memory_is_free_and_not_before() {
    let mut engine = claimed_world();
    assert_eq!((phase(&engine, "n"), phase(&engine, "b")), ("Waiting", "Revoking"));
    assert_eq!(why(&engine, "n"), "Claimed");
    engine.stop(&id("b"), EndReason::Exited).unwrap();
    assert!(granted(&engine.decide(at(101))).is_empty());
    assert_eq!(engine.end(&id("b"), EndReason::Exited), Ok(EndReason::Preempted));
    assert_eq!(granted(&engine.decide(at(102))), ["n"]);
}

#[test]
fn claimed_memory_is_not_for_equals_or_lower_ones() {
    let mut engine = claimed_world();
    engine.submit(ask("equal", N, 100, 0)).unwrap();
    engine.submit(ask("lower", L, 100, 0)).unwrap();
    engine.end(&id("b"), EndReason::Exited).unwrap();
    assert_eq!(granted(&engine.decide(at(102))), ["n"]);
}

#[test]
fn a_higher_class_takes_a_claim_over_and_the_victims_go_for_it() {
    let mut engine = claimed_world();
    let decisions = submit(&mut engine, ask("h", H, 8000, 101), 101);
    assert!(spared(&decisions).is_empty(), "{decisions:?}");
    let told = decisions
        .iter()
        .find_map(|d| if let Decision::Notice { notice, .. } = d { Some(notice.clone()) } else { None });
    assert_eq!(told.unwrap().preemptor, Some(id("h")));
    assert_eq!(engine.queue(), [id("n")]);
    assert_eq!(engine.request(&id("n")).unwrap().enqueued, at(1));
    engine.end(&id("b"), EndReason::Exited).unwrap();
    assert_eq!(granted(&engine.decide(at(103))), ["h"]);
}

#[test]
fn victims_of_a_claim_that_is_dropped_are_spared() {
    let mut engine = claimed_world();
    engine.stop(&id("n"), EndReason::Deleted).unwrap();
    assert_eq!(spared(&engine.decide(at(101))), ["b"]);
    assert_eq!(phase(&engine, "b"), "Active");
}

#[test]
fn a_claim_whose_gpu_closes_waits_again_and_its_victims_stay() {
    let mut engine = claimed_world();
    engine.set_node(&node("n", &[closed_gpu("g", 8000, memboss_core::Closed::Degraded)]));
    assert_eq!(spared(&engine.decide(at(101))), ["b"]);
    assert_eq!((phase(&engine, "n"), why(&engine, "n")), ("Waiting", "Closed"));
}

#[test]
fn what_comes_free_otherwise_spares_the_victims() {
    let mut engine = one_gpu(10_000);
    hold(&mut engine, ask("b", B, 5000, 0), "g", 0);
    hold(&mut engine, ask("x", H, 5000, 0), "g", 0);
    submit(&mut engine, ask("n", N, 5000, 1), 100);
    engine.end(&id("x"), EndReason::Exited).unwrap();
    let decisions = engine.decide(at(101));
    assert_eq!((granted(&decisions), spared(&decisions)), (vec!["n".to_owned()], vec!["b".to_owned()]));
}

#[test]
fn a_notice_that_ran_out_becomes_a_stop() {
    let mut engine = claimed_world();
    assert_eq!(engine.next_wake(), Some(at(130)));
    assert!(stopped(&engine.decide(at(129))).is_empty());
    assert_eq!(stopped(&engine.decide(at(130))), ["b"]);
    assert_eq!(engine.lease(&id("b")).unwrap().phase, Phase::Stopping { reason: EndReason::Preempted });
}

#[test]
fn a_wish_for_a_notice_holds_up_to_the_limit() {
    let mut engine = one_gpu(8000);
    let mut request = ask("b", B, 8000, 0);
    request.notice = Some(Span::from_secs(100_000));
    hold(&mut engine, request, "g", 0);
    submit(&mut engine, ask("n", N, 8000, 1), 100);
    assert_eq!(engine.next_wake(), Some(at(400)));
}

#[test]
fn giving_back_what_was_asked_serves_the_preemptor_and_the_victim_goes_on() {
    let mut engine = one_gpu(8000);
    hold(&mut engine, flexible(ask("b", B, 8000, 0)), "g", 0);
    submit(&mut engine, ask("n", N, 3000, 1), 100);
    let Phase::Revoking { notice, .. } = engine.lease(&id("b")).unwrap().phase else { panic!("not told") };
    assert_eq!(notice.needed, [mib(3000)]);
    engine.shrink(&id("b"), &[mib(6000)], mib(0)).unwrap();
    assert_eq!(phase(&engine, "b"), "Revoking");
    assert!(granted(&engine.decide(at(101))).is_empty());
    engine.shrink(&id("b"), &[mib(5000)], mib(0)).unwrap();
    assert_eq!(granted(&engine.decide(at(102))), ["n"]);
    assert_eq!(engine.lease(&id("b")).unwrap().phase, Phase::Active { since: at(0) });
}

#[test]
fn where_more_is_charged_than_there_is_the_victims_pay_that_too() {
    let mut engine = one_gpu(10_000);
    hold(&mut engine, flexible(ask("b", B, 6000, 0)), "g", 0);
    hold(&mut engine, ask("x", H, 4000, 0), "g", 0);
    engine.set_node(&node("n", &[GpuFacts { foreign: mib(2000), ..gpu("g", 10_000) }]));
    assert!(claimed(&submit(&mut engine, ask("too-much", N, 4001, 1), 100)).is_empty());
    assert_eq!(victims(&submit(&mut engine, ask("n", N, 3000, 1), 100)), ["b"]);
    let Phase::Revoking { notice, .. } = engine.lease(&id("b")).unwrap().phase else { panic!("not told") };
    assert_eq!(notice.needed, [mib(5000)]);
}

#[test]
fn a_lease_on_several_gpus_gives_way_on_the_one_that_is_needed() {
    let mut engine = with_policy(&[node("n", &[gpu("a", 8000), gpu("b", 9000)])], unprotected());
    let request = flexible(ask_for("b", B, demand(&[8000, 8000], 0), 0));
    adopt_active(&mut engine, request, place("n", &[("a", 8000), ("b", 8000)]), 0);
    submit(&mut engine, ask("n", N, 3000, 1), 100);
    let Phase::Revoking { notice, .. } = engine.lease(&id("b")).unwrap().phase else { panic!("not told") };
    // Least in excess: 3000 of 8000 on one, rather than 2000 of 8000 on the other.
    assert_eq!(notice.needed, [mib(3000), mib(0)]);
}

#[test]
fn a_preemptor_takes_what_its_victims_free_and_not_what_is_kept_for_an_earlier_first_in_line() {
    let policy = Policy { aging_per_class: Span::from_secs(1), ..unprotected() };
    let mut engine = with_policy(&[node("n", &[gpu("g", 10_000)])], policy);
    hold(&mut engine, ask("b", B, 5000, 0), "g", 0);
    // Lower than nobody it could ask, but first in line for a long time.
    submit(&mut engine, ask("aged", B, 6000, 0), 1000);
    assert_eq!(victims(&submit(&mut engine, ask("h", H, 5000, 1000), 1000)), ["b"]);
    assert!(granted(&engine.decide(at(1001))).is_empty());
    engine.end(&id("b"), EndReason::Exited).unwrap();
    assert_eq!(granted(&engine.decide(at(1002))), ["h"]);
}

#[test]
fn a_forecast_is_what_then_happens() {
    let mut engine = one_gpu(8000);
    hold(&mut engine, ask("b", B, 6000, 0), "g", 0);
    let small = ask("small", N, 2000, 100);
    let Ok(Forecast::Grant(placement)) = engine.dry_run(&small, at(100)) else { panic!("a grant") };
    run(&mut engine, small, 100);
    assert_eq!(engine.lease(&id("small")).unwrap().placement, Some(placement));
    let large = ask("large", H, 6000, 100);
    let Ok(Forecast::Preempt { placement, victims: who }) = engine.dry_run(&large, at(100)) else { panic!("a claim") };
    assert_eq!(claimed(&submit(&mut engine, large, 100)), [("large".to_owned(), vec!["b".to_owned()])]);
    assert_eq!(who, [id("b")]);
    assert_eq!(engine.lease(&id("large")).unwrap().placement, Some(placement));
    let third = ask("third", B, 6000, 100);
    let Ok(Forecast::Wait { ahead: 0, satisfiable: true, .. }) = engine.dry_run(&third, at(100)) else {
        panic!("a wait")
    };
    assert!(granted(&submit(&mut engine, third, 100)).is_empty());
}

#[test]
fn claims_of_one_class_are_served_in_the_order_in_which_they_were_made() {
    let mut engine = one_gpu(10_000);
    hold(&mut engine, ask("a", B, 5000, 0), "g", 0);
    hold(&mut engine, ask("b", B, 5000, 0), "g", 0);
    submit(&mut engine, ask("second", N, 5000, 9), 100);
    // It has waited longer, but it claims later: what comes free first is not its own.
    submit(&mut engine, ask("first", N, 5000, 1), 101);
    engine.end(&id("a"), EndReason::Exited).unwrap();
    assert_eq!(granted(&engine.decide(at(102))), ["second"]);
    engine.end(&id("b"), EndReason::Exited).unwrap();
    assert_eq!(granted(&engine.decide(at(103))), ["first"]);
}

#[test]
fn what_a_claim_that_cannot_come_had_set_aside_serves_another_at_once() {
    let mut engine = engine(&[node("n", &[gpu("small", 2048), gpu("large", 2816)])]);
    let half = |name| ask_for(name, B, Demand { slots: vec![share(50)], ram: Mib::ZERO }, 0);
    submit(&mut engine, ask_for("held", B, demand(&[1280, 512], 0), 0), 0);
    submit(&mut engine, half("goes"), 0);
    submit(&mut engine, half("waits"), 0);
    engine.drain(&DrainScope::Node(node_name("n")), at(1)).unwrap();
    engine.close_node(&node_name("n"), None).unwrap();
    engine.decide(at(1));
    submit(&mut engine, ask_for("wide", Class::Low, demand(&[1280, 1280], 0), 1), 1);
    engine.end(&id("goes"), EndReason::Exited).unwrap();
    assert!(granted(&engine.decide(at(2))).is_empty(), "one of a higher class has set it aside");
    engine.drain(&DrainScope::Gpu(uuid("small")), at(3)).unwrap();
    assert_eq!(granted(&engine.decide(at(3))), ["waits"]);
}
