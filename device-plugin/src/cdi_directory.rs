//! Our files in the CDI directory: one for each started set of slots, written just before the container runtime reads it.
//! It touches no file that is not ours. A container that runs does not need its file any more.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use memboss_agent_api::v1::PrepareResponse;
use serde_json::{Map, Value};

use crate::cdi::{ContainerEdits, Spec, compose};
use crate::slots::SlotSet;
use crate::source::Merged;

/// vendor/class of our devices.
pub const KIND: &str = "memboss.dev/lease";
/// How the names of our files begin.
pub const PREFIX: &str = "memboss-lease-";
/// The device that is all GPUs of the node.
pub const ALL_GPUS: &str = "memboss.dev/agent=gpus";
const ALL_GPUS_FILE: &str = "memboss-agent-gpus.json";
/// The vendor's own hook must not add GPUs of its own accord.
const NO_HOOK: &str = "NVIDIA_VISIBLE_DEVICES=void";
const SLOTS: &str = "memboss.dev/slots";
const GPUS: &str = "memboss.dev/gpus";

/// The CDI directory could not be written.
#[derive(Debug, thiserror::Error)]
#[error("failed to write the CDI file {path:?}")]
pub struct Write {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The CDI directory of this node.
#[derive(Clone, Debug)]
pub struct CdiDirectory {
    /// Where the container runtime looks.
    pub path: PathBuf,
    /// The directory with the agent's socket, mounted into each container at the same place.
    pub agent_directory: PathBuf,
}

/// A binding as one of our files tells it.
#[derive(Debug, PartialEq, Eq)]
pub struct Told {
    /// The slots.
    pub slots: SlotSet,
    /// The device names.
    pub names: Vec<String>,
    /// The UUIDs.
    pub gpus: Vec<String>,
}

/// Where a container finds the agent's socket, as a variable of its environment.
#[must_use]
pub fn socket_variable(directory: &Path) -> (&'static str, String) {
    ("MEMBOSS_SOCKET", format!("{}/agent.sock", directory.display()))
}

/// The name of the file for a device name.
#[must_use]
pub fn file_name(device: &str) -> String {
    format!("{PREFIX}{device}.json")
}

impl CdiDirectory {
    /// Writes the file that gives the names what the lease has: `names.last()` is the newest. Then removes older files of the same slots.
    ///
    /// # Errors
    /// [`Write`].
    pub fn write(
        &self,
        slots: &SlotSet,
        names: &[String],
        lease: &PrepareResponse,
        source: Merged,
    ) -> Result<(), Write> {
        let newest = names.last().map_or("", String::as_str);
        self.replace(&file_name(newest), &self.spec(slots, names, lease, source))?;
        self.remove(|name| name != newest && slots.iter().any(|slot| name.starts_with(&format!("{slot}-"))));
        Ok(())
    }

    /// Writes the file of the device [`ALL_GPUS`].
    ///
    /// # Errors
    /// [`Write`].
    pub fn write_all_gpus(&self, source: Merged) -> Result<(), Write> {
        let Merged { mut edits, version } = source;
        edits.merge(&ContainerEdits { env: vec![NO_HOOK.to_owned()], ..ContainerEdits::default() });
        let (kind, device) = ALL_GPUS.split_once('=').unwrap_or((ALL_GPUS, ""));
        self.replace(ALL_GPUS_FILE, &compose(kind, &version, &[device.to_owned()], &edits, Map::new()))
    }

    /// Whether the file of the device [`ALL_GPUS`] is there.
    #[must_use]
    pub fn has_all_gpus(&self) -> bool {
        self.path.join(ALL_GPUS_FILE).exists()
    }

    fn replace(&self, name: &str, spec: &Spec) -> Result<(), Write> {
        let path = self.path.join(name);
        self.try_replace(name, &path, spec).map_err(|source| Write { path, source })
    }

    /// The temporary file must lie in the CDI directory itself: runtimes do not notice a file that is renamed in from another one.
    fn try_replace(&self, name: &str, path: &Path, spec: &Spec) -> io::Result<()> {
        fs::create_dir_all(&self.path)?;
        let temporary = self.path.join(format!(".{name}.tmp"));
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(spec)?)?;
        drop(file);
        fs::rename(&temporary, path)
    }

    fn spec(&self, slots: &SlotSet, names: &[String], lease: &PrepareResponse, source: Merged) -> Spec {
        let uuids = joined(lease.gpus.iter().map(|gpu| gpu.uuid.clone()));
        let Merged { mut edits, version } = source;
        edits.merge(&self.own_edits(lease, &uuids));
        let annotations =
            Map::from_iter([(SLOTS.to_owned(), Value::from(slots.to_string())), (GPUS.to_owned(), Value::from(uuids))]);
        compose(KIND, &version, names, &edits, annotations)
    }

