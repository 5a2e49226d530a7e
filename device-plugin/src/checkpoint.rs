//! The plugin's memory on persistent disk: written whole, with a checksum, through a temporary file. It never holds up a start:
//! a file that does not read back as it was written is set aside, and the caller goes on without it.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::bindings::Bindings;

const FILE: &str = "device-plugin.checkpoint";
/// Raised when a reader of the old form could misread the new one.
const TITLE: &str = "memboss-device-plugin-checkpoint 1";

/// What survives a reboot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Slots to CDI names.
    pub bindings: Bindings,
    /// The GPUs last seen, to advertise before the agent answers.
    pub gpus: Vec<SavedGpu>,
}

/// A GPU last seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedGpu {
    /// Its UUID.
    pub uuid: String,
    /// What could be leased of it.
    pub leasable_mib: u64,
}

/// What the start found.
#[derive(Debug)]
pub enum Found {
    /// No file: the first start on this node.
    Nothing,
    /// A good file.
    Saved(Box<Saved>),
    /// A file that cannot be used, and why; it was moved out of the way if that was possible.
    Unusable(Unusable),
}

/// Why a checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unusable {
    /// The disk did not give it.
    #[error("failed to read the checkpoint {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is not what was written.
    #[error("failed to verify the checkpoint {path:?}: {why}; it is kept as {aside:?}")]
    Verify {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
        /// Where it is now.
        aside: PathBuf,
    },
}

/// The checkpoint could not be written.
#[derive(Debug, thiserror::Error)]
#[error("failed to write the checkpoint {path:?}: is the disk full or read-only?")]
pub struct Write {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The checkpoint of this node.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    directory: PathBuf,
}

impl Checkpoint {
    /// Kept in `directory`, which is created when needed.
    #[must_use]
    pub fn in_directory(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// Reads it; a bad file is set aside.
    #[must_use]
    pub fn load(&self) -> Found {
        let path = self.directory.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Found::Nothing,
            Err(source) => return Found::Unusable(Unusable::Read { path, source }),
        };
        match decode(&bytes) {
            Ok(saved) => Found::Saved(Box::new(saved)),
            Err(why) => {
                let aside = self.directory.join(format!("{FILE}.corrupt"));
                // If it cannot be moved, the next write replaces it.
                let _ = fs::rename(&path, &aside);
                Found::Unusable(Unusable::Verify { path, why, aside })
            }
        }
    }

    /// Writes it whole; when this returns it survives a power cut. Calls must not overlap.
    ///
    /// # Errors
    /// [`Write`].
    pub fn store(&self, saved: &Saved) -> Result<(), Write> {
        let path = self.directory.join(FILE);
        self.replace(&path, saved).map_err(|source| Write { path, source })
    }

    fn replace(&self, path: &Path, saved: &Saved) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let temporary = self.directory.join(format!("{FILE}.new"));
        let mut file = File::create(&temporary)?;
        file.write_all(&encode(saved)?)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(&self.directory)?.sync_all()
    }
}

fn encode(saved: &Saved) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(saved)?;
    let mut bytes = format!("{TITLE} {}\n", digest(&body)).into_bytes();
    bytes.extend(body);
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Result<Saved, &'static str> {
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or("its first line is missing")?;
    let (title, body) = (&bytes[..end], &bytes[end + 1..]);
    if title != format!("{TITLE} {}", digest(body)).as_bytes() {
        return Err("its title or checksum does not match");
    }
    serde_json::from_slice(body).map_err(|_| "its content has another form")
}

fn digest(body: &[u8]) -> String {
    Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slots::SlotSet;

    fn sample() -> Saved {
        let mut bindings = Bindings::starting_at(7);
        bindings.name(&SlotSet::parse(["s0001", "s0002"]).unwrap());
        Saved { bindings, gpus: vec![SavedGpu { uuid: "GPU-1".to_owned(), leasable_mib: 1024 }] }
    }

    #[test]
    fn reads_back_what_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::in_directory(&directory.path().join("new"));
        assert!(matches!(checkpoint.load(), Found::Nothing));
        checkpoint.store(&sample()).unwrap();
        let Found::Saved(found) = checkpoint.load() else { panic!("not found") };
        assert_eq!(*found, sample());
    }

    #[test]
    fn damage_at_any_byte_is_noticed_and_the_file_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::in_directory(directory.path());
        let good = encode(&sample()).unwrap();
        let path = directory.path().join(FILE);
        for position in 0..good.len() {
            for damaged in [
                good.iter().enumerate().map(|(at, b)| if at == position { b ^ 0x20 } else { *b }).collect::<Vec<_>>(),
                good[..position].to_vec(),
            ] {
                fs::write(&path, &damaged).unwrap();
                assert!(matches!(checkpoint.load(), Found::Unusable(Unusable::Verify { .. })), "byte {position}");
                assert!(!path.exists());
                assert_eq!(fs::read(directory.path().join(format!("{FILE}.corrupt"))).unwrap(), damaged);
            }
        }
        checkpoint.store(&sample()).unwrap();
        assert!(matches!(checkpoint.load(), Found::Saved(_)));
    }
}
