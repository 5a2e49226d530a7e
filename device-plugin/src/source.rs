//! Finds the GPUs of a lease in the node's source specs (those that `nvidia-ctk cdi generate` writes, JSON or YAML) and merges what they do to a container.
//! It reads files and writes none.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use memboss_agent_api::v1::GpuShare;

use crate::cdi::{ContainerEdits, Spec, newer};

/// Where source specs are looked for.
#[derive(Clone, Debug)]
pub struct Sources {
    /// vendor/class of the devices to take.
    pub kind: String,
    /// Directories; a later one goes before an earlier one, as everywhere in CDI.
    pub directories: Vec<PathBuf>,
}

/// A GPU of the lease is in no source spec.
#[derive(Debug, thiserror::Error)]
#[error(
    "failed to find GPU {uuid} (index {index}) of kind {kind:?} in the CDI specs of this node; searched: {searched}; \
     run `nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml` on the node (with --device-name-strategy=uuid to be independent of the order)"
)]
pub struct NoSource {
    uuid: String,
    index: u32,
    kind: String,
    searched: String,
}

/// What a container needs for its GPUs, and the spec version that it is written in.
#[derive(Debug)]
pub struct Merged {
    /// The merged edits of all GPUs, in slot order.
    pub edits: ContainerEdits,
    /// The newest version among the specs used.
    pub version: String,
}

/// The spec files read for one search.
struct Search {
    specs: Vec<Spec>,
    /// For the error: every file looked at, with what was wrong with it.
    looked_at: Vec<String>,
}

impl Sources {
    /// Merges the edits of the GPUs, in the order given; the edits common to a spec's devices come first, once.
    ///
    /// # Errors
    /// [`NoSource`] for the first GPU that is in no spec.
    pub fn merge(&self, gpus: &[GpuShare]) -> Result<Merged, NoSource> {
        let search = self.read();
        let mut merged = Merged { edits: ContainerEdits::default(), version: String::new() };
        let mut found = Vec::new();
        for gpu in gpus {
            let (spec, edits) = search.device(gpu).ok_or_else(|| self.missing(gpu, &search))?;
            merged.version = newer(&merged.version, &spec.cdi_version).to_owned();
            merged.edits.merge(&spec.container_edits);
            found.push(edits);
        }
        for edits in found {
            merged.edits.merge(edits);
        }
        Ok(merged)
    }

    fn read(&self) -> Search {
        let mut search = Search { specs: Vec::new(), looked_at: Vec::new() };
        for directory in self.directories.iter().rev() {
            match spec_files(directory) {
                Ok(files) => files.iter().for_each(|path| self.read_file(path, &mut search)),
                Err(error) => search.looked_at.push(format!("{} ({error})", directory.display())),
            }
        }
        search
    }

    fn read_file(&self, path: &Path, search: &mut Search) {
        match parse(path) {
            Ok(spec) if spec.kind == self.kind => {
                let names: Vec<_> = spec.devices.iter().map(|device| device.name.as_str()).collect();
                search.looked_at.push(format!("{} (has {})", path.display(), names.join(" ")));
                search.specs.push(spec);
            }
            // Of another kind: no business of ours, and not worth a word in an error.
            Ok(_) => {}
            Err(error) => search.looked_at.push(format!("{} (unreadable: {error})", path.display())),
        }
    }

    fn missing(&self, gpu: &GpuShare, search: &Search) -> NoSource {
        let searched = if search.looked_at.is_empty() {
            let directories: Vec<_> = self.directories.iter().map(|path| path.display().to_string()).collect();
            format!("no file of this kind in {}", directories.join(" "))
        } else {
            search.looked_at.join(", ")
        };
        NoSource { uuid: gpu.uuid.clone(), index: gpu.index, kind: self.kind.clone(), searched }
    }
}

impl Search {
    /// By UUID in any file first: an index can change its meaning, a UUID cannot.
    fn device(&self, gpu: &GpuShare) -> Option<(&Spec, &ContainerEdits)> {
        let index = gpu.index.to_string();
        [gpu.uuid.as_str(), index.as_str()].into_iter().find_map(|name| {
            self.specs.iter().find_map(|spec| {
                let device = spec.devices.iter().find(|device| device.name == name)?;
                Some((spec, &device.container_edits))
            })
        })
    }
}

