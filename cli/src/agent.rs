//! The way to the agent: its two sockets, how long an answer may take, and what its refusals mean for whoever sits at the command line.
//! It may not know what is asked.

use std::error::Error as _;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use memboss_agent_api::v1::leases_client::LeasesClient;
use memboss_agent_api::v1::node_client::NodeClient;
use memboss_agent_api::v1::{MachinesRequest, StatusRequest, StatusResponse};
use memboss_agent_api::{NODE_SOCKET, Unreachable, WORKLOAD_SOCKET};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::exit::Failure;
use crate::way::is_in_pod;

/// An agent that is well answers in milliseconds; one that has just begun looks at its GPUs first.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long until an agent that has just begun is asked again.
const AGAIN: Duration = Duration::from_millis(50);

/// Over the options that every command has.
pub(crate) const EVERYWHERE: &str = "With every command";

/// Where the agent listens.
#[derive(Clone, Debug, Args)]
pub(crate) struct Sockets {
    /// The agent's socket for everybody.
    #[arg(long, env = "MEMBOSS_SOCKET", value_name = "PATH", default_value = WORKLOAD_SOCKET, global = true, help_heading = EVERYWHERE)]
    pub(crate) socket: PathBuf,
    /// The agent's socket for what only root may: drain, cleanup, preempt.
    #[arg(long, env = "MEMBOSS_NODE_SOCKET", value_name = "PATH", default_value = NODE_SOCKET, global = true, help_heading = EVERYWHERE)]
    pub(crate) node_socket: PathBuf,
}

impl Sockets {
    /// What everybody may ask.
    pub(crate) async fn leases(&self) -> Result<LeasesClient<Channel>, Failure> {
        connect(&self.socket).await.map(LeasesClient::new)
    }

    /// The machine as it stands.
    pub(crate) async fn status(&self) -> Result<StatusResponse, Failure> {
        let agent = self.leases().await?;
        let asked = || {
            let mut agent = agent.clone();
            async move { agent.status(StatusRequest {}).await }
        };
        begun(&self.socket, asked).await
    }

    /// The whole name of a lease that is named by what follows its owner: `nightly` for `user-1000/nightly`. What nobody is called is left to the agent.
    pub(crate) async fn whole_name(&self, named: String) -> Result<String, Failure> {
        if named.contains('/') {
            return Ok(named);
        }
        let leases = self.status().await?.leases;
        called(&named, leases.iter().map(|lease| lease.lease.as_str()))
    }

    /// The agent of this machine, for what only root may ask.
    pub(crate) async fn steer(&self) -> Result<Steered, Failure> {
        Ok(Steered { agent: self.node().await?, at: self.node_socket.clone() })
    }

    /// The machines that share a server with this one.
    pub(crate) async fn machines(&self) -> Result<Vec<StatusResponse>, Failure> {
        let mut agent = self.leases().await?;
        Ok(answer(&self.socket, agent.machines(MachinesRequest {})).await?.machines)
    }

    /// What only root may ask.
    pub(crate) async fn node(&self) -> Result<NodeClient<Channel>, Failure> {
        connect(&self.node_socket).await.map(NodeClient::new)
    }
}

/// An agent that is asked what only root may.
#[derive(Debug)]
pub(crate) struct Steered {
    /// Asks it.
    pub(crate) agent: NodeClient<Channel>,
    /// Where it is: for what is said of its failures.
    pub(crate) at: PathBuf,
}

/// The one of those that is called so below its owner.
fn called<'a>(named: &str, leases: impl Iterator<Item = &'a str>) -> Result<String, Failure> {
    let so = leases.filter(|lease| lease.rsplit_once('/').is_some_and(|(_, name)| name == named));
    match so.collect::<Vec<_>>().as_slice() {
        [] => Ok(named.to_owned()),
        [only] => Ok((*only).to_owned()),
        several => {
            Err(Failure::Usage(format!("several leases are called {named}: say which of {}", several.join(", "))))
        }
    }
}

