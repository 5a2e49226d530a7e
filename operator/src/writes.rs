//! Carries out what was planned, one act after the other for each object. It may not decide: an act that no longer fits what is there is refused by
//! the API server and planned again.

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::api::{DeleteParams, EvictParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::DynamicObject;
use kube::{Api, Client, ResourceExt as _};
use memboss_core::EndReason;
use memboss_crds::{FINALIZER, LeasePhase, OPERATOR, VramLease, VramLeaseStatus, object_of};
use serde_json::{Value, json};

use crate::plan::{Act, grace_for};
use crate::speak::Speaker;
use crate::world::{Key, World, key};

/// What an act needs to know of the object as it was seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    lease: Option<VramLease>,
    pod: Option<Pod>,
}

impl Seen {
    /// The object that the act writes.
    #[must_use]
    pub fn of(world: &World, act: &Act) -> Self {
        let (kind, key) = act.object();
        match kind {
            "pod" => Self { pod: world.pods.get(&key).cloned(), lease: None },
            _ => {
                let lease = world.leases.get(&key).cloned();
                let pod = lease.as_ref().and_then(|lease| world.pod_of(lease)).cloned();
                Self { lease, pod }
            }
        }
    }
}

/// What came of an act that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// The API server took it.
    AsPlanned,
    /// The object is gone or another by now, or it was done already.
    Overtaken,
}

/// Why an act failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The API server's words.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// No answer.
    #[error("the API server did not answer in time")]
    Late,
}

/// The way into the API server.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    speaker: Speaker,
    /// The operator's own pod.
    me: ObjectReference,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl Writer {
    /// Writes by that client, as that pod.
    #[must_use]
    pub const fn new(client: Client, speaker: Speaker, me: ObjectReference) -> Self {
        Self { client, speaker, me }
    }

    /// Says that Redis answers no longer, or does again.
    pub fn tell_of_redis(&self, answers: bool) {
        self.speaker.redis(answers, &self.me);
    }

    /// Carries out one act.
    ///
    /// # Errors
    /// What the API server said; not for what is gone or was done already.
    pub async fn carry_out(&self, act: Act, seen: Seen) -> Result<Written, kube::Error> {
        match act {
            Act::Create(of) => {
                let parameters = PostParams { field_manager: Some(OPERATOR.into()), ..PostParams::default() };
                let (api, _) = lease_api(&self.client, &key(of.as_ref()));
                let object = of.as_ram().map_or_else(|| serde_json::to_value(&of), serde_json::to_value);
                let object = serde_json::from_value(object.map_err(kube::Error::SerdeError)?);
                passable(api.create(&parameters, &object.map_err(kube::Error::SerdeError)?).await, &[409])
            }
            Act::Place(key, placement, said) => {
                // Only onto the lease as it was seen: whoever else decided meanwhile wins.
                let version = seen.lease.as_ref().and_then(kube::ResourceExt::resource_version);
                let mut placement = json!(placement);
                // A merge leaves what is not named: the end of an older placement must not end this one.
                if let Some(fields) = placement.as_object_mut() {
                    fields.entry("withdrawn").or_insert(Value::Null);
                    fields.entry("ram").or_insert(Value::Null);
                    fields.entry("ramRoom").or_insert(Value::Null);
                }
                let mut status = operators_part(&said);
                if let Some(fields) = status.as_object_mut() {
                    fields.insert("placement".into(), placement);
                }
                let patch = json!({ "metadata": { "resourceVersion": version }, "status": status });
                self.status(&key, &patch).await
            }
            Act::Withdraw(key, reason) => {
                self.status(&key, &json!({ "status": { "placement": { "withdrawn": reason.name() } } })).await
            }
            Act::Inherited(key, heir) => self.status(&key, &json!({ "status": { "inheritedBy": heir } })).await,
            Act::Say(key, status) => {
                let written = self.status(&key, &json!({ "status": operators_part(&status) })).await?;
                if let Some(lease) = &seen.lease {
                    self.speaker.lease_changed(lease, seen.pod.as_ref(), &status);
                }
                Ok(written)
            }
            Act::OpenGate(key, patch) => self.open_gate(&key, patch).await,
            Act::Evict(_, reason) => match &seen.pod {
                Some(pod) => self.evict(pod, reason).await,
                None => Ok(Written::Overtaken),
            },
            Act::Release(key) => self.release(&key, seen.lease.as_ref()).await,
            Act::Forget(key) => {
                let (api, name) = lease_api(&self.client, &key);
                passable(api.delete(&name, &DeleteParams::default()).await.map(|_| ()), &[404])
            }
        }
    }

    async fn status(&self, key: &Key, patch: &Value) -> Result<Written, kube::Error> {
        let (api, name) = lease_api(&self.client, key);
        let parameters = PatchParams { field_manager: Some(OPERATOR.into()), ..PatchParams::default() };
        passable(api.patch_status(&name, &parameters, &Patch::Merge(patch)).await, &[404, 409])
    }

    async fn open_gate(&self, key: &Key, patch: Value) -> Result<Written, kube::Error> {
        let (namespace, name) = split(key);
        let Ok(patch) = serde_json::from_value::<json_patch::Patch>(patch) else {
            return Ok(Written::Overtaken);
        };
        let api = Api::<Pod>::namespaced(self.client.clone(), namespace);
        passable(api.patch(name, &PatchParams::default(), &Patch::<()>::Json(patch)).await, &[404, 409])
    }

    /// Says why in the pod's status, so that a Job does not count it as a failure of its own; then evicts, and where that is refused, deletes.
    async fn evict(&self, pod: &Pod, reason: EndReason) -> Result<Written, kube::Error> {
        let api = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let name = pod.name_any();
        let message = match reason {
            EndReason::Preempted => "its lease of memory is needed elsewhere",
            EndReason::Expired => "its memory was not there in time; a new pod may get it elsewhere",
            EndReason::NodeLost => "the node that it was to run on is gone; a new pod may run elsewhere",
            _ => "its lease of memory has ended",
        };
        let condition = json!({ "status": { "conditions": [{
            "type": "DisruptionTarget", "status": "True", "reason": format!("Memboss{reason}"),
            "message": message, "lastTransitionTime": k8s_openapi::jiff::Timestamp::now().to_string().split('.').next().map(|s| format!("{}Z", s.trim_end_matches('Z'))),
        }] } });
        passable(api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(condition)).await, &[404, 409])?;
        self.speaker.evicting(pod, reason);
        let options = DeleteParams {
            grace_period_seconds: Some(grace_for(pod, reason)),
            preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }),
            ..DeleteParams::default()
        };
        if pod.metadata.deletion_timestamp.is_none() {
            let asked = EvictParams { delete_options: Some(options.clone()), ..EvictParams::default() };
            match api.evict(&name, &asked).await {
                Ok(_) => return Ok(Written::AsPlanned),
                Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {
                    return Ok(Written::Overtaken);
                }
                // A budget stands against it (429), or several do (500). The notice was the time to go; the class decides now.
                Err(kube::Error::Api(status)) if status.code == 429 || status.code == 500 => {}
                Err(error) => return Err(error),
            }
        }
        passable(api.delete(&name, &options).await.map(|_| ()), &[404, 409])
    }

    async fn release(&self, key: &Key, lease: Option<&VramLease>) -> Result<Written, kube::Error> {
        let at = lease.and_then(|lease| lease.finalizers().iter().position(|finalizer| finalizer == FINALIZER));
        let Some(at) = at else { return Ok(Written::Overtaken) };
        let patch = json!([
            { "op": "test", "path": format!("/metadata/finalizers/{at}"), "value": FINALIZER },
            { "op": "remove", "path": format!("/metadata/finalizers/{at}") },
        ]);
        let Ok(patch) = serde_json::from_value::<json_patch::Patch>(patch) else {
            return Ok(Written::Overtaken);
        };
        let (api, name) = lease_api(&self.client, key);
        passable(api.patch(&name, &PatchParams::default(), &Patch::<()>::Json(patch)).await, &[404, 409, 422])
    }
}

