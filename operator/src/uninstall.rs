//! Before an uninstall: all leases are ended in good order. Their pods get their notice and go; whatever is still held after that is said and let go,
//! since nobody would be left to end it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use memboss_crds::{LeasePhase, VramLease};
use serde_json::json;
use tokio::time::Instant;
use tracing::{info, warn};

/// How long leases may take to end.
const PATIENCE: Duration = Duration::from_secs(90);
/// Time between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// Ends all leases.
///
/// # Errors
/// When the API server does not answer.
pub async fn run(client: &Client) -> Result<()> {
    let all = Api::<VramLease>::all(client.clone());
    for lease in all.list(&ListParams::default()).await.context("failed to list leases")? {
        let api = Api::<VramLease>::namespaced(client.clone(), &lease.namespace().unwrap_or_default());
        drop(api.delete(&lease.name_any(), &DeleteParams::default()).await);
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = all.list(&ListParams::default()).await.context("failed to list leases")?.items;
        if left.is_empty() {
            info!("all leases have ended");
            return Ok(());
        }
        let held = left.iter().filter(|l| l.status.as_ref().and_then(|s| s.phase) != Some(LeasePhase::Ended)).count();
        if Instant::now() >= deadline || held == 0 {
            return let_go(client, left).await;
        }
        info!(left = left.len(), held, "waiting for leases to end");
        tokio::time::sleep(LOOK).await;
    }
}

async fn let_go(client: &Client, left: Vec<VramLease>) -> Result<()> {
    for lease in left {
        let ended = lease.status.as_ref().and_then(|status| status.phase) == Some(LeasePhase::Ended);
        if !ended {
            warn!(lease = lease.name_any(), "its memory is still in use; the lease is let go all the same");
        }
        let api = Api::<VramLease>::namespaced(client.clone(), &lease.namespace().unwrap_or_default());
        let patch = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
        match api.patch(&lease.name_any(), &PatchParams::default(), &patch).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => drop(other.context("failed to let a lease go")?),
        }
    }
    Ok(())
}
