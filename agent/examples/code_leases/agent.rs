//! A real agent, alone in a folder of its own on tmpfs, with two simulated GPUs of 24 GiB and 48 GiB of RAM to lease; and the client's side of a lease.
//! The binaries are those of the build, in the folder that holds `examples/`, where this program lies.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use memboss_agent_api::v1::leases_client::LeasesClient;
use memboss_agent_api::v1::{AcquireRequest, LeaseEvent, LeaseRequest, Phase, SlotRequest, StatusRequest};
use tempfile::TempDir;
use tonic::Streaming;
use tonic::transport::Channel;

/// What a client talks with.
pub(crate) type Client = LeasesClient<Channel>;

/// Nobody is protected and nobody is short of places: what is measured is the agent, not its limits.
const CONFIG: &str = "[limits]\nleases = 1000000\nwaiting = 1000000\n[protection]\nbatch = \"0s\"\nlow = \"0s\"\n\
    [classes]\neverybody = \"urgent\"\n";

/// Of a machine with 64 GiB, whatever this one has.
const MEMINFO: &str = "MemTotal: 67108864 kB\nMemAvailable: 50331648 kB\n";

/// Bounds a failure only.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Agent {
    dir: TempDir,
    process: Child,
}

impl Agent {
    /// An agent that answers and has seen its GPUs.
    pub(crate) async fn start() -> Result<Self> {
        let built = binaries()?;
        let dir = tempfile::Builder::new().prefix("memboss-bench-").tempdir_in(tmpfs())?;
        std::fs::write(dir.path().join("meminfo"), MEMINFO)?;
        std::fs::write(dir.path().join("agent.toml"), CONFIG)?;
        let sim = dir.path().join("sim");
        let made = Command::new(built.join("memboss-sim"))
            .args(["create", "--seed", "bench", "--gpu", "SIM-24G:24576x2"])
            .env("MEMBOSS_SIM_DIR", &sim)
            .stdout(Stdio::null())
            .status()
            .context("memboss-sim does not start: build it (cargo build --release)")?;
        ensure!(made.success(), "memboss-sim made no GPUs");
        let log = std::fs::File::create(dir.path().join("agent.log"))?;
        let flag = |name: &str, value: &Path| format!("--{name}={}", value.display());
        let process = Command::new(built.join("memboss-agent"))
            .args(["--standalone", "--node-name=bench", "--admin-address=127.0.0.1:0"])
            .arg(flag("config", &dir.path().join("agent.toml")))
            .arg(flag("run-dir", &dir.path().join("run")))
            .arg(flag("state-dir", &dir.path().join("state")))
            .arg(flag("meminfo-file", &dir.path().join("meminfo")))
            .arg(flag("nvml-library", &built.join("libmemboss_sim_nvml.so")))
            .env("MEMBOSS_SIM_DIR", &sim)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("memboss-agent does not start: build it (cargo build --release)")?;
        let mut agent = Self { dir, process };
        agent.answers().await?;
        Ok(agent)
    }

    async fn answers(&mut self) -> Result<()> {
        let begun = std::time::Instant::now();
        loop {
            if let Ok(mut client) = self.client().await
                && let Ok(status) = client.status(StatusRequest {}).await
                && status.get_ref().gpus.as_ref().is_some_and(|list| list.gpus.len() == 2)
            {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE || self.process.try_wait()?.is_some() {
                let log = std::fs::read_to_string(self.dir.path().join("agent.log"))?;
                bail!("the agent does not begin; its log:\n{log}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("run/agent/agent.sock")
    }

    /// A connection of its own.
    pub(crate) async fn client(&self) -> Result<Client> {
        Ok(LeasesClient::new(memboss_agent_api::connect(&self.socket()).await?))
    }

    /// Runs a command of the shell's that measures something on this agent, and prints what it finds.
    pub(crate) async fn beside(&self, command: &str) -> Result<()> {
        let mut shell = tokio::process::Command::new("sh");
        let done = shell.args(["-c", command]).env("MEMBOSS_SOCKET", self.socket()).status().await?;
        ensure!(done.success(), "{command}: {done}");
        Ok(())
    }

    /// Where its ledger is, and how much of a core it has used.
    pub(crate) fn about(&self) -> String {
        format!("pid {}, in {}", self.process.id(), self.dir.path().display())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The folder of the binaries that were built with this one.
pub(crate) fn binaries() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let examples = own.parent().context("this program lies in a folder")?;
    Ok(examples.parent().context("examples lie beside the binaries")?.to_owned())
}

/// Where an agent has its ledger: in memory.
fn tmpfs() -> PathBuf {
    let shm = PathBuf::from("/dev/shm");
    if shm.is_dir() { shm } else { std::env::temp_dir() }
}

/// A request for that much of one GPU.
pub(crate) fn vram(mib: u64) -> AcquireRequest {
    AcquireRequest { slots: vec![SlotRequest { memory_mib: mib, percent: 0 }], ..AcquireRequest::default() }
}

/// A request for that much RAM.
pub(crate) fn ram(mib: u64) -> AcquireRequest {
    AcquireRequest { ram_mib: mib, ..AcquireRequest::default() }
}

/// A lease that is held, and the stream that holds it.
pub(crate) struct Held {
    pub(crate) id: String,
    pub(crate) events: Streaming<LeaseEvent>,
}

/// Asks, and waits until it is held.
pub(crate) async fn acquire(client: &mut Client, request: AcquireRequest) -> Result<Held> {
    let events = client.acquire(request).await?.into_inner();
    until(events, Phase::Active).await
}

/// Waits until a lease is in that phase.
pub(crate) async fn until(mut events: Streaming<LeaseEvent>, phase: Phase) -> Result<Held> {
    loop {
        let event = events.message().await?.context("the stream has ended")?;
        let lease = event.lease.context("an event is about a lease")?;
        if lease.phase() == phase {
            return Ok(Held { id: lease.lease, events });
        }
    }
}

/// Gives it back; the agent has answered when this returns.
pub(crate) async fn release(client: &mut Client, held: Held) -> Result<()> {
    client.release(LeaseRequest { lease: held.id }).await?;
    Ok(())
}
