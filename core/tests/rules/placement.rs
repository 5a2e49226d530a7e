//! Where a lease goes, and what is said when it can go nowhere.

use memboss_core::{Class, Closed, Demand, Layout, Mib, NodeSelector, Percent, Slot, Waiting};

use crate::world::*;

const N: Class = Class::Normal;

#[test]
fn packing_takes_the_fullest_gpu_with_room() {
    let mut engine = engine(&[node("n", &[gpu("a", 8000), gpu("b", 8000), gpu("c", 8000)])]);
    hold(&mut engine, ask("x", N, 7000, 0), "a", 0);
    hold(&mut engine, ask("y", N, 4000, 0), "b", 0);
    run(&mut engine, ask("z", N, 2000, 1), 1);
    assert_eq!(gpus_of(&engine, "z"), ["b"]);
}

#[test]
fn spreading_takes_the_emptiest_gpu() {
    let mut engine = engine(&[node("n", &[gpu("a", 8000), gpu("b", 8000)]), node("m", &[gpu("c", 8000)])]);
    hold(&mut engine, ask("x", N, 1000, 0), "a", 0);
    hold(&mut engine, ask("y", N, 4000, 0), "b", 0);
    let mut request = ask("z", N, 2000, 1);
    request.layout = Layout::Spread;
    run(&mut engine, request, 1);
    assert_eq!(gpus_of(&engine, "z"), ["c"]);
}

#[test]
fn a_model_wish_is_met_by_that_model_only() {
    let gpus = [model_gpu("a", "NVIDIA-A100-SXM4", 8000), model_gpu("h", "NVIDIA-H100-PCIe", 9000)];
    let mut engine = engine(&[node("n", &gpus)]);
    let mut request = ask("x", N, 1000, 1);
    request.gpus.models = vec!["h100".to_owned()];
    run(&mut engine, request, 1);
    assert_eq!(gpus_of(&engine, "x"), ["h"]);
}

#[test]
fn a_uuid_wish_waits_for_that_gpu_though_another_is_free() {
    let mut engine = engine(&[node("n", &[gpu("a", 8000), gpu("b", 8000)])]);
    hold(&mut engine, ask("x", N, 8000, 0), "b", 0);
    let mut request = ask("z", N, 1000, 1);
    request.gpus.uuids = vec![uuid("b")];
    assert!(granted(&submit(&mut engine, request, 1)).is_empty());
    engine.end(&id("x"), memboss_core::EndReason::Exited).unwrap();
    assert_eq!(granted(&engine.decide(at(2))), ["z"]);
    assert_eq!(gpus_of(&engine, "z"), ["b"]);
}

#[test]
fn a_node_wish_is_met_by_that_node_only() {
    let mut engine = engine(&[node("n", &[gpu("a", 8000)]), node("m", &[gpu("b", 8000)])]);
    let mut request = ask("z", N, 1000, 1);
    request.nodes = NodeSelector::Only([node_name("m")].into());
    run(&mut engine, request, 1);
    assert_eq!(gpus_of(&engine, "z"), ["b"]);
}

#[test]
fn slots_get_distinct_gpus_of_one_node() {
    let mut engine = engine(&[
        node("n", &[gpu("a", 8000)]),
        node("m", &[gpu("b", 8000)]),
        node("o", &[gpu("c", 9000), gpu("d", 9000)]),
    ]);
    run(&mut engine, ask_for("z", N, demand(&[3000, 3000], 0), 1), 1);
    let mut gpus = gpus_of(&engine, "z");
    gpus.sort();
    assert_eq!(gpus, ["c", "d"]);
}

#[test]
fn two_slots_never_share_one_gpu() {
    let mut engine = engine(&[node("n", &[gpu("a", 80_000)])]);
    assert!(granted(&submit(&mut engine, ask_for("z", N, demand(&[1, 1], 0), 1), 1)).is_empty());
    assert_eq!(why(&engine, "z"), "Unsatisfiable");
}

#[test]
fn a_small_slot_leaves_the_large_gpu_to_the_large_slot() {
    let mut engine = engine(&[node("n", &[gpu("a", 4000), gpu("b", 8000)])]);
    run(&mut engine, ask_for("z", N, demand(&[3000, 8000], 0), 1), 1);
    assert_eq!(gpus_of(&engine, "z"), ["a", "b"]);
}

#[test]
fn a_share_comes_to_different_amounts_on_two_models() {
    let gpus = [model_gpu("a", "NVIDIA-A100", 40_960), model_gpu("h", "NVIDIA-H100", 81_920)];
    let mut engine = engine(&[node("n", &gpus)]);
    run(&mut engine, ask_for("z", N, Demand { slots: vec![share(50), share(50)], ram: Mib::ZERO }, 1), 1);
    let placement = engine.lease(&id("z")).unwrap().placement.unwrap();
    let mut amounts: Vec<_> = placement.gpus.iter().map(|s| (s.uuid.to_string(), s.memory.mib())).collect();
    amounts.sort();
    assert_eq!(amounts, [("a".to_owned(), 20_480), ("h".to_owned(), 40_960)]);
}

