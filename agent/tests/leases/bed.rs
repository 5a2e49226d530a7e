//! The bed of these tests: an agent alone on this machine, on its real sockets, with one GPU of 24 GiB (23 of them leasable) that is told, not real.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use memboss_agent::cleaner::Cleaner;
use memboss_agent::health::Recovery;
use memboss_agent::journal::Journal;
use memboss_agent::node::clients::Limits;
use memboss_agent::node::relief::Settings as Relief;
use memboss_agent::node::task::{self, Doors, Eyes, Files, Pace};
use memboss_agent::node::view::Snapshot;
use memboss_agent::node::{Cluster, Input, Margin, Node, Settings};
use memboss_agent::probes::clock;
use memboss_agent::probes::nvml::{GpuReading, Prober, Sample, Usage};
use memboss_agent::probes::pidfd::Sentinels;
use memboss_agent::probes::pods::PodCgroups;
use memboss_agent::probes::pressure::PressureProbe;
use memboss_agent::probes::processes::Processes;
use memboss_agent::serve::{self, Access, Audience, Desk, Quota};
use memboss_agent::store::{self, Store};
use memboss_agent_api::v1::leases_client::LeasesClient;
use memboss_agent_api::v1::node_client::NodeClient;
use memboss_agent_api::v1::{AcquireRequest, LeaseEvent, LeaseView, Phase, SlotRequest, StatusRequest, StatusResponse};
use memboss_core::{NodeName, Policy, Span};
use memboss_platform::shutdown::Shutdown;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tonic::Streaming;
use tonic::transport::Channel;

pub(crate) const GIB: u64 = 1 << 30;
pub(crate) const GPU: &str = "GPU-a";

/// What the driver tells.
#[derive(Default)]
struct Driver {
    usage: Mutex<Usage>,
    /// Whoever has that keeps it from answering.
    silence: Arc<tokio::sync::Mutex<()>>,
}

pub(crate) struct Bed {
    pub(crate) dir: TempDir,
    driver: Arc<Driver>,
    settings: Settings,
    quota: Quota,
    proc_root: PathBuf,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    inbox: mpsc::Sender<Input>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
}

/// Quick to lose patience, so that tests wait for little.
pub(crate) fn settings() -> Settings {
    Settings {
        name: NodeName::new("n1").unwrap(),
        boot_id: "boot-1".into(),
        margin: Margin::default(),
        policy: Policy { protection: [Span::ZERO; 5], notice: [Span::from_secs(1); 5], ..Policy::default() },
        recovery: Recovery::default(),
        cluster: Cluster::None,
        over_lease: [None; 5],
        give_back: Span::from_secs(60),
        clients: Limits {
            leases: 4,
            grace: Span::from_millis(200),
            kill_after: Span::from_millis(500),
            ..Limits::default()
        },
        relief: Relief::default(),
    }
}

impl Bed {
    pub(crate) async fn new() -> Self {
        Self::with(settings(), Quota::default()).await
    }

    /// An agent that waits long for those whose connection broke.
    pub(crate) async fn patient() -> Self {
        let quick = settings();
        let clients = Limits { grace: Span::from_secs(600), ..quick.clients };
        Self::with(Settings { clients, ..quick }, Quota::default()).await
    }

    pub(crate) async fn with(settings: Settings, quota: Quota) -> Self {
        Self::within(tempfile::tempdir().unwrap(), settings, quota).await
    }

    /// An agent that is new on its machine, and whose driver does not answer until what comes with it is dropped.
    pub(crate) async fn in_silence() -> (Self, tokio::sync::OwnedMutexGuard<()>) {
        let dir = tempfile::tempdir().unwrap();
        let driver = furnish(&dir);
        let silence = driver.silence.clone().lock_owned().await;
        (Self::begun(dir, driver, settings(), Quota::default(), "/proc".into()), silence)
    }

    pub(crate) async fn within(dir: TempDir, settings: Settings, quota: Quota) -> Self {
        let driver = furnish(&dir);
        Self::on(dir, driver, settings, quota, "/proc".into()).await
    }

