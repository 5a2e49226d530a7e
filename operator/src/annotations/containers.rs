//! Which container of a pod asks for what. It may not know what the other annotations mean.

use k8s_openapi::api::core::v1::Container;
use memboss_crds::{AGENT_GPUS_RESOURCE, AGENT_RESOURCE, PREFIX, RESOURCE};

use super::amounts::{Amount, Ask, amount, resource_amount};
use super::{InCode, Reader, Wrong};

const AMOUNT: &str =
    "write whole Mi or Gi (8Gi, 8000Mi), a share (50%, from 1% to 100%), or either for several GPUs (2x8Gi, up to 16)";

impl Reader<'_> {
    fn containers(&self) -> &[Container] {
        self.pod.spec.as_ref().map_or(&[], |spec| &spec.containers)
    }

    /// Ordinary containers and sidecars: who may have units.
    pub(super) fn eligible(&self) -> Vec<&Container> {
        let init = self.pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
        self.containers().iter().chain(init.filter(|c| is_sidecar(c))).collect()
    }

    pub(super) fn names(&self) -> String {
        self.eligible().iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn refuse_init_containers(&mut self) {
        let init =
            self.pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten()).filter(|c| !is_sidecar(c));
        let init: Vec<_> = init.cloned().collect();
        for container in init {
            let asked = self.annotation(&format!("vram.{}", container.name)).map(ToOwned::to_owned);
            if let Some(value) = asked {
                let right = format!("an init container cannot hold a lease, only {} can (sidecars may)", self.names());
                self.complain(&format!("vram.{}", container.name), &value, &right);
            }
            if let Some(units) = units_of(&container) {
                let field = format!("spec.initContainers[{}].resources.limits[{RESOURCE}]", container.name);
                self.wrong.push(Wrong {
                    field,
                    value: units,
                    right: "an init container cannot hold a lease: ask in an ordinary container".into(),
                });
            }
        }
    }

    pub(super) fn container_asks(&mut self) -> Vec<Ask> {
        let mut asks: Vec<Ask> = Vec::new();
        if let Some(text) = self.annotation("vram").map(ToOwned::to_owned)
            && let Some(container) = self.pod_level_container(&text)
        {
            asks.extend(self.ask("vram", &text, container));
        }
        let named: Vec<_> =
            self.pod.metadata.annotations.iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        for (key, text) in named {
            let Some(container) = key.strip_prefix(PREFIX).and_then(|name| name.strip_prefix("vram.")) else {
                continue;
            };
            let field = format!("vram.{container}");
            if self
                .pod
                .spec
                .iter()
                .flat_map(|s| s.init_containers.iter().flatten())
                .any(|c| c.name == container && !is_sidecar(c))
            {
                continue;
            }
            if !self.eligible().iter().any(|c| c.name == container) {
                let right = format!("the pod has no container {container:?}; it has {}", self.names());
                self.complain(&field, &text, &right);
            } else if asks.iter().any(|ask| ask.container == container) {
                self.complain(&field, &text, &format!("{PREFIX}vram asks for the same container: keep one of the two"));
            } else {
                asks.extend(self.ask(&field, &text, container.to_owned()));
            }
        }
        self.resource_asks(&mut asks);
        // In the order of the pod, so that the same pod always gives the same lease.
        let order: Vec<String> = self.eligible().iter().map(|c| c.name.clone()).collect();
        asks.sort_by_key(|ask| order.iter().position(|name| *name == ask.container));
        asks
    }

    /// A container that names units in its resources and has no annotation: that is its request.
    fn resource_asks(&mut self, asks: &mut Vec<Ask>) {
        let with_units: Vec<_> = self.eligible().iter().filter_map(|c| Some((c.name.clone(), units_of(c)?))).collect();
        for (container, text) in with_units {
            if asks.iter().any(|ask| ask.container == container) {
                continue;
            }
            match resource_amount(&text) {
                Some(memory) => asks.push(Ask { container, gpus: 1, each: Amount::Fixed(memory) }),
                None => {
                    let field = format!("spec.containers[{container}].resources.limits[{RESOURCE}]");
                    let right = "a whole number of units of 256Mi, or whole Mi or Gi".to_owned();
                    self.wrong.push(Wrong { field, value: text, right });
                }
            }
        }
    }

    /// RAM is the pod's as a whole; the scheduler counts it with a container.
    pub(super) fn carrier(&mut self) -> String {
        let named = self.annotation("container").map(ToOwned::to_owned);
        if let Some(named) = named.filter(|named| self.eligible().iter().any(|c| c.name == *named)) {
            return named;
        }
        self.containers().first().map(|container| container.name.clone()).unwrap_or_default()
    }

    /// What a pod leases in code comes out of its own lease, if it has one: other GPUs than that one's would be of no use.
    pub(super) fn in_code(&mut self, asks: &[Ask], has_ram: bool) -> Option<InCode> {
        let word = self.word("agent", &["true", "gpus"])?;
        if word == "gpus" && (has_ram || !asks.is_empty()) {
            let right = "the pod has a lease of its own, and what it leases in code comes out of that: write true";
            self.complain("agent", &word, right);
            return None;
        }
        let all = || self.containers().iter().map(|container| container.name.clone()).collect();
        let named = self.annotation("container").map_or_else(all, |named| vec![named.to_owned()]);
        let has_units = |name: &String| asks.iter().any(|ask| ask.container == *name);
        let resource = if word == "gpus" { AGENT_GPUS_RESOURCE } else { AGENT_RESOURCE };
        Some(InCode { resource, containers: named.into_iter().filter(|name| !has_units(name)).collect() })
    }

    /// Whether `container` names none of the pod's.
    pub(super) fn refuse_a_stranger(&mut self) -> bool {
        let Some(named) = self.annotation("container").map(ToOwned::to_owned) else { return false };
        let stranger = !self.eligible().iter().any(|c| c.name == named);
        if stranger {
            let right = format!("the pod has no such container; it has {}", self.names());
            self.complain("container", &named, &right);
        }
        stranger
    }

    fn pod_level_container(&mut self, text: &str) -> Option<String> {
        if self.refuse_a_stranger() {
            return None;
        }
        if let Some(named) = self.annotation("container") {
            return Some(named.to_owned());
        }
        match self.containers() {
            [only] => Some(only.name.clone()),
            _ => {
                let right = format!(
                    "the pod has several containers ({}): say which by {PREFIX}container, or ask by {PREFIX}vram.<container>",
                    self.names()
                );
                self.complain("vram", text, &right);
                None
            }
        }
    }

    fn ask(&mut self, field: &str, text: &str, container: String) -> Option<Ask> {
        let parsed = amount(text);
        if parsed.is_none() {
            self.complain(field, text, AMOUNT);
        }
        parsed.map(|(gpus, each)| Ask { container, gpus, each })
    }
}

fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The units that a container names in its resources, as written.
#[must_use]
pub fn units_of(container: &Container) -> Option<String> {
    let resources = container.resources.as_ref()?;
    let named = resources
        .limits
        .as_ref()
        .and_then(|l| l.get(RESOURCE))
        .or(resources.requests.as_ref().and_then(|r| r.get(RESOURCE)));
    named.map(|quantity| quantity.0.clone())
}
