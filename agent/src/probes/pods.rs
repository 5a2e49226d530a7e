//! Which pods have a cgroup on this node: a pod whose directory is gone has no process left. It cannot tell a pod that has not begun from one
//! that is over; whoever asks remembers what was seen.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use memboss_core::Mib;

use super::Unreadable;
use super::processes::{PodUid, is_kubepods, is_quality, pod_directory};

/// In a version 1 hierarchy each controller has a tree of its own; one of these is there wherever the kubelet runs.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// The kubelet's cgroups below one root.
#[derive(Clone, Debug)]
pub struct PodCgroups {
    root: PathBuf,
}

impl PodCgroups {
    /// `root` is where the node's cgroups are mounted, or a directory in them (of each controller, in version 1) that is the whole of a node.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// All pods that have a directory now.
    ///
    /// # Errors
    /// When no kubepods root is found or it cannot be read: then nobody may be taken for gone.
    pub fn observe(&self) -> Result<BTreeSet<PodUid>, Unreadable> {
        let mut pods = BTreeSet::new();
        let mut found = false;
        for root in self.kubepods()? {
            found = true;
            for name in directories(&root)? {
                match pod_directory(&name) {
                    Some(uid) => drop(pods.insert(uid)),
                    None if is_quality(&name) => {
                        // The class's directory may vanish when its last pod goes.
                        let inside = directories(&root.join(&name)).unwrap_or_default();
                        pods.extend(inside.iter().filter_map(|name| pod_directory(name)));
                    }
                    None => {}
                }
            }
        }
        if found {
            Ok(pods)
        } else {
            Err(Unreadable::Content { path: self.root.clone(), what: "the kubelet's cgroups" })
        }
    }

    /// What these pods have of RAM that cannot be dropped: their own pages and shared memory. Who has no figure is left out.
    #[must_use]
    pub fn ram(&self, of: &BTreeSet<PodUid>) -> BTreeMap<PodUid, Mib> {
        let mut used = BTreeMap::new();
        for root in self.kubepods().unwrap_or_default() {
            for name in directories(&root).unwrap_or_default() {
                let inside =
                    if is_quality(&name) { directories(&root.join(&name)).unwrap_or_default() } else { Vec::new() };
                let inside = inside.into_iter().map(|pod| (root.join(&name).join(&pod), pod));
                for (path, pod) in std::iter::once((root.join(&name), name.clone())).chain(inside) {
                    let wanted = pod_directory(&pod).filter(|uid| of.contains(uid));
                    used.extend(wanted.zip(ram_in(&path)));
                }
            }
        }
        used
    }

    /// What is left of what the kubelet lets all pods have together, counted as it counts: file cache that was not used lately is left too. Nothing where it
    /// has set no limit.
    #[must_use]
    pub fn room(&self) -> Option<Mib> {
        self.kubepods().unwrap_or_default().iter().filter_map(|root| room_in(root)).min()
    }

    /// Whether the kernel's own memory counts as used in these cgroups: it does in version 2.
    #[must_use]
    pub fn counts_kernel(&self) -> bool {
        self.kubepods().unwrap_or_default().iter().any(|root| root.join("memory.current").exists())
    }

