//! Puts the agent together: files, threads, tasks. It decides nothing but whether there is an API server.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use memboss_core::Mib;
use memboss_platform::admin::{Admin, Readiness};
use memboss_platform::metrics;
use memboss_platform::shutdown::{self, Shutdown};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cleaner::Cleaner;
use crate::credentials::{Operator, Source};
use crate::heartbeat::{self, Pulse, Telling};
use crate::journal::Journal;
use crate::neighbours::Neighbours;
use crate::node::task::{self, Doors, Eyes, Files, Pace};
use crate::node::{Cluster, Node};
use crate::probes::nvml::Prober;
use crate::probes::pidfd::Sentinels;
use crate::probes::pods::PodCgroups;
use crate::probes::pressure::{Kubelet, PressureProbe};
use crate::probes::processes::Processes;
use crate::probes::{clock, xid};
use crate::serve::{self, Audience, Desk};
use crate::settings::Arguments;
use crate::store::{self, Marker, Store};

/// Runs the agent until it is told to end or a part of it fails.
///
/// # Errors
/// When it cannot start, or a part has ended that must not.
pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let shutdown = shutdown::on_signal()?;
    let (run_dir, state_dir) = (&arguments.config.run_dir, &arguments.config.state_dir);
    make(run_dir, "run")?;
    make(state_dir, "state")?;
    let _only_one = lock(run_dir)?;
    allow_many_descriptors();

    let client = if arguments.standalone { None } else { api_client().await? };
    let cluster = if client.is_some() { Cluster::Kubernetes } else { Cluster::None };
    let boot_id = clock::boot_id(&arguments.boot_id_file)?;
    let files =
        Files { ledger: Journal::new(run_dir.join("ledger")), marker: Store::new(state_dir.join("agent.json")) };
    let start = begin(&files, &boot_id)?;
    let node = Node::new(arguments.settings(boot_id, cluster)?, start, clock::now());

    let (inputs, inputs_out) = mpsc::channel(256);
    let sentinels = Sentinels::new(arguments.proc_root.clone(), inputs.clone());
    let (snapshots, published) = watch::channel(Arc::default());
    let (news, news_out) = mpsc::unbounded_channel();
    let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let neighbours = arguments.redis_url.clone().filter(|_| cluster == Cluster::None);
    let desk = Desk {
        inputs: inputs.clone(),
        snapshots: published.clone(),
        proc_root: arguments.proc_root.clone(),
        neighbours: neighbours.map(|url| Arc::new(Neighbours::new(Source::Url(url)))),
    };
    serve_sockets(&arguments, &desk, &shutdown, &mut tasks)?;

    let pulse = Arc::new(Pulse::default());
    let mut registry = metrics::registry("memboss-agent", env!("CARGO_PKG_VERSION"));
    crate::metrics::register(&mut registry, published.clone(), pulse.clone());
    let readiness = Readiness::default();
    let ready = readiness.condition("node");
    let admin = Admin::bind(arguments.admin_address).await?;
    let end = shutdown.clone();
    tasks.spawn(async move { Ok(admin.serve(readiness, registry, end).await?) });

    if let Some(source) = redis(&arguments) {
        let (published, pulse, end) = (published.clone(), pulse, shutdown.clone());
        let telling = if cluster == Cluster::None { Telling::Machine } else { Telling::Beat };
        tasks.spawn(async move {
            heartbeat::run(source, telling, published, pulse, end).await;
            Ok(())
        });
    }
    let here = cluster;
    if let Some(client) = client {
        let (node, namespace) = (arguments.node_name.clone(), arguments.namespace.clone());
        let (inputs, snapshots, shutdown) = (inputs.clone(), published, shutdown.clone());
        let cluster = crate::kube::Cluster { client, node, namespace, inputs, snapshots, shutdown };
        crate::kube::start(&cluster, news_out, &mut tasks);
    }
    let eyes = eyes(&arguments, here, sentinels)?;
    tasks.spawn(task::run(node, eyes, Doors { inputs: inputs_out, snapshots, news }, files, shutdown.clone()));
    ready.ready();
    // For a service manager that waits for it; without one nothing happens.
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
    tracing::info!(node = arguments.node_name, cluster = ?cluster, "running");
    until_end(tasks, shutdown).await
}

/// After the end has begun, clients have so long to hear of it: the next agent must be there within their grace time.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The first part that ends takes all others with it; it is an error unless it was time.
async fn until_end(mut tasks: JoinSet<anyhow::Result<()>>, shutdown: Shutdown) -> anyhow::Result<()> {
    let mut outcome = Ok(());
    let mut end = None;
    loop {
        let ended = match end {
            None => tasks.join_next().await,
            Some(at) => match tokio::time::timeout_at(at, tasks.join_next()).await {
                Ok(ended) => ended,
                Err(_) => {
                    tracing::info!("clients that do not listen are left");
                    None
                }
            },
        };
        let Some(ended) = ended else { break };
        let ended = ended.context("a task panicked").and_then(|result| result);
        if outcome.is_ok() {
            outcome = match ended {
                Err(error) => Err(error),
                Ok(()) if shutdown.is_cancelled() => Ok(()),
                Ok(()) => Err(anyhow::anyhow!("a task ended early")),
            };
        }
        shutdown.cancel();
        end.get_or_insert_with(|| Instant::now() + LAST_WORDS);
    }
    outcome
}

