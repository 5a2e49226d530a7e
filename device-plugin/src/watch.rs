//! Notices changes in a directory: by inotify, and by looking every so often where inotify is not to be had or misses something.
//! It says only *that* something happened and the names; what it means is the caller's.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

/// Room for one batch of events; a longer queue is read in several.
const BUFFER_BYTES: usize = 4096;

/// A watched directory.
#[derive(Debug)]
pub struct DirectoryWatch {
    events: Option<AsyncFd<OwnedFd>>,
}

impl DirectoryWatch {
    /// Watches `directory` for `kinds`; if that cannot be, only time passes.
    #[must_use]
    pub fn new(directory: &Path, kinds: WatchFlags) -> Self {
        let events = open(directory, kinds)
            .inspect_err(|error| tracing::debug!(?directory, %error, "no inotify here; looking now and then instead"))
            .ok();
        Self { events }
    }

    /// Whether events come at all.
    #[must_use]
    pub fn works(&self) -> bool {
        self.events.is_some()
    }

    /// The names that something happened to; empty when `at_most` passed first.
    pub async fn next(&mut self, at_most: Duration) -> Vec<String> {
        let Some(events) = &self.events else {
            tokio::time::sleep(at_most).await;
            return Vec::new();
        };
        match tokio::time::timeout(at_most, events.readable()).await {
            Ok(Ok(mut ready)) => {
                let names = drain(events.get_ref());
                ready.clear_ready();
                names
            }
            Ok(Err(_)) => {
                self.events = None;
                Vec::new()
            }
            Err(_) => Vec::new(),
        }
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe, for descriptors that are closed elsewhere; this one is owned and stays inside"
)]
fn open(directory: &Path, kinds: WatchFlags) -> io::Result<AsyncFd<OwnedFd>> {
    let descriptor = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    inotify::add_watch(&descriptor, directory, kinds)?;
    AsyncFd::new(descriptor)
}

/// Everything queued; the descriptor does not block.
fn drain(descriptor: &OwnedFd) -> Vec<String> {
    let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
    let mut reader = inotify::Reader::new(descriptor, &mut buffer);
    let mut names = Vec::new();
    while let Ok(event) = reader.next() {
        names.push(event.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned()));
    }
    names
}
