//! NVML's calls on devices: who they are, what memory they have, who uses it.

use std::ffi::{c_char, c_uint, c_ulonglong};

use memboss_sim_state::{Gpu, HolderKind};

use crate::{
    INSUFFICIENT_SIZE, INVALID_ARGUMENT, NOT_FOUND, NOT_SUPPORTED, UNKNOWN, answer, asked, give, give_text, gpus,
    handle, known, nvmlDevice_t, nvmlReturn_t, read_text, ready,
};

/// No MIG instance.
const NO_INSTANCE: c_uint = c_uint::MAX;

#[repr(C)]
pub struct nvmlMemory_t {
    total: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

#[repr(C)]
pub struct nvmlMemory_v2_t {
    version: c_uint,
    total: c_ulonglong,
    reserved: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

#[repr(C)]
pub struct nvmlProcessInfo_t {
    pid: c_uint,
    used_gpu_memory: c_ulonglong,
    gpu_instance: c_uint,
    compute_instance: c_uint,
}

#[repr(C)]
pub struct nvmlPciInfo_t {
    bus_id_legacy: [c_char; 16],
    domain: c_uint,
    bus: c_uint,
    device: c_uint,
    pci_device_id: c_uint,
    pci_subsystem_id: c_uint,
    bus_id: [c_char; 32],
}

#[repr(C)]
pub struct nvmlUtilization_t {
    gpu: c_uint,
    memory: c_uint,
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> nvmlReturn_t {
    answer(gpus().and_then(|gpus| give(count, c_uint::try_from(gpus.len()).unwrap_or(c_uint::MAX))))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut nvmlDevice_t) -> nvmlReturn_t {
    let find = || {
        let at = usize::try_from(index).map_err(|_| INVALID_ARGUMENT)?;
        let gpu = *gpus()?.get(at).ok_or(INVALID_ARGUMENT)?;
        give(device, handle(gpu))
    };
    answer(find())
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, device: *mut nvmlDevice_t) -> nvmlReturn_t {
    let find = || {
        let wanted = read_text(uuid)?;
        let gpu = gpus()?.into_iter().find(|gpu| gpu.uuid() == wanted).ok_or(NOT_FOUND)?;
        give(device, handle(gpu))
    };
    answer(find())
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetHandleByPciBusId_v2(bus_id: *const c_char, device: *mut nvmlDevice_t) -> nvmlReturn_t {
    let find = || {
        let wanted = read_text(bus_id)?;
        // A domain may be written with four digits or with eight.
        let wanted = format!("{wanted:0>16}");
        let gpu = gpus()?.into_iter().find(|gpu| bus(gpu).eq_ignore_ascii_case(&wanted)).ok_or(NOT_FOUND)?;
        give(device, handle(gpu))
    };
    answer(find())
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetUUID(device: nvmlDevice_t, uuid: *mut c_char, length: c_uint) -> nvmlReturn_t {
    answer(asked(device).and_then(|gpu| give_text(uuid, length, &gpu.uuid())))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetName(device: nvmlDevice_t, name: *mut c_char, length: c_uint) -> nvmlReturn_t {
    answer(asked(device).and_then(|gpu| give_text(name, length, &gpu.name())))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetIndex(device: nvmlDevice_t, index: *mut c_uint) -> nvmlReturn_t {
    let read = || {
        let gpu = asked(device)?;
        // The place among those that are visible here, as the handles are counted; the node's number is the minor one.
        let place = gpus()?.into_iter().position(|other| std::ptr::eq(other, gpu)).ok_or(UNKNOWN)?;
        give(index, c_uint::try_from(place).unwrap_or(c_uint::MAX))
    };
    answer(read())
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMinorNumber(device: nvmlDevice_t, minor: *mut c_uint) -> nvmlReturn_t {
    answer(asked(device).and_then(|gpu| give(minor, gpu.index())))
}

fn bus(gpu: &Gpu) -> String {
    format!("00000000:{:02X}:00.0", gpu.pci_bus())
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetPciInfo_v3(device: nvmlDevice_t, info: *mut nvmlPciInfo_t) -> nvmlReturn_t {
    let read = || {
        let gpu = asked(device)?;
        let bus_id = bus(gpu);
        give(
            info,
            nvmlPciInfo_t {
                bus_id_legacy: text(&bus_id[4..]),
                domain: 0,
                bus: gpu.pci_bus(),
                device: 0,
                pci_device_id: gpu.pci_device_id(),
                pci_subsystem_id: 0,
                bus_id: text(&bus_id),
            },
        )
    };
    answer(read())
}

/// A text in a field of fixed size, cut before its end.
fn text<const SIZE: usize>(text: &str) -> [c_char; SIZE] {
    let mut bytes = text.bytes().take(SIZE - 1);
    std::array::from_fn(|_| bytes.next().map_or(0, u8::cast_signed))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMemoryInfo(device: nvmlDevice_t, memory: *mut nvmlMemory_t) -> nvmlReturn_t {
    let read = || {
        let usage = asked(device)?.usage().map_err(|_| UNKNOWN)?;
        // The first form counts what the driver keeps as used.
        give(
            memory,
            nvmlMemory_t { total: usage.total, free: usage.free, used: usage.total.saturating_sub(usage.free) },
        )
    };
    answer(read())
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMemoryInfo_v2(device: nvmlDevice_t, memory: *mut nvmlMemory_v2_t) -> nvmlReturn_t {
    let read = || {
        let usage = asked(device)?.usage().map_err(|_| UNKNOWN)?;
        let version = c_uint::try_from(size_of::<nvmlMemory_v2_t>()).unwrap_or(0) | (2 << 24);
        give(
            memory,
            nvmlMemory_v2_t {
                version,
                total: usage.total,
                reserved: usage.reserved,
                free: usage.free,
                used: usage.used,
            },
        )
    };
    answer(read())
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    answer(processes(device, count, infos))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetComputeRunningProcesses_v2(
    device: nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    answer(processes(device, count, infos))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetGraphicsRunningProcesses_v3(
    device: nvmlDevice_t,
    count: *mut c_uint,
    _infos: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    answer(asked(device).and_then(|_| give(count, 0)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMPSComputeRunningProcesses_v3(
    device: nvmlDevice_t,
    count: *mut c_uint,
    _infos: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    answer(asked(device).and_then(|_| give(count, 0)))
}

fn processes(device: nvmlDevice_t, count: *mut c_uint, infos: *mut nvmlProcessInfo_t) -> Result<(), nvmlReturn_t> {
    let holders = asked(device)?.holders().map_err(|_| UNKNOWN)?;
    if count.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: NVML's contract: a counter that is not null can be read, and says how many infos fit.
    let room = usize::try_from(unsafe { count.read() }).unwrap_or(0);
    // A holder outside this process's pid namespace has no number here: NVML shows none either.
    let seen: Vec<_> =
        holders.into_iter().filter_map(|holder| holder.pid.map(|pid| (pid, holder.bytes, holder.kind))).collect();
    give(count, c_uint::try_from(seen.len()).unwrap_or(c_uint::MAX))?;
    if seen.is_empty() {
        return Ok(());
    }
    if room < seen.len() || infos.is_null() {
        return Err(INSUFFICIENT_SIZE);
    }
    for (at, (pid, bytes, kind)) in seen.into_iter().enumerate() {
        debug_assert!(matches!(kind, HolderKind::Compute | HolderKind::Foreign), "every kind is shown");
        let info =
            nvmlProcessInfo_t { pid, used_gpu_memory: bytes, gpu_instance: NO_INSTANCE, compute_instance: NO_INSTANCE };
        // SAFETY: the caller has room for `room` infos, and `at` lies below it.
        unsafe { infos.add(at).write(info) };
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetUtilizationRates(device: nvmlDevice_t, rates: *mut nvmlUtilization_t) -> nvmlReturn_t {
    let read = || {
        let usage = asked(device)?.usage().map_err(|_| UNKNOWN)?;
        let memory = usage.used.saturating_mul(100).checked_div(usage.total).unwrap_or(0);
        give(rates, nvmlUtilization_t { gpu: 0, memory: c_uint::try_from(memory).unwrap_or(100) })
    };
    answer(read())
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetTemperature(
    device: nvmlDevice_t,
    _sensor: c_uint,
    celsius: *mut c_uint,
) -> nvmlReturn_t {
    answer(asked(device).and_then(|_| give(celsius, 40)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetPowerUsage(device: nvmlDevice_t, milliwatts: *mut c_uint) -> nvmlReturn_t {
    answer(asked(device).and_then(|gpu| give(milliwatts, gpu.power_limit_milliwatts() / 10)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMigMode(
    device: nvmlDevice_t,
    _current: *mut c_uint,
    _pending: *mut c_uint,
) -> nvmlReturn_t {
    answer(asked(device).and(Err(NOT_SUPPORTED)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetCudaComputeCapability(
    device: nvmlDevice_t,
    major: *mut std::ffi::c_int,
    minor: *mut std::ffi::c_int,
) -> nvmlReturn_t {
    let read = || {
        let (of_major, of_minor) = asked(device)?.capability();
        give(major, of_major.cast_signed())?;
        give(minor, of_minor.cast_signed())
    };
    answer(read())
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetPersistenceMode(device: nvmlDevice_t, mode: *mut c_uint) -> nvmlReturn_t {
    // A lost GPU is asked no question here; the mode is the driver's.
    answer(ready().and_then(|()| known(device)).and_then(|_| give(mode, 1)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetEccMode(
    device: nvmlDevice_t,
    current: *mut c_uint,
    pending: *mut c_uint,
) -> nvmlReturn_t {
    answer(asked(device).and_then(|_| give(current, 1)).and_then(|()| give(pending, 1)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetTotalEccErrors(
    device: nvmlDevice_t,
    _error: c_uint,
    _counter: c_uint,
    count: *mut c_ulonglong,
) -> nvmlReturn_t {
    answer(asked(device).and_then(|_| give(count, 0)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetProcessUtilization(
    device: nvmlDevice_t,
    _samples: *mut std::ffi::c_void,
    _count: *mut c_uint,
    _last_seen: c_ulonglong,
) -> nvmlReturn_t {
    answer(asked(device).and(Err(NOT_SUPPORTED)))
}
