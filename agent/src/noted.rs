//! A map that remembers which of its entries may have changed, so that whoever follows it need not look at all of it. It may not know what the entries mean.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;

/// A map whose changes are noted. It is read as the map that it holds.
#[derive(Clone, Debug)]
pub struct Noted<K, V> {
    map: BTreeMap<K, V>,
    touched: BTreeSet<K>,
}

impl<K: Ord + Clone, V> Noted<K, V> {
    /// That map, of which nothing is noted yet.
    #[must_use]
    pub const fn new(map: BTreeMap<K, V>) -> Self {
        Self { map, touched: BTreeSet::new() }
    }

    /// As with a map.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.touched.insert(key.clone());
        self.map.insert(key, value)
    }

    /// As with a map.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let value = self.map.remove(key)?;
        self.touched.insert(key.clone());
        Some(value)
    }

    /// As with a map.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let value = self.map.get_mut(key)?;
        self.touched.insert(key.clone());
        Some(value)
    }

    /// Keeps those alone.
    pub fn retain(&mut self, keep: impl Fn(&K, &V) -> bool) {
        let touched = &mut self.touched;
        self.map.retain(|key, value| {
            let stays = keep(key, value);
            if !stays {
                touched.insert(key.clone());
            }
            stays
        });
    }

    /// What may have changed since this was last asked, what is gone among it.
    pub fn take_touched(&mut self) -> BTreeSet<K> {
        std::mem::take(&mut self.touched)
    }
}

impl<K, V> Default for Noted<K, V> {
    fn default() -> Self {
        Self { map: BTreeMap::new(), touched: BTreeSet::new() }
    }
}

impl<K, V> Deref for Noted<K, V> {
    type Target = BTreeMap<K, V>;

    fn deref(&self) -> &Self::Target {
        &self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_changed_is_noted_once_and_nothing_else() {
        let mut noted = Noted::new(BTreeMap::from([(1, 'a'), (2, 'b'), (3, 'c'), (4, 'd')]));
        assert!(noted.take_touched().is_empty());
        noted.insert(5, 'e');
        *noted.get_mut(&1).unwrap() = 'A';
        noted.remove(&2);
        noted.remove(&9);
        assert_eq!(noted.get_mut(&9), None);
        noted.retain(|key, _| *key != 3);
        assert_eq!(noted.take_touched(), [1, 2, 3, 5].into());
        assert_eq!(noted.values().copied().collect::<Vec<_>>(), ['A', 'd', 'e']);
        assert!(noted.take_touched().is_empty());
    }
}
