//! Histories of a node, played without a clock: what is ordered, seen and asked, and what becomes of the leases.

use memboss_core::{Class, Demand, GpuShare, Placement, Request, Signals, Slot};
use tokio::sync::oneshot;

use super::view::Snapshot;
pub(super) use super::*;
use crate::journal::Replay;
use crate::order::{ContainerSlots, Recorded, State, Subject};
use crate::probes::nvml::{GpuReading, NoNvml, Sample, Usage};
use crate::probes::processes::{Owner, Process};
use crate::store::{Marker, Start};

const GPU: &str = "GPU-a";
const GIB: u64 = 1 << 30;

/// A node, and what is to be seen of it next.
struct Play {
    node: Node,
    /// Its ledger, by what it said has changed.
    followed: Replay,
    now: u64,
    pods: BTreeSet<PodUid>,
    /// pid, pod, GiB.
    processes: Vec<(u32, &'static str, u64)>,
    gpu: Result<(), String>,
    ram_used: BTreeMap<LeaseId, Mib>,
    signals: Option<Signals>,
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
        clients: crate::node::clients::Limits::default(),
        relief: relief::Settings { may_clean: true, ..relief::Settings::default() },
    }
}

fn uid(pod: &str) -> PodUid {
    PodUid(format!("uid-{pod}"))
}

fn id(pod: &str) -> LeaseId {
    LeaseId::new(format!("ns/{pod}")).unwrap()
}

/// What the API server says of a pod with a lease.
fn fact(pod: &str, state: PodState) -> PodFact {
    let (namespace, name) = ("ns".into(), pod.into());
    PodFact { uid: uid(pod), namespace, name, state, class: Class::Normal, has_lease: true }
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
        ram_room: None,
        may_preempt: true,
        epoch: Epoch { incarnation: "i".into(), number: 5 },
        attempt: 1,
        unwanted: None,
        deleting: false,
        containers: BTreeMap::from([("c".into(), ContainerSlots { slots: vec![0], asks: vec![] })]),
        recorded: None,
    }
}

/// The leases of each engine for themselves: among those of two no order is kept.
fn by_engine(mut ledger: crate::store::Ledger) -> crate::store::Ledger {
    let clients = &ledger.clients;
    ledger.records.sort_by_key(|record| clients.get(&record.request.id).is_some_and(clients::Client::is_part));
    ledger
}

impl Play {
    fn begin(start: Start) -> Self {
        Self::begin_in(start, Cluster::Kubernetes)
    }

    fn begin_in(start: Start, cluster: Cluster) -> Self {
        let node = Node::new(settings(cluster), start, Moment::from_millis(1000));
        Self {
            followed: Replay::begin(node.ledger()),
            node,
            now: 1000,
            pods: BTreeSet::new(),
            processes: Vec::new(),
            gpu: Ok(()),
            ram_used: BTreeMap::new(),
            signals: None,
        }
    }

    /// On a node that has been told everything and holds nothing.
    fn ready() -> Self {
        let mut play = Self::begin(Start::First);
        play.look();
        play.step(Input::Incarnation("i".into()));
        play.told(vec![]);
        play.step(Input::Pods(vec![]));
        assert_eq!(play.node.hold, Hold::Open);
        play
    }

    /// All placements of both kinds.
    fn told(&mut self, orders: Vec<Order>) {
        self.step(Input::Orders(LeaseKind::Ram, vec![]));
        self.step(Input::Orders(LeaseKind::Vram, orders));
    }

    fn step(&mut self, input: Input) {
        self.now += 1;
        self.node.step(input, Moment::from_millis(self.now));
        self.followed.apply(self.node.take_change());
        assert_eq!(by_engine(self.followed.clone().finish()), by_engine(self.node.ledger()), "what is written is");
    }

    fn later(&mut self, seconds: u64) {
        self.now += seconds * 1000;
        self.step(Input::Tick);
    }

    fn look(&mut self) {
        let observation = self.observation();
        self.step(Input::Seen(Box::new(observation)));
    }

    /// NVML was asked and does not answer.
    fn silent(&mut self) {
        self.look_with(NoNvml::Silent);
    }

    /// There is no NVML.
    fn without_driver(&mut self) {
        self.look_with(NoNvml::Load("it is not there".into()));
    }

    fn look_with(&mut self, what: NoNvml) {
        let seen = self.observation();
        self.step(Input::Seen(Box::new(Observation { reading: Err(what), ..seen })));
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
            lineages: self.processes.iter().map(|(pid, ..)| (*pid, vec![Process { pid: *pid, started: 1 }])).collect(),
            owners,
            ram_used: self.ram_used.clone(),
            signals: self.signals,
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

    /// A pod gives GPU memory back and keeps so much of it.
    fn give(&mut self, pod: &str, gib: u64, ram: RamWish) -> oneshot::Receiver<Result<LeaseId, Denied>> {
        let (reply, answer) = oneshot::channel();
        let what = GiveBack { memory: vec![Mib::from_mib(gib * 1024)], ram, notice: String::new() };
        self.step(Input::Ask(Ask::GiveBack { pod: uid(pod), what, reply }));
        self.deliver();
        answer
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
        self.node.snapshot([0; 8], &self.node.places())
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

mod holding;
mod in_code;
mod life;
mod pressure;
mod ram;
