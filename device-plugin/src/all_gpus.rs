//! Keeps the CDI file that gives a container all GPUs of the node, and says whether it is there: only then is `memboss.dev/agent-gpus` offered. What a
//! process may use of them, its lease says, not this file.

use std::time::Duration;

use memboss_agent_api::v1::{GpuList, GpuShare, Health};
use memboss_platform::shutdown::Shutdown;
use tokio::sync::watch;

use crate::cdi_directory::CdiDirectory;
use crate::door::plenty;
use crate::source::Sources;
use crate::state::{Devices, chain};

/// See the module.
#[derive(Debug)]
pub struct AllGpus {
    sources: Sources,
    cdi: CdiDirectory,
    offered: watch::Sender<Devices>,
    /// Between two attempts at a file that could not be written: the GPUs' own files may come later than the plugin.
    pause: Duration,
}

impl AllGpus {
    /// Offers at once what an earlier plugin has written in this boot: pods that have it are admitted again when the kubelet starts.
    #[must_use]
    pub fn new(sources: Sources, cdi: CdiDirectory, pause: Duration) -> Self {
        let offered = if cdi.has_all_gpus() { plenty() } else { Devices::default() };
        Self { sources, cdi, offered: watch::Sender::new(offered), pause }
    }

    /// What is offered, now and on every change.
    #[must_use]
    pub fn offered(&self) -> watch::Receiver<Devices> {
        self.offered.subscribe()
    }

    /// Writes the file whenever other GPUs are well, until `shutdown`.
    pub async fn run(&self, mut gpus: watch::Receiver<GpuList>, shutdown: Shutdown) {
        let mut written = Vec::new();
        let mut failed = None;
        loop {
            let present = present(&gpus.borrow_and_update());
            let due = !present.is_empty() && present != written;
            let outcome = if due { self.write(present.clone()).await } else { Ok(()) };
            let again = outcome.is_err();
            match outcome {
                Err(why) if failed.as_ref() != Some(&why) => {
                    tracing::warn!(why, "no container can be given all GPUs; trying again");
                    failed = Some(why);
                }
                Ok(()) if due => {
                    tracing::info!(gpus = present.len(), "all GPUs can be given to a container");
                    (written, failed) = (present, None);
                    self.offered.send_replace(plenty());
                }
                Ok(()) | Err(_) => {}
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = gpus.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(self.pause), if again => {}
            }
        }
    }

    async fn write(&self, gpus: Vec<GpuShare>) -> Result<(), String> {
        let (sources, cdi) = (self.sources.clone(), self.cdi.clone());
        let task = tokio::task::spawn_blocking(move || {
            let merged = sources.merge(&gpus).map_err(|error| chain(&error))?;
            cdi.write_all_gpus(merged).map_err(|error| chain(&error))
        });
        task.await.unwrap_or_else(|error| Err(error.to_string()))
    }
}

/// The GPUs that are there, in NVML's order.
fn present(list: &GpuList) -> Vec<GpuShare> {
    let there = list.gpus.iter().filter(|gpu| gpu.health() != Health::Lost);
    there.map(|gpu| GpuShare { uuid: gpu.uuid.clone(), index: gpu.index, memory_mib: 0 }).collect()
}
