//! Ends processes whose leases are stopping: first they are asked, and after a while ended. It only says whom; `probes/pidfd.rs` does it.

use std::collections::{BTreeMap, BTreeSet};

use memboss_core::{EndReason, LeaseId, Moment, Phase, Span};

use crate::node::Node;
use crate::probes::processes::Process;

/// What is done to a process whose time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Push {
    /// It is asked to end (SIGTERM).
    Term,
    /// It is ended, and all that it began (SIGKILL).
    Kill,
}

/// A process that is to be pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Which.
    pub process: Process,
    /// How.
    pub push: Push,
    /// Processes that lease for themselves: they stay, whoever began them.
    pub others: BTreeSet<Process>,
}

impl Node {
    /// Pushes the processes whose leases are stopping and needed: first asked, and after a while ended; once more where that did not do it.
    pub(in crate::node) fn push_processes(&mut self, now: Moment) {
        let stopping = self.all_stopping().into_iter();
        let to_end: BTreeMap<LeaseId, Process> = stopping
            .filter_map(|(lease, reason)| self.to_be_ended(&lease, reason).map(|process| (lease, process)))
            .collect();
        self.clients.pushed.retain(|lease, _| to_end.contains_key(lease));
        for (lease, process) in to_end {
            let since = self.stopping_since.get(&lease).copied().unwrap_or(now);
            let late = now.since(since) >= self.settings.clients.kill_after;
            let push = if late { Push::Kill } else { Push::Term };
            let again = |(_, at): &(Push, Moment)| now >= at.after(self.push_again_after());
            if self.clients.pushed.get(&lease).is_some_and(|before| before.0 == push && !again(before)) {
                continue;
            }
            tracing::info!(%lease, pid = process.pid, ?push, "its time is up");
            self.clients.pushed.insert(lease, (push, now));
            let others = if push == Push::Kill { self.holding_besides(process) } else { BTreeSet::new() };
            self.pushes.push(Pushed { process, push, others });
        }
    }

    /// The process that a stopping lease is waited for, if it is for the agent to end it.
    fn to_be_ended(&self, lease: &LeaseId, reason: EndReason) -> Option<Process> {
        let client = self.clients.known.get(lease)?;
        // A pod whose own lease ends is ended by its kubelet, in its own time.
        let goes_with_its_pod = client.part_of.as_ref().is_some_and(|whole| {
            !matches!(self.engine.phase(whole), Some(Phase::Active { .. } | Phase::Revoking { .. }))
        });
        let ends_by_itself = client.given_back || client.gone || reason == EndReason::Exited || goes_with_its_pod;
        (!ends_by_itself).then_some(client.caller.process)
    }

    /// The other processes that lease in code.
    fn holding_besides(&self, process: Process) -> BTreeSet<Process> {
        let holding = self.clients.known.values().filter(|client| !client.given_back);
        holding.map(|client| client.caller.process).filter(|other| *other != process).collect()
    }

    /// Processes to be pushed once the ledger is written.
    #[must_use]
    pub fn take_pushes(&mut self) -> Vec<Pushed> {
        std::mem::take(&mut self.pushes)
    }

    /// When the next process is to be ended.
    pub(in crate::node) fn next_push(&self) -> Option<Moment> {
        let due = self.clients.pushed.iter().map(|(lease, (push, at))| match push {
            Push::Term => self.stopping_since.get(lease).unwrap_or(at).after(self.settings.clients.kill_after),
            Push::Kill => at.after(self.push_again_after()),
        });
        due.min()
    }

    /// Whoever does not go though it was killed, as one that waits for a driver, is not killed all the time.
    fn push_again_after(&self) -> Span {
        self.settings.clients.kill_after.max(Span::from_secs(1))
    }
}
