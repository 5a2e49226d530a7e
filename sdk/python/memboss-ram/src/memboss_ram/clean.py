"""Dropping page cache that nobody needs, by the rules of `memboss ram clear`, which it does itself: it needs no agent and no command. Nothing that a process is
seen to have open or mapped is touched in any mode; where processes may not be looked into, only the caller's own files are. The cache of the whole machine
is dropped only where that is asked for by name. Dropping clean cache makes memory *free*, which the kernel counted as *available* before: both are told."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from memboss_ram.files import Candidate, Found, InUse, find_below, find_in_use
from memboss_ram.meminfo import MIB, Figures, Machine, read_figures, read_stalls, read_until_limit
from memboss_ram.page_cache import Bounds, Knowledge, Residency, drop_pages, residency
from memboss_ram.pressure import Cause, Pressure, Signals

MODEL_DIRECTORIES = (".cache/huggingface", ".cache/torch", ".ollama/models", ".cache/llama.cpp")
"""Where models are kept below a home, looked at when no path is named."""

_SURELY_WRITTEN = 600.0
"""Where it cannot be known whether a file has pages that are not written yet, they surely are after so many seconds."""


class Mode(str, Enum):
    """How far to go."""

    CONSERVATIVE = "conservative"
    """Files that have not changed for half an hour; at most 0.2 s of dropping."""
    BALANCED = "balanced"
    """Files that have not changed for ten minutes; at most 2 s of dropping."""
    AGGRESSIVE = "aggressive"
    """Any file that nobody uses; at most 10 s of dropping."""
    AUTO = "auto"
    """As the pressure is: nothing where there is none or where dropping cache would not help."""

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class _Limits:
    unchanged: float
    stall: float
    whole: float


_LIMITS = {
    Mode.CONSERVATIVE: _Limits(1800, 0.05, 0.2),
    Mode.BALANCED: _Limits(600, 0.25, 2),
    Mode.AGGRESSIVE: _Limits(0, 1, 10),
}


class Kept(str, Enum):
    """Why a file was left alone."""

    IN_USE = "InUse"
    """A process has it open or mapped."""
    USE_UNKNOWN = "UseUnknown"
    """It is somebody else's, and not all processes may be looked into."""
    CHANGED_LATELY = "ChangedLately"
    DIRTY = "Dirty"
    """It has pages that must be written first."""
    IN_MEMORY = "InMemory"
    """It lies in memory itself (tmpfs): nothing of it can be dropped."""
    NOT_CACHED = "NotCached"
    UNREADABLE = "Unreadable"
    """It may not be read, or another one lies there by now."""
    NOT_REACHED = "NotReached"
    """There was no time left, or enough was dropped."""
    SMALL = "Small"
    NOT_FOLLOWED = "NotFollowed"
    """A link, or another file system."""

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class CleanedFile:
    """A file that was dropped, or would be."""

    path: Path
    before_mib: int | None
    """What of it was in the cache; nothing where that cannot be known."""
    after_mib: int | None
    """What of it still is."""
    partly: bool
    """Not all of it was reached in time, or needed."""
    _file: Candidate = field(repr=False)


@dataclass(frozen=True)
class CleanReport:
    """What came of it; amounts in MiB."""

    mode: Mode | None
    """The mode that it came to; nothing where an automatic one did nothing."""
    why_nothing: str
    """Why an automatic one did nothing; empty otherwise."""
    pressure: Pressure
    """Before."""
    files: tuple[CleanedFile, ...]
    kept: Mapping[Kept, int]
    """How many files were left alone, by reason."""
    dropped_mib: int
    """What became free: dropped of these files as far as it is known, and of the whole machine where that was asked for."""
    unknown_files: int
    """Of how many of them it is not known."""
    free_before_mib: int
    free_after_mib: int
    available_before_mib: int
    available_after_mib: int
    """Dropping clean cache hardly changes it."""
    unseen_processes: int
    """Processes that could not be looked into: what they use is not known."""
    seconds: float
    longest_stall_seconds: float
    """The longest that the kernel took for one piece."""

    def came_back_mib(self) -> int | None:
        """What of it is in the cache again: it was needed after all. Nothing where that cannot be known of any file."""
        back = [
            max(0, now - file.after_mib)
            for file in self.files
            if file.after_mib is not None and (now := _cached_now(file._file)) is not None
        ]
        return sum(back) if back else None


