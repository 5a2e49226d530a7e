//! Host RAM as the kernel tells it, who uses it, and dropping page cache that nobody needs. It works by itself on any Linux machine; it may not know
//! leases, the agent, or Kubernetes. What a figure means is judged in `memboss-core` (`pressure.rs`).
//!
//! - the whole of it: `report.rs`; the limit of this container: `limit.rs`; who uses it: `users.rs`
//! - which files may be dropped: `candidates.rs`; whether they are in the cache, and dropping them: `cache.rs`; the modes and their limits: `clean.rs`

pub mod cache;
pub mod candidates;
pub mod clean;
pub mod limit;
pub mod report;
pub mod users;

use std::path::PathBuf;

/// Something of the machine could not be read or done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// A file of the kernel.
    #[error("failed to read {path:?}: is /proc mounted?")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: procfs::ProcError,
    },
    /// A file or directory of the user's.
    #[error("failed to look at {path:?}: does it exist, and may it be read?")]
    Look {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The kernel's switch for the whole machine.
    #[error("failed to write {path:?}: dropping the cache of the whole machine needs root")]
    Drop {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}