/// The spec files of a directory, by name, so that the answer does not depend on the file system.
fn spec_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let is_spec = |path: &PathBuf| {
        path.extension().is_some_and(|kind| kind == "json" || kind == "yaml" || kind == "yml")
            // Our own files: many, and never a source.
            && !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(crate::cdi_directory::PREFIX))
    };
    let mut files: Vec<PathBuf> =
        fs::read_dir(directory)?.filter_map(|entry| Some(entry.ok()?.path())).filter(is_spec).collect();
    files.sort();
    Ok(files)
}

fn parse(path: &Path) -> Result<Spec, Box<dyn std::error::Error>> {
    let text = fs::read_to_string(path)?;
    if path.extension().is_some_and(|kind| kind == "json") {
        Ok(serde_json::from_str(&text)?)
    } else {
        Ok(serde_saphyr::from_str(&text)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = r#"
cdiVersion: "0.7.0"
kind: nvidia.com/gpu
devices:
- name: GPU-a
  containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
      major: 195
      fileMode: 438
- name: "1"
  containerEdits:
    deviceNodes:
    - path: /dev/nvidia1
containerEdits:
  env:
  - NVIDIA_VISIBLE_DEVICES=void
  deviceNodes:
  - path: /dev/nvidiactl
  hooks:
  - hookName: createContainer
    path: /usr/bin/nvidia-cdi-hook
    args: [nvidia-cdi-hook, update-ldcache, --folder, /usr/lib64]
  mounts:
  - hostPath: /usr/lib64/libcuda.so.1
    containerPath: /usr/lib64/libcuda.so.1
    options: [ro, nosuid, nodev, bind]
"#;

    fn share(uuid: &str, index: u32) -> GpuShare {
        GpuShare { uuid: uuid.to_owned(), index, memory_mib: 1024 }
    }

    fn sources(directory: &Path) -> Sources {
        Sources { kind: "nvidia.com/gpu".to_owned(), directories: vec![directory.join("etc"), directory.join("run")] }
    }

    #[test]
    fn several_gpus_come_in_slot_order_after_what_they_share_once() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("etc")).unwrap();
        fs::write(directory.path().join("etc/nvidia.yaml"), YAML).unwrap();
        let merged = sources(directory.path()).merge(&[share("GPU-b", 1), share("GPU-a", 0)]).unwrap();
        let paths: Vec<_> = merged.edits.device_nodes.iter().map(|node| node["path"].as_str().unwrap()).collect();
        assert_eq!(paths, ["/dev/nvidiactl", "/dev/nvidia1", "/dev/nvidia0"]);
        assert_eq!((merged.edits.hooks.len(), merged.edits.mounts.len()), (1, 1));
        assert_eq!(merged.edits.device_nodes[2]["fileMode"], 438);
        assert_eq!(merged.version, "0.7.0");
    }

    #[test]
    fn a_uuid_goes_before_an_index_and_a_later_directory_before_an_earlier_one() {
        let directory = tempfile::tempdir().unwrap();
        for (folder, name, path) in [("etc", "GPU-b", "/dev/by-uuid-etc"), ("run", "1", "/dev/by-index")] {
            fs::create_dir(directory.path().join(folder)).unwrap();
            let spec = serde_json::json!({"cdiVersion": "0.6.0", "kind": "nvidia.com/gpu",
                "devices": [{"name": name, "containerEdits": {"deviceNodes": [{"path": path}]}}]});
            fs::write(directory.path().join(folder).join("gpu.json"), spec.to_string()).unwrap();
        }
        let sources = sources(directory.path());
        let path = |gpu| sources.merge(&[gpu]).unwrap().edits.device_nodes[0]["path"].clone();
        assert_eq!(path(share("GPU-b", 1)), "/dev/by-uuid-etc");
        assert_eq!(path(share("GPU-c", 1)), "/dev/by-index");
    }

    #[test]
    fn a_missing_gpu_names_itself_the_files_and_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("etc")).unwrap();
        fs::write(directory.path().join("etc/nvidia.yaml"), YAML).unwrap();
        fs::write(directory.path().join("etc/broken.json"), "{").unwrap();
        let message = sources(directory.path()).merge(&[share("GPU-z", 9)]).unwrap_err().to_string();
        for word in ["GPU-z", "nvidia.yaml (has GPU-a 1)", "broken.json (unreadable", "nvidia-ctk cdi generate"] {
            assert!(message.contains(word), "{word} is missing in: {message}");
        }
    }
}
