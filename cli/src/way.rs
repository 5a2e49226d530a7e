//! Which way a word goes: by the agent's socket on this machine, or by the API server from anywhere; and how it says so. It may not know what is asked.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use memboss_agent_api::WORKLOAD_SOCKET;

use crate::agent::{EVERYWHERE, Sockets};
use crate::exit::Failure;
use crate::output::{Output, aside};

/// An API server that is there takes a connection in no time.
const PATIENCE: Duration = Duration::from_secs(10);

/// Over the options that say which cluster, and what of it.
const CLUSTER: &str = "By the API server";

/// The two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    /// The agent of this machine, by its socket.
    Socket,
    /// The cluster's API server.
    Api,
}

/// Where is asked.
#[derive(Clone, Debug, Args)]
pub(crate) struct Where {
    #[command(flatten)]
    pub(crate) sockets: Sockets,
    #[command(flatten)]
    pub(crate) cluster: Cluster,
}

/// How a cluster is reached, and what of it is asked for.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Cluster {
    /// The way that the question goes. Without: the socket if there is one here, else the API server that a kubeconfig or the pod's own account leads to; as
    /// `kubectl memboss`, the API server. `ram` (but for `ram cleanup`) and `doctor` are about this machine unless a cluster is asked for. An answer by the API server
    /// says so on the standard error, unless it is in JSON or YAML.
    #[arg(long, value_enum, global = true, help_heading = EVERYWHERE)]
    by: Option<By>,
    /// The file that leads to it, as of kubectl; without: what KUBECONFIG says, else ~/.kube/config.
    #[arg(long, value_name = "PATH", global = true, help_heading = CLUSTER)]
    kubeconfig: Option<PathBuf>,
    /// A context of that file.
    #[arg(long, value_name = "NAME", global = true, help_heading = CLUSTER)]
    context: Option<String>,
    /// Only leases of this namespace; without: of all.
    #[arg(long, short, value_name = "NAME", global = true, help_heading = CLUSTER)]
    namespace: Option<String>,
    /// Only this node.
    #[arg(long = "on", value_name = "NODE", global = true, help_heading = CLUSTER)]
    on: Option<String>,
}

/// The way that was chosen.
pub(crate) enum Way {
    /// The agent of this machine.
    Socket(Sockets),
    /// The API server.
    Api(Server),
}

/// An API server, as its user reaches it.
#[derive(Clone)]
pub(crate) struct Server {
    /// Asks it.
    pub(crate) client: Client,
    /// Whose leases; none for all.
    pub(crate) namespace: Option<String>,
    /// On which node; none for all.
    pub(crate) on: Option<String>,
    /// Its address.
    pub(crate) url: String,
    said: String,
}

impl Where {
    /// By the socket if there is one, else by the API server; or as was asked for.
    pub(crate) async fn way(&self, output: Output) -> Result<Way, Failure> {
        self.cluster.is_sane()?;
        let socket = &self.sockets.socket;
        // Who names a socket means it.
        let named = socket != Path::new(WORKLOAD_SOCKET);
        if !self.cluster.is_wanted() && (self.cluster.by.is_some() || named || is_there(socket)) {
            return Ok(Way::Socket(self.sockets.clone()));
        }
        match self.cluster.server().await {
            Ok(server) => {
                server.tell(output);
                Ok(Way::Api(server))
            }
            Err(Failure::NoAgent(said)) if !self.cluster.is_wanted() => Err(Failure::NoAgent(format!(
                "no agent is at {}: start memboss-agent, or say where it listens (--socket, --node-socket); and {said}",
                socket.display()
            ))),
            Err(failure) => Err(failure),
        }
    }

    /// The API server, if it is asked for; for words that are about this machine otherwise.
    pub(crate) async fn away(&self, output: Output) -> Result<Option<Server>, Failure> {
        self.cluster.is_sane()?;
        if !self.cluster.is_wanted() {
            return Ok(None);
        }
        let server = self.cluster.server().await?;
        server.tell(output);
        Ok(Some(server))
    }

    /// Refuses a word that needs the agent itself.
    pub(crate) fn only_here(&self, word: &str) -> Result<(), Failure> {
        if self.cluster.is_wanted() {
            return Err(Failure::Usage(format!(
                "{word} goes by the agent's socket alone: run it on the node, by the name memboss and without --by api, --kubeconfig, --context, --namespace and --on"
            )));
        }
        Ok(())
    }
}

impl Server {
    /// The same, whatever namespace was named: who empties a node is concerned with everybody there.
    pub(crate) fn of_all(&self) -> Self {
        Self { namespace: None, ..self.clone() }
    }

    fn tell(&self, output: Output) {
        if output.is_text() {
            aside(&self.said);
        }
    }
}

