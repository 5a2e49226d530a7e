//! One file's pages in the cache: how many there are, and dropping them. Only clean pages that nobody has mapped are ever dropped; it needs no right but
//! to read the file.

use std::fs::File;
use std::num::NonZeroU64;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise, fstatfs};

/// The kernel drops whole folios only, which may be 2 MiB large: pieces smaller than that would free nothing, and far larger ones cannot be stopped.
const PIECE: u64 = 256 << 20;

/// How a file's pages are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residency {
    /// So many bytes are in the cache, and so many of them must be written first.
    Known {
        /// All of them.
        cached: u64,
        /// Those that must be written first.
        dirty: u64,
    },
    /// The kernel (before 6.5), the file system (overlay), or the file's owner does not let us know.
    Unknown,
    /// The file lies in memory itself: nothing of it can be dropped.
    InMemory,
}

/// File systems by the kernel's numbers (`linux/magic.h`).
const IN_MEMORY: [u64; 3] = [0x0102_1994, 0x8584_58f6, 0x9584_58f6];
/// It keeps its files' pages with the files below it, and tells of none.
const OVERLAY: u64 = 0x794c_7630;

/// How a file's pages are now.
#[must_use]
pub fn residency(file: &File) -> Residency {
    let system = fstatfs(file).ok().and_then(|told| u64::try_from(told.f_type).ok());
    if system.is_some_and(|system| IN_MEMORY.contains(&system)) {
        return Residency::InMemory;
    }
    match cachestat(file).filter(|_| system != Some(OVERLAY)) {
        Some(counted) => {
            let page = rustix::param::page_size() as u64;
            Residency::Known { cached: counted.cached * page, dirty: (counted.dirty + counted.writeback) * page }
        }
        None => Residency::Unknown,
    }
}

/// `struct cachestat_range` of the kernel.
#[repr(C)]
struct Range {
    offset: u64,
    length: u64,
}

/// `struct cachestat` of the kernel; in pages.
#[repr(C)]
#[derive(Default)]
struct Counted {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// The number on all architectures that Kubernetes runs on; elsewhere the kernel refuses it, and nothing is known.
const SYS_CACHESTAT: libc::c_long = 451;

#[expect(unsafe_code, reason = "no library has this call yet")]
fn cachestat(file: &File) -> Option<Counted> {
    // A length of 0 means up to the end.
    let range = Range { offset: 0, length: 0 };
    let mut counted = Counted::default();
    // SAFETY: both structures have the kernel's layout and outlive the call; the descriptor is open as long as `file` lives.
    let answer = unsafe {
        libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut counted, 0 as libc::c_uint)
    };
    (answer == 0).then_some(counted)
}

/// What dropping may cost.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// After a call to the kernel that took longer, nothing more is dropped.
    pub stall: Duration,
    /// From then on nothing is dropped.
    pub deadline: Instant,
}

/// How dropping went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropping {
    /// How far it got, in bytes.
    pub reached: u64,
    /// The longest that one call to the kernel took.
    pub longest: Duration,
}

/// Drops the clean pages of the first `length` bytes (and of what follows, if that is the whole file), piece by piece, within bounds.
///
/// # Errors
/// What the system said.
pub fn drop_pages(file: &File, length: u64, bounds: Bounds) -> std::io::Result<Dropping> {
    let mut done = Dropping::default();
    while done.reached < length {
        let began = Instant::now();
        if began >= bounds.deadline || done.longest > bounds.stall {
            break;
        }
        let piece = (length - done.reached).min(PIECE);
        fadvise(file, done.reached, NonZeroU64::new(piece), Advice::DontNeed)?;
        done.longest = done.longest.max(began.elapsed());
        done.reached += piece;
    }
    Ok(done)
}
