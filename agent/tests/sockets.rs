//! The agent's task and its two real sockets together, with GPUs, pods and `/proc` made of files and channels.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use memboss_agent::health::Recovery;
use memboss_agent::journal::Journal;
use memboss_agent::node::clients::Limits;
use memboss_agent::node::task::{self, Doors, Eyes, Files, Pace};
use memboss_agent::node::view::Snapshot;
use memboss_agent::node::{Cluster, Input, Margin, Node, Settings};
use memboss_agent::order::{Epoch, Order, State, Subject};
use memboss_agent::probes::clock;
use memboss_agent::probes::nvml::{GpuReading, Prober, Sample, Usage};
use memboss_agent::probes::pidfd::Sentinels;
use memboss_agent::probes::pods::PodCgroups;
use memboss_agent::probes::pressure::PressureProbe;
use memboss_agent::probes::processes::{PodUid, Processes};
use memboss_agent::serve::{self, Access, Audience, Desk, Quota};
use memboss_agent::store::{self, Store};
use memboss_agent_api::v1::node_client::NodeClient;
use memboss_agent_api::v1::workload_client::WorkloadClient;
use memboss_agent_api::v1::{self, PrepareRequest};
use memboss_core::{
    Class, Demand, GpuShare, GpuUuid, LeaseId, Mib, Moment, NodeName, Placement, Policy, Request, Slot, Span,
};
use memboss_crds::LeaseKind;
use memboss_platform::shutdown::Shutdown;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tonic::Code;
use tonic::transport::Channel;

const GIB: u64 = 1 << 30;
const UID: &str = "0a1b2c3d-1111-2222-3333-444455556666";

