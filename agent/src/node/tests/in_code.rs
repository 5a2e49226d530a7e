//! Leases in code on a node of a cluster: whose they are, up to which class, and out of what.

use memboss_core::Phase;
use tokio::sync::watch;

use super::*;
use crate::node::clients::{Accepted, ClientInput, Listener, Push, Told, Wish};
use crate::probes::processes::Caller;

fn caller(pod: Option<&str>, pid: u32) -> Caller {
    let process = Process { pid, started: 1 };
    Caller { process, user: 0, groups: vec![], pod: pod.map(uid), contained: false, command: "worker".into() }
}

type Heard = watch::Receiver<Option<Told>>;

impl Play {
    /// The API server tells of a pod.
    fn is_here(&mut self, pod: &str, class: Class, has_lease: bool) {
        self.step(Input::Pod(PodFact { class, has_lease, ..fact(pod, PodState::Live) }));
    }

    /// A process asks for so much GPU memory in that class, and listens.
    fn acquire(&mut self, caller: Caller, class: Class, gib: u64) -> Result<(Accepted, Heard), Denied> {
        let demand = Demand { slots: vec![Slot::fixed(Mib::from_mib(gib * 1024))], ram: Mib::ZERO };
        self.acquire_that(caller, class, demand)
    }

    fn acquire_that(&mut self, caller: Caller, class: Class, demand: Demand) -> Result<(Accepted, Heard), Denied> {
        let request = Request::new(LeaseId::new("new").unwrap(), class, demand, Moment::default());
        let (name, label) = (format!("of-{}", caller.process.pid), String::new());
        let wish = Box::new(Wish { name, request, timeout: None, no_wait: false, ttl: None, label });
        let (events, heard) = watch::channel(None);
        let listener = Listener { connection: u64::from(caller.process.pid), events };
        let (reply, mut answer) = oneshot::channel();
        let secret = "secret".to_owned();
        self.step(Input::Client(ClientInput::Acquire { caller, wish, secret, listener, reply }));
        self.deliver();
        answer.try_recv().unwrap().map(|accepted| (accepted, heard))
    }

    fn release(&mut self, caller: Caller, lease: &LeaseId) {
        let (reply, mut answer) = oneshot::channel();
        self.step(Input::Client(ClientInput::Release { caller, lease: lease.to_string(), reply }));
        self.deliver();
        answer.try_recv().unwrap().unwrap();
    }

    fn phase(&mut self, heard: &Heard) -> Phase {
        self.node.tell_clients();
        heard.borrow().as_ref().unwrap().lease.phase.clone()
    }
}

#[test]
fn only_pods_that_the_api_server_has_told_of_lease_in_code_and_up_to_their_own_class() {
    let mut play = Play::ready();
    play.is_here("low", Class::Low, false);
    let refused = |play: &mut Play, caller, class| play.acquire(caller, class, 1).unwrap_err().to_string();
    assert!(refused(&mut play, caller(None, 1), Class::Low).contains("process 1 is in none"));
    let unknown = refused(&mut play, caller(Some("other"), 2), Class::Low);
    assert!(unknown.contains("memboss.dev/agent=true"), "{unknown}");
    let above = play.acquire(caller(Some("low"), 3), Class::Normal, 1).unwrap_err();
    assert!(matches!(&above, Denied::NotYours(why) if why.contains("memboss.dev/priority=normal")), "{above}");
    play.acquire(caller(Some("low"), 3), Class::Low, 1).unwrap();
    assert_eq!(play.free(), LEASABLE - 1024);
}

#[test]
fn a_pod_without_a_lease_leases_of_the_node_and_gives_way_to_a_pod_of_a_higher_class() {
    let mut play = Play::ready();
    play.is_here("worker", Class::Batch, false);
    let (_, heard) = play.acquire(caller(Some("worker"), 7), Class::Batch, 20).unwrap();
    assert!(matches!(play.phase(&heard), Phase::Active { .. }));
    play.processes.push((7, "worker", 20));
    play.look();
    play.order(order("urgent", Class::Urgent, 16));
    assert_eq!(play.state("urgent"), Some(State::Claimed));
    assert!(matches!(play.phase(&heard), Phase::Revoking { notice, .. } if notice.class == Some(Class::Urgent)));
    play.step(Input::Client(ClientInput::Gone(Process { pid: 7, started: 1 })));
    assert_eq!(play.state("urgent"), Some(State::Claimed), "charged until it is seen free");
    play.processes.clear();
    play.look();
    assert_eq!(play.state("urgent"), Some(State::Reserved));
}

/// A pod that holds 8 GiB.
fn holding() -> Play {
    let mut play = Play::ready();
    play.is_here("a", Class::Normal, true);
    play.order(order("a", Class::Normal, 8));
    play.start("a", 7, 1);
    play
}

