//! Which CDI names the slots of a container were given, and the GPUs that its lease turned out to have. Pure; `checkpoint` keeps it on disk.
//! The kubelet remembers such a name for as long as the pod lives and never tells it again, so a binding is forgotten only once it is replaced.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::slots::{Holder, SlotId, SlotSet};

/// Plain init containers can lend the very same slots to several containers of a pod, each with a name of its own; more than this is no pod.
const NAMES_KEPT: usize = 8;
/// A pod on its way in is not listed by the kubelet for a moment; one look without it proves nothing.
const LOOKS_UNTIL_IDLE: u8 = 2;

/// What is known about one set of slots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// What the kubelet gave to the container.
    pub slots: SlotSet,
    /// The CDI device names it was told for them, oldest first.
    pub names: Vec<String>,
    /// UUIDs of the lease's GPUs; empty until the container's first start.
    pub gpus: Vec<String>,
    /// Greater than that of every earlier binding.
    pub sequence: u64,
    /// How many looks in a row found no container that has these slots.
    #[serde(skip)]
    looks_unused: u8,
}

/// All bindings of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Saved", into = "Saved")]
pub struct Bindings {
    next: u64,
    by_slots: BTreeMap<SlotSet, Binding>,
}

/// The form on disk: JSON has no maps with sets as keys.
#[derive(Serialize, Deserialize)]
struct Saved {
    next: u64,
    bindings: Vec<Binding>,
}

impl From<Saved> for Bindings {
    fn from(saved: Saved) -> Self {
        let by_slots = saved.bindings.into_iter().map(|binding| (binding.slots.clone(), binding)).collect();
        Self { next: saved.next, by_slots }
    }
}

impl From<Bindings> for Saved {
    fn from(bindings: Bindings) -> Self {
        Self { next: bindings.next, bindings: bindings.by_slots.into_values().collect() }
    }
}

impl Bindings {
    /// No binding yet. `start` must be one that no earlier set of bindings of this node can have reached: a random one.
    #[must_use]
    pub fn starting_at(start: u64) -> Self {
        Self { next: start, by_slots: BTreeMap::new() }
    }

    /// A new name for these slots, never used before; `None` for no slots at all.
    pub fn name(&mut self, slots: &SlotSet) -> Option<String> {
        let name = format!("{}-{}", slots.first()?, self.next);
        let binding = self.by_slots.entry(slots.clone()).or_insert_with(|| Binding {
            slots: slots.clone(),
            names: Vec::new(),
            gpus: Vec::new(),
            sequence: 0,
            looks_unused: 0,
        });
        // Another pod has these slots now: what the one before was told nobody asks for again.
        if binding.looks_unused >= LOOKS_UNTIL_IDLE {
            binding.names.clear();
        }
        binding.names.push(name.clone());
        let surplus = binding.names.len().saturating_sub(NAMES_KEPT);
        binding.names.drain(..surplus);
        binding.gpus.clear();
        binding.sequence = self.next;
        binding.looks_unused = 0;
        self.next += 1;
        Some(name)
    }

    /// The names given for exactly these slots, oldest first.
    #[must_use]
    pub fn names(&self, slots: &SlotSet) -> Option<&[String]> {
        self.by_slots.get(slots).map(|binding| binding.names.as_slice())
    }

    /// A container that has these slots is about to start, whether the kubelet lists it already or not.
    pub fn touch(&mut self, slots: &SlotSet) {
        if let Some(binding) = self.by_slots.get_mut(slots) {
            binding.looks_unused = 0;
        }
    }

    /// Notes the GPUs of the lease; tells whether that was news.
    pub fn bind(&mut self, slots: &SlotSet, gpus: Vec<String>) -> bool {
        let Some(binding) = self.by_slots.get_mut(slots) else { return false };
        binding.looks_unused = 0;
        let news = binding.gpus != gpus;
        binding.gpus = gpus;
        news
    }

    /// Takes over a binding found elsewhere, if nothing is known about its slots.
    pub fn adopt(&mut self, slots: SlotSet, names: Vec<String>, gpus: Vec<String>) {
        let sequence = self.next;
        self.next += 1;
        self.by_slots.entry(slots.clone()).or_insert(Binding { slots, names, gpus, sequence, looks_unused: 0 });
    }

    /// Notes which slots containers have now. Forgets bindings that are both unused and replaced; tells whether any changed.
    pub fn look(&mut self, used: &BTreeSet<SlotId>) -> bool {
        let newest = self.newest();
        let before = (self.by_slots.len(), self.holders());
        self.by_slots.retain(|_, binding| {
            binding.looks_unused = if binding.slots.touches(used) {
                0
            } else {
                binding.looks_unused.saturating_add(1).min(LOOKS_UNTIL_IDLE)
            };
            let replaced = binding.slots.iter().all(|slot| newest.get(&slot).is_some_and(|s| *s > binding.sequence));
            !(replaced && binding.looks_unused >= LOOKS_UNTIL_IDLE)
        });
        before != (self.by_slots.len(), self.holders())
    }

