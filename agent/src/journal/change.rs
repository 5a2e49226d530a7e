//! What has changed in a ledger, and a ledger as it is read again from a whole and its changes. It may not read or write files.

use std::collections::BTreeMap;

use memboss_core::{LeaseId, LeaseRecord, Token};
use serde::{Deserialize, Serialize};

use crate::node::admin::{Drained, Wished};
use crate::node::clients::Client;
use crate::order::Epoch;
use crate::store::{Ended, Holder, KnownGpu, Ledger};

/// What has changed since the last time: the new entry, or nothing where one is gone.
type Changed<T> = BTreeMap<LeaseId, Option<T>>;

/// What has changed in a [`Ledger`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Change {
    /// The newest token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// All else that is no lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<Head>,
    /// The engine's leases, with the how many-th each came as.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub records: Changed<(u64, LeaseRecord)>,
    /// What the agent knows of each beside that.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub holders: Changed<Holder>,
    /// What has ended and is not yet known to everybody.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ended: Changed<Ended>,
    /// Leases in code.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub clients: Changed<Client>,
}

/// The part of a [`Ledger`] that is small and seldom changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The newest leader seen.
    pub floor: Option<Epoch>,
    /// The GPUs as they were last seen.
    pub gpus: Vec<KnownGpu>,
    /// What root has closed here.
    pub drained: Drained,
    /// What the cluster has.
    #[serde(default)]
    pub wished: Wished,
}

impl Change {
    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Both, one after the other, as one.
    pub fn then(&mut self, later: Self) {
        if self.is_empty() {
            *self = later;
            return;
        }
        self.token = later.token.or(self.token);
        self.head = later.head.or(self.head.take());
        self.records.extend(later.records);
        self.holders.extend(later.holders);
        self.ended.extend(later.ended);
        self.clients.extend(later.clients);
    }
}

/// A ledger that is being read again.
#[derive(Clone, Debug)]
pub(crate) struct Replay {
    ledger: Ledger,
    /// The leases, with the order in which they came: those of the whole first.
    records: BTreeMap<LeaseId, (Came, LeaseRecord)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Came {
    InTheWhole(usize),
    Later(u64),
}

impl Replay {
    pub(crate) fn begin(mut whole: Ledger) -> Self {
        let records = std::mem::take(&mut whole.records).into_iter().enumerate();
        let records = records.map(|(at, record)| (record.request.id.clone(), (Came::InTheWhole(at), record)));
        Self { records: records.collect(), ledger: whole }
    }

    pub(crate) fn apply(&mut self, change: Change) {
        self.ledger.token = change.token.unwrap_or(self.ledger.token);
        if let Some(Head { floor, gpus, drained, wished }) = change.head {
            (self.ledger.floor, self.ledger.gpus) = (floor, gpus);
            (self.ledger.drained, self.ledger.wished) = (drained, wished);
        }
        for (lease, record) in change.records {
            let before = self.records.remove(&lease);
            if let Some((arrival, record)) = record {
                let came = before.map_or(Came::Later(arrival), |(came, _)| came);
                self.records.insert(lease, (came, record));
            }
        }
        follow(&mut self.ledger.holders, change.holders);
        follow(&mut self.ledger.ended, change.ended);
        follow(&mut self.ledger.clients, change.clients);
    }

    pub(crate) fn finish(mut self) -> Ledger {
        let mut records: Vec<_> = self.records.into_values().collect();
        records.sort_by_key(|(came, _)| *came);
        self.ledger.records = records.into_iter().map(|(_, record)| record).collect();
        self.ledger
    }
}

fn follow<T>(map: &mut BTreeMap<LeaseId, T>, changed: Changed<T>) {
    for (lease, entry) in changed {
        match entry {
            Some(entry) => drop(map.insert(lease, entry)),
            None => drop(map.remove(&lease)),
        }
    }
}
