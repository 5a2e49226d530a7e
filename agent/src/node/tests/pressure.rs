//! RAM under pressure: what is dropped, who is asked to go, and that nothing more is granted meanwhile.

use memboss_core::{Cleaning, Pressure};

use super::ram::{gib, ram_id, ram_order};
use super::relief::{CleanOrder, Cleaned};
use super::*;

/// 64 GiB, of which so much is available, and so much is left until the kubelet evicts.
fn signals(available: u64, left: Option<u64>) -> Signals {
    let (available, until_limit) = (Mib::from_mib(available), left.map(Mib::from_mib));
    Signals { total: gib(64), available, until_limit, ..Signals::default() }
}

fn cleaned(how: Cleaning, dropped: u64) -> Input {
    Input::Cleaned(Cleaned {
        at: "2026-01-01T00:00:00Z".into(),
        how,
        dropped: Mib::from_mib(dropped),
        enough: false,
        files: 1,
        took: Span::from_millis(7),
        available: (gib(30), gib(30)),
        came_back: None,
        failed: None,
    })
}

impl Play {
    /// It has been so for some time, and is looked at.
    fn pressed(&mut self, signals: Signals) {
        self.signals = Some(signals);
        self.look();
        self.later(3);
        self.look();
    }

    /// Long enough for every level to be left.
    fn calm(&mut self) {
        self.signals = Some(signals(32 * 1024, None));
        for _ in 0..4 {
            self.look();
            self.later(301);
        }
        self.look();
    }

    fn has(&mut self, pod: &str, class: Class, leased: u64, used: u64) {
        self.order(ram_order(pod, class, leased));
        self.ram_starts(pod, used);
    }

    fn state_of_ram(&self, pod: &str) -> State {
        self.snapshot().leases[&ram_id(pod)].state
    }
}

const NEAR: u64 = 300;

#[test]
fn it_drops_cache_first_then_asks_the_lowest_class_and_then_waits_for_the_effect() {
    let mut play = Play::ready();
    play.has("batch", Class::Batch, 8, 6);
    play.has("high", Class::High, 8, 6);
    let near = signals(32 * 1024, Some(NEAR));
    play.pressed(near);
    let order = play.node.take_clean_order();
    // Half as much again as what is too little at `moderate`, so that it is well and not only better.
    assert_eq!(order, Some(CleanOrder { how: Cleaning::Aggressive, target: Mib::from_mib(1537 - NEAR) }));
    assert_eq!(play.state_of_ram("batch"), State::Active, "not before cleaning has shown what it gives");
    play.look();
    assert_eq!((play.node.take_clean_order(), play.state_of_ram("batch")), (None, State::Active));
    play.step(cleaned(Cleaning::Aggressive, 0));
    play.look();
    let told = play.snapshot().leases[&ram_id("batch")].clone();
    assert_eq!((told.state, told.reason.as_deref()), (State::Revoking, Some("NodePressure")));
    assert!(told.message.unwrap().contains("under pressure"));
    let notice = told.notice.unwrap();
    assert_eq!((notice.preemptor, notice.reason, notice.needed_ram), (None, "NodePressure", gib(8)));
    play.look();
    assert_eq!(play.state_of_ram("high"), State::Active, "one step at a time");
    play.later(6);
    assert_eq!(play.state_of_ram("batch"), State::Stopping, "the notice was an urgent one");
    play.look();
    assert_eq!(play.state_of_ram("high"), State::Active, "what is being ended is waited for");
    // It is gone, and all is well.
    play.signals = Some(signals(32 * 1024, Some(6 * 1024)));
    play.ram_ends("batch");
    play.later(30);
    play.look();
    assert_eq!((play.state_of_ram("batch"), play.state_of_ram("high")), (State::Ended, State::Active));
    assert_eq!(play.node.counters.ends["NodePressure"], 1);
    let reasons: Vec<_> = play.node.take_news().into_iter().filter(|news| news.reason == "NodePressure").collect();
    assert!(reasons.iter().any(|news| news.message.contains("RAM pressure is high (LimitNear)")), "{reasons:#?}");
    assert!(reasons.iter().any(|news| news.message.contains("dropped 0Mi of 1 file(s)")), "{reasons:#?}");
    assert!(reasons.iter().any(|news| news.lease == Some(ram_id("batch"))), "{reasons:#?}");
}

