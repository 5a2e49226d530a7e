//! Which pod a process belongs to, by its cgroup. It never looks at a name that the process could choose itself: the search runs from the
//! kubepods root downward and takes the first pod directory, so that a nested cgroup that looks like a pod's cannot stand in for one.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::Instant;

use memboss_core::Mib;
use rustix::io::Errno;

pub use super::family::Shares;
use super::{Unreadable, family, read};

/// A pod's UID.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct PodUid(pub String);

impl PodUid {
    /// The name under which leases of its processes are kept.
    #[must_use]
    pub fn owner(&self) -> String {
        format!("pod-{self}")
    }
}

impl std::fmt::Display for PodUid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// One process: a pid alone may be given on to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// When it started, in clock ticks since the boot.
    pub started: u64,
}

/// A process that asks for a lease, as the kernel knows it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Caller {
    /// Which.
    pub process: Process,
    /// The user that it runs as.
    pub user: u32,
    /// The groups of that user.
    #[serde(default)]
    pub groups: Vec<u32>,
    /// The pod that it belongs to, if it does.
    pub pod: Option<PodUid>,
    /// It lives in a pid namespace of its own, as in a container: its root is not the machine's.
    #[serde(default)]
    pub contained: bool,
    /// What it runs, by the name that the kernel shows: for people, and proves nothing.
    #[serde(default)]
    pub command: String,
}

impl Caller {
    /// The name under which its leases are kept: its pod's, or its user's; see [`Self::is_of`].
    #[must_use]
    pub fn owner(&self) -> String {
        match &self.pod {
            Some(pod) => pod.owner(),
            None if self.user == 0 && self.contained => "contained-root".to_owned(),
            None => format!("user-{}", self.user),
        }
    }

    /// Whether both act for the same owner: the same pod, or the same user outside all pods. Root in a container is not root outside of it.
    #[must_use]
    pub fn is_of(&self, other: &Self) -> bool {
        let same_user = self.user == other.user && (self.user != 0 || self.contained == other.contained);
        self.pod == other.pod && (self.pod.is_some() || same_user)
    }

    /// Whether it acts for that user of the machine itself, and not of a container on it.
    #[must_use]
    pub const fn is_user(&self, user: u32) -> bool {
        self.pod.is_none() && !self.contained && self.user == user
    }
}

/// Whose a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A pod's.
    Pod(PodUid),
    /// Nobody's that we know.
    Other,
}

/// Reads processes below one `/proc`. Remembers what it found for as long as the process lives: a process cannot leave its pod.
#[derive(Debug)]
pub struct Processes {
    proc_root: PathBuf,
    known: HashMap<u32, (u64, Owner)>,
}

impl Processes {
    /// Reads below that directory.
    #[must_use]
    pub fn new(proc_root: impl Into<PathBuf>) -> Self {
        Self { proc_root: proc_root.into(), known: HashMap::new() }
    }

    /// Whose that process is, or was when it could last be told: a driver may show a process for a moment after its end. `None` when that was
    /// never known.
    pub fn owner(&mut self, pid: u32) -> Option<Owner> {
        let Ok(started) = self.start_time(pid) else {
            return self.known.get(&pid).map(|(_, owner)| owner.clone());
        };
        if let Some((at, owner)) = self.known.get(&pid)
            && *at == started
        {
            return Some(owner.clone());
        }
        let owner = owner_of(&self.proc_root, pid).ok()?;
        // The pid may have been given to another process while its cgroup was read.
        if self.start_time(pid).ok()? != started {
            return None;
        }
        self.known.insert(pid, (started, owner.clone()));
        Some(owner)
    }

