//! Leases in code on a node of a cluster: whose they are, up to which class, and out of what.

use memboss_core::Phase;
use tokio::sync::watch;

use super::*;
use crate::node::clients::{Accepted, ClientInput, Listener, Told, Wish};
use crate::probes::processes::Caller;

fn caller(pod: Option<&str>, pid: u32) -> Caller {
    let process = Process { pid, started: 1 };
    Caller { process, user: 0, groups: vec![], pod: pod.map(uid), contained: false, command: "worker".into() }
}

impl Play {
    /// The API server tells of a pod.
    fn is_here(&mut self, pod: &str, class: Class, has_lease: bool) {
        self.step(Input::Pod(PodFact { class, has_lease, ..fact(pod, PodState::Live) }));
    }

    /// A process asks for so much in that class, and listens.
    fn acquire(
        &mut self,
        caller: Caller,
        class: Class,
        gib: u64,
    ) -> Result<(Accepted, watch::Receiver<Option<Told>>), Denied> {
        let demand = Demand { slots: vec![Slot::fixed(Mib::from_mib(gib * 1024))], ram: Mib::ZERO };
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

    fn phase(&mut self, heard: &watch::Receiver<Option<Told>>) -> Phase {
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
    let (reply, mut answer) = oneshot::channel();
    let what = GiveBack { memory: vec![Mib::from_mib(2048)], ram: RamWish::Same, notice: String::new() };
    play.step(Input::Ask(Ask::GiveBack { pod: uid("a"), what, reply }));
    play.deliver();
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
