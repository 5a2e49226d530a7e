//! Contexts and memory. Each context pays its cost and owns its allocations; the last one of a GPU that goes gives this process's account back. The
//! current context is each thread's own.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::c_uint;
use std::sync::{LazyLock, Mutex, PoisonError};

use memboss_sim_state::{Charge, Gpu, HolderKind};

use crate::{CUcontext, CUdevice, CUresult, INVALID_CONTEXT, INVALID_VALUE, answer, code, give, gpu, wait_while_hung};

/// Where the first allocation lies: an address that is never null and never real.
const FIRST_ADDRESS: u64 = 0x7000_0000_0000;
/// Addresses are a multiple of this.
const ALIGNMENT: u64 = 512;

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

struct Context {
    device: CUdevice,
    gpu: &'static Gpu,
    /// What it paid for itself.
    cost: u64,
    /// How often it was retained; a context that was created counts as one.
    users: u32,
    primary: bool,
}

struct Allocation {
    context: usize,
    bytes: u64,
}

/// What this process has; contexts by their number, which is what callers hold, dressed as a pointer.
#[derive(Default)]
struct Table {
    made: usize,
    contexts: BTreeMap<usize, Context>,
    allocations: BTreeMap<u64, Allocation>,
}

static TABLE: LazyLock<Mutex<Table>> = LazyLock::new(Mutex::default);

fn table() -> std::sync::MutexGuard<'static, Table> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Table {
    /// Joins the GPU, pays for a context, and notes it.
    fn open(&mut self, device: CUdevice, gpu: &'static Gpu, primary: bool) -> Result<usize, CUresult> {
        gpu.join(HolderKind::Compute).map_err(|error| code(&error))?;
        let cost = gpu.charge(Charge::Context).map_err(|error| {
            drop(gpu.leave());
            code(&error)
        })?;
        self.made += 1;
        self.contexts.insert(self.made, Context { device, gpu, cost, users: 1, primary });
        Ok(self.made)
    }

    fn primary(&mut self, device: CUdevice) -> Option<(usize, &mut Context)> {
        let found = self.contexts.iter_mut().find(|(_, context)| context.primary && context.device == device);
        found.map(|(number, context)| (*number, context))
    }

    /// Forgets a context and gives back what it paid and what it allocated.
    fn close(&mut self, number: usize) -> Result<(), CUresult> {
        let context = self.contexts.remove(&number).ok_or(INVALID_CONTEXT)?;
        let freed: u64 = self.allocations.values().filter(|held| held.context == number).map(|held| held.bytes).sum();
        self.allocations.retain(|_, held| held.context != number);
        context.gpu.credit(freed + context.cost);
        context.gpu.leave().map_err(|error| code(&error))
    }

    fn current(&self) -> Result<(usize, &Context), CUresult> {
        let number = CURRENT.get();
        self.contexts.get(&number).map(|context| (number, context)).ok_or(INVALID_CONTEXT)
    }
}

/// The GPU of the current context, once it can be asked.
fn current_gpu() -> Result<&'static Gpu, CUresult> {
    let gpu = table().current().map(|(_, context)| context.gpu)?;
    wait_while_hung(gpu);
    Ok(gpu)
}

fn dressed(number: usize) -> CUcontext {
    std::ptr::without_provenance_mut(number)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxCreate_v2(out: *mut CUcontext, _flags: c_uint, device: CUdevice) -> CUresult {
    let create = || {
        let gpu = gpu(device)?;
        let number = table().open(device, gpu, false)?;
        CURRENT.set(number);
        give(out, dressed(number))
    };
    answer(create())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxDestroy_v2(gone: CUcontext) -> CUresult {
    if CURRENT.get() == gone.addr() {
        CURRENT.set(0);
    }
    answer(table().close(gone.addr()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRetain(out: *mut CUcontext, device: CUdevice) -> CUresult {
    let retain = || {
        let gpu = gpu(device)?;
        let mut table = table();
        let known = table.primary(device).map(|(number, context)| {
            context.users += 1;
            number
        });
        let number = match known {
            Some(number) => number,
            None => table.open(device, gpu, true)?,
        };
        give(out, dressed(number))
    };
    answer(retain())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(device: CUdevice) -> CUresult {
    let release = || {
        let mut table = table();
        let (number, context) = table.primary(device).ok_or(INVALID_CONTEXT)?;
        context.users -= 1;
        if context.users == 0 { table.close(number) } else { Ok(()) }
    };
    answer(release())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease(device: CUdevice) -> CUresult {
    cuDevicePrimaryCtxRelease_v2(device)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(wanted: CUcontext) -> CUresult {
    if !wanted.is_null() && !table().contexts.contains_key(&wanted.addr()) {
        return INVALID_CONTEXT;
    }
    CURRENT.set(wanted.addr());
    crate::SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetCurrent(out: *mut CUcontext) -> CUresult {
    answer(give(out, dressed(CURRENT.get())))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetDevice(out: *mut CUdevice) -> CUresult {
    let device = table().current().map(|(_, context)| context.device);
    answer(device.and_then(|device| give(out, device)))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> CUresult {
    answer(current_gpu().map(|_| ()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> CUresult {
    let allocate = || {
        let gpu = current_gpu()?;
        let bytes = u64::try_from(bytes).map_err(|_| INVALID_VALUE)?;
        if bytes == 0 || address.is_null() {
            return Err(INVALID_VALUE);
        }
        let mut table = table();
        let (context, _) = table.current()?;
        gpu.charge(Charge::Bytes(bytes)).map_err(|error| code(&error))?;
        let behind = table
            .allocations
            .last_key_value()
            .map_or(FIRST_ADDRESS, |(last, held)| last + held.bytes.next_multiple_of(ALIGNMENT));
        table.allocations.insert(behind, Allocation { context, bytes });
        give(address, behind)
    };
    answer(allocate())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: u64) -> CUresult {
    let free = || {
        let mut table = table();
        let held = table.allocations.remove(&address).ok_or(INVALID_VALUE)?;
        let context = table.contexts.get(&held.context).ok_or(INVALID_CONTEXT)?;
        context.gpu.credit(held.bytes);
        Ok(())
    };
    answer(free())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> CUresult {
    let read = || {
        let gpu = current_gpu()?;
        let usage = gpu.usage().map_err(|error| code(&error))?;
        give(free, usize::try_from(usage.free).unwrap_or(usize::MAX))?;
        give(total, crate::usable(gpu))
    };
    answer(read())
}
