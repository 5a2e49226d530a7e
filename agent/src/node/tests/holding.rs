//! What holders use, give back and are told; whose placements are heard.

use super::admin::{Scope, Wish};
use super::*;

#[test]
fn use_above_a_lease_is_foreign_and_is_told_and_ends_where_its_class_says_so() {
    let mut play = Play::ready();
    play.order(order("b", Class::Batch, 4));
    play.order(order("n", Class::Normal, 4));
    play.start("b", 7, 5);
    play.start("n", 8, 6);
    let snapshot = play.snapshot();
    assert!(snapshot.leases[&id("b")].over && snapshot.leases[&id("n")].over);
    assert_eq!(play.free(), LEASABLE - 8 * 1024 - 3 * 1024);
    assert!(play.node.take_news().iter().any(|news| news.reason == "OverLease"));
    play.now += 31_000;
    play.look();
    assert_eq!((play.state("b"), play.reason("b")), (Some(State::Stopping), Some("OverLease".into())));
    assert_eq!(play.state("n"), Some(State::Active));
}

#[test]
fn a_pod_that_uses_memory_without_a_lease_is_told_of() {
    let mut play = Play::ready();
    play.pods.insert(uid("x"));
    play.processes.push((7, "x", 3));
    play.look();
    play.look();
    let news = play.node.take_news();
    assert_eq!(news.iter().filter(|news| news.reason == "UseWithoutLease").count(), 1);
    assert_eq!(play.free(), LEASABLE - 3 * 1024);
}

fn give(play: &mut Play, pod: &str, gib: u64, ram: u64) -> oneshot::Receiver<Result<LeaseId, Denied>> {
    play.give(pod, gib, RamWish::More(Mib::from_mib(ram * 1024)))
}

#[test]
fn a_victim_that_shrinks_serves_its_preemptor_once_the_memory_is_seen_free_and_goes_on() {
    let mut play = Play::ready();
    play.order(order("v", Class::Batch, 20));
    play.start("v", 7, 19);
    play.order(order("p", Class::High, 10));
    let mut answer = give(&mut play, "v", 12, 0);
    play.look();
    play.deliver();
    assert!(answer.try_recv().is_err(), "19 GiB are still in use");
    play.processes[0].2 = 11;
    play.look();
    play.deliver();
    assert_eq!(answer.try_recv().unwrap(), Ok(id("v")));
    assert_eq!((play.state("v"), play.state("p")), (Some(State::Active), Some(State::Reserved)));
}

#[test]
fn an_offload_whose_end_an_agent_did_not_see_costs_nothing_more_when_it_is_asked_for_again() {
    let mut play = Play::ready();
    play.order(order("v", Class::Batch, 20));
    play.start("v", 7, 19);
    let leased = |play: &Play| play.snapshot().ram.leased;
    drop(give(&mut play, "v", 12, 8));
    assert_eq!(leased(&play), Mib::from_mib(8 * 1024));
    let mut play = play.restart();
    play.look();
    let mut answer = give(&mut play, "v", 12, 8);
    assert_eq!(leased(&play), Mib::from_mib(8 * 1024), "it is charged already");
    play.processes[0].2 = 11;
    play.look();
    play.deliver();
    assert_eq!(answer.try_recv().unwrap(), Ok(id("v")));
    // What is moved next comes on top.
    drop(give(&mut play, "v", 10, 2));
    assert_eq!(leased(&play), Mib::from_mib(10 * 1024));
}

#[test]
fn an_offload_has_its_ram_from_the_start_or_does_not_begin() {
    let mut play = Play::ready();
    play.order(order("v", Class::Batch, 20));
    play.start("v", 7, 19);
    let mut more = give(&mut play, "v", 4, 17);
    assert!(matches!(more.try_recv().unwrap(), Err(Denied::BadRequest(_))), "no more than comes off the GPU");
    let ram = Mib::from_mib(20 * 1024);
    let other = Order {
        request: Request::new(id("ram:other"), Class::Batch, Demand { slots: vec![], ram }, Moment::default()),
        placement: Placement { node: NodeName::new("n1").unwrap(), gpus: vec![], ram },
        ..order("other", Class::Batch, 1)
    };
    play.order(other);
    let mut refused = give(&mut play, "v", 4, 16);
    assert!(matches!(refused.try_recv().unwrap(), Err(Denied::Refused(Refused::NoRoom { .. }))));
    play.step(Input::OrderGone(id("ram:other")));
    play.look();
    let mut answer = give(&mut play, "v", 4, 16);
    assert_eq!(play.snapshot().ram.leased, Mib::from_mib(16 * 1024));
    play.later(61);
    play.deliver();
    assert!(matches!(answer.try_recv().unwrap(), Err(Denied::TimedOut(_))));
    assert_eq!(play.snapshot().ram.leased, Mib::ZERO);
    let mut answer = give(&mut play, "v", 4, 16);
    play.processes[0].2 = 3;
    play.look();
    play.deliver();
    assert_eq!(answer.try_recv().unwrap(), Ok(id("v")));
    assert_eq!((play.snapshot().ram.leased, play.free()), (Mib::from_mib(16 * 1024), LEASABLE - 4 * 1024));
}

