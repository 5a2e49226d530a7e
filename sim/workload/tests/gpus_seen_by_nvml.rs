//! What NVML shows of processes that allocate: real processes, the unchanged `nvml-wrapper`, and both libraries as built.
//!
//! All tests share one simulator directory, since a process has one environment; each makes a GPU of its own in it.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may end where it stands")]
#![expect(unsafe_code, reason = "sets the environment that the loaded library reads, and sends signals")]

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, mpsc};
use std::time::Duration;

use memboss_sim_state::{DIR_ENV, Gpu, Health, MIB, Profile, SimDir, gpu_uuid};
use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use tempfile::TempDir;

/// 4 GiB, of which the driver keeps 64 MiB.
const CARD: &str = "SIM:4096";
const USABLE_MIB: u64 = 4096 - 64;

struct Place {
    dir: SimDir,
    _files: TempDir,
}

static PLACE: LazyLock<Place> = LazyLock::new(|| {
    let files = TempDir::new().unwrap();
    let dir = SimDir::new(files.path());
    std::fs::create_dir_all(dir.gpus_dir()).unwrap();
    std::fs::create_dir_all(dir.lib_dir()).unwrap();
    for (built, name) in [("memboss_sim_nvml", "libnvidia-ml.so.1"), ("memboss_sim_cuda", "libcuda.so.1")] {
        std::os::unix::fs::symlink(built_library(built), dir.lib_dir().join(name)).unwrap();
    }
    // SAFETY: every test begins here, before it reads the environment or loads a library that does.
    unsafe { std::env::set_var(DIR_ENV, files.path()) };
    Place { dir, _files: files }
});

/// Cargo puts the libraries that a test depends on beside the test.
fn built_library(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let library = test.parent().unwrap().join(format!("lib{name}.so"));
    assert!(library.exists(), "{} was not built", library.display());
    library
}

fn new_gpu() -> &'static Gpu {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let dir = &PLACE.dir;
    let index = MADE.fetch_add(1, Ordering::Relaxed);
    let uuid = gpu_uuid("test", index);
    let profile: Profile = CARD.parse().unwrap();
    // Made elsewhere and moved in whole: the other tests' libraries look into the directory all the time.
    let aside = dir.path().join(format!("new-{index}"));
    Gpu::create(&aside, index, &uuid, &profile).unwrap();
    std::fs::rename(&aside, dir.gpu_path(&uuid)).unwrap();
    Gpu::open(&dir.gpu_path(&uuid)).unwrap()
}

fn nvml() -> Nvml {
    Nvml::builder().lib_path(PLACE.dir.lib_dir().join("libnvidia-ml.so.1").as_os_str()).init().unwrap()
}

/// Pid and MiB of each process on a GPU, as NVML lists them.
fn processes(nvml: &Nvml, gpu: &Gpu) -> Vec<(u32, u64)> {
    let device = nvml.device_by_uuid(gpu.uuid()).unwrap();
    let mut found: Vec<_> = device
        .running_compute_processes()
        .unwrap()
        .into_iter()
        .map(|process| match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => (process.pid, bytes / MIB),
            UsedGpuMemory::Unavailable => panic!("the simulator always knows"),
        })
        .collect();
    found.sort_unstable();
    found
}

/// A running workload; it is killed when the test ends, however it ends.
struct Workload {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Workload {
    fn start(gpu: &Gpu, arguments: &[&str]) -> Self {
        Self::start_by(Command::new(env!("CARGO_BIN_EXE_memboss-workload")), gpu, arguments)
    }

