//! Writes the objects that show leases in code, at transitions only. What is shown is decided in `mirror_plan.rs`. They are no wishes: nothing comes back from
//! them, and one that somebody deletes is made again with the lease's next transition.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use kube::{Api, Client, ResourceExt as _};
use memboss_core::{LeaseId, Moment};
use memboss_crds::{IN_CODE_LABEL, LeaseKind, RamLease, VramLease, VramLeaseStatus};
use serde_json::json;

use super::mirror_plan::{Act, Key, holder, named, plan};
use super::publish::Notices;
use super::{Cluster, pause};
use crate::node::view::{LeaseSeen, Snapshot};
use crate::probes::clock;

/// The field manager of these objects.
const MANAGER: &str = "memboss-agent-in-code";
/// A lease that has held its memory for some seconds is found within so long.
const LOOK: Duration = Duration::from_secs(1);
/// Pause after a failure, doubled up to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// What is known of the objects.
struct Mirror {
    client: Client,
    node: String,
    /// What is there, and what was last said there.
    there: BTreeMap<Key, Option<VramLeaseStatus>>,
    held_since: BTreeMap<LeaseId, Moment>,
    told: Notices,
    /// The last round failed: said once.
    failing: bool,
}

/// Shows leases in code until the shutdown.
pub(super) async fn run(mut cluster: Cluster) -> anyhow::Result<()> {
    // An agent that comes back would take what is shown of pods that it does not know yet for over.
    if !cluster.shows(|snapshot| snapshot.pods_known).await {
        return Ok(());
    }
    let mut mirror = Mirror {
        client: cluster.client.clone(),
        node: cluster.node.clone(),
        there: BTreeMap::new(),
        held_since: BTreeMap::new(),
        told: Notices::default(),
        failing: false,
    };
    let mut backoff = BACKOFF.0;
    while let Err(error) = mirror.list().await {
        tracing::debug!(error = &error as &dyn std::error::Error, "cannot tell yet which leases in code are shown");
        pause(&cluster.shutdown, backoff).await;
        backoff = (backoff * 2).min(BACKOFF.1);
        if cluster.shutdown.is_cancelled() {
            return Ok(());
        }
    }
    backoff = BACKOFF.0;
    while !cluster.shutdown.is_cancelled() {
        let snapshot = cluster.snapshots.borrow_and_update().clone();
        if mirror.round(&snapshot).await {
            backoff = BACKOFF.0;
        } else {
            pause(&cluster.shutdown, backoff).await;
            backoff = (backoff * 2).min(BACKOFF.1);
            continue;
        }
        tokio::select! {
            () = cluster.shutdown.cancelled() => {}
            changed = cluster.snapshots.changed() => if changed.is_err() { return Ok(()) },
            () = tokio::time::sleep(LOOK), if mirror.awaits_some(&snapshot) => {}
        }
    }
    Ok(())
}

impl Mirror {
    /// What an earlier agent has left of this node.
    async fn list(&mut self) -> Result<(), kube::Error> {
        let ours = ListParams::default().labels(IN_CODE_LABEL).fields(&format!("status.placement.node={}", self.node));
        let of_gpus = Api::<VramLease>::all(self.client.clone()).list(&ours).await?.items;
        let of_ram = Api::<RamLease>::all(self.client.clone()).list(&ours).await?.items;
        for lease in of_gpus.into_iter().chain(of_ram.into_iter().map(VramLease::from)) {
            self.there.insert((lease.namespace().unwrap_or_default(), lease.name_any()), lease.status);
        }
        Ok(())
    }

    /// Whether a lease may have to be shown though nothing changes.
    fn awaits_some(&self, snapshot: &Snapshot) -> bool {
        snapshot.leases.values().filter(|seen| holder(seen).is_some()).count() > self.there.len()
    }

    /// Writes what changed; whether all of it could be written.
    async fn round(&mut self, snapshot: &Snapshot) -> bool {
        let now = clock::now();
        let held = snapshot.leases.iter().filter(|(_, seen)| holder(seen).is_some());
        let held = held.map(|(lease, _)| (lease.clone(), *self.held_since.get(lease).unwrap_or(&now)));
        self.held_since = held.collect();
        self.told.remember(snapshot.leases.values().filter_map(|seen| seen.notice.as_ref()));
        let at = (now, Timestamp::now());
        let mut all = true;
        // What is made in the first pass is said in the second.
        for _ in 0..2 {
            let told = |seen: &LeaseSeen| self.told.of(seen).cloned();
            for act in plan(&snapshot.leases, &self.there, &self.held_since, &told, &self.node, at) {
                if let Err(error) = self.carry_out(act).await {
                    all = false;
                    if !std::mem::replace(&mut self.failing, true) {
                        tracing::warn!(error = &error as &dyn std::error::Error, "a lease in code cannot be shown yet");
                    }
                }
            }
        }
        if all {
            self.failing = false;
        }
        all
    }

