//! Everything that is refused, and that nothing has changed then.

use memboss_core::{Admission, Class, Closed, Demand, EndReason, Mib, Placement, Refused, Request, Slot};

use crate::world::*;

const B: Class = Class::Batch;
const N: Class = Class::Normal;

fn refused(engine: &mut memboss_core::Engine, request: Request, placement: &Placement) -> &'static str {
    let before = (engine.leases(), engine.gpus(), engine.last_token());
    let name = engine.admit(request, placement, true, at(100)).unwrap_err().name();
    assert_eq!((engine.leases(), engine.gpus(), engine.last_token()), before);
    assert!(engine.decide(at(100)).is_empty());
    name
}

#[test]
fn each_wrong_placement_is_refused_by_its_name() {
    let gpus = [gpu("a", 8000), gpu("b", 8000), closed_gpu("c", 8000, Closed::Degraded)];
    let mut engine = with_policy(&[ram_node("n", &gpus, 1000)], unprotected());
    hold(&mut engine, ask("there", N, 6000, 0), "a", 0);
    engine.decide(at(0));
    let e = &mut engine;
    let one = || ask("x", N, 3000, 1);
    let two = || ask_for("x", N, demand(&[10, 10], 0), 1);
    assert_eq!(refused(e, ask_for("x", N, Demand::default(), 1), &place("n", &[])), "AsksNothing");
    assert_eq!(refused(e, one(), &place("m", &[("a", 3000)])), "UnknownNode");
    assert_eq!(refused(e, one(), &place("n", &[("z", 3000)])), "UnknownGpu");
    assert_eq!(refused(e, one(), &place("n", &[])), "MisfitPlacement");
    assert_eq!(refused(e, two(), &place("n", &[("b", 10)])), "MisfitPlacement");
    assert_eq!(refused(e, two(), &place("n", &[("b", 10), ("b", 10)])), "MisfitPlacement");
    assert_eq!(refused(e, one(), &place("n", &[("c", 3000)])), "Closed");
    assert_eq!(refused(e, one(), &place("n", &[("a", 3000)])), "NoRoom");
    assert_eq!(refused(e, ask("there", N, 5, 1), &place("n", &[("b", 5)])), "IdInUse");
    let mut wish = one();
    wish.gpus.models = vec!["H100".to_owned()];
    assert_eq!(refused(e, wish, &place("n", &[("b", 3000)])), "NotWanted");
    let ram = Placement { ram: mib(1001), ..place("n", &[("b", 10)]) };
    assert_eq!(refused(e, ask_for("x", N, demand(&[10], 1001), 1), &ram), "NoRoom");
}

#[test]
fn a_placement_where_somebody_else_stands_first_is_refused() {
    let mut engine = one_gpu(8000);
    hold(&mut engine, ask("there", N, 4000, 0), "g", 0);
    submit(&mut engine, ask("head", N, 8000, 1), 1);
    assert_eq!(refused(&mut engine, ask("x", N, 2000, 2), &place("n", &[("g", 2000)])), "NoRoom");
    let mut earlier = ask("x", N, 2000, 0);
    earlier.enqueued = at(0);
    assert!(matches!(engine.admit(earlier, &place("n", &[("g", 2000)]), true, at(3)), Ok(Admission::Reserved { .. })));
}

#[test]
fn the_first_in_line_itself_is_admitted_where_it_stands() {
    let mut engine = one_gpu(8000);
    hold(&mut engine, ask("there", N, 4000, 0), "g", 0);
    submit(&mut engine, ask("head", N, 8000, 1), 1);
    engine.end(&id("there"), EndReason::Exited).unwrap();
    let answer = engine.admit(ask("head", N, 8000, 1), &place("n", &[("g", 8000)]), false, at(2));
    assert!(matches!(answer, Ok(Admission::Reserved { .. })));
    assert_eq!(engine.waiting(), 0);
}

#[test]
fn a_placement_preempts_only_where_that_was_meant() {
    let mut engine = one_gpu(8000);
    hold(&mut engine, ask("b", B, 8000, 0), "g", 0);
    let request = || ask("x", N, 8000, 1);
    let place = place("n", &[("g", 8000)]);
    assert_eq!(engine.admit(request(), &place, false, at(100)).unwrap_err().name(), "NoRoom");
    assert_eq!(engine.admit(request(), &place, true, at(100)), Ok(Admission::Claimed { victims: vec![id("b")] }));
    assert_eq!(engine.admit(request(), &place, true, at(100)), Ok(Admission::Claimed { victims: vec![id("b")] }));
    assert_eq!(noticed(&engine.decide(at(100))), ["b"]);
}

#[test]
fn the_same_placement_twice_is_one() {
    let mut engine = one_gpu(8000);
    let first = engine.admit(ask("x", N, 5000, 1), &place("n", &[("g", 5000)]), false, at(1)).unwrap();
    assert_eq!(engine.admit(ask("x", N, 5000, 1), &place("n", &[("g", 5000)]), false, at(2)), Ok(first));
    assert_eq!(free(&engine, "g"), 3000);
}

#[test]
fn the_same_id_twice_is_one_and_another_demand_under_it_is_refused() {
    let mut engine = one_gpu(8000);
    run(&mut engine, ask("x", N, 5000, 1), 1);
    engine.submit(ask("x", N, 5000, 1)).unwrap();
    assert!(engine.decide(at(2)).is_empty());
    assert_eq!(engine.leases().len(), 1);
    assert_eq!(engine.submit(ask("x", N, 4000, 1)), Err(Refused::IdInUse(id("x"))));
    assert_eq!(engine.submit(ask("x", B, 5000, 1)), Err(Refused::IdInUse(id("x"))));
}

#[test]
fn nothing_and_a_slot_of_nothing_are_refused() {
    let mut engine = one_gpu(8000);
    let empty_slot = Demand { slots: vec![Slot::default()], ram: mib(5) };
    for demand in [Demand::default(), empty_slot] {
        let request = ask_for("x", N, demand, 1);
        assert_eq!(engine.dry_run(&request, at(1)), Err(Refused::AsksNothing));
        assert_eq!(engine.submit(request), Err(Refused::AsksNothing));
    }
    assert_eq!(engine.leases().len(), 0);
}

#[test]
fn steps_that_do_not_follow_are_refused() {
    let mut engine = one_gpu(8000);
    hold(&mut engine, ask("x", N, 8000, 0), "g", 0);
    submit(&mut engine, ask("w", N, 8000, 1), 1);
    let name = |refused: Refused| refused.name();
    assert_eq!(engine.activate(&id("w"), at(1)).map_err(name), Err("WrongPhase"));
    assert_eq!(engine.shrink(&id("w"), &[mib(1)], Mib::ZERO).map_err(name), Err("WrongPhase"));
    assert_eq!(engine.offload(&id("w"), &[mib(1)], Mib::ZERO).map_err(name), Err("WrongPhase"));
    assert_eq!(engine.requeue(&id("x")).map_err(name), Err("WrongPhase"));
    assert_eq!(engine.position(&id("x")).map_err(name), Err("WrongPhase"));
    assert_eq!(engine.stop(&id("nobody"), EndReason::Exited).map_err(name), Err("UnknownLease"));
    engine.stop(&id("x"), EndReason::Exited).unwrap();
    assert_eq!(engine.activate(&id("x"), at(1)).map_err(name), Err("WrongPhase"));
}
