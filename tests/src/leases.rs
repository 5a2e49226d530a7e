//! Leases as a user sees them: read from the API server, found by their pod. It may not know what a test expects of them.

use anyhow::{Context, Result};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, Client};
use serde_json::Value;

use crate::wait::until;

/// A lease, read as its YAML is.
#[derive(Clone, Debug)]
pub struct Seen(Value);

impl Seen {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    /// The one word for its state.
    #[must_use]
    pub fn phase(&self) -> &str {
        self.text("/status/phase")
    }

    /// Where it is placed.
    #[must_use]
    pub fn node(&self) -> &str {
        self.text("/status/placement/node")
    }

    /// UUIDs of the GPUs that its agent allocated.
    #[must_use]
    pub fn gpus(&self) -> Vec<String> {
        let shares = self.0.pointer("/status/allocation/gpus").and_then(Value::as_array).cloned().unwrap_or_default();
        shares.iter().filter_map(|share| share["uuid"].as_str().map(ToOwned::to_owned)).collect()
    }

    /// Amounts on them, in MiB.
    #[must_use]
    pub fn amounts(&self) -> Vec<u64> {
        let shares = self.0.pointer("/status/allocation/gpus").and_then(Value::as_array).cloned().unwrap_or_default();
        shares.iter().filter_map(|share| share["memory"].as_str().and_then(mib)).collect()
    }

    /// Its place in the queue, from 1.
    #[must_use]
    pub fn position(&self) -> Option<u64> {
        self.0.pointer("/status/queue/position").and_then(Value::as_u64)
    }

    /// Why it waits: the reason's name and the words.
    #[must_use]
    pub fn why(&self) -> (&str, &str) {
        (self.text("/status/queue/reason"), self.text("/status/queue/message"))
    }

    /// Why it ended.
    #[must_use]
    pub fn end_reason(&self) -> &str {
        self.text("/status/endReason")
    }

    /// Any field, by JSON pointer; empty if it is not there.
    #[must_use]
    pub fn text(&self, pointer: &str) -> &str {
        self.0.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// Any field, by JSON pointer.
    #[must_use]
    pub fn field(&self, pointer: &str) -> Option<&Value> {
        self.0.pointer(pointer)
    }

    /// A condition's status and message.
    #[must_use]
    pub fn condition(&self, kind: &str) -> Option<(&str, &str, &str)> {
        let all = self.0.pointer("/status/conditions").and_then(Value::as_array)?;
        let found = all.iter().find(|condition| condition["type"] == kind)?;
        Some((found["status"].as_str()?, found["reason"].as_str()?, found["message"].as_str()?))
    }
}

/// MiB of a Kubernetes quantity in Mi or Gi.
#[must_use]
pub fn mib(quantity: &str) -> Option<u64> {
    match quantity.strip_suffix("Gi") {
        Some(gi) => gi.parse::<u64>().ok().map(|gi| gi * 1024),
        None => quantity.strip_suffix("Mi")?.parse().ok(),
    }
}

/// The API of one of our kinds.
#[must_use]
pub fn api(client: &Client, kind: &str, plural: &str, namespace: Option<&str>) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("memboss.dev", "v1alpha1", kind), plural);
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

/// All leases of a namespace, of both kinds.
///
/// # Errors
/// When the API server does not answer.
pub async fn all(client: &Client, namespace: &str) -> Result<Vec<Seen>> {
    let mut items = Vec::new();
    for (kind, plural) in [("VramLease", "vramleases"), ("RamLease", "ramleases")] {
        items.extend(api(client, kind, plural, Some(namespace)).list(&ListParams::default()).await?.items);
    }
    items.into_iter().map(|item| Ok(Seen(serde_json::to_value(item)?))).collect()
}

/// Host RAM of a node that can be leased, and what of it is, in MiB.
///
/// # Errors
/// When the API server does not answer, or the node's agent has not reported.
pub async fn ram(client: &Client, node: &str) -> Result<(u64, u64)> {
    let node = api(client, "MemoryNode", "memorynodes", None).get(node).await?;
    let amount = |field: &str| node.data.pointer(&format!("/status/ram/{field}")).and_then(Value::as_str).and_then(mib);
    amount("leasable").zip(amount("leased")).context("the node reports no RAM")
}

/// Whether that node says that its driver has not told yet which GPUs there are.
///
/// # Errors
/// When the API server does not answer.
pub async fn gpus_unread(client: &Client, node: &str) -> Result<bool> {
    let node = api(client, "MemoryNode", "memorynodes", None).get(node).await?;
    Ok(node.data.pointer("/status/gpusUnread").and_then(Value::as_bool).unwrap_or_default())
}