#[test]
fn what_a_pod_with_a_lease_leases_in_code_comes_out_of_that_in_its_own_queue() {
    let mut play = holding();
    let free = play.free();
    let (_, first) = play.acquire(caller(Some("a"), 8), Class::Normal, 6).unwrap();
    let (second_lease, second) = play.acquire(caller(Some("a"), 9), Class::Normal, 4).unwrap();
    assert!(matches!(play.phase(&first), Phase::Active { .. }));
    assert_eq!(play.phase(&second), Phase::Waiting, "no more than its pod holds");
    assert_eq!(play.free(), free, "the node gives nothing more");
    assert_eq!(play.snapshot().leases[&second_lease.lease].position, Some(1));
    let whole = play.snapshot().leases[&second_lease.lease].whose.clone().unwrap().part_of;
    assert_eq!(whole, Some(id("a")));
    // What is leased in code is not given back over its holder's head.
    let mut answer = play.give("a", 2, RamWish::Same);
    assert!(answer.try_recv().unwrap().unwrap_err().to_string().contains("leased in code"));

    let mut play = play.restart();
    play.look();
    play.step(Input::Client(ClientInput::Gone(Process { pid: 8, started: 1 })));
    assert_eq!(play.snapshot().leases[&second_lease.lease].state, State::Active);
    assert_eq!(play.free(), free);
}

#[test]
fn what_becomes_of_a_pods_lease_reaches_its_parts() {
    let mut play = holding();
    let (part, heard) = play.acquire(caller(Some("a"), 8), Class::Normal, 4).unwrap();
    play.order(order("urgent", Class::Urgent, 20));
    assert_eq!(play.state("a"), Some(State::Revoking));
    let deadline = |phase: Phase| if let Phase::Revoking { notice, .. } = phase { Some(notice.deadline) } else { None };
    let told = deadline(play.phase(&heard)).unwrap();
    assert_eq!(play.snapshot().leases[&id("a")].notice.as_ref().map(|notice| notice.deadline), Some(told));
    // Whoever needed it goes.
    play.step(Input::OrderGone(id("urgent")));
    assert_eq!(play.state("a"), Some(State::Active));
    assert!(matches!(play.phase(&heard), Phase::Active { .. }), "spared too");
    // Its pod goes.
    play.step(Input::Pod(fact("a", PodState::Over)));
    assert!(matches!(play.phase(&heard), Phase::Stopping { .. }));
    assert!(play.node.take_pushes().is_empty(), "its kubelet ends it");
    play.stop("a");
    play.node.tell_clients();
    assert!(heard.borrow().as_ref().unwrap().ended.is_some());
    assert!(!play.snapshot().leases.contains_key(&part.lease));
}

#[test]
fn no_part_gets_what_its_whole_is_giving_back() {
    let mut play = holding();
    let mut answer = play.give("a", 2, RamWish::Same);
    let (_, part) = play.acquire(caller(Some("a"), 8), Class::Normal, 6).unwrap();
    assert_eq!(play.phase(&part), Phase::Waiting);
    play.look();
    play.deliver();
    assert_eq!(answer.try_recv().unwrap().unwrap(), id("a"));
    assert_eq!((play.phase(&part), play.free()), (Phase::Waiting, LEASABLE - 2048));
}

#[test]
fn no_part_gets_it_either_while_another_gives_back_in_the_same_look() {
    let mut play = holding();
    play.is_here("b", Class::Normal, true);
    play.order(order("b", Class::Normal, 8));
    play.start("b", 17, 1);
    play.acquire(caller(Some("b"), 18), Class::Normal, 6).unwrap();
    let mut answers = [play.give("a", 4, RamWish::Same), play.give("b", 6, RamWish::Same)];
    let (_, part) = play.acquire(caller(Some("b"), 19), Class::Normal, 2).unwrap();
    play.look();
    play.deliver();
    assert!(answers.iter_mut().all(|answer| answer.try_recv().unwrap().is_ok()));
    assert_eq!((play.phase(&part), play.free()), (Phase::Waiting, LEASABLE - 10 * 1024));
}

#[test]
fn a_pod_of_which_a_process_asks_has_come_and_its_lease_is_kept_for_it() {
    let mut play = Play::ready();
    play.is_here("a", Class::Normal, true);
    play.order(order("a", Class::Normal, 8));
    assert_eq!(play.state("a"), Some(State::Reserved));
    let (_, part) = play.acquire(caller(Some("a"), 8), Class::Normal, 4).unwrap();
    assert!(matches!(play.phase(&part), Phase::Active { .. }));
    assert_eq!(play.state("a"), Some(State::Active));
}

