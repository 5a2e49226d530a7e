//! Contexts and memory. A context belongs to a device; the current one is each thread's own.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::c_uint;
use std::sync::{LazyLock, Mutex, PoisonError};

use memboss_sim_state::{Charge, Gpu, HolderKind};

use crate::{CUcontext, CUdevice, CUresult, INVALID_CONTEXT, INVALID_VALUE, answer, code, give, gpu};

/// Where the first allocation lies: an address that is never null and never real.
const FIRST_ADDRESS: u64 = 0x7000_0000_0000;
/// Addresses are a multiple of this.
const ALIGNMENT: u64 = 512;

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// Allocations by address: which device, how much.
static ALLOCATIONS: LazyLock<Mutex<BTreeMap<u64, (CUdevice, u64)>>> = LazyLock::new(Mutex::default);

fn allocations() -> std::sync::MutexGuard<'static, BTreeMap<u64, (CUdevice, u64)>> {
    ALLOCATIONS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn context(device: CUdevice) -> CUcontext {
    std::ptr::without_provenance_mut(usize::try_from(device).map_or(0, |device| device + 1))
}

fn device_of(context: usize) -> Result<CUdevice, CUresult> {
    context.checked_sub(1).and_then(|device| CUdevice::try_from(device).ok()).ok_or(INVALID_CONTEXT)
}

fn current() -> Result<(CUdevice, &'static Gpu), CUresult> {
    let device = device_of(CURRENT.get())?;
    Ok((device, gpu(device)?))
}

/// Joins the GPU and pays for the context.
fn enter(device: CUdevice) -> Result<(), CUresult> {
    let gpu = gpu(device)?;
    gpu.join(HolderKind::Compute).map_err(|error| code(&error))?;
    gpu.charge(Charge::Context).map(|_| ()).map_err(|error| {
        drop(gpu.leave());
        code(&error)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxCreate_v2(out: *mut CUcontext, _flags: c_uint, device: CUdevice) -> CUresult {
    let create = || {
        enter(device)?;
        CURRENT.set(context(device).addr());
        give(out, context(device))
    };
    answer(create())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxDestroy_v2(gone: CUcontext) -> CUresult {
    let destroy = || {
        let device = device_of(gone.addr())?;
        if CURRENT.get() == gone.addr() {
            CURRENT.set(0);
        }
        leave(device)
    };
    answer(destroy())
}

fn leave(device: CUdevice) -> Result<(), CUresult> {
    let gpu = gpu(device)?;
    allocations().retain(|_, (on, _)| *on != device);
    gpu.leave().map_err(|error| code(&error))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRetain(out: *mut CUcontext, device: CUdevice) -> CUresult {
    answer(enter(device).and_then(|()| give(out, context(device))))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(device: CUdevice) -> CUresult {
    answer(leave(device))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(wanted: CUcontext) -> CUresult {
    CURRENT.set(wanted.addr());
    crate::SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetCurrent(out: *mut CUcontext) -> CUresult {
    answer(give(out, std::ptr::without_provenance_mut(CURRENT.get())))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> CUresult {
    let allocate = || {
        let (device, gpu) = current()?;
        let bytes = u64::try_from(bytes).map_err(|_| INVALID_VALUE)?;
        if bytes == 0 {
            return Err(INVALID_VALUE);
        }
        gpu.charge(Charge::Bytes(bytes)).map_err(|error| code(&error))?;
        let mut allocations = allocations();
        let behind = allocations
            .last_key_value()
            .map_or(FIRST_ADDRESS, |(last, (_, size))| last + size.next_multiple_of(ALIGNMENT));
        allocations.insert(behind, (device, bytes));
        give(address, behind)
    };
    answer(allocate())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: u64) -> CUresult {
    let free = || {
        let (device, bytes) = allocations().remove(&address).ok_or(INVALID_VALUE)?;
        gpu(device)?.credit(bytes);
        Ok(())
    };
    answer(free())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> CUresult {
    let read = || {
        let (_, gpu) = current()?;
        let usage = gpu.usage().map_err(|error| code(&error))?;
        give(free, usize::try_from(usage.free).unwrap_or(usize::MAX))?;
        give(total, usize::try_from(usage.total).unwrap_or(usize::MAX))
    };
    answer(read())
}
