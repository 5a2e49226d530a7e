//! The shared state of simulated GPUs: one file per GPU, mapped by every process that uses or watches it.
//!
//! It keeps accounts that survive any death without a daemon: a process with a CUDA context takes a POSIX lock on the
//! byte of its slot, and the kernel drops that lock when the process ends, however it ends. A slot without a lock is
//! dead and its bytes are free. It may not know NVML or CUDA: those are the two libraries on top.

#![expect(unsafe_code, reason = "maps a file that several processes share, and locks ranges of it")]

mod directory;
mod gpu;
mod layout;
mod locks;
mod profile;

pub use directory::{DEFAULT_DIR, DIR_ENV, SimDir};
pub use gpu::{Charge, Gpu, Holder, Usage};
pub use layout::{Health, HolderKind, MIB};
pub use profile::{Profile, UnknownProfile, gpu_uuid};

use std::io;
use std::path::PathBuf;

/// What can go wrong with the file of a GPU.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file or its directory could not be used.
    #[error("failed to {what} \"{}\"", path.display())]
    Io {
        /// The operation, a verb.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not the state of a GPU, or of another version.
    #[error("failed to read \"{}\": it is not the state of a simulated GPU of this version; create it again", .0.display())]
    NotAGpu(PathBuf),
    /// The file could only be opened for reading.
    #[error("failed to change \"{}\": it is mounted read-only; mount it read-write", .0.display())]
    ReadOnly(PathBuf),
    /// A lock call failed.
    #[error("failed to lock a range of the GPU's file")]
    Lock(#[source] io::Error),
    /// All process slots are taken.
    #[error("failed to take a process slot: all {0} are in use")]
    NoSlot(usize),
    /// The process asked for memory without having joined.
    #[error("failed to charge memory: this process has no context on the GPU")]
    NotJoined,
    /// The GPU has too little free memory.
    #[error("failed to charge {wanted} bytes: {free} are free")]
    OutOfMemory {
        /// Bytes asked for.
        wanted: u64,
        /// Bytes free at that moment.
        free: u64,
    },
    /// The GPU fell off the bus.
    #[error("failed to use the GPU: it is lost")]
    Lost,
}
