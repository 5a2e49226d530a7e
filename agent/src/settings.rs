//! The command line and the configuration file, read once and checked.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use clap::Parser;
use memboss_core::{Class, Mib, NodeName, Pressure, Span};
use memboss_platform::log::Format;

use crate::config::{Config, LevelPart, Part, PressurePart, Time, Wrong};
use crate::health::Recovery;
use crate::node::clients::Limits;
use crate::node::relief;
use crate::node::{Cluster, Margin, Settings};
use crate::serve::Access;

/// The agent of one node: owns its memory ledger.
#[derive(Clone, Debug, Parser)]
#[command(name = "memboss-agent", version)]
pub struct Flags {
    /// A configuration file, in TOML; flags go before it. See packaging/systemd/agent.toml for all that it may say.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Tell what holds, by the configuration file and the flags, and end.
    #[arg(long)]
    pub check_config: bool,
    /// This node's name, as Kubernetes has it; alone, the host name if not given.
    #[arg(long, env = "NODE_NAME")]
    pub node_name: Option<String>,
    /// Run alone, without an API server.
    #[arg(long)]
    pub standalone: bool,
    /// The namespace of the installation.
    #[arg(long, env = "POD_NAMESPACE", default_value = "memboss-system")]
    pub namespace: String,
    /// Directory on tmpfs: the ledger and the sockets [default: /run/memboss].
    #[arg(long)]
    pub run_dir: Option<PathBuf>,
    /// Directory on persistent disk: which boot was the last [default: /var/lib/memboss].
    #[arg(long)]
    pub state_dir: Option<PathBuf>,
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
    /// Where probes and metrics are served [default: 0.0.0.0:9411; alone: 127.0.0.1:9411].
    #[arg(long)]
    pub admin_address: Option<SocketAddr>,
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
    /// What of each GPU is never leased, at least, in MiB [default: 256].
    #[arg(long)]
    pub margin_mib: Option<u64>,
    /// What of each GPU is never leased, at least, in percent [default: 1].
    #[arg(long, value_parser = clap::value_parser!(u64).range(0..=100))]
    pub margin_percent: Option<u64>,
    /// After an error a GPU counts as well again when it has been quiet for so many seconds [default: 60].
    #[arg(long)]
    pub health_quiet_seconds: Option<u64>,
    /// End holders of that class after so many seconds above their lease, such as batch=60; may be given for each class.
    #[arg(long, value_name = "CLASS=SECONDS")]
    pub over_lease_evict: Vec<OverLease>,
    /// Do nothing about RAM under pressure but tell it.
    #[arg(long)]
    pub no_relief: bool,
    /// A directory of whose files cache may be dropped under pressure; may be repeated.
    #[arg(long, value_name = "PATH")]
    pub clean_in: Vec<PathBuf>,
    /// The kubelet evicts when less RAM is left, in MiB: its evictionHard for memory.available [default: 100].
    #[arg(long)]
    pub eviction_mib: Option<u64>,
    /// Where a level of pressure begins: less than that percentage is available, or no more MiB are left until the kubelet evicts, such as high=5:384;
    /// may be given for moderate, high and critical.
    #[arg(long, value_name = "LEVEL=PERCENT:MIB")]
    pub pressure_level: Vec<LevelFlag>,
    /// How a log line is written: text or json.
    #[arg(long, default_value_t = Format::Text)]
    pub log_format: Format,
}

/// What holds: the flags, where they say nothing the configuration file, and where that says nothing the defaults.
#[derive(Clone, Debug)]
pub struct Arguments {
    /// What the file says, with the flags before it.
    pub config: Config,
    /// This node's name.
    pub node_name: String,
    /// Run alone, without an API server.
    pub standalone: bool,
    /// The namespace of the installation.
    pub namespace: String,
    /// Where the node's /proc is.
    pub proc_root: PathBuf,
    /// Where the node's cgroups are.
    pub cgroup_root: PathBuf,
    /// The file with the boot's id.
    pub boot_id_file: PathBuf,
    /// The file with host memory's figures.
    pub meminfo_file: PathBuf,
    /// Where probes and metrics are served.
    pub admin_address: SocketAddr,
    /// Where heartbeats go.
    pub redis_url: Option<String>,
    /// The operator, its certificates and the token for it.
    pub operator: (Option<String>, Option<PathBuf>, Option<PathBuf>),
}

