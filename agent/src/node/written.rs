//! What must outlive the process: all of it, and what of it has changed. Nothing here changes a lease.

use std::collections::BTreeSet;

use memboss_core::{GpuUuid, LeaseId, Token};

use super::{GpuState, Node};
use crate::journal::{Change, Head};
use crate::store::{KnownGpu, Ledger};

/// What has not been handed out to be written yet.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    /// Leases that may have changed.
    pub(super) leases: BTreeSet<LeaseId>,
    /// Leases in code of which that may have changed which the engine does not know.
    pub(super) clients: BTreeSet<LeaseId>,
    token: Token,
    head: Head,
}

impl Node {
    /// All that must outlive the process.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        let Head { floor, gpus, drained, wished } = self.head();
        Ledger {
            boot_id: self.settings.boot_id.clone(),
            agent_epoch: self.agent_epoch,
            token: self.engine.last_token(),
            floor,
            gpus,
            records: self.engine.records().into_iter().chain(self.part_records()).collect(),
            holders: (*self.holders).clone(),
            ended: (*self.ended).clone(),
            clients: (*self.clients.known).clone(),
            drained,
            wished,
        }
    }

    /// What of that has changed since this was last called. What was there at the start counts as written.
    #[must_use]
    pub fn take_change(&mut self) -> Change {
        let (token, head) = (self.engine.last_token(), self.head());
        let leases = std::mem::take(&mut self.unwritten.leases).into_iter();
        let clients = std::mem::take(&mut self.unwritten.clients).into_iter();
        let (holders, ended) = (self.holders.take_touched().into_iter(), self.ended.take_touched().into_iter());
        Change {
            token: (std::mem::replace(&mut self.unwritten.token, token) != token).then_some(token),
            head: (self.unwritten.head != head).then(|| {
                self.unwritten.head = head.clone();
                head
            }),
            records: leases.map(|lease| (lease.clone(), self.engine_of(&lease).record(&lease))).collect(),
            holders: holders.map(|lease| (lease.clone(), self.holders.get(&lease).cloned())).collect(),
            ended: ended.map(|lease| (lease.clone(), self.ended.get(&lease).cloned())).collect(),
            clients: clients.map(|lease| (lease.clone(), self.clients.known.get(&lease).cloned())).collect(),
        }
    }

    fn head(&self) -> Head {
        let known = |(uuid, gpu): (&GpuUuid, &GpuState)| KnownGpu {
            uuid: uuid.clone(),
            index: gpu.index,
            model: gpu.model.clone(),
            total: gpu.total,
            reserved: gpu.reserved,
        };
        Head {
            floor: self.floor.clone(),
            gpus: self.gpus.iter().map(known).collect(),
            drained: self.drains.here.clone(),
            wished: self.drains.cluster.clone(),
        }
    }
}
