//! On which nodes a pod could run at all: node selector, required node affinity, taints, cordons, and room for its CPU, memory and storage. Its gate is
//! opened only for such a node, since afterwards it cannot be moved. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{NodeAffinity, NodeSelectorRequirement, NodeSelectorTerm, Pod, Taint, Toleration};

use crate::world::{Amounts, NodeInfo, World, besides_lease};

/// Nodes for a pod, and why the others will not do (counted).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Eligible {
    /// These will do.
    pub nodes: BTreeSet<String>,
    /// What was in the way, and on how many nodes.
    pub refused: BTreeMap<String, usize>,
}

impl Eligible {
    /// In a sentence, as the scheduler would say it.
    #[must_use]
    pub fn sentence(&self) -> String {
        let total = self.nodes.len() + self.refused.values().sum::<usize>();
        let why: Vec<_> = self.refused.iter().map(|(why, nodes)| format!("{nodes} {why}")).collect();
        format!("{} of {total} nodes with memboss would take the pod: {}", self.nodes.len(), why.join(", "))
    }
}

/// Pods that ask for the same go to the same nodes: each kind is looked at once.
#[derive(Debug)]
pub struct Shapes<'a> {
    world: &'a World,
    known: Vec<(Shape<'a>, Arc<Eligible>)>,
}

/// All of a pod by which nodes are chosen.
#[derive(Debug, PartialEq)]
struct Shape<'a> {
    selector: Option<&'a BTreeMap<String, String>>,
    affinity: Option<&'a NodeAffinity>,
    tolerations: Option<&'a Vec<Toleration>>,
    need: Amounts,
}

/// So many kinds are remembered; of a crowd in which all differ, each is looked at by itself.
const KINDS: usize = 32;

impl<'a> Shapes<'a> {
    /// None is known yet.
    #[must_use]
    pub const fn new(world: &'a World) -> Self {
        Self { world, known: Vec::new() }
    }

    /// Where that pod could run. `taken`, the same each time, is what pods have of each node, those included that are on their way there.
    pub fn eligible(&mut self, pod: &'a Pod, taken: &BTreeMap<String, Amounts>) -> Arc<Eligible> {
        let Some(spec) = pod.spec.as_ref() else { return Arc::default() };
        let shape = Shape {
            selector: spec.node_selector.as_ref(),
            affinity: spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref()),
            tolerations: spec.tolerations.as_ref(),
            need: besides_lease(pod),
        };
        if let Some((_, found)) = self.known.iter().find(|(known, _)| *known == shape) {
            return found.clone();
        }
        let found = Arc::new(eligible(self.world, taken, pod));
        if self.known.len() < KINDS {
            self.known.push((shape, found.clone()));
        }
        found
    }
}

/// Looks at every node that has an agent. `taken` is what other pods have of each, those included that are on their way there.
#[must_use]
pub fn eligible(world: &World, taken: &BTreeMap<String, Amounts>, pod: &Pod) -> Eligible {
    let mut found = Eligible::default();
    let need = besides_lease(pod);
    for name in world.memory.keys() {
        let why = match world.nodes.get(name) {
            None => Some("not a node of the cluster".to_owned()),
            Some(node) => unfit(name, node, pod).or_else(|| {
                let used = taken.get(name).copied().unwrap_or_default();
                used.plus(need).lacking(node.allocatable).map(|what| format!("insufficient {what}"))
            }),
        };
        match why {
            None => drop(found.nodes.insert(name.clone())),
            Some(why) => *found.refused.entry(why).or_default() += 1,
        }
    }
    found
}

