//! Who is at the other end of a socket, by the kernel alone: never by a name that the caller sends.

use std::path::Path;

use tonic::transport::server::UdsConnectInfo;
use tonic::{Extensions, Status};

use crate::probes::processes::{Caller, Owner, PodUid, command, identify, process};

/// The pod of the process that made the connection.
///
/// # Errors
/// `PERMISSION_DENIED`, with why.
pub(super) fn pod(extensions: &Extensions, proc_root: &Path) -> Result<PodUid, Status> {
    let pid = pid(extensions)?;
    match identify(proc_root, pid) {
        Ok(Owner::Pod(pod)) => Ok(pod),
        Ok(Owner::Other) => {
            Err(Status::permission_denied(format!("process {pid} belongs to no pod: only pods hold leases here")))
        }
        Err(error) => Err(Status::permission_denied(format!("process {pid} cannot be identified: {error}"))),
    }
}

/// The process that made the connection, its user, and its pod if it has one.
///
/// # Errors
/// `PERMISSION_DENIED`, with why.
pub(super) fn caller(extensions: &Extensions, proc_root: &Path) -> Result<Caller, Status> {
    let pid = pid(extensions)?;
    let unknown = |error| Status::permission_denied(format!("process {pid} cannot be identified: {error}"));
    let process = process(proc_root, pid).map_err(unknown)?;
    let owner = identify(proc_root, pid).map_err(unknown)?;
    let user = extensions.get::<UdsConnectInfo>().and_then(|info| info.peer_cred).map(|credentials| credentials.uid());
    let user = user.ok_or_else(|| Status::permission_denied("the kernel does not tell which user connected"))?;
    let pod = if let Owner::Pod(pod) = owner { Some(pod) } else { None };
    let command = command(proc_root, pid);
    Ok(Caller { process, user, pod, command })
}

fn pid(extensions: &Extensions) -> Result<u32, Status> {
    extensions
        .get::<UdsConnectInfo>()
        .and_then(|info| info.peer_cred)
        .and_then(|credentials| credentials.pid())
        .and_then(|pid| u32::try_from(pid).ok())
        .filter(|pid| *pid != 0)
        .ok_or_else(|| {
            Status::permission_denied(
                "the kernel does not tell which process connected: the agent must share the host's pid namespace",
            )
        })
}
