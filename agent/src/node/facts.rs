//! What was seen of the GPUs, made into facts for the engine. It may close a GPU; it never frees a lease.

use std::collections::{BTreeMap, BTreeSet};

use memboss_core::{Closed, GpuFacts, GpuModel, GpuUuid, LeaseId, Mib, Moment, NodeFacts};

use super::{Driver, Hold, Node, Observation, Severity};
use crate::attribution::{GpuUse, Holder, attribute};
use crate::health::{GpuHealth, Health};
use crate::probes::meminfo::Ram;
use crate::probes::nvml::{GpuReading, NoNvml, Sample, Usage};
use crate::probes::processes::{Owner, PodUid, Process};
use crate::probes::xid::Xid;

/// Whose processes are: by pod, and by the process that they descend from.
struct Whose<'a> {
    owners: &'a BTreeMap<u32, Option<Owner>>,
    lineages: &'a BTreeMap<u32, Vec<Process>>,
    by_pod: &'a BTreeMap<PodUid, LeaseId>,
}

/// Shares what a process uses out among its leases there: each as much as it holds, and the last what is above.
fn shared_out(leases: &[LeaseId], bytes: Option<u64>, room: &mut BTreeMap<LeaseId, u64>) -> Vec<(Holder, Option<u64>)> {
    let Some(mut left) = bytes else {
        return leases.iter().take(1).map(|lease| (Holder::Lease(lease.clone()), None)).collect();
    };
    let mut shares = Vec::new();
    for (at, lease) in leases.iter().enumerate() {
        let most = room.entry(lease.clone()).or_default();
        let takes = if at + 1 == leases.len() { left } else { left.min(*most) };
        *most = most.saturating_sub(takes);
        left -= takes;
        shares.push((Holder::Lease(lease.clone()), Some(takes)));
    }
    shares
}

/// Why a GPU that a ledger tells of is closed at first.
pub(super) const NOT_READ: &str = "not read yet";

/// A GPU as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuState {
    /// NVML's index.
    pub index: u32,
    /// Its model.
    pub model: GpuModel,
    /// All of its memory.
    pub total: Mib,
    /// What the driver keeps.
    pub reserved: Mib,
    /// How it is.
    pub health: GpuHealth,
    /// Who uses it, by the last reading.
    pub usage: GpuUse,
    /// The pods that had a process on it, by the last reading; `None` when the last attempt to read it failed.
    pub present: Option<BTreeSet<PodUid>>,
}

impl Node {
    pub(super) fn see(&mut self, observation: Observation, now: Moment) {
        self.look_began = observation.began;
        self.cgroups = observation.pods;
        // Where the machine's figures cannot be read nothing of it is free.
        self.ram = observation.ram.unwrap_or(Ram { available: Mib::ZERO, ..self.ram });
        self.driver = self.driver.after(&observation.reading);
        match observation.reading {
            Ok(sample) => self.see_gpus(&sample, &observation.owners, &observation.lineages, now),
            Err(NoNvml::Load(why)) if self.gpus.is_empty() => tracing::debug!(why, "no GPUs"),
            Err(error) => self.nvml_is_silent(&error.to_string(), now),
        }
        self.ram_used = observation.ram_used;
        self.gauge_ram(observation.signals, now);
        self.watch_cgroups(now);
        self.tell_facts();
        self.judge_use(now);
        self.relieve(now);
    }

