//! What the webhook does to a pod: refuses a wrong request, or adds what a right one needs. Pure: pod in, changed pod out. The same pod twice gives the
//! same answer, since admission may call again.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSchedulingGate, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use memboss_core::{Class, GpuModel, GpuSelector, GpuUuid, Mib, Percent, UNIT};
use memboss_crds::{ContainerSlots, GATE, IN_CODE, LEASED_LABEL, PREFIX, RESOURCE, Slot, parse_mib, quantity};

use crate::annotations::{self, Asked, Wrong};
use crate::world::bytes;

/// What the webhook knows besides the pod.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The GPUs there are.
    pub gpus: Vec<KnownGpu>,
    /// The highest class that the namespace may use.
    pub most: Option<Class>,
}

/// A GPU as its agent reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownGpu {
    /// Its UUID.
    pub uuid: GpuUuid,
    /// Its model.
    pub model: GpuModel,
    /// What can be leased of it.
    pub leasable: Mib,
}

/// The annotation of a Namespace that says its highest class. Without it `high` is the highest: only an administrator makes a namespace urgent.
pub const MAX_CLASS: &str = "memboss.dev/max-class";

/// Changes a pod as its request needs. `Ok(None)`: it is none of ours.
///
/// # Errors
/// All that is wrong with it.
pub fn admit(pod: &Pod, around: &Surroundings) -> Result<Option<Pod>, Vec<Wrong>> {
    let asked = match annotations::read(pod) {
        Ok(None) => return Ok(None),
        Ok(Some(asked)) => asked,
        Err(wrong) => return Err(wrong),
    };
    let mut wrong = Vec::new();
    if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()).filter(|_| asked.is_lease()) {
        let right = "a pod with a lease is placed by memboss: leave nodeName out, and use a node selector or affinity"
            .to_owned();
        wrong.push(Wrong { field: "spec.nodeName".into(), value: node.clone(), right });
    }
    let most = around.most.unwrap_or(Class::High);
    let class = Class::from(asked.class);
    if class > most {
        let right = format!(
            "this namespace may ask for {most} at the most; an administrator can allow more by annotating it {MAX_CLASS}={class}"
        );
        wrong.push(Wrong { field: format!("{PREFIX}priority"), value: class.to_string(), right });
    }
    if wrong.is_empty() { Ok(Some(change(pod.clone(), &asked, around))) } else { Err(wrong) }
}

fn change(mut pod: Pod, asked: &Asked, around: &Surroundings) -> Pod {
    let label = if asked.is_lease() { "true" } else { IN_CODE };
    pod.metadata.labels.get_or_insert_default().insert(LEASED_LABEL.into(), label.into());
    let Some(spec) = pod.spec.as_mut() else { return pod };
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        if let Some(slots) = asked.containers.iter().find(|slots| slots.name == container.name) {
            set_resource(container, RESOURCE, units(slots, asked, around));
        }
        if let Some(door) = asked.in_code.as_ref().filter(|door| door.containers.contains(&container.name)) {
            set_resource(container, door.resource, 1);
        }
        if let Some(ram) = asked.ram.filter(|_| container.name == asked.carrier) {
            carry(container, ram);
        }
    }
    // Nobody waits for memory before it starts, and it is placed as any other.
    if !asked.is_lease() {
        return pod;
    }
    let gates = spec.scheduling_gates.get_or_insert_default();
    if !gates.iter().any(|gate| gate.name == GATE) {
        gates.push(PodSchedulingGate { name: GATE.into() });
    }
    // A class of the user's own is left alone. With ours, what the priority plugin computed before has to be computed again.
    if spec.priority_class_name.as_deref().is_none_or(str::is_empty) {
        spec.priority_class_name = Some(format!("memboss-{}", Class::from(asked.class)));
        spec.priority = None;
        spec.preemption_policy = None;
    }
    pod
}

fn set_resource(container: &mut Container, name: &str, amount: u64) {
    let resources = container.resources.get_or_insert_with(ResourceRequirements::default);
    for list in [&mut resources.limits, &mut resources.requests] {
        list.get_or_insert_with(BTreeMap::new).insert(name.into(), Quantity(amount.to_string()));
    }
}

/// Makes the container's memory request, and a limit that is set, no less than that, so that scheduler and kubelet do not give the RAM to others too.
fn carry(container: &mut Container, ram: Mib) {
    let resources = container.resources.get_or_insert_with(ResourceRequirements::default);
    let least = || Quantity(quantity(ram));
    // What cannot be read is left for the API server to refuse.
    let too_small = |asked: &Quantity| bytes(&asked.0).is_some_and(|asked| asked < ram.bytes());
    // Without a request of its own a container with a limit has that as its request.
    let limit = resources.limits.as_ref().and_then(|limits| limits.get("memory")).cloned();
    let requests = resources.requests.get_or_insert_default();
    if requests.get("memory").or(limit.as_ref()).is_none_or(too_small) {
        requests.insert("memory".into(), least());
    }
    if limit.as_ref().is_some_and(too_small) {
        resources.limits.get_or_insert_default().insert("memory".into(), least());
    }
}

