//! A cluster as its API server tells of it, in the same types as an agent's answer, so that one set of tables serves both ways. What is changed there is
//! what a word of the command line asks for: a node's wish to be empty, a pod's end; an agent itself is asked by way of its pod.

pub(crate) mod empty;
mod reach;
mod watch;
mod words;

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{DeleteParams, ListParams, Preconditions};
use kube::{Api, ResourceExt as _};
use memboss_agent_api::v1::{LeaseView, StatusResponse};
use memboss_crds::{IN_CODE_LABEL, LeasePhase, MemoryNode, RamLease, VramLease};

pub(crate) use self::watch::Wanted;
use crate::exit::Failure;
use crate::way::{Server, refused};

/// Everything that can be seen at once: of one machine, or of a cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Picture {
    /// The machines, each with its own leases.
    pub(crate) machines: Vec<StatusResponse>,
    /// All leases, also those that are nowhere yet.
    pub(crate) leases: Vec<Placed>,
}

/// A lease and the node that it is placed on.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Placed {
    /// As an agent tells of it.
    pub(crate) view: LeaseView,
    /// Empty while it has none, and where there is only one.
    pub(crate) node: String,
}

impl From<StatusResponse> for Picture {
    fn from(status: StatusResponse) -> Self {
        let leases = status.leases.iter().map(|view| Placed { view: view.clone(), node: String::new() }).collect();
        Self { machines: vec![status], leases }
    }
}

impl Picture {
    /// What there is of one node alone, if one is named.
    fn of(mut self, node: Option<&str>) -> Result<Self, Failure> {
        let Some(node) = node else { return Ok(self) };
        if self.machines.iter().all(|machine| machine.node != node) {
            return Err(unknown(node, &self.machines));
        }
        self.machines.retain(|machine| machine.node == node);
        self.leases.retain(|lease| lease.node == node);
        Ok(self)
    }
}

fn unknown(node: &str, machines: &[StatusResponse]) -> Failure {
    Failure::Usage(format!("no agent reports a node {node:?}: there is {}", names(machines)))
}

fn names(machines: &[StatusResponse]) -> String {
    let names: Vec<&str> = machines.iter().map(|machine| machine.node.as_str()).collect();
    if names.is_empty() { "none (see memboss doctor --by api)".to_owned() } else { names.join(", ") }
}

/// Now, in milliseconds since 1970.
fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    i64::try_from(now).unwrap_or(i64::MAX)
}

impl Server {
    /// The nodes and leases that were asked for.
    pub(crate) async fn picture(&self) -> Result<Picture, Failure> {
        let (nodes, leases) = (self.memory_nodes().await?, self.objects(self.namespace.as_deref()).await?);
        words::picture(&nodes, &leases, now()).of(self.on.as_deref())
    }

    /// The nodes that were asked for, without leases.
    pub(crate) async fn machines(&self) -> Result<Vec<StatusResponse>, Failure> {
        Ok(words::picture(&self.memory_nodes().await?, [], now()).of(self.on.as_deref())?.machines)
    }

    /// The leases that were asked for.
    pub(crate) async fn leases(&self) -> Result<Vec<Placed>, Failure> {
        // Who may read leases of a namespace need not be let see nodes.
        if self.on.is_some() {
            return Ok(self.picture().await?.leases);
        }
        Ok(words::picture([], &self.objects(self.namespace.as_deref()).await?, now()).leases)
    }

    async fn memory_nodes(&self) -> Result<Vec<MemoryNode>, Failure> {
        let api = Api::<MemoryNode>::all(self.client.clone());
        Ok(api.list(&ListParams::default()).await.map_err(|error| refused(&error))?.items)
    }

    /// Where leases of both kinds are: of one namespace, or of all.
    fn lease_apis(&self, namespace: Option<&str>) -> (Api<VramLease>, Api<RamLease>) {
        let client = self.client.clone();
        match namespace {
            Some(namespace) => (Api::namespaced(client.clone(), namespace), Api::namespaced(client, namespace)),
            None => (Api::all(client.clone()), Api::all(client)),
        }
    }

    /// Leases of both kinds.
    async fn objects(&self, namespace: Option<&str>) -> Result<Vec<VramLease>, Failure> {
        let ((vram, ram), all) = (self.lease_apis(namespace), ListParams::default());
        let mut found = vram.list(&all).await.map_err(|error| refused(&error))?.items;
        found.extend(ram.list(&all).await.map_err(|error| refused(&error))?.items.into_iter().map(VramLease::from));
        Ok(found)
    }

    /// The one lease of that name, or of the pod of that name.
    async fn object(&self, named: &str) -> Result<VramLease, Failure> {
        let namespace = named.split_once('/').map(|(namespace, _)| namespace).or(self.namespace.as_deref());
        let mut found = words::find(self.objects(namespace).await?, named);
        match (found.pop(), found.as_slice()) {
            (Some(lease), []) => Ok(lease),
            (Some(lease), others) => {
                let names: Vec<String> = others.iter().chain([&lease]).map(words::name).collect();
                Err(Failure::Usage(format!("{named} is several: say which of {}", names.join(", "))))
            }
            (None, _) => {
                let place = namespace.map_or("any namespace".to_owned(), |name| format!("namespace {name}"));
                Err(Failure::Undone(format!("no lease {named} is in {place}: memboss lease list shows those that are")))
            }
        }
    }