/// A node made of files, and an agent on it.
struct Bed {
    dir: TempDir,
    usage: Arc<Mutex<Usage>>,
    inputs: mpsc::Sender<Input>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    shutdown: Shutdown,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

fn settings(cluster: Cluster) -> Settings {
    Settings {
        name: NodeName::new("n1").unwrap(),
        boot_id: "boot-1".into(),
        margin: Margin::default(),
        policy: Policy { protection: [Span::ZERO; 5], ..Policy::default() },
        recovery: Recovery::default(),
        cluster,
        over_lease: [None; 5],
        give_back: Span::from_secs(60),
        clients: Limits::default(),
        relief: memboss_agent::node::relief::Settings::default(),
    }
}

impl Bed {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("cgroup/kubepods")).unwrap();
        std::fs::write(dir.path().join("meminfo"), "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n").unwrap();
        let usage = Usage { total: 24 * GIB, reserved: GIB / 2, ..Usage::default() };
        Self::on(dir, Arc::new(Mutex::new(usage))).await
    }

    async fn on(dir: TempDir, usage: Arc<Mutex<Usage>>) -> Self {
        let files = Files {
            ledger: Journal::new(dir.path().join("ledger")),
            marker: Store::new(dir.path().join("marker.json")),
        };
        let found = files.ledger.read().map(|found| found.map(|found| found.ledger));
        let start = store::judge(found, files.marker.read(), "boot-1");
        let node = Node::new(settings(Cluster::Kubernetes), start, clock::now());
        let (inputs, inputs_out) = mpsc::channel(64);
        let (sender, snapshots) = watch::channel(Arc::default());
        let (news, _) = mpsc::unbounded_channel();
        let shutdown = Shutdown::new();
        let eyes = eyes(&dir, usage.clone(), Sentinels::new(dir.path().join("proc"), inputs.clone()));
        let doors = Doors { inputs: inputs_out, snapshots: sender, news };
        let end = shutdown.clone();
        let mut tasks = vec![tokio::spawn(async move { task::run(node, eyes, doors, files, end).await.unwrap() })];
        let proc_root = dir.path().join("proc");
        let desk = Desk { inputs: inputs.clone(), snapshots: snapshots.clone(), proc_root, neighbours: None };
        let path = dir.path().join("node/node.sock");
        let listener = serve::listen(&path, Audience::Root).unwrap();
        let (own, end) = (desk.clone(), shutdown.clone());
        tasks.push(tokio::spawn(async move { serve::node(listener, path, own, end).await.unwrap() }));
        let path = dir.path().join("agent/agent.sock");
        let listener = serve::listen(&path, Audience::Containers(Access::default())).unwrap();
        let end = shutdown.clone();
        tasks.push(tokio::spawn(
            async move { serve::workload(listener, path, desk, Quota::default(), end).await.unwrap() },
        ));
        let mut bed = Self { dir, usage, inputs, snapshots, shutdown, tasks };
        bed.until(|snapshot| snapshot.is_known()).await;
        bed
    }

    /// All that the API server has to say at first.
    async fn told(&self, orders: Vec<Order>) {
        let (ram, vram) = (Input::Orders(LeaseKind::Ram, vec![]), Input::Orders(LeaseKind::Vram, orders));
        for input in [Input::Incarnation("i".into()), ram, vram, Input::Pods(vec![])] {
            self.inputs.send(input).await.unwrap();
        }
    }

    async fn until(&mut self, reached: impl Fn(&Snapshot) -> bool) {
        let wait = self.snapshots.wait_for(|snapshot| reached(snapshot));
        let found = tokio::time::timeout(Duration::from_secs(30), wait).await;
        drop(found.expect("in time").unwrap());
    }

    async fn until_state(&mut self, pod: &str, state: State) {
        let id = id(pod);
        self.until(|snapshot| snapshot.leases.get(&id).is_some_and(|seen| seen.state == state)).await;
    }

    async fn channel(&self, socket: &str) -> Channel {
        memboss_agent_api::connect(&self.dir.path().join(socket)).await.unwrap()
    }

    async fn prepare(&self, pod: &str) -> Result<v1::PrepareResponse, tonic::Status> {
        let request = PrepareRequest {
            pod_uid: String::new(),
            pod_namespace: "ns".into(),
            pod_name: pod.into(),
            container: "c".into(),
        };
        let mut client = NodeClient::new(self.channel("node/node.sock").await);
        client.prepare(request).await.map(tonic::Response::into_inner)
    }

    /// This very process becomes a process of that cgroup, for those who ask this node's `/proc`.
    fn become_process_of(&self, cgroup: &str) {
        let own = self.dir.path().join("proc").join(std::process::id().to_string());
        std::fs::create_dir_all(&own).unwrap();
        std::fs::write(own.join("stat"), "1 (test) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 100 0 0").unwrap();
        std::fs::write(own.join("status"), format!("Groups:\t\nNSpid:\t{}\n", std::process::id())).unwrap();
        std::fs::write(own.join("cgroup"), format!("0::{cgroup}\n")).unwrap();
    }

    fn pod_directory(&self) -> PathBuf {
        self.dir.path().join(format!("cgroup/kubepods/pod{UID}"))
    }

    /// The pod's only process is this one, and uses so much.
    fn uses(&self, gib: u64) {
        let mut usage = self.usage.lock().unwrap();
        usage.used = gib * GIB;
        usage.processes =
            if gib > 0 { BTreeMap::from([(std::process::id(), Some(gib * GIB))]) } else { BTreeMap::new() };
    }

    /// The agent ends without a word, and another one begins on what is there.
    async fn crash(self) -> Self {
        for task in self.tasks {
            task.abort();
            let _ = task.await;
        }
        Self::on(self.dir, self.usage).await
    }

    async fn end(self) {
        self.shutdown.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

fn eyes(dir: &TempDir, usage: Arc<Mutex<Usage>>, sentinels: Sentinels) -> Eyes {
    let read = move || {
        let usage = Ok(usage.lock().unwrap().clone());
        let gpu = GpuReading { index: 0, uuid: "GPU-a".into(), product: "NVIDIA L4".into(), usage };
        Ok(Sample { started: clock::now(), gpus: vec![gpu] })
    };
    let (prober, readings) = Prober::spawn_with(read).unwrap();
    let (_, xids) = mpsc::unbounded_channel();
    Eyes {
        prober,
        readings,
        xids,
        processes: Processes::new(dir.path().join("proc")),
        cgroups: PodCgroups::new(dir.path().join("cgroup")),
        sentinels,
        meminfo: dir.path().join("meminfo"),
        pressure: PressureProbe::new(dir.path().join("meminfo"), dir.path(), None),
        cleaner: memboss_agent::cleaner::Cleaner::new(std::path::Path::new("/proc"), Vec::new()),
        pace: Pace { idle: Duration::from_millis(20), transition: Duration::from_millis(10), ..Pace::default() },
    }
}

fn id(pod: &str) -> LeaseId {
    LeaseId::new(format!("ns/{pod}")).unwrap()
}

fn order(pod: &str, uid: &str, class: Class, gib: u64) -> Order {
    let memory = Mib::from_mib(gib * 1024);
    let demand = Demand { slots: vec![Slot::fixed(memory)], ram: Mib::ZERO };
    let gpus = vec![GpuShare { uuid: GpuUuid::new("GPU-a").unwrap(), memory }];
    Order {
        object: format!("object-{pod}"),
        subject: Subject { pod: PodUid(uid.into()), namespace: "ns".into(), name: pod.into() },
        request: Request::new(id(pod), class, demand, Moment::default()),
        placement: Placement { node: NodeName::new("n1").unwrap(), gpus, ram: Mib::ZERO },
        ram_room: None,
        may_preempt: true,
        epoch: Epoch { incarnation: "i".into(), number: 1 },
        attempt: 1,
        unwanted: None,
        deleting: false,
        containers: BTreeMap::new(),
        recorded: None,
    }
}

#[tokio::test]
async fn a_container_is_bound_to_the_gpu_of_its_lease_and_to_none_before() {
    let mut bed = Bed::new().await;
    assert_eq!(bed.prepare("a").await.unwrap_err().code(), Code::FailedPrecondition, "not rebuilt yet");
    bed.told(vec![]).await;
    bed.until(|snapshot| snapshot.hold.is_none()).await;
    assert_eq!(bed.prepare("a").await.unwrap_err().code(), Code::NotFound);
    bed.told(vec![order("a", UID, Class::Normal, 8)]).await;
    bed.until_state("a", State::Reserved).await;
    let bound = bed.prepare("a").await.unwrap();
    assert_eq!((bound.lease.as_str(), bound.gpus[0].uuid.as_str(), bound.gpus[0].memory_mib), ("ns/a", "GPU-a", 8192));
    assert_eq!(bed.prepare("a").await.unwrap(), bound, "a restarted container goes the same way again");
    bed.until_state("a", State::Active).await;
    bed.end().await;
}

#[tokio::test]
async fn the_gpus_are_told_at_once_and_on_every_change() {
    let bed = Bed::new().await;
    let mut client = NodeClient::new(bed.channel("node/node.sock").await);
    let mut lists = client.watch_gpus(v1::WatchGpusRequest {}).await.unwrap().into_inner();
    let first = lists.message().await.unwrap().unwrap();
    assert_eq!((first.gpus[0].leasable_mib, first.hold.is_empty()), (24 * 1024 - 512 - 256, false));
    bed.told(vec![order("a", UID, Class::Normal, 8)]).await;
    let leased = loop {
        let list = lists.message().await.unwrap().unwrap();
        if list.gpus[0].leased_mib > 0 {
            break list;
        }
    };
    assert_eq!((leased.gpus[0].leased_mib, leased.hold.as_str()), (8192, ""));
    bed.shutdown.cancel();
    while let Ok(Some(_)) = lists.message().await {}
    bed.end().await;
}

#[tokio::test]
async fn a_holder_is_who_the_kernel_says_and_nobody_else() {
    let bed = Bed::new().await;
    let mut unknown = WorkloadClient::new(bed.channel("agent/agent.sock").await);
    let denied = unknown.watch(v1::WatchRequest {}).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied, "{denied}");
    bed.become_process_of("/system.slice/other.service");
    let mut other = WorkloadClient::new(bed.channel("agent/agent.sock").await);
    assert_eq!(other.watch(v1::WatchRequest {}).await.unwrap_err().code(), Code::PermissionDenied);
    bed.become_process_of(&format!("/kubepods/pod{UID}/c"));
    // Who made a connection is found out when it is made, once.
    for mut before in [unknown, other] {
        assert_eq!(before.watch(v1::WatchRequest {}).await.unwrap_err().code(), Code::PermissionDenied);
    }
    let mut client = WorkloadClient::new(bed.channel("agent/agent.sock").await);
    assert_eq!(client.watch(v1::WatchRequest {}).await.unwrap_err().code(), Code::NotFound);
    bed.end().await;
}

