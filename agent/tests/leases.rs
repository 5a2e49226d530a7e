//! Leases in code over the real socket, against an agent that runs alone: what a process is told, and what becomes of its lease when it, its connection
//! or the agent goes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use memboss_agent::health::Recovery;
use memboss_agent::node::clients::{ClientInput, Limits};
use memboss_agent::node::task::{self, Doors, Eyes, Files, Pace};
use memboss_agent::node::{Cluster, Input, Margin, Node, Settings};
use memboss_agent::probes::clock;
use memboss_agent::probes::nvml::{GpuReading, Prober, Sample, Usage};
use memboss_agent::probes::pidfd::Sentinels;
use memboss_agent::probes::pods::PodCgroups;
use memboss_agent::probes::processes::{Processes, process};
use memboss_agent::serve::{self, Audience, Desk};
use memboss_agent::store::{self, Store};
use memboss_agent_api::v1::leases_client::LeasesClient;
use memboss_agent_api::v1::{
    AcquireRequest, LeaseEvent, LeaseRequest, LeaseView, Outlook, Phase, ResumeRequest, SlotRequest,
};
use memboss_core::{NodeName, Policy, Span};
use memboss_platform::shutdown::Shutdown;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tonic::transport::Channel;
use tonic::{Code, Streaming};

const GIB: u64 = 1 << 30;

/// An agent alone on this machine, with one GPU of 24 GiB (23 of them leasable) and the machine's own processes.
struct Bed {
    dir: TempDir,
    usage: Arc<Mutex<Usage>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

fn settings() -> Settings {
    Settings {
        name: NodeName::new("n1").unwrap(),
        boot_id: "boot-1".into(),
        margin: Margin::default(),
        policy: Policy { protection: [Span::ZERO; 5], notice: [Span::from_secs(1); 5], ..Policy::default() },
        recovery: Recovery::default(),
        cluster: Cluster::None,
        over_lease: [None; 5],
        give_back: Span::from_secs(60),
        clients: Limits { leases: 4, grace: Span::from_millis(200), kill_after: Span::from_millis(500) },
    }
}

impl Bed {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("meminfo"), "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n").unwrap();
        let usage = Usage { total: 24 * GIB, reserved: GIB / 2, ..Usage::default() };
        Self::on(dir, Arc::new(Mutex::new(usage))).await
    }

    async fn on(dir: TempDir, usage: Arc<Mutex<Usage>>) -> Self {
        let files = Files {
            ledger: Store::new(dir.path().join("ledger.json")),
            marker: Store::new(dir.path().join("marker.json")),
        };
        let start = store::judge(files.ledger.read(), files.marker.read(), "boot-1");
        let node = Node::new(settings(), start, clock::now());
        let (inputs, inputs_out) = mpsc::channel(64);
        let sentinels = Sentinels::new("/proc".into(), inputs.clone());
        node.client_processes().into_iter().for_each(|process| sentinels.watch(process));
        let (sender, mut snapshots) = watch::channel(Arc::default());
        let (news, _) = mpsc::unbounded_channel();
        let shutdown = Shutdown::new();
        let (eyes, doors) = (eyes(&dir, usage.clone()), Doors { inputs: inputs_out, snapshots: sender, news });
        let end = shutdown.clone();
        let mut tasks = vec![tokio::spawn(async move { task::run(node, eyes, doors, files, end).await.unwrap() })];
        let desk = Desk { inputs, snapshots: snapshots.clone(), proc_root: "/proc".into() };
        let path = dir.path().join("agent/agent.sock");
        let listener = serve::listen(&path, Audience::Containers).unwrap();
        tasks.push(tokio::spawn(async move {
            serve::workload(listener, path, desk, sentinels, shutdown).await.unwrap();
        }));
        snapshots.wait_for(|snapshot| snapshot.is_known()).await.unwrap();
        Self { dir, usage, tasks }
    }

    async fn client(&self) -> LeasesClient<Channel> {
        LeasesClient::new(memboss_agent_api::connect(&self.dir.path().join("agent/agent.sock")).await.unwrap())
    }

    /// This process uses so much of the GPU.
    fn uses(&self, gib: u64) {
        self.is_used_by(std::process::id(), gib);
    }

    fn is_used_by(&self, pid: u32, gib: u64) {
        let mut usage = self.usage.lock().unwrap();
        usage.used = gib * GIB;
        usage.processes = (gib > 0).then(|| (pid, Some(gib * GIB))).into_iter().collect::<BTreeMap<_, _>>();
    }

    /// The agent ends without a word, and another one begins on what is there.
    async fn crash(self) -> Self {
        for task in self.tasks {
            task.abort();
            let _ = task.await;
        }
        Self::on(self.dir, self.usage).await
    }
}