    /// The `/proc` that it reads.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.proc_root
    }

    /// A process and those that it descends from, the nearest first.
    #[must_use]
    pub fn lineage(&self, pid: u32) -> Vec<Process> {
        family::lineage(&self.proc_root, pid)
    }

    /// What that process and those that it began have of RAM that cannot be dropped, without those others and what they began, as far as it is found until
    /// then, and whether that was all; `None` once it is gone.
    #[must_use]
    pub fn ram(
        &self,
        of: Process,
        others: &BTreeSet<Process>,
        until: Instant,
        shares: &mut Shares,
    ) -> Option<(Mib, bool)> {
        let without = others.iter().map(|process| process.pid).filter(|pid| *pid != of.pid).collect();
        (self.start_time(of.pid).ok()? == of.started)
            .then(|| family::ram(&self.proc_root, of.pid, without, until, shares))
    }

    /// Forgets all but those processes.
    pub fn keep_only(&mut self, pids: &std::collections::BTreeSet<u32>) {
        self.known.retain(|pid, _| pids.contains(pid));
    }

    fn start_time(&self, pid: u32) -> Result<u64, Unreadable> {
        start_time(&self.proc_root, pid)
    }
}

/// The pod of a process that has just connected, read twice so that a pid that was given on is noticed.
///
/// # Errors
/// When the process is gone or `/proc` cannot be read.
pub fn identify(proc_root: &Path, pid: u32) -> Result<Owner, Unreadable> {
    let started = start_time(proc_root, pid)?;
    let owner = owner_of(proc_root, pid)?;
    if start_time(proc_root, pid)? == started {
        Ok(owner)
    } else {
        Err(Unreadable::Content { path: proc_root.join(pid.to_string()), what: "the process that connected" })
    }
}

/// Whether that process lives, or has ended and perhaps another one has its pid.
///
/// # Errors
/// When it cannot be looked at just now: that says nothing of it.
pub fn lives(proc_root: &Path, of: Process) -> Result<bool, Unreadable> {
    use std::io::ErrorKind::NotFound;
    let ended =
        |source: &std::io::Error| source.kind() == NotFound || Errno::from_io_error(source) == Some(Errno::SRCH);
    match process(proc_root, of.pid) {
        Ok(there) => Ok(there == of),
        Err(Unreadable::File { source, .. }) if ended(&source) => Ok(false),
        Err(unreadable) => Err(unreadable),
    }
}

/// That process as it is now.
///
/// # Errors
/// When it is gone or `/proc` cannot be read.
pub fn process(proc_root: &Path, pid: u32) -> Result<Process, Unreadable> {
    Ok(Process { pid, started: start_time(proc_root, pid)? })
}

/// The groups that a process acts for, that one and those beside it; and whether it lives in a pid namespace below that of `proc_root`.
///
/// # Errors
/// When the process is gone or `/proc` does not tell: nobody is taken for more than that shows.
pub fn standing(proc_root: &Path, pid: u32, first: u32) -> Result<(Vec<u32>, bool), Unreadable> {
    let path = proc_root.join(pid.to_string()).join("status");
    let status = read(&path)?;
    let words = |name, what| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let missing = || Unreadable::Content { path: path.clone(), what };
        line.map(str::split_ascii_whitespace).ok_or_else(missing)
    };
    let mut groups: Vec<u32> =
        words("Groups:", "the groups of the process")?.filter_map(|group| group.parse().ok()).collect();
    groups.push(first);
    // Its pid in each namespace that it is seen in, the outermost first.
    let contained = words("NSpid:", "the pid in each namespace")?.count() > 1;
    Ok((groups, contained))
}

/// The name of what a process runs, without what a terminal would obey; empty if it cannot be read.
#[must_use]
pub fn command(proc_root: &Path, pid: u32) -> String {
    let name = read(&proc_root.join(pid.to_string()).join("comm")).unwrap_or_default();
    name.trim_end().chars().filter(|c| !c.is_control()).collect()
}

fn owner_of(proc_root: &Path, pid: u32) -> Result<Owner, Unreadable> {
    let text = read(&proc_root.join(pid.to_string()).join("cgroup"))?;
    Ok(pod_of(&text).map_or(Owner::Other, Owner::Pod))
}

fn start_time(proc_root: &Path, pid: u32) -> Result<u64, Unreadable> {
    stat_field(proc_root, pid, 19)
}

