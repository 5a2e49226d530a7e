//! Who is next, who stands first in line, and who may pass.

use memboss_core::{Basis, Class, Closed, EndReason, Engine, Moment, OrderKey, Policy, Span};

use crate::world::*;

const N: Class = Class::Normal;

/// 24,000: two leases hold 12,000 and 4000; `head` waits for 20,000.
fn with_a_first_in_line() -> memboss_core::Engine {
    let mut engine = engine(&[node("n", &[gpu("g", 24_000)])]);
    hold(&mut engine, ask("x", N, 12_000, 0), "g", 0);
    hold(&mut engine, ask("y", N, 4000, 0), "g", 0);
    assert!(granted(&submit(&mut engine, ask("head", N, 20_000, 1), 1)).is_empty());
    engine
}

#[test]
fn nobody_may_delay_the_first_in_line() {
    let mut engine = with_a_first_in_line();
    assert!(granted(&submit(&mut engine, ask("later", N, 4000, 2), 2)).is_empty());
    assert_eq!(why(&engine, "later"), "Behind");
}

#[test]
fn what_cannot_delay_the_first_in_line_stands_beside_it() {
    let mut engine = engine(&[node("n", &[gpu("g", 24_000)])]);
    hold(&mut engine, ask("x", N, 12_000, 0), "g", 0);
    submit(&mut engine, ask("head", N, 20_000, 1), 1);
    run(&mut engine, ask("beside", N, 4000, 2), 2);
    assert!(granted(&submit(&mut engine, ask("too-large", N, 4001, 2), 2)).is_empty());
    engine.end(&id("x"), EndReason::Exited).unwrap();
    assert_eq!(granted(&engine.decide(at(3))), ["head"]);
}

#[test]
fn a_later_one_goes_where_nobody_stands_first() {
    let mut engine = with_a_first_in_line();
    engine.set_node(&node("m", &[gpu("h", 8000)]));
    run(&mut engine, ask("later", N, 8000, 2), 2);
}

#[test]
fn when_the_first_in_line_goes_those_behind_it_are_served_at_once() {
    let mut engine = with_a_first_in_line();
    submit(&mut engine, ask("later", N, 4000, 2), 2);
    engine.stop(&id("head"), EndReason::Deleted).unwrap();
    assert_eq!(granted(&engine.decide(at(3))), ["later"]);
}

#[test]
fn whoever_stands_first_at_a_gpu_that_closes_stands_first_at_another() {
    let gpus = [gpu("a", 10_000), gpu("b", 9000)];
    let mut engine = engine(&[node("n", &gpus)]);
    hold(&mut engine, ask("x", N, 5000, 0), "a", 0);
    hold(&mut engine, ask("y", N, 5000, 0), "b", 0);
    submit(&mut engine, ask("head", N, 9000, 1), 1);
    engine.set_node(&node("n", &[closed_gpu("a", 10_000, memboss_core::Closed::Degraded), gpu("b", 9000)]));
    engine.decide(at(2));
    assert!(granted(&submit(&mut engine, ask("later", N, 4000, 3), 3)).is_empty(), "b is kept for head");
}

#[test]
fn a_first_in_line_pushed_aside_by_an_earlier_one_finds_another_place() {
    let mut engine = engine(&[node("n", &[gpu("a", 10_000), gpu("b", 9000)])]);
    hold(&mut engine, ask("x", N, 5000, 0), "a", 0);
    hold(&mut engine, ask("y", N, 5000, 0), "b", 0);
    submit(&mut engine, ask("head", N, 9000, 10), 10);
    submit(&mut engine, ask("earlier", N, 10_000, 1), 11);
    let later = |name| ask(name, N, 4000, 20);
    submit(&mut engine, later("later"), 20);
    assert_eq!(why(&engine, "later"), "Behind");
    assert_eq!((free(&engine, "a"), free(&engine, "b")), (5000, 4000));
}

#[test]
fn small_ram_requests_do_not_starve_a_large_one() {
    let mut engine = engine(&[ram_node("n", &[], 10_000)]);
    run(&mut engine, ask_for("x", N, demand(&[], 5000), 0), 0);
    submit(&mut engine, ask_for("large", N, demand(&[], 10_000), 1), 1);
    submit(&mut engine, ask_for("small", N, demand(&[], 1000), 2), 2);
    assert_eq!(why(&engine, "small"), "Behind");
    engine.end(&id("x"), EndReason::Exited).unwrap();
    assert_eq!(granted(&engine.decide(at(3))), ["large"]);
}

