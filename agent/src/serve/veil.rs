//! What the processes of a pod are shown: their own pod's leases, and the machine's figures as a whole. No tenant sees another tenant's names here. (That of
//! who takes a pod's own lease is in the notice of the service `Workload`, as it is in the pod's `VramLease`.)

use memboss_agent_api::v1;
use memboss_core::LeaseId;

use crate::node::view::{LeaseSeen, Snapshot};
use crate::probes::processes::PodUid;

/// What stands in place of another tenant's name.
const SOMEBODY: &str = "another lease";

/// Hides from a caller what is not its own. Whoever is in no pod sees all of the machine.
#[derive(Debug)]
pub(super) struct Veil {
    pod: Option<PodUid>,
    hidden: Vec<String>,
}

/// Whether that lease is that pod's.
pub(super) fn is_of(seen: &LeaseSeen, pod: &PodUid) -> bool {
    seen.whose.as_ref().and_then(|whose| whose.pod.as_ref()) == Some(pod)
        || seen.subject.as_ref().is_some_and(|subject| subject.pod == *pod)
}

impl Veil {
    /// For a caller of that pod, or of none.
    pub(super) fn new(pod: Option<&PodUid>, snapshot: &Snapshot) -> Self {
        let others = snapshot.leases.iter().filter(|(_, seen)| pod.is_some_and(|pod| !is_of(seen, pod)));
        let mut hidden: Vec<String> = others.map(|(lease, _)| lease.to_string()).collect();
        // One name may begin with another.
        hidden.sort_by_key(|name| std::cmp::Reverse(name.len()));
        Self { pod: pod.cloned(), hidden }
    }

    /// The same, and hides those names unless they are the caller's: a lease may have come after the snapshot was taken.
    pub(super) fn over<'a>(mut self, names: impl Iterator<Item = &'a LeaseId>, snapshot: &Snapshot) -> Self {
        let Some(pod) = &self.pod else { return self };
        let own = format!("{}/", pod.owner());
        let is_own = |name: &LeaseId| match snapshot.leases.get(name) {
            Some(seen) => is_of(seen, pod),
            None => name.as_str().starts_with(&own),
        };
        self.hidden.extend(names.filter(|name| !is_own(name)).map(ToString::to_string));
        self.hidden.sort_by_key(|name| std::cmp::Reverse(name.len()));
        self
    }

    /// Whether the caller may see that lease.
    pub(super) fn shows(&self, seen: &LeaseSeen) -> bool {
        self.pod.as_ref().is_none_or(|pod| is_of(seen, pod))
    }

    /// The text without the names of others.
    pub(super) fn text(&self, text: &mut String) {
        for name in &self.hidden {
            if text.contains(name.as_str()) {
                *text = text.replace(name.as_str(), SOMEBODY);
            }
        }
    }

    /// The lease without the names of others.
    pub(super) fn lease(&self, lease: &mut v1::LeaseView) {
        self.text(&mut lease.message);
        if let Some(queue) = &mut lease.queue {
            self.text(&mut queue.message);
        }
        if let Some(notice) = &mut lease.notice {
            self.text(&mut notice.preemptor);
        }
    }

    /// Whether the caller may know of that name.
    pub(super) fn shows_name(&self, snapshot: &Snapshot, lease: &str) -> bool {
        let id = LeaseId::new(lease).ok();
        id.and_then(|id| snapshot.leases.get(&id)).is_none_or(|seen| self.shows(seen))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_came_after_the_snapshot_is_hidden_from_all_but_its_own_pod() {
        let snapshot = Snapshot::default();
        let pod = PodUid("a".to_owned());
        let names = ["pod-b/1-7", "team/train", "pod-a/1-8"].map(|name| LeaseId::new(name).unwrap());
        let told = |pod| {
            let mut text = "pod-b/1-7, team/train, pod-a/1-8".to_owned();
            Veil::new(pod, &snapshot).over(names.iter(), &snapshot).text(&mut text);
            text
        };
        assert_eq!(told(Some(&pod)), "another lease, another lease, pod-a/1-8");
        assert_eq!(told(None), "pod-b/1-7, team/train, pod-a/1-8");
    }
}
