//! Writes `status.allocation` of the leases, by server-side apply and only when it changed, and takes the finalizer off an object whose memory was
//! seen free. What cannot be written now is written later: each round compares what is with what was last written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::core::DynamicObject;
use kube::{Api, Client, ResourceExt as _};
use memboss_core::LeaseId;
use memboss_crds::{AGENT, Allocation, FINALIZER};
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::lease::{Told, allocation};
use super::{Cluster, pause};
use crate::node::view::{LeaseSeen, NoticeSeen};
use crate::order::{State, object_name};
use crate::probes::clock;

/// So many objects are written at once.
const AT_ONCE: usize = 8;
/// What a holder uses changes all the time; that alone is written no more often.
const USE_EVERY: Duration = Duration::from_secs(10);
/// Pause after a failure, doubled up to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

#[derive(Clone, Debug)]
struct Written {
    object: String,
    allocation: Allocation,
    at: Instant,
    finalized: bool,
}

struct Publisher {
    client: Client,
    /// The last round failed: said once.
    failing: bool,
    written: BTreeMap<LeaseId, Written>,
    told: Notices,
}

/// When each notice was told, by its name.
#[derive(Debug, Default)]
pub(super) struct Notices(BTreeMap<String, Told>);

impl Notices {
    /// Remembers these, and forgets all others.
    pub(super) fn remember<'a>(&mut self, notices: impl Iterator<Item = &'a NoticeSeen>) {
        let (now, at) = (clock::now(), Timestamp::now());
        let mut told = BTreeMap::new();
        for notice in notices {
            let known = self.0.remove(&notice.id);
            told.insert(
                notice.id.clone(),
                known.unwrap_or_else(|| Told { span: notice.deadline.since(now), at: Time(at) }),
            );
        }
        self.0 = told;
    }

    /// When that lease was told, if it was.
    pub(super) fn of(&self, seen: &LeaseSeen) -> Option<&Told> {
        seen.notice.as_ref().and_then(|notice| self.0.get(&notice.id))
    }
}

/// Publishes until the shutdown.
pub(super) async fn run(mut cluster: Cluster, relisted: Arc<Notify>) -> anyhow::Result<()> {
    let mut publisher = Publisher {
        client: cluster.client.clone(),
        failing: false,
        written: BTreeMap::new(),
        told: Notices::default(),
    };
    let mut backoff = BACKOFF.0;
    if !cluster.shows(|snapshot| snapshot.is_known()).await {
        return Ok(());
    }
    loop {
        let snapshot = cluster.snapshots.borrow_and_update().clone();
        if publisher.round(&snapshot.leases).await {
            backoff = BACKOFF.0;
        } else {
            pause(&cluster.shutdown, backoff).await;
            backoff = (backoff * 2).min(BACKOFF.1);
            if cluster.shutdown.is_cancelled() {
                return Ok(());
            }
            continue;
        }
        tokio::select! {
            () = cluster.shutdown.cancelled() => return Ok(()),
            // Whatever was written before the watch broke may have been undone since.
            () = relisted.notified() => publisher.written.clear(),
            changed = cluster.snapshots.changed() => if changed.is_err() { return Ok(()) },
            () = tokio::time::sleep(USE_EVERY) => {}
        }
    }
}

impl Publisher {
    /// Writes what changed; whether all of it could be written.
    async fn round(&mut self, leases: &BTreeMap<LeaseId, LeaseSeen>) -> bool {
        self.written.retain(|lease, _| leases.contains_key(lease));
        self.told.remember(leases.values().filter_map(|seen| seen.notice.as_ref()));
        let due: Vec<_> = leases
            .iter()
            .filter(|(_, seen)| seen.in_code().is_none())
            .map(|(lease, seen)| (lease.clone(), seen.clone(), allocation(seen, self.told.of(seen))))
            .filter(|(lease, seen, allocation)| self.is_due(lease, seen, allocation))
            .collect();
        let client = &self.client;
        let results: Vec<_> = futures::stream::iter(due)
            .map(|(lease, seen, allocation)| async move {
                let result = write(client, &lease, &seen, &allocation).await;
                (lease, seen, allocation, result)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let mut all = true;
        for (lease, seen, allocation, result) in results {
            match result {
                Ok(()) => {
                    let finalized = may_go(&seen);
                    let object = seen.answered.object;
                    self.written.insert(lease, Written { object, allocation, at: Instant::now(), finalized });
                }
                Err(error) => {
                    all = false;
                    if !std::mem::replace(&mut self.failing, true) {
                        tracing::warn!(%lease, error = &error as &dyn std::error::Error, "cannot write its state yet");
                    }
                }
            }
        }
        if all && std::mem::take(&mut self.failing) {
            tracing::info!("the states of all leases are written");
        }
        all
    }

    fn is_due(&self, lease: &LeaseId, seen: &LeaseSeen, allocation: &Allocation) -> bool {
        let Some(written) = self.written.get(lease) else { return true };
        if written.object != seen.answered.object || (may_go(seen) && !written.finalized) {
            return true;
        }
        let but_use = |allocation: &Allocation| Allocation { used: None, ..allocation.clone() };
        but_use(&written.allocation) != but_use(allocation)
            || (written.allocation.used != allocation.used && written.at.elapsed() >= USE_EVERY)
    }
}

/// Whether nothing of the lease is held here any more and its object may go.
fn may_go(seen: &LeaseSeen) -> bool {
    seen.deleting && matches!(seen.state, State::Ended | State::Refused)
}

async fn write(client: &Client, lease: &LeaseId, seen: &LeaseSeen, allocation: &Allocation) -> Result<(), kube::Error> {
    let (kind, namespace, name) = object_name(lease);
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind.resource());
    let patch = json!({
        "apiVersion": "memboss.dev/v1alpha1",
        "kind": kind.name(),
        // The UID keeps a later object of the same name from getting this one's state.
        "metadata": {"name": name, "uid": seen.answered.object},
        "status": {"allocation": allocation},
    });
    let params = PatchParams::apply(AGENT).force();
    match api.patch_status(name, &params, &Patch::Apply(&patch)).await {
        Ok(_) => {}
        // Gone, or another object by now: nobody is left to be told.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return Ok(()),
        Err(error) => return Err(error),
    }
    if may_go(seen) { take_finalizer_off(&api, name, &seen.answered.object).await } else { Ok(()) }
}

async fn take_finalizer_off(api: &Api<DynamicObject>, name: &str, object: &str) -> Result<(), kube::Error> {
    let Some(lease) = api.get_metadata_opt(name).await? else { return Ok(()) };
    let at = lease.finalizers().iter().position(|finalizer| finalizer == FINALIZER);
    let (Some(at), true) = (at, lease.metadata.uid.as_deref() == Some(object)) else { return Ok(()) };
    let path = format!("/metadata/finalizers/{at}");
    let steps = json!([
        {"op": "test", "path": "/metadata/uid", "value": object},
        {"op": "test", "path": path, "value": FINALIZER},
        {"op": "remove", "path": path},
    ]);
    let patch: json_patch::Patch = serde_json::from_value(steps).map_err(kube::Error::SerdeError)?;
    match api.patch(name, &PatchParams::default(), &Patch::<()>::Json(patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}
