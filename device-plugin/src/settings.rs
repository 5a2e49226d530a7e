//! What can be set from outside: flags, each with an environment variable. Plain data; the defaults are those of a node set up by the chart.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use memboss_platform::log::Format;

use crate::prestart::Patience;
use crate::registration::Pace;

/// Advertises GPU memory to the kubelet and binds each container to the GPUs of its lease.
#[derive(Clone, Debug, Parser)]
#[command(name = "memboss-device-plugin", version)]
pub struct Settings {
    /// The extended resource to advertise.
    #[arg(long, env = "MEMBOSS_RESOURCE", default_value = "memboss.dev/vram")]
    pub resource: String,
    /// Slots advertised for each 256 MiB that can be leased; above 1 the scheduler's count is looser than the ledger.
    #[arg(long, env = "MEMBOSS_MULTIPLE", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub multiple: u32,
    /// Where the kubelet and its device plugins have their sockets.
    #[arg(long, env = "MEMBOSS_PLUGIN_DIRECTORY", default_value = memboss_kubelet_api::PLUGIN_DIRECTORY)]
    pub plugin_directory: PathBuf,
    /// The kubelet's podresources socket.
    #[arg(long, env = "MEMBOSS_POD_RESOURCES_SOCKET", default_value = memboss_kubelet_api::POD_RESOURCES_SOCKET)]
    pub pod_resources_socket: PathBuf,
    /// The agent's socket for the node's root processes.
    #[arg(long, env = "MEMBOSS_AGENT_SOCKET", default_value = memboss_agent_api::NODE_SOCKET)]
    pub agent_socket: PathBuf,
    /// The directory with the agent's socket for containers; mounted into each at the same place.
    #[arg(long, env = "MEMBOSS_WORKLOAD_DIRECTORY", default_value = "/run/memboss/agent")]
    pub workload_directory: PathBuf,
    /// Persistent directory for the checkpoint.
    #[arg(long, env = "MEMBOSS_STATE_DIRECTORY", default_value = "/var/lib/memboss")]
    pub state_directory: PathBuf,
    /// Where the container runtime looks for CDI specs of running things.
    #[arg(long, env = "MEMBOSS_CDI_DIRECTORY", default_value = "/run/cdi")]
    pub cdi_directory: PathBuf,
    /// Where the specs of the GPUs are; a later directory goes before an earlier one.
    #[arg(long, env = "MEMBOSS_CDI_SOURCES", value_delimiter = ',', default_value = "/etc/cdi,/run/cdi")]
    pub cdi_sources: Vec<PathBuf>,
    /// The kind of the devices in those specs.
    #[arg(long, env = "MEMBOSS_CDI_SOURCE_KIND", default_value = "nvidia.com/gpu")]
    pub cdi_source_kind: String,
    /// Where to serve /livez, /readyz and /metrics.
    #[arg(long, env = "MEMBOSS_ADMIN_ADDRESS", default_value = "127.0.0.1:9743")]
    pub admin_address: SocketAddr,
    /// How to write the log: text or json.
    #[arg(long, env = "MEMBOSS_LOG_FORMAT", default_value_t = Format::Text)]
    pub log_format: Format,
    /// How fast and how patient; not for users.
    #[arg(skip)]
    pub timing: Timing,
}

/// Durations that only tests change.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Of the registration.
    pub pace: Pace,
    /// Of a container's start.
    pub patience: Patience,
    /// How long a container runtime may take to open a new CDI file.
    pub unread: Duration,
    /// Between two looks at which slots are in use.
    pub look: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            pace: Pace::default(),
            patience: Patience::default(),
            // Runtimes with CDI on read within milliseconds; this leaves room for a node at its limit.
            unread: Duration::from_secs(15),
            look: Duration::from_secs(30),
        }
    }
}