#[test]
fn one_that_lacks_ram_is_not_passed_at_it() {
    let mut engine = engine(&[ram_node("n", &[gpu("g", 8000)], 10_000)]);
    run(&mut engine, ask_for("x", N, demand(&[], 5000), 0), 0);
    submit(&mut engine, ask_for("head", N, demand(&[1000], 10_000), 1), 1);
    assert!(granted(&submit(&mut engine, ask_for("small", N, demand(&[], 1000), 2), 2)).is_empty());
}

#[test]
fn of_two_that_fit_the_earlier_is_served() {
    let mut engine = engine(&[node("n", &[gpu("g", 8000)])]);
    engine.submit(ask("second", N, 8000, 2)).unwrap();
    engine.submit(ask("first", N, 8000, 1)).unwrap();
    assert_eq!(granted(&engine.decide(at(3))), ["first"]);
}

#[test]
fn of_two_that_came_together_the_higher_class_is_served() {
    let mut engine = engine(&[node("n", &[gpu("g", 8000)])]);
    engine.submit(ask("low", Class::Low, 8000, 1)).unwrap();
    engine.submit(ask("high", Class::High, 8000, 1)).unwrap();
    assert_eq!(granted(&engine.decide(at(3))), ["high"]);
}

#[test]
fn a_waiter_passes_the_next_class_after_the_aging_time_and_not_before() {
    let key = |class, secs| OrderKey::new(&Policy::default(), class, at(secs), 0);
    assert!(key(Class::Batch, 0) < key(N, 601));
    assert!(key(Class::Batch, 0) > key(N, 599));
}

#[test]
fn urgent_is_never_passed_however_long_the_others_have_waited() {
    let never = Moment::from_millis(u64::MAX / 2);
    let key = |class, when| OrderKey::new(&Policy::default(), class, when, 0);
    assert!(key(Class::Urgent, never) < key(Class::High, at(0)));
    assert!(key(Class::Urgent, at(1)) < key(Class::Urgent, at(2)));
}

#[test]
fn an_aged_waiter_keeps_free_memory_from_a_higher_class_but_preempts_nobody() {
    let policy = Policy { aging_per_class: Span::from_secs(10), ..unprotected() };
    let mut engine = with_policy(&[node("n", &[gpu("g", 10_000)])], policy);
    hold(&mut engine, ask("x", N, 5000, 0), "g", 0);
    let decisions = submit(&mut engine, ask("aged", Class::Batch, 10_000, 0), 1000);
    assert!(noticed(&decisions).is_empty() && granted(&decisions).is_empty());
    assert!(granted(&submit(&mut engine, ask("high", Class::Low, 5000, 1000), 1000)).is_empty());
    assert_eq!(why(&engine, "high"), "Behind");
}

#[test]
fn one_that_waits_behind_its_like_says_what_its_like_waits_for() {
    let mut engine = with_a_first_in_line();
    submit(&mut engine, ask("again", N, 20_000, 5), 5);
    assert_eq!(why(&engine, "again"), why(&engine, "head"));
    assert_eq!(engine.position(&id("again")), Ok(2));
}

#[test]
fn deciding_twice_says_nothing_new() {
    let mut engine = with_a_first_in_line();
    submit(&mut engine, ask("later", N, 4000, 2), 2);
    assert!(engine.decide(at(2)).is_empty());
}

#[test]
fn ram_is_kept_for_the_first_in_line_also_while_it_is_not_short() {
    let mut engine = engine(&[ram_node("n", &[gpu("a", 8000), gpu("b", 1000)], 7000)]);
    hold(&mut engine, ask("x", N, 8000, 0), "a", 0);
    submit(&mut engine, ask_for("head", N, demand(&[8000], 5000), 1), 1);
    assert!(granted(&submit(&mut engine, ask_for("small", N, demand(&[1000], 3000), 2), 2)).is_empty());
    assert_eq!(why(&engine, "small"), "Behind");
}