#[tokio::test]
async fn a_victim_is_told_shrinks_and_goes_on_and_its_preemptor_is_served() {
    let mut bed = Bed::new().await;
    bed.become_process_of(&format!("/kubepods/pod{UID}/c"));
    std::fs::create_dir(bed.pod_directory()).unwrap();
    bed.told(vec![order("v", UID, Class::Batch, 20)]).await;
    bed.until_state("v", State::Reserved).await;
    bed.prepare("v").await.unwrap();
    bed.uses(19);
    let mut client = WorkloadClient::new(bed.channel("agent/agent.sock").await);
    let mut leases = client.watch(v1::WatchRequest {}).await.unwrap().into_inner();
    bed.inputs.send(Input::Order(Box::new(order("p", "p", Class::High, 10)))).await.unwrap();
    let notice = loop {
        let lease = leases.message().await.unwrap().unwrap();
        if let Some(notice) = lease.notice {
            break notice;
        }
    };
    assert_eq!((notice.preemptor.as_str(), notice.preemptor_class.as_str()), ("ns/p", "high"));
    assert!(notice.remaining_ms <= 15_000 && notice.needed_mib[0] >= 6 * 1024, "{notice:?}");

    let stale = v1::ShrinkRequest { memory_mib: vec![1024], notice_id: "another".into() };
    assert_eq!(client.shrink(stale).await.unwrap_err().code(), Code::FailedPrecondition);
    let grow = v1::ShrinkRequest { memory_mib: vec![30_000], notice_id: String::new() };
    assert_eq!(client.shrink(grow).await.unwrap_err().code(), Code::InvalidArgument);

    bed.uses(8);
    let shrink = v1::ShrinkRequest { memory_mib: vec![9 * 1024], notice_id: notice.id };
    let after = client.shrink(shrink).await.unwrap().into_inner();
    assert_eq!((after.phase(), after.gpus[0].memory_mib), (v1::Phase::Active, 9 * 1024));
    bed.until_state("p", State::Reserved).await;
    drop((leases, client));
    bed.end().await;
}

