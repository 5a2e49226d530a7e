//! How a workload answers notices, and its arguments: the program as built, against an agent that is only a socket.
#![expect(unsafe_code, reason = "sends signals")]
#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::path::Path;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use memboss_agent_api::v1::workload_server::{Workload, WorkloadServer};
use memboss_agent_api::v1::{
    GpuShare, LeaseView, LeaveRequest, Notice, OffloadRequest, Phase, ShrinkRequest, WatchRequest,
};
use memboss_sim_state::{DIR_ENV, Gpu, MIB, SimDir, gpu_uuid};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::net::UnixListener;
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

/// What the workload asked for.
#[derive(Debug, PartialEq)]
enum Asked {
    Shrink(ShrinkRequest),
    Offload(OffloadRequest),
    Leave(LeaveRequest),
}

/// Gives the same notice to every watcher. The first `broken` watches end at once after it, as when an agent restarts.
struct Agent {
    asked: mpsc::UnboundedSender<Asked>,
    watched: mpsc::UnboundedSender<()>,
    broken: AtomicU32,
    refuses: bool,
}

impl Agent {
    fn note(&self, asked: Asked) -> Result<Response<LeaseView>, Status> {
        self.asked.send(asked).unwrap();
        if self.refuses { Err(Status::resource_exhausted("no RAM")) } else { Ok(Response::new(LeaseView::default())) }
    }
}

#[tonic::async_trait]
impl Workload for Agent {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<LeaseView, Status>> + Send>>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.watched.send(()).unwrap();
        let view = LeaseView {
            lease: "ns/mine".to_owned(),
            phase: Phase::Revoking.into(),
            gpus: vec![GpuShare { uuid: "GPU-0".to_owned(), index: 0, memory_mib: 1024 }],
            notice: Some(Notice {
                id: "n1".to_owned(),
                preemptor: "ns/other".to_owned(),
                preemptor_class: "urgent".to_owned(),
                reason: "Preempted".to_owned(),
                needed_mib: vec![512],
                needed_ram_mib: 0,
                remaining_ms: 30_000,
            }),
            ..LeaseView::default()
        };
        let once = tokio_stream::iter([Ok(view)]);
        let broken = self.broken.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)).is_ok();
        Ok(Response::new(if broken { Box::pin(once) } else { Box::pin(once.chain(tokio_stream::pending())) }))
    }

    async fn shrink(&self, request: Request<ShrinkRequest>) -> Result<Response<LeaseView>, Status> {
        self.note(Asked::Shrink(request.into_inner()))
    }

    async fn offload(&self, request: Request<OffloadRequest>) -> Result<Response<LeaseView>, Status> {
        self.note(Asked::Offload(request.into_inner()))
    }

    async fn leave(&self, request: Request<LeaveRequest>) -> Result<Response<LeaseView>, Status> {
        self.note(Asked::Leave(request.into_inner()))
    }
}

/// What the agent heard.
struct Heard {
    asked: mpsc::UnboundedReceiver<Asked>,
    watched: mpsc::UnboundedReceiver<()>,
}

impl Heard {
    async fn asked(&mut self) -> Asked {
        self.asked.recv().await.unwrap()
    }
}

/// A directory with one GPU of 4 GiB, the CUDA library and the agent's socket.
struct Node {
    files: TempDir,
    gpu: &'static Gpu,
}

impl Node {
    fn new() -> Self {
        let files = TempDir::new().unwrap();
        let dir = SimDir::new(files.path());
        std::fs::create_dir_all(dir.gpus_dir()).unwrap();
        std::fs::create_dir_all(dir.lib_dir()).unwrap();
        let built = std::env::current_exe().unwrap().parent().unwrap().join("libmemboss_sim_cuda.so");
        std::os::unix::fs::symlink(built, dir.lib_dir().join("libcuda.so.1")).unwrap();
        let uuid = gpu_uuid("notices", 0);
        let gpu = Gpu::create(&dir.gpu_path(&uuid), 0, &uuid, &"SIM:4096".parse().unwrap()).unwrap();
        Self { files, gpu }
    }

    fn serve(&self, broken: u32, refuses: bool) -> Heard {
        let (asked, asked_here) = mpsc::unbounded_channel();
        let (watched, watched_here) = mpsc::unbounded_channel();
        let agent = Agent { asked, watched, broken: broken.into(), refuses };
        let listener = UnixListener::bind(self.files.path().join("agent.sock")).unwrap();
        let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
        let server = tonic::transport::Server::builder().add_service(WorkloadServer::new(agent));
        tokio::spawn(server.serve_with_incoming(incoming));
        Heard { asked: asked_here, watched: watched_here }
    }

    fn start(&self, arguments: &[&str]) -> Running {
        start(self.files.path(), arguments)
    }

    fn used_mib(&self) -> u64 {
        self.gpu.usage().unwrap().used / MIB
    }
}

struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

fn start(files: &Path, arguments: &[&str]) -> Running {
    let mut child = Command::new(env!("CARGO_BIN_EXE_memboss-workload"))
        .args(arguments)
        .env(DIR_ENV, files)
        .env("LD_LIBRARY_PATH", files.join("lib"))
        .env("MEMBOSS_SOCKET", files.join("agent.sock"))
        .env_remove("CUDA_VISIBLE_DEVICES")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    Running { child, lines }
}

impl Running {
    async fn next(&mut self) -> Value {
        serde_json::from_str(&self.lines.next_line().await.unwrap().unwrap()).unwrap()
    }

    async fn expect(&mut self, events: &[&str]) {
        for event in events {
            assert_eq!(self.next().await["event"], *event);
        }
    }

    fn signal(&self, signal: i32) {
        // SAFETY: sends a signal to a process that this test started; touches no memory.
        unsafe { libc::kill(self.child.id().unwrap().cast_signed(), signal) };
    }

