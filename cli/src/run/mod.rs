//! `memboss run`: leases memory, runs a command with it, and gives it back when the command ends. This process stays the command's parent: the agent knows
//! whose a GPU's use is by who started whom.

mod child;
mod family;
pub(crate) mod guard;
mod hold;
mod request;
mod say;

use std::time::Duration;

use anyhow::{Context as _, Result};
use memboss_agent_api::v1::{AcquireRequest, LeaseEvent, LeaseView, Outlook, Phase};
use nix::sys::signal::Signal;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use self::child::{Child, Looked};
use self::hold::News;
use self::request::NoticeSignal;
pub(crate) use self::request::{Run, time as some_time};
use crate::agent::{Sockets, answer};
use crate::exit::Failure;
use crate::output::{Output, aside};
use crate::{gpus, plain};

/// How long until it is looked again whether a lease of the same name is over.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The agent keeps the time that somebody waits; one that does not answer is waited for so much longer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// What is passed on to the command. SIGCHLD tells that the command ended or stopped.
const HEARD: [Signal; 9] = [
    Signal::SIGCHLD,
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGCONT,
    Signal::SIGWINCH,
];

/// What would come of a request, for programs.
#[derive(Debug, Serialize)]
struct Forecast {
    outlook: &'static str,
    gpus: Vec<plain::Share>,
    victims: Vec<String>,
    reason: Option<String>,
    message: Option<String>,
}

/// Runs it; the answer is the exit code.
pub(crate) async fn run(asked: Run, sockets: &Sockets, output: Output) -> Result<u8> {
    asked.find_command()?;
    let request = asked.request(gpus::uuids(&asked.only, sockets).await?);
    if asked.dry_run {
        return dry_run(request, sockets, output).await;
    }
    refuse_used_name(&asked, sockets).await?;
    let mut signals = listen_to_signals()?;
    let mut news = hold::begin(sockets.socket.clone(), request);
    let lease = match wait(&asked, &mut news, &mut signals).await? {
        Waited::Granted(lease) => *lease,
        Waited::Interrupted(signal) => return Ok(128 + u8::try_from(signal as i32).unwrap_or(0)),
    };
    let env = environment(&asked, &lease, sockets);
    let child = Child::start(&asked.command, &env, asked.kill_after)?;
    Running { asked, child, news, notice: String::new(), over: None, asked_to_end: false, heard: true, left: false }
        .until_ended(&mut signals, lease)
        .await
}

/// The same request under the same name is one lease, and this one would take it from whoever holds it. One that is ending is waited for.
async fn refuse_used_name(asked: &Run, sockets: &Sockets) -> Result<(), Failure> {
    let Some(name) = &asked.name else { return Ok(()) };
    let begun = Instant::now();
    let own = nix::unistd::geteuid().as_raw();
    loop {
        let status = sockets.status().await?;
        let used = status.leases.iter().find(|lease| {
            let is_own = lease.holder.as_ref().is_some_and(|holder| holder.uid == own);
            is_own && lease.lease.rsplit_once('/').is_some_and(|(_, used)| used == name)
        });
        let Some(used) = used else { return Ok(()) };
        if used.phase() != Phase::Stopping {
            let lease = &used.lease;
            return Err(Failure::Usage(format!("{lease} is there already: give this one another --name")));
        }
        if asked.no_wait || asked.timeout.is_some_and(|timeout| begun.elapsed() >= timeout) {
            return Err(Failure::NotGranted(format!("{} is not over yet", used.lease)));
        }
        sleep(LOOK_AGAIN).await;
    }
}

async fn dry_run(request: AcquireRequest, sockets: &Sockets, output: Output) -> Result<u8> {
    let told = answer(&sockets.socket, sockets.leases().await?.dry_run(request)).await?;
    let forecast = Forecast {
        outlook: match told.outlook() {
            Outlook::Now => "Now",
            Outlook::AfterPreemption => "AfterPreemption",
            Outlook::Waits => "Waits",
            Outlook::Never => "Never",
            Outlook::Unspecified => "Unknown",
        },
        gpus: plain::shares(&told.gpus),
        victims: told.victims.clone(),
        reason: plain::said(&told.reason),
        message: plain::said(&told.message),
    };
    output.say(&forecast, || say::outlook(&told))?;
    Ok(if matches!(told.outlook(), Outlook::Now | Outlook::AfterPreemption) { 0 } else { 75 })
}

