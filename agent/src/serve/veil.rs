//! What the processes of a pod are shown: their own pod's leases, and the machine's figures as a whole. No tenant sees another tenant's names.

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
