//! Errors that the driver reports about a GPU (XIDs), as they happen. It only passes them on; `health.rs` knows what they mean.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{EventSet, Nvml};
use tokio::sync::mpsc;

use super::nvml::load;

/// An error that a GPU reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xid {
    /// The GPU's UUID.
    pub uuid: String,
    /// NVIDIA's number; 0 when the driver does not say.
    pub number: u64,
}

/// How long one wait for an event lasts: long, since it ends at once when there is one.
const WAIT_MS: u32 = 30_000;
/// Pause after a failure. A wait that fails at once would otherwise use up a core.
const PAUSE: Duration = Duration::from_secs(10);

/// Starts a thread that waits for XIDs for as long as somebody listens.
///
/// # Errors
/// When no thread can be started.
pub fn spawn(library: Option<OsString>) -> std::io::Result<mpsc::UnboundedReceiver<Xid>> {
    let (xids, out) = mpsc::unbounded_channel();
    std::thread::Builder::new().name("xid".into()).stack_size(256 * 1024).spawn(move || {
        while !xids.is_closed() {
            if let Err(error) = listen(library.as_ref(), &xids) {
                tracing::debug!(%error, "cannot wait for XIDs");
            }
            std::thread::sleep(PAUSE);
        }
    })?;
    Ok(out)
}

fn listen(library: Option<&OsString>, xids: &mpsc::UnboundedSender<Xid>) -> Result<(), NvmlError> {
    let nvml = load(library)?;
    let Some(events) = register(&nvml)? else { return Ok(()) };
    while !xids.is_closed() {
        let began = Instant::now();
        match events.wait(WAIT_MS) {
            Ok(event) => {
                let number = match event.event_data {
                    Some(XidError::Value(number)) => number,
                    Some(XidError::Unknown) | None => 0,
                };
                if let Ok(uuid) = event.device.uuid() {
                    let _ = xids.send(Xid { uuid, number });
                }
            }
            // A wait that says "timed out" without having waited is broken.
            Err(NvmlError::Timeout) if began.elapsed() >= Duration::from_millis(100) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// An event set with every GPU that takes part; a failed registration uses the set up, so it begins anew without that GPU.
fn register(nvml: &Nvml) -> Result<Option<EventSet<'_>>, NvmlError> {
    let mut devices: Vec<_> = (0..nvml.device_count()?).filter_map(|index| nvml.device_by_index(index).ok()).collect();
    'anew: while !devices.is_empty() {
        let mut events = nvml.create_event_set()?;
        for at in 0..devices.len() {
            events = match devices[at].register_events(EventTypes::CRITICAL_XID_ERROR, events) {
                Ok(events) => events,
                Err(_) => {
                    devices.remove(at);
                    continue 'anew;
                }
            };
        }
        return Ok(Some(events));
    }
    Ok(None)
}