    async fn code(mut self) -> Option<i32> {
        self.child.wait().await.unwrap().code()
    }
}

#[tokio::test]
async fn a_notice_is_said_whole_and_leaving_ends_well() {
    let node = Node::new();
    let mut heard = node.serve(0, false);
    let mut workload = node.start(&["--alloc", "1Gi"]);
    workload.expect(&["binding", "allocated"]).await;
    let notice = json!({
        "event": "notice", "id": "n1", "preemptor": "ns/other", "class": "urgent", "reason": "Preempted",
        "needed_mib": [512], "needed_ram_mib": 0, "remaining_ms": 30_000,
    });
    assert_eq!(workload.next().await, notice);
    workload.expect(&["leaving"]).await;
    assert_eq!(heard.asked().await, Asked::Leave(LeaveRequest { notice_id: "n1".to_owned() }));
    assert_eq!(workload.code().await, Some(0));
    assert_eq!(node.used_mib(), 0);
}

#[tokio::test]
async fn memory_is_free_before_the_agent_is_told_that_the_workload_shrank() {
    let node = Node::new();
    let mut heard = node.serve(0, false);
    let mut workload = node.start(&["--alloc", "1Gi", "--on-notice", "shrink:256Mi"]);
    let wanted = ShrinkRequest { memory_mib: vec![256], notice_id: "n1".to_owned() };
    assert_eq!(heard.asked().await, Asked::Shrink(wanted));
    assert_eq!(node.used_mib(), 256);
    workload.expect(&["binding", "allocated", "notice", "shrunk"]).await;
}

#[tokio::test]
async fn shrinking_to_more_than_is_held_takes_nothing() {
    let node = Node::new();
    let mut heard = node.serve(0, false);
    let _workload = node.start(&["--alloc", "128Mi", "--on-notice", "shrink:256Mi"]);
    assert!(matches!(heard.asked().await, Asked::Shrink(_)));
    assert_eq!(node.used_mib(), 128);
}

#[tokio::test]
async fn offloading_asks_for_as_much_ram_as_it_frees() {
    let node = Node::new();
    let mut heard = node.serve(0, false);
    let mut workload = node.start(&["--alloc", "1Gi", "--on-notice", "offload:256Mi"]);
    let wanted = OffloadRequest { memory_mib: vec![256], ram_mib: 768, notice_id: "n1".to_owned() };
    assert_eq!(heard.asked().await, Asked::Offload(wanted));
    assert_eq!(node.used_mib(), 256);
    workload.expect(&["binding", "allocated", "notice", "offloaded"]).await;
}

#[tokio::test]
async fn a_refusal_is_said_and_the_workload_goes_on() {
    let node = Node::new();
    let mut heard = node.serve(0, true);
    let mut workload = node.start(&["--alloc", "1Gi", "--on-notice", "offload:256Mi"]);
    heard.asked().await;
    workload.expect(&["binding", "allocated", "notice"]).await;
    assert_eq!(workload.next().await, json!({ "event": "error", "what": "no RAM" }));
    assert_eq!(workload.child.try_wait().unwrap(), None);
}

#[tokio::test]
async fn a_notice_is_answered_once_though_the_agent_goes_and_comes_back() {
    let node = Node::new();
    let mut heard = node.serve(3, false);
    let mut workload = node.start(&["--alloc", "1Gi", "--on-notice", "shrink:256Mi"]);
    workload.expect(&["binding", "allocated", "notice", "shrunk"]).await;
    // The fourth watch begins when the third has been heard to its end.
    for _ in 0..4 {
        heard.watched.recv().await.unwrap();
    }
    workload.signal(libc::SIGTERM);
    workload.expect(&["term"]).await;
    assert!(matches!(heard.asked().await, Asked::Shrink(_)));
    assert!(heard.asked.try_recv().is_err(), "it is asked once");
    assert_eq!(workload.code().await, Some(0));
}

#[tokio::test]
async fn a_workload_that_ignores_sigterm_goes_on_and_holds_its_memory() {
    let node = Node::new();
    let mut workload = node.start(&["--alloc", "1Gi", "--ignore-term", "--on-notice", "ignore"]);
    workload.expect(&["binding", "allocated"]).await;
    workload.signal(libc::SIGTERM);
    assert_eq!(workload.next().await, json!({ "event": "term", "ignored": true }));
    workload.signal(libc::SIGTERM);
    workload.expect(&["term"]).await;
    assert_eq!((workload.child.try_wait().unwrap(), node.used_mib()), (None, 1024));
}

#[tokio::test]
async fn without_a_gpu_only_what_needs_one_fails() {
    let files = TempDir::new().unwrap();
    for (arguments, last, code) in [
        (vec!["--exit-after", "0s", "--exit-code", "7"], "binding", 7),
        (vec!["--no-gpu", "--exit-after", "0s"], "binding", 0),
        (vec!["--alloc", "", "--exit-after", "0s"], "skipped", 0),
        (vec!["--alloc", "50%", "--exit-after", "0s"], "skipped", 0),
        (vec!["--alloc", "1Gi"], "error", 3),
    ] {
        let mut workload = start(files.path(), &arguments);
        let binding = workload.next().await;
        assert_eq!((&binding["event"], &binding["gpus"]), (&json!("binding"), &json!([])));
        assert!(binding["env"]["MEMBOSS_SOCKET"].is_string());
        let mut event = binding["event"].clone();
        while let Some(line) = workload.lines.next_line().await.unwrap() {
            event = serde_json::from_str::<Value>(&line).unwrap()["event"].clone();
        }
        assert_eq!(event, last, "{arguments:?}");
        assert_eq!(workload.code().await, Some(code), "{arguments:?}");
    }
}