    fn own_edits(&self, lease: &PrepareResponse, uuids: &str) -> ContainerEdits {
        let (socket, at) = socket_variable(&self.agent_directory);
        let mount = serde_json::json!({
            "hostPath": self.agent_directory, "containerPath": self.agent_directory,
            "options": ["ro", "nosuid", "nodev", "noexec", "bind"],
        });
        ContainerEdits {
            env: vec![
                format!("MEMBOSS_LEASE={}", lease.lease),
                format!("MEMBOSS_GPUS={uuids}"),
                format!("MEMBOSS_VRAM_MIB={}", joined(lease.gpus.iter().map(|gpu| gpu.memory_mib.to_string()))),
                format!("{socket}={at}"),
                NO_HOOK.to_owned(),
            ],
            mounts: vec![mount],
            ..ContainerEdits::default()
        }
    }

    /// Removes our files whose names nobody can ask for any more.
    pub fn sweep(&self, live: &BTreeSet<&str>) {
        self.remove(|name| !live.contains(name));
    }

    fn remove(&self, doomed: impl Fn(&str) -> bool) {
        for path in self.files() {
            if device_of(&path).is_some_and(|name| doomed(&name))
                && let Err(error) = fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(?path, %error, "failed to remove an old CDI file");
            }
        }
    }

    /// What our files say, for when the checkpoint is lost. Files that cannot be read are left out.
    #[must_use]
    pub fn told(&self) -> Vec<Told> {
        self.files().iter().filter_map(|path| read(path)).collect()
    }

    fn files(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(&self.path) else { return Vec::new() };
        entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
    }
}

fn read(path: &Path) -> Option<Told> {
    device_of(path)?;
    let spec: Spec = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let word = |key| spec.annotations.get(key).and_then(Value::as_str).map(|text| text.split(','));
    let slots = SlotSet::parse(word(SLOTS)?).ok()?;
    let gpus = word(GPUS)?.filter(|uuid| !uuid.is_empty()).map(str::to_owned).collect();
    Some(Told { slots, names: spec.devices.into_iter().map(|device| device.name).collect(), gpus })
}

fn device_of(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    Some(name.strip_prefix(PREFIX)?.strip_suffix(".json")?.to_owned())
}

fn joined(words: impl Iterator<Item = String>) -> String {
    words.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use memboss_agent_api::v1::GpuShare;

    use super::*;

    fn lease() -> PrepareResponse {
        let gpu = |uuid: &str, memory_mib| GpuShare { uuid: uuid.to_owned(), index: 0, memory_mib };
        PrepareResponse { lease: "team/pod-1".to_owned(), gpus: vec![gpu("GPU-b", 2048), gpu("GPU-a", 1024)] }
    }

    fn merged() -> Merged {
        let edits = ContainerEdits { env: vec!["NVIDIA_VISIBLE_DEVICES=0".to_owned()], ..ContainerEdits::default() };
        Merged { edits, version: "0.5.0".to_owned() }
    }

    #[test]
    fn a_file_says_all_and_replaces_only_older_ones_of_its_slots() {
        let directory = tempfile::tempdir().unwrap();
        let cdi = CdiDirectory { path: directory.path().join("cdi"), agent_directory: "/run/memboss/agent".into() };
        let slots = SlotSet::parse(["s0001", "s0002"]).unwrap();
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        cdi.write(&slots, &names(&["s0001-1"]), &lease(), merged()).unwrap();
        cdi.write(&SlotSet::parse(["s0003"]).unwrap(), &names(&["s0003-2"]), &lease(), merged()).unwrap();
        cdi.write(&slots, &names(&["s0001-1", "s0001-3"]), &lease(), merged()).unwrap();

        let mut told = cdi.told();
        told.sort_by(|a, b| a.slots.cmp(&b.slots));
        let gpus = names(&["GPU-b", "GPU-a"]);
        assert_eq!(told[0], Told { slots, names: names(&["s0001-1", "s0001-3"]), gpus });
        assert_eq!(told.len(), 2);
        assert!(cdi.files().iter().all(|path| device_of(path).is_some()), "a temporary file is left");

        let spec: Spec = serde_json::from_slice(&fs::read(cdi.path.join(file_name("s0001-3"))).unwrap()).unwrap();
        assert_eq!((spec.kind.as_str(), spec.cdi_version.as_str()), (KIND, "0.6.0"));
        let env = &spec.devices[1].container_edits.env;
        let expected = [
            "MEMBOSS_LEASE=team/pod-1",
            "MEMBOSS_GPUS=GPU-b,GPU-a",
            "MEMBOSS_VRAM_MIB=2048,1024",
            "MEMBOSS_SOCKET=/run/memboss/agent/agent.sock",
            "NVIDIA_VISIBLE_DEVICES=void",
        ];
        assert_eq!(env, &expected);
        cdi.sweep(&BTreeSet::from(["s0003-2"]));
        assert_eq!(cdi.told().len(), 1);
    }
}
