//! The agent's figures, made from what was published last when somebody asks.

use std::fmt;
use std::sync::Arc;

use memboss_core::{Mib, Pressure};
use memboss_platform::metrics::Registry;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use tokio::sync::watch;

use crate::heartbeat::Pulse;
use crate::node::view::{GpuSeen, RamSeen, Snapshot};

/// Adds the agent's figures.
pub fn register(registry: &mut Registry, snapshots: watch::Receiver<Arc<Snapshot>>, pulse: Arc<Pulse>) {
    registry.register_collector(Box::new(Figures { snapshots, pulse }));
}

#[derive(Debug)]
struct Figures {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    pulse: Arc<Pulse>,
}

type Part = (&'static str, &'static str, fn(&GpuSeen) -> Mib);

const PARTS: [Part; 6] = [
    ("memboss_gpu_total", "All of a GPU's memory", |gpu| gpu.total),
    ("memboss_gpu_leasable", "What can be leased of a GPU", |gpu| gpu.leasable),
    ("memboss_gpu_leased", "What is charged to leases", |gpu| gpu.leased),
    ("memboss_gpu_foreign", "What is in use that no lease explains", |gpu| gpu.foreign),
    ("memboss_gpu_used", "What is in use", |gpu| gpu.used),
    ("memboss_gpu_free", "What is free to lease", |gpu| gpu.free),
];

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let snapshot = self.snapshots.borrow().clone();
        for (name, help, part) in PARTS {
            let gpus = snapshot.gpus.iter().map(|gpu| (vec![("gpu", gpu.uuid.to_string())], bytes(part(gpu))));
            gauges(&mut encoder, name, help, Some(&Unit::Bytes), gpus)?;
        }
        let mut leases = std::collections::BTreeMap::<_, i64>::new();
        for seen in snapshot.leases.values() {
            *leases.entry((seen.state.name(), seen.class.map_or("", memboss_core::Class::name))).or_default() += 1;
        }
        let leases = leases
            .into_iter()
            .map(|((state, class), n)| (vec![("state", state.to_owned()), ("class", class.to_owned())], n));
        gauges(&mut encoder, "memboss_node_leases", "Leases of this node by state and class", None, leases)?;
        let held = [(Vec::new(), i64::from(snapshot.hold.is_some()))].into_iter();
        gauges(&mut encoder, "memboss_hold", "1 while nothing is granted", None, held)?;
        let counted = &snapshot.counters;
        counter(&mut encoder, "memboss_grants", "Grants", [(Vec::new(), counted.grants)].into_iter())?;
        counter(
            &mut encoder,
            "memboss_notices",
            "Notices to give memory back",
            [(Vec::new(), counted.notices)].into_iter(),
        )?;
        let refusals = counted.refusals.iter().map(|(name, n)| (vec![("reason", (*name).to_owned())], *n));
        counter(&mut encoder, "memboss_refusals", "Placements refused, by reason", refusals)?;
        let ends = counted.ends.iter().map(|(name, n)| (vec![("reason", (*name).to_owned())], *n));
        counter(&mut encoder, "memboss_ends", "Leases ended, by reason", ends)?;
        ram(&mut encoder, &snapshot.ram)?;
        let (beats, misses) = self.pulse.counts();
        counter(&mut encoder, "memboss_heartbeats", "Heartbeats written", [(Vec::new(), beats)].into_iter())?;
        counter(
            &mut encoder,
            "memboss_heartbeat_failures",
            "Heartbeats not written",
            [(Vec::new(), misses)].into_iter(),
        )
    }
}

fn ram(encoder: &mut DescriptorEncoder<'_>, ram: &RamSeen) -> fmt::Result {
    let parts = [
        ("memboss_ram_available", "RAM that new work could have", ram.available),
        ("memboss_ram_leasable", "RAM that can be leased", ram.leasable),
        ("memboss_ram_leased", "RAM that is charged to leases", ram.leased),
    ];
    for (name, help, amount) in parts {
        gauges(encoder, name, help, Some(&Unit::Bytes), [(Vec::new(), bytes(amount))].into_iter())?;
    }
    let levels =
        Pressure::ALL.iter().map(|level| (vec![("level", level.name().to_owned())], i64::from(*level == ram.pressure)));
    gauges(encoder, "memboss_ram_pressure", "1 for the level of RAM's pressure", None, levels)?;
    let (cleanings, dropped) = ram.cleanings;
    counter(
        encoder,
        "memboss_ram_cleanings",
        "How often cache was dropped under pressure",
        [(Vec::new(), cleanings)].into_iter(),
    )?;
    let help = "Bytes of cache that were dropped under pressure";
    counter(encoder, "memboss_ram_cleaned_bytes", help, [(Vec::new(), dropped.bytes())].into_iter())
}

type Labels = Vec<(&'static str, String)>;

fn bytes(amount: Mib) -> i64 {
    i64::try_from(amount.bytes()).unwrap_or(i64::MAX)
}

fn gauges(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    values: impl Iterator<Item = (Labels, i64)>,
) -> Result<(), fmt::Error> {
    let kind = ConstGauge::new(0_i64).metric_type();
    let mut family = encoder.encode_descriptor(name, help, unit, kind)?;
    for (labels, value) in values {
        ConstGauge::new(value).encode(family.encode_family(&Labelled(labels))?)?;
    }
    Ok(())
}

fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl Iterator<Item = (Labels, u64)>,
) -> Result<(), fmt::Error> {
    let kind = ConstCounter::new(0_u64).metric_type();
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in values {
        ConstCounter::new(value).encode(family.encode_family(&Labelled(labels))?)?;
    }
    Ok(())
}

#[derive(Clone, Debug)]
struct Labelled(Labels);

impl EncodeLabelSet for Labelled {
    fn encode(&self, encoder: &mut prometheus_client::encoding::LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        self.0.as_slice().encode(encoder)
    }
}