/// The units that a container's part comes to. A share counts for the smallest GPU that will do, since the count cannot grow later and the ledger,
/// not the count, is the capacity.
fn units(slots: &ContainerSlots, asked: &Asked, around: &Surroundings) -> u64 {
    // One that names no GPU that could be has none that will do.
    let selector = GpuSelector::try_from(&asked.selector).ok();
    let wanted = |gpu: &&KnownGpu| selector.as_ref().is_some_and(|selector| selector.accepts(&gpu.uuid, &gpu.model));
    let smallest = around.gpus.iter().filter(wanted).map(|gpu| gpu.leasable).min();
    let one = |slot: &Slot| -> u64 {
        let fixed = slot.memory.as_deref().and_then(|text| parse_mib(text).ok()).unwrap_or_default();
        let share = slot.percent.and_then(|p| Percent::new(u64::from(p)).ok());
        let share = share.map_or(Mib::ZERO, |share| smallest.map_or(UNIT, |leasable| leasable.share(share)));
        fixed.plus(share).round_up_to(UNIT).units(UNIT)
    };
    slots.asks.iter().map(one).sum::<u64>().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use memboss_crds::{AGENT_GPUS_RESOURCE, AGENT_RESOURCE};
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": "p", "annotations": { "memboss.dev/vram.main": "8Gi", "memboss.dev/priority": "low" } },
            "spec": { "priority": 0, "containers": [{ "name": "main" }, { "name": "other" }] }
        }))
        .unwrap()
    }

    #[test]
    fn a_right_pod_gets_units_gate_label_and_class_and_again_the_same() {
        let once = admit(&pod(), &Surroundings::default()).unwrap().unwrap();
        let spec = once.spec.as_ref().unwrap();
        assert_eq!(annotations::units_of(&spec.containers[0]).as_deref(), Some("32"));
        assert_eq!(annotations::units_of(&spec.containers[1]), None, "exactly the container that asked");
        assert_eq!(spec.scheduling_gates.as_ref().unwrap()[0].name, GATE);
        assert_eq!((spec.priority_class_name.as_deref(), spec.priority), (Some("memboss-low"), None));
        assert_eq!(once.metadata.labels.as_ref().unwrap()[LEASED_LABEL], "true");
        assert_eq!(admit(&once, &Surroundings::default()).unwrap().unwrap(), once);
    }

    #[test]
    fn a_share_counts_for_the_smallest_gpu_that_will_do() {
        let mut pod = pod();
        pod.metadata.annotations = Some([("memboss.dev/vram.main".to_owned(), "50%".to_owned())].into());
        let gpu = |uuid: &str, model: &str, leasable| KnownGpu {
            uuid: GpuUuid::new(uuid).unwrap(),
            model: GpuModel::from_product(model).unwrap(),
            leasable: Mib::from_mib(leasable),
        };
        let around =
            Surroundings { gpus: vec![gpu("GPU-1", "NVIDIA-H100", 80_000), gpu("GPU-2", "T4", 14_848)], most: None };
        let units =
            |pod: &Pod| annotations::units_of(&admit(pod, &around).unwrap().unwrap().spec.unwrap().containers[0]);
        assert_eq!(units(&pod).as_deref(), Some("29"));
        pod.metadata.annotations.as_mut().unwrap().insert("memboss.dev/gpu-model".into(), "h100".into());
        assert_eq!(units(&pod).as_deref(), Some("156"));
        pod.metadata.annotations.as_mut().unwrap().insert("memboss.dev/gpu-uuid".into(), "GPU-2".into());
        assert_eq!(units(&pod).as_deref(), Some("1"), "no H100 has that UUID");
        pod.metadata.annotations.as_mut().unwrap().remove("memboss.dev/gpu-model");
        assert_eq!(units(&pod).as_deref(), Some("29"));
    }

    #[test]
    fn ram_is_carried_by_the_memory_request_and_a_limit_is_no_less() {
        let cases = [
            (json!({}), (Some("4Gi"), None)),
            (json!({ "requests": { "memory": "1Gi" }, "limits": { "memory": "2Gi" } }), (Some("4Gi"), Some("4Gi"))),
            (json!({ "requests": { "memory": "1Gi" }, "limits": { "memory": "8Gi" } }), (Some("4Gi"), Some("8Gi"))),
            (json!({ "limits": { "memory": "8Gi" } }), (None, Some("8Gi"))),
            (json!({ "requests": { "memory": "6Gi" } }), (Some("6Gi"), None)),
        ];
        for (resources, (request, limit)) in cases {
            let mut pod = pod();
            pod.metadata.annotations = Some([("memboss.dev/ram".to_owned(), "4Gi".to_owned())].into());
            pod.spec.as_mut().unwrap().containers[0].resources =
                Some(serde_json::from_value(resources.clone()).unwrap());
            let once = admit(&pod, &Surroundings::default()).unwrap().unwrap();
            let has = once.spec.as_ref().unwrap().containers[0].resources.clone().unwrap();
            let memory =
                |list: Option<BTreeMap<String, Quantity>>| list.and_then(|l| l.get("memory").map(|q| q.0.clone()));
            let found = (memory(has.requests), memory(has.limits));
            assert_eq!((found.0.as_deref(), found.1.as_deref()), (request, limit), "{resources}");
            assert_eq!(annotations::units_of(&once.spec.as_ref().unwrap().containers[0]), None, "no GPU");
            assert_eq!(admit(&once, &Surroundings::default()).unwrap().unwrap(), once);
        }
    }

    #[test]
    fn whoever_leases_in_code_alone_gets_the_way_to_the_agent_and_no_gate() {
        let resource = |pod: &Pod, at: usize, name: &str| {
            let limits = pod.spec.as_ref().unwrap().containers[at].resources.clone()?.limits?;
            limits.get(name).map(|quantity| quantity.0.clone())
        };
        let with = |annotations: &[(&str, &str)]| {
            let mut pod = pod();
            let ours = annotations.iter().map(|(key, value)| (format!("{PREFIX}{key}"), (*value).to_owned()));
            pod.metadata.annotations = Some(ours.collect());
            pod.spec.as_mut().unwrap().node_name = Some("node1".into());
            let once = admit(&pod, &Surroundings::default()).unwrap().unwrap();
            assert_eq!(admit(&once, &Surroundings::default()).unwrap().unwrap(), once);
            once
        };
        let one = Some("1".to_owned());
        let both = with(&[("agent", "true"), ("priority", "low")]);
        assert_eq!([0, 1].map(|at| resource(&both, at, AGENT_RESOURCE)), [one.clone(), one.clone()]);
        let spec = both.spec.as_ref().unwrap();
        assert_eq!((&spec.scheduling_gates, &spec.priority_class_name), (&None, &None));
        assert_eq!(both.metadata.labels.as_ref().unwrap()[LEASED_LABEL], IN_CODE);
        let named = with(&[("agent", "gpus"), ("container", "other")]);
        assert_eq!([0, 1].map(|at| resource(&named, at, AGENT_GPUS_RESOURCE)), [None, one.clone()]);

        let mut leasing = pod();
        leasing.metadata.annotations.as_mut().unwrap().insert(format!("{PREFIX}agent"), "true".into());
        let leasing = admit(&leasing, &Surroundings::default()).unwrap().unwrap();
        // Units bring the socket along.
        assert_eq!([0, 1].map(|at| resource(&leasing, at, AGENT_RESOURCE)), [None, one]);
        assert_eq!(leasing.metadata.labels.as_ref().unwrap()[LEASED_LABEL], "true");
        assert!(leasing.spec.unwrap().scheduling_gates.is_some());
    }

    #[test]
    fn who_may_not_is_told_who_may_allow_it() {
        let mut urgent = pod();
        urgent.metadata.annotations.as_mut().unwrap().insert("memboss.dev/priority".into(), "urgent".into());
        let wrong = admit(&urgent, &Surroundings::default()).unwrap_err();
        assert!(wrong[0].to_string().contains(MAX_CLASS), "{}", wrong[0]);
        assert!(
            admit(&urgent, &Surroundings { most: Some(Class::Urgent), ..Surroundings::default() }).unwrap().is_some()
        );
        let mut bound = pod();
        bound.spec.as_mut().unwrap().node_name = Some("node1".into());
        assert!(admit(&bound, &Surroundings::default()).unwrap_err()[0].to_string().contains("spec.nodeName"));
    }

    #[test]
    fn a_class_of_the_users_own_is_left_alone() {
        let mut own = pod();
        own.spec.as_mut().unwrap().priority_class_name = Some("mine".into());
        let spec = admit(&own, &Surroundings::default()).unwrap().unwrap().spec.unwrap();
        assert_eq!((spec.priority_class_name.as_deref(), spec.priority), (Some("mine"), Some(0)));
    }
}