pub(super) fn stat_field(proc_root: &Path, pid: u32, field: usize) -> Result<u64, Unreadable> {
    let path = proc_root.join(pid.to_string()).join("stat");
    let stat = read(&path)?;
    // The name stands in parentheses and may hold anything, also parentheses and spaces; the fields follow the last one.
    stat.rsplit_once(')')
        .and_then(|(_, rest)| rest.split_ascii_whitespace().nth(field))
        .and_then(|field| field.parse().ok())
        .ok_or(Unreadable::Content { path, what: "the parent and the start time" })
}

/// The pod that a `/proc/<pid>/cgroup` file names, whichever hierarchy or driver: the first line that leads into a pod.
#[must_use]
pub fn pod_of(cgroup_file: &str) -> Option<PodUid> {
    cgroup_file.lines().filter_map(|line| line.splitn(3, ':').nth(2)).find_map(pod_in_path)
}

/// The pod directory on a cgroup path, searched from the kubepods root downward.
fn pod_in_path(path: &str) -> Option<PodUid> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    // From inside a cgroup namespace a neighbour is shown by the way up and down again, which may begin below the kubepods root.
    let up = parts.iter().take_while(|part| **part == "..").count();
    let down = &parts[up..];
    if up > 0
        && let Some(pod) = pod_at(down)
    {
        return Some(pod);
    }
    let root = down.iter().position(|part| is_kubepods(part))?;
    // Users may make directories of any name below their own.
    if down[..root].contains(&"user.slice") { None } else { pod_at(&down[root + 1..]) }
}

/// The pod whose directory that is, or that lies below one directory of a quality of service.
fn pod_at(parts: &[&str]) -> Option<PodUid> {
    let (first, rest) = parts.split_first()?;
    pod_directory(first).or_else(|| pod_directory(rest.first().filter(|_| is_quality(first))?))
}

/// Whether that is the directory below which a kubelet keeps its pods, with any driver's spelling.
#[must_use]
pub fn is_kubepods(name: &str) -> bool {
    let name = name.strip_suffix(".slice").unwrap_or(name);
    name == "kubepods" || name.ends_with("-kubepods")
}

/// Whether that is the directory of a quality-of-service class below the kubepods root.
#[must_use]
pub fn is_quality(name: &str) -> bool {
    let name = name.strip_suffix(".slice").unwrap_or(name);
    ["burstable", "besteffort"].iter().any(|class| name == *class || name.ends_with(&format!("kubepods-{class}")))
}

