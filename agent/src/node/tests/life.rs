//! A lease from its placement to its end, through restarts, reboots and losses.

use super::*;

#[test]
fn a_placement_is_reserved_then_active_then_ended_when_its_memory_is_seen_free() {
    let mut play = Play::ready();
    play.order(order("a", Class::Normal, 8));
    assert_eq!(play.state("a"), Some(State::Reserved));
    assert_eq!(play.free(), LEASABLE - 8 * 1024);
    let prepared = play.start("a", 7, 6);
    assert_eq!(prepared.gpus, [(GPU.to_owned(), 0, Mib::from_mib(8192))]);
    assert_eq!(play.state("a"), Some(State::Active));
    assert_eq!(play.free(), LEASABLE - 8 * 1024, "what a lease uses is not foreign");
    play.stop("a");
    assert_eq!((play.state("a"), play.reason("a")), (Some(State::Ended), Some("Exited".into())));
    assert_eq!(play.free(), LEASABLE);
}

#[test]
fn memory_is_charged_until_both_the_cgroup_and_the_process_are_gone() {
    let mut play = Play::ready();
    play.order(order("a", Class::Normal, 8));
    play.start("a", 7, 6);
    play.step(Input::Pod(fact("a", PodState::Over)));
    play.look();
    assert_eq!(play.state("a"), Some(State::Stopping), "the API server's word alone frees nothing");
    play.processes.clear();
    play.look();
    assert_eq!(play.state("a"), Some(State::Stopping), "its cgroup is there");
    play.processes.push((7, "a", 6));
    play.pods.clear();
    play.look();
    assert_eq!(play.state("a"), Some(State::Stopping), "its process is there");
    play.later(100_000);
    assert_eq!(play.state("a"), Some(State::Stopping), "no timer frees anything");
    play.processes.clear();
    play.look();
    assert_eq!(play.state("a"), Some(State::Ended));
}

#[test]
fn a_look_from_before_the_stop_shows_nothing_free() {
    let mut play = Play::ready();
    play.order(order("a", Class::Normal, 8));
    let before = play.observation();
    play.prepare("a").unwrap();
    let unwanted = Order { unwanted: Some(EndReason::Released), ..order("a", Class::Normal, 8) };
    play.order(unwanted);
    play.step(Input::Seen(Box::new(before)));
    assert_eq!(play.state("a"), Some(State::Stopping));
    assert!(play.node.wants_look());
    play.look();
    assert_eq!(play.state("a"), Some(State::Ended));
}

#[test]
fn a_gpu_that_cannot_be_read_frees_nothing_and_takes_nothing_until_it_is_back() {
    let mut play = Play::ready();
    play.order(order("a", Class::Normal, 8));
    play.start("a", 7, 6);
    play.gpu = Err("GPU is lost".into());
    play.stop("a");
    assert_eq!(play.state("a"), Some(State::Stopping));
    play.order(order("b", Class::Normal, 1));
    assert_eq!((play.state("b"), play.reason("b")), (Some(State::Refused), Some("Closed".into())));
    play.gpu = Ok(());
    play.look();
    assert_eq!(play.state("a"), Some(State::Ended));
    play.order(Order { attempt: 2, ..order("b", Class::Normal, 1) });
    assert_eq!(play.state("b"), Some(State::Reserved));
}

#[test]
fn silent_nvml_closes_the_gpus_and_its_first_answer_opens_them() {
    let mut play = Play::ready();
    play.silent();
    assert_eq!(play.snapshot().gpus[0].health_reason, "NVML does not answer");
    play.order(order("a", Class::Normal, 8));
    assert_eq!(play.state("a"), Some(State::Refused));
    play.look();
    play.order(Order { attempt: 2, ..order("a", Class::Normal, 8) });
    assert_eq!(play.state("a"), Some(State::Reserved));
}

#[test]
fn a_preemptor_claims_its_victim_is_told_and_the_memory_goes_to_it_when_seen_free() {
    let mut play = Play::ready();
    play.order(order("v", Class::Batch, 20));
    play.start("v", 7, 19);
    play.order(order("p", Class::Urgent, 20));
    assert_eq!((play.state("p"), play.state("v")), (Some(State::Claimed), Some(State::Revoking)));
    let notice = play.snapshot().leases[&id("v")].notice.clone().unwrap();
    assert_eq!((notice.preemptor.as_deref(), notice.class), (Some("ns/p"), Some(Class::Urgent)));
    assert!(matches!(play.prepare("p"), Err(Denied::NotNow(_))));
    play.later(5);
    assert_eq!(play.state("v"), Some(State::Stopping));
    play.order(order("x", Class::High, 20));
    assert_eq!(play.state("x"), Some(State::Refused), "nobody steals what is on its way");
    play.stop("v");
    assert_eq!((play.state("v"), play.reason("v")), (Some(State::Ended), Some("Preempted".into())));
    assert_eq!(play.state("p"), Some(State::Reserved));
}

