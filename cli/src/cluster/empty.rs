//! A node's wish to be empty, in whole or of some GPUs, as it stands in its `MemoryNode`: the operator sends nobody there, the agent asks who is there to go.
//! What becomes of it is seen in the leases.

use std::collections::{BTreeMap, BTreeSet};

use futures::{Stream, StreamExt as _};
use kube::Api;
use kube::api::{Patch, PatchParams};
use memboss_agent_api::v1::{DrainProgress, LeaseView, Phase};
use memboss_crds::{MemoryNode, MemoryNodeSpec};
use serde_json::json;

use super::{Picture, Placed, Wanted};
use crate::exit::Failure;
use crate::way::{Server, refused};

/// How often a wish is written again that somebody else changed in between.
const TRIES: usize = 10;

/// Where: nodes, and on each its GPUs; none for all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Places(BTreeMap<String, Vec<String>>);

impl Places {
    /// All of those nodes.
    pub(crate) fn nodes(names: impl IntoIterator<Item = String>) -> Self {
        Self(names.into_iter().map(|name| (name, Vec::new())).collect())
    }

    /// GPUs, node by node.
    pub(crate) fn gpus(gpus: BTreeMap<String, Vec<String>>) -> Self {
        Self(gpus)
    }

    /// Who holds anything there, lower classes first.
    pub(crate) fn who(&self, picture: &Picture) -> Vec<LeaseView> {
        let there = picture.leases.iter().filter(|placed| self.has(placed)).map(|placed| placed.view.clone());
        let mut there: Vec<LeaseView> = there.collect();
        let class = |lease: &LeaseView| lease.class.parse::<memboss_core::Class>().ok();
        there.sort_by_cached_key(|lease| (class(lease), lease.lease.clone()));
        there
    }

    fn has(&self, placed: &Placed) -> bool {
        let holds = matches!(placed.view.phase(), Phase::Reserved | Phase::Active | Phase::Revoking | Phase::Stopping);
        holds
            && self
                .0
                .get(&placed.node)
                .is_some_and(|gpus| gpus.is_empty() || placed.view.gpus.iter().any(|share| gpus.contains(&share.uuid)))
    }

    /// How far it has come since those were there.
    fn progress(&self, before: &[LeaseView], picture: &Picture) -> DrainProgress {
        let remaining = self.who(picture);
        let gone = before.iter().filter(|lease| remaining.iter().all(|other| other.lease != lease.lease)).count();
        let done = remaining.is_empty();
        DrainProgress { remaining, gone: u32::try_from(gone).unwrap_or(u32::MAX), done }
    }
}

fn open(spec: &mut MemoryNodeSpec, gpus: &[String]) {
    spec.drain &= !gpus.is_empty();
    spec.drain_gpus.retain(|uuid| !gpus.contains(uuid));
    if !spec.drain && spec.drain_gpus.is_empty() {
        spec.drain_deadline_seconds = None;
    }
}

/// What keeps a node that is wished so closed where it was to be opened: those GPUs, or all of it.
fn still_closed(spec: &MemoryNodeSpec, gpus: &[String]) -> Option<String> {
    if spec.drain {
        return Some("opened, but the whole node is drained too: undo that (--node --undo)".to_owned());
    }
    let closed = gpus.is_empty() && !spec.drain_gpus.is_empty();
    closed
        .then(|| format!("opened, but for what is drained by itself: undo that ({} --undo)", spec.drain_gpus.join(" ")))
}

impl Server {
    /// Wishes those places empty, in so many seconds if that is said. A node has one such time for all that is to be empty there: what is said last.
    pub(crate) async fn close(&self, places: &Places, within: Option<u32>) -> Result<(), Failure> {
        for (node, gpus) in &places.0 {
            let close = |spec: &mut MemoryNodeSpec| {
                spec.drain_deadline_seconds = within;
                spec.drain |= gpus.is_empty();
                let new = gpus.iter().filter(|uuid| !spec.drain_gpus.contains(uuid)).cloned().collect::<Vec<_>>();
                spec.drain_gpus.extend(new);
            };
            self.wish_of(node, close).await?;
        }
        Ok(())
    }

    /// Takes that wish back. Another wish may keep the place closed all the same.
    pub(crate) async fn open(&self, places: &Places) -> Result<(), Failure> {
        let mut left = None;
        for (node, gpus) in &places.0 {
            let spec = self.wish_of(node, |spec| open(spec, gpus)).await?;
            left = left.or(still_closed(&spec, gpus));
        }
        left.map_or(Ok(()), |why| Err(Failure::Undone(why)))
    }