class CacheManager:
    """Drops page cache that nobody needs: of files below paths that are named, or where models are kept in this user's home."""

    def __init__(
        self,
        paths: Iterable[str | Path] | None = None,
        *,
        proc: str | Path = "/proc",
        cgroups: str | Path = "/sys/fs/cgroup",
    ) -> None:
        self._paths = None if paths is None else [Path(path) for path in paths]
        self._machine = Machine(Path(proc), Path(cgroups))

    def cleanup(self, mode: Mode | str = Mode.AUTO, *, target_mb: int | None = None, drop_caches: bool = False) -> int:
        """Cleans; how many MiB became free. `clean` tells more."""
        return self.clean(mode, target_mb=target_mb, drop_caches=drop_caches).dropped_mib

    def clean(
        self,
        mode: Mode | str = Mode.AUTO,
        *,
        target_mb: int | None = None,
        dry_run: bool = False,
        drop_caches: bool = False,
    ) -> CleanReport:
        """Cleans, and tells what came of it.

        Args:
            mode: How far to go.
            target_mb: Enough, in MiB; without, as much as the mode allows.
            dry_run: Only tell what would be done.
            drop_caches: Drop the clean cache of the whole machine as well: everybody's, and not to be stopped. Needs root.

        `ValueError` for what is no mode; `OSError` when the machine or a path that was named cannot be read, or the whole machine's cache may not be
        dropped: nothing was done then."""
        try:
            asked = Mode(mode)
        except ValueError:
            names = ", ".join(one.value for one in Mode)
            raise ValueError(f"there is no mode {str(mode)!r}: {names} are") from None
        began = time.monotonic()
        # Whoever may not open it is told before anything is done.
        switch = self._open_switch() if drop_caches and not dry_run else None
        try:
            return self._clean(asked, target_mb, dry_run, switch, began)
        finally:
            if switch is not None:
                os.close(switch)

    def _clean(self, asked: Mode, target: int | None, dry_run: bool, switch: int | None, began: float) -> CleanReport:
        before = read_figures(self._machine)
        pressure, cause = self._pressure(before)
        mode, why_nothing = _resolve(asked, pressure, cause)
        clean = _Pass(mode or Mode.AUTO, target, dry_run)
        if mode is not None:
            found = find_below(self._roots())
            clean.run(found, find_in_use(self._machine.proc))
        whole = 0 if switch is None else self._drop_everything(switch, clean)
        after = read_figures(self._machine)
        return CleanReport(
            mode=mode,
            why_nothing=why_nothing,
            pressure=pressure,
            files=tuple(clean.files),
            kept=dict(clean.kept),
            dropped_mib=clean.dropped + whole,
            unknown_files=clean.unknown,
            free_before_mib=before.free_mib,
            free_after_mib=after.free_mib,
            available_before_mib=before.available_mib,
            available_after_mib=after.available_mib,
            unseen_processes=clean.in_use.unseen,
            seconds=time.monotonic() - began,
            longest_stall_seconds=clean.longest,
        )

    def _pressure(self, figures: Figures) -> tuple[Pressure, Cause]:
        stalls = read_stalls(self._machine, "memory")
        signals = Signals(
            total_mib=figures.total_mib - figures.huge_pages_mib,
            available_mib=figures.available_mib,
            until_limit_mib=read_until_limit(self._machine),
            stalled_some=stalls.some if stalls else None,
            stalled_all=stalls.all if stalls else None,
        )
        pressure, _ = signals.level()
        return pressure, signals.cause(pressure)

    def _roots(self) -> list[Path]:
        if self._paths is not None:
            return self._paths
        named = os.environ.get("HF_HOME")
        usual = [Path(named)] if named else []
        usual += [Path.home() / directory for directory in MODEL_DIRECTORIES]
        return [path for path in usual if os.access(path, os.R_OK | os.X_OK) and path.is_dir()]

    def _open_switch(self) -> int:
        path = self._machine.proc / "sys/vm/drop_caches"
        try:
            return os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            why = "dropping the cache of the whole machine needs root"
            raise PermissionError(error.errno, f"{why} ({error.strerror})", str(path)) from error

    def _drop_everything(self, switch: int, clean: _Pass) -> int:
        """Clean pages only: level 1. The higher levels cost a second to free what the kernel frees by itself when it must."""
        before, began = read_figures(self._machine).file_cache_mib, time.monotonic()
        os.write(switch, b"1")
        clean.longest = max(clean.longest, time.monotonic() - began)
        return max(0, before - read_figures(self._machine).file_cache_mib)


