//! The kernel's record locks as a liveness oracle. It knows offsets and pids, not what they mean.
//!
//! Slots are taken with POSIX locks (`F_SETLK`): they belong to the process and end with it. They are looked at with
//! `F_OFD_GETLK`, whose owner is the open file, so that a process also sees the locks that it holds itself (with
//! `F_GETLK` it would not). Both report the holder's pid as the *reader's* pid namespace numbers it, 0 if that
//! namespace does not know it. A process loses all its POSIX locks on a file when it closes any descriptor of it:
//! whoever opens a GPU's file must keep it open (see `gpu.rs`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Locks lie far behind the end of the file; a lock needs no bytes.
const SLOT_BASE: i64 = 1 << 40;
/// The byte that a process holds while it changes accounts.
const ACCOUNTS: i64 = SLOT_BASE - 1;

/// A slot that is held, and by whom: `None` if the reader's pid namespace does not know the holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) slot: usize,
    pub(crate) pid: Option<u32>,
}

fn request(kind: libc::c_int, start: i64, length: i64) -> libc::flock {
    // SAFETY: `flock` is plain old data, for which all zeroes is a valid value.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    // The constants are 0, 1 and 2; the field is a short by C's definition.
    lock.l_type = i16::try_from(kind).unwrap_or_default();
    lock.l_whence = i16::try_from(libc::SEEK_SET).unwrap_or_default();
    lock.l_start = start;
    lock.l_len = length;
    lock
}

fn control(file: BorrowedFd<'_>, command: libc::c_int, lock: &mut libc::flock) -> io::Result<()> {
    loop {
        // SAFETY: the descriptor is borrowed for the call and `lock` is a valid, exclusive `flock`.
        if unsafe { libc::fcntl(file.as_raw_fd(), command, std::ptr::from_mut(lock)) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Ends the accounts' lock when it goes out of scope.
pub(crate) struct AccountsGuard<'a>(BorrowedFd<'a>);

impl Drop for AccountsGuard<'_> {
    fn drop(&mut self) {
        // Unlocking a lock that we hold can only fail for want of kernel memory; the process's end then unlocks it.
        let _ = control(self.0, libc::F_SETLK, &mut request(libc::F_UNLCK, ACCOUNTS, 1));
    }
}

/// Waits until no other process changes accounts. Threads of one process must exclude each other themselves.
pub(crate) fn lock_accounts(file: BorrowedFd<'_>) -> io::Result<AccountsGuard<'_>> {
    control(file, libc::F_SETLKW, &mut request(libc::F_WRLCK, ACCOUNTS, 1))?;
    Ok(AccountsGuard(file))
}

fn slot_offset(slot: usize) -> i64 {
    SLOT_BASE.saturating_add(i64::try_from(slot).unwrap_or(i64::MAX))
}

/// Takes a slot for this process until it ends.
pub(crate) fn take_slot(file: BorrowedFd<'_>, slot: usize) -> io::Result<()> {
    control(file, libc::F_SETLK, &mut request(libc::F_WRLCK, slot_offset(slot), 1))
}

/// Gives a slot back.
pub(crate) fn release_slot(file: BorrowedFd<'_>, slot: usize) -> io::Result<()> {
    control(file, libc::F_SETLK, &mut request(libc::F_UNLCK, slot_offset(slot), 1))
}

/// All slots in `0..end` that a living process holds, in order; about two calls for each of them.
pub(crate) fn held_slots(file: BorrowedFd<'_>, end: usize) -> io::Result<Vec<Held>> {
    let mut held = Vec::new();
    let mut open = vec![(SLOT_BASE, slot_offset(end))];
    while let Some((start, stop)) = open.pop() {
        if start >= stop {
            continue;
        }
        let mut lock = request(libc::F_WRLCK, start, stop - start);
        control(file, libc::F_OFD_GETLK, &mut lock)?;
        if lock.l_type == i16::try_from(libc::F_UNLCK).unwrap_or_default() {
            continue;
        }
        // The kernel names any one lock in the range, not the lowest: look left and right of it.
        let first = lock.l_start.max(start);
        let behind = if lock.l_len == 0 { stop } else { lock.l_start.saturating_add(lock.l_len).min(stop) };
        let pid = u32::try_from(lock.l_pid).ok().filter(|pid| *pid != 0);
        held.extend(
            (first..behind).filter_map(|at| usize::try_from(at - SLOT_BASE).ok()).map(|slot| Held { slot, pid }),
        );
        open.push((start, first));
        open.push((behind, stop));
    }
    held.sort_unstable_by_key(|held| held.slot);
    Ok(held)
}
