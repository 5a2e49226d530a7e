//! The GPUs, read through NVML on a thread of its own, since a call into a sick driver may never come back. It judges nothing: a GPU that cannot
//! be read is reported as such, and what never comes back is noticed by whoever waits for it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use memboss_core::Moment;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use tokio::sync::mpsc;

use super::clock;

/// All GPUs at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When the reading began: whatever ended before that is not in it.
    pub started: Moment,
    /// In NVML's order.
    pub gpus: Vec<GpuReading>,
}

/// One GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuReading {
    /// NVML's index now.
    pub index: u32,
    /// Its UUID.
    pub uuid: String,
    /// Its product name; empty if it could not be read.
    pub product: String,
    /// Its memory and processes, or why they could not be read.
    pub usage: Result<Usage, String>,
}

/// A GPU's memory and who holds it, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All there is.
    pub total: u64,
    /// What the driver keeps.
    pub reserved: u64,
    /// What is in use.
    pub used: u64,
    /// The processes, each with what it uses; `None` where NVML does not say.
    pub processes: BTreeMap<u32, Option<u64>>,
}

/// NVML could not be used at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoNvml {
    /// The library is not there or does not start.
    #[error("failed to load NVML: {0}")]
    Load(String),
    /// It runs, but does not list its GPUs.
    #[error("failed to list the GPUs: {0}")]
    List(String),
    /// It was asked and has not answered for too long.
    #[error("NVML does not answer")]
    Silent,
}

/// What the thread says.
pub type Reading = Result<Sample, NoNvml>;

/// The thread that reads.
#[derive(Clone, Debug)]
pub struct Prober {
    wake: SyncSender<()>,
}

impl Prober {
    /// Starts the thread. `library` is where to load NVML from; without it, the system's.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn spawn(library: Option<OsString>) -> std::io::Result<(Self, mpsc::UnboundedReceiver<Reading>)> {
        let mut reader = Reader { library, nvml: None, known: BTreeMap::new(), failures: 0, absent: None };
        Self::spawn_with(move || reader.read())
    }

    /// Starts the thread on another way to read.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn spawn_with(
        mut read: impl FnMut() -> Reading + Send + 'static,
    ) -> std::io::Result<(Self, mpsc::UnboundedReceiver<Reading>)> {
        // One request may wait: it is answered with a reading that begins later, which is all that is asked.
        let (wake, requests) = sync_channel::<()>(1);
        let (readings, out) = mpsc::unbounded_channel();
        std::thread::Builder::new().name("nvml".into()).stack_size(512 * 1024).spawn(move || {
            while requests.recv().is_ok() {
                if readings.send(read()).is_err() {
                    return;
                }
            }
        })?;
        Ok((Self { wake }, out))
    }

    /// Asks for a reading that begins after this call; `false` when the thread has ended.
    #[must_use]
    pub fn request(&self) -> bool {
        !matches!(self.wake.try_send(()), Err(TrySendError::Disconnected(())))
    }
}

/// Loads NVML.
pub(super) fn load(library: Option<&OsString>) -> Result<Nvml, NvmlError> {
    let mut builder = Nvml::builder();
    if let Some(path) = library {
        builder.lib_path(path);
    }
    builder.init()
}

struct Reader {
    library: Option<OsString>,
    nvml: Option<Nvml>,
    /// What stood at an index when it could last be read: a lost GPU does not tell its name.
    known: BTreeMap<u32, (String, String)>,
    /// How often it could not be loaded in a row.
    failures: u32,
    /// When loading is worth another attempt, and why the last one failed.
    absent: Option<(Instant, NoNvml)>,
}

impl Reader {
    fn load(&mut self) -> Result<Nvml, NoNvml> {
        if let Some((until, why)) = &self.absent
            && Instant::now() < *until
        {
            return Err(why.clone());
        }
        load(self.library.as_ref()).inspect(|_| (self.failures, self.absent) = (0, None)).map_err(|error| {
            let why = NoNvml::Load(error.to_string());
            self.absent = Some((Instant::now() + retry_after(self.failures), why.clone()));
            self.failures += 1;
            why
        })
    }

    fn read(&mut self) -> Reading {
        let started = clock::now();
        let nvml = match self.nvml.take() {
            Some(nvml) => nvml,
            None => self.load()?,
        };
        // Not put back when the list fails: the next reading loads it anew, as a driver that was changed needs.
        let count = nvml.device_count().map_err(|error| NoNvml::List(error.to_string()))?;
        let gpus = (0..count).filter_map(|index| self.gpu(&nvml, index)).collect();
        self.nvml = Some(nvml);
        Ok(Sample { started, gpus })
    }

    fn gpu(&mut self, nvml: &Nvml, index: u32) -> Option<GpuReading> {
        let read = nvml.device_by_index(index).and_then(|device| {
            let identity = (device.uuid()?, device.name()?);
            Ok((identity, usage(&device)))
        });
        match read {
            Ok(((uuid, product), usage)) => {
                self.known.insert(index, (uuid.clone(), product.clone()));
                Some(GpuReading { index, uuid, product, usage: usage.map_err(|error| error.to_string()) })
            }
            // One that never told its name cannot be spoken of.
            Err(error) => {
                let (uuid, product) = self.known.get(&index)?.clone();
                Some(GpuReading { index, uuid, product, usage: Err(error.to_string()) })
            }
        }
    }
}

fn usage(device: &Device<'_>) -> Result<Usage, NvmlError> {
    let memory = device.memory_info()?;
    let mut processes: BTreeMap<u32, Option<u64>> = BTreeMap::new();
    let mut add = |list: Vec<nvml_wrapper::struct_wrappers::device::ProcessInfo>| {
        for process in list {
            let bytes = match process.used_gpu_memory {
                UsedGpuMemory::Used(bytes) => Some(bytes),
                UsedGpuMemory::Unavailable => None,
            };
            // A process with both kinds of contexts is listed twice with the same figure.
            let known = processes.entry(process.pid).or_default();
            *known = (*known).max(bytes);
        }
    };
    add(device.running_compute_processes()?);
    match device.running_graphics_processes() {
        Ok(list) => add(list),
        Err(NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_)) => {}
        Err(error) => return Err(error),
    }
    Ok(Usage { total: memory.total, reserved: memory.reserved, used: memory.used, processes })
}

/// How long to wait before NVML is loaded again: 1 s, doubled up to 30 s.
fn retry_after(failures: u32) -> Duration {
    Duration::from_secs(1_u64.checked_shl(failures.min(5)).unwrap_or(32).min(30))
}
