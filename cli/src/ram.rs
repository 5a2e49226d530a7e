//! `memboss ram`: host RAM as it stands, who uses it, and dropping page cache that nobody needs. It works on any Linux machine, without an agent; only
//! ending leases that nobody keeps is the agent's. Of a cluster's nodes the API server tells how they stand; the rest is done on the node itself.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use futures::StreamExt as _;
use memboss_core::{Gauge, Mib, Moment};
use memboss_ram::clean::{Ask, Mode, Outcome};
use memboss_ram::report::Machine;
use memboss_ram::users::Monitor;
use serde::Serialize;

use crate::ask::Consent;
use crate::cluster::{Picture, Wanted};
use crate::exit::Failure;
use crate::output::{Colours, Output};
use crate::way::{Server, Where};
use crate::{cleanup, plain, show_ram, size};

/// Where models are usually kept; those that are not there are left out.
const MODEL_DIRECTORIES: [&str; 4] = [".cache/huggingface", ".cache/torch", ".ollama/models", ".cache/llama.cpp"];

/// A place without control groups, and so without a limit.
const NO_GROUPS: &str = "/dev/null";

#[derive(Debug, Subcommand)]
pub(crate) enum Ram {
    /// What there is, what is available, how hard pressed it is, and what would help. By the API server: of every node, as its agent reports it.
    Status {
        /// Goes on looking once a second, and tells each change of the level (which must last a while), until it is interrupted.
        #[arg(long)]
        watch: bool,
    },
    /// Who uses it, and, with --for, how that changes. By the API server it is done in the pod of the agent of --on (pods/exec there).
    Analyze(Analyze),
    /// Drops page cache of files that no process has open or mapped. By the API server it is done in the pod of the agent of --on (pods/exec there), which sees the
    /// folders of the chart's agent.pressure.cleanIn alone.
    Clear(Clear),
    /// Ends leases of RAM, alone or beside GPU memory, that nobody keeps any more, and says which and why (root only; it asks the agent).
    Cleanup {
        /// Only tells what would be ended.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        consent: Consent,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Analyze {
    /// So many processes.
    #[arg(long, default_value_t = 10)]
    top: usize,
    /// Exact shares of shared memory too. Each process that is looked at so waits for it: some 20 ms for each GiB it has.
    #[arg(long)]
    exact: bool,
    /// Watches for so many seconds, and tells who grew.
    #[arg(long = "for", value_name = "SECONDS")]
    seconds: Option<u64>,
    #[command(flatten)]
    whole: Whole,
}

/// How a node is looked at from its agent's pod, whose limit is not the node's.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Whole {
    /// Whatever limit this process itself has.
    #[arg(long, hide = true)]
    whole_machine: bool,
}

