//! Drops cache where the node orders it, on a thread of its own: looking for files may take as long as their file system likes, and the node waits for
//! nobody. It touches the directories that were named in the configuration and nothing else, and decides nothing.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use k8s_openapi::jiff::Timestamp;
use memboss_core::{Cleaning, Mib, Span};
use memboss_ram::clean::{Ask, Mode, Outcome};
use memboss_ram::report::Machine;
use tokio::sync::mpsc;

use crate::node::Input;
use crate::node::relief::{CleanOrder, Cleaned};

/// So much later it is looked at what of it came back: before cache may be dropped again (`memboss_core::Rests`), so that this is known by then.
const CHECK_AFTER: Duration = Duration::from_secs(50);

/// What cleaning may touch.
#[derive(Clone, Debug)]
pub struct Cleaner {
    machine: Machine,
    roots: Vec<PathBuf>,
    check_after: Duration,
}

/// A cleaning that was begun.
#[derive(Debug)]
pub struct Running {
    heard: mpsc::Receiver<Input>,
    done: bool,
}

impl Cleaner {
    /// One that may touch the files below these directories, on the machine whose processes are told there.
    #[must_use]
    pub fn new(proc_root: &Path, roots: Vec<PathBuf>) -> Self {
        Self { machine: Machine { proc: proc_root.to_owned(), ..Machine::default() }, roots, check_after: CHECK_AFTER }
    }

    /// The same, and looks so much later at what came back.
    #[must_use]
    pub fn checking_after(self, check_after: Duration) -> Self {
        Self { check_after, ..self }
    }

    /// Begins; what came of it comes by itself. Whoever does not wait for it leaves it alone.
    #[must_use]
    pub fn begin(&self, order: CleanOrder) -> Running {
        let (tell, heard) = mpsc::channel(2);
        let own = self.clone();
        let spawned = std::thread::Builder::new().name("cleaner".to_owned()).spawn(move || own.run(order, &tell));
        if let Err(error) = spawned {
            tracing::error!(%error, "no thread for cleaning");
        }
        Running { heard, done: false }
    }

    /// The node may have ended meanwhile, or ordered another cleaning: nobody listens then.
    fn run(&self, order: CleanOrder, tell: &mpsc::Sender<Input>) {
        let (cleaned, outcome) = self.clean(order);
        let dropped = !cleaned.dropped.is_zero();
        if tell.blocking_send(Input::Cleaned(cleaned)).is_err() || !dropped {
            return;
        }
        std::thread::sleep(self.check_after);
        if let Some(back) = outcome.and_then(|outcome| outcome.came_back()) {
            let _ = tell.blocking_send(Input::CameBack(back));
        }
    }

    fn clean(&self, order: CleanOrder) -> (Cleaned, Option<Outcome>) {
        // A directory that is not there yet has nothing to drop, and one that cannot be read is no reason to leave the others alone.
        let roots: Vec<PathBuf> = self.roots.iter().filter(|root| is_readable(root)).cloned().collect();
        let mode = match order.how {
            Cleaning::Balanced => Mode::Balanced,
            Cleaning::Aggressive => Mode::Aggressive,
        };
        let ask = Ask { mode, roots, target: Some(order.target), dry_run: false, whole_machine: false };
        match self.machine.clean(&ask, SystemTime::now()) {
            Ok(outcome) => (told(order, &outcome), Some(outcome)),
            Err(error) => (failed(order.how, in_full(&error)), None),
        }
    }
}

fn is_readable(root: &Path) -> bool {
    let read = std::fs::read_dir(root);
    if let Err(error) = &read
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, ?root, "cannot be read: nothing is cleaned there");
    }
    read.is_ok()
}

fn told(order: CleanOrder, outcome: &Outcome) -> Cleaned {
    if outcome.unseen_processes > 0 {
        tracing::warn!(
            processes = outcome.unseen_processes,
            "may not be looked into: files of others that they may use are left alone"
        );
    }
    tracing::debug!(kept = ?outcome.kept, "files left alone");
    Cleaned {
        at: Timestamp::now().to_string(),
        how: order.how,
        dropped: outcome.dropped,
        // What is not known to be gone may never have been there.
        enough: outcome.unknown == 0 && outcome.dropped >= order.target,
        files: outcome.files.len(),
        took: Span::from_millis(u64::try_from(outcome.took.as_millis()).unwrap_or(u64::MAX)),
        available: outcome.available,
        came_back: None,
        failed: None,
    }
}

impl Running {
    /// What is heard of it next; nothing once it is over.
    pub async fn next(&mut self) -> Option<Input> {
        let heard = self.heard.recv().await;
        match heard {
            Some(_) => self.done = true,
            // Its thread could not begin, or is gone.
            None if !std::mem::replace(&mut self.done, true) => {
                return Some(Input::Cleaned(failed(Cleaning::Balanced, "no thread could do it".to_owned())));
            }
            None => {}
        }
        heard
    }
}

/// What is heard next of the cleaning that runs, if any does.
pub(crate) async fn next(cleaning: &mut Option<Running>) -> Input {
    loop {
        match cleaning {
            Some(running) => match running.next().await {
                Some(heard) => return heard,
                None => *cleaning = None,
            },
            None => std::future::pending().await,
        }
    }
}

fn failed(how: Cleaning, why: String) -> Cleaned {
    Cleaned {
        at: Timestamp::now().to_string(),
        how,
        dropped: Mib::ZERO,
        enough: false,
        files: 0,
        took: Span::ZERO,
        available: (Mib::ZERO, Mib::ZERO),
        came_back: None,
        failed: Some(why),
    }
}

fn in_full(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