    /// The kubepods directories: at the root itself (version 2), or below one controller's (version 1), perhaps one level further down.
    fn kubepods(&self) -> Result<Vec<PathBuf>, Unreadable> {
        let direct = kubepods_in(&self.root)?;
        if !direct.is_empty() {
            return Ok(direct);
        }
        for controller in CONTROLLERS {
            let found = kubepods_in(&self.root.join(controller)).unwrap_or_default();
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }
}

/// `anon` and `shmem` of a version 2 group; `total_rss` and `total_shmem` of a version 1 group, with all below it.
fn ram_in(group: &Path) -> Option<Mib> {
    let text = std::fs::read_to_string(group.join("memory.stat")).ok()?;
    let figure = |names: [&str; 2]| {
        let line = text.lines().find_map(|line| line.split_once(' ').filter(|(name, _)| names.contains(name)));
        line.and_then(|(_, bytes)| bytes.parse::<u64>().ok())
    };
    let own = figure(["anon", "total_rss"])?;
    Some(Mib::from_bytes_ceil(own.saturating_add(figure(["shmem", "total_shmem"]).unwrap_or_default())))
}

/// A limit above that is none: version 1 writes "no limit" as a very large number.
const NO_LIMIT: u64 = 1 << 60;

fn room_in(group: &Path) -> Option<Mib> {
    let file = |name: &str| std::fs::read_to_string(group.join(name)).ok();
    let number = |name: &str| file(name)?.trim().parse::<u64>().ok();
    let (limit, used, idle) = match number("memory.current") {
        Some(used) => (number("memory.max")?, used, "inactive_file"),
        None => (number("memory.limit_in_bytes")?, number("memory.usage_in_bytes")?, "total_inactive_file"),
    };
    let stat = file("memory.stat")?;
    let idle = stat.lines().find_map(|line| line.split_once(' ').filter(|(name, _)| *name == idle))?.1;
    let left = limit.saturating_sub(used.saturating_sub(idle.parse().ok()?));
    (limit < NO_LIMIT).then(|| Mib::from_bytes_floor(left))
}

fn kubepods_in(dir: &Path) -> Result<Vec<PathBuf>, Unreadable> {
    let mut found = Vec::new();
    for name in directories(dir)? {
        if is_kubepods(&name) {
            found.push(dir.join(name));
        } else if let Some(parent) = name.strip_suffix(".slice") {
            // A kubelet with a cgroup root of its own: kubelet.slice/kubelet-kubepods.slice.
            let nested = dir.join(&name).join(format!("{parent}-kubepods.slice"));
            if nested.is_dir() {
                found.push(nested);
            }
        }
    }
    Ok(found)
}

fn directories(dir: &Path) -> Result<Vec<String>, Unreadable> {
    let failed = |source| Unreadable::File { path: dir.to_owned(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0a1b2c3d-1111-2222-3333-444455556666";

    #[test]
    fn pods_are_found_in_both_hierarchies_and_with_both_drivers() {
        let under = UID.replace('-', "_");
        for path in [
            format!("kubepods/burstable/pod{UID}/abc"),
            format!("kubepods/pod{UID}"),
            format!("kubepods.slice/kubepods-pod{under}.slice"),
            format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{under}.slice"),
            format!("kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{under}.slice"),
            format!("memory/kubepods/besteffort/pod{UID}"),
            format!("pids/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{under}.slice"),
        ] {
            let root = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(root.path().join(&path)).unwrap();
            let pods = PodCgroups::new(root.path()).observe().unwrap();
            assert_eq!(pods.into_iter().map(|uid| uid.0).collect::<Vec<_>>(), [UID], "{path}");
        }
    }

    #[test]
    fn the_ram_of_a_pod_is_what_cannot_be_dropped() {
        for (path, text) in [
            (format!("kubepods/burstable/pod{UID}"), "anon 3145728\nfile 9999999999\nshmem 1048576\n"),
            (
                format!("memory/kubepods/pod{UID}"),
                "cache 9\nrss 1\ntotal_cache 9999999999\ntotal_rss 3145728\ntotal_shmem 1048576\n",
            ),
        ] {
            let root = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(root.path().join(&path)).unwrap();
            std::fs::write(root.path().join(&path).join("memory.stat"), text).unwrap();
            let pods = PodCgroups::new(root.path());
            let wanted = BTreeSet::from([PodUid(UID.into())]);
            assert_eq!(pods.ram(&wanted), BTreeMap::from([(PodUid(UID.into()), Mib::from_mib(4))]), "{path}");
            assert!(pods.ram(&BTreeSet::new()).is_empty());
        }
    }

    #[test]
    fn without_a_kubepods_root_nobody_is_taken_for_gone() {
        let root = tempfile::tempdir().unwrap();
        assert!(PodCgroups::new(root.path()).observe().is_err());
        assert!(PodCgroups::new(root.path().join("absent")).observe().is_err());
        std::fs::create_dir(root.path().join("kubepods")).unwrap();
        assert!(PodCgroups::new(root.path()).observe().unwrap().is_empty());
    }
}
