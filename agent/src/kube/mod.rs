//! The agent's dealings with the API server: what is ordered comes in, what became of it goes out. All of it may fail for as long as it likes: the
//! truth is in the ledger, and what could not be said is said later.

mod events;
mod lease;
mod memory_node;
mod mirror;
mod mirror_plan;
mod pods;
mod publish;
mod watch;

use std::sync::Arc;

use kube::Client;
use memboss_crds::{LeaseKind, RamLease, VramLease};
use memboss_platform::shutdown::Shutdown;
use tokio::sync::{mpsc, watch as channel};
use tokio::task::JoinSet;

use crate::node::view::Snapshot;
use crate::node::{Input, News};

/// What the parts of this module share.
#[derive(Clone)]
pub struct Cluster {
    /// The API server.
    pub client: Client,
    /// This node.
    pub node: String,
    /// The namespace of the installation.
    pub namespace: String,
    /// The node's task.
    pub inputs: mpsc::Sender<Input>,
    /// What it publishes.
    pub snapshots: channel::Receiver<Arc<Snapshot>>,
    /// What is to end.
    pub shutdown: Shutdown,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("node", &self.node).finish_non_exhaustive()
    }
}

/// Starts all of it; each part runs until the shutdown.
pub fn start(cluster: &Cluster, news: mpsc::UnboundedReceiver<News>, tasks: &mut JoinSet<anyhow::Result<()>>) {
    let relisted = Arc::new(tokio::sync::Notify::new());
    tasks.spawn(watch::leases::<VramLease>(cluster.clone(), LeaseKind::Vram, relisted.clone()));
    tasks.spawn(watch::leases::<RamLease>(cluster.clone(), LeaseKind::Ram, relisted.clone()));
    tasks.spawn(watch::wishes(cluster.clone()));
    tasks.spawn(watch::incarnation(cluster.clone()));
    tasks.spawn(pods::watch(cluster.clone()));
    tasks.spawn(publish::run(cluster.clone(), relisted));
    tasks.spawn(memory_node::run(cluster.clone()));
    tasks.spawn(mirror::run(cluster.clone()));
    tasks.spawn(events::run(cluster.clone(), news));
}

impl Cluster {
    /// Waits until the node shows that; `false` when it is time to end.
    async fn shows(&mut self, what: impl FnMut(&Arc<Snapshot>) -> bool) -> bool {
        tokio::select! {
            () = self.shutdown.cancelled() => false,
            shown = self.snapshots.wait_for(what) => shown.is_ok(),
        }
    }
}

/// Waits, unless it is time to end.
async fn pause(shutdown: &Shutdown, time: std::time::Duration) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = tokio::time::sleep(time) => {}
    }
}