/// The lease of the living pod of that name.
///
/// # Errors
/// When the API server does not answer.
pub async fn of_pod(client: &Client, namespace: &str, pod: &str) -> Result<Option<Seen>> {
    let Some(living) = crate::pods::get(client, namespace, pod).await? else { return Ok(None) };
    let uid = living.metadata.uid.unwrap_or_default();
    Ok(all(client, namespace).await?.into_iter().find(|lease| lease.text("/spec/subject/podUid") == uid))
}

/// Waits until the lease of a pod looks as `looks` wants.
///
/// # Errors
/// When it never does; the message has its status as it was last.
pub async fn until_of(
    client: &Client,
    namespace: &str,
    pod: &str,
    what: &str,
    looks: impl Fn(&Seen) -> bool,
) -> Result<Seen> {
    let found = until(&format!("lease of {pod} {what}"), 60, || async {
        Ok(of_pod(client, namespace, pod).await?.filter(|l| looks(l)))
    })
    .await;
    match found {
        Ok(lease) => Ok(lease),
        Err(error) => {
            let last = of_pod(client, namespace, pod).await.ok().flatten();
            let status = last.and_then(|lease| lease.field("/status").map(ToString::to_string));
            Err(error).with_context(|| format!("its status: {}", status.unwrap_or_else(|| "there is no lease".into())))
        }
    }
}

/// What the agents report: each GPU of each node, by UUID.
///
/// # Errors
/// When the API server does not answer.
pub async fn gpus(client: &Client) -> Result<Vec<Gpu>> {
    let list = api(client, "MemoryNode", "memorynodes", None).list(&ListParams::default()).await?;
    let mut gpus = Vec::new();
    for node in list.items {
        let name = node.metadata.name.clone().unwrap_or_default();
        for gpu in node.data.pointer("/status/gpus").and_then(Value::as_array).cloned().unwrap_or_default() {
            let amount = |field: &str| gpu[field].as_str().and_then(mib).unwrap_or_default();
            gpus.push(Gpu {
                node: name.clone(),
                uuid: gpu["uuid"].as_str().unwrap_or_default().to_owned(),
                model: gpu["model"].as_str().unwrap_or_default().to_owned(),
                leasable: amount("leasable"),
                leased: amount("leased"),
                foreign: amount("foreign"),
                used: amount("used"),
                health: gpu["health"].as_str().unwrap_or_default().to_owned(),
            });
        }
    }
    Ok(gpus)
}

/// A GPU as its agent reports it; amounts in MiB.
#[derive(Clone, Debug)]
pub struct Gpu {
    /// Its node.
    pub node: String,
    /// Its UUID.
    pub uuid: String,
    /// Its model.
    pub model: String,
    /// What can be leased.
    pub leasable: u64,
    /// What is charged.
    pub leased: u64,
    /// What others use.
    pub foreign: u64,
    /// What NVML shows in use.
    pub used: u64,
    /// Its health.
    pub health: String,
}

/// Fails if more is charged on a GPU than it has, or leases that hold memory add up to more.
///
/// # Errors
/// The GPU and the figures.
pub async fn nothing_granted_twice(client: &Client) -> Result<()> {
    let list = api(client, "VramLease", "vramleases", None).list(&ListParams::default()).await?;
    let leases: Vec<_> =
        list.items.into_iter().map(|item| Ok(Seen(serde_json::to_value(item)?))).collect::<Result<_>>()?;
    for gpu in gpus(client).await? {
        let holds = |lease: &&Seen| {
            matches!(lease.text("/status/allocation/state"), "Reserved" | "Active" | "Revoking" | "Stopping")
        };
        // What comes out of a pod's lease is counted there.
        let part = |lease: &&Seen| lease.text("/metadata/labels/memboss.dev~1in-code") == "part";
        let sum: u64 = leases
            .iter()
            .filter(|lease| holds(lease) && !part(lease))
            .flat_map(|lease| lease.gpus().into_iter().zip(lease.amounts()))
            .filter(|(uuid, _)| *uuid == gpu.uuid)
            .map(|(_, amount)| amount)
            .sum();
        anyhow::ensure!(sum <= gpu.leasable, "GPU {} of {} MiB has leases of {sum} MiB", gpu.uuid, gpu.leasable);
    }
    Ok(())
}
