//! Whether the driver is there, and whether the agent sees the same GPUs as it does, all of them well.

use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use memboss_agent_api::v1::{Gpu, GpuList, Health};
use memboss_core::Closed;
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

use super::{Finding, Told};
use crate::show;

/// A GPU as the driver tells of it.
struct Seen {
    index: u32,
    uuid: String,
}

/// How long the driver may take: longer than one takes that wakes several GPUs up.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn look(library: Option<&Path>, told: Told<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    match in_time(library, PATIENCE, driver) {
        None => findings.push(Finding::fail(
            "driver",
            format!("NVML has not answered for {} s", PATIENCE.as_secs()),
            "the driver hangs, as nvidia-smi will too: dmesg tells more; it may need a reset of the GPUs, or of the machine",
        )),
        Some(Ok((version, gpus))) => {
            findings.push(Finding::ok("driver", format!("NVML loads, driver {version}, {} GPU(s)", gpus.len())));
            if gpus.is_empty() {
                findings.push(Finding::warn("GPUs", "the driver knows none", "lspci tells whether the machine does"));
            }
            findings.extend(told.and_then(|status| status.gpus.as_ref()).map(|list| same(&gpus, &list.gpus)));
        }
        Some(Err(error)) => findings.push(Finding::warn(
            "driver",
            format!("NVML does not load: {error}"),
            "without it only RAM can be leased; install NVIDIA's driver, or say where its library is by --nvml-library",
        )),
    }
    let list = told.and_then(|status| status.gpus.as_ref());
    findings.extend(list.and_then(unread));
    findings.extend(list.map(|list| list.gpus.as_slice()).unwrap_or_default().iter().flat_map(judge));
    findings
}

/// That the agent waits for the driver, if it does.
pub(super) fn unread(list: &GpuList) -> Option<Finding> {
    let advice = "whoever asks for a GPU waits until it has; if it lasts, the driver hangs: dmesg tells more";
    list.unread.then(|| Finding::warn("GPUs", Closed::Unread.to_string(), advice))
}

/// What is found out by a call into the driver, which may never come back: then its thread is left to itself.
fn in_time<T: Send + 'static>(library: Option<&Path>, patience: Duration, ask: fn(Option<&Path>) -> T) -> Option<T> {
    let (tell, told) = sync_channel(1);
    let path = library.map(PathBuf::from);
    std::thread::spawn(move || tell.send(ask(path.as_deref())));
    told.recv_timeout(patience).ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_never_answers_is_not_waited_for() {
        fn hangs(_: Option<&Path>) -> u32 {
            loop {
                std::thread::park();
            }
        }
        assert_eq!(in_time(None, Duration::ZERO, hangs), None);
        assert_eq!(in_time(None, Duration::MAX, |_| 7), Some(7));
    }
}
