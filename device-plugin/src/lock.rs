//! One plugin per node: two would write one checkpoint and take turns in being the kubelet's. The newer waits for the older to end.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;

const FILE: &str = "device-plugin.lock";
const PAUSE: Duration = Duration::from_millis(100);

/// The lock file could not be used.
#[derive(Debug, thiserror::Error)]
#[error("failed to lock {path:?}: is the state directory there and writable?")]
pub struct Unusable {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Held until dropped, or until the process ends in any way.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Waits until this process is the only plugin on `directory`.
///
/// # Errors
/// [`Unusable`].
pub async fn take(directory: &Path) -> Result<Lock, Unusable> {
    let path = directory.join(FILE);
    let failed = |source| Unusable { path: path.clone(), source };
    fs::create_dir_all(directory).map_err(failed)?;
    let file = File::create(&path).map_err(failed)?;
    let mut waited = false;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Lock { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                if !waited {
                    tracing::info!(?path, "another device plugin runs here; waiting for its end");
                    waited = true;
                }
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(failed(error.into())),
        }
    }
}
