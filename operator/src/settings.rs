//! The operator's settings: flags, each also as an environment variable. It may only read them.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Parser, Subcommand};
use memboss_platform::log::Format;

/// Leases GPU memory over all nodes: queues, places, preempts.
#[derive(Clone, Debug, Parser)]
#[command(name = "memboss-operator", version)]
pub struct Settings {
    /// What to do; without a word: run.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The installation's namespace.
    #[arg(long, env = "POD_NAMESPACE", default_value = "memboss-system")]
    pub namespace: String,
    /// This pod's name, for events.
    #[arg(long, env = "POD_NAME", default_value = "memboss-operator")]
    pub pod_name: String,
    /// This pod's UID; with a nonce of the process it names the holder of the leadership.
    #[arg(long, env = "POD_UID", default_value = "")]
    pub pod_uid: String,
    /// The Service by which the API server and the agents reach the operator.
    #[arg(long, env = "MEMBOSS_SERVICE_NAME", default_value = "memboss-operator")]
    pub service_name: String,
    /// Where the webhook listens.
    #[arg(long, env = "MEMBOSS_WEBHOOK_ADDR", default_value = "0.0.0.0:8443")]
    pub webhook_addr: SocketAddr,
    /// Where probes and metrics are served.
    #[arg(long, env = "MEMBOSS_ADMIN_ADDR", default_value = "0.0.0.0:9400")]
    pub admin_addr: SocketAddr,
    /// Redis, as `redis://host:port`; none without.
    #[arg(long, env = "MEMBOSS_REDIS_URL")]
    pub redis_url: Option<String>,
    /// The operator's Redis user.
    #[arg(long, env = "MEMBOSS_REDIS_USERNAME", default_value = "memboss-operator")]
    pub redis_username: String,
    /// Its password.
    #[arg(long, env = "MEMBOSS_REDIS_PASSWORD", hide_env_values = true)]
    pub redis_password: Option<String>,
    /// How long ended leases are kept, in seconds.
    #[arg(long, env = "MEMBOSS_HISTORY_TTL", default_value = "3600", value_parser = seconds)]
    pub history_ttl: Duration,
    /// Text for people, JSON for machines.
    #[arg(long, env = "MEMBOSS_LOG_FORMAT", default_value = "text")]
    pub log_format: Format,
}

/// What else the operator can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Ends all leases in good order and lets their objects go; before an uninstall.
    Uninstall,
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.trim_end_matches('s')
        .parse()
        .map(Duration::from_secs)
        .map_err(|_| format!("{text:?} is not a number of seconds"))
}

impl Settings {
    /// The way to Redis, with the operator's own user.
    ///
    /// # Errors
    /// When the URL is none.
    pub fn redis(&self) -> anyhow::Result<Option<redis::Client>> {
        use redis::IntoConnectionInfo as _;
        let Some(url) = self.redis_url.as_deref().filter(|url| !url.is_empty()) else { return Ok(None) };
        let mut info = url.into_connection_info()?;
        if let Some(password) = &self.redis_password {
            let settings = info.redis_settings().clone().set_username(&self.redis_username).set_password(password);
            info = info.set_redis_settings(settings);
        }
        Ok(Some(redis::Client::open(info)?))
    }
}
