//! Tables of what the agent says. Pure.

use comfy_table::{Table, presets};
use memboss_agent_api::v1::{Health, LeaseView, Phase, StatusResponse};
use memboss_core::Mib;

fn amount(mib: u64) -> String {
    Mib::from_mib(mib).to_string()
}

pub(crate) fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(head.iter().copied());
    table
}

/// The GPUs of the node.
pub(crate) fn gpus(status: &StatusResponse) -> String {
    let mut table = table(&["GPU", "MODEL", "UUID", "LEASABLE", "LEASED", "FOREIGN", "USED", "HEALTH"]);
    let list = status.gpus.clone().unwrap_or_default();
    for gpu in &list.gpus {
        let health = match gpu.health() {
            Health::Healthy => "healthy".to_owned(),
            Health::Degraded => format!("degraded: {}", gpu.health_reason),
            Health::Lost => format!("lost: {}", gpu.health_reason),
            Health::Unspecified => "unknown".to_owned(),
        };
        table.add_row([
            gpu.index.to_string(),
            gpu.model.clone(),
            gpu.uuid.clone(),
            amount(gpu.leasable_mib),
            amount(gpu.leased_mib),
            amount(gpu.foreign_mib),
            amount(gpu.used_mib),
            health,
        ]);
    }
    let hold = if list.hold.is_empty() { String::new() } else { format!("\nnothing is granted now: {}", list.hold) };
    format!("{table}{hold}")
}

/// The leases that the agent knows.
pub(crate) fn leases(status: &StatusResponse) -> String {
    let mut table = table(&["LEASE", "CLASS", "STATE", "GPUS", "WHY"]);
    for lease in &status.leases {
        let gpus = lease.gpus.iter().map(|gpu| format!("gpu{}:{}", gpu.index, amount(gpu.memory_mib)));
        table.add_row([
            lease.lease.clone(),
            lease.class.clone(),
            state(lease).to_owned(),
            gpus.collect::<Vec<_>>().join(" "),
            lease.message.clone(),
        ]);
    }
    table.to_string()
}

pub(crate) fn state(lease: &LeaseView) -> &'static str {
    match lease.phase() {
        Phase::Waiting => "Waiting",
        Phase::Reserved => "Reserved",
        Phase::Active => "Active",
        Phase::Revoking => "Revoking",
        Phase::Stopping => "Stopping",
        Phase::Ended => "Ended",
        Phase::Unspecified => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memboss_agent_api::v1::{Gpu, GpuList, GpuShare};

    #[test]
    fn amounts_and_states_are_shown_as_people_write_them() {
        let gpu = Gpu {
            model: "T4".into(),
            leasable_mib: 14_336,
            leased_mib: 8_192,
            health: Health::Lost.into(),
            health_reason: "off the bus".into(),
            ..Gpu::default()
        };
        let share = GpuShare { index: 1, memory_mib: 8_192, ..GpuShare::default() };
        let lease = LeaseView {
            lease: "ns/a".into(),
            phase: Phase::Revoking.into(),
            gpus: vec![share],
            ..LeaseView::default()
        };
        let status = StatusResponse {
            gpus: Some(GpuList { gpus: vec![gpu], hold: "draining".into() }),
            leases: vec![lease],
            ..StatusResponse::default()
        };
        let shown = gpus(&status);
        assert!(
            shown.contains("14Gi")
                && shown.contains("lost: off the bus")
                && shown.contains("nothing is granted now: draining"),
            "{shown}"
        );
        let shown = leases(&status);
        assert!(shown.contains("ns/a") && shown.contains("Revoking") && shown.contains("gpu1:8Gi"), "{shown}");
    }
}