#[test]
fn whoever_is_above_its_lease_goes_before_a_lower_class_that_is_not() {
    let mut play = Play::ready();
    play.has("within", Class::Batch, 8, 6);
    play.has("above", Class::Normal, 8, 12);
    play.pressed(signals(2 * 1024, None));
    assert_eq!(play.node.take_clean_order(), None, "what is in use cannot be dropped");
    assert_eq!((play.state_of_ram("above"), play.state_of_ram("within")), (State::Revoking, State::Active));
    let message = play.snapshot().leases[&ram_id("above")].message.clone().unwrap();
    assert!(message.contains("it uses 12Gi of RAM and leased 8Gi"), "{message}");
}

#[test]
fn cleaning_that_helps_spares_everybody() {
    let mut play = Play::ready();
    play.has("batch", Class::Batch, 8, 6);
    play.pressed(signals(32 * 1024, Some(NEAR)));
    assert!(play.node.take_clean_order().is_some());
    play.signals = Some(signals(32 * 1024, Some(4 * 1024)));
    play.step(cleaned(Cleaning::Aggressive, 4096));
    play.look();
    play.later(10);
    play.look();
    assert_eq!((play.state_of_ram("batch"), play.node.take_clean_order()), (State::Active, None));
    let ram = play.snapshot().ram;
    assert_eq!((ram.cleaned.map(|cleaned| cleaned.dropped), ram.cleanings), (Some(gib(4)), (1, gib(4))));
}

#[test]
fn cleaning_that_hangs_is_not_waited_for_and_not_begun_twice() {
    let mut play = Play::ready();
    play.has("batch", Class::Batch, 8, 6);
    play.pressed(signals(32 * 1024, Some(NEAR)));
    assert!(play.node.take_clean_order().is_some());
    play.later(31);
    play.look();
    assert_eq!((play.state_of_ram("batch"), play.node.take_clean_order()), (State::Revoking, None));
    play.later(100);
    play.look();
    assert_eq!(play.node.take_clean_order(), None);
}

#[test]
fn nothing_is_granted_of_ram_that_is_pressed_and_gpus_go_on() {
    let mut play = Play::ready();
    play.pressed(signals(2 * 1024, None));
    assert_eq!(play.snapshot().ram.pressure, Pressure::High);
    play.order(ram_order("a", Class::Urgent, 1));
    let refused = play.snapshot().leases[&ram_id("a")].clone();
    assert_eq!((refused.state, refused.reason.as_deref()), (State::Refused, Some("NodePressure")));
    assert_eq!(refused.message.as_deref(), Some("the RAM of n1 takes no new leases: its RAM is under pressure"));
    play.order(order("g", Class::Normal, 4));
    assert_eq!(play.state("g"), Some(State::Reserved));
    play.calm();
    assert_eq!(play.snapshot().ram.pressure, Pressure::Low);
    play.order(Order { attempt: 2, ..ram_order("a", Class::Urgent, 1) });
    assert_eq!(play.state_of_ram("a"), State::Reserved);
}

#[test]
fn the_protected_are_asked_only_when_it_is_critical() {
    let mut play = Play::ready();
    play.node.settings.policy.protection = [Span::from_secs(3600); 5];
    play.has("young", Class::Batch, 8, 6);
    play.pressed(signals(2 * 1024, None));
    assert_eq!(play.state_of_ram("young"), State::Active);
    play.pressed(signals(100, None));
    assert_eq!(play.state_of_ram("young"), State::Revoking);
}

