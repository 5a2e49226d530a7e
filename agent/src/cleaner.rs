//! Drops cache where the node orders it, on a thread of its own: looking for files may take as long as their file system likes, and the node waits for
//! nobody. It touches the directories that were named in the configuration and nothing else, and decides nothing.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use k8s_openapi::jiff::Timestamp;
use memboss_core::{Cleaning, Mib, Span};
use memboss_ram::clean::{Ask, Mode, Outcome};
use memboss_ram::report::Machine;
use tokio::sync::oneshot;

use crate::node::relief::{CleanOrder, Cleaned};

/// What cleaning may touch.
#[derive(Clone, Debug)]
pub struct Cleaner {
    machine: Machine,
    roots: Vec<PathBuf>,
}

impl Cleaner {
    /// One that may touch the files below these directories, on the machine whose processes are told there.
    #[must_use]
    pub fn new(proc_root: &Path, roots: Vec<PathBuf>) -> Self {
        Self { machine: Machine { proc: proc_root.to_owned(), ..Machine::default() }, roots }
    }

    /// Begins; what came of it comes by itself. Whoever does not wait for it leaves it alone.
    #[must_use]
    pub fn begin(&self, order: CleanOrder) -> oneshot::Receiver<Cleaned> {
        let (done, outcome) = oneshot::channel();
        let own = self.clone();
        let spawned = std::thread::Builder::new().name("cleaner".to_owned()).spawn(move || {
            // The node may have ended meanwhile.
            let _ = done.send(own.clean(order));
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "no thread for cleaning");
        }
        outcome
    }

    fn clean(&self, order: CleanOrder) -> Cleaned {
        // A directory that is not there yet has nothing to drop.
        let roots: Vec<PathBuf> = self.roots.iter().filter(|root| root.exists()).cloned().collect();
        let mode = match order.how {
            Cleaning::Balanced => Mode::Balanced,
            Cleaning::Aggressive => Mode::Aggressive,
        };
        let ask = Ask { mode, roots, target: Some(order.target), dry_run: false, whole_machine: false };
        match self.machine.clean(&ask, SystemTime::now()) {
            Ok(outcome) => told(order.how, &outcome),
            Err(error) => failed(order.how, in_full(&error)),
        }
    }
}

fn told(how: Cleaning, outcome: &Outcome) -> Cleaned {
    if outcome.unseen_processes > 0 {
        tracing::warn!(
            processes = outcome.unseen_processes,
            "may not be looked into: files of others that they may use are left alone"
        );
    }
    tracing::debug!(kept = ?outcome.kept, "files left alone");
    Cleaned {
        at: Timestamp::now().to_string(),
        how,
        dropped: outcome.dropped,
        files: outcome.files.len(),
        took: Span::from_millis(u64::try_from(outcome.took.as_millis()).unwrap_or(u64::MAX)),
        available: outcome.available,
        failed: None,
    }
}

/// Its thread could not begin, or is gone.
#[must_use]
pub fn lost() -> Cleaned {
    failed(Cleaning::Balanced, "no thread could do it".to_owned())
}

fn failed(how: Cleaning, why: String) -> Cleaned {
    Cleaned {
        at: Timestamp::now().to_string(),
        how,
        dropped: Mib::ZERO,
        files: 0,
        took: Span::ZERO,
        available: (Mib::ZERO, Mib::ZERO),
        failed: Some(why),
    }
}

fn in_full(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
