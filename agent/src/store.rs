//! What the ledger holds, and the marker's file on persistent disk. That file is replaced as a whole, never changed; one that is torn, foreign or old is
//! recognised and set aside. What is then to be done, and when the ledger is lost (its file: `journal/`), is decided here, in `judge`.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use memboss_core::{EndReason, GpuModel, GpuShare, GpuUuid, LeaseId, LeaseRecord, Mib, Token};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::node::admin::{Drained, Wished};
use crate::node::clients::Client;
use crate::order::{Answered, ContainerSlots, Epoch, Subject};

/// The version of the file's form.
const VERSION: u32 = 1;

/// All that must outlive the agent's process, but not the boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// The boot it belongs to.
    pub boot_id: String,
    /// The agent's start, counted.
    pub agent_epoch: u32,
    /// The newest token.
    pub token: Token,
    /// The newest leader seen.
    pub floor: Option<Epoch>,
    /// The GPUs as they were last seen, so that their leases can be adopted before NVML answers.
    pub gpus: Vec<KnownGpu>,
    /// The engines' leases.
    pub records: Vec<LeaseRecord>,
    /// What the agent knows of each beside that.
    pub holders: BTreeMap<LeaseId, Holder>,
    /// What has ended and is not yet known to everybody.
    pub ended: BTreeMap<LeaseId, Ended>,
    /// Leases in code.
    #[serde(default)]
    pub clients: BTreeMap<LeaseId, Client>,
    /// What root has closed here.
    #[serde(default)]
    pub drained: Drained,
    /// What the cluster has.
    #[serde(default)]
    pub wished: Wished,
}

/// A GPU as it was last seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownGpu {
    /// Its UUID.
    pub uuid: GpuUuid,
    /// NVML's index.
    pub index: u32,
    /// Its model.
    pub model: GpuModel,
    /// All of its memory.
    pub total: Mib,
    /// What the driver keeps.
    pub reserved: Mib,
}

/// What the agent knows of a lease beside what the engine does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Who holds it.
    pub subject: Subject,
    /// The placement it was taken for.
    pub answered: Answered,
    /// Where it was to go: for a claim, which holds nothing yet.
    pub placement: memboss_core::Placement,
    /// Whether that allowed to preempt.
    pub may_preempt: bool,
    /// Which container uses what.
    pub containers: BTreeMap<String, ContainerSlots>,
    /// The pod's cgroup was there in this boot.
    pub cgroup_seen: bool,
}

/// A lease that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The placement it was taken for.
    pub answered: Answered,
    /// Why.
    pub reason: EndReason,
    /// Where it was.
    pub gpus: Vec<GpuShare>,
    /// The token it had.
    pub token: Token,
}

/// What must outlive the boot: by it a lost ledger is told from a fresh boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// The last boot in which an agent ran here.
    pub boot_id: String,
    /// The agent's start, counted.
    pub agent_epoch: u32,
    /// The newest leader seen.
    pub floor: Option<Epoch>,
}

/// A file could not be written or cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// It cannot be written.
    #[error("failed to write {path:?}: is there space, and is the directory writable?")]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It cannot be read.
    #[error("failed to read {path:?}")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It is not what was written.
    #[error("failed to use {path:?}: {what}")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// It cannot be put in words.
    #[error("failed to encode {path:?}")]
    Encode {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
}

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    version: u32,
    sha256: String,
    content: T,
}

/// A file that holds one value.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
}

