//! Histories of a node, played without a clock: what is ordered, seen and asked, and what becomes of the leases.

use memboss_core::{Class, Demand, GpuShare, Placement, Request, Slot};
use tokio::sync::oneshot;

use super::view::Snapshot;
use super::*;
use crate::order::{ContainerSlots, Recorded, State, Subject};
use crate::probes::nvml::{GpuReading, Usage};
use crate::store::{Marker, Start};

const GPU: &str = "GPU-a";
const GIB: u64 = 1 << 30;

/// A node, and what is to be seen of it next.
struct Play {
    node: Node,
    now: u64,
    pods: BTreeSet<PodUid>,
    /// pid, pod, GiB.
    processes: Vec<(u32, &'static str, u64)>,
    gpu: Result<(), String>,
}

fn settings(cluster: Cluster) -> Settings {
    Settings {
        name: NodeName::new("n1").unwrap(),
        boot_id: "boot-1".into(),
        margin: Margin::default(),
        policy: Policy { protection: [Span::ZERO; 5], ..Policy::default() },
        recovery: Recovery { clean_readings: 1, quiet: Span::ZERO },
        cluster,
        over_lease: [Some(Span::from_secs(30)), None, None, None, None],
        give_back: Span::from_secs(60),
    }
}

fn uid(pod: &str) -> PodUid {
    PodUid(format!("uid-{pod}"))
}

fn id(pod: &str) -> LeaseId {
    LeaseId::new(format!("ns/{pod}")).unwrap()
}

fn order(pod: &str, class: Class, gib: u64) -> Order {
    let memory = Mib::from_mib(gib * 1024);
    let demand = Demand { slots: vec![Slot::fixed(memory)], ram: Mib::ZERO };
    let share = GpuShare { uuid: GpuUuid::new(GPU).unwrap(), memory };
    Order {
        object: format!("object-{pod}"),
        subject: Subject { pod: uid(pod), namespace: "ns".into(), name: pod.into() },
        request: Request::new(id(pod), class, demand, Moment::default()),
        placement: Placement { node: NodeName::new("n1").unwrap(), gpus: vec![share], ram: Mib::ZERO },
        may_preempt: true,
        epoch: Epoch { incarnation: "i".into(), number: 5 },
        attempt: 1,
        unwanted: None,
        deleting: false,
        containers: BTreeMap::from([("c".into(), ContainerSlots { slots: vec![0], asks: vec![] })]),
        recorded: None,
    }
}

impl Play {
    fn begin(start: Start) -> Self {
        Self::begin_in(start, Cluster::Kubernetes)
    }

    fn begin_in(start: Start, cluster: Cluster) -> Self {
        let node = Node::new(settings(cluster), start, Moment::from_millis(1000));
        Self { node, now: 1000, pods: BTreeSet::new(), processes: Vec::new(), gpu: Ok(()) }
    }

    /// On a node that has been told everything and holds nothing.
    fn ready() -> Self {
        let mut play = Self::begin(Start::First);
        play.look();
        play.step(Input::Incarnation("i".into()));
        play.step(Input::Orders(vec![]));
        play.step(Input::Pods(vec![]));
        assert_eq!(play.node.hold, Hold::Open);
        play
    }

    fn step(&mut self, input: Input) {
        self.now += 1;
        self.node.step(input, Moment::from_millis(self.now));
    }

    fn later(&mut self, seconds: u64) {
        self.now += seconds * 1000;
        self.step(Input::Tick);
    }

    fn look(&mut self) {
        let observation = self.observation();
        self.step(Input::Seen(Box::new(observation)));
    }

    fn observation(&mut self) -> Observation {
        self.now += 1;
        let mut usage = Usage { total: 24 * GIB, reserved: GIB / 2, ..Usage::default() };
        let mut owners = BTreeMap::new();
        for (pid, pod, gib) in &self.processes {
            usage.processes.insert(*pid, Some(gib * GIB));
            usage.used += gib * GIB;
            owners.insert(*pid, Some(if pod.is_empty() { Owner::Other } else { Owner::Pod(uid(pod)) }));
        }
        let usage = self.gpu.clone().map(|()| usage);
        let gpus = vec![GpuReading { index: 0, uuid: GPU.into(), product: "NVIDIA L4".into(), usage }];
        let began = Moment::from_millis(self.now);
        Observation {
            began,
            pods: Some(self.pods.clone()),
            reading: Ok(Sample { started: began, gpus }),
            owners,
            ram: Some(Ram { total: Mib::from_mib(64 << 10), available: Mib::from_mib(32 << 10) }),
        }
    }

    fn order(&mut self, order: Order) {
        self.step(Input::Order(Box::new(order)));
    }

    /// A pod starts: its cgroup appears, the plugin asks, a process allocates.
    fn start(&mut self, pod: &'static str, pid: u32, gib: u64) -> Prepared {
        self.pods.insert(uid(pod));
        let prepared = self.prepare(pod).unwrap();
        self.processes.push((pid, pod, gib));
        self.look();
        prepared
    }

    fn prepare(&mut self, pod: &str) -> Result<Prepared, Denied> {
        let (reply, mut answer) = oneshot::channel();
        let (namespace, name, container) = ("ns".to_owned(), pod.to_owned(), "c".to_owned());
        self.step(Input::Ask(Ask::Prepare { uid: None, namespace, name, container, reply }));
        self.deliver();
        answer.try_recv().unwrap()
    }

    fn deliver(&mut self) {
        self.node.take_answers().into_iter().for_each(|answer| answer());
    }

