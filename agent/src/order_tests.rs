//! What is done about a placement, case by case.

use memboss_core::{Class, Demand, GpuShare, GpuUuid, Moment, NodeName, Notice};

use super::*;

fn placement(mib: u64) -> Placement {
    let uuid = GpuUuid::new("GPU-1").unwrap();
    Placement {
        node: NodeName::new("n1").unwrap(),
        gpus: vec![GpuShare { uuid, memory: Mib::from_mib(mib) }],
        ram: Mib::ZERO,
    }
}

fn epoch(incarnation: &str, number: u64) -> Epoch {
    Epoch { incarnation: incarnation.into(), number }
}

fn order(attempt: u32) -> Order {
    let id = LeaseId::new("ns/p").unwrap();
    let demand = Demand { slots: vec![Slot::fixed(Mib::from_mib(1024))], ram: Mib::ZERO };
    Order {
        object: "o1".into(),
        subject: Subject { pod: PodUid("u1".into()), namespace: "ns".into(), name: "p".into() },
        request: Request::new(id, Class::Normal, demand, Moment::default()),
        placement: placement(1024),
        ram_room: None,
        may_preempt: false,
        epoch: epoch("i", 5),
        attempt,
        unwanted: None,
        deleting: false,
        containers: BTreeMap::new(),
        recorded: None,
    }
}

fn answered(attempt: u32) -> Answered {
    Answered { object: "o1".into(), attempt }
}

const NOW: Moment = Moment::from_millis(0);

fn phases() -> [Phase; 5] {
    let notice = Notice {
        preemptor: None,
        class: None,
        reason: EndReason::Preempted,
        needed: vec![],
        needed_ram: Mib::ZERO,
        deadline: NOW,
    };
    [
        Phase::Waiting,
        Phase::Reserved { until: NOW },
        Phase::Active { since: NOW },
        Phase::Revoking { since: NOW, notice },
        Phase::Stopping { reason: EndReason::Preempted },
    ]
}

#[test]
fn a_new_placement_is_judged_by_its_epoch() {
    for (floor, expect) in [
        (Some(epoch("i", 5)), Action::Admit),
        (Some(epoch("i", 4)), Action::Admit),
        (Some(epoch("i", 6)), Action::Stale { seen: 6 }),
        (Some(epoch("j", 1)), Action::Confirm),
        (None, Action::Confirm),
    ] {
        assert_eq!(judge(&order(1), &Held::Nothing, floor.as_ref(), true), expect, "{floor:?}");
        assert_eq!(judge(&order(1), &Held::Nothing, floor.as_ref(), false), Action::Later);
    }
}

#[test]
fn the_same_placement_again_changes_nothing() {
    let (same, floor, held_at) = (answered(1), epoch("i", 9), placement(1024));
    for phase in phases() {
        let held = Held::Lease { answered: &same, phase: &phase, placement: Some(&held_at) };
        assert_eq!(judge(&order(1), &held, Some(&floor), false), Action::Keep);
    }
    assert_eq!(judge(&order(1), &Held::Ended { answered: &same }, Some(&floor), true), Action::Keep);
    let refused = Held::Refused { answered: &same, epoch: &epoch("i", 5) };
    assert_eq!(judge(&order(1), &refused, Some(&floor), true), Action::Keep);
}

#[test]
fn another_leader_that_repeats_a_refused_placement_is_heard() {
    let refused = Held::Refused { answered: &answered(1), epoch: &epoch("i", 4) };
    assert_eq!(judge(&order(1), &refused, Some(&epoch("i", 5)), true), Action::Admit);
}

#[test]
fn a_later_attempt_moves_a_reservation_but_never_a_holder() {
    let (old, floor, there, elsewhere) = (answered(1), epoch("i", 5), placement(1024), placement(2048));
    for phase in phases() {
        let same = judge(
            &order(2),
            &Held::Lease { answered: &old, phase: &phase, placement: Some(&there) },
            Some(&floor),
            true,
        );
        let other = Held::Lease { answered: &old, phase: &phase, placement: Some(&elsewhere) };
        let other = judge(&order(2), &other, Some(&floor), true);
        let expect = if matches!(phase, Phase::Waiting | Phase::Reserved { .. }) {
            (Action::Renumber, Action::Release(EndReason::Released))
        } else {
            (Action::Keep, Action::Keep)
        };
        assert_eq!((same, other), expect, "{phase:?}");
    }
    assert_eq!(judge(&order(2), &Held::Ended { answered: &old }, Some(&floor), true), Action::Admit);
}

#[test]
fn what_is_unwanted_is_released_once_and_said_to_be_over_where_nothing_is_held() {
    let unwanted = Order { unwanted: Some(EndReason::Deleted), ..order(1) };
    let (same, there) = (answered(1), placement(1024));
    for phase in phases() {
        let held = Held::Lease { answered: &same, phase: &phase, placement: Some(&there) };
        let expect =
            if matches!(phase, Phase::Stopping { .. }) { Action::Keep } else { Action::Release(EndReason::Deleted) };
        assert_eq!(judge(&unwanted, &held, None, false), expect);
    }
    assert_eq!(judge(&unwanted, &Held::Nothing, None, false), Action::Close(EndReason::Deleted));
    assert_eq!(judge(&unwanted, &Held::Ended { answered: &same }, None, false), Action::Keep);
}

#[test]
fn what_its_object_says_is_over_is_not_taken_again_after_the_ledger_was_lost() {
    let recorded = |attempt| Recorded {
        ram: Mib::ZERO,
        state: State::Ended,
        attempt,
        gpus: vec![],
        token: Token::default(),
        reason: Some(EndReason::Preempted),
    };
    let over = Order { recorded: Some(recorded(2)), ..order(2) };
    assert_eq!(judge(&over, &Held::Nothing, Some(&epoch("i", 5)), true), Action::Close(EndReason::Preempted));
    let again = Order { recorded: Some(recorded(1)), ..order(2) };
    assert_eq!(judge(&again, &Held::Nothing, Some(&epoch("i", 5)), true), Action::Admit);
}

#[test]
fn a_container_gets_its_own_part_of_its_own_slots() {
    let mib = Mib::from_mib;
    let shares = [mib(8192), mib(4096)];
    let leasable = [mib(20_000), mib(10_000)];
    assert_eq!(part_of(None, &shares, &leasable), [(0, mib(8192)), (1, mib(4096))]);
    let second = ContainerSlots { slots: vec![1], asks: vec![] };
    assert_eq!(part_of(Some(&second), &shares, &leasable), [(1, mib(4096))]);
    let part = ContainerSlots { slots: vec![0], asks: vec![Slot::fixed(mib(2048))] };
    assert_eq!(part_of(Some(&part), &shares, &leasable), [(0, mib(2048))]);
    let unknown = ContainerSlots { slots: vec![7], asks: vec![] };
    assert_eq!(part_of(Some(&unknown), &shares, &leasable), []);
}