#[test]
fn a_claim_and_its_notice_survive_a_restart_and_tokens_only_grow() {
    let mut play = Play::ready();
    play.order(order("v", Class::Batch, 20));
    play.start("v", 7, 19);
    play.order(order("p", Class::Urgent, 20));
    let before = play.snapshot();
    let mut play = play.restart();
    assert_eq!(play.state("v"), Some(State::Revoking));
    assert_eq!(play.snapshot().agent_epoch, before.agent_epoch + 1);
    play.look();
    play.told(vec![order("v", Class::Batch, 20), order("p", Class::Urgent, 20)]);
    assert_eq!((play.state("p"), play.state("v")), (Some(State::Claimed), Some(State::Revoking)));
    play.stop("v");
    assert_eq!(play.state("p"), Some(State::Reserved));
    assert!(play.snapshot().leases[&id("p")].token > before.leases[&id("v")].token);
}

#[test]
fn after_a_restart_what_runs_is_held_and_what_ended_meanwhile_is_noticed() {
    let mut play = Play::ready();
    play.order(order("a", Class::Normal, 8));
    play.order(order("b", Class::Normal, 8));
    play.start("a", 7, 6);
    play.start("b", 8, 6);
    let mut play = play.restart();
    assert_eq!((play.state("a"), play.state("b")), (Some(State::Active), Some(State::Active)));
    play.stop("b");
    assert_eq!((play.state("a"), play.state("b")), (Some(State::Active), Some(State::Ended)));
}

#[test]
fn after_a_reboot_bound_pods_have_their_memory_before_anybody_else() {
    let marker =
        Marker { boot_id: "boot-0".into(), agent_epoch: 4, floor: Some(Epoch { incarnation: "i".into(), number: 5 }) };
    let mut play = Play::begin(Start::AfterReboot(marker));
    play.look();
    let recorded = |pod: &str, state| Order {
        recorded: Some(Recorded {
            ram: Mib::ZERO,
            state,
            attempt: 1,
            gpus: order(pod, Class::Low, 16).placement.gpus,
            token: Token { epoch: 4, sequence: 3 },
            reason: None,
        }),
        ..order(pod, Class::Low, 16)
    };
    let waiter = Order { may_preempt: false, ..order("w", Class::Urgent, 16) };
    play.told(vec![recorded("a", State::Active), recorded("gone", State::Active), waiter.clone()]);
    assert_eq!((play.state("a"), play.state("w")), (None, None), "pods are not known yet");
    assert!(matches!(play.prepare("a"), Err(Denied::NotNow(_))));
    play.step(Input::Pods(vec![fact("a", PodState::Live)]));
    assert_eq!((play.state("a"), play.state("gone")), (Some(State::Reserved), Some(State::Ended)));
    assert_eq!((play.state("w"), play.reason("w")), (Some(State::Refused), Some("NoRoom".into())));
    assert!(play.prepare("a").is_ok());
    assert_eq!(play.snapshot().agent_epoch, 5);
}

#[test]
fn a_reboot_waits_for_nvml_before_it_gives_a_lease_up() {
    let mut play = Play::begin(Start::AfterReboot(Marker { boot_id: "boot-0".into(), ..Marker::default() }));
    let recorded = Recorded {
        ram: Mib::ZERO,
        state: State::Active,
        attempt: 1,
        gpus: order("a", Class::Low, 16).placement.gpus,
        token: Token::default(),
        reason: None,
    };
    play.told(vec![Order { recorded: Some(recorded), ..order("a", Class::Low, 16) }]);
    play.step(Input::Pods(vec![fact("a", PodState::Live)]));
    assert_ne!(play.node.hold, Hold::Open);
    play.look();
    assert_eq!((play.state("a"), &play.node.hold), (Some(State::Reserved), &Hold::Open));
}

#[test]
fn a_lost_ledger_is_rebuilt_with_everything_charged_that_may_be_in_use() {
    let mut play = Play::begin(Start::Quarantine(Marker { boot_id: "boot-1".into(), ..Marker::default() }));
    play.pods.insert(uid("a"));
    play.processes = vec![(7, "a", 6), (8, "", 2)];
    play.look();
    let recorded = |pod: &str, state| Order {
        recorded: Some(Recorded {
            ram: Mib::ZERO,
            state,
            attempt: 1,
            gpus: order(pod, Class::Normal, 8).placement.gpus,
            token: Token::default(),
            reason: None,
        }),
        ..order(pod, Class::Normal, 8)
    };
    assert!(play.snapshot().hold.unwrap().contains("quarantine"));
    play.step(Input::Incarnation("i".into()));
    play.told(vec![recorded("a", State::Reserved), order("b", Class::Normal, 1)]);
    let fact = fact("a", PodState::Live);
    play.step(Input::Pods(vec![fact]));
    assert_eq!((play.state("a"), play.state("b")), (Some(State::Active), Some(State::Reserved)));
    play.look();
    assert_eq!(play.free(), LEASABLE - 9 * 1024 - 2 * 1024, "two leases and the stranger's 2 GiB");
}