    /// The agent comes back, and to this one this process is one of that pod's, and those others are nobody's.
    pub(crate) async fn again_in_pod(self, uid: &str, others: &[u32]) -> Self {
        let proc_root = self.dir.path().join("proc");
        let own = [(std::process::id(), format!("0::/kubepods/pod{uid}/c\n"))];
        let others = others.iter().map(|pid| (*pid, "0::/user.slice\n".to_owned()));
        for (pid, cgroup) in own.into_iter().chain(others) {
            let at = proc_root.join(pid.to_string());
            std::fs::create_dir_all(&at).unwrap();
            for file in ["stat", "status"] {
                std::fs::copy(format!("/proc/{pid}/{file}"), at.join(file)).unwrap();
            }
            std::fs::write(at.join("cgroup"), cgroup).unwrap();
        }
        self.again_on(proc_root).await
    }

    async fn on(dir: TempDir, driver: Arc<Driver>, settings: Settings, quota: Quota, proc_root: PathBuf) -> Self {
        let mut bed = Self::begun(dir, driver, settings, quota, proc_root);
        bed.snapshots.wait_for(|snapshot| snapshot.is_known()).await.unwrap();
        bed
    }

    /// Its agent has begun, and looks for the first time.
    fn begun(dir: TempDir, driver: Arc<Driver>, settings: Settings, quota: Quota, proc_root: PathBuf) -> Self {
        let files = Files {
            ledger: Journal::new(dir.path().join("ledger")),
            marker: Store::new(dir.path().join("marker.json")),
        };
        let found = files.ledger.read().map(|found| found.map(|found| found.ledger));
        let start = store::judge(found, files.marker.read(), "boot-1");
        let node = Node::new(settings.clone(), start, clock::now());
        let (inputs, inputs_out) = mpsc::channel(64);
        let sentinels = Sentinels::new(proc_root.clone(), inputs.clone());
        let (sender, snapshots) = watch::channel(Arc::default());
        let (news, _) = mpsc::unbounded_channel();
        let shutdown = Shutdown::new();
        let (eyes, doors) =
            (eyes(&dir, driver.clone(), sentinels), Doors { inputs: inputs_out, snapshots: sender, news });
        let end = shutdown.clone();
        let mut tasks = vec![tokio::spawn(async move { task::run(node, eyes, doors, files, end).await.unwrap() })];
        let inbox = inputs.clone();
        let desk = Desk { inputs, snapshots: snapshots.clone(), proc_root: proc_root.clone(), neighbours: None };
        let path = dir.path().join("node/node.sock");
        let listener = serve::listen(&path, Audience::Root).unwrap();
        let (own, end) = (desk.clone(), shutdown.clone());
        tasks.push(tokio::spawn(async move { serve::node(listener, path, own, end).await.unwrap() }));
        let path = dir.path().join("agent/agent.sock");
        let listener = serve::listen(&path, Audience::Containers(Access::default())).unwrap();
        tasks.push(tokio::spawn(async move {
            serve::workload(listener, path, desk, quota, shutdown).await.unwrap();
        }));
        Self { dir, driver, settings, quota, proc_root, tasks, inbox, snapshots }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("agent/agent.sock")
    }

    pub(crate) async fn client(&self) -> LeasesClient<Channel> {
        LeasesClient::new(memboss_agent_api::connect(&self.socket()).await.unwrap())
    }

    pub(crate) async fn root(&self) -> NodeClient<Channel> {
        NodeClient::new(memboss_agent_api::connect(&self.dir.path().join("node/node.sock")).await.unwrap())
    }

    pub(crate) async fn status(&self) -> StatusResponse {
        self.client().await.status(StatusRequest {}).await.unwrap().into_inner()
    }

