//! Notices the end of processes, at once and without looking for it, and ends those whose time is up. A process is held by a pidfd, so that another one that
//! gets its pid is never taken for it.

use std::collections::{BTreeSet, HashSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::family;
use super::processes::{Process, lives, process};
use crate::node::Input;
use crate::node::clients::{ClientInput, Push, Pushed};

/// Time between two attempts to watch a process.
const AGAIN: Duration = Duration::from_secs(1);

/// Watches processes for their end.
#[derive(Clone, Debug)]
pub struct Sentinels {
    proc_root: PathBuf,
    gone: mpsc::Sender<Input>,
    watched: Arc<Mutex<HashSet<Process>>>,
}

impl Sentinels {
    /// Tells of ends there.
    #[must_use]
    pub fn new(proc_root: PathBuf, gone: mpsc::Sender<Input>) -> Self {
        Self { proc_root, gone, watched: Arc::default() }
    }

    /// Tells when that process has ended: now, if it has already.
    pub fn watch(&self, watched: Process) {
        if !self.lock().insert(watched) {
            return;
        }
        let own = self.clone();
        tokio::spawn(async move {
            own.until_gone(watched).await;
            own.lock().remove(&watched);
            // Nobody listens any more only when all of it ends.
            drop(own.gone.send(Input::Client(ClientInput::Gone(watched))).await);
        });
    }

    /// Returns when it is gone. What cannot be watched just now, for want of descriptors or memory, is looked at again.
    async fn until_gone(&self, watched: Process) {
        loop {
            let error = match find(&self.proc_root, watched) {
                Found::Gone => return,
                Found::Unknown(error) => error,
                Found::There(descriptor) => match registered(descriptor) {
                    // It becomes readable when the process ends, and stays so.
                    Ok(descriptor) => match descriptor.readable().await {
                        Ok(_) => return,
                        Err(error) => error,
                    },
                    Err(error) => error,
                },
            };
            tracing::error!(%error, pid = watched.pid, "a process cannot be watched yet");
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<Process>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What can be told of a process.
enum Found {
    /// It is there.
    There(OwnedFd),
    /// It has ended, or another one has its pid.
    Gone,
    /// It could not be looked at: that says nothing of it.
    Unknown(std::io::Error),
}

fn find(proc_root: &Path, watched: Process) -> Found {
    let Some(pid) = i32::try_from(watched.pid).ok().and_then(Pid::from_raw) else { return Found::Gone };
    match pidfd_open(pid, PidfdFlags::NONBLOCK) {
        Ok(descriptor) => match lives(proc_root, watched) {
            Ok(true) => Found::There(descriptor),
            Ok(false) => Found::Gone,
            Err(unreadable) => Found::Unknown(std::io::Error::other(unreadable)),
        },
        Err(rustix::io::Errno::SRCH) => Found::Gone,
        Err(error) => Found::Unknown(error.into()),
    }
}

/// Asks a process to end; or ends it and all that descend from it, but for the others, which lease for themselves, and theirs; and but for this very
/// process, which somebody may have begun from within a lease.
pub fn push(proc_root: &Path, pushed: &Pushed) {
    let (members, signal) = match pushed.push {
        Push::Term => {
            (held(proc_root, pushed.process).map(|held| (pushed.process, held)).into_iter().collect(), Signal::TERM)
        }
        Push::Kill => (halted_family(proc_root, pushed.process, &pushed.others), Signal::KILL),
    };
    for (process, descriptor) in members {
        send(&descriptor, process, signal);
    }
}

/// A process and all that descend from it, standing still. Each is stopped before its children are listed: it begins no others then.
fn halted_family(proc_root: &Path, first: Process, others: &BTreeSet<Process>) -> Vec<(Process, OwnedFd)> {
    let (mut halted, mut next) = (Vec::new(), vec![first]);
    while let Some(member) = next.pop().filter(|_| halted.len() < family::FAMILY) {
        let Some(descriptor) = held(proc_root, member) else { continue };
        send(&descriptor, member, Signal::STOP);
        let children = family::children(proc_root, member.pid).into_iter().filter(|pid| *pid != std::process::id());
        next.extend(children.filter_map(|pid| process(proc_root, pid).ok()).filter(|child| !others.contains(child)));
        halted.push((member, descriptor));
    }
    halted
}

/// That process, if it is there.
fn held(proc_root: &Path, pushed: Process) -> Option<OwnedFd> {
    match find(proc_root, pushed) {
        Found::There(descriptor) => Some(descriptor),
        // It needs no push any more.
        Found::Gone => None,
        Found::Unknown(error) => {
            tracing::warn!(%error, pid = pushed.pid, "a process whose time is up cannot be looked at");
            None
        }
    }
}

fn send(descriptor: &OwnedFd, pushed: Process, signal: Signal) {
    match pidfd_send_signal(descriptor, signal) {
        // It has ended meanwhile.
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => {
            tracing::warn!(%error, pid = pushed.pid, ?signal, "a process whose time is up cannot be ended");
        }
    }
}

#[expect(unsafe_code, reason = "tokio asks for a promise about the descriptor that its type already gives")]
fn registered(descriptor: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open until it is dropped and always names the same file.
    unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }.map_err(Into::into)
}
