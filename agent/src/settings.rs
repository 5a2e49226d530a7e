//! The command line, read once and checked.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Parser;
use memboss_core::{Class, Mib, NodeName, Policy, Span};
use memboss_platform::log::Format;

use crate::health::Recovery;
use crate::node::clients::Limits;
use crate::node::{Cluster, Margin, Settings};

/// The agent of one node: owns its memory ledger.
#[derive(Clone, Debug, Parser)]
#[command(name = "memboss-agent", version)]
pub struct Arguments {
    /// This node's name, as Kubernetes has it.
    #[arg(long, env = "NODE_NAME")]
    pub node_name: String,
    /// Run alone, without an API server.
    #[arg(long)]
    pub standalone: bool,
    /// The namespace of the installation.
    #[arg(long, env = "POD_NAMESPACE", default_value = "memboss-system")]
    pub namespace: String,
    /// Directory on tmpfs: the ledger and the sockets.
    #[arg(long, default_value = "/run/memboss")]
    pub run_dir: PathBuf,
    /// Directory on persistent disk: which boot was the last.
    #[arg(long, default_value = "/var/lib/memboss")]
    pub state_dir: PathBuf,
    /// NVML's library; the system's if not given.
    #[arg(long, env = "MEMBOSS_NVML_LIBRARY")]
    pub nvml_library: Option<PathBuf>,
    /// Where the node's /proc is.
    #[arg(long, default_value = "/proc")]
    pub proc_root: PathBuf,
    /// Where the node's cgroups are.
    #[arg(long, default_value = "/sys/fs/cgroup")]
    pub cgroup_root: PathBuf,
    /// The file with the boot's id.
    #[arg(long, default_value = "/proc/sys/kernel/random/boot_id")]
    pub boot_id_file: PathBuf,
    /// The file with host memory's figures.
    #[arg(long, default_value = "/proc/meminfo")]
    pub meminfo_file: PathBuf,
    /// Where probes and metrics are served.
    #[arg(long, default_value = "0.0.0.0:9411")]
    pub admin_address: SocketAddr,
    /// A Redis-compatible server for heartbeats, with its credentials: redis://user:password@host:port.
    #[arg(long, env = "MEMBOSS_REDIS_URL", conflicts_with = "operator_url")]
    pub redis_url: Option<String>,
    /// The operator, which hands out the credentials of the Redis-compatible server.
    #[arg(long, requires = "operator_token")]
    pub operator_url: Option<String>,
    /// The certificates that vouch for the operator, in PEM.
    #[arg(long)]
    pub operator_ca: Option<PathBuf>,
    /// The projected token that is shown to the operator.
    #[arg(long)]
    pub operator_token: Option<PathBuf>,
    /// What of each GPU is never leased, at least, in MiB.
    #[arg(long, default_value_t = Margin::default().least.mib())]
    pub margin_mib: u64,
    /// What of each GPU is never leased, at least, in percent.
    #[arg(long, default_value_t = Margin::default().percent)]
    pub margin_percent: u64,
    /// After an error a GPU counts as well again when it has been quiet for so many seconds.
    #[arg(long, default_value_t = 60)]
    pub health_quiet_seconds: u64,
    /// End holders of that class after so many seconds above their lease, such as batch=60; may be given for each class.
    #[arg(long, value_name = "CLASS=SECONDS")]
    pub over_lease_evict: Vec<OverLease>,
    /// How a log line is written: text or json.
    #[arg(long, default_value_t = Format::Text)]
    pub log_format: Format,
}

/// When holders of a class that use more than they lease are ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverLease {
    class: Class,
    after: Span,
}

/// Text that is not `class=seconds`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not CLASS=SECONDS, such as batch=60")]
pub struct NotAnOverLease(String);

impl FromStr for OverLease {
    type Err = NotAnOverLease;

    fn from_str(text: &str) -> Result<Self, NotAnOverLease> {
        let bad = || NotAnOverLease(text.to_owned());
        let (class, seconds) = text.split_once('=').ok_or_else(bad)?;
        let class = class.parse().map_err(|_| bad())?;
        Ok(Self { class, after: Span::from_secs(seconds.parse().map_err(|_| bad())?) })
    }
}

impl Arguments {
    /// The node's settings.
    ///
    /// # Errors
    /// When its name is none.
    pub fn settings(&self, boot_id: String, cluster: Cluster) -> Result<Settings, memboss_core::BadName> {
        let mut over_lease = [None; 5];
        for limit in &self.over_lease_evict {
            over_lease[limit.class.rank()] = Some(limit.after);
        }
        Ok(Settings {
            name: NodeName::new(self.node_name.clone())?,
            boot_id,
            margin: Margin { least: Mib::from_mib(self.margin_mib), percent: self.margin_percent.min(100) },
            policy: Policy::default(),
            recovery: Recovery { quiet: Span::from_secs(self.health_quiet_seconds), ..Recovery::default() },
            cluster,
            over_lease,
            give_back: Span::from_secs(60),
            clients: Limits::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_given_by_class() {
        let limit: OverLease = "batch=60".parse().unwrap();
        assert_eq!(limit, OverLease { class: Class::Batch, after: Span::from_secs(60) });
        for bad in ["batch", "batch=", "batch=-1", "none=1", ""] {
            assert!(bad.parse::<OverLease>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_margin_leaves_two_leases_room_on_a_card_of_24_gib() {
        let leasable = Margin::default().leasable(Mib::from_mib(24 * 1024), Mib::from_mib(512));
        assert_eq!(leasable, Mib::from_mib(24 * 1024 - 512 - 256));
        assert!(leasable >= Mib::from_mib(20 * 1024));
    }
}
