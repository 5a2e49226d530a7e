//! A process of its own that holds a lease: this very test program, started again to play a part.

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;

use memboss_agent_api::v1::leases_client::LeasesClient;
use memboss_agent_api::v1::{AcquireRequest, Phase, ResumeRequest};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::bed::vram;

/// A process that asks for a lease, and tells line by line what it is told.
pub(crate) struct Part {
    pub(crate) process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

/// What it does.
#[derive(Clone, Debug, Default)]
pub(crate) struct Role {
    pub(crate) class: &'static str,
    pub(crate) gib: u64,
    /// RAM in place of GPU memory.
    pub(crate) ram: bool,
    /// It becomes that user first.
    pub(crate) user: Option<u32>,
    /// It does not end when it is asked to, and makes that file.
    pub(crate) stubborn: Option<std::path::PathBuf>,
    /// It connects, leaves the connection to whoever listens there, and ends.
    pub(crate) leaves: Option<std::path::PathBuf>,
    /// It takes up that lease with that secret, in place of asking for one.
    pub(crate) resumes: Option<(String, String)>,
}

impl Part {
    pub(crate) fn begin(socket: &Path, role: &Role) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "part::plays_its_part", "--ignored", "--nocapture"])
            .env("PART_SOCKET", socket)
            .env("PART_CLASS", role.class)
            .env("PART_GIB", role.gib.to_string())
            .env("PART_OF", if role.ram { "ram" } else { "vram" })
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        if let Some(user) = role.user {
            command.env("PART_USER", user.to_string());
        }
        if let Some(asked) = &role.stubborn {
            command.env("PART_STUBBORN", asked);
        }
        if let Some(left) = &role.leaves {
            command.env("PART_LEAVES", left);
        }
        if let Some((lease, secret)) = &role.resumes {
            command.env("PART_LEASE", lease).env("PART_SECRET", secret);
        }
        let mut process = command.spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id().unwrap()
    }

    /// The words of the next line that begins with that one.
    pub(crate) async fn until(&mut self, first: &str) -> Vec<String> {
        loop {
            let line = self.lines.next_line().await.unwrap().unwrap_or_else(|| panic!("it ended before {first:?}"));
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            if words.first().is_some_and(|word| word == first) {
                return words;
            }
        }
    }

    /// Holds its lease.
    pub(crate) async fn until_active(&mut self) -> (String, String) {
        let words = self.until("ACTIVE").await;
        (words[1].clone(), words.get(2).cloned().unwrap_or_default())
    }
}

fn say(words: &str) {
    // Begins a line of its own, whatever the test program has written.
    println!("\n{words}");
    std::io::stdout().flush().unwrap();
}

#[tokio::test]
#[ignore = "other tests start it"]
async fn plays_its_part() {
    let told = |name: &str| std::env::var(name).ok();
    if let Some(user) = told("PART_USER") {
        nix::unistd::setuid(user.parse::<u32>().unwrap().into()).unwrap();
    }
    if let Some(made) = told("PART_STUBBORN") {
        let mut asked = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
        tokio::spawn(async move {
            asked.recv().await;
            std::fs::write(made, "asked").unwrap();
        });
    }
    let socket = told("PART_SOCKET").expect("other tests start it");
    if let Some(left) = told("PART_LEAVES") {
        let (connection, to) = (UnixStream::connect(socket).unwrap(), UnixStream::connect(left).unwrap());
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [connection.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        sendmsg(to.as_fd(), &[std::io::IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
        return;
    }
    let mut client = LeasesClient::new(memboss_agent_api::connect(socket.as_ref()).await.unwrap());
    let answer = match told("PART_LEASE") {
        Some(lease) => client.resume(ResumeRequest { lease, secret: told("PART_SECRET").unwrap() }).await,
        None => {
            let gib: u64 = told("PART_GIB").unwrap().parse().unwrap();
            let class = told("PART_CLASS").unwrap();
            let of_ram = told("PART_OF").as_deref() == Some("ram");
            let ram = || AcquireRequest { ram_mib: gib * 1024, ..AcquireRequest::default() };
            let wish = if of_ram { ram() } else { vram(gib) };
            client.acquire(AcquireRequest { class, label: "a part".into(), ..wish }).await
        }
    };
    let mut events = match answer {
        Ok(events) => events.into_inner(),
        Err(refused) => return say(&format!("REFUSED {:?} {}", refused.code(), refused.message())),
    };
    let mut secret = String::new();
    while let Ok(Some(event)) = events.message().await {
        if !event.secret.is_empty() {
            secret.clone_from(&event.secret);
        }
        let lease = event.lease.unwrap();
        say(&format!("{} {} {secret}", lease.phase().as_str_name(), lease.lease));
        if lease.phase() == Phase::Ended {
            return;
        }
    }
    // The agent has gone; its process goes on.
    say("ALONE");
    std::future::pending::<()>().await;
}
