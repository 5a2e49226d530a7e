//! Placements that are being written: they count from the moment in which they were decided, so that nothing is planned as if their memory were free
//! until the API server tells of them. It may not decide, and what it assumes it takes back when it did not come true.

use std::collections::BTreeMap;
use std::time::Duration;

use memboss_crds::Placement;
use tokio::time::Instant;

use crate::world::{Key, World};

/// Placements by lease, until they are seen.
#[derive(Debug, Default)]
pub struct Assumed {
    placements: BTreeMap<Key, One>,
}

#[derive(Debug)]
struct One {
    placement: Placement,
    before: Option<Placement>,
    since: Instant,
}

impl Assumed {
    /// This placement is being written.
    pub fn assume(&mut self, world: &mut World, key: &Key, placement: &Placement, now: Instant) {
        if let Some(lease) = world.leases.get_mut(key) {
            let before = lease.status.get_or_insert_default().placement.replace(placement.clone());
            self.placements.insert(key.clone(), One { placement: placement.clone(), before, since: now });
        }
    }

    /// The lease was seen: with the placement, or without it, which goes on to count.
    pub fn seen(&mut self, world: &mut World, key: &Key) {
        let (Some(one), Some(lease)) = (self.placements.get_mut(key), world.leases.get_mut(key)) else { return };
        let status = lease.status.get_or_insert_default();
        if status.placement.as_ref().is_some_and(|placed| placed.attempt >= one.placement.attempt) {
            self.placements.remove(key);
        } else {
            one.before = status.placement.replace(one.placement.clone());
        }
    }

    /// It was not written, or its lease is gone.
    pub fn undo(&mut self, world: &mut World, key: &Key) {
        if let (Some(one), Some(lease)) = (self.placements.remove(key), world.leases.get_mut(key)) {
            lease.status.get_or_insert_default().placement = one.before;
        }
    }

    /// What was not seen after so long is taken back.
    pub fn forget(&mut self, world: &mut World, after: Duration, now: Instant) {
        let unseen = self.placements.iter().filter(|(_, one)| now.duration_since(one.since) >= after);
        let unseen: Vec<Key> = unseen.map(|(key, _)| key.clone()).collect();
        unseen.iter().for_each(|key| self.undo(world, key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memboss_crds::{VramLease, VramLeaseStatus};

    const KEY: &str = "ns/lease";

    fn placement(node: &str, attempt: u32) -> Placement {
        Placement { node: node.into(), attempt, ..Placement::default() }
    }

    fn seen(world: &mut World, placement: Option<Placement>) {
        let mut lease: VramLease = serde_json::from_value(serde_json::json!({
            "apiVersion": "memboss.dev/v1alpha1", "kind": "VramLease", "metadata": { "name": "lease", "namespace": "ns" },
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
        let (mut world, mut assumed, now) = (World::default(), Assumed::default(), Instant::now());
        let key = KEY.to_owned();
        seen(&mut world, None);
        assumed.assume(&mut world, &key, &placement("a", 1), now);
        assert_eq!(node(&world), Some("a"));
        // Somebody else's write is seen first.
        seen(&mut world, None);
        assumed.seen(&mut world, &key);
        assert_eq!(node(&world), Some("a"));
        // Its own is seen; what follows is not touched any more.
        seen(&mut world, Some(placement("a", 1)));
        assumed.seen(&mut world, &key);
        seen(&mut world, Some(placement("b", 2)));
        assumed.seen(&mut world, &key);
        assert_eq!(node(&world), Some("b"));
        // One that is overtaken leaves what was there.
        assumed.assume(&mut world, &key, &placement("c", 3), now);
        assumed.undo(&mut world, &key);
        assert_eq!(node(&world), Some("b"));
        // One that nobody heard of again is taken back in time, not before.
        assumed.assume(&mut world, &key, &placement("c", 3), now);
        assumed.forget(&mut world, Duration::from_secs(5), now + Duration::from_secs(4));
        assert_eq!(node(&world), Some("c"));
        assumed.forget(&mut world, Duration::from_secs(5), now + Duration::from_secs(5));
        assert_eq!(node(&world), Some("b"));
    }
}
