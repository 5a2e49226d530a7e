//! The agent's two Unix sockets: `Node` for root's own processes on the node, `Workload` for containers that hold a lease. They translate between
//! messages and the node's task; they decide nothing.

mod admin_words;
mod gate;
mod leases_service;
mod leases_words;
mod message;
mod node_service;
mod peer;
mod turns;
mod veil;
mod workload_service;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use memboss_agent_api::v1::leases_server::LeasesServer;
use memboss_agent_api::v1::node_server::NodeServer;
use memboss_agent_api::v1::workload_server::WorkloadServer;
use memboss_platform::shutdown::Shutdown;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::Status;
use tonic::transport::Server;

use self::gate::Gate;
use self::turns::Crowd;
use crate::neighbours::Neighbours;
use crate::node::view::Snapshot;
use crate::node::{Denied, Input};
use memboss_core::Refused;

/// What both services need of the node's task.
#[derive(Clone, Debug)]
pub struct Desk {
    /// Where questions go.
    pub inputs: mpsc::Sender<Input>,
    /// What was published last.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Where processes are looked up.
    pub proc_root: PathBuf,
    /// The machines that share a Redis-compatible server with this one, if it has one.
    pub neighbours: Option<Arc<Neighbours>>,
}

impl Desk {
    /// The node as it is once all that the caller asked before is done.
    async fn shown(&self) -> Result<Arc<Snapshot>, Status> {
        let (viewer, shown) = oneshot::channel();
        self.inputs.send(Input::Show(viewer)).await.map_err(|_| ending())?;
        let snapshot = shown.await.map_err(|_| ending())?;
        if snapshot.is_known() {
            Ok(snapshot)
        } else {
            Err(Status::unavailable("the agent has not looked at its GPUs yet"))
        }
    }
}

/// A machine as others are shown it, without its leases.
#[must_use]
pub fn figures(snapshot: &Snapshot) -> memboss_agent_api::v1::StatusResponse {
    message::figures(snapshot)
}

/// A socket could not be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// It cannot be made.
    #[error("failed to listen on {path:?}: is the directory writable, and is no other agent running?")]
    Listen {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It ended by itself.
    #[error("failed to go on serving {path:?}")]
    Serve {
        /// Where.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: tonic::transport::Error,
    },
}

/// No request of a process is larger.
const LARGEST_MESSAGE: usize = 64 * 1024;

/// No message to it has more parts of one kind, so that what must be remembered of a request stays small.
const MOST_PARTS: usize = 64;

/// Whom a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// The node's own root processes.
    Root,
    /// Any container that has its directory, and those users of the machine whom its file lets in.
    Containers(Access),
}

/// Who of the machine's users is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The group of the socket; the agent's own without.
    pub group: Option<u32>,
    /// The mode of the socket.
    pub mode: u32,
}

impl Default for Access {
    /// Everybody: who asks is known by the kernel, and may change only what is its own.
    fn default() -> Self {
        Self { group: None, mode: 0o666 }
    }
}

/// What one user or pod may have of the socket at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Connections.
    pub connections: usize,
    /// Streams that tell the state of the machine.
    pub watchers: usize,
}

impl Default for Quota {
    /// More than anybody needs, and few enough that one user cannot take all descriptors.
    fn default() -> Self {
        Self { connections: 4096, watchers: 64 }
    }
}

/// Makes a socket, in the place of one that an earlier agent left.
///
/// # Errors
/// [`Failure::Listen`].
pub fn listen(path: &Path, audience: Audience) -> Result<UnixListener, Failure> {
    let failed = |source| Failure::Listen { path: path.to_owned(), source };
    let (directory_mode, socket_mode) = match audience {
        Audience::Root => (0o700, 0o600),
        Audience::Containers(access) => (0o755, access.mode),
    };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(failed)?;
        std::fs::set_permissions(directory, PermissionsExt::from_mode(directory_mode)).map_err(failed)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    if let Audience::Containers(Access { group: Some(group), .. }) = audience {
        std::os::unix::fs::chown(path, None, Some(group)).map_err(failed)?;
    }
    std::fs::set_permissions(path, PermissionsExt::from_mode(socket_mode)).map_err(failed)?;
    Ok(listener)
}

/// Serves the service `Node` until `shutdown`.
///
/// # Errors
/// [`Failure::Serve`].
pub async fn node(listener: UnixListener, path: PathBuf, desk: Desk, shutdown: Shutdown) -> Result<(), Failure> {
    let service = NodeServer::new(node_service::Service { desk, shutdown: shutdown.clone() });
    Server::builder()
        .add_service(service)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), shutdown.cancelled_owned())
        .await
        .map_err(|source| Failure::Serve { path, source })
}

/// Serves the services `Workload` and `Leases` until `shutdown`.
///
/// # Errors
/// [`Failure::Serve`].
pub async fn workload(
    listener: UnixListener,
    path: PathBuf,
    desk: Desk,
    quota: Quota,
    shutdown: Shutdown,
) -> Result<(), Failure> {
    let peers = peer::connections(listener, desk.proc_root.as_path().into(), Gate::new(quota.connections));
    let leases = leases_service::Service {
        desk: desk.clone(),
        shutdown: shutdown.clone(),
        watchers: Gate::new(quota.watchers),
        connections: AtomicU64::default(),
    };
    let service = workload_service::Service { desk, shutdown: shutdown.clone() };
    Server::builder()
        .layer(Crowd)
        // More than one owner may have of leases: each that is held through it is a stream, and giving one back is another.
        .max_concurrent_streams(4096)
        .http2_max_header_list_size(16 * 1024)
        .add_service(WorkloadServer::new(service).max_decoding_message_size(LARGEST_MESSAGE))
        .add_service(LeasesServer::new(leases).max_decoding_message_size(LARGEST_MESSAGE))
        .serve_with_incoming_shutdown(peers, shutdown.cancelled_owned())
        .await
        .map_err(|source| Failure::Serve { path, source })
}

/// A refusal in gRPC's words.
fn status(denied: &Denied) -> Status {
    let message = denied.to_string();
    match denied {
        Denied::NotFound(_) => Status::not_found(message),
        Denied::NotNow(_) => Status::failed_precondition(message),
        Denied::TimedOut(_) => Status::deadline_exceeded(message),
        Denied::BadRequest(_) => Status::invalid_argument(message),
        Denied::WouldWait(_) | Denied::TooMany(_) => Status::resource_exhausted(message),
        Denied::NotYours(_) => Status::permission_denied(message),
        Denied::Refused(refused) => match refused {
            Refused::NoRoom { .. } => Status::resource_exhausted(message),
            Refused::UnknownLease(_) => Status::not_found(message),
            Refused::Grows { .. } | Refused::MisfitPlacement { .. } | Refused::AsksNothing => {
                Status::invalid_argument(message)
            }
            _ => Status::failed_precondition(message),
        },
    }
}

fn ending() -> Status {
    Status::unavailable("the agent is ending: connect again")
}
