//! Slots: the interchangeable devices that the kubelet counts, and which of them are healthy. Pure rules; no file, socket or clock.
//! A slot stands for one unit of VRAM on no GPU in particular; only the lease says which GPU a container gets.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use memboss_core::{Mib, UNIT};
use serde::{Deserialize, Serialize};

/// Above this the device list would near what the kubelet can receive (4 MiB) and what it handles quickly.
pub const MAX_SLOTS: u64 = 8_000;

/// The id of a slot, `s0001` and up. It never changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SlotId(u16);

/// What was given is not a slot of ours.
#[derive(Debug, thiserror::Error)]
#[error("failed to read the slot id {given:?}: it must look like \"s0001\"")]
pub struct NotASlot {
    given: String,
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{:04}", self.0)
    }
}

impl std::str::FromStr for SlotId {
    type Err = NotASlot;

    fn from_str(given: &str) -> Result<Self, NotASlot> {
        let number = given
            .strip_prefix('s')
            .filter(|digits| digits.len() == 4 && digits.bytes().all(|digit| digit.is_ascii_digit()))
            .and_then(|digits| digits.parse().ok());
        number.filter(|n| *n > 0).map(Self).ok_or_else(|| NotASlot { given: given.to_owned() })
    }
}

/// A set of slots, sorted: what the kubelet gave to one container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SlotSet(BTreeSet<SlotId>);

impl SlotSet {
    /// Reads the ids as the kubelet sends them, in any order.
    ///
    /// # Errors
    /// [`NotASlot`] for the first id that is not ours.
    pub fn parse<T: AsRef<str>>(ids: impl IntoIterator<Item = T>) -> Result<Self, NotASlot> {
        ids.into_iter().map(|id| id.as_ref().parse()).collect::<Result<_, _>>().map(Self)
    }

    /// These slots.
    #[must_use]
    pub fn of(slots: impl IntoIterator<Item = SlotId>) -> Self {
        Self(slots.into_iter().collect())
    }

    /// The lowest id.
    #[must_use]
    pub fn first(&self) -> Option<SlotId> {
        self.0.first().copied()
    }

    /// The ids, ascending.
    pub fn iter(&self) -> impl Iterator<Item = SlotId> + '_ {
        self.0.iter().copied()
    }

    /// Whether `slot` is one of them.
    #[must_use]
    pub fn contains(&self, slot: SlotId) -> bool {
        self.0.contains(&slot)
    }

    /// How many ids the two sets share.
    #[must_use]
    pub fn shared_with(&self, other: &Self) -> usize {
        self.0.intersection(&other.0).count()
    }

    /// Whether any of them is in `slots`.
    #[must_use]
    pub fn touches(&self, slots: &BTreeSet<SlotId>) -> bool {
        !self.0.is_disjoint(slots)
    }
}

impl fmt::Display for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, slot) in self.0.iter().enumerate() {
            write!(f, "{}{slot}", if position == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// Whether containers on a GPU can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GpuState {
    /// There; that it takes no new leases (degraded, quarantine) is the ledger's business.
    Usable,
    /// Gone from the bus, or nobody can tell.
    Lost,
}

/// A GPU as the slots see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownGpu {
    /// What can be leased of it.
    pub leasable: Mib,
    /// Whether it is there.
    pub state: GpuState,
}

impl KnownGpu {
    /// Whole units only: a rest smaller than a unit serves no pod.
    fn units(self) -> u64 {
        self.leasable.round_down_to(UNIT).units(UNIT)
    }
}

/// Who has a slot that is not free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A container that has not been started yet: nobody knows its GPUs.
    Unbound,
    /// A container whose lease is on these GPUs.
    Bound(Vec<String>),
}

/// What the kubelet is told about a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// May be given to a container; a container that has it may start.
    Healthy,
    /// Neither.
    Unhealthy,
}

/// More slots than may be advertised.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{count} slots for {leasable} MiB of leasable VRAM times {multiple} are more than {MAX_SLOTS}: nothing is offered to new pods; \
     lower the multiple (to {fitting} or less)"
)]
pub struct TooMany {
    /// What it would be.
    pub count: u64,
    leasable: u64,
    multiple: u32,
    fitting: u64,
}

/// How many slots these GPUs make.
///
/// # Errors
/// [`TooMany`] above [`MAX_SLOTS`].
pub fn count(multiple: u32, gpus: &BTreeMap<String, KnownGpu>) -> Result<u16, TooMany> {
    let units: u64 = gpus.values().map(|gpu| gpu.units()).sum();
    let count = units.saturating_mul(u64::from(multiple));
    match u16::try_from(count) {
        Ok(fits) if count <= MAX_SLOTS => Ok(fits),
        _ => {
            let leasable = gpus.values().map(|gpu| gpu.leasable.mib()).sum();
            Err(TooMany { count, leasable, multiple, fitting: MAX_SLOTS / units.max(1) })
        }
    }
}

/// Every slot with its health.
///
/// Healthy ones are as many as the usable GPUs make, with two limits: a held slot whose GPUs are all usable is never unhealthy, and a slot held on a
/// lost GPU never healthy. With too many GPUs only held slots are listed, so that what runs can restart and nothing new comes.
#[must_use]
pub fn advertise(
    multiple: u32,
    gpus: &BTreeMap<String, KnownGpu>,
    holders: &BTreeMap<SlotId, Holder>,
) -> BTreeMap<SlotId, Health> {
    let mut slots: BTreeMap<SlotId, Health> =
        holders.iter().map(|(slot, holder)| (*slot, health_of_held(gpus, holder))).collect();
    let usable: BTreeMap<_, _> =
        gpus.iter().filter(|(_, gpu)| gpu.state == GpuState::Usable).map(|(uuid, gpu)| (uuid.clone(), *gpu)).collect();
    let (Ok(count), Ok(wanted)) = (count(multiple, gpus), count(multiple, &usable)) else { return slots };
    let held_healthy = slots.values().filter(|health| **health == Health::Healthy).count();
    let mut left = usize::from(wanted).saturating_sub(held_healthy);
    // The lowest free ids stay healthy, so that the same loss always gives the same list.
    for slot in (1..=count).map(SlotId).filter(|slot| !holders.contains_key(slot)) {
        slots.insert(slot, if left > 0 { Health::Healthy } else { Health::Unhealthy });
        left = left.saturating_sub(1);
    }
    slots
}

fn health_of_held(gpus: &BTreeMap<String, KnownGpu>, holder: &Holder) -> Health {
    match holder {
        Holder::Bound(on) if on.iter().any(|uuid| gpus.get(uuid).is_some_and(|gpu| gpu.state == GpuState::Lost)) => {
            Health::Unhealthy
        }
        _ => Health::Healthy,
    }
}

/// The ids to prefer: what must be included, then the lowest available ones. Wrong input gives a shorter answer, never an error.
#[must_use]
pub fn prefer(available: Vec<String>, must_include: Vec<String>, size: usize) -> Vec<String> {
    let included: BTreeSet<String> = must_include.into_iter().collect();
    let rest: BTreeSet<String> = available.into_iter().filter(|id| !included.contains(id)).collect();
    included.into_iter().chain(rest).take(size).collect()
}

#[cfg(test)]
#[path = "slots_tests.rs"]
mod tests;
