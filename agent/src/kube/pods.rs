//! The pods on this node that have a lease or lease in code, as the API server has them: hints that something begins to stop, never a proof that memory is
//! free; and who may lease in code, up to which class. Only the few fields that matter are read.

use kube::api::{ApiResource, DynamicObject, TypeMeta};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, ResourceExt as _};
use memboss_core::Class;
use memboss_crds::{IN_CODE, LEASED_LABEL, PREFIX};

use super::Cluster;
use super::watch::follow;
use crate::node::{Input, PodFact, PodState};
use crate::probes::processes::PodUid;

/// Follows the pods of ours that are bound to this node.
pub(super) async fn watch(cluster: Cluster) -> anyhow::Result<()> {
    let kind = ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&());
    let api: Api<DynamicObject> = Api::all_with(cluster.client.clone(), &kind);
    let config = watcher::Config::default()
        .labels(&format!("{LEASED_LABEL} in (true,{IN_CODE})"))
        .fields(&format!("spec.nodeName={}", cluster.node));
    let events = kube::runtime::watcher(api, config).default_backoff();
    let mut listed = Vec::new();
    follow(&cluster, "pods", events, |event| match event {
        Event::Init => {
            listed.clear();
            None
        }
        Event::InitApply(pod) => {
            listed.extend(fact(&pod));
            None
        }
        Event::InitDone => Some(Input::Pods(std::mem::take(&mut listed))),
        Event::Apply(pod) => fact(&pod).map(Input::Pod),
        Event::Delete(pod) => fact(&pod).map(|fact| Input::Pod(PodFact { state: PodState::Over, ..fact })),
    })
    .await
}

fn fact(pod: &DynamicObject) -> Option<PodFact> {
    let _: &Option<TypeMeta> = &pod.types;
    let phase = pod.data.pointer("/status/phase").and_then(|phase| phase.as_str()).unwrap_or_default();
    let state = match (phase, &pod.metadata.deletion_timestamp) {
        ("Succeeded" | "Failed", _) => PodState::Over,
        (_, Some(_)) => PodState::Leaving,
        (_, None) => PodState::Live,
    };
    Some(PodFact {
        uid: PodUid(pod.metadata.uid.clone()?),
        namespace: pod.namespace().unwrap_or_default(),
        name: pod.name_any(),
        state,
        class: class(pod),
        has_lease: pod.labels().get(LEASED_LABEL).is_some_and(|value| value != IN_CODE),
    })
}

/// What admission has let pass; a word that is none gives no right.
fn class(pod: &DynamicObject) -> Class {
    let word = pod.annotations().get(&format!("{PREFIX}priority"));
    word.map_or(Class::Normal, |word| word.parse().unwrap_or(Class::Batch))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(phase: &str, deleting: bool) -> DynamicObject {
        let mut object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "namespace": "team", "uid": "u"},
            "spec": {"nodeName": "n1"}, "status": {"phase": phase}
        });
        if deleting {
            object["metadata"]["deletionTimestamp"] = json!("2026-11-24T09:01:00Z");
        }
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_pod_is_over_when_its_phase_is_final_and_leaves_when_it_is_deleted() {
        for (phase, deleting, state) in [
            ("Running", false, PodState::Live),
            ("Pending", false, PodState::Live),
            ("Running", true, PodState::Leaving),
            ("Succeeded", false, PodState::Over),
            ("Failed", true, PodState::Over),
        ] {
            assert_eq!(fact(&pod(phase, deleting)).unwrap().state, state, "{phase} {deleting}");
        }
    }

    #[test]
    fn a_pods_class_is_what_it_was_admitted_with() {
        for (word, class) in [(None, Class::Normal), (Some("urgent"), Class::Urgent), (Some("top"), Class::Batch)] {
            let mut pod = pod("Running", false);
            let words = word.map(|word| ("memboss.dev/priority".to_owned(), word.to_owned()));
            pod.metadata.annotations = Some(words.into_iter().collect());
            assert_eq!(fact(&pod).unwrap().class, class, "{word:?}");
        }
    }
}