/// The way to whoever listens there.
pub(crate) async fn connect(socket: &Path) -> Result<Channel, Failure> {
    let connected = tokio::time::timeout(PATIENCE, memboss_agent_api::connect(socket)).await;
    connected.map_err(|_| silent(socket))?.map_err(|error| unreachable(socket, &error))
}

/// The answer to one question, in time.
pub(crate) async fn answer<T>(
    socket: &Path,
    asked: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Failure> {
    let answer = tokio::time::timeout(PATIENCE, asked).await.map_err(|_| silent(socket))?;
    answer.map(Response::into_inner).map_err(|status| refused(socket, &status))
}

/// The answer of an agent that may have just begun: it is asked again while it says that it is not there yet.
pub(crate) async fn begun<T, A: Future<Output = Result<Response<T>, Status>>>(
    socket: &Path,
    mut asked: impl FnMut() -> A,
) -> Result<T, Failure> {
    let until_begun = async {
        loop {
            match asked().await {
                Err(status) if status.code() == Code::Unavailable => tokio::time::sleep(AGAIN).await,
                answered => return answered,
            }
        }
    };
    answer(socket, until_begun).await
}

fn silent(socket: &Path) -> Failure {
    Failure::NoAgent(format!(
        "the agent at {} does not answer: memboss doctor tells what is wrong with this machine",
        socket.display()
    ))
}

/// What the system says about a socket that cannot be used.
pub(crate) fn cause(error: &Unreachable) -> Option<ErrorKind> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        cause = error.source();
    }
    None
}

fn unreachable(socket: &Path, error: &Unreachable) -> Failure {
    let at = socket.display();
    match cause(error) {
        Some(ErrorKind::PermissionDenied) => {
            Failure::NotPermitted(format!("{at} is not for this user: ask again as root (sudo memboss …)"))
        }
        Some(ErrorKind::NotFound) if is_in_pod() => Failure::NoAgent(format!(
            "no agent is at {at}: a pod that leases in code is annotated memboss.dev/agent=true when it is made; what only root may is asked by the API server (--by api)"
        )),
        Some(ErrorKind::NotFound) => Failure::NoAgent(format!(
            "no agent is at {at}: start memboss-agent, or say where it listens (--socket, --node-socket)"
        )),
        Some(ErrorKind::ConnectionRefused) => {
            Failure::NoAgent(format!("the agent that was at {at} has ended: start memboss-agent again"))
        }
        _ => Failure::NoAgent(format!("no agent can be reached at {at}: memboss doctor tells why")),
    }
}

/// A refusal, as a failure of this command.
pub(crate) fn refused(socket: &Path, status: &Status) -> Failure {
    let said = status.message().to_owned();
    let at = socket.display();
    match status.code() {
        Code::ResourceExhausted | Code::DeadlineExceeded => Failure::NotGranted(said),
        Code::PermissionDenied => Failure::NotPermitted(said),
        Code::InvalidArgument => Failure::Usage(said),
        Code::Unavailable => Failure::NoAgent(format!("the agent at {at} is ending or has just begun: {said}")),
        Code::Unimplemented => Failure::Undone(format!(
            "the agent at {at} does not know this question: it is older than this command; upgrade memboss-agent"
        )),
        Code::Unknown | Code::Internal | Code::Cancelled if said.contains("transport") || said.contains("h2") => {
            Failure::NoAgent(format!("the connection to the agent at {at} broke: ask again"))
        }
        _ => Failure::Undone(said),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_found_by_what_follows_its_owner_if_only_one_is_called_so() {
        let leases = ["user-0/nightly", "user-7/nightly", "user-7/train", "user-7/train-2"];
        let name = |named| called(named, leases.into_iter()).map_err(|failure| failure.to_string());
        assert_eq!(name("train").as_deref(), Ok("user-7/train"));
        assert_eq!(name("unheard"), Ok("unheard".to_owned()));
        let several = name("nightly").unwrap_err();
        assert!(several.contains("user-0/nightly, user-7/nightly"), "{several}");
    }
}