fn make(directory: &Path, what: &str) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory).with_context(|| {
        let at = directory.display();
        format!(
            "failed to make the {what} directory {at}: a user other than root needs --{what}-dir with one of its own"
        )
    })
}

/// Each client takes one descriptor for its connection and two for its process, which is held with the connection and watched with its leases.
fn allow_many_descriptors() {
    let limits = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, ..limits }) {
        tracing::warn!(%error, "the number of clients stays limited to a thousand or so");
    }
}

/// Two agents on one ledger would each overwrite what the other granted.
fn lock(run_dir: &Path) -> anyhow::Result<std::fs::File> {
    let path = run_dir.join("agent.lock");
    let file = std::fs::File::create(&path).with_context(|| format!("failed to open {}", path.display()))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .with_context(|| format!("another agent holds {}: only one may own a node's ledger", path.display()))?;
    Ok(file)
}

/// Nothing configured means alone; a configuration that cannot be used is an error, since an agent that is alone hears of no placement.
async fn api_client() -> anyhow::Result<Option<kube::Client>> {
    match kube::Config::infer().await {
        Ok(config) => kube::Client::try_from(config).map(Some).context("the cluster's configuration cannot be used"),
        Err(error) => {
            tracing::info!(%error, "no cluster is configured; running alone");
            Ok(None)
        }
    }
}

fn begin(files: &Files, boot_id: &str) -> anyhow::Result<store::Start> {
    let ledger = files.ledger.read();
    match &ledger {
        Err(error) => {
            let aside = files.ledger.set_aside()?;
            tracing::error!(error = error as &dyn std::error::Error, aside = %aside.display(), "the ledger cannot be used");
        }
        Ok(Some(found)) if found.cut > 0 => {
            tracing::warn!(bytes = found.cut, "the end of the ledger was not written; nobody was told of it");
        }
        Ok(_) => {}
    }
    let ledger = ledger.map(|found| found.map(|found| found.ledger));
    let marker = files.marker.read::<Marker>();
    if let Err(error) = &marker {
        tracing::error!(error = error as &dyn std::error::Error, "the marker cannot be used");
    }
    let start = store::judge(ledger, marker, boot_id);
    let how = match &start {
        store::Start::Continue(_) => "with the ledger of this boot",
        store::Start::First => "for the first time",
        store::Start::AfterReboot(_) => "after a reboot",
        store::Start::Quarantine(_) => "in quarantine: the ledger of this boot is lost",
    };
    tracing::info!("beginning {how}");
    Ok(start)
}

fn serve_sockets(
    arguments: &Arguments,
    desk: &Desk,
    shutdown: &Shutdown,
    tasks: &mut JoinSet<anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let run_dir = &arguments.config.run_dir;
    let path = run_dir.join("node").join("node.sock");
    let (listener, own, end) = (serve::listen(&path, Audience::Root)?, desk.clone(), shutdown.clone());
    tasks.spawn(async move { Ok(serve::node(listener, path, own, end).await?) });
    let path = run_dir.join("agent").join("agent.sock");
    let (listener, own, end) =
        (serve::listen(&path, Audience::Containers(arguments.access()?))?, desk.clone(), shutdown.clone());
    let quota = arguments.config.quota();
    tasks.spawn(async move { Ok(serve::workload(listener, path, own, quota, end).await?) });
    Ok(())
}

fn redis(arguments: &Arguments) -> Option<Source> {
    if let Some(url) = &arguments.redis_url {
        return Some(Source::Url(url.clone()));
    }
    let (url, ca, token) = arguments.operator.clone();
    Some(Source::Operator { operator: Operator { url: url?, ca, token: token? }, known: None })
}

fn eyes(arguments: &Arguments, cluster: Cluster, sentinels: Sentinels) -> anyhow::Result<Eyes> {
    let library = arguments.config.nvml_library.clone().map(OsString::from);
    let (prober, readings) = Prober::spawn(library.clone()).context("failed to start the NVML thread")?;
    let xids = xid::spawn(library).context("failed to start the XID thread")?;
    let cgroups = PodCgroups::new(&arguments.cgroup_root);
    let threshold = Mib::from_mib(arguments.config.pressure.eviction_mib);
    let kubelet = (cluster == Cluster::Kubernetes).then(|| Kubelet { cgroups: cgroups.clone(), threshold });
    Ok(Eyes {
        prober,
        readings,
        xids,
        processes: Processes::new(&arguments.proc_root),
        cgroups,
        sentinels,
        meminfo: arguments.meminfo_file.clone(),
        pressure: PressureProbe::new(arguments.meminfo_file.clone(), &arguments.proc_root, kubelet),
        cleaner: Cleaner::new(&arguments.proc_root, arguments.config.pressure.clean_in.clone()),
        pace: Pace::default(),
    })
}
