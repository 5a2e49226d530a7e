//! Watches of everything the operator decides by, as one stream of news. It may not decide; an object that cannot be read stops nobody else.

use std::any::type_name;
use std::fmt::Debug;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ObjectMeta;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use memboss_crds::{LeaseKind, MemoryNode, ModelLoad, RAM_MARK, RamLease, VramLease};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tracing::warn;

use crate::certs::WEBHOOK as ADMISSION;
use crate::world::Key;

/// Something was seen.
#[derive(Debug)]
pub enum News {
    /// A pod is so.
    Pod(Box<Pod>),
    /// A node is so.
    Node(Box<Node>),
    /// An agent reports so.
    Memory(Box<MemoryNode>),
    /// A lease is so.
    Lease(Box<VramLease>),
    /// It is gone.
    Gone(Kind, Key),
    /// Admission of pods is closed, before an uninstall, or open.
    Closed(bool),
    /// It is there and cannot be read: what was last known of it goes on to count.
    Unreadable(Kind, Key),
    /// A kind that is not served yet.
    Model(Box<ModelLoad>),
    /// All of a kind is listed again: what is not told now is gone.
    Again(Kind),
    /// All of a kind has been told.
    Told(Kind),
}

/// The kinds that are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Pods.
    Pods,
    /// Nodes.
    Nodes,
    /// Reports of agents.
    Memory,
    /// Leases of GPU memory.
    Leases,
    /// Leases of RAM alone.
    RamLeases,
}

impl From<LeaseKind> for Kind {
    fn from(kind: LeaseKind) -> Self {
        match kind {
            LeaseKind::Vram => Self::Leases,
            LeaseKind::Ram => Self::RamLeases,
        }
    }
}

/// Starts all watches; they end when nobody listens.
pub fn start(client: &Client, news: &mpsc::Sender<News>) {
    kept(Api::all(client.clone()), Kind::Pods, news, |pod| News::Pod(Box::new(slim(pod))));
    kept(Api::all(client.clone()), Kind::Nodes, news, |node| News::Node(Box::new(node)));
    kept(Api::all(client.clone()), Kind::Memory, news, |node| News::Memory(Box::new(node)));
    kept(Api::all(client.clone()), Kind::Leases, news, |lease| News::Lease(Box::new(lease)));
    kept(Api::all(client.clone()), Kind::RamLeases, news, |lease: RamLease| News::Lease(Box::new(lease.into())));
    let admission = watcher::Config::default().fields(&format!("metadata.name={ADMISSION}"));
    told(Api::all(client.clone()), admission, news, |admission: MutatingWebhookConfiguration| {
        News::Closed(admission.webhooks.is_none_or(|webhooks| webhooks.is_empty()))
    });
    told(Api::all(client.clone()), watcher::Config::default(), news, |load| News::Model(Box::new(load)));
}

/// What is never looked at need not be kept.
fn slim(mut pod: Pod) -> Pod {
    pod.metadata.managed_fields = None;
    pod
}

/// The name under which an object is kept: of a kind without namespaces, its name alone.
fn kept_as(kind: Kind, meta: &ObjectMeta) -> Key {
    let name = meta.name.clone().unwrap_or_default();
    match kind {
        Kind::Nodes | Kind::Memory => name,
        Kind::Pods | Kind::Leases => format!("{}/{name}", meta.namespace.as_deref().unwrap_or_default()),
        Kind::RamLeases => format!("{}/{RAM_MARK}{name}", meta.namespace.as_deref().unwrap_or_default()),
    }
}

fn kept<K>(api: Api<DeserializeGuard<K>>, kind: Kind, news: &mpsc::Sender<News>, here: fn(K) -> News)
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let news = news.clone();
    tokio::spawn(async move {
        let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
        while let Some(event) = next(&mut events).await {
            let piece = match event {
                Event::Init => News::Again(kind),
                Event::InitDone => News::Told(kind),
                Event::Delete(object) => News::Gone(kind, kept_as(kind, object.meta())),
                Event::InitApply(object) | Event::Apply(object) => seen(kind, object, here),
            };
            if news.send(piece).await.is_err() {
                return;
            }
        }
    });
}

fn seen<K: Resource>(kind: Kind, object: DeserializeGuard<K>, here: fn(K) -> News) -> News {
    match read(object) {
        Ok(object) => here(object),
        Err(meta) => News::Unreadable(kind, kept_as(kind, &meta)),
    }
}

/// The object, or what can be said of one that cannot be read.
fn read<K>(object: DeserializeGuard<K>) -> Result<K, Box<ObjectMeta>> {
    object.0.map_err(|bad| {
        let (namespace, name) = (bad.metadata.namespace.as_deref(), bad.metadata.name.as_deref());
        let kind = type_name::<K>().rsplit("::").next();
        warn!(kind, namespace, name, error = bad.error, "an object cannot be read and is passed over");
        Box::new(bad.metadata)
    })
}

/// What happens to the objects that can be read; the others are as if they were not there.
pub(crate) fn readable<K>(
    api: Api<DeserializeGuard<K>>,
    config: watcher::Config,
) -> impl futures::Stream<Item = Event<K>> + Send + Unpin
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let events = watcher(api, config).default_backoff().boxed();
    let all = stream::unfold(events, async |mut events| Some((next(&mut events).await?, events)));
    let good = all.filter_map(async |event| match event {
        Event::Init => Some(Event::Init),
        Event::InitDone => Some(Event::InitDone),
        Event::InitApply(object) => read(object).ok().map(Event::InitApply),
        Event::Apply(object) => read(object).ok().map(Event::Apply),
        Event::Delete(object) => read(object).ok().map(Event::Delete),
    });
    good.boxed()
}

fn told<K>(api: Api<DeserializeGuard<K>>, config: watcher::Config, news: &mpsc::Sender<News>, here: fn(K) -> News)
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let news = news.clone();
    tokio::spawn(async move {
        // One that cannot be read cannot be answered either.
        let mut events = readable(api, config);
        while let Some(event) = events.next().await {
            if let Event::InitApply(object) | Event::Apply(object) = event
                && news.send(here(object)).await.is_err()
            {
                return;
            }
        }
    });
}

/// The next good thing of a stream whose errors pass by themselves.
async fn next<T>(stream: &mut (impl futures::Stream<Item = Result<T, watcher::Error>> + Unpin)) -> Option<T> {
    loop {
        match stream.try_next().await {
            Ok(found) => return found,
            Err(error) => warn!(error = &error as &dyn std::error::Error, "a watch was interrupted and goes on"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_object_that_cannot_be_read_is_told_of_and_stops_nobody_else() {
        let of_a_later_version = json!({
            "metadata": { "name": "a", "namespace": "ns" },
            "spec": { "subject": { "podName": "p", "podUid": "u" }, "slots": [], "class": "imperial" }
        });
        let object: DeserializeGuard<VramLease> = serde_json::from_value(of_a_later_version).unwrap();
        let news = seen(Kind::Leases, object, |lease| News::Lease(Box::new(lease)));
        assert!(matches!(news, News::Unreadable(Kind::Leases, key) if key == "ns/a"));
    }

    #[test]
    fn kinds_without_namespaces_are_kept_by_name() {
        let meta = ObjectMeta { name: Some("node1".into()), ..ObjectMeta::default() };
        assert_eq!((kept_as(Kind::Memory, &meta), kept_as(Kind::Pods, &meta)), ("node1".into(), "/node1".into()));
    }
}