fn unfit(name: &str, node: &NodeInfo, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    if node.unschedulable && !tolerations.iter().any(|t| tolerates(t, &cordon())) {
        return Some("cordoned".into());
    }
    if !node.ready {
        return Some("not ready".into());
    }
    let stops = |taint: &&Taint| {
        matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute") && !tolerations.iter().any(|t| tolerates(t, taint))
    };
    if let Some(taint) = node.taints.iter().find(stops) {
        return Some(format!("with a taint {} that the pod does not tolerate", taint.key));
    }
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| node.labels.get(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let matched =
        required.is_none_or(|required| required.node_selector_terms.iter().any(|term| term_matches(term, name, node)));
    (!selected || !matched).then(|| "not matched by the pod's node selector or affinity".to_owned())
}

fn cordon() -> Taint {
    Taint { key: "node.kubernetes.io/unschedulable".into(), effect: "NoSchedule".into(), ..Taint::default() }
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().is_none_or(|effect| effect.is_empty() || effect == taint.effect);
    let key = toleration.key.as_deref().unwrap_or_default();
    let value = match toleration.operator.as_deref() {
        Some("Exists") => true,
        _ => toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default(),
    };
    effect && (key == taint.key && value || key.is_empty() && toleration.operator.as_deref() == Some("Exists"))
}

fn term_matches(term: &NodeSelectorTerm, name: &str, node: &NodeInfo) -> bool {
    let expressions = term.match_expressions.iter().flatten();
    let fields = term.match_fields.iter().flatten();
    let named = [("metadata.name".to_owned(), name.to_owned())].into();
    // A term without any requirement matches nothing.
    let says_something = term.match_expressions.as_ref().is_some_and(|e| !e.is_empty())
        || term.match_fields.as_ref().is_some_and(|f| !f.is_empty());
    says_something
        && expressions.into_iter().all(|r| requirement(r, &node.labels))
        && fields.into_iter().all(|r| requirement(r, &named))
}

fn requirement(requirement: &NodeSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let value = labels.get(&requirement.key);
    let values = requirement.values.as_deref().unwrap_or_default();
    let number = || Some((value?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => !value.is_some_and(|value| values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => number().is_some_and(|(has, than)| has > than),
        "Lt" => number().is_some_and(|(has, than)| has < than),
        // An operator of a later Kubernetes: better not there than wrongly there.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn world() -> World {
        let mut world = World::default();
        let node = |labels: &[(&str, &str)], taint: Option<&str>| NodeInfo {
            labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            taints: taint
                .map(|key| Taint { key: key.into(), effect: "NoSchedule".into(), ..Taint::default() })
                .into_iter()
                .collect(),
            unschedulable: false,
            ready: true,
            allocatable: Amounts { cpu: 2000, memory: 8 << 30, storage: 0, pods: 10 },
        };
        world.nodes.insert("a".into(), node(&[("zone", "x"), ("gen", "7")], None));
        world.nodes.insert("b".into(), node(&[("zone", "y")], Some("gpu")));
        for name in ["a", "b", "ghost"] {
            world
                .memory
                .insert(name.into(), memboss_crds::MemoryNode::new(name, memboss_crds::MemoryNodeSpec::default()));
        }
        world
    }

    fn nodes(spec: &Value) -> Vec<String> {
        let mut spec = spec.clone();
        if spec.get("containers").is_none() {
            spec["containers"] = json!([{ "name": "c" }]);
        }
        let pod: Pod = serde_json::from_value(json!({ "spec": spec })).unwrap();
        eligible(&world(), &BTreeMap::new(), &pod).nodes.into_iter().collect()
    }

    #[test]
    fn selectors_taints_and_room_are_respected() {
        let required = |term: Value| json!({ "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [term] } } } });
        let cases: Vec<(Value, &[&str])> = vec![
            (json!({}), &["a"]),
            (json!({ "tolerations": [{ "operator": "Exists" }] }), &["a", "b"]),
            (json!({ "tolerations": [{ "key": "gpu", "operator": "Exists", "effect": "NoSchedule" }] }), &["a", "b"]),
            (json!({ "tolerations": [{ "key": "other", "operator": "Exists" }] }), &["a"]),
            (json!({ "nodeSelector": { "zone": "y" } }), &[]),
            (required(json!({ "matchExpressions": [{ "key": "gen", "operator": "Gt", "values": ["6"] }] })), &["a"]),
            (required(json!({ "matchExpressions": [{ "key": "zone", "operator": "NotIn", "values": ["x"] }] })), &[]),
            (
                required(json!({ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": ["a"] }] })),
                &["a"],
            ),
            (required(json!({})), &[]),
            (json!({ "containers": [{ "name": "c", "resources": { "requests": { "cpu": "3" } } }] }), &[]),
        ];
        for (spec, expect) in cases {
            assert_eq!(nodes(&spec), expect, "{spec}");
        }
    }

    #[test]
    fn what_is_taken_counts_and_the_sentence_says_what_lacks() {
        let pod: Pod = serde_json::from_value(
            json!({ "spec": { "containers": [{ "name": "c", "resources": { "requests": { "cpu": "1500m" } } }] } }),
        )
        .unwrap();
        let taken = [("a".to_owned(), Amounts { cpu: 1000, ..Amounts::default() })].into();
        let found = eligible(&world(), &taken, &pod);
        assert!(found.nodes.is_empty());
        assert!(
            found.sentence().contains("1 insufficient cpu") && found.sentence().contains("taint gpu"),
            "{}",
            found.sentence()
        );
    }
}