    fn see_gpus(
        &mut self,
        sample: &Sample,
        owners: &BTreeMap<u32, Option<Owner>>,
        lineages: &BTreeMap<u32, Vec<Process>>,
        now: Moment,
    ) {
        let by_pod: BTreeMap<PodUid, LeaseId> =
            self.holders.iter().map(|(lease, holder)| (holder.subject.pod.clone(), lease.clone())).collect();
        let mut listed = BTreeSet::new();
        for reading in &sample.gpus {
            let Ok(uuid) = GpuUuid::new(reading.uuid.clone()) else { continue };
            listed.insert(uuid.clone());
            match &reading.usage {
                Ok(usage) => {
                    let whose = Whose { owners, lineages, by_pod: &by_pod };
                    self.see_gpu(&uuid, reading, usage, &whose, now);
                }
                Err(why) => self.cannot_see(&uuid, why, now),
            }
        }
        let missing: Vec<_> = self.gpus.keys().filter(|uuid| !listed.contains(*uuid)).cloned().collect();
        for uuid in missing {
            self.cannot_see(&uuid, "NVML does not list it any more", now);
        }
    }

    fn see_gpu(&mut self, uuid: &GpuUuid, reading: &GpuReading, usage: &Usage, whose: &Whose<'_>, now: Moment) {
        let Ok(model) = GpuModel::from_product(&reading.product) else { return };
        let charged = self.charged_on(uuid);
        let (holders, present) = self.attribute_processes(usage, whose, &charged);
        let fresh = GpuState {
            index: reading.index,
            model: model.clone(),
            total: Mib::ZERO,
            reserved: Mib::ZERO,
            health: GpuHealth::default(),
            usage: GpuUse::default(),
            present: None,
        };
        let gpu = self.gpus.entry(uuid.clone()).or_insert(fresh);
        let was_lost = gpu.health.health() != Health::Healthy && gpu.health.reason() != NOT_READ;
        gpu.index = reading.index;
        gpu.model = model;
        gpu.total = Mib::from_bytes_floor(usage.total);
        gpu.reserved = Mib::from_bytes_ceil(usage.reserved);
        gpu.usage = attribute(usage.used, &holders, &charged);
        gpu.present = Some(present);
        gpu.health.clean(now);
        if was_lost && gpu.health.health() == Health::Healthy {
            self.tell(None, Severity::Normal, "GpuRecovered", format!("GPU {uuid} is well again"));
        }
    }

    /// Whose each process's memory is, and which pods have a process there.
    fn attribute_processes(
        &self,
        usage: &Usage,
        whose: &Whose<'_>,
        charged: &BTreeMap<LeaseId, Mib>,
    ) -> (Vec<(Holder, Option<u64>)>, BTreeSet<PodUid>) {
        let (mut holders, mut present) = (Vec::new(), BTreeSet::new());
        let mut room: BTreeMap<LeaseId, u64> =
            charged.iter().map(|(lease, held)| (lease.clone(), held.bytes())).collect();
        for (pid, bytes) in &usage.processes {
            let owner = whose.owners.get(pid).cloned().flatten();
            if let Some(Owner::Pod(pod)) = &owner {
                present.insert(pod.clone());
            }
            let lineage = whose.lineages.get(pid).map(Vec::as_slice).unwrap_or_default();
            let leases = self.client_leases(lineage, charged);
            if !leases.is_empty() {
                holders.extend(shared_out(&leases, *bytes, &mut room));
                continue;
            }
            let holder = match owner {
                Some(Owner::Pod(pod)) => match whose.by_pod.get(&pod).filter(|lease| charged.contains_key(*lease)) {
                    Some(lease) => Holder::Lease(lease.clone()),
                    None => Holder::Stranger(pod),
                },
                Some(Owner::Other) | None => Holder::Other,
            };
            holders.push((holder, *bytes));
        }
        (holders, present)
    }

    /// What the holder of that lease still uses is nobody's lease any more.
    pub(super) fn disown(&mut self, lease: &LeaseId) {
        let shares = self.engine.lease(lease).and_then(|view| view.placement).map(|p| p.gpus).unwrap_or_default();
        let mut moved = false;
        for share in shares {
            if let Some(gpu) = self.gpus.get_mut(&share.uuid)
                && let Some(uses) = gpu.usage.leases.remove(lease)
            {
                gpu.usage.foreign = gpu.usage.foreign.plus(uses.min(share.memory));
                moved = true;
            }
        }
        // All leases are gone through for that: not where nothing has come of it.
        if moved {
            self.tell_facts();
        }
    }