    /// Its whole name, and the node that it is placed on.
    pub(crate) async fn placed(&self, named: &str) -> Result<(String, String), Failure> {
        let lease = self.object(named).await?;
        let name = words::name(&lease);
        match lease.status.and_then(|status| status.placement) {
            Some(placement) => Ok((name, placement.node)),
            None => Err(Failure::Undone(format!("lease {name} waits and holds nothing"))),
        }
    }

    /// Why a lease stands where it stands. It is named as `lease list` does, or by its pod.
    pub(crate) async fn why(&self, named: &str) -> Result<Vec<String>, Failure> {
        let lease = self.object(named).await?;
        let mut lines = words::explained(&lease);
        let api = Api::<Event>::namespaced(self.client.clone(), &lease.namespace().unwrap_or_default());
        let about = format!("involvedObject.uid={}", lease.metadata.uid.clone().unwrap_or_default());
        match api.list(&ListParams::default().fields(&about)).await {
            Ok(events) => lines.extend(events.items.iter().map(|event| words::happened(event, now()))),
            Err(error) => lines.push(format!("its events cannot be read: {}", refused(&error))),
        }
        Ok(lines)
    }

    /// The pod that has a lease: `namespace/name`, with what tells it from another of that name.
    pub(crate) async fn pod_of(&self, named: &str) -> Result<Holding, Failure> {
        let lease = self.object(named).await?;
        let name = words::name(&lease);
        if words::phase(&lease) == Some(LeasePhase::Ended) {
            return Err(Failure::Undone(format!("lease {name} is over already")));
        }
        if lease.labels().contains_key(IN_CODE_LABEL) {
            return Err(Failure::Undone(format!(
                "{name} was leased in code: it is given back by the process that has it, and ending its pod would end all else there too; on its node, memboss lease preempt asks that process to go"
            )));
        }
        let namespace = lease.namespace().unwrap_or_default();
        Ok(Holding { lease: name, namespace, pod: lease.spec.subject.pod_name, uid: lease.spec.subject.pod_uid })
    }

    /// Ends a pod, as `kubectl delete pod` would.
    pub(crate) async fn end(&self, holding: &Holding) -> Result<(), Failure> {
        let api = Api::<Pod>::namespaced(self.client.clone(), &holding.namespace);
        let this = Preconditions { uid: Some(holding.uid.clone()), ..Preconditions::default() };
        let ask = DeleteParams { preconditions: Some(this), ..DeleteParams::default() };
        match api.delete(&holding.pod, &ask).await {
            Err(kube::Error::Api(answer)) if answer.code == 404 || answer.code == 409 => Err(Failure::Undone(format!(
                "pod {}/{} is gone already; its lease ends when its memory is seen free",
                holding.namespace, holding.pod
            ))),
            other => other.map(drop).map_err(|error| refused(&error)),
        }
    }

    /// The names of the nodes that were asked for: one, or all.
    pub(crate) async fn nodes(&self) -> Result<Vec<String>, Failure> {
        Ok(self.machines().await?.into_iter().map(|machine| machine.node).collect())
    }

    /// The one node that was asked for, or the only one.
    pub(crate) async fn one_node(&self) -> Result<String, Failure> {
        let machines = self.machines().await?;
        match machines.as_slice() {
            [only] => Ok(only.node.clone()),
            several => Err(Failure::Usage(format!("say on which node by --on NAME: there is {}", names(several)))),
        }
    }

    /// GPUs by index or UUID, as UUIDs, node by node.
    pub(crate) async fn gpus(&self, named: &[String]) -> Result<BTreeMap<String, Vec<String>>, Failure> {
        let machines = self.machines().await?;
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for name in named {
            let gpus = machines.iter().flat_map(|machine| {
                let list = machine.gpus.as_ref().map(|list| list.gpus.as_slice()).unwrap_or_default();
                list.iter().map(|gpu| (&machine.node, gpu))
            });
            let fits: Vec<_> = gpus.filter(|(_, gpu)| gpu.uuid == *name || gpu.index.to_string() == *name).collect();
            match fits.as_slice() {
                [(node, gpu)] => found.entry((*node).clone()).or_default().push(gpu.uuid.clone()),
                [] => return Err(Failure::Usage(format!("no GPU {name:?} is on {}", names(&machines)))),
                several => {
                    let there: Vec<String> =
                        several.iter().map(|(node, gpu)| format!("{} on {node}", gpu.uuid)).collect();
                    let there = there.join(", ");
                    return Err(Failure::Usage(format!(
                        "GPU {name} is several ({there}): say which node by --on NAME"
                    )));
                }
            }
        }
        Ok(found)
    }
}

/// The pod that has a lease.
#[derive(Debug)]
pub(crate) struct Holding {
    /// The lease.
    pub(crate) lease: String,
    /// The pod's namespace.
    pub(crate) namespace: String,
    /// The pod's name.
    pub(crate) pod: String,
    uid: String,
}