impl Cluster {
    /// As a plugin of kubectl it is for a cluster, unless its user says otherwise.
    pub(crate) fn called_as(&mut self, program: &OsStr) {
        let name = Path::new(program).file_name().unwrap_or_default();
        if name.to_string_lossy().starts_with("kubectl-") {
            self.by.get_or_insert(By::Api);
        }
    }

    /// Whether the API server was asked for.
    fn is_wanted(&self) -> bool {
        self.by == Some(By::Api) || (self.by.is_none() && self.is_named())
    }

    /// Whether something was said that means an API server.
    fn is_named(&self) -> bool {
        self.kubeconfig.is_some() || self.context.is_some() || self.namespace.is_some() || self.on.is_some()
    }

    fn is_sane(&self) -> Result<(), Failure> {
        if self.by == Some(By::Socket) && self.is_named() {
            let said =
                "--kubeconfig, --context, --namespace and --on mean the API server: leave them out, or --by socket";
            return Err(Failure::Usage(said.to_owned()));
        }
        Ok(())
    }

    async fn server(&self) -> Result<Server, Failure> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let (mut config, context) = match self.file()? {
            Some(file) => {
                let context = self.context.clone().or_else(|| file.current_context.clone());
                let config = Config::from_custom_kubeconfig(file, &options).await.map_err(|error| no_way(&error))?;
                (config, context)
            }
            None => (Config::incluster().map_err(|error| no_way(&error))?, None),
        };
        config.connect_timeout = Some(PATIENCE);
        let context = context.map(|name| format!(" (context {name})")).unwrap_or_default();
        let url = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let said = format!("by the API server {url}{context}");
        let client = Client::try_from(config).map_err(|error| no_way(&error))?;
        Ok(Server { client, namespace: self.namespace.clone(), on: self.on.clone(), url, said })
    }

    /// The file that leads there; none in a pod that has its own account.
    fn file(&self) -> Result<Option<Kubeconfig>, Failure> {
        if let Some(path) = &self.kubeconfig {
            return Kubeconfig::read_from(path).map(Some).map_err(|error| no_way(&error));
        }
        match Kubeconfig::read() {
            Ok(file) => Ok(Some(file)),
            Err(_) if is_in_pod() => Ok(None),
            Err(error) => Err(no_way(&error)),
        }
    }
}

/// Whether this process is one of a pod: the kubelet tells each where the API server is.
pub(crate) fn is_in_pod() -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

/// Whether there is a socket, even if not for this user.
fn is_there(socket: &Path) -> bool {
    socket.symlink_metadata().is_ok()
}

fn no_way(error: &dyn std::error::Error) -> Failure {
    Failure::NoAgent(format!("there is no way to an API server: {}; see --kubeconfig and --context", chain(error)))
}

/// What the API server refuses, as a failure of this command.
pub(crate) fn refused(error: &kube::Error) -> Failure {
    match error {
        kube::Error::Api(answer) if answer.code == 403 => Failure::NotPermitted(format!(
            "{}; the role view of a namespace reads its leases (say -n NAMESPACE), view of the whole cluster all leases and nodes",
            answer.message
        )),
        kube::Error::Api(answer) if answer.code == 401 => {
            Failure::NotPermitted("the API server does not know who you are: log in again".to_owned())
        }
        // Kinds that it does not know are told by a page, not by an object's name.
        kube::Error::Api(answer) if answer.code == 404 && answer.details.is_none() => Failure::Undone(
            "this cluster has no memboss: install its chart (helm install memboss charts/memboss)".to_owned(),
        ),
        kube::Error::Api(answer) => Failure::Undone(answer.message.clone()),
        other => Failure::NoAgent(format!("the API server does not answer: {}", chain(other))),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !said.contains(&text) {
            said.push_str(": ");
            said.push_str(&text);
        }
        cause = error.source();
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_names_a_cluster_wants_the_api_server_and_not_the_socket_too() {
        let named = Cluster { context: Some("a".into()), ..Cluster::default() };
        assert!(named.is_wanted() && !Cluster::default().is_wanted());
        let socket = Cluster { by: Some(By::Socket), ..named };
        assert!(!socket.is_wanted() && socket.is_sane().unwrap_err().to_string().contains("leave them out"));
        assert!(Cluster { by: Some(By::Socket), ..Cluster::default() }.is_sane().is_ok());
    }

    #[test]
    fn as_a_plugin_of_kubectl_it_is_for_a_cluster() {
        let called = |program: &str, by: Option<By>| {
            let mut cluster = Cluster { by, ..Cluster::default() };
            cluster.called_as(program.as_ref());
            cluster.by
        };
        assert_eq!(called("/usr/local/bin/kubectl-memboss", None), Some(By::Api));
        assert_eq!(called("kubectl-memboss", Some(By::Socket)), Some(By::Socket));
        assert_eq!(called("/usr/local/bin/memboss", None), None);
    }
}