fn listen_to_signals() -> Result<mpsc::Receiver<Signal>> {
    let (heard, signals) = mpsc::channel(16);
    let ignored = ignored();
    // Without SIGCHLD the command's end would not be noticed.
    for kind in HEARD.into_iter().filter(|kind| *kind == Signal::SIGCHLD || !is_in(ignored, *kind)) {
        let mut stream = signal(SignalKind::from_raw(kind as i32)).context("failed to listen to signals")?;
        let heard = heard.clone();
        tokio::spawn(async move { while stream.recv().await.is_some() && heard.send(kind).await.is_ok() {} });
    }
    Ok(signals)
}

/// The signals that whoever started this process had ignored, such as `nohup` does: they stay so, here and for the command.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

fn is_in(mask: u64, signal: Signal) -> bool {
    mask >> (signal as i32 - 1) & 1 == 1
}

/// What came of waiting.
enum Waited {
    Granted(Box<LeaseView>),
    Interrupted(Signal),
}

/// Until the lease is granted. Whoever is interrupted ends, and with it the request.
async fn wait(asked: &Run, news: &mut mpsc::Receiver<News>, signals: &mut mpsc::Receiver<Signal>) -> Result<Waited> {
    let mut said = String::new();
    // The same thing once, though its figures change.
    let mut tell = |what: String, line: String| {
        if !asked.quiet && what != said {
            aside(&format!("memboss: {line}"));
            said = what;
        }
    };
    let patience = if asked.no_wait { Some(Duration::ZERO) } else { asked.timeout };
    let until = patience.map(|patience| Instant::now() + patience + ANSWERS_WITHIN);
    loop {
        let heard = tokio::select! {
            heard = news.recv() => heard,
            () = async { sleep_until(until.unwrap_or_else(Instant::now)).await }, if until.is_some() => {
                let why = "the time to wait is over, and the agent does not answer";
                return Err(Failure::NotGranted(format!("{} was not granted: {why}", asked.wish())).into());
            }
            Some(signal) = signals.recv() => match signal {
                Signal::SIGTERM | Signal::SIGINT | Signal::SIGHUP | Signal::SIGQUIT => {
                    return Ok(Waited::Interrupted(signal));
                }
                _ => continue,
            },
        };
        let event = match heard {
            Some(News::Told(event)) => event,
            Some(News::Broken) => {
                tell("gone".to_owned(), "the agent is gone; asking again until it is back".to_owned());
                continue;
            }
            Some(News::Back) => continue,
            Some(News::Lost(failure)) => return Err(failure.into()),
            None => return Err(Failure::NoAgent("the agent tells nothing any more".to_owned()).into()),
        };
        let LeaseEvent { lease: Some(lease), queue, .. } = *event else { continue };
        match lease.phase() {
            Phase::Active | Phase::Revoking => {
                tell("granted".to_owned(), say::granted(&lease));
                return Ok(Waited::Granted(Box::new(lease)));
            }
            Phase::Ended | Phase::Stopping => return Err(not_granted(asked, &lease).into()),
            _ => {}
        }
        if let Some(queue) = queue {
            if queue.reason == "Unsatisfiable" {
                return Err(Failure::NotGranted(format!("it could never be granted here: {}", queue.message)).into());
            }
            tell(
                format!("{} {} {}", queue.position, queue.reason, queue.estimate_basis),
                say::waiting(&asked.wish(), &queue),
            );
        }
    }
}

fn not_granted(asked: &Run, lease: &LeaseView) -> Failure {
    let why = match lease.reason.as_str() {
        "Expired" => "the time to wait is over",
        "" => "it ended",
        reason => reason,
    };
    Failure::NotGranted(format!("{} was not granted: {why}", asked.wish()))
}

