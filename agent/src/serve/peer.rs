//! Who is at the other end of a socket, by the kernel alone: never by a name that the caller sends. It is found out once, when the connection comes in,
//! and holds for that process only: a connection that outlives it is nobody's.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::UCred;
use tokio::net::{UnixListener, UnixStream};
use tonic::transport::server::Connected;
use tonic::{Extensions, Status};

use super::gate::{Gate, Place};
use super::turns::{Asking, Turn};
use crate::probes::Unreadable;
use crate::probes::processes::{Caller, Owner, PodUid, command, identify, process, standing};

/// After a connection could not be taken in, for want of descriptors most likely, others have so long to end.
const PAUSE: Duration = Duration::from_millis(50);

/// A connection, with who made it.
pub(super) struct Peer {
    stream: UnixStream,
    known: Known,
    _place: Place,
}

/// Who made a connection, or why that cannot be told.
#[derive(Clone, Debug)]
pub(super) struct Known {
    who: Arc<Result<Held, String>>,
    /// What its owner asks.
    pub(super) asking: Asking,
}

/// A process that is known, and held by a descriptor: while that shows it alive, nobody else has its pid.
#[derive(Debug)]
struct Held {
    caller: Caller,
    process: OwnedFd,
}

/// The connections to a socket; one owner has only so many at once, and what is above is closed again.
pub(super) fn connections(
    listener: UnixListener,
    proc_root: Arc<Path>,
    gate: Gate,
) -> impl Stream<Item = std::io::Result<Peer>> {
    futures::stream::unfold((listener, proc_root, gate), |(listener, proc_root, gate)| async move {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be taken in");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let known = who(&stream, &proc_root);
            let owner = known.as_ref().map_or_else(|_| String::new(), |held| held.caller.owner());
            let Some(place) = gate.enter(&owner) else {
                tracing::debug!(owner, "has as many connections as anybody may");
                continue;
            };
            let known = Known { who: Arc::new(known), asking: place.asking.clone() };
            let peer = Peer { stream, known, _place: place };
            return Some((Ok(peer), (listener, proc_root, gate)));
        }
    })
}

/// Who made the connection. A descriptor of the process, taken first and still alive at the end, shows that its pid was not given to another in between.
fn who(stream: &UnixStream, proc_root: &Path) -> Result<Held, String> {
    let credentials = stream.peer_cred().map_err(|error| format!("the kernel does not tell who connected: {error}"))?;
    let pid = credentials
        .pid()
        .and_then(|pid| u32::try_from(pid).ok())
        .filter(|pid| *pid != 0)
        .ok_or("the kernel does not tell which process connected: the agent must share the host's pid namespace")?;
    let ended = || format!("process {pid} has ended");
    let held = match descriptor(stream, pid) {
        Ok(held) => held,
        // As kernels say it, each in its own way.
        Err(Errno::ESRCH | Errno::ENODATA | Errno::EINVAL) => return Err(ended()),
        Err(error) => return Err(format!("process {pid} cannot be identified: {}", error.desc())),
    };
    let caller = identified(proc_root, pid, &credentials);
    // What cannot be read of one that has ended is no news of `/proc`.
    if !lives(&held) {
        return Err(ended());
    }
    let caller = caller.map_err(|error| format!("process {pid} cannot be identified: {error}"))?;
    Ok(Held { caller, process: held })
}

fn identified(proc_root: &Path, pid: u32, credentials: &UCred) -> Result<Caller, Unreadable> {
    let (groups, contained) = standing(proc_root, pid, credentials.gid())?;
    Ok(Caller {
        process: process(proc_root, pid)?,
        user: credentials.uid(),
        groups,
        contained,
        pod: match identify(proc_root, pid)? {
            Owner::Pod(pod) => Some(pod),
            Owner::Other => None,
        },
        command: command(proc_root, pid),
    })
}

/// Whether that process has not ended. A signal to the agent breaks the call off, also one that waits for nothing: that says nothing of the process.
fn lives(process: &OwnedFd) -> bool {
    let look = || poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&Timespec::default()));
    rustix::io::retry_on_intr(look) == Ok(0)
}

/// Holds the process that connected; by its pid where the kernel is too old to tell (before 6.5).
fn descriptor(stream: &UnixStream, pid: u32) -> Result<OwnedFd, Errno> {
    match getsockopt(&stream.as_fd(), sockopt::PeerPidfd) {
        Err(Errno::ENOPROTOOPT) => {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::ESRCH)?;
            pidfd_open(pid, PidfdFlags::empty()).map_err(|error| Errno::from_raw(error.raw_os_error()))
        }
        other => other,
    }
}

#[cfg(test)]
impl Known {
    /// Somebody of an owner who asks that.
    pub(super) fn with(asking: Asking) -> Self {
        Self { who: Arc::new(Err("nobody connected".to_owned())), asking }
    }
}

impl Connected for Peer {
    type ConnectInfo = Known;

    fn connect_info(&self) -> Known {
        self.known.clone()
    }
}

impl AsyncRead for Peer {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Peer {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The pod of the process that made the connection, once it is its owner's turn.
///
/// # Errors
/// `PERMISSION_DENIED`, with why.
pub(super) async fn pod(extensions: &Extensions) -> Result<(PodUid, Turn), Status> {
    let (caller, turn) = caller(extensions).await?;
    let pid = caller.process.pid;
    let pod = caller.pod.ok_or_else(|| {
        Status::permission_denied(format!("process {pid} belongs to no pod: only pods hold leases here"))
    })?;
    Ok((pod, turn))
}

/// The process that made the connection, its user, and its pod if it has one, once it is its owner's turn.
///
/// # Errors
/// `PERMISSION_DENIED`, with why.
pub(super) async fn caller(extensions: &Extensions) -> Result<(Caller, Turn), Status> {
    let known = extensions.get::<Known>().ok_or_else(|| Status::permission_denied("nobody knows who connected"))?;
    let turn = known.asking.turn().await;
    let held = known.who.as_ref().as_ref().map_err(|why| Status::permission_denied(why.clone()))?;
    // Its connection may have been left to another process.
    if lives(&held.process) {
        Ok((held.caller.clone(), turn))
    } else {
        let pid = held.caller.process.pid;
        Err(Status::permission_denied(format!("process {pid}, which made this connection, has ended: connect again")))
    }
}
