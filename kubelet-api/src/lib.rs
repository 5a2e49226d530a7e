//! The kubelet's two gRPC interfaces for device plugins, generated from `proto/`, and the one way to reach a socket of its.
//! It may hold no rule and no state: whoever serves or calls brings those.

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// Device plugin API v1beta1: the kubelet's `Registration` and the plugin's `DevicePlugin`.
#[allow(missing_docs, clippy::too_many_lines, reason = "generated; the proto file carries the words")]
pub mod deviceplugin {
    tonic::include_proto!("v1beta1");
}

/// Podresources API v1: which pod and container was given which device ids.
#[allow(missing_docs, clippy::too_many_lines, reason = "generated; the proto file carries the words")]
pub mod podresources {
    tonic::include_proto!("v1");
}

/// The version that a plugin registers with.
pub const VERSION: &str = "v1beta1";
/// The health of a device that the kubelet may give to a container.
pub const HEALTHY: &str = "Healthy";
/// The health of a device that the kubelet may not give to a container.
pub const UNHEALTHY: &str = "Unhealthy";
/// Where the kubelet keeps the sockets of plugins; at its start it deletes what is there.
pub const PLUGIN_DIRECTORY: &str = "/var/lib/kubelet/device-plugins";
/// The file name of the kubelet's own socket in [`PLUGIN_DIRECTORY`].
pub const REGISTRATION_SOCKET: &str = "kubelet.sock";
/// Where the kubelet serves podresources.
pub const POD_RESOURCES_SOCKET: &str = "/var/lib/kubelet/pod-resources/kubelet.sock";
/// What the kubelet may send in one podresources answer, in bytes.
pub const POD_RESOURCES_MAX_BYTES: usize = 16 * 1024 * 1024;

/// A socket of the kubelet could not be reached.
#[derive(Debug, thiserror::Error)]
#[error("failed to connect to {path:?}: is the kubelet running, and is its directory mounted here?")]
pub struct Unreachable {
    path: PathBuf,
    #[source]
    source: tonic::transport::Error,
}

/// Connects to the gRPC server that listens on the Unix socket at `path`.
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
