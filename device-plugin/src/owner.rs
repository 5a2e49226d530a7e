//! Who has which slots, as the kubelet's podresources API tells it. Pure; asking is `prestart`'s.
//! Identity is the pod: plain init containers are not listed, and lend their slots to later containers of the same pod.

use std::collections::BTreeSet;
use std::fmt;

use memboss_kubelet_api::podresources::{ContainerResources, ListPodResourcesResponse};

use crate::slots::{SlotId, SlotSet};

/// A container that has slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The container's name; empty when only the pod is sure.
    pub container: String,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} container {:?}", self.namespace, self.pod, self.container)
    }
}

/// Nobody, or nobody for sure.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unknown {
    /// No pod of the kubelet's list has any of the slots.
    #[error(
        "failed to find the pod that was given slots {slots}: the kubelet lists none \
         (plain init containers are not listed; ask for VRAM in an ordinary container or a sidecar)"
    )]
    Nobody {
        /// The slots.
        slots: SlotSet,
    },
    /// Two pods have them.
    #[error("failed to tell which pod was given slots {slots}: the kubelet lists them for {one} and for {other}")]
    Several {
        /// The slots.
        slots: SlotSet,
        /// One of the owners.
        one: Box<Owner>,
        /// Another one.
        other: Box<Owner>,
    },
}

/// The container that has exactly these slots; else the pod that has some of them.
///
/// # Errors
/// [`Unknown`].
pub fn find(list: &ListPodResourcesResponse, resource: &str, slots: &SlotSet) -> Result<Owner, Unknown> {
    let (mut exact, mut partial) = (Vec::new(), Vec::new());
    for pod in &list.pod_resources {
        let owner = |container: &str| Owner {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            container: container.to_owned(),
        };
        let held: Vec<_> = pod.containers.iter().map(|container| (container, slots_of(container, resource))).collect();
        exact.extend(held.iter().filter(|(_, held)| held == slots).map(|(container, _)| owner(&container.name)));
        if held.iter().any(|(_, held)| held.shared_with(slots) > 0) {
            partial.push(owner(""));
        }
    }
    let found = if exact.is_empty() { partial } else { exact };
    match found.as_slice() {
        [] => Err(Unknown::Nobody { slots: slots.clone() }),
        [one] => Ok(one.clone()),
        [one, other, ..] => {
            Err(Unknown::Several { slots: slots.clone(), one: one.clone().into(), other: other.clone().into() })
        }
    }
}

/// Every slot that some container has.
#[must_use]
pub fn used(list: &ListPodResourcesResponse, resource: &str) -> BTreeSet<SlotId> {
    let containers = list.pod_resources.iter().flat_map(|pod| &pod.containers);
    containers.flat_map(|container| slots_of(container, resource).iter().collect::<Vec<_>>()).collect()
}

/// The kubelet lists each id by itself; ids that are not ours are no slots.
fn slots_of(container: &ContainerResources, resource: &str) -> SlotSet {
    let ids = container.devices.iter().filter(|devices| devices.resource_name == resource).flat_map(|d| &d.device_ids);
    SlotSet::of(ids.filter_map(|id| id.parse().ok()))
}

#[cfg(test)]
mod tests {
    use memboss_kubelet_api::podresources::{ContainerDevices, PodResources};

    use super::*;

    const RESOURCE: &str = "memboss.dev/vram";

    type Containers<'a> = &'a [(&'a str, &'a [&'a str])];

    fn list(pods: &[(&str, Containers<'_>)]) -> ListPodResourcesResponse {
        let device = |resource: &str, id: &str| ContainerDevices {
            resource_name: resource.to_owned(),
            device_ids: vec![id.to_owned()],
            topology: None,
        };
        let container = |(name, ids): &(&str, &[&str])| ContainerResources {
            name: (*name).to_owned(),
            devices: ids.iter().map(|id| device(RESOURCE, id)).chain([device("other.dev/x", "s0001")]).collect(),
            ..ContainerResources::default()
        };
        let pod = |(name, containers): &(&str, Containers<'_>)| PodResources {
            name: (*name).to_owned(),
            namespace: "team".to_owned(),
            containers: containers.iter().map(container).collect(),
            ..PodResources::default()
        };
        ListPodResourcesResponse { pod_resources: pods.iter().map(pod).collect() }
    }

    fn slots(ids: &[&str]) -> SlotSet {
        SlotSet::parse(ids).unwrap()
    }

    #[test]
    fn an_exact_set_names_the_container_and_a_part_only_the_pod() {
        let list = list(&[
            ("p1", &[("side", &["s0002", "s0001"]), ("main", &["s0000x", "s0003", "s0004"])]),
            ("p2", &[("main", &["s0009"])]),
        ]);
        let found = |ids: &[&str]| find(&list, RESOURCE, &slots(ids)).map(|owner| (owner.pod, owner.container));
        assert_eq!(found(&["s0001", "s0002"]), Ok(("p1".to_owned(), "side".to_owned())));
        assert_eq!(found(&["s0009"]), Ok(("p2".to_owned(), "main".to_owned())));
        // An init container, whose slots went on to both.
        assert_eq!(found(&["s0001", "s0002", "s0003", "s0005"]), Ok(("p1".to_owned(), String::new())));
        assert_eq!(found(&["s0007"]), Err(Unknown::Nobody { slots: slots(&["s0007"]) }));
        assert!(matches!(found(&["s0004", "s0009"]), Err(Unknown::Several { .. })));
        assert_eq!(used(&list, RESOURCE).len(), 5);
    }
}