fn eyes(dir: &TempDir, usage: Arc<Mutex<Usage>>) -> Eyes {
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
        processes: Processes::new("/proc"),
        cgroups: PodCgroups::new(dir.path().join("cgroup")),
        meminfo: dir.path().join("meminfo"),
        pace: Pace { idle: Duration::from_millis(20), transition: Duration::from_millis(10), ..Pace::default() },
    }
}

fn vram(gib: u64) -> AcquireRequest {
    AcquireRequest { slots: vec![SlotRequest { memory_mib: gib * 1024, percent: 0 }], ..AcquireRequest::default() }
}

async fn acquire(bed: &Bed, request: AcquireRequest) -> Streaming<LeaseEvent> {
    bed.client().await.acquire(request).await.unwrap().into_inner()
}

/// The next event in which the lease looks so.
async fn until(stream: &mut Streaming<LeaseEvent>, looks: impl Fn(&LeaseEvent) -> bool) -> LeaseEvent {
    let found = async {
        loop {
            let event = stream.message().await.unwrap().unwrap_or_else(|| panic!("the stream has ended"));
            if looks(&event) {
                return event;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), found).await.expect("it comes to that")
}

async fn until_phase(stream: &mut Streaming<LeaseEvent>, phase: Phase) -> LeaseEvent {
    until(stream, |event| event.lease.as_ref().unwrap().phase() == phase).await
}

fn lease(event: &LeaseEvent) -> &LeaseView {
    event.lease.as_ref().unwrap()
}

#[tokio::test]
async fn vram_and_ram_are_granted_in_one_step_and_given_back() {
    let bed = Bed::new().await;
    let mut first = acquire(&bed, AcquireRequest { ram_mib: 2048, ..vram(16) }).await;
    let granted = until_phase(&mut first, Phase::Active).await;
    let held = lease(&granted);
    assert_eq!((held.gpus[0].uuid.as_str(), held.gpus[0].memory_mib, held.ram_mib), ("GPU-a", 16 * 1024, 2048));
    assert!(held.lease.starts_with("user-"), "{}", held.lease);
    let mut second = acquire(&bed, vram(16)).await;
    let waits = until_phase(&mut second, Phase::Waiting).await;
    let queue = waits.queue.as_ref().unwrap();
    assert_eq!((queue.position, queue.reason.as_str()), (1, "NoRoom"), "{queue:?}");
    bed.client().await.release(LeaseRequest { lease: held.lease.clone() }).await.unwrap();
    until_phase(&mut second, Phase::Active).await;
    assert_eq!(lease(&until_phase(&mut first, Phase::Ended).await).reason, "Released");
}

#[tokio::test]
async fn a_holder_of_a_lower_class_is_told_for_whom_and_by_when_and_gives_way() {
    let bed = Bed::new().await;
    let mut batch = acquire(&bed, AcquireRequest { class: "batch".into(), ..vram(20) }).await;
    let held = until_phase(&mut batch, Phase::Active).await;
    bed.uses(18);
    let mut urgent = acquire(&bed, AcquireRequest { class: "urgent".into(), ..vram(10) }).await;
    let told = until_phase(&mut batch, Phase::Revoking).await;
    let notice = lease(&told).notice.as_ref().unwrap();
    let claims = until_phase(&mut urgent, Phase::Waiting).await;
    assert_eq!((notice.preemptor.as_str(), notice.preemptor_class.as_str()), (lease(&claims).lease.as_str(), "urgent"));
    assert!(notice.remaining_ms > 0 && notice.remaining_ms <= 1_000, "{notice:?}");
    bed.uses(0);
    bed.client().await.release(LeaseRequest { lease: lease(&held).lease.clone() }).await.unwrap();
    until_phase(&mut urgent, Phase::Active).await;
}

#[tokio::test]
async fn what_a_process_still_uses_after_giving_its_lease_back_is_leased_to_nobody() {
    let bed = Bed::new().await;
    let mut first = acquire(&bed, vram(20)).await;
    let held = until_phase(&mut first, Phase::Active).await;
    bed.uses(18);
    bed.client().await.release(LeaseRequest { lease: lease(&held).lease.clone() }).await.unwrap();
    until_phase(&mut first, Phase::Ended).await;
    let mut second = acquire(&bed, vram(10)).await;
    until_phase(&mut second, Phase::Waiting).await;
    bed.uses(0);
    until_phase(&mut second, Phase::Active).await;
}

#[tokio::test]
async fn a_broken_connection_can_be_taken_up_again_in_time_by_whoever_has_the_secret() {
    let bed = Bed::new().await;
    let mut stream = acquire(&bed, AcquireRequest { request_id: "mine".into(), ..vram(16) }).await;
    let granted = until_phase(&mut stream, Phase::Active).await;
    let id = lease(&granted).lease.clone();
    drop(stream);
    let wrong = ResumeRequest { lease: id.clone(), secret: "guess".into() };
    assert_eq!(bed.client().await.resume(wrong).await.unwrap_err().code(), Code::PermissionDenied);
    let right = ResumeRequest { lease: id.clone(), secret: granted.secret.clone() };
    let mut again = bed.client().await.resume(right).await.unwrap().into_inner();
    let held = until_phase(&mut again, Phase::Active).await;
    assert_eq!(lease(&held).token, lease(&granted).token, "the same grant");
    let unknown = ResumeRequest { lease: "user-1/x".into(), secret: granted.secret };
    assert_eq!(bed.client().await.resume(unknown).await.unwrap_err().code(), Code::NotFound);
    // And one that nobody takes up ends, for whoever waits.
    let mut waits = acquire(&bed, vram(16)).await;
    until_phase(&mut waits, Phase::Waiting).await;
    drop(again);
    until_phase(&mut waits, Phase::Active).await;
}

#[tokio::test]
async fn an_agent_that_was_killed_ends_no_lease() {
    let bed = Bed::new().await;
    let mut stream = acquire(&bed, vram(16)).await;
    let granted = until_phase(&mut stream, Phase::Active).await;
    let bed = bed.crash().await;
    let request = ResumeRequest { lease: lease(&granted).lease.clone(), secret: granted.secret.clone() };
    let mut again = bed.client().await.resume(request).await.unwrap().into_inner();
    let held = until_phase(&mut again, Phase::Active).await;
    assert_eq!((&lease(&held).token, &lease(&held).gpus), (&lease(&granted).token, &lease(&granted).gpus));
}

#[tokio::test]
async fn the_same_request_twice_is_one_lease_and_another_under_its_name_is_refused() {
    let bed = Bed::new().await;
    let named = |gib| AcquireRequest { request_id: "job-1".into(), ..vram(gib) };
    let mut first = acquire(&bed, named(8)).await;
    let granted = until_phase(&mut first, Phase::Active).await;
    let mut second = acquire(&bed, named(8)).await;
    let again = until_phase(&mut second, Phase::Active).await;
    assert_eq!((&lease(&again).lease, &lease(&again).token), (&lease(&granted).lease, &lease(&granted).token));
    let refused = bed.client().await.acquire(named(9)).await.unwrap_err();
    assert!(refused.message().contains("another demand"), "{refused:?}");
}

#[tokio::test]
async fn patience_and_time_to_live_come_to_an_end() {
    let bed = Bed::new().await;
    let mut held = acquire(&bed, AcquireRequest { ttl_ms: 400, ..vram(16) }).await;
    let granted = until_phase(&mut held, Phase::Active).await;
    let id = lease(&granted).lease.clone();
    let refused = bed.client().await.acquire(AcquireRequest { no_wait: true, ..vram(16) }).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    let mut impatient = acquire(&bed, AcquireRequest { timeout_ms: 100, ..vram(16) }).await;
    assert_eq!(lease(&until_phase(&mut impatient, Phase::Ended).await).reason, "Expired");
    // It lives without its stream, by being renewed.
    drop(held);
    let mut waits = acquire(&bed, vram(16)).await;
    let renewed = bed.client().await.renew(LeaseRequest { lease: id }).await.unwrap().into_inner();
    assert_eq!(lease(&renewed).phase(), Phase::Active);
    until_phase(&mut waits, Phase::Active).await;
}

#[tokio::test]
async fn wrong_requests_say_what_would_be_right_and_nobody_has_more_than_anybody_may() {
    let bed = Bed::new().await;
    let slot = |memory_mib, percent| vec![SlotRequest { memory_mib, percent }];
    for (request, code, words) in [
        (AcquireRequest::default(), Code::InvalidArgument, "no memory"),
        (
            AcquireRequest { slots: slot(0, 0), ..AcquireRequest::default() },
            Code::InvalidArgument,
            "memory_mib or percent",
        ),
        (AcquireRequest { slots: slot(1, 1), ..AcquireRequest::default() }, Code::InvalidArgument, "not for both"),
        (AcquireRequest { slots: slot(0, 101), ..AcquireRequest::default() }, Code::InvalidArgument, "100%"),
        (AcquireRequest { class: "highest".into(), ..vram(1) }, Code::InvalidArgument, "urgent"),
        (AcquireRequest { uuids: vec!["a b".into()], ..vram(1) }, Code::InvalidArgument, "UUID"),
        (AcquireRequest { request_id: "a b".into(), ..vram(1) }, Code::InvalidArgument, "lease id"),
    ] {
        let refused = bed.client().await.acquire(request.clone()).await.unwrap_err();
        assert!(refused.code() == code && refused.message().contains(words), "{request:?}: {refused:?}");
    }
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut stream = acquire(&bed, vram(1)).await;
        until_phase(&mut stream, Phase::Active).await;
        held.push(stream);
    }
    let refused = bed.client().await.acquire(vram(1)).await.unwrap_err();
    assert!(refused.code() == Code::ResourceExhausted && refused.message().contains("the most"), "{refused:?}");
}

