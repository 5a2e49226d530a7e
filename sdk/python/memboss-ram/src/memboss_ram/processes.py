"""Who uses RAM, process by process, and how that changes. Reading a process's exact share (PSS) makes that process wait, so it is read only where it is asked
for. It needs no agent and no right; what may not be read is left out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

_TOO_LARGE_FOR_PSS_MIB = 64 * 1024
"""A process above that size is not asked for its exact share: that would make it wait for too long."""


@dataclass(frozen=True)
class ProcessMemory:
    """A process and its memory; amounts in MiB."""

    pid: int
    started: int
    """In clock ticks since the boot: pid and start name a process, a pid alone does not."""
    uid: int
    name: str
    resident_mib: int
    """All that it has in memory; what it shares is counted for each who shares it."""
    anonymous_mib: int
    """The part of it that is no file's: free when it ends."""
    file_mib: int
    """The part of it that is files': mapped cache."""
    shared_mib: int
    """The part of it that is shared memory."""
    swapped_mib: int
    exact_mib: int | None = None
    """Its exact share of what it has in memory; only where it was asked for and may be known."""


@dataclass(frozen=True)
class ProcessGrowth:
    """How a process's memory changed since it was first seen."""

    pid: int
    name: str
    before_mib: int
    now_mib: int
    mib_per_minute: float


class ProcessMonitor:
    """Looks at processes, and remembers what they had."""

    def __init__(self, proc: str | Path = "/proc") -> None:
        self._proc = Path(proc)
        self._seen: dict[tuple[int, int], tuple[float, int]] = {}

    def processes(self, top: int | None = None, *, exact: bool = False) -> list[ProcessMemory]:
        """All processes that have memory of their own, the largest first; `exact` reads their exact shares too."""
        found = sorted(self._all(), key=lambda process: (-process.resident_mib, process.pid))[:top]
        return [replace(process, exact_mib=self._exact(process)) for process in found] if exact else found

    def growth(self, top: int | None = None) -> list[ProcessGrowth]:
        """Looks, and tells how those that were there at an earlier look have changed since they were first seen; those that grew most first."""
        now = time.monotonic()
        there = {(process.pid, process.started): process for process in self._all()}
        self._seen = {key: seen for key, seen in self._seen.items() if key in there}
        grown = []
        for key, process in there.items():
            since, before = self._seen.setdefault(key, (now, process.resident_mib))
            if now > since:
                per_minute = (process.resident_mib - before) * 60 / (now - since)
                grown.append(ProcessGrowth(process.pid, process.name, before, process.resident_mib, per_minute))
        return sorted(grown, key=lambda growth: (-growth.mib_per_minute, growth.pid))[:top]

    def _all(self) -> Iterator[ProcessMemory]:
        for entry in self._proc.iterdir():
            if entry.name.isdigit():
                process = _read(entry)
                if process is not None:
                    yield process

    def _exact(self, process: ProcessMemory) -> int | None:
        if process.resident_mib > _TOO_LARGE_FOR_PSS_MIB:
            return None
        entry = self._proc / str(process.pid)
        try:
            rollup = (entry / "smaps_rollup").read_text()
            if _started(entry) != process.started:
                return None
        except (OSError, ValueError, IndexError):
            return None
        for line in rollup.splitlines():
            if line.startswith("Pss:"):
                return _mib_up(int(line.split()[1]))
        return None


def _read(entry: Path) -> ProcessMemory | None:
    """`None` for a thread of the kernel, which has no memory of its own, and for a process that has ended meanwhile."""
    try:
        status = dict(
            line.split(":", 1) for line in (entry / "status").read_text(errors="replace").splitlines() if ":" in line
        )
        if "VmRSS" not in status:
            return None

        def mib(name: str) -> int:
            return _mib_up(int(status.get(name, "0").split()[0]))

        return ProcessMemory(
            pid=int(entry.name),
            started=_started(entry),
            uid=int(status["Uid"].split()[1]),
            name=status["Name"].strip(),
            resident_mib=mib("VmRSS"),
            anonymous_mib=mib("RssAnon"),
            file_mib=mib("RssFile"),
            shared_mib=mib("RssShmem"),
            swapped_mib=mib("VmSwap"),
        )
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _started(entry: Path) -> int:
    # The name may hold anything, also parentheses and blanks.
    return int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[19])


def _mib_up(kib: int) -> int:
    return -(-kib // 1024)
