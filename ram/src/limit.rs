//! The memory limit of the control group that this process runs in, as in a container: it counts page cache, so dropping cache makes room below it.

use std::path::{Path, PathBuf};

use memboss_core::Mib;

/// A limit above that is none: version 1 writes "no limit" as a very large number.
const NO_LIMIT: u64 = 1 << 60;

/// What is left until the limit of the group that the process of that `/proc` entry is in, with its groups mounted at `mounted`. Nothing without a limit.
#[must_use]
pub fn until_limit(process: &Path, mounted: &Path) -> Option<Mib> {
    let groups = std::fs::read_to_string(process.join("cgroup")).ok()?;
    let lines: Vec<_> = groups.lines().filter_map(parts).collect();
    let version_2 = lines.iter().find(|(number, ..)| *number == "0").map(|(.., path)| Group {
        directory: below(mounted, path),
        top: mounted.to_owned(),
        limit: "memory.max",
        used: "memory.current",
    });
    let memory = mounted.join("memory");
    let version_1 = lines.iter().find(|(_, controllers, _)| controllers.split(',').any(|name| name == "memory"));
    let version_1 = version_1.map(|(.., path)| Group {
        directory: below(&memory, path),
        top: memory.clone(),
        limit: "memory.limit_in_bytes",
        used: "memory.usage_in_bytes",
    });
    [version_2, version_1].into_iter().flatten().filter_map(|group| group.left()).min()
}

/// `number:controllers:path`
fn parts(line: &str) -> Option<(&str, &str, &str)> {
    let mut parts = line.splitn(3, ':');
    Some((parts.next()?, parts.next()?, parts.next()?))
}

/// In a namespace of its own a container's group is the root of what is mounted.
fn below(mounted: &Path, path: &str) -> PathBuf {
    let inside = mounted.join(path.trim_start_matches('/'));
    if inside.is_dir() { inside } else { mounted.to_owned() }
}

struct Group {
    directory: PathBuf,
    top: PathBuf,
    limit: &'static str,
    used: &'static str,
}

impl Group {
    /// The least that is left in this group and those above it.
    fn left(&self) -> Option<Mib> {
        let groups = self.directory.ancestors().take_while(|directory| directory.starts_with(&self.top));
        groups.filter_map(|directory| self.left_in(directory)).min()
    }

    fn left_in(&self, directory: &Path) -> Option<Mib> {
        let read = |name: &str| std::fs::read_to_string(directory.join(name)).ok()?.trim().parse::<u64>().ok();
        let limit = read(self.limit).filter(|limit| *limit < NO_LIMIT)?;
        Some(Mib::from_bytes_floor(limit.saturating_sub(read(self.used)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A machine with such a `cgroup` file and such groups: directory, file, content.
    fn left(groups: &str, files: &[(&str, &str, String)]) -> Option<Mib> {
        let root = tempfile::tempdir().unwrap();
        let (process, mounted) = (root.path().join("self"), root.path().join("mounted"));
        std::fs::create_dir_all(&process).unwrap();
        std::fs::write(process.join("cgroup"), groups).unwrap();
        for (directory, name, content) in files {
            std::fs::create_dir_all(mounted.join(directory)).unwrap();
            std::fs::write(mounted.join(directory).join(name), content).unwrap();
        }
        until_limit(&process, &mounted)
    }

    #[test]
    fn the_tightest_limit_counts_in_both_versions() {
        let two = [
            ("a", "memory.max", (900 * MIB).to_string()),
            ("a", "memory.current", (500 * MIB).to_string()),
            ("a/b", "memory.max", "max\n".to_owned()),
            ("a/b", "memory.current", (100 * MIB).to_string()),
        ];
        assert_eq!(left("0::/a/b\n", &two), Some(Mib::from_mib(400)), "the group above has a limit");
        let one = [
            ("memory/c", "memory.limit_in_bytes", (256 * MIB).to_string()),
            ("memory/c", "memory.usage_in_bytes", (250 * MIB).to_string()),
        ];
        assert_eq!(left("9:memory:/c\n0::/\n", &one), Some(Mib::from_mib(6)));
    }

    #[test]
    fn without_a_limit_there_is_none() {
        let none = [
            ("memory", "memory.limit_in_bytes", "9223372036854771712\n".to_owned()),
            ("memory", "memory.usage_in_bytes", "1\n".to_owned()),
        ];
        assert_eq!(left("9:memory:/\n", &none), None);
        assert_eq!(left("", &[]), None);
    }
}