impl Whole {
    fn machine(self) -> Machine {
        match self.whole_machine {
            true => Machine { groups: NO_GROUPS.into(), ..Machine::default() },
            false => Machine::default(),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Clear {
    /// conservative (files unchanged for 30 minutes, at most 0.2 s of dropping), balanced (10 minutes, 2 s), aggressive (any, 10 s), or auto (nothing where
    /// there is no pressure or it would not help).
    #[arg(default_value = "balanced")]
    mode: Mode,
    /// A file or directory whose files may be dropped; may be repeated. Without: where models are usually kept; on a cluster's node
    /// wherever its agent may clean.
    #[arg(long = "in", value_name = "PATH")]
    roots: Vec<PathBuf>,
    /// Stops when so much was dropped (8Gi, 500Mi).
    #[arg(long, value_parser = size::parse)]
    target: Option<Mib>,
    /// Only tells what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Drops the clean cache of the whole machine too: everybody's, all of it, and it cannot be stopped. Needs root.
    #[arg(long)]
    drop_caches: bool,
    /// Looks again after so many seconds, and tells what came back: that was needed after all.
    #[arg(long, value_name = "SECONDS", conflicts_with = "dry_run")]
    check_after: Option<u64>,
    #[command(flatten)]
    whole: Whole,
    #[command(flatten)]
    consent: Consent,
}

/// What `analyze` found.
#[derive(Debug, Serialize)]
struct Analysis {
    report: memboss_ram::report::Report,
    processes: Vec<memboss_ram::users::User>,
    growth: Option<Vec<memboss_ram::users::Growth>>,
}

/// What `clear` did, and what of it came back.
#[derive(Debug, Serialize)]
struct Cleared {
    #[serde(flatten)]
    outcome: Outcome,
    came_back: Option<Mib>,
}

pub(crate) async fn run(what: Ram, asked: &Where, output: Output) -> Result<u8> {
    let what = match what {
        Ram::Cleanup { dry_run, consent } => {
            let way = asked.way(output).await?;
            return cleanup::run(true, dry_run, &consent, &way, output).await.map(|()| 0);
        }
        other => other,
    };
    match asked.away(output).await? {
        Some(server) => away(&what, &server, output).await,
        None => here(what, output).await.map(|()| 0),
    }
}

/// Of a cluster's nodes; the exit code.
async fn away(what: &Ram, server: &Server, output: Output) -> Result<u8> {
    match what {
        Ram::Status { watch: false } => {
            tell(&Picture { machines: server.machines().await?, leases: Vec::new() }, output)?;
            Ok(0)
        }
        Ram::Status { watch: true } => watch(server, output).await.map(|()| 0),
        Ram::Analyze(asked) => Ok(server.run_on(&server.one_node().await?, &asked.words(output)).await?),
        Ram::Clear(asked) => {
            let node = server.one_node().await?;
            if asked.drop_caches && !asked.dry_run {
                asked.consent.to(&dropping(&node))?;
            }
            Ok(server.run_on(&node, &asked.words(output)).await?)
        }
        Ram::Cleanup { .. } => Ok(0),
    }
}

fn tell(picture: &Picture, output: Output) -> Result<()> {
    let plain: Vec<plain::Machine> = picture.machines.iter().map(plain::machine).collect();
    output.say(&plain, || show_ram::nodes(&picture.machines, Colours::of_stdout()))
}

/// Tells how the nodes stand, and again when the level of one has changed.
async fn watch(server: &Server, output: Output) -> Result<()> {
    let mut before: Option<Vec<(String, String)>> = None;
    let mut pictures = server.watch(Wanted::All);
    while let Some(picture) = pictures.next().await {
        let picture = picture?;
        let level = |machine: &memboss_agent_api::v1::StatusResponse| {
            (machine.node.clone(), machine.ram.as_ref().map(|ram| ram.pressure.clone()).unwrap_or_default())
        };
        let levels = Some(picture.machines.iter().map(level).collect());
        if levels != before {
            before = levels;
            let plain: Vec<plain::Machine> = picture.machines.iter().map(plain::machine).collect();
            if output.say_next(&plain, || show_ram::nodes(&picture.machines, Colours::of_stdout()))?.is_break() {
                return Ok(());
            }
        }
    }
    Err(Failure::NoAgent("the API server ended the answer: ask again".to_owned()).into())
}

fn dropping(place: &str) -> String {
    format!("This drops the page cache of everybody on {place}; what runs will read its files again from disk.")
}

impl Analyze {
    /// The same words, for this program on a node.
    fn words(&self, output: Output) -> Vec<String> {
        let mut words: Vec<String> = ["ram", "analyze", "--whole-machine", "--top"].map(Into::into).into();
        words.push(self.top.to_string());
        words.extend(self.exact.then(|| "--exact".to_owned()));
        words.extend(self.seconds.map(|seconds| format!("--for={seconds}")));
        words.push(format!("--output={}", output.name()));
        words
    }
}

impl Clear {
    /// The same words, for this program on a node. Whether it may was asked here.
    fn words(&self, output: Output) -> Vec<String> {
        let mut words: Vec<String> =
            ["ram", "clear", "--whole-machine", "--yes", self.mode.name()].map(Into::into).into();
        words.extend(self.roots.iter().map(|root| format!("--in={}", root.display())));
        words.extend(self.target.map(|target| format!("--target={target}")));
        words.extend(self.dry_run.then(|| "--dry-run".to_owned()));
        words.extend(self.drop_caches.then(|| "--drop-caches".to_owned()));
        words.extend(self.check_after.map(|seconds| format!("--check-after={seconds}")));
        words.push(format!("--output={}", output.name()));
        words
    }
}

/// Of this machine.
async fn here(what: Ram, output: Output) -> Result<()> {
    match what {
        Ram::Status { watch } => {
            let machine = Machine::default();
            let report = machine.report()?;
            if watch {
                return match output.say_next(&report, || show_ram::report(&report))? {
                    ControlFlow::Continue(()) => follow(&machine, output).await,
                    ControlFlow::Break(()) => Ok(()),
                };
            }
            output.say(&report, || show_ram::report(&report))
        }
        Ram::Analyze(asked) => analyze(&asked.whole.machine(), &asked, output).await,
        Ram::Clear(asked) => clear(&asked.whole.machine(), &asked, output).await,
        Ram::Cleanup { .. } => Ok(()),
    }
}

/// Tells each change of the level, as it is judged over time.
async fn follow(machine: &Machine, output: Output) -> Result<()> {
    let (mut gauge, begun) = (Gauge::default(), Instant::now());
    loop {
        let mut report = machine.report()?;
        let now = Moment::from_millis(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX));
        let before = gauge.level();
        let level = gauge.look(&report.signals(), now);
        if level != before {
            (report.pressure, report.sign, report.cause) = (level, gauge.sign(), report.signals().cause(level));
            if output.say_next(&report, || show_ram::change(&report))?.is_break() {
                return Ok(());
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn analyze(machine: &Machine, asked: &Analyze, output: Output) -> Result<()> {
    let mut growth = None;
    if let Some(seconds) = asked.seconds {
        let mut monitor = Monitor::default();
        monitor.look(&machine.users()?, Instant::now());
        tokio::time::sleep(Duration::from_secs(seconds.max(1))).await;
        let changed = monitor.look(&machine.users()?, Instant::now());
        growth = Some(changed.into_iter().filter(|growth| growth.before != growth.now).take(asked.top).collect());
    }
    let mut processes = machine.users()?;
    processes.truncate(asked.top);
    if asked.exact {
        processes.iter_mut().for_each(|user| user.exact = machine.exact(user));
    }
    let analysis = Analysis { report: machine.report()?, processes, growth };
    output.say(&analysis, || {
        let mut parts = vec![show_ram::report(&analysis.report), show_ram::users(&analysis.processes, asked.exact)];
        parts.extend(analysis.growth.as_deref().map(show_ram::growth));
        parts.join("\n\n")
    })
}

const NOTHING_TO_CLEAN: &str = "no directory of models was found in your home: name what may be dropped by --in PATH";
const NOTHING_TO_CLEAN_ON_NODE: &str =
    "no directory of this node may be cleaned: the chart's agent.pressure.cleanIn names those that may";
/// Which directories an agent's pod may clean: the chart says it.
const CLEAN_IN: &str = "MEMBOSS_CLEAN_IN";

async fn clear(machine: &Machine, asked: &Clear, output: Output) -> Result<()> {
    let roots = if asked.roots.is_empty() { usual_directories() } else { asked.roots.clone() };
    if roots.is_empty() && !asked.drop_caches {
        bail!(if asked.whole.whole_machine { NOTHING_TO_CLEAN_ON_NODE } else { NOTHING_TO_CLEAN });
    }
    if asked.drop_caches && !asked.dry_run {
        asked.consent.to(&dropping("this machine"))?;
    }
    let ask =
        Ask { mode: asked.mode, roots, target: asked.target, dry_run: asked.dry_run, whole_machine: asked.drop_caches };
    let outcome = machine.clean(&ask, SystemTime::now())?;
    let mut came_back = None;
    let looks_again = asked.check_after.is_some() && !outcome.files.is_empty();
    if let Some(seconds) = asked.check_after.filter(|_| !outcome.files.is_empty()) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        came_back = outcome.came_back();
    }
    let cleared = Cleared { outcome, came_back };
    output.say(&cleared, || {
        let mut text = show_ram::outcome(&cleared.outcome, asked.dry_run);
        if looks_again {
            text.push_str(&show_ram::came_back(cleared.came_back));
        }
        text
    })
}

/// Those of the agent whose pod this is, or where models are usually kept.
fn usual_directories() -> Vec<PathBuf> {
    if let Some(named) = std::env::var_os(CLEAN_IN) {
        return std::env::split_paths(&named).collect();
    }
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let below_home = home.iter().flat_map(|home| MODEL_DIRECTORIES.iter().map(|name| home.join(name)));
    let named = std::env::var_os("HF_HOME").map(PathBuf::from);
    named.into_iter().chain(below_home).filter(|path| path.read_dir().is_ok()).collect()
}
