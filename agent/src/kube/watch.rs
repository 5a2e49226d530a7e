//! What comes from the API server: leases that are placed here, the administrator's wishes for the node, and which installation it is.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource, ResourceExt as _};
use memboss_core::{GpuUuid, Span};
use memboss_crds::{IN_CODE_LABEL, INCARNATION, LeaseKind, MemoryNode, VramLease};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use super::{Cluster, lease, pause};
use crate::node::Input;
use crate::node::admin::{Scope, Wish};

/// Pause between two questions for the incarnation that were not answered as hoped.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// Follows the leases of one kind that are placed on this node.
pub(super) async fn leases<K>(cluster: Cluster, kind: LeaseKind, relisted: Arc<Notify>) -> anyhow::Result<()>
where
    K: Resource<DynamicType = ()> + Into<VramLease> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let api: Api<K> = Api::all(cluster.client.clone());
    // What shows a lease in code is no order.
    let config = watcher::Config::default()
        .fields(&format!("status.placement.node={}", cluster.node))
        .labels(&format!("!{IN_CODE_LABEL}"));
    let events = kube::runtime::watcher(api, config).default_backoff();
    let node = cluster.node.clone();
    let mut listed = Vec::new();
    follow(&cluster, kind.name(), events, |event| match event {
        Event::Init => {
            listed.clear();
            None
        }
        Event::InitApply(object) => {
            listed.extend(readable(&object.into(), &node));
            None
        }
        Event::InitDone => {
            relisted.notify_one();
            Some(Input::Orders(kind, std::mem::take(&mut listed)))
        }
        Event::Apply(object) => {
            let object = object.into();
            match readable(&object, &node) {
                Some(order) => Some(Input::Order(Box::new(order))),
                None => lease::id(&object).ok().map(Input::OrderGone),
            }
        }
        Event::Delete(object) => lease::id(&object.into()).ok().map(Input::OrderGone),
    })
    .await
}

fn readable(object: &VramLease, node: &str) -> Option<crate::order::Order> {
    lease::order(object, node).unwrap_or_else(|error| {
        tracing::warn!(%error, "passed over");
        None
    })
}

/// Follows what the administrator wants of this node.
pub(super) async fn wishes(cluster: Cluster) -> anyhow::Result<()> {
    let api: Api<MemoryNode> = Api::all(cluster.client.clone());
    let config = watcher::Config::default().fields(&format!("metadata.name={}", cluster.node));
    let events = kube::runtime::watcher(api, config).default_backoff();
    let mut last = None;
    follow(&cluster, "memory node", events, |event| match event {
        Event::InitApply(node) | Event::Apply(node) => {
            // Its status is ours and changes all the time.
            let gpus = node.spec.drain_gpus.into_iter().filter_map(|uuid| GpuUuid::new(uuid).ok()).collect();
            let within = node.spec.drain_deadline_seconds.map(|seconds| Span::from_secs(seconds.into()));
            let wish = Wish { scope: Scope { node: node.spec.drain, gpus }, within };
            if last.as_ref() == Some(&wish) {
                return None;
            }
            last = Some(wish.clone());
            Some(Input::Drain(wish))
        }
        _ => None,
    })
    .await
}

/// Hands on what a watch tells, until the shutdown; what goes wrong is logged once and tried again by the watch itself.
pub(super) async fn follow<K, S>(
    cluster: &Cluster,
    what: &'static str,
    events: S,
    mut input: impl FnMut(Event<K>) -> Option<Input>,
) -> anyhow::Result<()>
where
    S: Stream<Item = Result<Event<K>, watcher::Error>> + Send,
{
    let mut events = Box::pin(events.take_until(cluster.shutdown.clone().cancelled_owned()));
    let mut broken = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                if std::mem::take(&mut broken) {
                    tracing::info!(what, "the watch goes on");
                }
                if let Some(input) = input(event)
                    && cluster.inputs.send(input).await.is_err()
                {
                    return Ok(());
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut broken, true) {
                    tracing::warn!(what, error = &error as &dyn std::error::Error, "the watch broke; trying again");
                }
            }
        }
    }
    Ok(())
}

/// Asks which installation this is whenever the node wants to know.
pub(super) async fn incarnation(mut cluster: Cluster) -> anyhow::Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    loop {
        let shutdown = cluster.shutdown.clone();
        let wanted = cluster.snapshots.wait_for(|snapshot| snapshot.wants_incarnation);
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            wanted = wanted => if wanted.is_err() { return Ok(()) },
        }
        match api.get_opt(INCARNATION).await {
            Ok(Some(map)) => {
                let name = map.name_any();
                match map.data.and_then(|data| data.get("incarnation").cloned()) {
                    Some(incarnation) => {
                        if cluster.inputs.send(Input::Incarnation(incarnation)).await.is_err() {
                            return Ok(());
                        }
                    }
                    None => tracing::warn!(name, "has no key \"incarnation\": placements wait"),
                }
            }
            Ok(None) => tracing::warn!(name = INCARNATION, "is not there: placements wait"),
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "cannot read {INCARNATION}"),
        }
        pause(&cluster.shutdown, ASK_AGAIN).await;
    }
}
