//! A small part of the C interface of CUDA's driver over simulated GPUs: enough for a program that finds its GPUs, makes a context, allocates, frees,
//! and asks what is free. What it allocates is only counted, on the account of this process in the GPU's file.

#![expect(unsafe_code, unreachable_pub, reason = "a C interface: pointers come from the caller, names are exported")]
#![expect(missing_docs, reason = "the names and contracts are CUDA's own, in cuda.h")]

mod memory;

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use memboss_sim_state::{Gpu, Health, SimDir, StateError};

/// What every call answers.
pub type CUresult = c_uint;
/// A device: its place among the visible ones.
pub type CUdevice = c_int;

pub(crate) const SUCCESS: CUresult = 0;
pub(crate) const INVALID_VALUE: CUresult = 1;
pub(crate) const OUT_OF_MEMORY: CUresult = 2;
pub(crate) const NOT_INITIALIZED: CUresult = 3;
pub(crate) const NO_DEVICE: CUresult = 100;
pub(crate) const INVALID_DEVICE: CUresult = 101;
pub(crate) const INVALID_CONTEXT: CUresult = 201;
pub(crate) const UNKNOWN: CUresult = 999;
/// What a program sees of a GPU that fell off the bus.
pub(crate) const DEVICE_UNAVAILABLE: CUresult = 46;

static STARTED: AtomicBool = AtomicBool::new(false);

/// The GPUs that this process may see: those whose files are there, in the order and choice of `CUDA_VISIBLE_DEVICES`.
pub(crate) fn visible() -> Result<Vec<&'static Gpu>, CUresult> {
    let gpus = SimDir::from_env().gpus().map_err(|_| UNKNOWN)?;
    let Ok(chosen) = std::env::var("CUDA_VISIBLE_DEVICES") else { return Ok(gpus) };
    let mut visible = Vec::new();
    for word in chosen.split(',').map(str::trim) {
        let found = match word.parse::<usize>() {
            Ok(place) => gpus.get(place).copied(),
            Err(_) => gpus.iter().copied().find(|gpu| !word.is_empty() && gpu.uuid().starts_with(word)),
        };
        // As the driver does: what follows a word that names nothing is not seen.
        let Some(gpu) = found else { break };
        visible.push(gpu);
    }
    Ok(visible)
}

pub(crate) fn started() -> Result<(), CUresult> {
    if STARTED.load(Ordering::Acquire) { Ok(()) } else { Err(NOT_INITIALIZED) }
}

pub(crate) fn gpu(device: CUdevice) -> Result<&'static Gpu, CUresult> {
    started()?;
    let place = usize::try_from(device).map_err(|_| INVALID_DEVICE)?;
    let gpu = visible()?.get(place).copied().ok_or(INVALID_DEVICE)?;
    wait_while_hung(gpu);
    Ok(gpu)
}

