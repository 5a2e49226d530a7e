//! Events on pods and leases: what happened and why, in the words of the lease's status, under the reason's one name. It may not fail anything: an event
//! that cannot be written is only an event.

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource as _};
use memboss_core::EndReason;
use memboss_crds::{LeasePhase, VramLease, VramLeaseStatus};
use tokio::sync::mpsc;
use tracing::debug;

use crate::leases::owner_of;

/// So many events wait to be written; more are not: what they say is in the objects' status too.
const PENDING: usize = 1024;

/// Has events written, one after the other, beside everything else: nothing waits for them.
#[derive(Clone)]
pub struct Speaker {
    pending: mpsc::Sender<(Event, ObjectReference)>,
}

impl std::fmt::Debug for Speaker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Speaker").finish_non_exhaustive()
    }
}

impl Speaker {
    /// Speaks as that instance of the operator, as long as somebody has it. To be called on a runtime.
    #[must_use]
    pub fn new(client: Client, instance: String) -> Self {
        let reporter = Reporter { controller: "memboss-operator".into(), instance: Some(instance) };
        let recorder = Recorder::new(client, reporter);
        let (pending, mut events) = mpsc::channel::<(Event, ObjectReference)>(PENDING);
        tokio::spawn(async move {
            while let Some((event, about)) = events.recv().await {
                if let Err(error) = recorder.publish(&event, &about).await {
                    debug!(error = &error as &dyn std::error::Error, event.reason, "an event was not written");
                }
            }
        });
        Self { pending }
    }

    /// A lease's state or reason is another one.
    pub fn lease_changed(&self, lease: &VramLease, pod: Option<&Pod>, status: &VramLeaseStatus) {
        let before = lease.status.clone().unwrap_or_default();
        if before.phase == status.phase && before.why == status.why {
            return;
        }
        let phase = status.phase.unwrap_or_default();
        let reason = status.why.clone().unwrap_or_else(|| format!("{phase:?}"));
        let serious = matches!(phase, LeasePhase::Unsatisfiable | LeasePhase::Revoking | LeasePhase::Stopping)
            || reason == EndReason::OverLease.name()
            || reason == crate::status::TIMED_OUT;
        let note = status.message.clone().unwrap_or_default();
        // That a pod's containers run is told by its kubelet, and since when by the lease's status.
        if phase == LeasePhase::Active && !serious && before.phase == Some(LeasePhase::Reserved) {
            return;
        }
        let about = lease.as_ram().map_or_else(|| lease.object_ref(&()), |object| object.object_ref(&()));
        self.say(serious, &reason, &note, &about);
        if let Some(pod) = pod {
            let place = status
                .queue
                .as_ref()
                .and_then(|queue| queue.position)
                .map(|p| format!("place {p} in the queue: "))
                .unwrap_or_default();
            self.say(serious, &reason, &format!("{place}{note}"), &pod.object_ref(&()));
        }
    }

    /// A pod is being ended.
    pub fn evicting(&self, pod: &Pod, reason: EndReason) {
        let note = match reason {
            EndReason::Expired => {
                "nobody came for its memory in time, and its node gave it to others: the pod is evicted"
            }
            EndReason::NodePressure => {
                "the RAM of its node is under pressure and its time to give it back is over: the pod is evicted, before the kubelet or the kernel ends whatever it likes"
            }
            EndReason::NodeLost => "the node that it was to run on is gone: the pod is evicted",
            _ => "the time to give its memory back is over: the pod is evicted",
        };
        let again = match owner_of(pod) {
            Some(owner) => format!("; {} {} makes it again", owner.kind, owner.name),
            None => "; nothing makes it again".to_owned(),
        };
        self.say(true, reason.name(), &format!("{note}{again}"), &pod.object_ref(&()));
    }

    /// Redis answers no longer, or does again: told on the operator's own pod.
    pub fn redis(&self, answers: bool, me: &ObjectReference) {
        let (reason, note) = if answers {
            ("RedisAnswers", "heartbeats are read again")
        } else {
            (
                "RedisAway",
                "heartbeats cannot be read: placement and detection are slower; no lease ends and none is granted by that",
            )
        };
        self.say(!answers, reason, note, me);
    }

    fn say(&self, serious: bool, reason: &str, note: &str, about: &ObjectReference) {
        let event = Event {
            type_: if serious { EventType::Warning } else { EventType::Normal },
            reason: reason.to_owned(),
            note: Some(note.chars().take(1000).collect()),
            action: "Lease".to_owned(),
            secondary: None,
        };
        if self.pending.try_send((event, about.clone())).is_err() {
            debug!(reason, "an event was not written: too many are waiting");
        }
    }
}
