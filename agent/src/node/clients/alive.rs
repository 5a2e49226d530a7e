//! What keeps a lease in code alive, and what ends it: its process, its connection, its time, its patience.

use std::collections::BTreeSet;

use memboss_core::{Decision, EndReason, LeaseId, Moment, Phase};

use super::Client;
use crate::node::Node;
use crate::probes::processes::Process;

impl Node {
    pub(super) fn broke(&mut self, connection: u64, now: Moment) {
        // A lease that was taken up again has another connection by now.
        let Some(lease) = self.clients.connections.remove(&connection) else { return };
        self.clients.listeners.remove(&lease);
        if let Some(client) = self.clients.known.get_mut(&lease).filter(|client| client.ttl.is_none()) {
            client.alive = now;
        }
        self.follow_client(&lease);
    }

    pub(super) fn process_gone(&mut self, process: Process) {
        let its = self.clients.known.iter().filter(|(_, client)| client.caller.process == process);
        let its: Vec<LeaseId> = its.map(|(lease, _)| lease.clone()).collect();
        for lease in &its {
            if let Some(client) = self.clients.known.get_mut(lease) {
                client.gone = true;
            }
            self.release(lease, EndReason::Exited);
        }
    }

    /// When the lease ends by itself, unless somebody does something: for want of patience, of a connection, or of renewal.
    fn due(&self, lease: &LeaseId, client: &Client) -> Option<Moment> {
        let phase = self.engine_of(lease).phase(lease)?;
        if matches!(phase, Phase::Stopping { .. }) {
            return None;
        }
        let silent = match client.ttl {
            Some(ttl) => Some(client.alive.after(ttl)),
            None if self.clients.listeners.contains_key(lease) => None,
            None => Some(client.alive.after(self.settings.clients.grace)),
        };
        let impatient = client.give_up.filter(|_| *phase == Phase::Waiting);
        [silent, impatient].into_iter().flatten().min()
    }

    /// A lease in code may have changed, or who listens.
    pub(in crate::node) fn follow_client(&mut self, lease: &LeaseId) {
        let due = self.clients.known.get(lease).and_then(|client| self.due(lease, client));
        self.clients.set_due(lease, due);
        if self.clients.listeners.contains_key(lease) {
            self.clients.to_tell.insert(lease.clone());
        }
    }

    /// Ends what nobody keeps alive any more.
    pub(in crate::node) fn end_silent_clients(&mut self, now: Moment) {
        let due: Vec<LeaseId> =
            self.clients.dues.iter().take_while(|(due, _)| *due <= now).map(|(_, lease)| lease.clone()).collect();
        for lease in due {
            // It may have been renewed in this very step.
            let is_due = |client: &Client| self.due(&lease, client).is_some_and(|due| now >= due);
            if self.clients.known.get(&lease).is_some_and(is_due) {
                self.let_go(&lease, EndReason::Expired);
            }
        }
    }

    /// When the next of them ends by itself.
    pub(in crate::node) fn next_silent_client(&self) -> Option<Moment> {
        self.clients.dues.first().map(|(due, _)| *due)
    }

    /// Ends what nobody keeps: processes that are gone though their end was not noticed, and those whose time is over. In a dry run it only tells.
    pub(in crate::node) fn clean_up(
        &mut self,
        gone: &BTreeSet<Process>,
        ram_only: bool,
        dry_run: bool,
        now: Moment,
    ) -> Vec<(LeaseId, EndReason)> {
        let is_meant = |lease: &LeaseId| {
            !ram_only || self.engine_of(lease).request(lease).is_some_and(|request| !request.demand.ram.is_zero())
        };
        let known = self.clients.known.iter().filter(|(lease, _)| is_meant(lease));
        let stale = known.filter_map(|(lease, client)| {
            let reason = match self.engine_of(lease).phase(lease)? {
                Phase::Stopping { .. } => return None,
                _ if gone.contains(&client.caller.process) => EndReason::Exited,
                _ if self.due(lease, client).is_some_and(|due| now >= due) => EndReason::Expired,
                _ => return None,
            };
            Some((lease.clone(), reason))
        });
        let stale: Vec<_> = stale.collect();
        for (lease, reason) in stale.iter().filter(|_| !dry_run) {
            match reason {
                EndReason::Exited => self.release(lease, *reason),
                _ => self.let_go(lease, *reason),
            }
        }
        stale
    }

    /// Its process goes on without it.
    pub(super) fn let_go(&mut self, lease: &LeaseId, reason: EndReason) {
        if let Some(client) = self.clients.known.get_mut(lease) {
            client.given_back = true;
        }
        self.release(lease, reason);
    }

    /// Whoever is granted holds it at once: its process is there, and listens or has its grace time to come back.
    pub(in crate::node) fn activate_client(&mut self, decision: &Decision, now: Moment) {
        if let Decision::Grant { lease, .. } = decision
            && self.clients.known.contains_key(lease)
            && let Err(refused) = self.engine_of_mut(lease).activate(lease, now)
        {
            tracing::error!(%lease, %refused, "a granted lease cannot be held");
        }
    }

    /// Whether nothing stands against ending a lease in code that is stopping. RAM alone is free when its process has ended or goes on without it: what that
    /// still has is missing in what is available. On a GPU a look must have shown it unused, or its process has given it back and goes on, and what it still uses counts as foreign.
    pub(in crate::node) fn is_given_up(&self, lease: &LeaseId) -> bool {
        let Some(view) = self.lease_seen(lease) else { return false };
        let gpus = view.placement.map(|placement| placement.gpus).unwrap_or_default();
        let client = self.clients.known.get(lease);
        let given_back = client.is_some_and(|client| client.given_back);
        // What a part leaves behind is still its pod's.
        if gpus.is_empty() || client.is_some_and(Client::is_part) {
            let exited = matches!(view.phase, Phase::Stopping { reason: EndReason::Exited });
            return given_back || exited || client.is_some_and(|client| client.gone);
        }
        let looked = self.stopping_since.get(lease).is_some_and(|since| *since <= self.look_began);
        let read = gpus.iter().all(|share| self.gpus.get(&share.uuid).is_some_and(|gpu| gpu.present.is_some()));
        let unused = || self.used_by(lease).iter().all(|used| used.is_zero());
        looked && read && (given_back || unused())
    }
}