fn environment(asked: &Run, lease: &LeaseView, sockets: &Sockets) -> Vec<(&'static str, String)> {
    let joined = |parts: Vec<String>| parts.join(",");
    let uuids = joined(lease.gpus.iter().map(|gpu| gpu.uuid.clone()).collect());
    let mut env = vec![
        ("MEMBOSS_LEASE", lease.lease.clone()),
        ("MEMBOSS_CLASS", lease.class.clone()),
        ("MEMBOSS_GPUS", uuids.clone()),
        ("MEMBOSS_VRAM_MIB", joined(lease.gpus.iter().map(|gpu| gpu.memory_mib.to_string()).collect())),
        ("MEMBOSS_RAM_MIB", lease.ram_mib.to_string()),
        ("MEMBOSS_SOCKET", sockets.socket.display().to_string()),
    ];
    if !asked.no_env && !lease.gpus.is_empty() {
        env.push(("CUDA_VISIBLE_DEVICES", uuids));
    }
    env
}

/// The command at work.
struct Running {
    asked: Run,
    child: Child,
    news: mpsc::Receiver<News>,
    /// The notice that was passed on.
    notice: String,
    /// When what is left is killed: its lease has ended.
    over: Option<Instant>,
    /// Whether it was asked to end because its time is up.
    asked_to_end: bool,
    /// Whether more can be heard of the lease.
    heard: bool,
    /// Whether the command has ended and has left some behind.
    left: bool,
}

impl Running {
    async fn until_ended(mut self, signals: &mut mpsc::Receiver<Signal>, lease: LeaseView) -> Result<u8> {
        self.lease(&lease);
        loop {
            // It may have ended before its end was listened for.
            match self.child.look()? {
                Looked::Gone(ended) => return Ok(ended.code),
                // The lease is held while anybody may still use it.
                Looked::Left if !self.left => {
                    self.left = true;
                    self.over.get_or_insert_with(|| Instant::now() + self.asked.kill_after);
                }
                Looked::Left | Looked::Runs => {}
            }
            let over = self.over;
            tokio::select! {
                Some(signal) = signals.recv() => match signal {
                    Signal::SIGCHLD => {}
                    // The agent asks this process, and tells the same by the stream: the command is asked once.
                    Signal::SIGTERM if !self.notice.is_empty() || self.over.is_some() => self.ask_to_end(),
                    other => self.child.pass_on(other),
                },
                heard = self.news.recv(), if self.heard => match heard {
                    Some(news) => self.news(news),
                    None => self.heard = false,
                },
                () = async { sleep_until(over.unwrap_or_else(Instant::now)).await }, if over.is_some() => {
                    let who = if self.left { "what the command left behind" } else { "the command" };
                    aside(&format!("memboss: {who} did not go: it is killed"));
                    self.child.kill();
                    self.over = None;
                }
            }
        }
    }

    fn news(&mut self, news: News) {
        match news {
            News::Told(event) => {
                if let Some(lease) = event.lease {
                    self.lease(&lease);
                }
            }
            News::Broken => aside(
                "memboss: the agent is gone; the command goes on, and the lease is taken up again when it is back",
            ),
            News::Back => aside("memboss: the agent is back, and the lease goes on"),
            News::Lost(failure) => self.lost(&format!("the lease is lost: {failure}")),
        }
    }

    fn lease(&mut self, lease: &LeaseView) {
        match lease.phase() {
            Phase::Revoking => {
                let Some(notice) = lease.notice.as_ref().filter(|notice| notice.id != self.notice) else { return };
                self.notice.clone_from(&notice.id);
                aside(&format!("memboss: {}", say::notice(notice)));
                if let NoticeSignal::Send(signal) = self.asked.notice_signal {
                    self.child.signal(signal);
                }
            }
            Phase::Stopping | Phase::Ended => self.lost(&format!("the lease is over: {}", lease.reason)),
            // A notice that was withdrawn: what is sent from now on has nothing to do with it.
            Phase::Active if !std::mem::take(&mut self.notice).is_empty() => {
                aside("memboss: the notice is withdrawn, and the lease goes on");
            }
            _ => {}
        }
    }

    /// The command has no lease any more.
    fn lost(&mut self, why: &str) {
        if self.over.is_none() {
            aside(&format!("memboss: {why}; the command is asked to end"));
            self.over = Some(Instant::now() + self.asked.kill_after);
            self.ask_to_end();
        }
    }

    fn ask_to_end(&mut self) {
        if !self.asked_to_end {
            self.asked_to_end = true;
            self.child.ask_to_end();
        }
    }
}
