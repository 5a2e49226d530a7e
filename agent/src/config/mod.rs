//! The agent's configuration file: what it may say, what holds where it says nothing, and what is wrong with it, by line and field. Flags go before it;
//! `settings.rs` puts both together.

mod names;
mod pressure;
mod values;
mod wrong;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use memboss_core::{Class, Policy, Span};
use serde::{Deserialize, Serialize};

use crate::node::Margin;
use crate::node::clients::{Ceilings, Limits};
use crate::serve::{Access, Quota};

pub use pressure::{LevelPart, PressurePart};
pub use values::{Mode, Part, Time};
pub use wrong::Wrong;

/// All that the file may say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// This machine's name; its host name if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// On tmpfs: the ledger and the sockets.
    pub run_dir: PathBuf,
    /// On persistent disk: which boot was the last.
    pub state_dir: PathBuf,
    /// NVML's library; the system's if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvml_library: Option<PathBuf>,
    /// Where probes and metrics are served; port 9411 of this machine alone if not given, of all addresses on a node of a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_address: Option<SocketAddr>,
    /// A Redis-compatible server that several machines share to see one another, with its credentials; none if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis_url: Option<String>,
    /// What of each GPU is never leased.
    pub margin: MarginPart,
    /// Who may use the socket.
    pub socket: SocketPart,
    /// What one user or pod may have at once.
    pub limits: LimitsPart,
    /// How long things may take.
    pub times: TimesPart,
    /// Before a lease of that class has been held for so long, nobody takes it.
    pub protection: ProtectionPart,
    /// How long a holder has from its notice on, by the class of whoever needs its memory.
    pub notice: NoticePart,
    /// After so long above its lease a holder of that class is ended; never where nothing is said.
    pub over_lease: BTreeMap<Class, Time>,
    /// What is done about RAM under pressure.
    pub pressure: PressurePart,
    /// The highest class that somebody may ask for.
    pub classes: ClassesPart,
}

/// What of each GPU is never leased: the larger of both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct MarginPart {
    /// In MiB.
    pub mib: u64,
    /// In percent of its memory.
    pub percent: Part,
}

/// Who may use the socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct SocketPart {
    /// The group of the socket; the agent's own if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Who may connect.
    pub mode: Mode,
}

/// What one user or pod may have at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LimitsPart {
    /// Leases, those that wait included.
    pub leases: usize,
    /// Leases that wait.
    pub waiting: usize,
    /// Connections to the socket.
    pub connections: usize,
    /// Streams that tell the state of the machine.
    pub watchers: usize,
}

/// How long things may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TimesPart {
    /// A lease whose connection broke can be taken up again for so long.
    pub grace: Time,
    /// A process that was asked to end (SIGTERM) is killed after so long.
    pub kill_after: Time,
    /// A holder that said that it gives memory back has so long to do it.
    pub give_back: Time,
    /// A class that has waited so much longer stands level with the next one in the queue.
    pub aging: Time,
    /// After an error a GPU counts as well again when it has been quiet for so long.
    pub health_quiet: Time,
}

/// By the class of the holder. URGENT is never taken from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the classes' names say it")]
pub struct ProtectionPart {
    pub batch: Time,
    pub low: Time,
    pub normal: Time,
    pub high: Time,
}

/// By the class of whoever needs the memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the classes' names say it")]
pub struct NoticePart {
    pub batch: Time,
    pub low: Time,
    pub normal: Time,
    pub high: Time,
    pub urgent: Time,
    /// The most that a holder may wish for.
    pub limit: Time,
}

/// The highest class that somebody may ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ClassesPart {
    /// Whoever nothing else is said of, and every pod.
    pub everybody: Class,
    /// Root.
    pub root: Class,
    /// Single users, by name or number: this goes before all else.
    pub users: BTreeMap<String, Class>,
    /// Groups, by name or number: the highest of those that a user is in.
    pub groups: BTreeMap<String, Class>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_name: None,
            run_dir: "/run/memboss".into(),
            state_dir: "/var/lib/memboss".into(),
            nvml_library: None,
            admin_address: None,
            redis_url: None,
            margin: MarginPart::default(),
            socket: SocketPart::default(),
            limits: LimitsPart::default(),
            times: TimesPart::default(),
            protection: ProtectionPart::default(),
            notice: NoticePart::default(),
            over_lease: BTreeMap::new(),
            pressure: PressurePart::default(),
            classes: ClassesPart::default(),
        }
    }
}

impl Default for MarginPart {
    fn default() -> Self {
        let margin = Margin::default();
        Self { mib: margin.least.mib(), percent: Part(margin.percent) }
    }
}

impl Default for SocketPart {
    fn default() -> Self {
        Self { group: None, mode: Mode(Access::default().mode) }
    }
}