def _resolve(mode: Mode, pressure: Pressure, cause: Cause) -> tuple[Mode | None, str]:
    """What an automatic mode comes to."""
    if mode is not Mode.AUTO:
        return mode, ""
    if pressure is Pressure.LOW:
        return None, "there is no pressure: nothing need be dropped"
    if cause is Cause.IN_USE:
        return None, "what presses is in use by processes and cannot be dropped: only they can give it back"
    if cause is Cause.STALLS:
        return None, "tasks wait although enough is available: reclaiming more would make them wait longer"
    return (Mode.BALANCED if pressure is Pressure.MODERATE else Mode.AGGRESSIVE), ""


class _Pass:
    """One way through the files that were found."""

    def __init__(self, mode: Mode, target: int | None, dry_run: bool) -> None:
        self.files: list[CleanedFile] = []
        self.kept: Counter[Kept] = Counter()
        self.dropped, self.unknown, self.longest = 0, 0, 0.0
        self.in_use = InUse()
        self._limits = _LIMITS.get(mode, _LIMITS[Mode.BALANCED])
        self._target, self._dry_run = target, dry_run
        self._bounds = Bounds(self._limits.stall, 0)

    def run(self, found: Found, in_use: InUse) -> None:
        self.in_use = in_use
        # Looking makes nobody wait; only dropping does.
        self._bounds = Bounds(self._limits.stall, time.monotonic() + self._limits.whole)
        now = time.time()
        for file in found.files:
            kept = self._clean(file, max(0.0, now - file.changed))
            if kept is not None:
                self.kept[kept] += 1
        self.kept += Counter({Kept.SMALL: found.small, Kept.NOT_FOLLOWED: found.not_followed})

    def _wanted(self) -> int | None:
        """What is still to be dropped, in MiB; nothing for as much as there is."""
        return None if self._target is None else max(0, self._target - self.dropped)

    def _clean(self, file: Candidate, age: float) -> Kept | None:
        if self.in_use.has(file):
            return Kept.IN_USE
        if self.in_use.unseen > 0 and file.owner != os.geteuid():
            return Kept.USE_UNKNOWN
        if age < self._limits.unchanged:
            return Kept.CHANGED_LATELY
        late = time.monotonic() >= self._bounds.deadline or self.longest > self._bounds.stall
        if late or self._wanted() == 0:
            return Kept.NOT_REACHED
        descriptor = file.open()
        if descriptor is None:
            return Kept.UNREADABLE
        try:
            before = residency(descriptor)
            return _kept_for(before, age) or self._drop(file, descriptor, _cached_mib(before))
        finally:
            os.close(descriptor)

    def _drop(self, file: Candidate, descriptor: int, before: int | None) -> Kept | None:
        if self._dry_run:
            self.dropped += before or 0
            self.unknown += before is None
            self.files.append(CleanedFile(file.path, before, None, False, file))
            return None
        wanted = self._wanted()
        length = file.length if wanted is None else min(wanted * MIB, file.length)
        try:
            done = drop_pages(descriptor, length, self._bounds)
        except OSError:
            return Kept.UNREADABLE
        self.longest = max(self.longest, done.longest)
        after = _cached_mib(residency(descriptor))
        known = before is not None and after is not None
        # Where it cannot be known, what was reached counts: a target must come to an end.
        self.dropped += max(0, before - after) if before is not None and after is not None else done.reached // MIB
        self.unknown += not known
        self.files.append(CleanedFile(file.path, before, after, done.reached < file.length, file))
        return None


def _kept_for(pages: Residency, age: float) -> Kept | None:
    """Why a file with such pages is left alone."""
    if pages.knowledge is Knowledge.IN_MEMORY:
        return Kept.IN_MEMORY
    if pages.knowledge is Knowledge.UNKNOWN:
        return Kept.CHANGED_LATELY if age < _SURELY_WRITTEN else None
    if pages.cached == 0:
        return Kept.NOT_CACHED
    # Dropping would begin to write it for whoever owns it.
    return Kept.DIRTY if pages.dirty > 0 else None


def _cached_mib(pages: Residency) -> int | None:
    return -(-pages.cached // MIB) if pages.knowledge is Knowledge.KNOWN else None


def _cached_now(file: Candidate) -> int | None:
    descriptor = file.open()
    if descriptor is None:
        return None
    try:
        return _cached_mib(residency(descriptor))
    finally:
        os.close(descriptor)
