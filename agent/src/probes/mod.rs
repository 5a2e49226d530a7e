//! What can be seen of the node: GPUs, processes, pods' cgroups, memory, clock. Probes read; they decide nothing and remember only what makes
//! the next reading cheaper.

pub mod clock;
mod family;
pub mod meminfo;
pub mod nvml;
pub mod pidfd;
pub mod pods;
pub mod pressure;
pub mod processes;
pub mod xid;

use std::path::PathBuf;

/// Something of the node could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unreadable {
    /// A file.
    #[error("failed to read {path:?}: is the node's file system mounted there?")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file that does not say what it should.
    #[error("failed to find {what} in {path:?}")]
    Content {
        /// Which.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
}

/// The figure of that line of a file of the kernel (`MemTotal:   16 kB`), in KiB.
pub(crate) fn kib(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.trim().trim_end_matches("kB").trim_end().parse().ok()
}

/// Reads a small file of the node. A process chooses the bytes of its own name, which stand in some: what is no text there hides nothing of the rest.
pub(crate) fn read(path: &std::path::Path) -> Result<String, Unreadable> {
    let bytes = std::fs::read(path).map_err(|source| Unreadable::File { path: path.to_owned(), source })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
