//! Where the simulator lives on a node. What a process sees in `gpus/` are its GPUs: a container has only those whose
//! files are mounted into it.

use std::path::{Path, PathBuf};

use crate::{Gpu, StateError};

/// The directory when nothing else is said.
pub const DEFAULT_DIR: &str = "/run/memboss-sim";
/// The environment variable that says where it is.
pub const DIR_ENV: &str = "MEMBOSS_SIM_DIR";

/// A simulator's directory.
#[derive(Debug, Clone)]
pub struct SimDir(PathBuf);

impl SimDir {
    /// The directory at this path.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory that the environment names, or the default one.
    #[must_use]
    pub fn from_env() -> Self {
        Self(std::env::var_os(DIR_ENV).filter(|dir| !dir.is_empty()).map_or_else(|| DEFAULT_DIR.into(), PathBuf::from))
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where the GPUs' files are.
    #[must_use]
    pub fn gpus_dir(&self) -> PathBuf {
        self.0.join("gpus")
    }

    /// Where the libraries are installed.
    #[must_use]
    pub fn lib_dir(&self) -> PathBuf {
        self.0.join("lib")
    }

    /// The file of one GPU.
    #[must_use]
    pub fn gpu_path(&self, uuid: &str) -> PathBuf {
        self.gpus_dir().join(uuid)
    }

    /// All GPUs that are visible here, by index. A file that is no GPU is passed over.
    ///
    /// # Errors
    /// When the directory exists but cannot be read.
    pub fn gpus(&self) -> Result<Vec<&'static Gpu>, StateError> {
        let dir = self.gpus_dir();
        let failed = |source| StateError::Io { what: "list", path: dir.clone(), source };
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut gpus = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            if let Ok(gpu) = Gpu::open(&entry.path()) {
                gpus.push(gpu);
            }
        }
        gpus.sort_by_cached_key(|gpu| (gpu.index(), gpu.uuid()));
        Ok(gpus)
    }
}
