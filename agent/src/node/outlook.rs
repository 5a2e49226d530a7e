//! When all leases are gone through, to show them and to tell those who wait their places. It has no clock and shows nothing itself: `task.rs` does.

use std::time::Duration;

use tokio::time::Instant;

/// Of all time, going through all leases may take one part in so many.
const PART: u32 = 10;
/// What takes no longer is done at once for whoever waits to see it.
const QUICK: Duration = Duration::from_micros(200);
/// Nobody is told its place in the queue more often: while many come and go, everybody's changes with each of them.
const PACE: Duration = Duration::from_millis(100);

/// At once where that takes no time; where there are many leases, for a small part of the time only.
#[derive(Debug)]
pub(super) struct Outlook {
    due: bool,
    not_before: Instant,
    /// How long it took the last time.
    took: Duration,
    /// Places in the queue may have changed since all who wait were told theirs.
    untold: bool,
    tell_not_before: Instant,
}

impl Outlook {
    pub(super) fn new(now: Instant) -> Self {
        Self { due: false, not_before: now, took: Duration::ZERO, untold: false, tell_not_before: now }
    }

    /// Something may have changed.
    pub(super) fn changed(&mut self) {
        self.due = true;
    }

    /// Whether it is time; `awaited` while somebody waits to see it.
    pub(super) fn is_on(&self, awaited: bool, now: Instant) -> bool {
        self.due && (awaited && self.took <= QUICK || now >= self.not_before)
    }

    /// Whether those who wait are to be told their places, too, now that it begins.
    pub(super) fn tells(&mut self, began: Instant) -> bool {
        let tells = began >= self.tell_not_before;
        if tells {
            self.tell_not_before = began + PACE;
        }
        self.untold = !tells;
        tells
    }

    /// It has been done.
    pub(super) fn done(&mut self, began: Instant, now: Instant) {
        (self.due, self.took) = (false, now - began);
        self.not_before = now + self.took * (PART - 1);
    }

    /// When it is to be done though nothing comes in.
    pub(super) fn next(&self) -> Option<Instant> {
        let tells = self.untold.then(|| self.tell_not_before.max(self.not_before));
        self.due.then_some(self.not_before).into_iter().chain(tells).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goes through all, which takes so long. Returns whether places were told, and when it was over.
    fn look(outlook: &mut Outlook, began: Instant, took: Duration) -> (bool, Instant) {
        let told = outlook.tells(began);
        outlook.done(began, began + took);
        (told, began + took)
    }

    #[test]
    fn what_is_quick_is_shown_at_once_to_whoever_waits_and_else_at_a_pace() {
        let begun = Instant::now();
        let mut outlook = Outlook::new(begun);
        assert!(!outlook.is_on(true, begun), "nothing has changed");
        outlook.changed();
        assert!(outlook.is_on(false, begun));
        let (_, over) = look(&mut outlook, begun, QUICK);
        outlook.changed();
        assert!(outlook.is_on(true, over) && !outlook.is_on(false, over));
        assert!(outlook.is_on(false, over + QUICK * (PART - 1)));
        let slow = QUICK * 100;
        let (_, over) = look(&mut outlook, over, slow);
        outlook.changed();
        assert!(!outlook.is_on(true, over + slow * (PART - 2)), "nobody can make it take more of the time");
        assert!(outlook.is_on(false, over + slow * (PART - 1)));
    }

    #[test]
    fn places_that_were_not_told_are_told_when_it_is_time_though_nothing_comes_in() {
        let begun = Instant::now();
        let mut outlook = Outlook::new(begun);
        outlook.changed();
        let (told, over) = look(&mut outlook, begun, QUICK);
        assert!(told && outlook.next().is_none());
        outlook.changed();
        let again = over + QUICK * (PART - 1);
        assert_eq!(outlook.next(), Some(again));
        let (told, _) = look(&mut outlook, again, QUICK);
        assert!(!told);
        assert_eq!(outlook.next(), Some(begun + PACE));
        // Not before it may be done at all.
        let (told, over) = look(&mut outlook, begun + PACE / 2, PACE);
        assert!(!told);
        assert_eq!(outlook.next(), Some(over + PACE * (PART - 1)));
    }
}
