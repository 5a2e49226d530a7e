//! The CDI specification of the simulated GPUs, in the shape of a driver's: one device for each GPU, by UUID and by index. A container gets the files
//! of its GPUs and the library; it sees no other GPU.

use std::path::Path;

use anyhow::{Context as _, Result};
use memboss_sim_state::{DEFAULT_DIR, DIR_ENV, SimDir};
use serde_json::{Value, json};

/// Where the loader of a glibc container looks without being told.
const LIBRARY: &str = "/usr/lib/libcuda.so.1";

/// Writes it, beside its place and renamed.
pub(crate) fn write(dir: &SimDir, out: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(&specification(dir)?)?;
    let part = out.with_extension("part");
    std::fs::write(&part, text).with_context(|| format!("failed to write {}", part.display()))?;
    std::fs::rename(&part, out).with_context(|| format!("failed to write {}", out.display()))
}

fn specification(dir: &SimDir) -> Result<Value> {
    let mount =
        |from: &Path, to: &str, options: &[&str]| json!({ "hostPath": from, "containerPath": to, "options": options });
    let mut devices = Vec::new();
    for gpu in dir.gpus()? {
        let file = dir.gpu_path(&gpu.uuid());
        // Writable: a process keeps its account in it.
        let edits = json!({ "mounts": [mount(&file, &file.to_string_lossy(), &["rw", "bind"])] });
        for name in [gpu.uuid(), gpu.index().to_string()] {
            devices.push(json!({ "name": name, "containerEdits": edits }));
        }
    }
    let env = if dir.path() == Path::new(DEFAULT_DIR) {
        json!([])
    } else {
        json!([format!("{DIR_ENV}={}", dir.path().display())])
    };
    let library = mount(&dir.lib_dir().join("libcuda.so.1"), LIBRARY, &["ro", "bind"]);
    Ok(json!({
        "cdiVersion": "0.6.0",
        "kind": "nvidia.com/gpu",
        "devices": devices,
        "containerEdits": { "mounts": [library], "env": env },
    }))
}
