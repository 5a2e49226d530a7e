//! How many of something one owner has at once. It counts; it does not wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::turns::Asking;

/// Lets in as many of each owner as anybody may have.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    most: usize,
    there: Arc<Mutex<HashMap<String, There>>>,
}

/// What an owner has of it.
#[derive(Debug, Default)]
struct There {
    places: usize,
    asking: Asking,
}

/// One that was let in, for as long as this lives.
#[derive(Debug)]
pub(super) struct Place {
    owner: String,
    gate: Gate,
    /// What its owner asks, over all its places.
    pub(super) asking: Asking,
}

impl Gate {
    /// Lets in so many of each owner.
    pub(super) fn new(most: usize) -> Self {
        Self { most, there: Arc::default() }
    }

    /// A place for that owner, if it has one left.
    pub(super) fn enter(&self, owner: &str) -> Option<Place> {
        let mut all = self.lock();
        let there = all.entry(owner.to_owned()).or_default();
        if there.places >= self.most {
            return None;
        }
        there.places += 1;
        Some(Place { owner: owner.to_owned(), gate: self.clone(), asking: there.asking.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, There>> {
        self.there.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.gate.lock();
        if let Some(there) = all.get_mut(&self.owner) {
            there.places -= 1;
            if there.places == 0 {
                all.remove(&self.owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_owner_fills_its_own_places_only_and_gets_them_back() {
        let gate = Gate::new(2);
        let held = [gate.enter("a").unwrap(), gate.enter("a").unwrap()];
        assert!(gate.enter("a").is_none());
        let other = gate.enter("b").unwrap();
        assert!(held[0].asking.is_of_the_same(&held[1].asking) && !held[0].asking.is_of_the_same(&other.asking));
        drop((held, other));
        assert!(gate.enter("a").is_some());
        assert!(gate.lock().is_empty(), "nobody is there any more");
    }
}