impl Store {
    /// The file of that name.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// What it holds; nothing if there is no file.
    ///
    /// # Errors
    /// [`Failure::Damaged`] when it holds anything but what [`Store::write`] wrote.
    pub fn read<T: DeserializeOwned>(&self) -> Result<Option<T>, Failure> {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Failure::Read { path: self.path.clone(), source }),
        };
        let damaged = |what| Failure::Damaged { path: self.path.clone(), what };
        let torn = || damaged("it is torn, or of another form");
        let envelope: Envelope<Box<RawValue>> = serde_json::from_slice(&bytes).map_err(|_| torn())?;
        if envelope.version != VERSION {
            return Err(damaged("it is of another version"));
        }
        // Of the words as they were written: an older agent did not know all the fields that this one would write.
        if envelope.sha256 != hex(&Sha256::digest(envelope.content.get().as_bytes())) {
            return Err(damaged("its checksum does not match"));
        }
        serde_json::from_str(envelope.content.get()).map(Some).map_err(|_| torn())
    }

    /// Replaces what it holds, in one step. Returns the digest of it.
    ///
    /// # Errors
    /// [`Failure::Write`]; the old content is still there then.
    pub fn write<T: Serialize>(&self, content: &T) -> Result<[u8; 32], Failure> {
        // Put in words once: with many leases that is what takes time.
        let encode = |source| Failure::Encode { path: self.path.clone(), source };
        let content = serde_json::value::to_raw_value(content).map_err(encode)?;
        let digest = Sha256::digest(content.get().as_bytes());
        let envelope = Envelope { version: VERSION, sha256: hex(&digest), content };
        let bytes = serde_json::to_vec(&envelope).map_err(encode)?;
        replace(&self.path, |temporary| write_all(temporary, &bytes))
            .map_err(|source| Failure::Write { path: self.path.clone(), source })?;
        Ok(digest.into())
    }

    /// Moves a file that cannot be used out of the way, for people to look at.
    ///
    /// # Errors
    /// [`Failure::Write`].
    pub fn set_aside(&self) -> Result<PathBuf, Failure> {
        let aside = self.path.with_extension("damaged");
        match std::fs::rename(&self.path, &aside) {
            Ok(()) => Ok(aside),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(aside),
            Err(source) => Err(Failure::Write { path: self.path.clone(), source }),
        }
    }
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(if value < 10 { b'0' + value } else { b'a' + value - 10 });
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect()
}

/// Lets a file that is written beside it take its name, in one step. Returns what the writing did.
///
/// # Errors
/// What the writing or the system said; what has that name is as it was then.
pub(crate) fn replace<T>(path: &Path, write: impl FnOnce(&Path) -> std::io::Result<T>) -> std::io::Result<T> {
    let temporary = path.with_extension("tmp");
    let written = write(&temporary).and_then(|made| std::fs::rename(&temporary, path).map(|()| made));
    if written.is_err() {
        // A part of it would only take up the space that is wanting.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

fn write_all(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    file.write_all(bytes)?;
    file.sync_data()
}

/// How an agent begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// The ledger of this boot is there: go on.
    Continue(Box<Ledger>),
    /// No agent ran here before.
    First,
    /// The machine was booted anew: its GPU memory is free, but pods that are bound here start again.
    AfterReboot(Marker),
    /// The ledger of this boot is lost.
    Quarantine(Marker),
}

/// How to begin, from what was found in both files.
#[must_use]
pub fn judge(ledger: Result<Option<Ledger>, Failure>, marker: Result<Option<Marker>, Failure>, boot_id: &str) -> Start {
    let marked = marker.is_err() || matches!(&marker, Ok(Some(_)));
    let mut marker = marker.ok().flatten().unwrap_or(Marker { boot_id: boot_id.to_owned(), ..Marker::default() });
    match ledger {
        Ok(Some(mut ledger)) => {
            // Whichever is newer: one of them may not have been written before the end.
            marker.agent_epoch = marker.agent_epoch.max(ledger.agent_epoch);
            if ledger.boot_id == boot_id {
                ledger.agent_epoch = marker.agent_epoch;
                return Start::Continue(Box::new(ledger));
            }
            marker.floor = newer(marker.floor, ledger.floor);
            Start::AfterReboot(marker)
        }
        Ok(None) if !marked => Start::First,
        Ok(None) if marker.boot_id != boot_id => Start::AfterReboot(marker),
        Ok(None) => Start::Quarantine(marker),
        // A damaged ledger on a directory that was not emptied: which boot it was of is not known, so the careful way.
        Err(_) if marked && marker.boot_id != boot_id => Start::AfterReboot(marker),
        Err(_) => Start::Quarantine(marker),
    }
}

fn newer(one: Option<Epoch>, other: Option<Epoch>) -> Option<Epoch> {
    match (one, other) {
        (Some(a), Some(b)) if a.incarnation == b.incarnation => Some(if a.number >= b.number { a } else { b }),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
