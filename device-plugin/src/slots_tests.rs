//! Tests of the slot rules: tables, and properties under random loss and return of GPUs.

use proptest::prelude::*;

use super::*;

fn gpu(gib: u64, state: GpuState) -> KnownGpu {
    KnownGpu { leasable: Mib::from_mib(gib * 1024), state }
}

fn healthy(slots: &BTreeMap<SlotId, Health>) -> usize {
    slots.values().filter(|health| **health == Health::Healthy).count()
}

#[test]
fn ids_are_short_sorted_and_read_back() {
    let set = SlotSet::parse(["s0010", "s0002", "s0001"]).unwrap();
    assert_eq!(set.to_string(), "s0001,s0002,s0010");
    assert_eq!(set.first().unwrap().to_string(), "s0001");
    for wrong in ["", "s1", "s00001", "x0001", "s0000", "s-001", "s+001", "GPU-1"] {
        assert!(wrong.parse::<SlotId>().is_err(), "{wrong}");
    }
}

#[test]
fn a_rest_smaller_than_a_unit_makes_no_slot() {
    let odd = KnownGpu { leasable: Mib::from_mib(511), state: GpuState::Usable };
    let gpus = BTreeMap::from([("a".to_owned(), odd), ("b".to_owned(), odd)]);
    assert_eq!(count(2, &gpus), Ok(4));
}

#[test]
fn too_many_slots_are_refused_and_only_held_ones_listed() {
    let gpus: BTreeMap<_, _> = (0..8).map(|n| (format!("g{n}"), gpu(139, GpuState::Usable))).collect();
    let refused = count(2, &gpus).unwrap_err();
    assert_eq!(refused.count, 8 * 139 * 4 * 2);
    assert!(refused.to_string().contains("(to 1 or less)"), "{refused}");
    let held = BTreeMap::from([(SlotId(7), Holder::Bound(vec!["g0".to_owned()]))]);
    assert_eq!(advertise(2, &gpus, &BTreeMap::new()), BTreeMap::new());
    assert_eq!(advertise(2, &gpus, &held), BTreeMap::from([(SlotId(7), Health::Healthy)]));
}

#[test]
fn losing_a_gpu_takes_its_slots_and_free_ones_only() {
    let gpus = BTreeMap::from([("a".to_owned(), gpu(1, GpuState::Lost)), ("b".to_owned(), gpu(1, GpuState::Usable))]);
    let holders = BTreeMap::from([
        (SlotId(1), Holder::Bound(vec!["a".to_owned()])),
        (SlotId(8), Holder::Bound(vec!["b".to_owned()])),
        (SlotId(7), Holder::Unbound),
    ]);
    let slots = advertise(1, &gpus, &holders);
    assert_eq!((slots.len(), healthy(&slots)), (8, 4));
    assert_eq!(slots[&SlotId(1)], Health::Unhealthy);
    assert_eq!(slots[&SlotId(8)], Health::Healthy);
    assert_eq!(slots[&SlotId(7)], Health::Healthy);
}

#[test]
fn preference_takes_the_required_ones_first_then_the_lowest() {
    let ids = |list: &[&str]| list.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
    let chosen = prefer(ids(&["s0003", "s0001", "s0009"]), ids(&["s0009"]), 2);
    assert_eq!(chosen, ids(&["s0009", "s0001"]));
    assert_eq!(prefer(ids(&["s0001"]), vec![], 5), ids(&["s0001"]));
}

prop_compose! {
    fn node()(sizes in prop::collection::vec(1u64..20, 1..5))(
        lost in prop::collection::vec(prop::collection::vec(any::<bool>(), sizes.len()), 1..6),
        holders in prop::collection::btree_map(1u16..200, (0usize..5, any::<bool>()), 0..60),
        sizes in Just(sizes),
        multiple in 1u32..4,
    ) -> (Vec<u64>, Vec<Vec<bool>>, BTreeMap<u16, (usize, bool)>, u32) {
        (sizes, lost, holders, multiple)
    }
}

fn holders_of(raw: &BTreeMap<u16, (usize, bool)>, gpus: usize) -> BTreeMap<SlotId, Holder> {
    let holder = |(gpu, bound): (usize, bool)| match bound {
        true => Holder::Bound(vec![format!("g{}", gpu % gpus)]),
        false => Holder::Unbound,
    };
    raw.iter().map(|(slot, held)| (SlotId(*slot), holder(*held))).collect()
}

fn gpus_of(sizes: &[u64], lost: &[bool]) -> BTreeMap<String, KnownGpu> {
    let state = |lost: bool| if lost { GpuState::Lost } else { GpuState::Usable };
    sizes.iter().zip(lost).enumerate().map(|(n, (size, lost))| (format!("g{n}"), gpu(*size, state(*lost)))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn health_follows_the_gpus_through_any_losses_and_returns((sizes, story, raw, multiple) in node()) {
        let holders = holders_of(&raw, sizes.len());
        let all_there = vec![false; sizes.len()];
        let whole = advertise(multiple, &gpus_of(&sizes, &all_there), &holders);
        for lost in &story {
            let gpus = gpus_of(&sizes, lost);
            let slots = advertise(multiple, &gpus, &holders);
            // Ids come from what is known, not from what is healthy: a loss changes no id.
            prop_assert_eq!(slots.keys().collect::<Vec<_>>(), whole.keys().collect::<Vec<_>>());
            let on_lost = |holder: &Holder| matches!(holder, Holder::Bound(on) if on.iter().any(|g| gpus[g].state == GpuState::Lost));
            for (slot, holder) in &holders {
                prop_assert_eq!(slots[slot] == Health::Unhealthy, on_lost(holder), "slot {}", slot);
            }
            let target: u64 = sizes.iter().zip(lost).filter(|(_, lost)| !**lost).map(|(size, _)| size * 4 * u64::from(multiple)).sum();
            let target = usize::try_from(target).unwrap();
            let must = holders.values().filter(|holder| !on_lost(holder)).count();
            let cannot = holders.values().filter(|holder| on_lost(holder)).count();
            prop_assert_eq!(healthy(&slots), target.max(must).min(slots.len() - cannot));
        }
        // Everything back: everything as it was.
        prop_assert_eq!(&advertise(multiple, &gpus_of(&sizes, &all_there), &holders), &whole);
        prop_assert!(whole.values().filter(|health| **health == Health::Unhealthy).count() <= holders.len());
    }
}
