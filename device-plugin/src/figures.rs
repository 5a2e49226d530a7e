//! The plugin's metrics. It counts and decides nothing.

use memboss_platform::metrics::Registry;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

/// Label of the slots.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfHealth {
    /// As advertised.
    pub health: Advertised,
}

/// As the kubelet is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Advertised {
    /// Can be given out.
    Healthy,
    /// Cannot.
    Unhealthy,
}

/// Label of the container starts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfResult {
    /// `bound`, or the reason of the refusal.
    pub result: &'static str,
}

/// All figures; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Slots advertised now.
    pub slots: Family<OfHealth, Gauge>,
    /// 1 while there are more slots than may be advertised.
    pub too_many: Gauge,
    /// Containers that were given slots.
    pub allocations: Counter,
    /// `PreStartContainer` calls, by how they ended.
    pub starts: Family<OfResult, Counter>,
    /// Registrations that the kubelet took.
    pub registrations: Counter,
    /// Checkpoint writes that failed.
    pub checkpoint_failures: Counter,
    /// CDI files that no container runtime opened in time.
    pub unread_bindings: Counter,
}

impl Figures {
    /// Figures that are shown in `registry`.
    #[must_use]
    pub fn registered_in(registry: &mut Registry) -> Self {
        let figures = Self::default();
        let ours = registry.sub_registry_with_prefix("memboss_device_plugin");
        ours.register("slots", "Slots advertised, by health", figures.slots.clone());
        ours.register("too_many_slots", "1 while nothing is offered for too many slots", figures.too_many.clone());
        ours.register("allocations", "Containers that were given slots", figures.allocations.clone());
        ours.register("container_starts", "Container starts asked for, by result", figures.starts.clone());
        ours.register("registrations", "Registrations that the kubelet took", figures.registrations.clone());
        ours.register("checkpoint_failures", "Checkpoint writes that failed", figures.checkpoint_failures.clone());
        ours.register("unread_bindings", "CDI files that no runtime opened in time", figures.unread_bindings.clone());
        figures
    }
}