/// What the flags and the configuration file say cannot hold.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The file is wrong.
    #[error(transparent)]
    Config(#[from] Wrong),
    /// A node of a cluster needs the name that the cluster has for it.
    #[error("the node has no name: give --node-name or NODE_NAME, or --standalone for a machine without Kubernetes")]
    NoName,
    /// The name is none.
    #[error(transparent)]
    Name(#[from] memboss_core::BadName),
    /// A group or user is unknown here.
    #[error("{field}: {why}")]
    Unknown {
        /// Where it is named.
        field: &'static str,
        /// Why.
        why: String,
    },
}

impl Flags {
    /// What holds.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn resolve(self) -> Result<Arguments, Failure> {
        let mut config = match &self.config {
            Some(path) => Config::read(path)?,
            None => Config::default(),
        };
        let (port, alone) = (9411, self.standalone);
        let everywhere = if alone { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        let address = self.admin_address.or(config.admin_address).unwrap_or(SocketAddr::new(everywhere, port));
        config.admin_address = Some(address);
        let host = || alone.then(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
        let name = self.node_name.or(config.node_name.take()).or_else(host).ok_or(Failure::NoName)?;
        config.node_name = Some(name.clone());
        config.nvml_library = self.nvml_library.or(config.nvml_library);
        let redis_url = config.redis_url.clone();
        config.run_dir = self.run_dir.unwrap_or(config.run_dir);
        config.state_dir = self.state_dir.unwrap_or(config.state_dir);
        config.margin.mib = self.margin_mib.unwrap_or(config.margin.mib);
        config.margin.percent = self.margin_percent.map_or(config.margin.percent, Part);
        config.times.health_quiet = self.health_quiet_seconds.map_or(config.times.health_quiet, Time::secs);
        config.over_lease.extend(self.over_lease_evict.iter().map(|limit| (limit.class, Time(limit.after))));
        let pressure = &mut config.pressure;
        pressure.act &= !self.no_relief;
        pressure.clean_in.extend(self.clean_in);
        pressure.eviction_mib = self.eviction_mib.unwrap_or(pressure.eviction_mib);
        for flag in self.pressure_level {
            flag.set(pressure);
        }
        config.pressure.check().map_err(|(field, why)| Failure::Unknown { field, why })?;
        Ok(Arguments {
            config,
            node_name: name,
            standalone: alone,
            namespace: self.namespace,
            proc_root: self.proc_root,
            cgroup_root: self.cgroup_root,
            boot_id_file: self.boot_id_file,
            meminfo_file: self.meminfo_file,
            admin_address: address,
            redis_url: self.redis_url.or(redis_url),
            operator: (self.operator_url, self.operator_ca, self.operator_token),
        })
    }
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

/// Where a level of pressure begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelFlag {
    level: Pressure,
    begins: LevelPart,
}

/// Text that is not `level=percent:mib`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not LEVEL=PERCENT:MIB for moderate, high or critical, such as high=5:384")]
pub struct NotALevel(String);

impl FromStr for LevelFlag {
    type Err = NotALevel;

    fn from_str(text: &str) -> Result<Self, NotALevel> {
        let parts = || {
            let (name, numbers) = text.split_once('=')?;
            let (percent, mib) = numbers.split_once(':')?;
            let level = Pressure::ALL.into_iter().skip(1).find(|level| level.name() == name)?;
            let percent = percent.parse().ok().filter(|percent| *percent <= 100)?;
            Some(Self { level, begins: LevelPart { available_percent: Part(percent), left_mib: mib.parse().ok()? } })
        };
        parts().ok_or_else(|| NotALevel(text.to_owned()))
    }
}

impl LevelFlag {
    const fn set(self, pressure: &mut PressurePart) {
        match self.level {
            Pressure::Low => {}
            Pressure::Moderate => pressure.moderate = self.begins,
            Pressure::High => pressure.high = self.begins,
            Pressure::Critical => pressure.critical = self.begins,
        }
    }
}

impl Arguments {
    /// The node's settings.
    ///
    /// # Errors
    /// When its name is none, or a user or group is unknown here.
    pub fn settings(&self, boot_id: String, cluster: Cluster) -> Result<Settings, Failure> {
        let config = &self.config;
        let mut over_lease = [None; 5];
        for (class, after) in &config.over_lease {
            over_lease[class.rank()] = Some(after.0);
        }
        let ceilings = config.ceilings().map_err(|(field, why)| Failure::Unknown { field, why })?;
        Ok(Settings {
            name: NodeName::new(self.node_name.clone())?,
            boot_id,
            margin: Margin { least: Mib::from_mib(config.margin.mib), percent: config.margin.percent.0 },
            policy: config.policy(),
            recovery: Recovery { quiet: config.times.health_quiet.0, ..Recovery::default() },
            cluster,
            over_lease,
            give_back: config.times.give_back.0,
            clients: Limits {
                leases: config.limits.leases,
                waiting: config.limits.waiting,
                grace: config.times.grace.0,
                kill_after: config.times.kill_after.0,
                ceilings,
                agent_user: rustix::process::geteuid().as_raw(),
            },
            relief: relief::Settings {
                act: config.pressure.act,
                may_clean: !config.pressure.clean_in.is_empty(),
                thresholds: config.pressure.thresholds(),
            },
        })
    }

    /// Who may use the socket.
    ///
    /// # Errors
    /// When its group is unknown here.
    pub fn access(&self) -> Result<Access, Failure> {
        self.config.access().map_err(|why| Failure::Unknown { field: "socket.group", why })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

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
    fn levels_of_pressure_are_given_by_name() {
        let high: LevelFlag = "high=7:500".parse().unwrap();
        let mut part = PressurePart::default();
        high.set(&mut part);
        assert_eq!(part.high, LevelPart { available_percent: Part(7), left_mib: 500 });
        for bad in ["high", "high=5", "high=5:", "low=5:1", "high=101:1", "none=1:1", ""] {
            assert!(bad.parse::<LevelFlag>().is_err(), "{bad}");
        }
        let inverted = ["x", "--standalone", "--pressure-level", "critical=50:10"];
        assert!(Flags::try_parse_from(inverted).unwrap().resolve().unwrap_err().to_string().contains("before high"));
    }

    #[test]
    fn the_margin_leaves_two_leases_room_on_a_card_of_24_gib() {
        let leasable = Margin::default().leasable(Mib::from_mib(24 * 1024), Mib::from_mib(512));
        assert_eq!(leasable, Mib::from_mib(24 * 1024 - 512 - 256));
        assert!(leasable >= Mib::from_mib(20 * 1024));
    }

    #[test]
    fn flags_go_before_the_file_and_the_file_before_the_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        std::fs::write(&path, "node-name = \"file\"\nstate-dir = \"/file\"\n[margin]\nmib = 1\npercent = 2\n").unwrap();
        let path = path.to_str().unwrap();
        let args = ["x", "--standalone", "--config", path, "--margin-mib", "9", "--run-dir", "/flag"];
        let resolved = Flags::try_parse_from(args).unwrap().resolve().unwrap();
        let config = &resolved.config;
        assert_eq!((config.margin.mib, config.margin.percent), (9, Part(2)));
        assert_eq!((config.run_dir.as_path(), config.state_dir.as_path()), (Path::new("/flag"), Path::new("/file")));
        assert_eq!(
            (resolved.node_name.as_str(), resolved.admin_address.to_string().as_str()),
            ("file", "127.0.0.1:9411")
        );
        let nameless = Flags::try_parse_from(["x"]).unwrap();
        assert!(std::env::var("NODE_NAME").is_ok() || matches!(nameless.resolve(), Err(Failure::NoName)));
    }
}