/// Where the lease of that key is written, of whichever kind, and its object's name.
pub(crate) fn lease_api(client: &Client, key: &str) -> (Api<DynamicObject>, String) {
    let (kind, namespace, name) = object_of(key);
    (Api::namespaced_with(client.clone(), namespace, &kind.resource()), name.to_owned())
}

/// The fields of a status that are the operator's, with nothing said where something is to be taken back.
fn operators_part(status: &VramLeaseStatus) -> Value {
    let mut part = json!({
        "phase": status.phase, "why": status.why, "message": status.message, "queue": status.queue,
        "conditions": status.conditions, "observedGeneration": status.observed_generation,
    });
    let times = [
        ("reservedAt", json!(status.reserved_at)),
        ("activeAt", json!(status.active_at)),
        ("endedAt", json!(status.ended_at)),
    ];
    if let Some(fields) = part.as_object_mut() {
        fields
            .extend(times.into_iter().filter(|(_, time)| !time.is_null()).map(|(name, time)| (name.to_owned(), time)));
        if status.phase == Some(LeasePhase::Ended) {
            fields.insert("endReason".into(), json!(status.end_reason));
        }
        // A merge leaves what is not named: parts of an old reason must not stay beside a new one.
        if let Some(queue) = &status.queue {
            let all = json!({ "position": queue.position, "reason": queue.reason, "message": queue.message });
            fields.insert("queue".into(), all);
        }
    }
    part
}

fn split(key: &str) -> (&str, &str) {
    key.split_once('/').unwrap_or(("", key))
}

/// Errors with those codes mean that the world has moved on; what is to be done then is planned again.
fn passable<T>(outcome: Result<T, kube::Error>, codes: &[u16]) -> Result<Written, kube::Error> {
    match outcome {
        Ok(_) => Ok(Written::AsPlanned),
        Err(kube::Error::Api(status)) if codes.contains(&status.code) => Ok(Written::Overtaken),
        Err(error) => Err(error),
    }
}