/// The pod whose directory that is: `pod<uid>` (cgroupfs) or `…kubepods…-pod<uid with underscores>.slice` (systemd).
#[must_use]
pub fn pod_directory(name: &str) -> Option<PodUid> {
    let uid = match name.strip_suffix(".slice") {
        Some(unit) => unit.rsplit_once("-pod").filter(|(before, _)| before.contains("kubepods"))?.1.replace('_', "-"),
        None => name.strip_prefix("pod")?.to_owned(),
    };
    let fits = !uid.is_empty() && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    fits.then_some(PodUid(uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_no_text_hides_neither_groups_nor_namespace_and_what_is_not_told_is_not_guessed() {
        let dir = tempfile::tempdir().unwrap();
        let process = dir.path().join("7");
        std::fs::create_dir(&process).unwrap();
        let tells = |status: &[u8]| std::fs::write(process.join("status"), status).unwrap();
        tells(b"Name:\t\xff\nGroups:\t4 20\nNSpid:\t7\t1\n");
        assert_eq!(standing(dir.path(), 7, 0).unwrap(), (vec![4, 20, 0], true));
        tells(b"Name:\t\xff\nGroups:\t\nNSpid:\t7\n");
        assert_eq!(standing(dir.path(), 7, 0).unwrap(), (vec![0], false));
        tells(b"Name:\tx\nGroups:\t\n");
        assert!(standing(dir.path(), 7, 0).is_err() && standing(dir.path(), 8, 0).is_err());
    }

    const UID: &str = "0a1b2c3d-1111-2222-3333-444455556666";

    fn found(text: &str) -> Option<String> {
        pod_of(text).map(|uid| uid.0)
    }

    #[test]
    fn a_pod_is_found_in_both_hierarchies_and_with_both_drivers() {
        let under = UID.replace('-', "_");
        for text in [
            format!("0::/kubepods/burstable/pod{UID}/abc123"),
            // As an agent in a cgroup namespace of its own sees its neighbours.
            format!("0::/../../pod{UID}/abc123"),
            format!("0::/../../../besteffort/pod{UID}/abc123"),
            format!("0::/../../kubepods-burstable-pod{under}.slice/cri-containerd-abc.scope"),
            format!(
                "0::/../../../kubepods-besteffort.slice/kubepods-besteffort-pod{under}.slice/cri-containerd-abc.scope"
            ),
            format!("0::/../../../kubepods-pod{under}.slice/cri-containerd-abc.scope"),
            format!("0::/kubepods/pod{UID}/abc123"),
            format!(
                "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{under}.slice/cri-containerd-abc.scope"
            ),
            format!("0::/kubepods.slice/kubepods-pod{under}.slice/cri-containerd-abc.scope"),
            format!(
                "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{under}.slice/x"
            ),
            format!(
                "9:name=systemd:/\n8:pids:/testbed/n1/kubepods/besteffort/pod{UID}/abc\n4:memory:/testbed/n1/kubepods/besteffort/pod{UID}/abc\n0::/"
            ),
            format!("0::/../../kubepods/burstable/pod{UID}/abc"),
        ] {
            assert_eq!(found(&text).as_deref(), Some(UID), "{text}");
        }
    }

    #[test]
    fn what_only_looks_like_a_pod_is_none() {
        for text in [
            "0::/system.slice/containerd.service",
            "0::/",
            "",
            "garbage",
            &format!("0::/user.slice/pod{UID}/x"),
            "0::/kubepods/burstable",
            "0::/kubepods/burstable/podx y",
            &format!("0::/kubepods/other/pod{UID}"),
            // What users make below their own directory.
            &format!("0::/user.slice/user-1000.slice/user@1000.service/kubepods/pod{UID}/x"),
            &format!("0::/../../user.slice/user-1000.slice/kubepods/pod{UID}/x"),
        ] {
            assert_eq!(found(text), None, "{text}");
        }
    }

    #[test]
    fn a_nested_directory_cannot_stand_in_for_another_pod() {
        let text =
            format!("0::/kubepods/burstable/pod{UID}/abc/kubepods/burstable/podffffffff-0000-0000-0000-000000000000/x");
        assert_eq!(found(&text).as_deref(), Some(UID));
    }

    #[test]
    fn a_process_is_told_from_the_next_one_with_its_pid() {
        let proc = tempfile::tempdir().unwrap();
        let write = |start: &str, cgroup: &str| {
            let dir = proc.path().join("7");
            std::fs::create_dir_all(&dir).unwrap();
            let fields = "S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0";
            std::fs::write(dir.join("stat"), format!("7 (a) b) {fields} {start} 0 0")).unwrap();
            std::fs::write(dir.join("cgroup"), cgroup).unwrap();
        };
        let mut processes = Processes::new(proc.path());
        assert_eq!(processes.owner(7), None);
        write("100", &format!("0::/kubepods/pod{UID}/a"));
        assert_eq!(processes.owner(7), Some(Owner::Pod(PodUid(UID.to_owned()))));
        write("200", "0::/system.slice");
        assert_eq!(processes.owner(7), Some(Owner::Other));
        std::fs::remove_dir_all(proc.path().join("7")).unwrap();
        assert_eq!(processes.owner(7), Some(Owner::Other), "shown for a moment after its end");
        processes.keep_only(&[].into());
        assert_eq!(processes.owner(7), None);
    }
}