#[test]
fn a_share_yields_the_large_gpu_to_a_fixed_slot_that_needs_it() {
    let mut engine = engine(&[node("n", &[gpu("a", 16_384), gpu("b", 8192)])]);
    let slots = vec![Slot::fixed(mib(12_000)), share(50)];
    let decisions = submit(&mut engine, ask_for("z", N, Demand { slots, ram: Mib::ZERO }, 1), 1);
    assert_eq!(granted(&decisions), ["z"], "{decisions:?}");
    assert_eq!(gpus_of(&engine, "z"), ["a", "b"]);
}

#[test]
fn a_share_and_a_fixed_part_add_up() {
    let mut engine = engine(&[node("n", &[gpu("a", 10_240)])]);
    let slot = Slot { fixed: mib(1000), share: Some(Percent::new(50).unwrap()) };
    run(&mut engine, ask_for("z", N, Demand { slots: vec![slot], ram: Mib::ZERO }, 1), 1);
    assert_eq!(free(&engine, "a"), 10_240 - 5120 - 1000);
}

#[test]
fn vram_and_ram_come_together_or_not_at_all() {
    let mut engine = engine(&[ram_node("n", &[gpu("a", 8000)], 1000), ram_node("m", &[gpu("b", 8000)], 3000)]);
    run(&mut engine, ask_for("z", N, demand(&[1000], 2000), 1), 1);
    assert_eq!(gpus_of(&engine, "z"), ["b"]);
    assert_eq!(engine.ram(&node_name("m")), Some((mib(3000), mib(2000))));
    // The second has a GPU but no RAM: neither is charged.
    assert!(granted(&submit(&mut engine, ask_for("y", N, demand(&[1000], 2000), 1), 1)).is_empty());
    assert_eq!(free(&engine, "a") + free(&engine, "b"), 15_000);
    assert_eq!(why(&engine, "y"), "NoRam");
}

#[test]
fn ram_alone_can_be_leased() {
    let mut engine = engine(&[ram_node("n", &[], 1000)]);
    run(&mut engine, ask_for("z", N, demand(&[], 1000), 1), 1);
    submit(&mut engine, ask_for("y", N, demand(&[], 1), 1), 1);
    assert_eq!(why(&engine, "y"), "NoRam");
    let told = |engine: &memboss_core::Engine, name| engine.lease(&id(name)).unwrap().why.unwrap().to_string();
    assert_eq!(told(&engine, "y"), "needs 1Mi of RAM; the most that is free for it on one node is 0Mi");
    submit(&mut engine, ask_for("x", N, demand(&[], 1001), 2), 2);
    assert_eq!(told(&engine, "x"), "needs 1001Mi of RAM; no node has more than 1000Mi for it now");
}

#[test]
fn an_impossible_request_names_the_largest_and_is_granted_when_such_a_gpu_joins() {
    let mut engine = engine(&[node("n", &[gpu("a", 8000), gpu("b", 9000)])]);
    submit(&mut engine, ask("z", N, 10_000, 1), 1);
    let expected = Waiting::Unsatisfiable { need: mib(10_000), gpus: 1, largest: mib(9000) };
    assert_eq!(engine.lease(&id("z")).unwrap().why, Some(expected));
    engine.set_node(&node("m", &[gpu("c", 10_000)]));
    assert_eq!(granted(&engine.decide(at(2))), ["z"]);
}

#[test]
fn an_impossible_request_is_called_so_though_lower_leases_are_protected() {
    let mut engine = engine(&[node("n", &[gpu("a", 8000)])]);
    hold(&mut engine, ask("x", Class::Batch, 4000, 0), "a", 1);
    submit(&mut engine, ask("z", N, 10_000, 1), 1);
    assert_eq!(why(&engine, "z"), "Unsatisfiable");
}

#[test]
fn an_impossible_request_keeps_nobody_out() {
    let mut engine = engine(&[node("n", &[gpu("a", 8000)])]);
    submit(&mut engine, ask("z", Class::Urgent, 10_000, 1), 1);
    run(&mut engine, ask("y", Class::Batch, 8000, 2), 2);
}

#[test]
fn a_closed_gpu_takes_nothing_and_takes_again_when_it_is_well() {
    let mut engine = engine(&[node("n", &[closed_gpu("a", 8000, Closed::Degraded)])]);
    assert!(granted(&submit(&mut engine, ask("z", N, 1000, 1), 1)).is_empty());
    engine.set_node(&node("n", &[gpu("a", 8000)]));
    assert_eq!(granted(&engine.decide(at(2))), ["z"]);
}

#[test]
fn foreign_memory_is_never_leased() {
    let mut engine = engine(&[node("n", &[memboss_core::GpuFacts { foreign: mib(3000), ..gpu("a", 8000) }])]);
    assert!(granted(&submit(&mut engine, ask("z", N, 5001, 1), 1)).is_empty());
    run(&mut engine, ask("y", N, 5000, 0), 1);
}
