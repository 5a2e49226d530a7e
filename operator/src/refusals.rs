//! Placements that agents did not take: which leases wait a moment before they are placed again, and which nodes come last for them for a while. It
//! remembers; it may not decide (`plan.rs` does), and time comes in as an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use memboss_crds::{Allocation, AllocationState, VramLease};
use tokio::time::Instant;

use crate::picture::answer;
use crate::world::Key;

/// A refused lease is not placed again before its refuser's figures can have arrived.
const PAUSE: Duration = Duration::from_millis(1000);
/// After so many in a row it is not placed at the same node for a while, if there is another that would do: what its agent knows better may stay unseen
/// here.
const OFTEN: u32 = 3;
const SHUNNED: Duration = Duration::from_secs(30);

/// Refusals by lease, until an agent takes it.
#[derive(Debug, Default)]
pub struct Refusals {
    by_lease: BTreeMap<Key, Refusal>,
}

#[derive(Debug)]
struct Refusal {
    attempt: u32,
    /// How often in a row by that node.
    times: u32,
    node: String,
    at: Instant,
}

impl Refusals {
    /// The lease was seen: what its agent answered, if that is a refusal that was not known.
    pub fn seen<'a>(&mut self, key: &Key, lease: &'a VramLease, now: Instant) -> Option<&'a Allocation> {
        // A new placement without an answer says nothing yet.
        let answered = answer(lease)?;
        if !matches!(answered.state, AllocationState::Refused | AllocationState::Waiting) {
            self.by_lease.remove(key);
            return None;
        }
        if self.by_lease.get(key).is_some_and(|known| known.attempt == answered.attempt) {
            return None;
        }
        let placed = lease.status.as_ref().and_then(|status| status.placement.as_ref());
        let node = placed.map(|placed| placed.node.clone()).unwrap_or_default();
        let before = self.by_lease.get(key).filter(|before| before.node == node).map_or(0, |before| before.times);
        let refusal = Refusal { attempt: answered.attempt, times: before + 1, node, at: now };
        self.by_lease.insert(key.clone(), refusal);
        Some(answered)
    }

    /// The lease is no more.
    pub fn forget(&mut self, key: &Key) {
        self.by_lease.remove(key);
    }

    /// Leases that were refused just now.
    #[must_use]
    pub fn paused(&self, now: Instant) -> BTreeSet<Key> {
        let paused = self.by_lease.iter().filter(|(_, refusal)| refusal.at + PAUSE > now);
        paused.map(|(key, _)| key.clone()).collect()
    }

    /// For leases that a node refused again and again: that node.
    #[must_use]
    pub fn shunned(&self, now: Instant) -> BTreeMap<Key, String> {
        let often = |refusal: &&Refusal| refusal.times >= OFTEN && refusal.at + SHUNNED > now;
        let shunned = self.by_lease.iter().filter(|(_, refusal)| often(refusal));
        shunned.map(|(key, refusal)| (key.clone(), refusal.node.clone())).collect()
    }

    /// When the next of these is over.
    #[must_use]
    pub fn next_change(&self, now: Instant) -> Option<Instant> {
        let ends = self.by_lease.values().flat_map(|refusal| [refusal.at + PAUSE, refusal.at + SHUNNED]);
        ends.filter(|end| *end > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memboss_crds::{Placement, VramLeaseStatus};

    const KEY: &str = "ns/one";

    fn answered(node: &str, attempt: u32, state: AllocationState) -> VramLease {
        let mut lease: VramLease = serde_json::from_value(serde_json::json!({
            "apiVersion": "memboss.dev/v1alpha1", "kind": "VramLease", "metadata": { "name": "one", "namespace": "ns" },
            "spec": { "subject": { "podName": "pod", "podUid": "uid" }, "class": "normal", "requested": "1Gi", "slots": [] },
        }))
        .unwrap();
        lease.status = Some(VramLeaseStatus {
            placement: Some(Placement { node: node.into(), attempt, ..Placement::default() }),
            allocation: Some(Allocation { attempt, state, ..Allocation::default() }),
            ..VramLeaseStatus::default()
        });
        lease
    }

    #[test]
    fn a_refused_lease_pauses_and_a_refusal_is_news_once() {
        let (mut refusals, now, key) = (Refusals::default(), Instant::now(), KEY.to_owned());
        let lease = answered("a", 1, AllocationState::Refused);
        assert!(refusals.seen(&key, &lease, now).is_some());
        assert!(refusals.seen(&key, &lease, now).is_none(), "the same again");
        assert!(refusals.paused(now).contains(KEY) && refusals.next_change(now) == Some(now + PAUSE));
        assert!(refusals.paused(now + PAUSE).is_empty() && refusals.shunned(now).is_empty());
        // Placed anew, and not answered yet: what is known stays.
        let mut unanswered = answered("a", 2, AllocationState::Refused);
        unanswered.status.as_mut().unwrap().allocation = None;
        assert!(refusals.seen(&key, &unanswered, now).is_none() && refusals.paused(now).contains(KEY));
        refusals.forget(&key);
        assert!(refusals.paused(now).is_empty());
    }

    #[test]
    fn a_node_that_refuses_again_and_again_is_shunned_for_a_while() {
        let (mut refusals, now, key) = (Refusals::default(), Instant::now(), KEY.to_owned());
        for attempt in 1..=OFTEN {
            assert!(refusals.shunned(now).is_empty(), "not after {attempt}");
            refusals.seen(&key, &answered("a", attempt, AllocationState::Refused), now);
        }
        assert_eq!(refusals.shunned(now)[KEY], "a");
        assert!(refusals.shunned(now + SHUNNED).is_empty());
        // Another node's refusal begins a count of its own.
        refusals.seen(&key, &answered("b", OFTEN + 1, AllocationState::Waiting), now);
        assert!(refusals.shunned(now).is_empty());
    }

    #[test]
    fn once_an_agent_takes_it_all_is_well() {
        let (mut refusals, now, key) = (Refusals::default(), Instant::now(), KEY.to_owned());
        refusals.seen(&key, &answered("a", 1, AllocationState::Refused), now);
        assert!(refusals.seen(&key, &answered("b", 2, AllocationState::Reserved), now).is_none());
        assert!(refusals.paused(now).is_empty() && refusals.next_change(now).is_none());
    }
}
