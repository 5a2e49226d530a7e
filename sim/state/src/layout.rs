//! The binary layout of a GPU's file. Every field that changes is an atomic; nothing here reads or writes files.
//!
//! The file is made of zeroes plus the header, so all-zero must be a valid value of each type.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Bytes of one MiB.
pub const MIB: u64 = 1 << 20;
/// First eight bytes of a GPU's file ("MBSIMGPU").
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"MBSIMGPU");
/// Version of this layout.
pub(crate) const VERSION: u32 = 1;
/// Process slots of one GPU: more than a node has pods, and 256 KiB.
pub(crate) const SLOTS: usize = 4096;
/// XIDs that are kept; a reader that falls behind by more misses the oldest.
pub(crate) const XIDS: usize = 64;

/// What a GPU is, written once.
#[repr(C)]
pub(crate) struct Header {
    /// Written last, so that a file half made is not taken for a GPU.
    pub(crate) magic: AtomicU64,
    pub(crate) version: AtomicU32,
    pub(crate) index: AtomicU32,
    pub(crate) total: AtomicU64,
    pub(crate) reserved: AtomicU64,
    pub(crate) context: AtomicU64,
    pub(crate) capability_major: AtomicU32,
    pub(crate) capability_minor: AtomicU32,
    pub(crate) pci_device_id: AtomicU32,
    pub(crate) power_limit_milliwatts: AtomicU32,
    pub(crate) name: Text<12>,
    pub(crate) uuid: Text<8>,
    /// Slots at and above this one were never used.
    pub(crate) high_water: AtomicU32,
    pub(crate) health: AtomicU32,
    /// XIDs ever pushed; the next goes to `xids[count % XIDS]`.
    pub(crate) xid_count: AtomicU64,
    pub(crate) xids: [AtomicU64; XIDS],
}

/// The account of one process.
#[repr(C, align(64))]
pub(crate) struct Slot {
    pub(crate) bytes: AtomicU64,
    pub(crate) kind: AtomicU32,
    /// The pid as the process sees itself: for people who read a dump; readers take the lock's.
    pub(crate) own_pid: AtomicU32,
    pub(crate) name: Text<2>,
}

/// A whole file.
#[repr(C)]
pub(crate) struct Layout {
    pub(crate) header: Header,
    pub(crate) slots: [Slot; SLOTS],
}

/// A short text in 8-byte words, cut at the end.
#[repr(C)]
pub(crate) struct Text<const WORDS: usize>([AtomicU64; WORDS]);

impl<const WORDS: usize> Text<WORDS> {
    pub(crate) fn store(&self, text: &str) {
        let mut bytes = text.bytes();
        for word in &self.0 {
            let word_bytes: [u8; 8] = std::array::from_fn(|_| bytes.next().unwrap_or(0));
            word.store(u64::from_le_bytes(word_bytes), Ordering::Relaxed);
        }
    }

    pub(crate) fn load(&self) -> String {
        let bytes: Vec<u8> = self
            .0
            .iter()
            .flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes())
            .take_while(|byte| *byte != 0)
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// The state of the GPU as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It works.
    Ok,
    /// It fell off the bus: calls on it fail.
    Lost,
    /// The driver hangs: calls on it block.
    Hung,
}

impl Health {
    pub(crate) fn to_word(self) -> u32 {
        match self {
            Self::Ok => 0,
            Self::Lost => 1,
            Self::Hung => 2,
        }
    }

    pub(crate) fn from_word(word: u32) -> Self {
        match word {
            0 => Self::Ok,
            2 => Self::Hung,
            _ => Self::Lost,
        }
    }

    /// A word for tables.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Lost => "lost",
            Self::Hung => "hung",
        }
    }
}

/// Who holds memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HolderKind {
    /// A process that made a CUDA context.
    Compute,
    /// A process that the simulator started to stand for somebody outside memboss.
    Foreign,
}

impl HolderKind {
    pub(crate) fn to_word(self) -> u32 {
        match self {
            Self::Compute => 0,
            Self::Foreign => 1,
        }
    }

    pub(crate) fn from_word(word: u32) -> Self {
        if word == 1 { Self::Foreign } else { Self::Compute }
    }

    /// A word for tables.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::Foreign => "foreign",
        }
    }
}
