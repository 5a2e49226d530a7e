//! What is being written and counts already: placements and opened gates, from the moment in which they were decided until they are seen, so that nothing
//! is planned as if their memory were free, or their pods could still go elsewhere. It may not decide, and what did not come true it takes back.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use memboss_crds::{GATE, Placement};

use crate::world::{Key, World, gate};

/// Placements by lease and opened gates by pod, until they are seen.
#[derive(Debug, Default)]
pub struct Assumed {
    placements: BTreeMap<Key, Placed>,
    /// The pods as they were behind their gates.
    gates: BTreeMap<Key, Pod>,
}

#[derive(Debug)]
struct Placed {
    placement: Placement,
    before: Option<Placement>,
}

impl Assumed {
    /// This placement is being written.
    pub fn placed(&mut self, world: &mut World, key: &Key, placement: &Placement) {
        if let Some(lease) = world.leases.get_mut(key) {
            let before = lease.status.get_or_insert_default().placement.replace(placement.clone());
            self.placements.insert(key.clone(), Placed { placement: placement.clone(), before });
        }
    }

    /// This pod's gate is being opened.
    pub fn opened(&mut self, world: &mut World, key: &Key) {
        if let Some(pod) = world.pods.get_mut(key) {
            self.gates.insert(key.clone(), pod.clone());
            take_gate_off(pod);
        }
    }

    /// The lease was seen: with the placement, or without it, which goes on to count.
    pub fn seen_lease(&mut self, world: &mut World, key: &Key) {
        let (Some(placed), Some(lease)) = (self.placements.get_mut(key), world.leases.get_mut(key)) else { return };
        let status = lease.status.get_or_insert_default();
        if status.placement.as_ref().is_some_and(|seen| seen.attempt >= placed.placement.attempt) {
            self.placements.remove(key);
        } else {
            placed.before = status.placement.replace(placed.placement.clone());
        }
    }

    /// The pod was seen: without its gate, or with it, which goes on to count as open.
    pub fn seen_pod(&mut self, world: &mut World, key: &Key) {
        let (Some(behind), Some(pod)) = (self.gates.get_mut(key), world.pods.get_mut(key)) else { return };
        if gate(pod).is_none() || pod.metadata.uid != behind.metadata.uid {
            self.gates.remove(key);
        } else {
            behind.clone_from(pod);
            take_gate_off(pod);
        }
    }

    /// What was being written of that lease or pod was not, or nobody knows.
    pub fn undo(&mut self, world: &mut World, key: &Key) {
        if let (Some(placed), Some(lease)) = (self.placements.remove(key), world.leases.get_mut(key)) {
            lease.status.get_or_insert_default().placement = placed.before;
        }
        if let (Some(behind), Some(pod)) = (self.gates.remove(key), world.pods.get_mut(key)) {
            *pod = behind;
        }
    }
}

fn take_gate_off(pod: &mut Pod) {
    if let Some(spec) = pod.spec.as_mut() {
        spec.scheduling_gates.iter_mut().for_each(|gates| gates.retain(|gate| gate.name != GATE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memboss_crds::{VramLease, VramLeaseStatus};

    const KEY: &str = "ns/one";

    fn placement(node: &str, attempt: u32) -> Placement {
        Placement { node: node.into(), attempt, ..Placement::default() }
    }

    fn see_lease(world: &mut World, placement: Option<Placement>) {
        let mut lease: VramLease = serde_json::from_value(serde_json::json!({
            "apiVersion": "memboss.dev/v1alpha1", "kind": "VramLease", "metadata": { "name": "one", "namespace": "ns" },
            "spec": { "subject": { "podName": "pod", "podUid": "uid" }, "class": "normal", "requested": "1Gi", "slots": [] },
        }))
        .unwrap();
        lease.status = Some(VramLeaseStatus { placement, ..VramLeaseStatus::default() });
        world.leases.insert(KEY.into(), lease);
    }

    fn node(world: &World) -> Option<&str> {
        world.leases[KEY].status.as_ref()?.placement.as_ref().map(|placed| placed.node.as_str())
    }

    #[test]
    fn a_placement_counts_until_it_is_seen_or_did_not_come_true() {
        let (mut world, mut assumed, key) = (World::default(), Assumed::default(), KEY.to_owned());
        see_lease(&mut world, None);
        assumed.placed(&mut world, &key, &placement("a", 1));
        assert_eq!(node(&world), Some("a"));
        // Somebody else's write is seen first.
        see_lease(&mut world, None);
        assumed.seen_lease(&mut world, &key);
        assert_eq!(node(&world), Some("a"));
        // Its own is seen; what follows is not touched any more.
        see_lease(&mut world, Some(placement("a", 1)));
        assumed.seen_lease(&mut world, &key);
        see_lease(&mut world, Some(placement("b", 2)));
        assumed.seen_lease(&mut world, &key);
        assert_eq!(node(&world), Some("b"));
        // One that is overtaken leaves what was there.
        assumed.placed(&mut world, &key, &placement("c", 3));
        assumed.undo(&mut world, &key);
        assert_eq!(node(&world), Some("b"));
    }

    fn see_pod(world: &mut World, gates: &[&str]) {
        let gates: Vec<_> = gates.iter().map(|name| serde_json::json!({ "name": name })).collect();
        let pod = serde_json::from_value(serde_json::json!({
            "metadata": { "name": "one", "namespace": "ns", "uid": "uid" }, "spec": { "containers": [], "schedulingGates": gates },
        }));
        world.pods.insert(KEY.into(), pod.unwrap());
    }

    #[test]
    fn a_gate_counts_as_open_until_that_is_seen_or_did_not_come_true() {
        let (mut world, mut assumed, key) = (World::default(), Assumed::default(), KEY.to_owned());
        let is_behind = |world: &World| gate(&world.pods[KEY]).is_some();
        see_pod(&mut world, &[GATE]);
        assumed.opened(&mut world, &key);
        assert!(!is_behind(&world));
        see_pod(&mut world, &[GATE]);
        assumed.seen_pod(&mut world, &key);
        assert!(!is_behind(&world), "an older version of it was seen");
        assumed.undo(&mut world, &key);
        assert!(is_behind(&world));
        assumed.opened(&mut world, &key);
        see_pod(&mut world, &[]);
        assumed.seen_pod(&mut world, &key);
        see_pod(&mut world, &[GATE]);
        assumed.seen_pod(&mut world, &key);
        assert!(is_behind(&world), "what is seen afterwards is taken as it is");
    }
}