impl Default for LimitsPart {
    fn default() -> Self {
        let (limits, quota) = (Limits::default(), Quota::default());
        Self {
            leases: limits.leases,
            waiting: limits.waiting,
            connections: quota.connections,
            watchers: quota.watchers,
        }
    }
}

impl Default for TimesPart {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            grace: Time(limits.grace),
            kill_after: Time(limits.kill_after),
            give_back: Time::secs(60),
            aging: Time(Policy::default().aging_per_class),
            health_quiet: Time::secs(60),
        }
    }
}

impl Default for ProtectionPart {
    fn default() -> Self {
        let [batch, low, normal, high, _] = Policy::default().protection.map(Time);
        Self { batch, low, normal, high }
    }
}

impl Default for NoticePart {
    fn default() -> Self {
        let policy = Policy::default();
        let [batch, low, normal, high, urgent] = policy.notice.map(Time);
        Self { batch, low, normal, high, urgent, limit: Time(policy.notice_limit) }
    }
}

impl Default for ClassesPart {
    fn default() -> Self {
        let ceilings = Ceilings::default();
        Self { everybody: ceilings.everybody, root: ceilings.root, users: BTreeMap::new(), groups: BTreeMap::new() }
    }
}

impl Config {
    /// Reads the file and checks it.
    ///
    /// # Errors
    /// [`Wrong`], with the line, the field, and what is allowed.
    pub fn read(path: &Path) -> Result<Self, Wrong> {
        let text =
            std::fs::read_to_string(path).map_err(|source| Wrong::Unreadable { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Reads the text of the file at that path and checks it.
    ///
    /// # Errors
    /// [`Wrong`], with the line, the field, and what is allowed.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Wrong> {
        let deserializer = toml::Deserializer::parse(text).map_err(|error| Wrong::syntax(path, text, &error))?;
        let config: Self =
            serde_path_to_error::deserialize(deserializer).map_err(|error| Wrong::field(path, text, &error))?;
        config.check().map_err(|(field, why)| Wrong::value(path, text, field, why))?;
        Ok(config)
    }

    /// What no single value shows: the field, and what is wrong with it.
    fn check(&self) -> Result<(), (&'static str, String)> {
        let counts = [
            ("limits.leases", self.limits.leases),
            ("limits.waiting", self.limits.waiting),
            ("limits.connections", self.limits.connections),
            ("limits.watchers", self.limits.watchers),
        ];
        if let Some((field, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return Err((field, "0 lets nobody in: 1 or more is allowed".to_owned()));
        }
        if self.times.grace.0 == Span::ZERO {
            return Err(("times.grace", "without any, a restart of the agent would end every lease".to_owned()));
        }
        self.pressure.check()?;
        self.access().map_err(|why| ("socket.group", why))?;
        self.ceilings().map(drop)
    }

    /// What it says, as a file would.
    ///
    /// # Errors
    /// When a path is no text.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }

    /// Who may use the socket.
    ///
    /// # Errors
    /// When there is no such group.
    pub fn access(&self) -> Result<Access, String> {
        let group = self.socket.group.as_deref().map(names::group).transpose()?;
        Ok(Access { group, mode: self.socket.mode.0 })
    }

    /// What one user or pod may have of the socket.
    #[must_use]
    pub const fn quota(&self) -> Quota {
        Quota { connections: self.limits.connections, watchers: self.limits.watchers }
    }

    /// Who may ask for which class.
    ///
    /// # Errors
    /// The field, and what is wrong: no such user or group.
    pub fn ceilings(&self) -> Result<Ceilings, (&'static str, String)> {
        let classes = &self.classes;
        let users = classes.users.iter().map(|(name, class)| Ok((names::user(name)?, *class)));
        let groups = classes.groups.iter().map(|(name, class)| Ok((names::group(name)?, *class)));
        Ok(Ceilings {
            everybody: classes.everybody,
            root: classes.root,
            users: users.collect::<Result<_, String>>().map_err(|why| ("classes.users", why))?,
            groups: groups.collect::<Result<_, String>>().map_err(|why| ("classes.groups", why))?,
        })
    }

    /// The numbers of the rules.
    #[must_use]
    pub fn policy(&self) -> Policy {
        let (protection, notice) = (&self.protection, &self.notice);
        let rest = Policy::default();
        Policy {
            aging_per_class: self.times.aging.0,
            protection: [
                protection.batch.0,
                protection.low.0,
                protection.normal.0,
                protection.high.0,
                rest.protection[Class::Urgent.rank()],
            ],
            notice: [notice.batch, notice.low, notice.normal, notice.high, notice.urgent].map(|time| time.0),
            notice_limit: notice.limit.0,
            ..rest
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
