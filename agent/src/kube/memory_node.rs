//! Writes this node's `MemoryNode`: makes it where there is none, applies its status when something that matters changed, at most once a second.
//! It deletes nothing.

use std::sync::Arc;
use std::time::Duration;

use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use memboss_core::{Closed, Mib};
use memboss_crds as crds;
use memboss_crds::{AGENT, MemoryNode, MemoryNodeSpec, MemoryNodeStatus, quantity};
use serde_json::json;
use tokio::time::Instant;

use super::{Cluster, pause};
use crate::health::Health;
use crate::node::view::{GpuSeen, Snapshot};

/// No more often.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);
/// What moves all the time, such as available RAM, is written this often at the latest.
const AT_LEAST_EVERY: Duration = Duration::from_secs(60);
/// Pause after a failure, doubled up to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Publishes until the shutdown.
pub(super) async fn run(mut cluster: Cluster) -> anyhow::Result<()> {
    let api: Api<MemoryNode> = Api::all(cluster.client.clone());
    let mut written: Option<(MemoryNodeStatus, Mib, Instant)> = None;
    let mut backoff = BACKOFF.0;
    if !cluster.shows(|snapshot| snapshot.is_known()).await {
        return Ok(());
    }
    while !cluster.shutdown.is_cancelled() {
        let snapshot = cluster.snapshots.borrow_and_update().clone();
        let wanted = status(&snapshot);
        let due = written.as_ref().is_none_or(|(status, available, at)| {
            at.elapsed() >= AT_LEAST_EVERY
                || material(status) != material(&wanted)
                || differs(*available, snapshot.ram.available, snapshot.ram.total)
        });
        if due {
            match write(&api, &cluster.node, &wanted).await {
                Ok(()) => {
                    written = Some((wanted, snapshot.ram.available, Instant::now()));
                    backoff = BACKOFF.0;
                }
                Err(error) => {
                    if backoff == BACKOFF.0 {
                        tracing::warn!(error = &error as &dyn std::error::Error, "cannot write the MemoryNode yet");
                    }
                    pause(&cluster.shutdown, backoff).await;
                    backoff = (backoff * 2).min(BACKOFF.1);
                    continue;
                }
            }
            pause(&cluster.shutdown, AT_MOST_EVERY).await;
        }
        tokio::select! {
            () = cluster.shutdown.cancelled() => {}
            changed = cluster.snapshots.changed() => if changed.is_err() { return Ok(()) },
            () = tokio::time::sleep(AT_LEAST_EVERY) => {}
        }
    }
    Ok(())
}

/// Without what moves all the time.
fn material(status: &MemoryNodeStatus) -> MemoryNodeStatus {
    let ram = crds::Ram { available: String::new(), leasable: String::new(), ..status.ram.clone() };
    MemoryNodeStatus { ram, ..status.clone() }
}

/// Whether available RAM moved by a thirty-second part of all there is.
fn differs(one: Mib, other: Mib, total: Mib) -> bool {
    one.minus(other).plus(other.minus(one)) > Mib::from_mib(total.mib() / 32)
}

async fn write(api: &Api<MemoryNode>, node: &str, status: &MemoryNodeStatus) -> Result<(), kube::Error> {
    let patch = json!({
        "apiVersion": "memboss.dev/v1alpha1",
        "kind": "MemoryNode",
        "metadata": {"name": node},
        "status": status,
    });
    let params = PatchParams::apply(AGENT).force();
    match api.patch_status(node, &params, &Patch::Apply(&patch)).await {
        Err(kube::Error::Api(answer)) if answer.code == 404 => {
            let params_create = PostParams { field_manager: Some(AGENT.to_owned()), ..PostParams::default() };
            match api.create(&params_create, &MemoryNode::new(node, MemoryNodeSpec::default())).await {
                Err(kube::Error::Api(answer)) if answer.code == 409 => {}
                other => drop(other?),
            }
            api.patch_status(node, &params, &Patch::Apply(&patch)).await.map(drop)
        }
        other => other.map(drop),
    }
}

fn status(snapshot: &Arc<Snapshot>) -> MemoryNodeStatus {
    MemoryNodeStatus {
        boot_id: snapshot.boot_id.clone(),
        agent_epoch: snapshot.agent_epoch,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        gpus: snapshot.gpus.iter().map(gpu).collect(),
        gpus_unread: snapshot.gpus_unread,
        ram: crds::Ram {
            total: quantity(snapshot.ram.total),
            available: quantity(snapshot.ram.available),
            leasable: quantity(snapshot.ram.leasable),
            leased: quantity(snapshot.ram.leased),
            pressure: Some(snapshot.ram.pressure.name().to_owned()),
            pressure_sign: snapshot.ram.sign.map(|sign| sign.name().to_owned()),
            closed: snapshot.ram.closed.map(|closed| closed.name().to_owned()),
            last_cleaning: snapshot.ram.cleaned.as_ref().map(|cleaned| crds::Cleaning {
                at: cleaned.at.clone(),
                mode: cleaned.how_name().to_owned(),
                dropped: quantity(cleaned.dropped),
                came_back: cleaned.came_back.map(quantity),
                message: cleaned.to_string(),
            }),
        },
        hold: snapshot.hold.clone(),
        summary: summary(&snapshot.gpus, snapshot.gpus_unread),
        conditions: Vec::new(),
    }
}

fn gpu(seen: &GpuSeen) -> crds::Gpu {
    crds::Gpu {
        uuid: seen.uuid.to_string(),
        index: seen.index,
        model: seen.model.clone(),
        total: quantity(seen.total),
        reserved: quantity(seen.reserved),
        leasable: quantity(seen.leasable),
        leased: quantity(seen.leased),
        foreign: quantity(seen.foreign),
        used: quantity(seen.used),
        health: match seen.health {
            Health::Healthy => crds::Health::Healthy,
            Health::Degraded => crds::Health::Degraded,
            Health::Lost => crds::Health::Lost,
        },
        health_reason: (!seen.health_reason.is_empty()).then(|| seen.health_reason.clone()),
    }
}

fn summary(gpus: &[GpuSeen], unread: bool) -> crds::Summary {
    let sum = |amount: fn(&GpuSeen) -> Mib| quantity(gpus.iter().map(amount).sum());
    let models: std::collections::BTreeSet<&str> = gpus.iter().map(|gpu| gpu.model.as_str()).collect();
    let count = |health| gpus.iter().filter(|gpu| gpu.health == health).count();
    let health = match (count(Health::Lost), count(Health::Degraded)) {
        (0, 0) if unread => Closed::Unread.name().to_owned(),
        (0, 0) => "Healthy".to_owned(),
        (0, degraded) => format!("Degraded ({degraded})"),
        (lost, _) => format!("Lost ({lost})"),
    };
    crds::Summary {
        gpus: u32::try_from(gpus.len()).unwrap_or(u32::MAX),
        models: models.into_iter().collect::<Vec<_>>().join(","),
        leasable: sum(|gpu| gpu.leasable),
        leased: sum(|gpu| gpu.leased),
        foreign: sum(|gpu| gpu.foreign),
        free: sum(|gpu| gpu.free),
        health,
    }
}
