//! CUDA's driver interface, loaded at run time as frameworks do: find GPUs, allocate, free. Without a driver there are no GPUs.
#![expect(unsafe_code, reason = "calls a C library")]

use std::ffi::{c_int, c_uint, c_void};

use libloading::Library;

/// A call that did not succeed.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{call} answered CUDA error {code}")]
pub(crate) struct Failure {
    call: &'static str,
    code: c_uint,
}

impl Failure {
    /// Whether memory was short.
    pub(crate) const fn is_out_of_memory(&self) -> bool {
        self.code == 2
    }
}

type Init = unsafe extern "C" fn(c_uint) -> c_uint;
type GetCount = unsafe extern "C" fn(*mut c_int) -> c_uint;
type GetUuid = unsafe extern "C" fn(*mut [u8; 16], c_int) -> c_uint;
type CreateContext = unsafe extern "C" fn(*mut *mut c_void, c_uint, c_int) -> c_uint;
type SetCurrent = unsafe extern "C" fn(*mut c_void) -> c_uint;
type Alloc = unsafe extern "C" fn(*mut u64, usize) -> c_uint;
type Free = unsafe extern "C" fn(u64) -> c_uint;

/// The functions that are used.
#[derive(Clone, Copy)]
struct Driver {
    create: CreateContext,
    current: SetCurrent,
    alloc: Alloc,
    free: Free,
}

/// A GPU that this process sees.
pub(crate) struct Card {
    driver: Driver,
    device: c_int,
    uuid: String,
    context: *mut c_void,
    held: Option<Held>,
}

/// Memory that was allocated.
struct Held {
    address: u64,
    bytes: u64,
}

fn check(call: &'static str, code: c_uint) -> Result<(), Failure> {
    if code == 0 { Ok(()) } else { Err(Failure { call, code }) }
}

/// All GPUs that this process sees; none where there is no driver.
pub(crate) fn cards() -> Vec<Card> {
    load().unwrap_or_default()
}

fn load() -> Option<Vec<Card>> {
    // SAFETY: the driver's library is made to be loaded; its start-up code has no conditions.
    let library = unsafe { Library::new("libcuda.so.1") }.ok()?;
    // The functions are used until the end.
    let library: &'static Library = Box::leak(Box::new(library));
    // SAFETY: names and signatures are those of cuda.h.
    let (init, count, uuid, driver) = unsafe {
        let driver = Driver {
            create: *library.get::<CreateContext>(b"cuCtxCreate_v2\0").ok()?,
            current: *library.get::<SetCurrent>(b"cuCtxSetCurrent\0").ok()?,
            alloc: *library.get::<Alloc>(b"cuMemAlloc_v2\0").ok()?,
            free: *library.get::<Free>(b"cuMemFree_v2\0").ok()?,
        };
        (
            *library.get::<Init>(b"cuInit\0").ok()?,
            *library.get::<GetCount>(b"cuDeviceGetCount\0").ok()?,
            *library.get::<GetUuid>(b"cuDeviceGetUuid_v2\0").ok()?,
            driver,
        )
    };
    let mut devices = 0;
    // SAFETY: called first, as it must be; the counter outlives the call.
    unsafe {
        check("cuInit", init(0)).ok()?;
        check("cuDeviceGetCount", count(&raw mut devices)).ok()?;
    }
    let card = |device| {
        let mut bytes = [0; 16];
        // SAFETY: the device is below the count; sixteen bytes are what is written.
        check("cuDeviceGetUuid_v2", unsafe { uuid(&raw mut bytes, device) }).ok()?;
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let uuid = format!("GPU-{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
        Some(Card { driver, device, uuid, context: std::ptr::null_mut(), held: None })
    };
    Some((0..devices).filter_map(card).collect())
}

impl Card {
    /// Its UUID.
    pub(crate) fn uuid(&self) -> &str {
        &self.uuid
    }

    /// What it holds.
    pub(crate) fn held(&self) -> u64 {
        self.held.as_ref().map_or(0, |held| held.bytes)
    }

    /// Holds so many bytes instead of what it held.
    pub(crate) fn hold(&mut self, bytes: u64) -> Result<(), Failure> {
        if self.context.is_null() {
            // SAFETY: the device is one that was found; the context is written into a place of ours.
            check("cuCtxCreate", unsafe { (self.driver.create)(&raw mut self.context, 0, self.device) })?;
        }
        // SAFETY: the context was made above and is never destroyed.
        check("cuCtxSetCurrent", unsafe { (self.driver.current)(self.context) })?;
        if let Some(Held { address, .. }) = self.held.take() {
            // SAFETY: the address is one that was allocated and not freed yet.
            check("cuMemFree", unsafe { (self.driver.free)(address) })?;
        }
        if bytes == 0 {
            return Ok(());
        }
        let mut address = 0;
        let size = usize::try_from(bytes).unwrap_or(usize::MAX);
        // SAFETY: a context is current; the address is written into a place of ours.
        check("cuMemAlloc", unsafe { (self.driver.alloc)(&raw mut address, size) })?;
        self.held = Some(Held { address, bytes });
        Ok(())
    }
}
