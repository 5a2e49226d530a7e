//! What people should know of, as events on the lease or the node's `MemoryNode`. Best effort: one that cannot be written is in the log.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use memboss_crds::AGENT;
use tokio::sync::mpsc;

use super::Cluster;
use crate::node::view::LeaseSeen;
use crate::node::{News, Severity};
use crate::order::object_name;

/// Writes events until the shutdown.
pub(super) async fn run(cluster: Cluster, mut news: mpsc::UnboundedReceiver<News>) -> anyhow::Result<()> {
    let reporter = Reporter { controller: AGENT.to_owned(), instance: Some(cluster.node.clone()) };
    let recorder = Recorder::new(cluster.client.clone(), reporter);
    loop {
        let item = tokio::select! {
            () = cluster.shutdown.cancelled() => return Ok(()),
            item = news.recv() => match item {
                Some(item) => item,
                None => return Ok(()),
            },
        };
        let about = about(&cluster, &item);
        let event = Event {
            type_: match item.severity {
                Severity::Normal => EventType::Normal,
                Severity::Warning => EventType::Warning,
            },
            reason: item.reason,
            note: Some(item.message.chars().take(1000).collect()),
            action: "Observe".to_owned(),
            secondary: None,
        };
        if let Err(error) = recorder.publish(&event, &about).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "an event could not be written");
        }
    }
}

fn about(cluster: &Cluster, item: &News) -> ObjectReference {
    let api_version = Some("memboss.dev/v1alpha1".to_owned());
    let snapshot = cluster.snapshots.borrow().clone();
    match &item.lease {
        // It may have no object: what leases in code is a pod.
        Some(lease) if snapshot.leases.get(lease).is_some_and(|seen| seen.in_code().is_some()) => {
            let whose = snapshot.leases.get(lease).and_then(LeaseSeen::in_code);
            let pod = whose.and_then(|whose| whose.named.clone());
            ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                namespace: pod.as_ref().map(|pod| pod.namespace.clone()),
                name: pod.as_ref().map(|pod| pod.name.clone()),
                uid: pod.map(|pod| pod.pod.0),
                ..ObjectReference::default()
            }
        }
        Some(lease) => {
            let (kind, namespace, name) = object_name(lease);
            let uid = snapshot.leases.get(lease).map(|seen| seen.answered.object.clone());
            ObjectReference {
                api_version,
                kind: Some(kind.name().to_owned()),
                namespace: Some(namespace.to_owned()),
                name: Some(name.to_owned()),
                uid,
                ..ObjectReference::default()
            }
        }
        None => ObjectReference {
            api_version,
            kind: Some("MemoryNode".to_owned()),
            name: Some(cluster.node.clone()),
            ..ObjectReference::default()
        },
    }
}
