//! Whether the driver is there, and whether the agent sees the same GPUs as it does, all of them well.

use std::path::Path;

use memboss_agent_api::v1::{Gpu, Health};
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

use super::{Finding, Told};
use crate::show;

/// A GPU as the driver tells of it.
struct Seen {
    index: u32,
    uuid: String,
}

pub(super) fn look(library: Option<&Path>, told: Told<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    match driver(library) {
        Ok((version, gpus)) => {
            findings.push(Finding::ok("driver", format!("NVML loads, driver {version}, {} GPU(s)", gpus.len())));
            if gpus.is_empty() {
                findings.push(Finding::warn("GPUs", "the driver knows none", "lspci tells whether the machine does"));
            }
            findings.extend(told.and_then(|status| status.gpus.as_ref()).map(|list| same(&gpus, &list.gpus)));
        }
        Err(error) => findings.push(Finding::warn(
            "driver",
            format!("NVML does not load: {error}"),
            "without it only RAM can be leased; install NVIDIA's driver, or say where its library is by --nvml-library",
        )),
    }
    let gpus = told.and_then(|status| status.gpus.as_ref()).map(|list| list.gpus.as_slice()).unwrap_or_default();
    findings.extend(gpus.iter().flat_map(judge));
    findings
}

fn driver(library: Option<&Path>) -> Result<(String, Vec<Seen>), NvmlError> {
    let nvml = match library {
        Some(path) => Nvml::builder().lib_path(path.as_os_str()).init()?,
        None => Nvml::init()?,
    };
    let version = nvml.sys_driver_version()?;
    let gpus = (0..nvml.device_count()?).filter_map(|index| {
        let uuid = nvml.device_by_index(index).and_then(|device| device.uuid()).ok()?;
        Some(Seen { index, uuid })
    });
    Ok((version, gpus.collect()))
}

/// Whether the agent and the driver know the same.
fn same(driver: &[Seen], agent: &[Gpu]) -> Finding {
    let missing: Vec<String> = driver
        .iter()
        .filter(|seen| agent.iter().all(|gpu| gpu.uuid != seen.uuid))
        .map(|seen| format!("{} ({})", seen.index, seen.uuid))
        .collect();
    if missing.is_empty() {
        return Finding::ok("GPUs", format!("the agent knows all {}", driver.len()));
    }
    let advice = "the agent uses another NVML library, or has not looked yet: see its --nvml-library and its log";
    Finding::warn("GPUs", format!("the agent does not know {}", missing.join(", ")), advice)
}

pub(super) fn judge(gpu: &Gpu) -> Vec<Finding> {
    let name = format!("GPU {} ({})", gpu.index, gpu.model);
    let mut findings = Vec::new();
    match gpu.health() {
        Health::Healthy => {}
        Health::Lost => findings.push(Finding::warn(
            "health",
            format!("{name} is {}", show::health(gpu)),
            "nothing is granted on it; nvidia-smi and the kernel's log tell more; it may need a reset",
        )),
        _ => findings.push(Finding::warn(
            "health",
            format!("{name} is {}", show::health(gpu)),
            "nothing new is granted on it until it has been quiet for a while",
        )),
    }
    if gpu.foreign_mib > 0 {
        findings.push(Finding::warn(
            "others",
            format!("on {name} {} are used without a lease", show::amount(gpu.foreign_mib)),
            "nvidia-smi tells by whom; start such programs by memboss run",
        ));
    }
    findings
}
