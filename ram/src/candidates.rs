//! Which files' pages may be dropped: regular files below the paths that were named, and whether a process has them open or mapped. It touches no file.

use std::collections::BTreeSet;
use std::fs::{File, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::Failure;
use crate::report::Machine;

/// Smaller files are not worth a system call.
const LEAST: u64 = 1 << 20;
/// Deeper than that is a loop or a mistake.
const DEEPEST: usize = 32;

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Where.
    pub path: PathBuf,
    /// Bytes.
    pub length: u64,
    /// When it was last written or came to be there.
    pub changed: SystemTime,
    /// Whose it is.
    pub owner: u32,
    device: u64,
    inode: u64,
}

impl Candidate {
    fn of(path: PathBuf, meta: &Metadata) -> Self {
        // Copying keeps the time of the last write; the inode's own time tells when the copy was made.
        let seconds = meta.mtime().max(meta.ctime());
        let changed = UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        Self { path, length: meta.len(), changed, owner: meta.uid(), device: meta.dev(), inode: meta.ino() }
    }

    /// Opens it for reading, if what lies there is still the same.
    #[must_use]
    pub fn open(&self) -> Option<File> {
        let quiet = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let open = |flags| File::options().read(true).custom_flags(flags).open(&self.path);
        // Only its owner may leave the access time alone.
        let file = open(quiet | libc::O_NOATIME).or_else(|_| open(quiet)).ok()?;
        let meta = file.metadata().ok()?;
        (meta.is_file() && Self::of(self.path.clone(), &meta) == *self).then_some(file)
    }
}

/// File systems without a device of their own (overlay, btrfs) name a file's device otherwise here than there: the inode's number alone must do for them,
/// which protects too much rather than too little.
fn is_nameless(device: u64) -> bool {
    rustix::fs::major(device) == 0
}

/// Files that processes have open or mapped.
#[derive(Clone, Debug, Default)]
pub struct InUse {
    files: BTreeSet<(u64, u64)>,
    inodes: BTreeSet<u64>,
    on_nameless: BTreeSet<u64>,
    /// How many processes could not be looked into: what they use is not known.
    pub unseen: usize,
}

impl InUse {
    /// Whether somebody has that file.
    #[must_use]
    pub fn has(&self, candidate: &Candidate) -> bool {
        self.files.contains(&(candidate.device, candidate.inode))
            || self.on_nameless.contains(&candidate.inode)
            || (is_nameless(candidate.device) && self.inodes.contains(&candidate.inode))
    }

    fn note(&mut self, device: u64, inode: u64) {
        self.files.insert((device, inode));
        self.inodes.insert(inode);
        if is_nameless(device) {
            self.on_nameless.insert(inode);
        }
    }
}

impl Machine {
    /// What processes have open or mapped.
    ///
    /// # Errors
    /// When processes cannot be listed at all.
    pub fn in_use(&self) -> Result<InUse, Failure> {
        let failed = |source| Failure::Look { path: self.proc.clone(), source };
        let mut in_use = InUse::default();
        for entry in std::fs::read_dir(&self.proc).map_err(failed)?.filter_map(Result::ok) {
            let is_process = entry.file_name().to_str().is_some_and(|name| name.bytes().all(|b| b.is_ascii_digit()));
            // Threads of the kernel have no files, and one that has ended meanwhile uses nothing.
            if is_process
                && !is_of_the_kernel(&entry.path())
                && let Err(error) = look_into(&entry.path(), &mut in_use)
                && error.kind() == ErrorKind::PermissionDenied
            {
                in_use.unseen += 1;
            }
        }
        // The first process is always there: if it is hidden, others are too.
        if !self.proc.join("1").exists() {
            in_use.unseen += 1;
        }
        Ok(in_use)
    }
}

/// `PF_KTHREAD` among the flags, the 7th field after the name.
fn is_of_the_kernel(process: &Path) -> bool {
    const KERNEL_THREAD: u64 = 0x0020_0000;
    let stat = std::fs::read(process.join("stat")).unwrap_or_default();
    let stat = String::from_utf8_lossy(&stat);
    let flags = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(6)?.parse::<u64>().ok());
    flags.is_some_and(|flags| flags & KERNEL_THREAD != 0)
}

fn look_into(process: &Path, in_use: &mut InUse) -> std::io::Result<()> {
    for descriptor in std::fs::read_dir(process.join("fd"))?.filter_map(Result::ok) {
        // Following the link reaches the file itself, also one that has no name any more.
        if let Ok(file) = std::fs::metadata(descriptor.path())
            && file.is_file()
        {
            in_use.note(file.dev(), file.ino());
        }
    }
    let maps = std::fs::read(process.join("maps"))?;
    for (device, inode) in String::from_utf8_lossy(&maps).lines().filter_map(mapped) {
        in_use.note(device, inode);
    }
    Ok(())
}

/// Files in memory, whose small inode numbers would be taken for others'.
const NO_FILES: [&str; 4] = ["/memfd:", "/SYSV", "/dev/zero", "/dev/shm/"];

/// The file of a line `start-end flags offset major:minor inode path`.
fn mapped(line: &str) -> Option<(u64, u64)> {
    let mut fields = line.split_ascii_whitespace().skip(3);
    let (major, minor) = fields.next()?.split_once(':')?;
    let inode = fields.next()?.parse().ok().filter(|inode| *inode != 0)?;
    let path = fields.next().unwrap_or_default();
    let number = |text| u32::from_str_radix(text, 16).ok();
    let device = rustix::fs::makedev(number(major)?, number(minor)?);
    (!NO_FILES.iter().any(|prefix| path.starts_with(prefix))).then_some((device, inode))
}

