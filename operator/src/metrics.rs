//! The operator's figures. It may count what others did.

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use memboss_crds::LeasePhase;
use memboss_platform::metrics::Registry;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::plan::Act;
use crate::world::World;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Phase {
    phase: String,
    class: String,
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct What {
    act: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Field {
    field: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfClass {
    class: &'static str,
}

type Waits = Family<OfClass, Histogram, fn() -> Histogram>;

/// All of them; cheap to clone.
#[derive(Clone, Debug)]
pub struct Figures {
    leases: Family<Phase, Gauge<i64, AtomicI64>>,
    acts: Family<What, Counter<u64, AtomicU64>>,
    failed: Counter,
    planning: Histogram,
    leads: Gauge,
    suspects: Gauge,
    refused: Family<Field, Counter>,
    not_taken: Family<Reason, Counter>,
    waits: Waits,
    redis: Gauge,
}

impl Figures {
    /// Registered there.
    pub fn new(registry: &mut Registry) -> Self {
        let figures = Self {
            leases: Family::default(),
            acts: Family::default(),
            failed: Counter::default(),
            planning: Histogram::new(exponential_buckets(0.000_1, 4.0, 9)),
            leads: Gauge::default(),
            suspects: Gauge::default(),
            refused: Family::default(),
            not_taken: Family::default(),
            waits: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.05, 3.0, 12))),
            redis: Gauge::default(),
        };
        registry.register("memboss_leases", "Leases by phase, class and reason", figures.leases.clone());
        registry.register("memboss_operator_acts", "Writes by kind", figures.acts.clone());
        registry.register(
            "memboss_operator_failed_writes",
            "Writes that failed and were planned again",
            figures.failed.clone(),
        );
        registry.register("memboss_operator_plan_seconds", "Time of one plan", figures.planning.clone());
        registry.register("memboss_operator_leads", "1 if this process leads", figures.leads.clone());
        registry.register("memboss_suspect_nodes", "Nodes whose heartbeat is missing", figures.suspects.clone());
        let refused = figures.refused.clone();
        registry.register("memboss_admission_refusals", "Pods refused at admission, by the first wrong field", refused);
        registry.register(
            "memboss_placement_refusals",
            "Placements that an agent did not take, by reason",
            figures.not_taken.clone(),
        );
        registry.register(
            "memboss_wait_seconds",
            "Time from a lease's place in the queue to its memory, by class",
            figures.waits.clone(),
        );
        registry.register("memboss_redis_up", "1 if Redis answers this process", figures.redis.clone());
        figures
    }

    /// This process leads, or no longer.
    pub fn leading(&self, leads: bool) {
        self.leads.set(i64::from(leads));
    }

    /// A pod was refused at admission, for that field first.
    pub fn refused(&self, field: &str) {
        self.refused.get_or_create(&Field { field: kind_of(field) }).inc();
    }

    /// Redis answers, or does not.
    pub fn redis(&self, answers: bool) {
        self.redis.set(i64::from(answers));
    }

    pub(crate) fn not_taken(&self, reason: &str) {
        self.not_taken.get_or_create(&Reason { reason: reason.to_owned() }).inc();
    }

    pub(crate) fn waited(&self, class: memboss_crds::Class, seconds: f64) {
        self.waits.get_or_create(&OfClass { class: memboss_core::Class::from(class).name() }).observe(seconds);
    }

    pub(crate) fn failed_write(&self) {
        self.failed.inc();
    }

    pub(crate) fn acted(&self, act: &Act) {
        let act = match act {
            Act::Create(_) => "create",
            Act::Place(..) => "place",
            Act::Withdraw(..) => "withdraw",
            Act::Say(..) => "say",
            Act::Inherited(..) => "inherit",
            Act::OpenGate(..) => "open-gate",
            Act::Evict(..) => "evict",
            Act::Release(_) => "release",
            Act::Forget(_) => "forget",
        };
        self.acts.get_or_create(&What { act }).inc();
    }

    pub(crate) fn planned(&self, world: &World, took: Duration) {
        self.planning.observe(took.as_secs_f64());
        self.suspects.set(i64::try_from(world.suspects.len()).unwrap_or(i64::MAX));
        self.leases.clear();
        for lease in world.leases.values() {
            let status = lease.status.as_ref();
            let phase = status.and_then(|status| status.phase).unwrap_or(LeasePhase::Waiting);
            let label = Phase {
                phase: format!("{phase:?}"),
                class: memboss_core::Class::from(lease.spec.class).name().to_owned(),
                reason: status.and_then(|status| status.why.clone()).unwrap_or_default(),
            };
            self.leases.get_or_create(&label).inc();
        }
    }
}

/// One of few words for a field: pods name their containers as they like.
fn kind_of(field: &str) -> &'static str {
    let name = field.strip_prefix(memboss_crds::PREFIX).unwrap_or(field);
    let name = name.split('.').next().unwrap_or_default();
    let known = crate::annotations::KNOWN.iter().copied().chain(["ram", "model", "spec"]);
    known.into_iter().find(|known| *known == name).unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pods_write_makes_no_new_series() {
        let cases = [
            ("memboss.dev/vram", "vram"),
            ("memboss.dev/vram.my-container", "vram"),
            ("spec.nodeName", "spec"),
            ("memboss.dev/whatever", "unknown"),
        ];
        for (field, kind) in cases {
            assert_eq!(kind_of(field), kind, "{field}");
        }
    }
}
