//! Puts the libraries in place and takes NVML away again. It may only write in the simulator's `lib` folder.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use memboss_sim_state::SimDir;

/// As built, and as programs look for them.
const LIBRARIES: [(&str, &str); 2] =
    [("libmemboss_sim_nvml.so", "libnvidia-ml.so.1"), ("libmemboss_sim_cuda.so", "libcuda.so.1")];

/// Copies the libraries that lie beside this program, each beside its place and renamed: who has one loaded keeps it.
pub(crate) fn libraries(dir: &SimDir) -> Result<()> {
    let program = std::env::current_exe().context("failed to find this program's own folder")?;
    let from = program.parent().unwrap_or_else(|| Path::new("/"));
    let to = dir.lib_dir();
    std::fs::create_dir_all(&to).with_context(|| format!("failed to make {}", to.display()))?;
    for (built, name) in LIBRARIES {
        let part = to.join(format!(".{name}.part"));
        std::fs::copy(from.join(built), &part).with_context(|| {
            format!("failed to copy {built} from {}: it has to lie beside this program", from.display())
        })?;
        std::fs::rename(&part, to.join(name)).with_context(|| format!("failed to put {name} into {}", to.display()))?;
    }
    Ok(())
}

/// Takes NVML away or brings it back.
pub(crate) fn nvml(dir: &SimDir, present: bool) -> Result<()> {
    let here = dir.lib_dir().join("libnvidia-ml.so.1");
    let away = dir.lib_dir().join("libnvidia-ml.so.1.absent");
    let (from, to) = if present { (&away, &here) } else { (&here, &away) };
    match std::fs::rename(from, to) {
        Ok(()) => Ok(()),
        Err(_) if to.exists() => Ok(()),
        Err(error) => bail!("failed to rename {}: {error}; was it installed?", from.display()),
    }
}