#[tokio::test]
async fn a_dry_run_tells_what_would_come_of_a_request_and_changes_nothing() {
    let bed = Bed::new().await;
    let asked = |class: &str, gib| AcquireRequest { class: class.into(), ..vram(gib) };
    let mut held = acquire(&bed, asked("batch", 16)).await;
    let granted = until_phase(&mut held, Phase::Active).await;
    for (class, gib, outlook) in [
        ("normal", 4, Outlook::Now),
        ("urgent", 16, Outlook::AfterPreemption),
        ("batch", 16, Outlook::Waits),
        ("urgent", 500, Outlook::Never),
    ] {
        let told = bed.client().await.dry_run(asked(class, gib)).await.unwrap().into_inner();
        assert_eq!(told.outlook(), outlook, "{class} {gib}: {told:?}");
        if outlook == Outlook::AfterPreemption {
            assert_eq!(told.victims, [lease(&granted).lease.clone()]);
        }
    }
}

#[tokio::test]
async fn the_end_of_a_process_is_noticed_at_once_and_another_with_its_pid_is_not_taken_for_it() {
    let (inputs, mut heard) = mpsc::channel(8);
    let sentinels = Sentinels::new("/proc".into(), inputs);
    let mut child = tokio::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let there = process("/proc".as_ref(), child.id().unwrap()).unwrap();
    sentinels.watch(there);
    child.kill().await.unwrap();
    let gone = |input: Option<Input>| match input {
        Some(Input::Client(ClientInput::Gone(process))) => process,
        other => panic!("{other:?}"),
    };
    assert_eq!(gone(heard.recv().await), there);
    let mut mine = process("/proc".as_ref(), std::process::id()).unwrap();
    mine.started += 1;
    sentinels.watch(mine);
    assert_eq!(gone(heard.recv().await), mine, "that one has ended already");
}