    /// The state of the machine once it looks so.
    pub(crate) async fn until(&self, looks: impl Fn(&StatusResponse) -> bool) -> StatusResponse {
        let mut told = self.client().await.watch_status(StatusRequest {}).await.unwrap().into_inner();
        let found = async {
            loop {
                let status = told.message().await.unwrap().unwrap_or_else(|| panic!("the stream has ended"));
                if looks(&status) {
                    return status;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), found).await.expect("it comes to that")
    }

    /// This process uses so much of the GPU.
    pub(crate) fn uses(&self, gib: u64) {
        self.is_used_by(std::process::id(), gib);
    }

    pub(crate) fn is_used_by(&self, pid: u32, gib: u64) {
        let mut usage = self.driver.usage.lock().unwrap();
        usage.used = gib * GIB;
        usage.processes = (gib > 0).then(|| (pid, Some(gib * GIB))).into_iter().collect::<BTreeMap<_, _>>();
    }

    /// The agent ends without a word, and another one begins on what is there.
    pub(crate) async fn crash(self) -> Self {
        let proc_root = self.proc_root.clone();
        self.again_on(proc_root).await
    }

    async fn again_on(self, proc_root: PathBuf) -> Self {
        end(self.tasks).await;
        Self::on(self.dir, self.driver, self.settings, self.quota, proc_root).await
    }

    /// Whether something was said to the agent that it has not heard yet.
    pub(crate) fn has_unheard(&self) -> bool {
        self.inbox.capacity() < self.inbox.max_capacity()
    }

    /// Stands where the ledger is written, so that it cannot be.
    pub(crate) fn ledger_in_the_way(&self) -> PathBuf {
        // Without its file it has to be written anew, and where that begins there is a folder.
        let in_the_way = self.dir.path().join("ledger.tmp");
        std::fs::create_dir(&in_the_way).unwrap();
        std::fs::remove_file(self.dir.path().join("ledger")).unwrap();
        in_the_way
    }
}

/// What is told of the machine.
fn furnish(dir: &TempDir) -> Arc<Driver> {
    let meminfo = "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n";
    std::fs::write(dir.path().join("meminfo"), meminfo).unwrap();
    // Other users come in too.
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let usage = Usage { total: 24 * GIB, reserved: GIB / 2, ..Usage::default() };
    Arc::new(Driver { usage: Mutex::new(usage), ..Driver::default() })
}

async fn end(tasks: Vec<tokio::task::JoinHandle<()>>) {
    for task in tasks {
        task.abort();
        let _ = task.await;
    }
}

fn eyes(dir: &TempDir, driver: Arc<Driver>, sentinels: Sentinels) -> Eyes {
    let read = move || {
        let _answers = driver.silence.blocking_lock();
        let usage = Ok(driver.usage.lock().unwrap().clone());
        let gpu = GpuReading { index: 3, uuid: GPU.into(), product: "NVIDIA L4".into(), usage };
        Ok(Sample { started: clock::now(), gpus: vec![gpu] })
    };
    let (prober, readings) = Prober::spawn_with(read).unwrap();
    let (_, xids) = mpsc::unbounded_channel();
    Eyes {
        prober,
        readings,
        xids,
        processes: Processes::new("/proc"),
        cgroups: PodCgroups::new(dir.path().join("cgroup")),
        sentinels,
        meminfo: dir.path().join("meminfo"),
        pressure: PressureProbe::new(dir.path().join("meminfo"), dir.path(), None),
        cleaner: Cleaner::new(Path::new("/proc"), Vec::new()),
        pace: Pace { idle: Duration::from_millis(20), transition: Duration::from_millis(10), ..Pace::default() },
    }
}

pub(crate) fn vram(gib: u64) -> AcquireRequest {
    AcquireRequest { slots: vec![SlotRequest { memory_mib: gib * 1024, percent: 0 }], ..AcquireRequest::default() }
}

pub(crate) async fn acquire(bed: &Bed, request: AcquireRequest) -> Streaming<LeaseEvent> {
    bed.client().await.acquire(request).await.unwrap().into_inner()
}

/// The next event in which the lease looks so.
pub(crate) async fn until(stream: &mut Streaming<LeaseEvent>, looks: impl Fn(&LeaseEvent) -> bool) -> LeaseEvent {
    let found = async {
        loop {
            let event = stream.message().await.unwrap().unwrap_or_else(|| panic!("the stream has ended"));
            if looks(&event) {
                return event;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), found).await.expect("it comes to that")
}

pub(crate) async fn until_phase(stream: &mut Streaming<LeaseEvent>, phase: Phase) -> LeaseEvent {
    until(stream, |event| event.lease.as_ref().unwrap().phase() == phase).await
}

pub(crate) fn lease(event: &LeaseEvent) -> &LeaseView {
    event.lease.as_ref().unwrap()
}

/// All that a stream tells until its end.
pub(crate) async fn all<T>(stream: &mut Streaming<T>) -> Vec<T> {
    let to_its_end = async {
        let mut told = Vec::new();
        while let Some(next) = stream.message().await.unwrap() {
            told.push(next);
        }
        told
    };
    tokio::time::timeout(Duration::from_secs(60), to_its_end).await.expect("it ends")
}