    /// Who is still there of those, now and on every change, until nobody is.
    pub(crate) fn emptying(
        &self,
        places: Places,
        before: Vec<LeaseView>,
    ) -> impl Stream<Item = Result<DrainProgress, Failure>> + Unpin + use<> {
        let mut told: Option<(BTreeSet<(String, i32)>, u32)> = None;
        let steps = self.watch(Wanted::Leases).filter_map(move |picture| {
            let step = picture.map(|picture| places.progress(&before, &picture));
            let news = step.as_ref().map_or(true, |step| {
                let stage = step.remaining.iter().map(|lease| (lease.lease.clone(), lease.phase)).collect();
                let stage = Some((stage, step.gone));
                std::mem::replace(&mut told, stage.clone()) != stage
            });
            std::future::ready(news.then_some(step))
        });
        steps.boxed()
    }

    /// What is wished of the node then.
    async fn wish_of(&self, node: &str, change: impl Fn(&mut MemoryNodeSpec)) -> Result<MemoryNodeSpec, Failure> {
        let api = Api::<MemoryNode>::all(self.client.clone());
        for _ in 0..TRIES {
            let there = api.get(node).await.map_err(|error| refused(&error))?;
            let mut spec = there.spec.clone();
            change(&mut spec);
            if spec == there.spec {
                return Ok(spec);
            }
            let mut wanted = json!(spec);
            // A patch takes away only what it names.
            wanted["drainDeadlineSeconds"] = json!(spec.drain_deadline_seconds);
            let patch = json!({ "metadata": { "resourceVersion": there.metadata.resource_version }, "spec": wanted });
            match api.patch(node, &PatchParams::default(), &Patch::Merge(patch)).await {
                Err(kube::Error::Api(answer)) if answer.code == 409 => {}
                other => return other.map(|_| spec).map_err(|error| refused(&error)),
            }
        }
        Err(Failure::Undone(format!("MemoryNode {node} changes too fast: ask again")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memboss_agent_api::v1::GpuShare;

    #[test]
    fn what_another_wish_keeps_closed_is_told() {
        let spec = |drain, gpus: &[&str]| MemoryNodeSpec {
            drain,
            drain_gpus: gpus.iter().map(ToString::to_string).collect(),
            ..MemoryNodeSpec::default()
        };
        let gpu = ["GPU-0".to_owned()];
        assert!(still_closed(&spec(true, &[]), &gpu).unwrap().contains("--node --undo"));
        assert!(still_closed(&spec(false, &["GPU-1"]), &[]).unwrap().contains("GPU-1 --undo"));
        assert_eq!((still_closed(&spec(false, &["GPU-1"]), &gpu), still_closed(&spec(false, &[]), &[])), (None, None));
    }

    #[test]
    fn who_is_there_is_whoever_holds_of_that_node_or_gpu_lower_classes_first() {
        let lease = |name: &str, class: &str, phase: Phase, uuid: &str| Placed {
            view: LeaseView {
                lease: name.into(),
                class: class.into(),
                phase: phase.into(),
                gpus: vec![GpuShare { uuid: uuid.into(), ..GpuShare::default() }],
                ..LeaseView::default()
            },
            node: "node1".into(),
        };
        let leases = vec![
            lease("a", "high", Phase::Active, "GPU-0"),
            lease("b", "batch", Phase::Reserved, "GPU-0"),
            lease("c", "batch", Phase::Active, "GPU-1"),
            lease("d", "batch", Phase::Waiting, "GPU-0"),
            Placed { node: "node2".into(), ..lease("e", "low", Phase::Active, "GPU-2") },
        ];
        let picture = Picture { leases, ..Picture::default() };
        let names = |places: &Places| places.who(&picture).into_iter().map(|lease| lease.lease).collect::<Vec<_>>();
        assert_eq!(names(&Places::nodes(["node1".to_owned()])), ["b", "c", "a"]);
        assert_eq!(names(&Places::nodes(["node1".to_owned(), "node2".to_owned()])), ["b", "c", "e", "a"]);
        let gpu = Places::gpus([("node1".to_owned(), vec!["GPU-0".to_owned()])].into());
        assert_eq!(names(&gpu), ["b", "a"]);
        let step = gpu.progress(&gpu.who(&picture), &Picture::default());
        assert_eq!((step.done, step.gone), (true, 2));
    }
}
