//! The monotonic clock and the boot id. Durations come from here alone; no wall clock decides anything.

use std::path::Path;

use memboss_core::Moment;
use rustix::time::{ClockId, clock_gettime};

use super::{Unreadable, read};

/// Now, on the clock that only a boot resets. It stands while the machine sleeps: holders sleep too, and have all of their notice after it.
#[must_use]
pub fn now() -> Moment {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    Moment::from_millis(seconds.saturating_mul(1000).saturating_add(nanoseconds / 1_000_000))
}

/// The id of this boot, from the kernel's file or one that stands in for it.
///
/// # Errors
/// When the file cannot be read or is empty: without it, memory of another boot could be taken for this one's.
pub fn boot_id(path: &Path) -> Result<String, Unreadable> {
    let id = read(path)?.trim().to_owned();
    if id.is_empty() { Err(Unreadable::Content { path: path.to_owned(), what: "a boot id" }) } else { Ok(id) }
}