/// Holds a lease in a process of its own, which ends only when it is ended: this very test program, started again.
#[tokio::test]
async fn a_holder_that_does_not_go_is_asked_and_then_ended() {
    if let Ok(socket) = std::env::var("MEMBOSS_TEST_HOLDER") {
        let ignored = tokio::signal::unix::SignalKind::terminate();
        let mut asked = tokio::signal::unix::signal(ignored).unwrap();
        let channel = memboss_agent_api::connect(socket.as_ref()).await.unwrap();
        let request = AcquireRequest { class: "batch".into(), label: "stubborn".into(), ..vram(20) };
        let mut stream = LeasesClient::new(channel).acquire(request).await.unwrap().into_inner();
        until_phase(&mut stream, Phase::Active).await;
        asked.recv().await;
        std::fs::write(std::env::var("MEMBOSS_TEST_ASKED").unwrap(), "asked").unwrap();
        std::future::pending::<()>().await;
    }
    let bed = Bed::new().await;
    let asked = bed.dir.path().join("asked");
    let mut holder = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_holder_that_does_not_go_is_asked_and_then_ended"])
        .env("MEMBOSS_TEST_HOLDER", bed.dir.path().join("agent/agent.sock"))
        .env("MEMBOSS_TEST_ASKED", &asked)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    // It has its lease once nobody else could have as much.
    loop {
        let told = bed.client().await.dry_run(vram(20)).await.unwrap().into_inner();
        if told.outlook() != Outlook::Now {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bed.is_used_by(holder.id().unwrap(), 18);
    let mut urgent = acquire(&bed, AcquireRequest { class: "urgent".into(), ..vram(20) }).await;
    let ended = tokio::time::timeout(Duration::from_secs(30), holder.wait()).await.expect("it is ended");
    assert!(!ended.unwrap().success() && asked.exists(), "it was asked first");
    let waits = until_phase(&mut urgent, Phase::Waiting).await;
    assert_eq!(waits.queue.unwrap().reason, "Claimed", "its memory is not seen free yet");
    bed.uses(0);
    until_phase(&mut urgent, Phase::Active).await;
}