#[test]
fn what_a_long_waiter_claims_is_not_for_a_higher_class_that_stands_behind_it() {
    let mut engine = one_gpu(8000);
    hold(&mut engine, ask("x", N, 8000, 0), "g", 0);
    engine.stop(&id("x"), EndReason::Exited).unwrap();
    submit(&mut engine, ask("aged", Class::Batch, 8000, 0), 5000);
    assert_eq!(why(&engine, "aged"), "Claimed");
    submit(&mut engine, ask("high", Class::High, 8000, 5000), 5000);
    engine.end(&id("x"), EndReason::Exited).unwrap();
    assert_eq!(granted(&engine.decide(at(5001))), ["aged"]);
}

#[test]
fn whoever_the_nodes_ram_can_never_serve_stands_first_at_no_gpu_of_it() {
    let with = |ram| ram_node("n", &[gpu("g", 10_000)], ram);
    let mut engine = engine(&[with(1000)]);
    hold(&mut engine, ask("x", N, 4000, 0), "g", 0);
    // `ram` stands first at the RAM; so `head` does at the GPU alone.
    run(&mut engine, ask_for("y", N, demand(&[], 500), 0), 0);
    submit(&mut engine, ask_for("ram", N, demand(&[], 900), 1), 1);
    submit(&mut engine, ask_for("head", N, demand(&[8000], 300), 2), 2);
    assert!(granted(&submit(&mut engine, ask("later", N, 6000, 3), 3)).is_empty());
    assert_eq!(why(&engine, "later"), "Behind");
    engine.set_node(&with(200));
    assert_eq!(granted(&engine.decide(at(4))), ["later"]);
    assert_eq!(why(&engine, "head"), "NoRam");
}

fn estimate(engine: &Engine, name: &str, now: u64) -> Option<(u64, Basis)> {
    let view = engine.lease(&id(name)).unwrap();
    let estimate = engine.estimate(&view, engine.position(&id(name)).ok(), at(now))?;
    Some((estimate.by.millis() / 1000, estimate.basis))
}

#[test]
fn whoever_waits_is_told_when_it_will_probably_be_granted_and_on_what_that_rests() {
    let mut engine = with_policy(&[node("n", &[gpu("g", 8000)])], Policy::default());
    hold(&mut engine, ask("batch", Class::Batch, 8000, 0), "g", 0);
    submit(&mut engine, ask("high", Class::High, 8000, 2), 2);
    // BATCH is protected for 10 s and has 15 s of notice for HIGH.
    assert_eq!(estimate(&engine, "high", 2), Some((10 + 15, Basis::Protection)));
    engine.decide(at(10));
    assert_eq!(estimate(&engine, "high", 12), Some((25, Basis::Notice)));
    let told = engine.explain(&id("high"), at(12)).unwrap();
    assert!(told.iter().any(|line| line.contains("granted in 13s, probably")), "{told:?}");
    assert_eq!(estimate(&engine, "batch", 12), None, "it holds");

    // Nothing tells of equals, before some of them have been served.
    let mut engine = one_gpu(8000);
    hold(&mut engine, ask("first", Class::Normal, 8000, 0), "g", 0);
    for (n, name) in ["a", "b", "c", "d", "e", "f"].into_iter().enumerate() {
        // When they were enqueued may be of another clock than what counts here.
        submit(&mut engine, ask(name, Class::Normal, 8000, 1_000_000 + n as u64), 10);
    }
    assert_eq!(estimate(&engine, "e", 10), None);
    for (holder, next, now) in [("first", "a", 20), ("a", "b", 40), ("b", "c", 60), ("c", "d", 80)] {
        engine.end(&id(holder), EndReason::Released).unwrap();
        assert_eq!(granted(&engine.decide(at(now))), [next]);
        engine.activate(&id(next), at(now)).unwrap();
    }
    assert_eq!(estimate(&engine, "e", 80), Some((100, Basis::Queue)));
    assert_eq!(estimate(&engine, "f", 80), Some((120, Basis::Queue)));
    // What keeps it from a GPU that is closed is not the queue.
    engine.set_node(&node("n", &[closed_gpu("g", 8000, Closed::Draining)]));
    engine.decide(at(81));
    assert_eq!(estimate(&engine, "e", 81), None);
}
