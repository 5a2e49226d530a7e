//! How many of something one owner has at once. It counts; it does not wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Lets in as many of each owner as anybody may have.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    most: usize,
    there: Arc<Mutex<HashMap<String, usize>>>,
}

/// One that was let in, for as long as this lives.
#[derive(Debug)]
pub(super) struct Place {
    owner: String,
    gate: Gate,
}

impl Gate {
    /// Lets in so many of each owner.
    pub(super) fn new(most: usize) -> Self {
        Self { most, there: Arc::default() }
    }

    /// A place for that owner, if it has one left.
    pub(super) fn enter(&self, owner: &str) -> Option<Place> {
        let mut there = self.lock();
        let count = there.entry(owner.to_owned()).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Place { owner: owner.to_owned(), gate: self.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.there.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut there = self.gate.lock();
        if let Some(count) = there.get_mut(&self.owner) {
            *count -= 1;
            if *count == 0 {
                there.remove(&self.owner);
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
        let held = [gate.enter("a"), gate.enter("a")];
        assert!(held.iter().all(Option::is_some) && gate.enter("a").is_none());
        assert!(gate.enter("b").is_some());
        drop(held);
        assert!(gate.enter("a").is_some());
        assert!(gate.lock().is_empty(), "nobody is there any more");
    }
}
