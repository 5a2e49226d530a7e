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

/// All of them; cheap to clone.
#[derive(Clone, Debug)]
pub struct Figures {
    leases: Family<Phase, Gauge<i64, AtomicI64>>,
    acts: Family<What, Counter<u64, AtomicU64>>,
    failed: Counter,
    planning: Histogram,
    leads: Gauge,
    suspects: Gauge,
    refused: Counter,
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
            refused: Counter::default(),
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
        registry.register("memboss_admission_refusals", "Pods refused at admission", figures.refused.clone());
        figures
    }

    /// This process leads, or no longer.
    pub fn leading(&self, leads: bool) {
        self.leads.set(i64::from(leads));
    }

    /// A pod was refused.
    pub fn refused(&self) {
        self.refused.inc();
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