    async fn carry_out(&mut self, act: Act) -> Result<(), kube::Error> {
        match act {
            Act::Make(lease) => {
                let key = (lease.namespace().unwrap_or_default(), lease.name_any());
                let object = lease.as_ram().map_or_else(|| serde_json::to_value(&lease), serde_json::to_value);
                let object = serde_json::from_value(object.map_err(kube::Error::SerdeError)?);
                let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
                let (api, _) = self.api(&key);
                match api.create(&params, &object.map_err(kube::Error::SerdeError)?).await {
                    Err(kube::Error::Api(status)) if status.code == 409 => {}
                    other => drop(other?),
                }
                self.there.insert(key, None);
            }
            Act::Say(key, said) => {
                let (api, kind) = self.api(&key);
                let (_, name) = named(&key);
                let patch = json!({
                    "apiVersion": "memboss.dev/v1alpha1", "kind": kind.name(), "metadata": {"name": name}, "status": said,
                });
                let params = PatchParams::apply(MANAGER).force();
                match api.patch_status(name, &params, &Patch::Apply(&patch)).await {
                    // Somebody deleted it: it is made again.
                    Err(kube::Error::Api(status)) if status.code == 404 => drop(self.there.remove(&key)),
                    Err(error) => return Err(error),
                    Ok(_) => drop(self.there.insert(key, Some(*said))),
                }
            }
            Act::Remove(key) => {
                let (api, _) = self.api(&key);
                match api.delete(named(&key).1, &DeleteParams::default()).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => {}
                    other => drop(other?),
                }
                self.there.remove(&key);
            }
        }
        Ok(())
    }

    fn api(&self, key: &Key) -> (Api<DynamicObject>, LeaseKind) {
        let (kind, _) = named(key);
        (Api::namespaced_with(self.client.clone(), &key.0, &kind.resource()), kind)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;

    use http::{Method, Request, Response};
    use kube::client::Body;
    use memboss_crds::VramLeaseSpec;
    use memboss_platform::shutdown::Shutdown;
    use serde_json::Value;
    use tokio::sync::{mpsc, watch};

    use super::*;

    /// Nothing here takes so long; it only ends a test that would hang.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// An API server that knows one object, which an earlier agent has left; each request is told.
    fn server(asked: mpsc::UnboundedSender<(Method, String)>) -> Client {
        let answer = move |request: Request<Body>| {
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            let mut left = VramLease::new("left", VramLeaseSpec::default());
            left.metadata.namespace = Some("team".into());
            let items = if path.ends_with("/vramleases") { vec![left] } else { Vec::new() };
            let said: Value = if method == Method::GET {
                json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items})
            } else {
                json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Success"})
            };
            let told = asked.send((method, path));
            async move {
                drop(told);
                Ok::<_, Infallible>(Response::new(Body::from(said.to_string().into_bytes())))
            }
        };
        Client::new(tower::service_fn(answer), "default")
    }

    /// Lets everything happen that can happen without another input.
    async fn settle() {
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_an_earlier_agent_has_left_is_not_touched_until_it_is_known_which_pods_are_here() {
        let (tell, mut asked) = mpsc::unbounded_channel();
        let (publish, snapshots) = watch::channel(Arc::<Snapshot>::default());
        let cluster = Cluster {
            client: server(tell),
            node: "node1".into(),
            namespace: "memboss-system".into(),
            inputs: mpsc::channel(1).0,
            snapshots,
            shutdown: Shutdown::new(),
        };
        let shutdown = cluster.shutdown.clone();
        let mirror = tokio::spawn(run(cluster));
        settle().await;
        publish.send_replace(Arc::new(Snapshot { node: "node1".into(), ..Snapshot::default() }));
        settle().await;
        assert!(asked.try_recv().is_err(), "nothing is known of pods yet");

        publish.send_replace(Arc::new(Snapshot { pods_known: true, ..Snapshot::default() }));
        let mut seen = Vec::new();
        while !seen.iter().any(|(method, _)| *method == Method::DELETE) {
            seen.push(tokio::time::timeout(PATIENCE, asked.recv()).await.unwrap().unwrap());
        }
        let (_, path) = seen.last().unwrap();
        assert!(path.ends_with("/namespaces/team/vramleases/left"), "nobody holds it: {seen:?}");
        shutdown.cancel();
        mirror.await.unwrap().unwrap();
    }
}
