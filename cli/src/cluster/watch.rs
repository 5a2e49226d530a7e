//! A cluster as it changes: one picture after another, made from three watches. It asks nothing else.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::stream::{BoxStream, select_all};
use futures::{Stream, StreamExt as _};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource, ResourceExt as _};
use memboss_crds::{MemoryNode, RamLease, VramLease};

use super::{Picture, now, words};
use crate::exit::Failure;
use crate::way::{Server, refused};

/// What is told together is shown together.
const AT_ONCE: usize = 256;
/// For how long something has been so is told again, though nothing else has changed.
const PACE: Duration = Duration::from_secs(1);

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Leases alone, which whoever may see one namespace may see there.
    Leases,
    /// Leases and nodes.
    All,
}

/// News of one kind.
enum News {
    /// Time went by.
    Tick,
    Node(Event<MemoryNode>),
    Vram(Event<VramLease>),
    Ram(Event<VramLease>),
}

type Heard = Result<News, watcher::Error>;

/// All of one kind that is known, and whether that is all there is.
struct Known<K> {
    objects: BTreeMap<String, K>,
    complete: bool,
}

impl<K> Default for Known<K> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), complete: false }
    }
}

impl<K: Resource> Known<K> {
    fn hear(&mut self, event: Event<K>) {
        let key = |object: &K| format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
        match event {
            Event::Init => *self = Self::default(),
            Event::InitApply(object) | Event::Apply(object) => drop(self.objects.insert(key(&object), object)),
            Event::InitDone => self.complete = true,
            Event::Delete(object) => drop(self.objects.remove(&key(&object))),
        }
    }
}

#[derive(Default)]
struct All {
    nodes: Known<MemoryNode>,
    vram: Known<VramLease>,
    ram: Known<VramLease>,
}

impl All {
    fn hear(&mut self, news: News) {
        match news {
            News::Tick => {}
            News::Node(event) => self.nodes.hear(event),
            News::Vram(event) => self.vram.hear(event),
            News::Ram(event) => self.ram.hear(event),
        }
    }

    fn picture(&self) -> Option<Picture> {
        let complete = self.nodes.complete && self.vram.complete && self.ram.complete;
        let leases = self.vram.objects.values().chain(self.ram.objects.values());
        complete.then(|| words::picture(self.nodes.objects.values(), leases, now()))
    }
}

/// An event of one kind of lease as one of both.
fn among_both(event: Event<RamLease>) -> Event<VramLease> {
    match event {
        Event::Apply(lease) => Event::Apply(lease.into()),
        Event::Delete(lease) => Event::Delete(lease.into()),
        Event::InitApply(lease) => Event::InitApply(lease.into()),
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
    }
}

impl Server {
    /// What there is now, and again on every change and every second. A watch that breaks is told, and begun again.
    pub(crate) fn watch(&self, wanted: Wanted) -> impl Stream<Item = Result<Picture, Failure>> + Send + Unpin + use<> {
        let on = self.on.clone();
        let (vram, ram) = self.lease_apis(self.namespace.as_deref());
        let nodes = watcher(Api::<MemoryNode>::all(self.client.clone()), watcher::Config::default()).default_backoff();
        let vram = watcher(vram, watcher::Config::default()).default_backoff();
        let ram = watcher(ram, watcher::Config::default()).default_backoff();
        let ticks = futures::stream::unfold((), |()| async {
            tokio::time::sleep(PACE).await;
            Some((Ok(News::Tick), ()))
        });
        let mut all: Vec<BoxStream<'static, Heard>> = vec![
            ticks.boxed(),
            vram.map(|heard| heard.map(News::Vram)).boxed(),
            ram.map(|heard| heard.map(|event| News::Ram(among_both(event)))).boxed(),
        ];
        let mut known = All::default();
        if wanted == Wanted::All || on.is_some() {
            all.push(nodes.map(|heard| heard.map(News::Node)).boxed());
        } else {
            known.nodes.complete = true;
        }
        let mut is_broken = false;
        let pictures = select_all(all).ready_chunks(AT_ONCE).filter_map(move |heard| {
            let mut trouble = None;
            for news in heard {
                match news {
                    Ok(news) => {
                        is_broken &= matches!(news, News::Tick);
                        known.hear(news);
                    }
                    Err(error) => trouble = Some(broken(&error)),
                }
            }
            is_broken |= trouble.is_some();
            let told = (!is_broken).then(|| known.picture()).flatten().map(|picture| picture.of(on.as_deref()));
            std::future::ready(trouble.map(Err).or(told))
        });
        pictures.boxed()
    }
}

fn broken(error: &watcher::Error) -> Failure {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => refused(error),
        other => Failure::Undone(other.to_string()),
    }
}
