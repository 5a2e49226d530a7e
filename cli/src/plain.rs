//! What the agent says, as plain data for programs: stable names, amounts in MiB, times in milliseconds. Pure.

use memboss_agent_api::v1::{GpuShare, Health, LeaseView, StatusResponse};
use serde::Serialize;

use crate::cluster::Placed;
use crate::show::state;

/// A node: its GPUs and its RAM.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    node: String,
    hold: Option<String>,
    gpus: Vec<Gpu>,
    gpus_unread: bool,
    ram: Option<Ram>,
}

#[derive(Debug, Serialize)]
struct Gpu {
    index: u32,
    uuid: String,
    model: String,
    total_mib: u64,
    reserved_mib: u64,
    leasable_mib: u64,
    leased_mib: u64,
    foreign_mib: u64,
    used_mib: u64,
    free_mib: u64,
    health: &'static str,
    health_reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct Ram {
    total_mib: u64,
    available_mib: u64,
    leasable_mib: u64,
    leased_mib: u64,
    pressure: Option<String>,
    pressure_sign: Option<String>,
}

/// A lease.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Lease {
    lease: String,
    /// Where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    class: String,
    state: &'static str,
    gpus: Vec<Share>,
    ram_mib: u64,
    token: Option<String>,
    reason: Option<String>,
    message: Option<String>,
    queue: Option<Queue>,
    notice: Option<Notice>,
    holder: Option<Holder>,
}

/// Memory of one GPU.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Share {
    index: u32,
    uuid: String,
    memory_mib: u64,
}

#[derive(Debug, PartialEq, Serialize)]
struct Queue {
    position: u32,
    reason: String,
    message: String,
    /// When it will probably be granted, where something tells.
    estimate_ms: Option<u64>,
    estimate_basis: Option<String>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Notice {
    id: String,
    preemptor: Option<String>,
    preemptor_class: Option<String>,
    reason: String,
    needed_mib: Vec<u64>,
    needed_ram_mib: u64,
    remaining_ms: u64,
}

#[derive(Debug, PartialEq, Serialize)]
struct Holder {
    pid: Option<u32>,
    uid: u32,
    name: String,
    label: Option<String>,
    used_mib: Option<u64>,
    ram_used_mib: Option<u64>,
    phase_ms: u64,
}

/// Absent rather than empty.
pub(crate) fn said(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// The node.
pub(crate) fn machine(status: &StatusResponse) -> Machine {
    let list = status.gpus.clone().unwrap_or_default();
    let gpu = |gpu: &memboss_agent_api::v1::Gpu| Gpu {
        index: gpu.index,
        uuid: gpu.uuid.clone(),
        model: gpu.model.clone(),
        total_mib: gpu.total_mib,
        reserved_mib: gpu.reserved_mib,
        leasable_mib: gpu.leasable_mib,
        leased_mib: gpu.leased_mib,
        foreign_mib: gpu.foreign_mib,
        used_mib: gpu.used_mib,
        free_mib: free(gpu),
        health: match gpu.health() {
            Health::Healthy => "Healthy",
            Health::Degraded => "Degraded",
            Health::Lost => "Lost",
            Health::Unspecified => "Unknown",
        },
        health_reason: said(&gpu.health_reason),
    };
    let ram = status.ram.as_ref().map(|ram| Ram {
        total_mib: ram.total_mib,
        available_mib: ram.available_mib,
        leasable_mib: ram.leasable_mib,
        leased_mib: ram.leased_mib,
        pressure: said(&ram.pressure),
        pressure_sign: said(&ram.pressure_sign),
    });
    Machine {
        node: status.node.clone(),
        hold: said(&list.hold),
        gpus: list.gpus.iter().map(gpu).collect(),
        gpus_unread: list.unread,
        ram,
    }
}

/// What can be leased of a GPU now.
pub(crate) const fn free(gpu: &memboss_agent_api::v1::Gpu) -> u64 {
    gpu.leasable_mib.saturating_sub(gpu.leased_mib).saturating_sub(gpu.foreign_mib)
}

/// Parts of GPUs.
pub(crate) fn shares(gpus: &[GpuShare]) -> Vec<Share> {
    let share = |gpu: &GpuShare| Share { index: gpu.index, uuid: gpu.uuid.clone(), memory_mib: gpu.memory_mib };
    gpus.iter().map(share).collect()
}

/// Leases.
pub(crate) fn leases(leases: &[LeaseView]) -> Vec<Lease> {
    leases.iter().map(lease).collect()
}

/// Leases of several nodes.
pub(crate) fn placed(leases: &[Placed]) -> Vec<Lease> {
    leases.iter().map(|placed| Lease { node: said(&placed.node), ..lease(&placed.view) }).collect()
}

/// A lease.
pub(crate) fn lease(lease: &LeaseView) -> Lease {
    Lease {
        lease: lease.lease.clone(),
        node: None,
        class: lease.class.clone(),
        state: state(lease),
        gpus: shares(&lease.gpus),
        ram_mib: lease.ram_mib,
        token: lease.token.map(|token| format!("{}.{}", token.epoch, token.sequence)),
        reason: said(&lease.reason),
        message: said(&lease.message),
        queue: lease.queue.as_ref().map(|queue| Queue {
            position: queue.position,
            reason: queue.reason.clone(),
            message: queue.message.clone(),
            estimate_ms: queue.estimate_ms,
            estimate_basis: said(&queue.estimate_basis),
        }),
        notice: lease.notice.as_ref().map(|notice| Notice {
            id: notice.id.clone(),
            preemptor: said(&notice.preemptor),
            preemptor_class: said(&notice.preemptor_class),
            reason: notice.reason.clone(),
            needed_mib: notice.needed_mib.clone(),
            needed_ram_mib: notice.needed_ram_mib,
            remaining_ms: notice.remaining_ms,
        }),
        holder: lease.holder.as_ref().map(|holder| Holder {
            pid: (holder.pid > 0).then_some(holder.pid),
            uid: holder.uid,
            name: holder.name.clone(),
            label: said(&holder.label),
            used_mib: holder.used_mib,
            ram_used_mib: holder.ram_used_mib,
            phase_ms: holder.phase_ms,
        }),
    }
}
