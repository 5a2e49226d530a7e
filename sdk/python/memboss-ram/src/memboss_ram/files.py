"""Which files' pages may be dropped: regular files below the paths that were named, and whether a process has them open or mapped. It touches no file."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

_LEAST = 1 << 20
"""Smaller files are not worth a system call."""
_DEEPEST = 32
"""Deeper than that is a loop or a mistake."""


@dataclass(frozen=True)
class Candidate:
    """A file."""

    path: Path
    length: int
    changed: float
    """When it was last written or came to be there, in seconds of the wall clock."""
    owner: int
    device: int
    inode: int

    @classmethod
    def of(cls, path: Path, status: os.stat_result) -> Candidate:
        """What was seen there."""
        # Copying keeps the time of the last write; the inode's own time tells when the copy was made.
        changed = max(status.st_mtime, status.st_ctime)
        return cls(path, status.st_size, changed, status.st_uid, status.st_dev, status.st_ino)

    def open(self) -> int | None:
        """Opens it for reading, if what lies there is still the same."""
        quiet = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        # Only its owner may leave the access time alone.
        for flags in (quiet | os.O_NOATIME, quiet):
            try:
                descriptor = os.open(self.path, flags)
            except OSError:
                continue
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode) and Candidate.of(self.path, status) == self:
                return descriptor
            os.close(descriptor)
            return None
        return None


def _is_nameless(device: int) -> bool:
    """File systems without a device of their own (overlay, btrfs) name a file's device otherwise here than there: the inode's number alone must do for
    them, which protects too much rather than too little."""
    return os.major(device) == 0


@dataclass
class InUse:
    """Files that processes have open or mapped."""

    files: set[tuple[int, int]] = field(default_factory=set)
    inodes: set[int] = field(default_factory=set)
    on_nameless: set[int] = field(default_factory=set)
    unseen: int = 0
    """How many processes could not be looked into: what they use is not known."""

    def has(self, candidate: Candidate) -> bool:
        """Whether somebody has that file."""
        return (
            (candidate.device, candidate.inode) in self.files
            or candidate.inode in self.on_nameless
            or (_is_nameless(candidate.device) and candidate.inode in self.inodes)
        )

    def note(self, device: int, inode: int) -> None:
        """Somebody has it."""
        self.files.add((device, inode))
        self.inodes.add(inode)
        if _is_nameless(device):
            self.on_nameless.add(inode)


def find_in_use(proc: Path) -> InUse:
    """What processes have open or mapped. `OSError` where processes cannot be listed at all."""
    in_use = InUse()
    for entry in proc.iterdir():
        # Threads of the kernel have no files, and one that has ended meanwhile uses nothing.
        if not entry.name.isdigit() or _is_of_the_kernel(entry):
            continue
        try:
            _look_into(entry, in_use)
        except PermissionError:
            in_use.unseen += 1
        except OSError:
            continue
    # The first process is always there: if it is hidden, others are too.
    if not (proc / "1").exists():
        in_use.unseen += 1
    return in_use


def _is_of_the_kernel(entry: Path) -> bool:
    """`PF_KTHREAD` among the flags, the 7th field after the name."""
    try:
        fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
        return bool(int(fields[6]) & 0x0020_0000)
    except (OSError, ValueError, IndexError):
        return False


def _look_into(entry: Path, in_use: InUse) -> None:
    for descriptor in os.listdir(entry / "fd"):
        try:
            # Following the link reaches the file itself, also one that has no name any more.
            status = os.stat(entry / "fd" / descriptor)
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode):
            in_use.note(status.st_dev, status.st_ino)
    for line in (entry / "maps").read_text(errors="replace").splitlines():
        mapped = parse_mapping(line)
        if mapped is not None:
            in_use.note(*mapped)


_NO_FILES = ("/memfd:", "/SYSV", "/dev/zero", "/dev/shm/")
"""Files in memory, whose small inode numbers would be taken for others'."""


def parse_mapping(line: str) -> tuple[int, int] | None:
    """The file of a line `start-end flags offset major:minor inode path`."""
    fields = line.split(maxsplit=5)
    path = fields[5] if len(fields) > 5 else ""
    try:
        major, _, minor = fields[3].partition(":")
        device, inode = os.makedev(int(major, 16), int(minor, 16)), int(fields[4])
    except (IndexError, ValueError):
        return None
    return None if inode == 0 or path.startswith(_NO_FILES) else (device, inode)


@dataclass
class Found:
    """What lies below the paths that were named."""

    files: list[Candidate] = field(default_factory=list)
    """The longest unchanged first."""
    small: int = 0
    """How many files were too small to look at."""
    not_followed: int = 0
    """How many links, and directories of other file systems, were not followed."""

    def _note(self, path: Path, status: os.stat_result) -> None:
        if status.st_size < _LEAST:
            self.small += 1
        else:
            self.files.append(Candidate.of(path, status))

    def _walk(self, directory: Path, device: int, depth: int) -> None:
        try:
            entries = list(os.scandir(directory))
        except OSError:
            return
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            is_directory = stat.S_ISDIR(status.st_mode)
            if stat.S_ISLNK(status.st_mode) or status.st_dev != device or (is_directory and depth == 0):
                self.not_followed += 1
            elif is_directory:
                self._walk(Path(entry.path), device, depth - 1)
            elif stat.S_ISREG(status.st_mode):
                self._note(Path(entry.path), status)


def find_below(roots: Iterable[Path]) -> Found:
    """All files below those paths; links are not followed (but a path that was named may be one), nor are other file systems entered. `OSError` when a path
    that was named cannot be read; what cannot be read below it is left out."""
    found = Found()
    for root in roots:
        path = root.resolve(strict=True)
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            found._note(path, status)
        else:
            os.listdir(path)
            found._walk(path, status.st_dev, _DEEPEST)
    # One file may have several names, or lie below two of the paths.
    once = {(file.device, file.inode): file for file in reversed(found.files)}
    found.files = sorted(once.values(), key=lambda file: file.changed)
    return found
