//! The agent's program on a machine without Kubernetes: its configuration file, restarts and upgrades, and a user who is not root.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use memboss_agent_api::v1::leases_client::LeasesClient;
use memboss_agent_api::v1::{AcquireRequest, LeaseEvent, Phase, ResumeRequest, StatusRequest};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tonic::transport::Channel;
use tonic::{Code, Streaming};

/// The user that is not root.
const NOBODY: u32 = 65_534;

struct Machine {
    dir: TempDir,
    user: Option<u32>,
}

struct Agent {
    process: Child,
    socket: PathBuf,
}

impl Machine {
    fn new(user: Option<u32>, config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::write(dir.path().join("agent.toml"), config).unwrap();
        // Another user may not be let into the folder where it was built.
        let (built, copied) = (env!("CARGO_BIN_EXE_memboss-agent"), dir.path().join("memboss-agent"));
        // By another program: a process that another test starts meanwhile would keep it open for writing, and it could not be run.
        assert!(std::process::Command::new("cp").arg(built).arg(copied).status().unwrap().success());
        std::os::unix::fs::chown(dir.path(), user, user).unwrap();
        Self { dir, user }
    }

    fn command(&self) -> Command {
        let at = |name: &str| self.dir.path().join(name);
        let mut command = Command::new(at("memboss-agent"));
        command
            .env_remove("NODE_NAME")
            .args([
                "--standalone",
                "--admin-address",
                "127.0.0.1:0",
                "--nvml-library",
                "/nonexistent/libnvidia-ml.so.1",
            ])
            .args([Path::new("--config"), &at("agent.toml"), Path::new("--run-dir"), &at("run")])
            .args([Path::new("--state-dir"), &at("state")])
            .stderr(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    /// An agent that has said that it runs.
    async fn begin(&self) -> Agent {
        let mut process = self.command().spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let runs = async {
            let mut said = Vec::new();
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.contains("running") {
                    return;
                }
                said.push(line);
            }
            panic!("it ended: {said:#?}");
        };
        tokio::time::timeout(Duration::from_secs(60), runs).await.expect("it begins");
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Agent { process, socket: self.dir.path().join("run/agent/agent.sock") }
    }
}

impl Agent {
    async fn client(&self) -> LeasesClient<Channel> {
        LeasesClient::new(memboss_agent_api::connect(&self.socket).await.unwrap())
    }

    async fn end_by(mut self, signal: Signal) -> std::process::ExitStatus {
        let pid = Pid::from_raw(self.process.id().unwrap().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        tokio::time::timeout(Duration::from_secs(60), self.process.wait()).await.expect("it ends").unwrap()
    }
}

fn ram(ram_mib: u64) -> AcquireRequest {
    AcquireRequest { ram_mib, ..AcquireRequest::default() }
}

async fn until_phase(stream: &mut Streaming<LeaseEvent>, phase: Phase) -> LeaseEvent {
    let found = async {
        loop {
            let event = stream.message().await.unwrap().unwrap_or_else(|| panic!("the stream has ended"));
            if event.lease.as_ref().unwrap().phase() == phase {
                return event;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), found).await.expect("it comes to that")
}

#[tokio::test]
async fn neither_a_kill_nor_an_upgrade_of_the_agent_ends_a_lease() {
    let machine = Machine::new(None, "[times]\ngrace = \"10m\"\n");
    let mut agent = machine.begin().await;
    let mut held = agent.client().await.acquire(ram(16)).await.unwrap().into_inner();
    let granted = until_phase(&mut held, Phase::Active).await;
    let by_renewal = AcquireRequest { ttl_ms: 600_000, ..ram(16) };
    let mut other = agent.client().await.acquire(by_renewal).await.unwrap().into_inner();
    until_phase(&mut other, Phase::Active).await;
    let (secret, was) = (granted.secret, granted.lease.unwrap());
    for signal in [Signal::KILL, Signal::TERM] {
        agent.end_by(signal).await;
        agent = machine.begin().await;
        let request = ResumeRequest { lease: was.lease.clone(), secret: secret.clone() };
        let mut again = agent.client().await.resume(request).await.unwrap().into_inner();
        let is = until_phase(&mut again, Phase::Active).await.lease.unwrap();
        assert_eq!((is.token, is.ram_mib), (was.token, 16), "the same grant after {signal:?}");
        let all = agent.client().await.status(StatusRequest {}).await.unwrap().into_inner();
        assert_eq!(all.leases.len(), 2, "{all:?}");
    }
}

#[tokio::test]
async fn it_ends_well_when_it_is_asked_to_also_with_clients_there() {
    let machine = Machine::new(None, "");
    let agent = machine.begin().await;
    let mut held = agent.client().await.acquire(ram(16)).await.unwrap().into_inner();
    until_phase(&mut held, Phase::Active).await;
    let mut watched = agent.client().await.watch_status(StatusRequest {}).await.unwrap().into_inner();
    watched.message().await.unwrap();
    // And one that never says what it wants.
    let _half_open = UnixStream::connect(&agent.socket).await.unwrap();
    assert!(agent.end_by(Signal::TERM).await.success());
}

#[tokio::test]
async fn a_second_agent_on_the_same_ledger_is_refused() {
    let machine = Machine::new(None, "");
    let _first = machine.begin().await;
    let second = machine.command().output().await.unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(!second.status.success() && said.contains("another agent holds"), "{said}");
}

#[tokio::test]
async fn a_user_who_is_not_root_runs_it_on_folders_of_its_own_and_steers_it() {
    let user = geteuid().is_root().then_some(NOBODY);
    let machine = Machine::new(user, "[classes]\neverybody = \"normal\"\nroot = \"high\"\n");
    let agent = machine.begin().await;
    let mut held = agent.client().await.acquire(ram(16)).await.unwrap().into_inner();
    until_phase(&mut held, Phase::Active).await;
    let above = AcquireRequest { class: "urgent".into(), ..ram(16) };
    let refused = agent.client().await.acquire(above).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    assert!(agent.end_by(Signal::TERM).await.success());
}

#[tokio::test]
async fn the_configuration_is_told_or_what_is_wrong_with_it() {
    let machine = Machine::new(None, "[notice]\nhigh = \"20s\"\n");
    let told = machine.command().args(["--check-config", "--margin-mib", "7"]).output().await.unwrap();
    let text = String::from_utf8(told.stdout).unwrap();
    let run = machine.dir.path().join("run");
    assert!(told.status.success(), "{text}");
    for words in ["high = \"20s\"", "mib = 7", "grace = \"10s\"", &format!("run-dir = {:?}", run.to_str().unwrap())] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(!run.exists(), "it was only told");
    std::fs::write(machine.dir.path().join("agent.toml"), "[notice]\nhihg = \"20s\"\n").unwrap();
    let told = machine.command().output().await.unwrap();
    let said = String::from_utf8(told.stderr).unwrap();
    assert!(!told.status.success() && said.contains("line 2") && said.contains("did you mean `high`?"), "{said}");
}
