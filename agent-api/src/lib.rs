//! The gRPC interface of a node's agent, generated from `proto/agent.proto`, and the one way to reach it over a Unix socket.
//! It may hold no rule and no state: whoever serves or calls brings those.

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// The generated messages, clients and servers of `memboss.agent.v1`.
pub mod v1 {
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        clippy::too_many_lines,
        reason = "generated; the proto file carries the words"
    )]
    tonic::include_proto!("memboss.agent.v1");
}

/// Where the agent listens for the node's root processes.
pub const NODE_SOCKET: &str = "/run/memboss/node/node.sock";
/// Where the agent listens for containers that hold a lease; its directory is what a container gets mounted.
pub const WORKLOAD_SOCKET: &str = "/run/memboss/agent/agent.sock";

/// The agent could not be reached.
#[derive(Debug, thiserror::Error)]
#[error("failed to connect to the agent at {path:?}: is memboss-agent running on this node?")]
pub struct Unreachable {
    path: PathBuf,
    #[source]
    source: tonic::transport::Error,
}

/// Connects to the agent's socket at `path`.
///
/// # Errors
/// [`Unreachable`] when nothing listens there.
pub async fn connect(path: &Path) -> Result<Channel, Unreachable> {
    let target = path.to_owned();
    // HTTP/2 wants a host-like authority; the path itself is refused.
    Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let target = target.clone();
            async move { UnixStream::connect(target).await.map(TokioIo::new) }
        }))
        .await
        .map_err(|source| Unreachable { path: path.to_owned(), source })
}

/// Speaks with the agent over a connection that somebody else made. It is made once: when it breaks, so does the channel.
///
/// # Errors
/// When whoever is at its other end does not speak the protocol.
pub async fn connect_over<C>(connection: C) -> Result<Channel, tonic::transport::Error>
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut connection = Some(TokioIo::new(connection));
    Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let made = connection.take().ok_or_else(|| std::io::Error::other("the connection to the agent broke"));
            std::future::ready(made)
        }))
        .await
}
