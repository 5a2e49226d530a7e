//! Before an uninstall: no new leases, then all that there are end in good order. Their pods get their notice and go; whatever is still held after that is
//! said and let go, since nobody would be left to end it. Pods that wait behind our gate would wait for ever: those that a controller makes again are
//! deleted, the others are named.

use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use memboss_crds::{LEASED_LABEL, LeasePhase, RamLease, VramLease};
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
    let nobody = Patch::Merge(json!({ "webhooks": [] }));
    match Api::<MutatingWebhookConfiguration>::all(client.clone())
        .patch("memboss", &PatchParams::default(), &nobody)
        .await
    {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        other => drop(other.context("failed to close admission")?),
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = leases(client).await.context("failed to list leases")?;
        // Each time: the operator may have made one before it saw that admission is closed.
        for lease in left.iter().filter(|lease| lease.metadata.deletion_timestamp.is_none()) {
            let (api, name) = crate::writes::lease_api(client, &crate::world::key(lease));
            drop(api.delete(&name, &DeleteParams::default()).await);
        }
        if left.is_empty() {
            info!("all leases have ended");
            return free_waiting(client).await;
        }
        let held = left.iter().filter(|l| l.status.as_ref().and_then(|s| s.phase) != Some(LeasePhase::Ended)).count();
        let patience_is_over = Instant::now() >= deadline;
        if patience_is_over || held == 0 {
            let_go(client, left).await?;
        } else {
            info!(left = left.len(), held, "waiting for leases to end");
        }
        if patience_is_over {
            return free_waiting(client).await;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Of both kinds.
async fn leases(client: &Client) -> Result<Vec<VramLease>, kube::Error> {
    let mut all = Api::<VramLease>::all(client.clone()).list(&ListParams::default()).await?.items;
    let of_ram = Api::<RamLease>::all(client.clone()).list(&ListParams::default()).await?.items;
    all.extend(of_ram.into_iter().map(VramLease::from));
    // What only shows a lease in code holds nobody up: those end with their agents.
    all.retain(|lease| crate::world::shown_in_code(lease).is_none());
    Ok(all)
}

async fn let_go(client: &Client, left: Vec<VramLease>) -> Result<()> {
    for lease in left {
        let ended = lease.status.as_ref().and_then(|status| status.phase) == Some(LeasePhase::Ended);
        if !ended {
            warn!(lease = lease.name_any(), "its memory is still in use; the lease is let go all the same");
        }
        let (api, name) = crate::writes::lease_api(client, &crate::world::key(&lease));
        let patch = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
        match api.patch(&name, &PatchParams::default(), &patch).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => drop(other.context("failed to let a lease go")?),
        }
    }
    Ok(())
}

/// Pods behind our gate, which nobody would open any more.
async fn free_waiting(client: &Client) -> Result<()> {
    let ours = ListParams::default().labels(&format!("{LEASED_LABEL}=true"));
    let pods = Api::<Pod>::all(client.clone()).list(&ours).await.context("failed to list pods")?;
    for pod in pods.items.iter().filter(|pod| crate::world::gate(pod).is_some()) {
        let api = Api::<Pod>::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
        if crate::leases::owner_of(pod).is_some() {
            drop(api.delete(&pod.name_any(), &DeleteParams::default()).await);
        } else {
            warn!(
                namespace = pod.namespace(),
                pod = pod.name_any(),
                "it waits for a lease and nobody makes it again: delete it, and make it without"
            );
        }
    }
    Ok(())
}
