//! Watches of everything the operator decides by, as one stream of news. It may not decide; an object that cannot be read stops nobody else.

use std::fmt::Debug;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use memboss_crds::{MemoryNode, ModelLoad, RamLease, VramLease};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tracing::warn;

/// Something was seen.
#[derive(Debug)]
pub enum News {
    /// A pod is so.
    Pod(Box<Pod>),
    /// A pod is gone.
    NoPod(Box<Pod>),
    /// A node is so.
    Node(Box<Node>),
    /// A node is gone.
    NoNode(Box<Node>),
    /// An agent reports so.
    Memory(Box<MemoryNode>),
    /// A report is gone.
    NoMemory(Box<MemoryNode>),
    /// A lease is so.
    Lease(Box<VramLease>),
    /// A lease is gone.
    NoLease(Box<VramLease>),
    /// A kind that is not served yet.
    Ram(Box<RamLease>),
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
    /// Leases.
    Leases,
}

/// Starts all watches; they end when nobody listens.
pub fn start(client: &Client, news: &mpsc::Sender<News>) {
    kept(
        Api::<Pod>::all(client.clone()),
        Kind::Pods,
        news,
        |p| News::Pod(Box::new(slim(p))),
        |p| News::NoPod(Box::new(p)),
    );
    kept(
        Api::<Node>::all(client.clone()),
        Kind::Nodes,
        news,
        |n| News::Node(Box::new(n)),
        |n| News::NoNode(Box::new(n)),
    );
    kept(
        Api::<MemoryNode>::all(client.clone()),
        Kind::Memory,
        news,
        |m| News::Memory(Box::new(m)),
        |m| News::NoMemory(Box::new(m)),
    );
    kept(
        Api::<VramLease>::all(client.clone()),
        Kind::Leases,
        news,
        |l| News::Lease(Box::new(l)),
        |l| News::NoLease(Box::new(l)),
    );
    told(Api::<RamLease>::all(client.clone()), news, |lease| News::Ram(Box::new(lease)));
    told(Api::<ModelLoad>::all(client.clone()), news, |load| News::Model(Box::new(load)));
}

/// What is never looked at need not be kept.
fn slim(mut pod: Pod) -> Pod {
    pod.metadata.managed_fields = None;
    pod
}

fn kept<K>(api: Api<K>, kind: Kind, news: &mpsc::Sender<News>, here: fn(K) -> News, gone: fn(K) -> News)
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let news = news.clone();
    tokio::spawn(async move {
        let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
        while let Some(event) = next(&mut events).await {
            let piece = match event {
                Event::Init => News::Again(kind),
                Event::InitApply(object) | Event::Apply(object) => here(object),
                Event::InitDone => News::Told(kind),
                Event::Delete(object) => gone(object),
            };
            if news.send(piece).await.is_err() {
                return;
            }
        }
    });
}

fn told<K>(api: Api<K>, news: &mpsc::Sender<News>, here: fn(K) -> News)
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let news = news.clone();
    tokio::spawn(async move {
        let mut objects = watcher(api, watcher::Config::default()).default_backoff().applied_objects().boxed();
        while let Some(object) = next(&mut objects).await {
            if news.send(here(object)).await.is_err() {
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