/// What lies below the paths that were named.
#[derive(Debug, Default)]
pub struct Found {
    /// Files, the longest unchanged first.
    pub files: Vec<Candidate>,
    /// How many files were too small to look at.
    pub small: usize,
    /// How many links, and directories of other file systems, were not followed.
    pub not_followed: usize,
}

/// All files below those paths; links are not followed (but a path that was named may be one), nor are other file systems entered.
///
/// # Errors
/// When a path that was named cannot be read; what cannot be read below it is left out.
pub fn below(roots: &[PathBuf]) -> Result<Found, Failure> {
    let mut found = Found::default();
    for root in roots {
        let failed = |source| Failure::Look { path: root.clone(), source };
        let path = root.canonicalize().map_err(failed)?;
        let meta = std::fs::metadata(&path).map_err(failed)?;
        if meta.is_file() {
            found.note(path, &meta);
        } else {
            std::fs::read_dir(&path).map_err(failed)?;
            found.walk(&path, meta.dev(), DEEPEST);
        }
    }
    // One file may have several names, or lie below two of the paths.
    let mut seen = BTreeSet::new();
    found.files.retain(|file| seen.insert((file.device, file.inode)));
    found.files.sort_by_key(|file| file.changed);
    Ok(found)
}

impl Found {
    fn walk(&mut self, directory: &Path, device: u64, depth: usize) {
        let Ok(entries) = std::fs::read_dir(directory) else { return };
        for entry in entries.filter_map(Result::ok) {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_symlink() || meta.dev() != device || (meta.is_dir() && depth == 0) {
                self.not_followed += 1;
            } else if meta.is_dir() {
                self.walk(&entry.path(), device, depth - 1);
            } else if meta.is_file() {
                self.note(entry.path(), &meta);
            }
        }
    }

    fn note(&mut self, path: PathBuf, meta: &Metadata) {
        if meta.len() < LEAST {
            self.small += 1;
        } else {
            self.files.push(Candidate::of(path, meta));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_file_is_told_by_its_device_and_inode() {
        let line = "7f6e80000000-7f6e80021000 r-xp 00000000 fe:01 1234567  /usr/lib/libc.so.6";
        assert_eq!(mapped(line), Some((rustix::fs::makedev(0xfe, 1), 1_234_567)));
        for line in [
            "7ffd0000-7ffd1000 rw-p 00000000 00:00 0  [stack]",
            "7ffd0000-7ffd1000 rw-s 00000000 00:01 4  /memfd:x (deleted)",
            "garbage",
        ] {
            assert_eq!(mapped(line), None, "{line}");
        }
    }

    #[test]
    fn where_devices_have_no_name_the_inode_must_do() {
        let (disk, overlay) = (rustix::fs::makedev(8, 1), rustix::fs::makedev(0, 40));
        let file = |device| Candidate { path: "x".into(), length: 1, changed: UNIX_EPOCH, owner: 0, device, inode: 12 };
        for (open, candidate, has) in
            [(disk, disk, true), (overlay, disk, true), (disk, overlay, true), (rustix::fs::makedev(8, 2), disk, false)]
        {
            let mut in_use = InUse::default();
            in_use.note(open, 12);
            assert_eq!(in_use.has(&file(candidate)), has, "{open} {candidate}");
        }
    }

    fn large(path: &Path) {
        std::fs::write(path, vec![0; 1 << 20]).unwrap();
    }

    #[test]
    fn what_this_process_has_open_is_in_use_and_what_was_replaced_is_not_opened() {
        let directory = tempfile::tempdir().unwrap();
        let (open, closed) = (directory.path().join("open"), directory.path().join("closed"));
        large(&open);
        large(&closed);
        let _held = File::open(&open).unwrap();
        let in_use = Machine::default().in_use().unwrap();
        let found = below(&[directory.path().to_owned()]).unwrap().files;
        let of = |name: &str| found.iter().find(|file| file.path.ends_with(name)).unwrap();
        assert!(in_use.has(of("open")));
        assert!(of("closed").open().is_some());
        std::fs::remove_file(&closed).unwrap();
        std::os::unix::fs::symlink(&open, &closed).unwrap();
        assert!(of("closed").open().is_none(), "another file lies there now");
    }

    #[test]
    fn each_large_file_is_found_once_and_links_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (root, other) = (directory.path().join("root"), directory.path().join("other"));
        std::fs::create_dir_all(root.join("deep")).unwrap();
        std::fs::create_dir(&other).unwrap();
        large(&root.join("deep/large"));
        std::fs::write(root.join("small"), b"x").unwrap();
        large(&other.join("elsewhere"));
        std::fs::hard_link(root.join("deep/large"), root.join("again")).unwrap();
        std::os::unix::fs::symlink(&other, root.join("link")).unwrap();
        let found = below(&[root.clone(), root.join("deep")]).unwrap();
        assert_eq!((found.files.len(), found.small, found.not_followed), (1, 1, 1), "{found:?}");
        assert_eq!(below(&[root.join("link")]).unwrap().files.len(), 1, "a link that was named is meant");
        assert!(below(&[directory.path().join("absent")]).unwrap_err().to_string().contains("absent"));
    }
}
