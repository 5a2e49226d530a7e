//! What the holder of a lease in code is told: how it is now, whenever that has changed.

use memboss_core::{EndReason, LeaseId, LeaseView, Phase};

use super::Told;
use crate::node::Node;

impl Node {
    pub(super) fn told(&self, lease: &LeaseId) -> Option<Told> {
        let view = self.lease_seen(lease)?;
        let waits = view.phase == Phase::Waiting && view.placement.is_none();
        let position = if waits { self.engine_of(lease).position(lease).ok() } else { None };
        Some(Told { lease: view, position, ended: None })
    }

    /// Tells everybody what is news to them: to be called once the ledger is written.
    pub fn tell_clients(&mut self) {
        for (listener, told) in std::mem::take(&mut self.clients.farewells) {
            listener.events.send_replace(Some(told));
        }
        for (lease, listener) in &self.clients.listeners {
            let Some(told) = self.told(lease) else { continue };
            listener.events.send_if_modified(|before| {
                let news = before.as_ref() != Some(&told);
                if news {
                    *before = Some(told);
                }
                news
            });
        }
    }

    /// A lease in code is over.
    pub(in crate::node) fn client_ended(&mut self, view: &LeaseView, reason: EndReason) {
        if let Some(listener) = self.clients.forget(&view.id) {
            let told = Told { lease: view.clone(), position: None, ended: Some(reason) };
            self.clients.farewells.push((listener, told));
        }
    }
}
