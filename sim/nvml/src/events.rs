//! NVML's event sets: a listener waits for XIDs of the GPUs that it registered.

use std::collections::BTreeMap;
use std::ffi::{c_uint, c_ulonglong, c_void};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use memboss_sim_state::Gpu;

use crate::{INVALID_ARGUMENT, TIMEOUT, answer, asked, give, handle, known, nvmlDevice_t, nvmlReturn_t, ready};

/// A set: its number, dressed as a pointer.
pub type nvmlEventSet_t = *mut c_void;

/// The only event that simulated GPUs have: a critical XID.
const XID_CRITICAL: c_ulonglong = 8;
/// How often a waiter looks.
const LOOK: Duration = Duration::from_millis(20);

#[repr(C)]
pub struct nvmlEventData_t {
    device: nvmlDevice_t,
    event_type: c_ulonglong,
    event_data: c_ulonglong,
    gpu_instance: c_uint,
    compute_instance: c_uint,
}

/// For each set, the GPUs that it listens to, and how far it has read.
type Sets = BTreeMap<usize, Vec<(&'static Gpu, u64)>>;
static SETS: LazyLock<Mutex<Sets>> = LazyLock::new(Mutex::default);

fn sets() -> std::sync::MutexGuard<'static, Sets> {
    SETS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlEventSetCreate(set: *mut nvmlEventSet_t) -> nvmlReturn_t {
    let create = || {
        ready()?;
        let mut sets = sets();
        let number = sets.keys().next_back().map_or(1, |last| last + 1);
        sets.insert(number, Vec::new());
        give(set, std::ptr::without_provenance_mut(number))
    };
    answer(create())
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlEventSetFree(set: nvmlEventSet_t) -> nvmlReturn_t {
    answer(sets().remove(&set.addr()).map(|_| ()).ok_or(INVALID_ARGUMENT))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetSupportedEventTypes(device: nvmlDevice_t, types: *mut c_ulonglong) -> nvmlReturn_t {
    answer(known(device).and_then(|_| give(types, XID_CRITICAL)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceRegisterEvents(
    device: nvmlDevice_t,
    _types: c_ulonglong,
    set: nvmlEventSet_t,
) -> nvmlReturn_t {
    let register = || {
        let gpu = asked(device)?;
        let mut sets = sets();
        sets.get_mut(&set.addr()).ok_or(INVALID_ARGUMENT)?.push((gpu, gpu.xid_count()));
        Ok(())
    };
    answer(register())
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlEventSetWait_v2(
    set: nvmlEventSet_t,
    data: *mut nvmlEventData_t,
    timeout_ms: c_uint,
) -> nvmlReturn_t {
    let deadline = Instant::now() + Duration::from_millis(u64::from(timeout_ms));
    let wait = || {
        loop {
            if let Some((device, xid)) = next(set)? {
                let none = c_uint::MAX;
                return give(
                    data,
                    nvmlEventData_t {
                        device,
                        event_type: XID_CRITICAL,
                        event_data: xid,
                        gpu_instance: none,
                        compute_instance: none,
                    },
                );
            }
            if Instant::now() >= deadline {
                return Err(TIMEOUT);
            }
            std::thread::sleep(LOOK.min(deadline.saturating_duration_since(Instant::now())));
        }
    };
    answer(wait())
}

fn next(set: nvmlEventSet_t) -> Result<Option<(nvmlDevice_t, u64)>, nvmlReturn_t> {
    let mut sets = sets();
    let listening = sets.get_mut(&set.addr()).ok_or(INVALID_ARGUMENT)?;
    for (gpu, position) in listening {
        if let Some((xid, behind)) = gpu.xid_at(*position) {
            *position = behind;
            return Ok(Some((handle(gpu), xid)));
        }
    }
    Ok(None)
}