    fn cannot_see(&mut self, uuid: &GpuUuid, why: &str, now: Moment) {
        let recovery = self.settings.recovery;
        let Some(gpu) = self.gpus.get_mut(uuid) else { return };
        let was = gpu.health.health();
        gpu.present = None;
        gpu.health.unreadable(why, now, recovery);
        if was != gpu.health.health() {
            self.tell_lost(uuid, why);
        }
    }

    pub(super) fn nvml_is_silent(&mut self, why: &str, now: Moment) {
        let mut lost = Vec::new();
        for (uuid, gpu) in &mut self.gpus {
            let was = gpu.health.health();
            gpu.present = None;
            gpu.health.silent(why, now);
            if was != gpu.health.health() {
                lost.push(uuid.clone());
            }
        }
        for uuid in &lost {
            self.tell_lost(uuid, why);
        }
        self.tell_facts();
    }

    pub(super) fn xid(&mut self, xid: &Xid, now: Moment) {
        let recovery = self.settings.recovery;
        let Some((uuid, gpu)) = self.gpus.iter_mut().find(|(uuid, _)| uuid.as_str() == xid.uuid) else { return };
        let (uuid, was) = (uuid.clone(), gpu.health.health());
        gpu.health.reported(xid.number, now, recovery);
        let is = gpu.health.health();
        let message = format!("GPU {uuid} reported XID {}", xid.number);
        self.tell(None, Severity::Warning, "GpuXid", message);
        if was != is && is == Health::Lost {
            self.tell_lost(&uuid, &format!("XID {}", xid.number));
        }
        self.tell_facts();
    }

    fn tell_lost(&mut self, uuid: &GpuUuid, why: &str) {
        self.tell(None, Severity::Warning, "GpuLost", format!("GPU {uuid} is lost: {why}"));
        for lease in self.charged_on(uuid).into_keys() {
            let message = format!("its GPU {uuid} is lost ({why}); it stays charged until its memory is seen free");
            self.tell(Some(&lease), Severity::Warning, "GpuLost", message);
        }
    }

    /// What each lease holds of that GPU.
    pub(super) fn charged_on(&self, uuid: &GpuUuid) -> BTreeMap<LeaseId, Mib> {
        let charged = self.engine.leases().into_iter().filter(|lease| lease.phase.is_charged());
        charged
            .filter_map(|lease| {
                let share = lease.placement?.gpus.into_iter().find(|share| share.uuid == *uuid)?;
                Some((lease.id, share.memory))
            })
            .collect()
    }

    /// Hands the engine what is known now.
    pub(super) fn tell_facts(&mut self) {
        let gpus = self.gpus.iter().map(|(uuid, gpu)| GpuFacts {
            uuid: uuid.clone(),
            model: gpu.model.clone(),
            leasable: self.settings.margin.leasable(gpu.total, gpu.reserved),
            foreign: gpu.usage.foreign,
            closed: gpu.health.closed().or(self.drains.is_gpu_closed(uuid).then_some(Closed::Draining)),
        });
        let room = self.ram_room.unwrap_or(Mib::from_mib(u64::MAX));
        let charged = self.engine.ram(&self.settings.name).map(|(_, charged)| charged).unwrap_or_default();
        let facts = NodeFacts {
            name: self.settings.name.clone(),
            gpus: gpus.collect(),
            gpus_unread: self.driver == Driver::Unread,
            ram: self.ram.leasable(charged, self.promised_and_used()).min(room).max(charged),
            ram_closed: self.ram_closed(),
            closed: match (&self.hold, self.drains.is_node_closed()) {
                (Hold::Open, false) => None,
                (Hold::Open, true) => Some(Closed::Draining),
                _ => Some(Closed::Quarantine),
            },
        };
        self.engine.set_node(&facts);
    }
}