#[test]
fn where_it_is_switched_off_it_is_told_and_nothing_is_done() {
    let mut play = Play::ready();
    play.node.settings.relief.act = false;
    play.has("batch", Class::Batch, 8, 12);
    play.pressed(signals(100, Some(10)));
    assert_eq!((play.state_of_ram("batch"), play.node.take_clean_order()), (State::Active, None));
    play.order(ram_order("b", Class::Normal, 1));
    assert_eq!(play.state_of_ram("b"), State::Reserved);
    let ram = play.snapshot().ram;
    assert_eq!((ram.pressure, ram.closed), (Pressure::Critical, None));
}

#[test]
fn what_was_asked_to_go_before_the_agent_was_killed_still_goes() {
    let mut play = Play::ready();
    play.has("batch", Class::Batch, 8, 6);
    play.pressed(signals(2 * 1024, None));
    assert_eq!(play.state_of_ram("batch"), State::Revoking);
    let mut play = play.restart();
    play.later(6);
    assert_eq!(play.state_of_ram("batch"), State::Stopping);
    assert_eq!(play.snapshot().leases[&ram_id("batch")].reason.as_deref(), Some("NodePressure"));
}

#[test]
fn cleaning_that_went_less_far_does_not_stand_in_the_way_of_one_that_goes_farther() {
    let mut play = Play::ready();
    play.has("batch", Class::Batch, 8, 6);
    play.signals = Some(signals(32 * 1024, Some(900)));
    play.look();
    play.later(11);
    play.look();
    assert_eq!(play.node.take_clean_order().map(|order| order.how), Some(Cleaning::Balanced));
    play.step(cleaned(Cleaning::Balanced, 0));
    play.pressed(signals(32 * 1024, Some(NEAR)));
    assert_eq!(play.node.take_clean_order().map(|order| order.how), Some(Cleaning::Aggressive));
    assert_eq!(play.state_of_ram("batch"), State::Active);
}

#[test]
fn what_came_back_is_told_and_dropped_less_often() {
    let mut play = Play::ready();
    let orders = |play: &mut Play, seconds: u64| {
        play.later(seconds);
        play.look();
        play.node.take_clean_order().is_some()
    };
    play.pressed(signals(32 * 1024, Some(NEAR)));
    assert!(play.node.take_clean_order().is_some());
    play.step(cleaned(Cleaning::Aggressive, 1000));
    play.look();
    play.step(Input::CameBack(Mib::from_mib(900)));
    assert!(play.node.take_news().iter().any(|news| news.message.contains("900Mi of 1000Mi")), "it is told");
    assert_eq!(play.snapshot().ram.cleaned.unwrap().came_back, Some(Mib::from_mib(900)));
    assert!(!orders(&mut play, 70) && orders(&mut play, 60), "after two minutes and not after one");
    play.step(cleaned(Cleaning::Aggressive, 1000));
    play.look();
    play.step(Input::CameBack(Mib::ZERO));
    assert!(orders(&mut play, 61), "what nobody needed may be dropped again in a minute");
}

#[test]
fn as_long_as_there_is_more_to_drop_it_is_dropped_before_anybody_is_asked_but_not_for_ever() {
    let mut play = Play::ready();
    play.has("batch", Class::Batch, 8, 6);
    play.pressed(signals(32 * 1024, Some(NEAR)));
    let enough = || {
        let Input::Cleaned(told) = cleaned(Cleaning::Aggressive, 2000) else { unreachable!() };
        Input::Cleaned(Cleaned { enough: true, ..told })
    };
    for _ in 0..4 {
        assert!(play.node.take_clean_order().is_some());
        assert_eq!(play.state_of_ram("batch"), State::Active);
        play.step(enough());
        play.look();
    }
    assert_eq!((play.node.take_clean_order(), play.state_of_ram("batch")), (None, State::Revoking));
}

#[test]
fn critical_or_not_cache_is_tried_first_and_waited_for_less_long() {
    let mut play = Play::ready();
    play.has("batch", Class::Batch, 8, 6);
    play.pressed(signals(32 * 1024, Some(20)));
    assert!(play.node.take_clean_order().is_some());
    assert_eq!(play.state_of_ram("batch"), State::Active);
    play.later(3);
    play.look();
    assert_eq!(play.state_of_ram("batch"), State::Revoking);
}