#[tokio::test]
async fn a_holder_that_leaves_is_charged_until_its_memory_is_seen_free() {
    let mut bed = Bed::new().await;
    bed.become_process_of(&format!("/kubepods/pod{UID}/c"));
    std::fs::create_dir(bed.pod_directory()).unwrap();
    bed.told(vec![order("a", UID, Class::Normal, 8)]).await;
    bed.until_state("a", State::Reserved).await;
    bed.prepare("a").await.unwrap();
    bed.uses(7);
    let mut client = WorkloadClient::new(bed.channel("agent/agent.sock").await);
    let left = client.leave(v1::LeaveRequest { notice_id: String::new() }).await.unwrap().into_inner();
    assert_eq!(left.phase(), v1::Phase::Stopping);
    bed.uses(0);
    std::fs::remove_dir(bed.pod_directory()).unwrap();
    bed.until_state("a", State::Ended).await;
    drop(client);
    bed.end().await;
}

#[tokio::test]
async fn an_agent_that_dies_at_any_step_goes_on_where_it_was() {
    let mut bed = Bed::new().await;
    bed.become_process_of(&format!("/kubepods/pod{UID}/c"));
    let orders = || vec![order("v", UID, Class::Batch, 20)];
    bed.told(orders()).await;
    bed.until_state("v", State::Reserved).await;

    let mut bed = bed.crash().await;
    bed.until_state("v", State::Reserved).await;
    bed.told(orders()).await;
    std::fs::create_dir(bed.pod_directory()).unwrap();
    bed.prepare("v").await.unwrap();
    bed.uses(19);

    let mut bed = bed.crash().await;
    bed.until_state("v", State::Active).await;
    let both = || vec![order("v", UID, Class::Batch, 20), order("p", "p", Class::Urgent, 20)];
    bed.told(both()).await;
    bed.until_state("v", State::Revoking).await;

    let mut bed = bed.crash().await;
    bed.told(both()).await;
    bed.until_state("p", State::Claimed).await;
    bed.until_state("v", State::Stopping).await;

    let mut bed = bed.crash().await;
    bed.told(both()).await;
    bed.until_state("v", State::Stopping).await;
    bed.uses(0);
    std::fs::remove_dir(bed.pod_directory()).unwrap();
    bed.until_state("p", State::Reserved).await;
    bed.until_state("v", State::Ended).await;

    let mut bed = bed.crash().await;
    bed.until_state("p", State::Reserved).await;
    bed.until_state("v", State::Ended).await;
    assert_eq!(bed.snapshots.borrow().agent_epoch, 6);
    bed.end().await;
}
