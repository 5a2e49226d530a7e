//! One process that computes and watches: it loads both libraries. The kernel drops a process's locks on a file when any
//! descriptor of it is closed, so this shows that nothing here ever closes one; and how contexts pay.
#![expect(clippy::unwrap_used, reason = "a test may end where it stands")]
#![expect(unsafe_code, reason = "calls a C library, and sets the environment that it reads")]

use std::ffi::{c_int, c_uint, c_void};
use std::path::PathBuf;

use libloading::{Library, Symbol};
use memboss_sim_state::{DIR_ENV, Gpu, MIB, Profile, SimDir, gpu_uuid};
use nvml_wrapper::Nvml;
use nvml_wrapper::enums::device::UsedGpuMemory;

type Context = *mut c_void;

fn built_library(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().join(format!("lib{name}.so"))
}

struct Cuda(Library);

impl Cuda {
    fn load() -> Self {
        // SAFETY: the library's start-up code has no conditions.
        Self(unsafe { Library::new(built_library("memboss_sim_cuda")) }.unwrap())
    }

    fn function<T>(&self, name: &str) -> Symbol<'_, T> {
        // SAFETY: each caller gives the signature of cuda.h.
        unsafe { self.0.get(name.as_bytes()) }.unwrap()
    }

    fn init(&self) -> c_uint {
        // SAFETY: as in cuda.h.
        unsafe { self.function::<unsafe extern "C" fn(c_uint) -> c_uint>("cuInit")(0) }
    }

    fn retain(&self) -> Context {
        let mut context = std::ptr::null_mut();
        let retain = self.function::<unsafe extern "C" fn(*mut Context, c_int) -> c_uint>("cuDevicePrimaryCtxRetain");
        // SAFETY: as in cuda.h; the context is written into a place of ours.
        assert_eq!(unsafe { retain(&raw mut context, 0) }, 0);
        context
    }

    fn release(&self) {
        // SAFETY: as in cuda.h.
        let code = unsafe { self.function::<unsafe extern "C" fn(c_int) -> c_uint>("cuDevicePrimaryCtxRelease_v2")(0) };
        assert_eq!(code, 0);
    }

    fn create(&self) -> Context {
        let mut context = std::ptr::null_mut();
        let create = self.function::<unsafe extern "C" fn(*mut Context, c_uint, c_int) -> c_uint>("cuCtxCreate_v2");
        // SAFETY: as in cuda.h; the context is written into a place of ours.
        assert_eq!(unsafe { create(&raw mut context, 0, 0) }, 0);
        context
    }

    fn with_context(&self, name: &str, context: Context) -> c_uint {
        // SAFETY: as in cuda.h, for cuCtxSetCurrent and cuCtxDestroy_v2.
        unsafe { self.function::<unsafe extern "C" fn(Context) -> c_uint>(name)(context) }
    }

    fn allocate(&self, mib: u64) -> Result<u64, c_uint> {
        let mut address = 0;
        let allocate = self.function::<unsafe extern "C" fn(*mut u64, usize) -> c_uint>("cuMemAlloc_v2");
        // SAFETY: as in cuda.h; the address is written into a place of ours.
        match unsafe { allocate(&raw mut address, usize::try_from(mib * MIB).unwrap()) } {
            0 => Ok(address),
            code => Err(code),
        }
    }

    fn free(&self, address: u64) -> c_uint {
        // SAFETY: as in cuda.h.
        unsafe { self.function::<unsafe extern "C" fn(u64) -> c_uint>("cuMemFree_v2")(address) }
    }
}

/// What NVML, opened and shut for this question, says this process has, in MiB.
fn seen_of_me(gpu: &Gpu) -> Option<u64> {
    let nvml = Nvml::builder().lib_path(built_library("memboss_sim_nvml").as_os_str()).init().unwrap();
    let processes = nvml.device_by_uuid(gpu.uuid()).unwrap().running_compute_processes().unwrap();
    let me = processes.into_iter().find(|process| process.pid == std::process::id())?;
    match me.used_gpu_memory {
        UsedGpuMemory::Used(bytes) => Some(bytes / MIB),
        UsedGpuMemory::Unavailable => None,
    }
}

#[test]
fn accounts_survive_nvml_opened_and_shut_and_contexts_pay_and_refund() {
    let files = tempfile::tempdir().unwrap();
    // SAFETY: the only test of this program; no other thread reads the environment.
    unsafe { std::env::set_var(DIR_ENV, files.path()) };
    let dir = SimDir::from_env();
    std::fs::create_dir_all(dir.gpus_dir()).unwrap();
    let cuda = Cuda::load();
    assert_eq!(cuda.init(), 100, "no GPU is there yet");
    let uuid = gpu_uuid("one", 0);
    let mut profile: Profile = "SIM:4096".parse().unwrap();
    profile.context_mib = 300;
    let gpu = Gpu::create(&dir.gpu_path(&uuid), 0, &uuid, &profile).unwrap();
    assert_eq!(cuda.init(), 0);
    assert_eq!(cuda.allocate(1), Err(201), "no context");
    assert_eq!(seen_of_me(gpu), None);

    // The primary context is paid for once, however often it is retained.
    let primary = cuda.retain();
    assert_eq!((cuda.retain(), seen_of_me(gpu)), (primary, Some(300)));
    assert_eq!(cuda.with_context("cuCtxSetCurrent", primary), 0);
    let first = cuda.allocate(1000).unwrap();
    assert_eq!(cuda.allocate(3000), Err(2), "4096 less 64 of the driver, 300 and 1000");
    assert_eq!(seen_of_me(gpu), Some(1300));

    // A second context pays for itself, and takes only what is its own with it.
    let second = cuda.create();
    cuda.allocate(500).unwrap();
    assert_eq!(seen_of_me(gpu), Some(2100));
    assert_eq!(cuda.with_context("cuCtxDestroy_v2", second), 0);
    assert_eq!(seen_of_me(gpu), Some(1300));
    assert_eq!(cuda.allocate(1), Err(201), "the current context is gone");

    assert_eq!((cuda.free(first), cuda.free(first)), (0, 1));
    cuda.release();
    assert_eq!(seen_of_me(gpu), Some(300), "one user is left");
    cuda.release();
    assert_eq!(seen_of_me(gpu), None);
    assert_eq!(gpu.usage().unwrap().used, 0);
}
