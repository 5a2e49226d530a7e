//! Notices the end of processes, at once and without looking for it, and ends those whose time is up. A process is held by a pidfd, so that another one that
//! gets its pid is never taken for it.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::processes::{Process, process};
use crate::node::Input;
use crate::node::clients::{ClientInput, Push};

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
            if let Some(descriptor) = open(&own.proc_root, watched) {
                match registered(descriptor) {
                    // It becomes readable when the process ends, and stays so.
                    Ok(descriptor) => drop(descriptor.readable().await),
                    Err(error) => tracing::error!(%error, pid = watched.pid, "a process cannot be watched"),
                }
            }
            own.lock().remove(&watched);
            // Nobody listens any more only when all of it ends.
            drop(own.gone.send(Input::Client(ClientInput::Gone(watched))).await);
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<Process>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Its descriptor; nothing if it has ended, or another one has its pid.
fn open(proc_root: &Path, watched: Process) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(watched.pid).ok()?)?;
    let descriptor = pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?;
    process(proc_root, watched.pid).is_ok_and(|there| there == watched).then_some(descriptor)
}

/// Asks a process to end, or ends it.
pub fn push(proc_root: &Path, pushed: Process, push: Push) {
    let signal = match push {
        Push::Term => Signal::TERM,
        Push::Kill => Signal::KILL,
    };
    // One that has ended meanwhile needs no push.
    let Some(descriptor) = open(proc_root, pushed) else { return };
    if let Err(error) = pidfd_send_signal(descriptor, signal) {
        tracing::warn!(%error, pid = pushed.pid, ?push, "a process whose time is up cannot be ended");
    }
}

#[expect(unsafe_code, reason = "tokio asks for a promise about the descriptor that its type already gives")]
fn registered(descriptor: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open until it is dropped and always names the same file.
    unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }.map_err(Into::into)
}
