//! A node for tests: directories of its own, a kubelet and an agent that do as they are told, and the real plugin between them,
//! all over real Unix sockets. It asserts nothing.

mod agent;
mod kubelet;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use memboss_agent_api::v1::{Gpu, GpuList, GpuShare, Health, PrepareResponse};
use memboss_device_plugin::Plugin;
use memboss_device_plugin::prestart::Patience;
use memboss_device_plugin::registration::Pace;
use memboss_device_plugin::settings::{Settings, Timing};
use memboss_platform::admin::Readiness;
use memboss_platform::metrics::Registry;
use memboss_platform::shutdown::Shutdown;
use tempfile::TempDir;

pub(crate) use agent::Agent;
pub(crate) use kubelet::Kubelet;

pub(crate) const RESOURCE: &str = "memboss.dev/vram";
/// Far above what anything here takes; only a hanging test reaches it.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

const SOURCE: &str = r#"
cdiVersion: "0.7.0"
kind: nvidia.com/gpu
devices:
- name: GPU-a
  containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
- name: "1"
  containerEdits:
    deviceNodes:
    - path: /dev/nvidia1
containerEdits:
  deviceNodes:
  - path: /dev/nvidiactl
  futureField: kept
"#;

/// The directories of a node; gone when dropped.
pub(crate) struct Node {
    root: TempDir,
    pub(crate) timing: Timing,
    pub(crate) readiness: Readiness,
}

/// A running plugin.
pub(crate) struct Running {
    shutdown: Shutdown,
    kill: Shutdown,
    thread: Option<JoinHandle<()>>,
}

impl Node {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for directory in ["plugins", "pod-resources", "agent", "state", "etc-cdi", "cdi"] {
            fs::create_dir(root.path().join(directory)).unwrap();
        }
        fs::write(root.path().join("etc-cdi/nvidia.yaml"), SOURCE).unwrap();
        let millis = Duration::from_millis;
        let timing = Timing {
            pace: Pace { look: millis(20), stream: LIMIT, register: LIMIT },
            patience: Patience { admission: LIMIT, news: millis(200), pause: millis(10), answer: LIMIT },
            unread: LIMIT,
            look: millis(50),
        };
        Self { root, timing, readiness: Readiness::default() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn settings(&self) -> Settings {
        Settings {
            resource: RESOURCE.to_owned(),
            multiple: 2,
            plugin_directory: self.path("plugins"),
            pod_resources_socket: self.path("pod-resources/kubelet.sock"),
            agent_socket: self.path("agent/node.sock"),
            workload_directory: self.path("agent"),
            state_directory: self.path("state"),
            cdi_directory: self.path("cdi"),
            cdi_sources: vec![self.path("etc-cdi"), self.path("cdi")],
            cdi_source_kind: "nvidia.com/gpu".to_owned(),
            admin_address: "127.0.0.1:0".parse().unwrap(),
            log_format: memboss_platform::log::Format::Text,
            timing: self.timing,
        }
    }

    /// Starts the plugin on a thread and runtime of its own, so that it can be killed like a process.
    pub(crate) fn start_plugin(&self) -> Running {
        let (shutdown, kill) = (Shutdown::new(), Shutdown::new());
        let plugin = Plugin::new(self.settings(), &self.readiness, &mut Registry::default());
        let (run, killed) = (shutdown.clone(), kill.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = plugin.run(run) => {}
                    () = killed.cancelled() => {}
                }
            });
        });
        Running { shutdown, kill, thread: Some(thread) }
    }

    pub(crate) async fn start_kubelet(&self) -> Kubelet {
        Kubelet::start(&self.path("plugins"), &self.path("pod-resources/kubelet.sock")).await
    }

    pub(crate) async fn start_agent(&self) -> Agent {
        Agent::start(&self.path("agent/node.sock")).await
    }

    /// The CDI files of ours, with their content.
    /// What lies in the CDI directory for leases.
    pub(crate) fn cdi_files(&self) -> Vec<(String, serde_json::Value)> {
        let mut files: Vec<_> = fs::read_dir(self.path("cdi"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("memboss-lease-"))
            .map(|path| {
                let text = fs::read_to_string(&path).unwrap();
                (path.file_name().unwrap().to_string_lossy().into_owned(), serde_json::from_str(&text).unwrap())
            })
            .collect();
        files.sort_by(|a, b| a.0.cmp(&b.0));
        files
    }

    /// The environment that a container with this CDI device would get; `None` if the runtime cannot resolve it.
    pub(crate) fn inject(&self, device: &str) -> Option<Vec<String>> {
        let name = device.strip_prefix("memboss.dev/lease=")?;
        self.cdi_files().into_iter().find_map(|(_, spec)| {
            let device = spec["devices"].as_array()?.iter().find(|device| device["name"] == name)?.clone();
            let env = device["containerEdits"]["env"].as_array()?.clone();
            Some(env.iter().filter_map(|variable| variable.as_str().map(str::to_owned)).collect())
        })
    }

    /// Waits for a line of the readiness report.
    pub(crate) async fn until_report(&self, line: &str) {
        until(|| self.readiness.report().1.contains(line)).await;
    }
}

impl Running {
    /// An orderly end.
    pub(crate) fn stop(mut self) {
        self.shutdown.cancel();
        self.join();
    }

    /// All tasks dropped where they stand; files stay.
    pub(crate) fn kill(mut self) {
        self.kill.cancel();
        self.join();
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill.cancel();
    }
}

/// Asks until it holds; what it asks for has no event to wait on.
pub(crate) async fn until(holds: impl Fn() -> bool) {
    let poll = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, poll).await.expect("the condition never held");
}

pub(crate) fn gpu(uuid: &str, index: u32, mib: u64, health: Health) -> Gpu {
    Gpu { uuid: uuid.to_owned(), index, leasable_mib: mib, health: health.into(), ..Gpu::default() }
}

/// GPU-a and GPU-b, 1 GiB each: 16 slots at multiple 2.
pub(crate) fn two_gpus(b: Health) -> GpuList {
    GpuList { gpus: vec![gpu("GPU-a", 0, 1024, Health::Healthy), gpu("GPU-b", 1, 1024, b)], ..GpuList::default() }
}

pub(crate) fn lease(name: &str, uuid: &str, index: u32) -> PrepareResponse {
    let share = GpuShare { uuid: uuid.to_owned(), index, memory_mib: 512 };
    PrepareResponse { lease: format!("team/{name}"), gpus: vec![share] }
}

/// The sockets of plugins in the kubelet's directory.
pub(crate) fn plugin_sockets(directory: &Path) -> Vec<PathBuf> {
    let name = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("memboss-"));
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).filter(name).collect()
}
