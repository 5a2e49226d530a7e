//! The lease that a pod's request becomes, and the pod's way through its gate. Pure.

use k8s_openapi::api::core::v1::{NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use memboss_crds::{FINALIZER, LEASED_LABEL, Owner, RAM_MARK, Subject, VramLease, VramLeaseSpec, quantity};
use serde_json::{Value, json};

use crate::annotations::Asked;
use crate::world::gate;

/// A lease's name among both kinds: the pod's, and five digits of its uid, since a pod of the same name may come again while the old lease is still
/// history.
#[must_use]
pub fn name_for(pod: &Pod, asked: &Asked) -> String {
    let uid: String = pod.uid().unwrap_or_default().chars().filter(char::is_ascii_hexdigit).take(5).collect();
    let name = pod.name_any();
    let most = 253 - uid.len() - 1;
    let mark = if asked.slots.is_empty() { RAM_MARK } else { "" };
    format!("{mark}{}-{uid}", name.get(..most.min(name.len())).unwrap_or(&name))
}

/// Who would make the pod again.
#[must_use]
pub fn owner_of(pod: &Pod) -> Option<Owner> {
    let controller = pod.owner_references().iter().find(|owner| owner.controller == Some(true))?;
    Some(Owner { kind: controller.kind.clone(), name: controller.name.clone(), uid: controller.uid.clone() })
}

/// The lease for a pod; `heir_of` is a preempted lease of the same owner, whose place in the queue it takes over.
#[must_use]
pub fn lease_for(pod: &Pod, asked: &Asked, heir_of: Option<&VramLease>) -> VramLease {
    let made = pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let old_place = heir_of.and_then(|old| old.spec.queued_at.clone());
    let spec = VramLeaseSpec {
        subject: Subject { pod_name: pod.name_any(), pod_uid: pod.uid().unwrap_or_default(), owner: owner_of(pod) },
        class: asked.class,
        slots: asked.slots.clone(),
        requested: asked.display.clone(),
        containers: asked.containers.clone(),
        ram: asked.ram.map(quantity),
        selector: asked.selector.clone(),
        layout: asked.layout,
        queued_at: Some(old_place.unwrap_or_else(|| format!("{made:.6}"))),
        preempted: heir_of.map_or(0, |old| old.spec.preempted.saturating_add(1)),
        notice_seconds: asked.notice,
        protection_seconds: asked.protection,
        can_shrink: asked.can_shrink,
        can_offload: asked.can_offload,
    };
    let mut lease = VramLease::new(&name_for(pod, asked), spec);
    lease.metadata.namespace = pod.namespace();
    lease.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
    lease.metadata.labels = Some([(LEASED_LABEL.to_owned(), "true".to_owned())].into());
    lease
}

/// The JSON patch that pins a pod to its node and opens our gate: one `matchFields` on every term of its affinity, and our gate away, if it still
/// stands where it was seen. `None` while another gate is closed too: afterwards the pod cannot be moved, so ours is the last to open.
#[must_use]
pub fn open_gate(pod: &Pod, node: &str) -> Option<Value> {
    let (at, 1) = gate(pod)? else { return None };
    let spec = pod.spec.as_ref()?;
    let here = NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(vec![node.to_owned()]),
    };
    let mut affinity = spec.affinity.clone().unwrap_or_default();
    let nodes = affinity.node_affinity.get_or_insert_with(NodeAffinity::default);
    let required = nodes
        .required_during_scheduling_ignored_during_execution
        .get_or_insert_with(|| NodeSelector { node_selector_terms: vec![] });
    if required.node_selector_terms.is_empty() {
        required.node_selector_terms.push(NodeSelectorTerm::default());
    }
    for term in &mut required.node_selector_terms {
        let fields = term.match_fields.get_or_insert_default();
        if !fields.contains(&here) {
            fields.push(here.clone());
        }
    }
    Some(json!([
        { "op": "test", "path": format!("/spec/schedulingGates/{at}/name"), "value": memboss_crds::GATE },
        { "op": "test", "path": "/metadata/uid", "value": pod.uid() },
        { "op": "remove", "path": format!("/spec/schedulingGates/{at}") },
        { "op": "add", "path": "/spec/affinity", "value": affinity },
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(affinity: &Value, gates: &Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": "p", "namespace": "n", "uid": "abcdef12-0000", "creationTimestamp": "2026-01-02T03:04:05Z" },
            "spec": { "containers": [], "affinity": affinity, "schedulingGates": gates }
        }))
        .unwrap()
    }

    #[test]
    fn every_term_is_pinned_and_only_our_gate_opened() {
        let terms = json!({ "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [
            { "matchExpressions": [{ "key": "a", "operator": "Exists" }] }, { "matchFields": [] } ] } } });
        let patch = open_gate(&pod(&terms, &json!([{ "name": "memboss.dev/lease" }])), "node7").unwrap();
        let pinned =
            patch[3]["value"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
                .as_array()
                .unwrap();
        assert!(
            pinned.iter().all(|term| term["matchFields"][0]["values"][0] == "node7") && pinned.len() == 2,
            "{patch}"
        );
        assert_eq!(patch[2]["path"], "/spec/schedulingGates/0");
    }

    #[test]
    fn a_pod_without_affinity_gets_one_term() {
        let patch = open_gate(&pod(&Value::Null, &json!([{ "name": "memboss.dev/lease" }])), "node7").unwrap();
        assert_eq!(
            patch[3]["value"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"][0]
                ["matchFields"][0]["key"],
            "metadata.name"
        );
    }

    #[test]
    fn ours_is_the_last_gate_to_open() {
        assert_eq!(
            open_gate(&pod(&Value::Null, &json!([{ "name": "kueue" }, { "name": "memboss.dev/lease" }])), "node7"),
            None
        );
        assert_eq!(open_gate(&pod(&Value::Null, &json!([{ "name": "kueue" }])), "node7"), None);
    }

    #[test]
    fn an_heir_takes_over_the_place_in_the_queue() {
        let pod = pod(&Value::Null, &json!([]));
        let asked = Asked { slots: vec![memboss_crds::Slot::default()], ..Asked::default() };
        let mut old = lease_for(&pod, &asked, None);
        assert_eq!(
            (old.name_any().as_str(), old.spec.queued_at.as_deref()),
            ("p-abcde", Some("2026-01-02T03:04:05.000000Z"))
        );
        old.spec.queued_at = Some("2025-01-01T00:00:00.000000Z".into());
        let heir = lease_for(&pod, &asked, Some(&old));
        assert_eq!((heir.spec.queued_at.as_deref(), heir.spec.preempted), (Some("2025-01-01T00:00:00.000000Z"), 1));
    }

    #[test]
    fn a_lease_of_ram_alone_is_of_the_other_kind() {
        let pod = pod(&Value::Null, &json!([]));
        let lease = lease_for(&pod, &Asked { ram: Some(memboss_core::Mib::from_mib(4096)), ..Asked::default() }, None);
        let object = lease.as_ram().unwrap();
        assert_eq!(
            (lease.name_any(), object.name_any(), object.spec.memory),
            ("ram:p-abcde".into(), "p-abcde".into(), "4Gi".into())
        );
    }
}