#[test]
fn ram_that_is_given_back_and_still_used_is_granted_to_nobody() {
    let mut play = Play::ready();
    play.is_here("worker", Class::Normal, false);
    let ram = |gib: u64| Demand { slots: vec![], ram: Mib::from_mib(gib * 1024) };
    let (first, heard) = play.acquire_that(caller(Some("worker"), 7), Class::Normal, ram(20)).unwrap();
    assert!(matches!(play.phase(&heard), Phase::Active { .. }));
    // 32 GiB are available beside the 20 that it uses.
    play.ram_used.insert(first.lease.clone(), Mib::from_mib(20 * 1024));
    play.look();
    let (_, second) = play.acquire_that(caller(Some("worker"), 8), Class::Normal, ram(40)).unwrap();
    assert_eq!(play.phase(&second), Phase::Waiting);
    play.release(caller(Some("worker"), 7), &first.lease);
    assert_eq!(play.phase(&second), Phase::Waiting, "there are 32 GiB");
    assert!(play.node.wants_look(), "it may be free by now");
    let observed = play.observation();
    let ram = Some(Ram { available: Mib::from_mib(52 * 1024), ..observed.ram.unwrap() });
    play.step(Input::Seen(Box::new(Observation { ram, ..observed })));
    assert!(matches!(play.phase(&second), Phase::Active { .. }));
}

#[test]
fn ram_that_the_machine_does_not_have_in_all_is_refused_and_what_it_has_is_waited_for() {
    let mut play = Play::ready();
    play.is_here("worker", Class::Normal, false);
    let mut ask = |pid, gib: u64| {
        let ram = Demand { slots: vec![], ram: Mib::from_mib(gib * 1024) };
        play.acquire_that(caller(Some("worker"), pid), Class::Normal, ram)
    };
    let refused = ask(7, 65).unwrap_err();
    assert!(matches!(&refused, Denied::WouldWait(why) if why.contains("this machine has 64Gi")), "{refused}");
    // Of 64 GiB 32 are available now.
    let (_, heard) = ask(8, 60).unwrap();
    assert_eq!(play.phase(&heard), Phase::Waiting);
}

/// A process of a BATCH pod holds 20 GiB in code, and an URGENT one has needed them for a minute: its time is up.
fn time_is_up(kill_after: Option<Span>) -> (Play, Accepted, Heard) {
    let mut play = Play::ready();
    play.node.settings.clients.kill_after = kill_after.unwrap_or(play.node.settings.clients.kill_after);
    play.is_here("worker", Class::Batch, false);
    let (lease, heard) = play.acquire(caller(Some("worker"), 7), Class::Batch, 20).unwrap();
    play.processes.push((7, "worker", 20));
    play.look();
    play.order(order("urgent", Class::Urgent, 16));
    play.later(60);
    (play, lease, heard)
}

/// What was done last to processes that have to go.
fn pushed(play: &mut Play) -> Vec<Push> {
    play.node.take_pushes().into_iter().map(|pushed| pushed.push).collect()
}

#[test]
fn who_has_to_go_is_asked_and_ended_and_ended_again_until_it_is_gone() {
    let (mut play, _, heard) = time_is_up(None);
    assert!(matches!(play.phase(&heard), Phase::Stopping { .. }));
    let kill_after = play.node.settings.clients.kill_after.millis() / 1000;
    assert_eq!(pushed(&mut play), [Push::Term]);
    play.later(kill_after);
    assert_eq!(pushed(&mut play), [Push::Kill]);
    play.later(kill_after - 1);
    assert_eq!(pushed(&mut play), []);
    play.later(1);
    assert_eq!(pushed(&mut play), [Push::Kill], "the first may not have reached it");
    play.step(Input::Client(ClientInput::Gone(Process { pid: 7, started: 1 })));
    play.later(kill_after);
    assert_eq!(pushed(&mut play), []);
    assert!(play.node.next_push().is_none());
}

#[test]
fn who_is_killed_at_once_is_not_killed_all_the_time() {
    let (mut play, _, _heard) = time_is_up(Some(Span::ZERO));
    assert_eq!(pushed(&mut play), [Push::Kill]);
    play.step(Input::Tick);
    assert_eq!(pushed(&mut play), []);
    assert!(play.node.next_push() > Some(Moment::from_millis(play.now + 900)));
}

#[test]
fn who_gives_back_what_it_has_to_is_left_alone_and_nothing_is_waited_for() {
    let (mut play, lease, _heard) = time_is_up(None);
    assert_eq!(pushed(&mut play), [Push::Term]);
    // Its GPU cannot be looked at: its memory is not seen free.
    play.gpu = Err("off the bus".into());
    play.look();
    play.release(caller(Some("worker"), 7), &lease.lease);
    play.later(60);
    assert_eq!((pushed(&mut play), play.node.next_push()), (vec![], None));
}