    /// Who has which slot, by the newest binding of each.
    #[must_use]
    pub fn holders(&self) -> BTreeMap<SlotId, Holder> {
        let newest = self.newest();
        let mut holders = BTreeMap::new();
        for binding in self.by_slots.values().filter(|binding| binding.looks_unused < LOOKS_UNTIL_IDLE) {
            let holder = if binding.gpus.is_empty() { Holder::Unbound } else { Holder::Bound(binding.gpus.clone()) };
            for slot in binding.slots.iter().filter(|slot| newest.get(slot) == Some(&binding.sequence)) {
                holders.insert(slot, holder.clone());
            }
        }
        holders
    }

    /// The names of slots that containers have, or had when last seen: only these need a file. A container that starts again has its file written again.
    #[must_use]
    pub fn used_names(&self) -> BTreeSet<&str> {
        let used = self.by_slots.values().filter(|binding| binding.looks_unused < LOOKS_UNTIL_IDLE);
        used.flat_map(|binding| &binding.names).map(String::as_str).collect()
    }

    /// Every name that may still be asked for.
    #[must_use]
    pub fn all_names(&self) -> BTreeSet<&str> {
        self.by_slots.values().flat_map(|binding| &binding.names).map(String::as_str).collect()
    }

    /// Whether a container in use is bound to this GPU.
    #[must_use]
    pub fn binds(&self, uuid: &str) -> bool {
        self.holders().values().any(|holder| matches!(holder, Holder::Bound(on) if on.iter().any(|gpu| gpu == uuid)))
    }

    fn newest(&self) -> BTreeMap<SlotId, u64> {
        let mut newest = BTreeMap::new();
        for binding in self.by_slots.values() {
            for slot in binding.slots.iter() {
                let sequence = newest.entry(slot).or_insert(binding.sequence);
                *sequence = binding.sequence.max(*sequence);
            }
        }
        newest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[&str]) -> SlotSet {
        SlotSet::parse(ids).unwrap()
    }

    #[test]
    fn names_never_repeat_and_all_names_of_the_same_slots_are_kept() {
        let mut bindings = Bindings::starting_at(40);
        let slots = set(&["s0002", "s0001"]);
        assert_eq!(bindings.name(&slots).unwrap(), "s0001-40");
        assert_eq!(bindings.name(&slots).unwrap(), "s0001-41");
        assert_eq!(bindings.names(&slots).unwrap(), ["s0001-40", "s0001-41"]);
        for _ in 0..20 {
            bindings.name(&slots);
        }
        assert_eq!(bindings.names(&slots).unwrap().len(), NAMES_KEPT);
        assert_eq!(bindings.names(&set(&["s0001"])), None);
        assert_eq!(bindings.name(&set(&[])), None);
    }

    #[test]
    fn an_unused_binding_is_free_after_two_looks_and_forgotten_once_replaced() {
        let mut bindings = Bindings::starting_at(1);
        let (old, new) = (set(&["s0001", "s0002"]), set(&["s0001", "s0002", "s0003"]));
        bindings.name(&old);
        bindings.bind(&old, vec!["a".to_owned()]);
        assert!(!bindings.look(&BTreeSet::new()));
        assert!(bindings.look(&BTreeSet::new()));
        assert!(bindings.holders().is_empty());
        assert!(bindings.names(&old).is_some(), "the kubelet may still ask: its list is empty while it starts");
        bindings.name(&new);
        let used: BTreeSet<_> = ["s0003".parse().unwrap()].into();
        assert!(bindings.look(&used));
        assert_eq!(bindings.names(&old), None);
        assert_eq!(bindings.holders().len(), 3);
    }

    #[test]
    fn who_gets_slots_that_lay_idle_begins_with_one_name_and_idle_ones_need_no_file() {
        let mut bindings = Bindings::starting_at(1);
        let slots = set(&["s0001"]);
        bindings.name(&slots);
        bindings.name(&slots);
        assert_eq!(bindings.used_names(), ["s0001-1", "s0001-2"].into());
        bindings.look(&BTreeSet::new());
        bindings.look(&BTreeSet::new());
        assert!(bindings.used_names().is_empty());
        assert_eq!(bindings.all_names().len(), 2, "a kubelet that starts lists nobody for a while");
        bindings.name(&slots);
        assert_eq!(bindings.names(&slots).unwrap(), ["s0001-3"]);
    }

    #[test]
    fn the_newest_binding_of_a_slot_counts() {
        let mut bindings = Bindings::starting_at(1);
        bindings.name(&set(&["s0001", "s0002"]));
        bindings.bind(&set(&["s0001", "s0002"]), vec!["a".to_owned()]);
        bindings.name(&set(&["s0002"]));
        let holders = bindings.holders();
        assert_eq!(holders[&"s0001".parse().unwrap()], Holder::Bound(vec!["a".to_owned()]));
        assert_eq!(holders[&"s0002".parse().unwrap()], Holder::Unbound);
    }
}