#[test]
fn a_placement_of_an_old_leader_or_of_another_installation_is_refused() {
    let mut play = Play::ready();
    play.order(order("a", Class::Normal, 1));
    let old = Order { epoch: Epoch { incarnation: "i".into(), number: 4 }, ..order("b", Class::Normal, 1) };
    play.order(old);
    assert_eq!((play.state("b"), play.reason("b")), (Some(State::Refused), Some("StaleEpoch".into())));
    let other = Order { epoch: Epoch { incarnation: "j".into(), number: 1 }, ..order("c", Class::Normal, 1) };
    play.order(other);
    assert!(play.state("c").is_none() && play.node.wants_incarnation());
    play.step(Input::Incarnation("i".into()));
    assert_eq!(play.state("c"), Some(State::Refused), "the API server says that it is still i");
    let other = Order { epoch: Epoch { incarnation: "j".into(), number: 1 }, ..order("d", Class::Normal, 1) };
    play.order(other);
    play.step(Input::Incarnation("j".into()));
    assert_eq!(play.state("d"), Some(State::Reserved), "a new installation is heard");
    assert_eq!(play.state("a"), Some(State::Reserved));
}

#[test]
fn a_reservation_whose_object_went_elsewhere_is_given_back_and_a_holder_is_not() {
    let mut play = Play::ready();
    play.order(order("r", Class::Normal, 4));
    play.order(order("a", Class::Normal, 4));
    play.start("a", 7, 3);
    play.step(Input::OrderGone(id("r")));
    play.step(Input::OrderGone(id("a")));
    play.look();
    assert_eq!((play.state("r"), play.state("a")), (None, Some(State::Active)));
    play.stop("a");
    play.step(Input::Tick);
    assert_eq!((play.state("a"), play.free()), (None, LEASABLE));
}

#[test]
fn of_two_pods_with_one_name_the_living_one_is_bound() {
    let mut play = Play::ready();
    play.order(order("s", Class::Normal, 4));
    play.start("s", 7, 3);
    let mut second = order("s", Class::Normal, 4);
    second.request.id = LeaseId::new("ns/s-2").unwrap();
    second.subject.pod = uid("s2");
    play.order(second);
    let named = |pod: &str, state| PodFact { name: "s".into(), ..fact(pod, state) };
    play.step(Input::Pod(named("s", PodState::Leaving)));
    play.step(Input::Pod(named("s2", PodState::Live)));
    assert_eq!(play.prepare("s").unwrap().lease.as_str(), "ns/s-2");
}

#[test]
fn alone_a_lost_ledger_is_taken_for_foreign_use_and_the_node_opens_with_the_first_look() {
    let mut play = Play::begin_in(Start::Quarantine(Marker::default()), Cluster::None);
    play.processes = vec![(7, "", 5)];
    assert!(play.snapshot().hold.is_some());
    play.look();
    assert!(play.snapshot().hold.is_none());
    assert_eq!(play.free(), LEASABLE - 5 * 1024);

    let mut play = Play::begin_in(Start::Quarantine(Marker::default()), Cluster::None);
    play.silent();
    assert!(play.snapshot().hold.is_some(), "it may have GPUs");
    play.without_driver();
    assert!(play.snapshot().hold.is_none());
    assert!(!play.snapshot().gpus_unread);
    play.silent();
    assert!(play.snapshot().gpus_unread, "it has come since, and hangs");
    play.look();
    play.silent();
    assert!(!play.snapshot().gpus_unread, "which GPUs there are it has told");
}

#[test]
fn a_drained_node_tells_its_holders_and_takes_nothing() {
    let mut play = Play::ready();
    play.order(order("a", Class::Normal, 4));
    play.start("a", 7, 3);
    play.step(Input::Drain(wish(true, None)));
    assert_eq!((play.state("a"), play.reason("a")), (Some(State::Revoking), Some("Drained".into())));
    play.order(order("b", Class::Normal, 4));
    assert_eq!(play.reason("b"), Some("Closed".into()));
    play.step(Input::Drain(wish(false, None)));
    play.order(Order { attempt: 2, ..order("b", Class::Normal, 4) });
    assert_eq!(play.state("b"), Some(State::Reserved));
}

fn wish(node: bool, seconds: Option<u64>) -> Wish {
    Wish { scope: Scope { node, gpus: BTreeSet::new() }, within: seconds.map(Span::from_secs) }
}

#[test]
fn who_is_still_there_at_the_deadline_of_a_wished_drain_is_ended_and_a_restart_does_not_put_it_off() {
    let mut play = Play::ready();
    play.order(order("a", Class::Normal, 4));
    play.start("a", 7, 3);
    play.step(Input::Drain(wish(true, Some(7))));
    assert_eq!(play.state("a"), Some(State::Revoking));
    play.later(4);
    let mut play = play.restart();
    assert_eq!(play.snapshot().hold.as_deref(), Some("draining"), "before the API server has said it again");
    play.step(Input::Drain(wish(true, Some(7))));
    play.later(2);
    assert_eq!(play.state("a"), Some(State::Revoking));
    play.later(2);
    assert_eq!((play.state("a"), play.reason("a")), (Some(State::Stopping), Some("Drained".into())));
}

#[test]
fn a_machine_that_was_renamed_has_its_leases_still() {
    let mut play = Play::ready();
    play.order(order("a", Class::Normal, 4));
    play.start("a", 7, 3);
    let mut ledger = play.node.ledger();
    for placement in ledger.records.iter_mut().filter_map(|record| record.placement.as_mut()) {
        placement.node = NodeName::new("as-it-was-called").unwrap();
    }
    let renamed =
        Node::new(settings(Cluster::Kubernetes), Start::Continue(Box::new(ledger)), Moment::from_millis(2000));
    let seen = renamed.engine.lease(&id("a")).unwrap();
    assert!(matches!(seen.phase, Phase::Active { .. }), "{:?}", seen.phase);
}
