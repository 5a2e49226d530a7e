//! What the operator has seen of the cluster, reduced to what it decides by. It may hold and look up; it decides nothing and writes nothing.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, ResourceRequirements, Taint};
use kube::ResourceExt as _;
use memboss_crds::{GATE, IN_CODE_LABEL, LEASED_LABEL, MemoryNode, PREFIX, VramLease, parse_mib};

/// `namespace/name`.
pub type Key = String;

/// The key of an object.
#[must_use]
pub fn key<K: kube::Resource>(object: &K) -> Key {
    let meta = object.meta();
    format!("{}/{}", meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

/// Everything seen.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Pods of ours, whole.
    pub pods: BTreeMap<Key, Pod>,
    /// What every pod that is bound takes of its node.
    pub usage: BTreeMap<Key, (String, Amounts)>,
    /// Nodes.
    pub nodes: BTreeMap<String, NodeInfo>,
    /// What agents report.
    pub memory: BTreeMap<String, MemoryNode>,
    /// Leases.
    pub leases: BTreeMap<Key, VramLease>,
    /// What agents show of leases in code that hold memory of their nodes: facts, and no wishes.
    pub in_code: BTreeMap<Key, VramLease>,
    /// Nodes whose heartbeat is missing.
    pub suspects: std::collections::BTreeSet<String>,
    /// Admission is closed, since an uninstall has begun: leases end, and none begins.
    pub closed: bool,
}

/// What of a node the placement has to respect.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Taints.
    pub taints: Vec<Taint>,
    /// Cordoned.
    pub unschedulable: bool,
    /// Its kubelet reports it Ready.
    pub ready: bool,
    /// What pods can have in all.
    pub allocatable: Amounts,
}

/// CPU in thousandths, memory and ephemeral storage in bytes, pods by number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Thousandths of a processor.
    pub cpu: u64,
    /// Bytes.
    pub memory: u64,
    /// Bytes.
    pub storage: u64,
    /// Pods.
    pub pods: u64,
}

impl Amounts {
    /// The sum.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_add(other.cpu),
            memory: self.memory.saturating_add(other.memory),
            storage: self.storage.saturating_add(other.storage),
            pods: self.pods.saturating_add(other.pods),
        }
    }

    /// The larger of each.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            cpu: self.cpu.max(other.cpu),
            memory: self.memory.max(other.memory),
            storage: self.storage.max(other.storage),
            pods: self.pods.max(other.pods),
        }
    }

    /// What is missing for all of this to fit into `room`, by name.
    #[must_use]
    pub const fn lacking(self, room: Self) -> Option<&'static str> {
        if self.cpu > room.cpu {
            Some("cpu")
        } else if self.memory > room.memory {
            Some("memory")
        } else if self.storage > room.storage {
            Some("ephemeral-storage")
        } else if self.pods > room.pods {
            Some("pods")
        } else {
            None
        }
    }
}

/// What a pod asks of its node, as the scheduler counts it: the containers and sidecars together, or the largest init container before them.
#[must_use]
pub fn requests(spec: &PodSpec) -> Amounts {
    let mut running = Amounts { pods: 1, ..of_list(spec.overhead.as_ref()) };
    let mut peak = running;
    for init in spec.init_containers.iter().flatten() {
        let own = of_container(init.resources.as_ref());
        if init.restart_policy.as_deref() == Some("Always") {
            running = running.plus(own);
        } else {
            peak = peak.max(running.plus(own));
        }
    }
    for container in &spec.containers {
        running = running.plus(of_container(container.resources.as_ref()));
    }
    for_the_whole_pod(spec, peak.max(running))
}

/// What a pod says of itself as a whole counts in place of what its containers add up to.
fn for_the_whole_pod(spec: &PodSpec, sum: Amounts) -> Amounts {
    let said = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let (whole, overhead) = (of_list(said), of_list(spec.overhead.as_ref()));
    let says = |name: &str| said.is_some_and(|list| list.contains_key(name));
    Amounts {
        cpu: if says("cpu") { whole.cpu.saturating_add(overhead.cpu) } else { sum.cpu },
        memory: if says("memory") { whole.memory.saturating_add(overhead.memory) } else { sum.memory },
        ..sum
    }
}

/// What a pod asks of its node beside its lease of RAM: that part of its memory request is counted among leases, where a higher class can get it.
#[must_use]
pub fn besides_lease(pod: &Pod) -> Amounts {
    let asked = pod.spec.as_ref().map(requests).unwrap_or_default();
    let ram = pod.annotations().get(&format!("{PREFIX}ram")).filter(|_| is_ours(pod));
    let carried = ram.and_then(|text| parse_mib(text).ok()).map_or(0, memboss_core::Mib::bytes);
    Amounts { memory: asked.memory.saturating_sub(carried), ..asked }
}

fn of_container(resources: Option<&ResourceRequirements>) -> Amounts {
    resources.map_or_else(Amounts::default, |resources| of_list(resources.requests.as_ref()))
}

fn of_list(list: Option<&BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>) -> Amounts {
    let amount = |name: &str, scale: u64| {
        list.and_then(|list| list.get(name)).and_then(|q| scaled(&q.0, scale)).unwrap_or_default()
    };
    Amounts {
        cpu: amount("cpu", 1000),
        memory: amount("memory", 1),
        storage: amount("ephemeral-storage", 1),
        pods: amount("pods", 1),
    }
}

/// A Kubernetes quantity of bytes, rounded up. `None` for text that is none.
#[must_use]
pub fn bytes(text: &str) -> Option<u64> {
    scaled(text, 1)
}

