//! Events on pods and leases: what happened and why, in the words of the lease's status, under the reason's one name. It may not fail anything: an event
//! that cannot be written is only an event.

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource as _};
use memboss_core::EndReason;
use memboss_crds::{LeasePhase, VramLease, VramLeaseStatus};
use tracing::debug;

use crate::leases::owner_of;

/// Writes events.
#[derive(Clone)]
pub struct Speaker {
    recorder: Recorder,
}

impl std::fmt::Debug for Speaker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Speaker").finish_non_exhaustive()
    }
}

impl Speaker {
    /// Speaks as that instance of the operator.
    #[must_use]
    pub fn new(client: Client, instance: String) -> Self {
        Self {
            recorder: Recorder::new(
                client,
                Reporter { controller: "memboss-operator".into(), instance: Some(instance) },
            ),
        }
    }

    /// A lease's state or reason is another one.
    pub async fn lease_changed(&self, lease: &VramLease, pod: Option<&Pod>, status: &VramLeaseStatus) {
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
        self.say(serious, &reason, &note, &lease.object_ref(&())).await;
        if let Some(pod) = pod {
            let place = status
                .queue
                .as_ref()
                .and_then(|queue| queue.position)
                .map(|p| format!("place {p} in the queue: "))
                .unwrap_or_default();
            self.say(serious, &reason, &format!("{place}{note}"), &pod.object_ref(&())).await;
        }
    }

    /// A pod is being ended.
    pub async fn evicting(&self, pod: &Pod, reason: EndReason) {
        let note = match reason {
            EndReason::Expired => {
                "nobody came for its GPU memory in time, and its node gave it to others: the pod is evicted"
            }
            _ => "the time to give its memory back is over: the pod is evicted",
        };
        let again = match owner_of(pod) {
            Some(owner) => format!("; {} {} makes it again", owner.kind, owner.name),
            None => "; nothing makes it again".to_owned(),
        };
        self.say(true, reason.name(), &format!("{note}{again}"), &pod.object_ref(&())).await;
    }

    /// Redis answers no longer, or does again: told on the operator's own pod.
    pub async fn redis(&self, answers: bool, me: &ObjectReference) {
        let (reason, note) = if answers {
            ("RedisAnswers", "heartbeats are read again")
        } else {
            (
                "RedisAway",
                "heartbeats cannot be read: placement and detection are slower; no lease ends and none is granted by that",
            )
        };
        self.say(!answers, reason, note, me).await;
    }

    async fn say(&self, serious: bool, reason: &str, note: &str, about: &ObjectReference) {
        let event = Event {
            type_: if serious { EventType::Warning } else { EventType::Normal },
            reason: reason.to_owned(),
            note: Some(note.chars().take(1000).collect()),
            action: "Lease".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, about).await {
            debug!(error = &error as &dyn std::error::Error, reason, "an event was not written");
        }
    }
}
