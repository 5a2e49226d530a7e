//! What the holder of a lease in code is told: how it is now, whenever that has changed.

use std::collections::HashMap;

use memboss_core::{EndReason, LeaseId, LeaseView, Moment, Phase};

use super::{Listener, Told};
use crate::node::Node;

impl Node {
    pub(super) fn told(&self, lease: &LeaseId) -> Option<Told> {
        let position = || self.engine_of(lease).position(lease).ok();
        self.told_at(lease, position)
    }

    fn told_at(&self, lease: &LeaseId, position: impl FnOnce() -> Option<usize>) -> Option<Told> {
        let view = self.lease_seen(lease)?;
        let waits = view.phase == Phase::Waiting && view.placement.is_none();
        let position = waits.then(position).flatten();
        let estimate = self.engine_of(lease).estimate(&view, position, self.now);
        Some(Told { position, estimate, lease: view, ended: None })
    }

    /// Tells those whose leases have changed: to be called once the ledger is written.
    pub fn tell_clients(&mut self) {
        for (listener, told) in std::mem::take(&mut self.clients.farewells) {
            listener.events.send_replace(Some(told));
        }
        for lease in std::mem::take(&mut self.clients.to_tell) {
            if let Some(listener) = self.clients.listeners.get(&lease)
                && let Some(told) = self.told(&lease)
            {
                listener.hear(told, self.now);
            }
        }
    }

    /// Tells everybody what is news to them: places in the queue change also for those whose leases do not.
    pub fn tell_all_clients(&self, places: &HashMap<LeaseId, usize>) {
        for (lease, listener) in &self.clients.listeners {
            if let Some(told) = self.told_at(lease, || places.get(lease).copied()) {
                listener.hear(told, self.now);
            }
        }
    }

    /// A lease in code is over.
    pub(in crate::node) fn client_ended(&mut self, view: &LeaseView, reason: EndReason) {
        if let Some(listener) = self.clients.forget(&view.id) {
            let told = Told { lease: view.clone(), position: None, estimate: None, ended: Some(reason) };
            self.clients.farewells.push((listener, told));
        }
    }
}

impl Told {
    fn is_news(&self, before: &Self, now: Moment) -> bool {
        let otherwise = match (self.estimate, before.estimate) {
            (Some(estimate), Some(before)) => estimate.differs(before, now),
            (now, before) => now != before,
        };
        otherwise || (&self.lease, self.position, self.ended) != (&before.lease, before.position, before.ended)
    }
}

impl Listener {
    fn hear(&self, told: Told, now: Moment) {
        self.events.send_if_modified(|before| {
            let news = before.as_ref().is_none_or(|before| told.is_news(before, now));
            if news {
                *before = Some(told);
            }
            news
        });
    }
}
