//! The C interface of NVML over simulated GPUs, so that a program that loads `libnvidia-ml.so.1` runs unchanged. It shows what the GPUs' files say and
//! may not change them. What it does not have is answered by the symbol's absence, as an older driver would.

#![expect(unsafe_code, unreachable_pub, reason = "a C interface: pointers come from the caller, names are exported")]
#![expect(missing_docs, reason = "the names and contracts are NVML's own, in nvml.h")]
#![expect(non_camel_case_types, reason = "NVML's names")]

mod device;
mod events;

use std::ffi::{CStr, c_char, c_int, c_uint};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use memboss_sim_state::{Gpu, Health, SimDir};

/// What every call answers.
pub type nvmlReturn_t = c_uint;
/// A device: the GPU's place in memory, which never changes, since a GPU once opened stays open.
pub type nvmlDevice_t = *mut std::ffi::c_void;

pub(crate) const SUCCESS: nvmlReturn_t = 0;
pub(crate) const UNINITIALIZED: nvmlReturn_t = 1;
pub(crate) const INVALID_ARGUMENT: nvmlReturn_t = 2;
pub(crate) const NOT_SUPPORTED: nvmlReturn_t = 3;
pub(crate) const NOT_FOUND: nvmlReturn_t = 6;
pub(crate) const INSUFFICIENT_SIZE: nvmlReturn_t = 7;
pub(crate) const TIMEOUT: nvmlReturn_t = 10;
pub(crate) const GPU_IS_LOST: nvmlReturn_t = 15;
pub(crate) const UNKNOWN: nvmlReturn_t = 999;

/// How often a call on a GPU whose driver hangs looks whether it still does.
const HANG_LOOK: Duration = Duration::from_millis(50);

static USERS: AtomicU32 = AtomicU32::new(0);

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> nvmlReturn_t {
    USERS.fetch_add(1, Ordering::AcqRel);
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInitWithFlags(_flags: c_uint) -> nvmlReturn_t {
    nvmlInit_v2()
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> nvmlReturn_t {
    match USERS.fetch_update(Ordering::AcqRel, Ordering::Acquire, |users| users.checked_sub(1)) {
        Ok(_) => SUCCESS,
        Err(_) => UNINITIALIZED,
    }
}

/// What must hold before any call: the library is in use, and the driver does not hang as a whole.
pub(crate) fn ready() -> Result<(), nvmlReturn_t> {
    if USERS.load(Ordering::Acquire) == 0 { Err(UNINITIALIZED) } else { Ok(()) }
}

/// All GPUs that this process sees.
pub(crate) fn gpus() -> Result<Vec<&'static Gpu>, nvmlReturn_t> {
    ready()?;
    SimDir::from_env().gpus().map_err(|_| UNKNOWN)
}

/// The GPU of a handle, if it can be asked: waits while it hangs, and fails when it is lost.
pub(crate) fn asked(device: nvmlDevice_t) -> Result<&'static Gpu, nvmlReturn_t> {
    ready()?;
    let gpu = known(device)?;
    loop {
        match gpu.health() {
            Health::Ok => return Ok(gpu),
            Health::Lost => return Err(GPU_IS_LOST),
            Health::Hung => std::thread::sleep(HANG_LOOK),
        }
    }
}

/// A handle is one of ours only if it is a GPU that is open here: any other pointer is refused, never followed.
pub(crate) fn known(device: nvmlDevice_t) -> Result<&'static Gpu, nvmlReturn_t> {
    let gpus = SimDir::from_env().gpus().map_err(|_| UNKNOWN)?;
    gpus.into_iter().find(|gpu| handle(gpu) == device).ok_or(INVALID_ARGUMENT)
}

pub(crate) fn handle(gpu: &'static Gpu) -> nvmlDevice_t {
    std::ptr::from_ref(gpu).cast_mut().cast()
}

/// Maps an outcome to NVML's answer.
pub(crate) fn answer(outcome: Result<(), nvmlReturn_t>) -> nvmlReturn_t {
    outcome.err().unwrap_or(SUCCESS)
}

/// Puts a value where the caller wants it.
pub(crate) fn give<T>(place: *mut T, value: T) -> Result<(), nvmlReturn_t> {
    if place.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: NVML's contract: a pointer that is not null leads to a place for a `T`.
    unsafe { place.write(value) };
    Ok(())
}

/// Puts a text where the caller wants it, with its end.
pub(crate) fn give_text(place: *mut c_char, length: c_uint, text: &str) -> Result<(), nvmlReturn_t> {
    let length = usize::try_from(length).unwrap_or(0);
    if place.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    if length <= text.len() {
        return Err(INSUFFICIENT_SIZE);
    }
    // SAFETY: NVML's contract: `length` bytes may be written there; the text and its end fit, as was just looked at.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), place.cast(), text.len());
        place.add(text.len()).write(0);
    }
    Ok(())
}

/// A text of the caller's.
pub(crate) fn read_text(text: *const c_char) -> Result<String, nvmlReturn_t> {
    if text.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: NVML's contract: a text that ends with a zero.
    Ok(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlErrorString(result: nvmlReturn_t) -> *const c_char {
    let text = match result {
        SUCCESS => c"The operation was successful",
        UNINITIALIZED => c"NVML was not initialized",
        INVALID_ARGUMENT => c"A supplied argument is invalid",
        NOT_SUPPORTED => c"The requested operation is not available on target device",
        NOT_FOUND => c"A query to find an object was unsuccessful",
        INSUFFICIENT_SIZE => c"An input argument is not large enough",
        TIMEOUT => c"User provided timeout passed",
        GPU_IS_LOST => c"The GPU is lost",
        _ => c"An internal error occurred",
    };
    text.as_ptr()
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlSystemGetDriverVersion(version: *mut c_char, length: c_uint) -> nvmlReturn_t {
    answer(ready().and_then(|()| give_text(version, length, "580.0.0-sim")))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlSystemGetNVMLVersion(version: *mut c_char, length: c_uint) -> nvmlReturn_t {
    answer(ready().and_then(|()| give_text(version, length, "13.580.0-sim")))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlSystemGetCudaDriverVersion_v2(version: *mut c_int) -> nvmlReturn_t {
    answer(ready().and_then(|()| give(version, 13_000)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlSystemGetProcessName(pid: c_uint, name: *mut c_char, length: c_uint) -> nvmlReturn_t {
    let read = || {
        ready()?;
        let text = std::fs::read_to_string(format!("/proc/{pid}/comm")).map_err(|_| NOT_FOUND)?;
        give_text(name, length, text.trim_end())
    };
    answer(read())
}
