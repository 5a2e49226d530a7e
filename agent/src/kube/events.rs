//! What people should know of, as events on the lease or the node's `MemoryNode`. Best effort: one that cannot be written is in the log.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use memboss_crds::AGENT;
use tokio::sync::mpsc;

use super::Cluster;
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
    match &item.lease {
        Some(lease) => {
            let (kind, namespace, name) = object_name(lease);
            let uid = cluster.snapshots.borrow().leases.get(lease).map(|seen| seen.answered.object.clone());
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