    /// A pod is gone with all that it had.
    fn stop(&mut self, pod: &str) {
        self.pods.remove(&uid(pod));
        self.processes.retain(|(_, owner, _)| *owner != pod);
        self.look();
    }

    fn snapshot(&self) -> Snapshot {
        self.node.snapshot([0; 8])
    }

    fn state(&self, pod: &str) -> Option<State> {
        self.snapshot().leases.get(&id(pod)).map(|seen| seen.state)
    }

    fn reason(&self, pod: &str) -> Option<String> {
        self.snapshot().leases.get(&id(pod)).and_then(|seen| seen.reason.clone())
    }

    fn free(&self) -> u64 {
        self.snapshot().gpus[0].free.mib()
    }

    /// The agent is killed and starts again on what it has written.
    fn restart(self) -> Self {
        let mut next = Self::begin(Start::Continue(Box::new(self.node.ledger())));
        (next.now, next.pods, next.processes) = (self.now, self.pods, self.processes);
        next
    }
}

const LEASABLE: u64 = 24 * 1024 - 512 - 256;

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
    play.step(Input::Pod(PodFact { uid: uid("a"), namespace: "ns".into(), name: "a".into(), state: PodState::Over }));
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
    play.step(Input::NvmlSilent);
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
    play.step(Input::Orders(vec![order("v", Class::Batch, 20), order("p", Class::Urgent, 20)]));
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
            state,
            attempt: 1,
            gpus: order(pod, Class::Low, 16).placement.gpus,
            token: Token { epoch: 4, sequence: 3 },
            reason: None,
        }),
        ..order(pod, Class::Low, 16)
    };
    let waiter = Order { may_preempt: false, ..order("w", Class::Urgent, 16) };
    play.step(Input::Orders(vec![recorded("a", State::Active), recorded("gone", State::Active), waiter.clone()]));
    assert_eq!((play.state("a"), play.state("w")), (None, None), "pods are not known yet");
    assert!(matches!(play.prepare("a"), Err(Denied::NotNow(_))));
    let live = |pod: &str| PodFact { uid: uid(pod), namespace: "ns".into(), name: pod.into(), state: PodState::Live };
    play.step(Input::Pods(vec![live("a")]));
    assert_eq!((play.state("a"), play.state("gone")), (Some(State::Reserved), Some(State::Ended)));
    assert_eq!((play.state("w"), play.reason("w")), (Some(State::Refused), Some("NoRoom".into())));
    assert!(play.prepare("a").is_ok());
    assert_eq!(play.snapshot().agent_epoch, 5);
}

#[test]
fn a_reboot_waits_for_nvml_before_it_gives_a_lease_up() {
    let mut play = Play::begin(Start::AfterReboot(Marker { boot_id: "boot-0".into(), ..Marker::default() }));
    let recorded = Recorded {
        state: State::Active,
        attempt: 1,
        gpus: order("a", Class::Low, 16).placement.gpus,
        token: Token::default(),
        reason: None,
    };
    play.step(Input::Orders(vec![Order { recorded: Some(recorded), ..order("a", Class::Low, 16) }]));
    play.step(Input::Pods(vec![PodFact {
        uid: uid("a"),
        namespace: "ns".into(),
        name: "a".into(),
        state: PodState::Live,
    }]));
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
    play.step(Input::Orders(vec![recorded("a", State::Reserved), order("b", Class::Normal, 1)]));
    let fact = PodFact { uid: uid("a"), namespace: "ns".into(), name: "a".into(), state: PodState::Live };
    play.step(Input::Pods(vec![fact]));
    assert_eq!((play.state("a"), play.state("b")), (Some(State::Active), Some(State::Reserved)));
    play.look();
    assert_eq!(play.free(), LEASABLE - 9 * 1024 - 2 * 1024, "two leases and the stranger's 2 GiB");
}

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
    let (reply, answer) = oneshot::channel();
    let memory = vec![Mib::from_mib(gib * 1024)];
    let into_ram = Mib::from_mib(ram * 1024);
    play.step(Input::Ask(Ask::GiveBack { pod: uid(pod), memory, into_ram, notice: String::new(), reply }));
    play.deliver();
    answer
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
fn an_offload_has_its_ram_from_the_start_or_does_not_begin() {
    let mut play = Play::ready();
    play.order(order("v", Class::Batch, 20));
    play.start("v", 7, 19);
    let mut refused = give(&mut play, "v", 4, 1000);
    assert!(matches!(refused.try_recv().unwrap(), Err(Denied::Refused(Refused::NoRoom { .. }))));
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
    let fact = |pod: &str, state| PodFact { uid: uid(pod), namespace: "ns".into(), name: "s".into(), state };
    play.step(Input::Pod(fact("s", PodState::Leaving)));
    play.step(Input::Pod(fact("s2", PodState::Live)));
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
}

#[test]
fn a_drained_node_tells_its_holders_and_takes_nothing() {
    let mut play = Play::ready();
    play.order(order("a", Class::Normal, 4));
    play.start("a", 7, 3);
    play.step(Input::Drain { node: true, gpus: BTreeSet::new() });
    assert_eq!((play.state("a"), play.reason("a")), (Some(State::Revoking), Some("Drained".into())));
    play.order(order("b", Class::Normal, 4));
    assert_eq!(play.reason("b"), Some("Closed".into()));
    play.step(Input::Drain { node: false, gpus: BTreeSet::new() });
    play.order(Order { attempt: 2, ..order("b", Class::Normal, 4) });
    assert_eq!(play.state("b"), Some(State::Reserved));
}