/// Calls on a GPU whose driver hangs do not come back.
pub(crate) fn wait_while_hung(gpu: &Gpu) {
    while gpu.health() == Health::Hung {
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What programs may ever have of a GPU: CUDA does not count what the driver keeps.
pub(crate) fn usable(gpu: &Gpu) -> usize {
    usize::try_from(gpu.total().saturating_sub(gpu.reserved())).unwrap_or(usize::MAX)
}

pub(crate) fn answer(outcome: Result<(), CUresult>) -> CUresult {
    outcome.err().unwrap_or(SUCCESS)
}

pub(crate) fn code(error: &StateError) -> CUresult {
    match error {
        StateError::OutOfMemory { .. } | StateError::NoSlot(_) => OUT_OF_MEMORY,
        StateError::Lost => DEVICE_UNAVAILABLE,
        StateError::NotJoined => INVALID_CONTEXT,
        _ => UNKNOWN,
    }
}

/// Puts a value where the caller wants it.
pub(crate) fn give<T>(place: *mut T, value: T) -> Result<(), CUresult> {
    if place.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: CUDA's contract: a pointer that is not null leads to a place for a `T`.
    unsafe { place.write(value) };
    Ok(())
}

/// Puts a text where the caller wants it, cut to the room there is.
fn give_text(place: *mut c_char, length: c_int, text: &str) -> Result<(), CUresult> {
    let room = usize::try_from(length).unwrap_or(0);
    if place.is_null() || room == 0 {
        return Err(INVALID_VALUE);
    }
    let cut = text.len().min(room - 1);
    // SAFETY: CUDA's contract: `length` bytes may be written there; `cut` and the end fit.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), place.cast(), cut);
        place.add(cut).write(0);
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(_flags: c_uint) -> CUresult {
    let start = || {
        if visible()?.is_empty() {
            return Err(NO_DEVICE);
        }
        STARTED.store(true, Ordering::Release);
        Ok(())
    };
    answer(start())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDriverGetVersion(version: *mut c_int) -> CUresult {
    answer(give(version, 13_000))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetCount(count: *mut c_int) -> CUresult {
    let read = || {
        started()?;
        give(count, c_int::try_from(visible()?.len()).unwrap_or(c_int::MAX))
    };
    answer(read())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGet(device: *mut CUdevice, ordinal: c_int) -> CUresult {
    answer(gpu(ordinal).and_then(|_| give(device, ordinal)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetName(name: *mut c_char, length: c_int, device: CUdevice) -> CUresult {
    answer(gpu(device).and_then(|gpu| give_text(name, length, &gpu.name())))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], device: CUdevice) -> CUresult {
    let read = || {
        let text = gpu(device)?.uuid();
        let hex: Vec<u8> = text.trim_start_matches("GPU-").bytes().filter(u8::is_ascii_hexdigit).collect();
        let digit = |at: usize| hex.get(at).and_then(|byte| char::from(*byte).to_digit(16)).unwrap_or(0);
        let bytes = std::array::from_fn(|at| u8::try_from(digit(at * 2) << 4 | digit(at * 2 + 1)).unwrap_or(0));
        give(uuid, bytes)
    };
    answer(read())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetUuid(uuid: *mut [u8; 16], device: CUdevice) -> CUresult {
    cuDeviceGetUuid_v2(uuid, device)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, device: CUdevice) -> CUresult {
    answer(gpu(device).and_then(|gpu| give(bytes, usable(gpu))))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGetErrorName(error: CUresult, name: *mut *const c_char) -> CUresult {
    answer(give(name, described(error).0))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGetErrorString(error: CUresult, text: *mut *const c_char) -> CUresult {
    answer(give(text, described(error).1))
}

fn described(error: CUresult) -> (*const c_char, *const c_char) {
    let (name, text) = match error {
        SUCCESS => (c"CUDA_SUCCESS", c"no error"),
        INVALID_VALUE => (c"CUDA_ERROR_INVALID_VALUE", c"invalid argument"),
        OUT_OF_MEMORY => (c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory"),
        NOT_INITIALIZED => (c"CUDA_ERROR_NOT_INITIALIZED", c"initialization error"),
        NO_DEVICE => (c"CUDA_ERROR_NO_DEVICE", c"no CUDA-capable device is detected"),
        INVALID_DEVICE => (c"CUDA_ERROR_INVALID_DEVICE", c"invalid device ordinal"),
        INVALID_CONTEXT => (c"CUDA_ERROR_INVALID_CONTEXT", c"invalid device context"),
        DEVICE_UNAVAILABLE => (c"CUDA_ERROR_DEVICE_UNAVAILABLE", c"the GPU is lost or busy"),
        _ => (c"CUDA_ERROR_UNKNOWN", c"unknown error"),
    };
    (name.as_ptr(), text.as_ptr())
}

/// A context: its number, from one on, dressed as a pointer, so that it is never null.
pub type CUcontext = *mut c_void;