    fn start_by(mut command: Command, gpu: &Gpu, arguments: &[&str]) -> Self {
        let mut child = command
            .args(arguments)
            .env("LD_LIBRARY_PATH", PLACE.dir.lib_dir())
            .env("CUDA_VISIBLE_DEVICES", gpu.uuid())
            .env_remove("MEMBOSS_SOCKET")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next step that is one of these, or `end` when there is none.
    fn step(&mut self, wanted: &[&str]) -> String {
        for line in self.lines.by_ref() {
            let step: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            let event = step["event"].as_str().unwrap();
            if wanted.contains(&event) {
                return event.to_owned();
            }
        }
        "end".to_owned()
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn signal(&self, pid: u32, signal: i32) {
        // SAFETY: sends a signal to a process that this test started; touches no memory.
        unsafe { libc::kill(pid.cast_signed(), signal) };
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_process_that_allocates_is_listed_with_its_pid_and_bytes() {
    let gpu = new_gpu();
    let mut workload = Workload::start(gpu, &["--alloc", "1Gi"]);
    assert_eq!(workload.step(&["allocated", "oom", "error"]), "allocated");
    let nvml = nvml();
    assert_eq!(processes(&nvml, gpu), [(workload.pid(), 1024)]);
    let memory = nvml.device_by_uuid(gpu.uuid()).unwrap().memory_info().unwrap();
    assert_eq!(
        [memory.total, memory.reserved, memory.used, memory.free].map(|bytes| bytes / MIB),
        [4096, 64, 1024, USABLE_MIB - 1024]
    );
}

#[test]
fn memory_is_free_again_when_its_process_was_killed() {
    let gpu = new_gpu();
    let nvml = nvml();
    let mut workload = Workload::start(gpu, &["--alloc", "1Gi"]);
    assert_eq!(workload.step(&["allocated"]), "allocated");
    workload.child.kill().unwrap();
    workload.child.wait().unwrap();
    assert_eq!(processes(&nvml, gpu), []);
    assert_eq!(gpu.usage().unwrap().free / MIB, USABLE_MIB);

    // What the dead process left in its slot is nobody's: the next one in it starts from nothing.
    let mut next = Workload::start(gpu, &["--alloc", "64Mi"]);
    assert_eq!(next.step(&["allocated"]), "allocated");
    assert_eq!(processes(&nvml, gpu), [(next.pid(), 64)]);
}

#[test]
fn a_workload_ends_well_on_sigterm() {
    let gpu = new_gpu();
    let mut workload = Workload::start(gpu, &["--alloc", "64Mi"]);
    assert_eq!(workload.step(&["allocated"]), "allocated");
    workload.signal(workload.pid(), libc::SIGTERM);
    assert_eq!(workload.step(&["term"]), "term");
    assert_eq!(workload.child.wait().unwrap().code(), Some(0));
    assert_eq!(gpu.holders().unwrap(), []);
}

#[test]
fn a_reader_outside_sees_the_outer_pid_of_a_process_in_a_pid_namespace() {
    let gpu = new_gpu();
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--pid", "--fork", "--kill-child"])
        .arg(env!("CARGO_BIN_EXE_memboss-workload"));
    let mut workload = Workload::start_by(command, gpu, &["--alloc", "128Mi"]);
    assert_eq!(workload.step(&["allocated"]), "allocated", "unshare needs user namespaces or root");
    let listed = processes(&nvml(), gpu);
    let [(pid, 128)] = listed[..] else { panic!("{listed:?}") };
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
    let numbers: Vec<u32> = numbers.split_whitespace().map(|number| number.parse().unwrap()).collect();
    assert_eq!((numbers.first(), numbers.last()), (Some(&pid), Some(&1)), "it sees itself as 1");

    workload.signal(pid, libc::SIGKILL);
    workload.child.wait().unwrap();
    assert_eq!(gpu.holders().unwrap(), []);
}

#[test]
fn processes_that_allocate_at_once_never_get_more_than_there_is() {
    let gpu = new_gpu();
    let mut workloads: Vec<_> = (0..8).map(|_| Workload::start(gpu, &["--alloc", "1Gi"])).collect();
    let outcomes: Vec<_> = workloads.iter_mut().map(|workload| workload.step(&["allocated", "oom", "error"])).collect();
    assert_eq!(outcomes.iter().filter(|outcome| *outcome == "allocated").count(), 3, "{outcomes:?}");
    assert_eq!(outcomes.iter().filter(|outcome| *outcome == "oom").count(), 5, "{outcomes:?}");
    let usage = gpu.usage().unwrap();
    assert_eq!((usage.used / MIB, usage.free / MIB), (3072, USABLE_MIB - 3072));
    drop(workloads);
    assert_eq!(gpu.usage().unwrap().used, 0);
}

#[test]
fn too_much_is_refused_as_out_of_memory() {
    let gpu = new_gpu();
    let mut workload = Workload::start(gpu, &["--alloc", "4Gi"]);
    assert_eq!(workload.step(&["allocated", "oom"]), "oom");
    assert_eq!(workload.child.wait().unwrap().code(), Some(2));
}

#[test]
fn a_lost_gpu_fails_alone_and_comes_back() {
    let (gpu, other) = (new_gpu(), new_gpu());
    let nvml = nvml();
    let device = nvml.device_by_uuid(gpu.uuid()).unwrap();
    let beside = nvml.device_by_uuid(other.uuid()).unwrap();
    gpu.set_health(Health::Lost).unwrap();
    assert!(matches!(device.memory_info(), Err(NvmlError::GpuLost)));
    assert!(matches!(device.running_compute_processes(), Err(NvmlError::GpuLost)));
    assert!(beside.memory_info().is_ok());
    let mut workload = Workload::start(gpu, &["--alloc", "64Mi"]);
    assert_eq!(workload.step(&["allocated", "oom", "error"]), "error");
    gpu.set_health(Health::Ok).unwrap();
    assert!(device.memory_info().is_ok());
}

#[test]
fn calls_on_a_hung_gpu_block_until_it_is_mended() {
    let (gpu, other) = (new_gpu(), new_gpu());
    let nvml = nvml();
    let device = nvml.device_by_uuid(gpu.uuid()).unwrap();
    gpu.set_health(Health::Hung).unwrap();
    let (done, answered) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let answer = device.memory_info().is_ok();
            done.send((answer, gpu.health())).unwrap();
        });
        assert!(nvml.device_by_uuid(other.uuid()).unwrap().memory_info().is_ok());
        assert!(answered.recv_timeout(Duration::from_millis(200)).is_err(), "it has to block");
        gpu.set_health(Health::Ok).unwrap();
        assert_eq!(answered.recv().unwrap(), (true, Health::Ok));
    });
}

#[test]
fn xids_reach_a_listener_in_order_and_losing_a_gpu_is_one() {
    let gpu = new_gpu();
    let nvml = nvml();
    gpu.push_xid(31).unwrap();
    let set = nvml.create_event_set().unwrap();
    let device = nvml.device_by_uuid(gpu.uuid()).unwrap();
    let set = device.register_events(EventTypes::CRITICAL_XID_ERROR, set).map_err(|failed| failed.error).unwrap();
    assert!(matches!(set.wait(0), Err(NvmlError::Timeout)), "what was before is not heard");
    gpu.push_xid(48).unwrap();
    gpu.set_health(Health::Lost).unwrap();
    let heard = [set.wait(10_000).unwrap(), set.wait(10_000).unwrap()];
    assert!(heard.iter().all(|event| event.event_type == EventTypes::CRITICAL_XID_ERROR));
    assert_eq!(heard.map(|event| event.event_data), [Some(XidError::Value(48)), Some(XidError::Value(79))]);
}