/// A Kubernetes quantity times `scale`, rounded up. `None` for text that is none.
fn scaled(text: &str, scale: u64) -> Option<u64> {
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let (numerator, denominator): (u128, u128) = match unit {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => (10u128.checked_pow(unit.strip_prefix(['e', 'E'])?.parse().ok()?)?, 1),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let fraction = &fraction[..fraction.len().min(9)];
    let power = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let exact = digits.checked_mul(numerator)?.checked_mul(u128::from(scale))?;
    u64::try_from(exact.div_ceil(denominator * power)).ok()
}

impl From<&Node> for NodeInfo {
    fn from(node: &Node) -> Self {
        let spec = node.spec.as_ref();
        let status = node.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.as_ref());
        Self {
            labels: node.labels().clone(),
            taints: spec.and_then(|spec| spec.taints.clone()).unwrap_or_default(),
            unschedulable: spec.and_then(|spec| spec.unschedulable).unwrap_or(false),
            ready: conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True")),
            allocatable: of_list(status.and_then(|status| status.allocatable.as_ref())),
        }
    }
}

impl World {
    /// Takes in a pod; whether anything that matters has changed.
    pub fn pod(&mut self, pod: Pod) -> bool {
        let key = key(&pod);
        let over = is_over(&pod);
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        let usage = node.filter(|_| !over).map(|node| (node, pod.spec.as_ref().map(requests).unwrap_or_default()));
        let mut changed = match usage {
            Some(usage) => self.usage.insert(key.clone(), usage.clone()) != Some(usage),
            None => self.usage.remove(&key).is_some(),
        };
        if is_ours(&pod) {
            changed |= self.pods.get(&key) != Some(&pod);
            self.pods.insert(key, pod);
        }
        changed
    }

    /// A pod is gone.
    pub fn no_pod(&mut self, key: &Key) {
        self.usage.remove(key);
        self.pods.remove(key);
    }

    /// The living pod of that uid.
    #[must_use]
    pub fn pod_of(&self, lease: &VramLease) -> Option<&Pod> {
        let key = format!("{}/{}", lease.namespace().unwrap_or_default(), lease.spec.subject.pod_name);
        self.pods.get(&key).filter(|pod| pod.uid().as_deref() == Some(&lease.spec.subject.pod_uid))
    }
}

/// Whether that object only shows a lease in code; and whether it takes memory of its node, or is a part of its pod's lease, which counts.
#[must_use]
pub fn shown_in_code(lease: &VramLease) -> Option<Takes> {
    let of = lease.labels().get(IN_CODE_LABEL)?;
    Some(if of == "own" { Takes::OfItsNode } else { Takes::OfItsPodsLease })
}

/// What a lease in code takes memory of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Its node's.
    OfItsNode,
    /// Its pod's lease's.
    OfItsPodsLease,
}

/// Whether a pod is one of ours: the webhook put label, gate and resource there.
#[must_use]
pub fn is_ours(pod: &Pod) -> bool {
    pod.labels().get(LEASED_LABEL).is_some_and(|value| value == "true")
}

/// Whether it has ended for good.
#[must_use]
pub fn is_over(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// Our gate's place among the pod's gates, and how many there are.
#[must_use]
pub fn gate(pod: &Pod) -> Option<(usize, usize)> {
    let gates = pod.spec.as_ref()?.scheduling_gates.as_ref()?;
    gates.iter().position(|gate| gate.name == GATE).map(|at| (at, gates.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        let cases = [
            ("1", 1000, 1000),
            ("100m", 1000, 100),
            ("1.5", 1000, 1500),
            ("8Gi", 1, 8 << 30),
            ("1k", 1, 1000),
            ("1e3", 1, 1000),
            ("1Ei", 1, 1 << 60),
            ("2E", 1, 2_000_000_000_000_000_000),
            ("110", 1, 110),
            ("0.1m", 1000, 1),
        ];
        for (text, scale, expect) in cases {
            assert_eq!(scaled(text, scale), Some(expect), "{text}");
        }
        assert_eq!(scaled("lots", 1), None);
    }

    #[test]
    fn what_a_lease_of_ram_carries_is_not_counted_twice() {
        let pod = |ours: &str| -> Pod {
            serde_json::from_value(json!({
                "metadata": { "annotations": { "memboss.dev/ram": "4Gi" }, "labels": { "memboss.dev/leased": ours } },
                "spec": { "containers": [{ "name": "a", "resources": { "requests": { "memory": "5Gi" } } }] }
            }))
            .unwrap()
        };
        assert_eq!((besides_lease(&pod("true")).memory, besides_lease(&pod("no")).memory), (1 << 30, 5 << 30));
    }

    #[test]
    fn a_pod_asks_what_the_scheduler_counts() {
        let spec: PodSpec = serde_json::from_value(json!({
            "containers": [{ "name": "a", "resources": { "requests": { "cpu": "1", "memory": "1Gi" } } }, { "name": "b", "resources": { "requests": { "cpu": "500m" } } }],
            "initContainers": [
                { "name": "side", "restartPolicy": "Always", "resources": { "requests": { "cpu": "100m" } } },
                { "name": "big", "resources": { "requests": { "cpu": "4", "memory": "512Mi" } } }
            ]
        }))
        .unwrap();
        assert_eq!(requests(&spec), Amounts { cpu: 4100, memory: 1 << 30, storage: 0, pods: 1 });
        let whole = Some(serde_json::from_value(json!({ "requests": { "memory": "32Gi" } })).unwrap());
        assert_eq!(requests(&PodSpec { resources: whole, ..spec }).memory, 32 << 30);
    }
}
