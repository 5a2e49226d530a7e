//! Notices a container runtime that has CDI switched off, which would start containers without their GPU and without an error:
//! such a runtime never opens the CDI files that we write. A runtime with CDI on opens every new file at once.
//! Somebody else may open them too, so this can miss the fault but hardly invent it; the agent's look into the container is the second check.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use memboss_platform::admin::Condition;
use memboss_platform::shutdown::Shutdown;
use rustix::fs::inotify::WatchFlags;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::cdi_directory::PREFIX;
use crate::figures::Figures;
use crate::watch::DirectoryWatch;

/// Where to announce a file that is about to be written.
#[derive(Clone, Debug)]
pub struct Witness(mpsc::UnboundedSender<String>);

/// The task behind it.
#[derive(Debug)]
pub struct Watching {
    announced: mpsc::UnboundedReceiver<String>,
    directory: PathBuf,
    patience: Duration,
    condition: Condition,
    figures: Figures,
    unread: BTreeMap<String, Instant>,
}

impl Witness {
    /// A witness and its task; files not opened within `patience` are reported.
    #[must_use]
    pub fn new(directory: &Path, patience: Duration, condition: Condition, figures: Figures) -> (Self, Watching) {
        let (sender, announced) = mpsc::unbounded_channel();
        // Until there is evidence against it, the runtime is trusted.
        condition.ready();
        let unread = BTreeMap::new();
        (Self(sender), Watching { announced, directory: directory.to_owned(), patience, condition, figures, unread })
    }

    /// `file` will be written next.
    pub fn announce(&self, file: String) {
        // When the task is gone the process is ending.
        let _ = self.0.send(file);
    }
}

impl Watching {
    /// Runs until `shutdown`.
    pub async fn run(mut self, shutdown: Shutdown) {
        let mut watch = self.watch();
        loop {
            if !watch.works() {
                // The directory comes with the first file at the latest; nothing can be said about files written before.
                self.unread.clear();
                watch = self.watch();
            }
            let due =
                self.unread.values().min().map_or(self.patience, |at| at.saturating_duration_since(Instant::now()));
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(file) = self.announced.recv() => self.expect(file),
                names = watch.next(due) => self.opened(&names),
            }
            self.report_overdue();
        }
    }

    fn watch(&self) -> DirectoryWatch {
        DirectoryWatch::new(&self.directory, WatchFlags::OPEN)
    }

    /// A container that does not start is tried again and again: that puts nothing off.
    fn expect(&mut self, file: String) {
        self.unread.entry(file).or_insert_with(|| Instant::now() + self.patience);
    }

    fn opened(&mut self, names: &[String]) {
        // A file is announced before it is written; its opening may be heard of first.
        while let Ok(file) = self.announced.try_recv() {
            self.expect(file);
        }
        for name in names.iter().filter(|name| name.starts_with(PREFIX)) {
            self.unread.remove(name);
            self.condition.ready();
        }
    }

    fn report_overdue(&mut self) {
        let now = Instant::now();
        let overdue: Vec<String> = self.unread.extract_if(.., |_, at| *at <= now).map(|(file, _)| file).collect();
        for file in overdue {
            let remedy = "no container runtime opened the CDI file of a starting container, which does not start or runs without its GPU: \
                          name this directory in containerd's cdi_spec_dirs, and switch CDI on where that can be done (enable_cdi = true)";
            tracing::error!(file, directory = ?self.directory, remedy);
            self.figures.unread_bindings.inc();
            self.condition.not_ready(format!("{file}: {remedy}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memboss_platform::admin::Readiness;

    #[test]
    fn a_file_that_was_opened_before_its_announcement_was_heard_is_no_fault() {
        let condition = Readiness::default().condition("runtime-reads-cdi");
        let (directory, patience) = (Path::new("/nowhere"), Duration::ZERO);
        let (witness, mut watching) = Witness::new(directory, patience, condition, Figures::default());
        let file = |name: &str| format!("{PREFIX}{name}.json");
        witness.announce(file("opened"));
        witness.announce(file("left"));
        watching.opened(&[file("opened")]);
        assert_eq!(watching.unread.keys().collect::<Vec<_>>(), [&file("left")]);
        let due = watching.unread[&file("left")];
        watching.patience = Duration::from_secs(600);
        watching.expect(file("left"));
        assert_eq!(watching.unread[&file("left")], due, "announced again it is not waited for anew");
    }
}
