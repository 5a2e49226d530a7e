//! What the agent says, as plain data for programs: stable names, amounts in MiB. Pure.

use memboss_agent_api::v1::{GpuShare, Health, LeaseView, StatusResponse};
use serde::Serialize;

use crate::show::state;

/// A node's GPUs.
#[derive(Debug, Serialize)]
pub(crate) struct Gpus {
    node: String,
    hold: Option<String>,
    gpus: Vec<Gpu>,
}

#[derive(Debug, Serialize)]
struct Gpu {
    index: u32,
    uuid: String,
    model: String,
    total_mib: u64,
    leasable_mib: u64,
    leased_mib: u64,
    foreign_mib: u64,
    used_mib: u64,
    health: &'static str,
    health_reason: Option<String>,
}

/// A lease.
#[derive(Debug, Serialize)]
pub(crate) struct Lease {
    lease: String,
    class: String,
    state: &'static str,
    gpus: Vec<Share>,
    ram_mib: u64,
    reason: Option<String>,
    message: Option<String>,
}

#[derive(Debug, Serialize)]
struct Share {
    index: u32,
    uuid: String,
    memory_mib: u64,
}

fn said(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// The GPUs of a node.
pub(crate) fn gpus(status: &StatusResponse) -> Gpus {
    let list = status.gpus.clone().unwrap_or_default();
    let gpu = |gpu: &memboss_agent_api::v1::Gpu| Gpu {
        index: gpu.index,
        uuid: gpu.uuid.clone(),
        model: gpu.model.clone(),
        total_mib: gpu.total_mib,
        leasable_mib: gpu.leasable_mib,
        leased_mib: gpu.leased_mib,
        foreign_mib: gpu.foreign_mib,
        used_mib: gpu.used_mib,
        health: match gpu.health() {
            Health::Healthy => "Healthy",
            Health::Degraded => "Degraded",
            Health::Lost => "Lost",
            Health::Unspecified => "Unknown",
        },
        health_reason: said(&gpu.health_reason),
    };
    Gpus { node: status.node.clone(), hold: said(&list.hold), gpus: list.gpus.iter().map(gpu).collect() }
}

/// The leases that the agent knows.
pub(crate) fn leases(status: &StatusResponse) -> Vec<Lease> {
    let share = |gpu: &GpuShare| Share { index: gpu.index, uuid: gpu.uuid.clone(), memory_mib: gpu.memory_mib };
    let lease = |lease: &LeaseView| Lease {
        lease: lease.lease.clone(),
        class: lease.class.clone(),
        state: state(lease),
        gpus: lease.gpus.iter().map(share).collect(),
        ram_mib: lease.ram_mib,
        reason: said(&lease.reason),
        message: said(&lease.message),
    };
    status.leases.iter().map(lease).collect()
}
