"""The machine's RAM at one moment: what there is, how hard pressed it is, who uses it, and what could be freed. It needs no agent and changes nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from memboss_ram.meminfo import Machine, Stalls, read_figures, read_stalls, read_until_limit
from memboss_ram.pressure import Cause, Gauge, Pressure, Sign, Signals
from memboss_ram.processes import ProcessMemory, ProcessMonitor

_SENTENCES = {
    Cause.NOTHING: "nothing need be done",
    Cause.CACHE: "cache counts against a limit that is near: dropping cache that nobody needs helps",
    Cause.IN_USE: "what is in use cannot be dropped: only its users can give it back",
    Cause.STALLS: "tasks wait although enough is available: something reclaims too eagerly, or the disk is slow",
}


@dataclass(frozen=True)
class MemoryAnalysis:
    """Amounts in MiB."""

    total_mib: int
    free_mib: int
    """Not used for anything."""
    available_mib: int
    """What new work could have without swapping, as the kernel thinks. Clean cache is counted here."""
    anonymous_mib: int
    """Memory of processes that is no file's."""
    shared_mib: int
    """Shared memory and files in memory (tmpfs): counted as cache by the kernel, and cannot be dropped."""
    cache_mib: int
    """Pages of files."""
    dirty_mib: int
    """The part of them that must be written first."""
    mapped_mib: int
    """Pages of files and shared memory that processes have mapped."""
    kernel_cache_mib: int
    """Caches of the kernel itself that it can shrink."""
    huge_pages_mib: int
    swap_total_mib: int
    swap_used_mib: int
    until_limit_mib: int | None
    """What is left until the limit of the container that this runs in, if it has one."""
    memory_stalls: Stalls | None
    """Waiting for memory; nothing where the kernel does not tell (PSI is off)."""
    io_stalls: Stalls | None
    """Waiting for the disk."""
    pressure: Pressure
    sign: Sign | None
    """What the pressure rests on."""
    cause: Cause
    """What would help."""
    top: tuple[ProcessMemory, ...]
    """Who has most, the largest first."""

    @property
    def droppable_mib(self) -> int:
        """Cache of files that is clean and that nobody has mapped, at most: dropping it makes memory free that was available before."""
        return max(0, self.cache_mib - self.dirty_mib - self.mapped_mib)

    @property
    def advice(self) -> str:
        """What would help, in a sentence."""
        return _SENTENCES[self.cause]


class MemoryAnalyzer:
    """Looks at the machine's RAM."""

    def __init__(self, proc: str | Path = "/proc", cgroups: str | Path = "/sys/fs/cgroup") -> None:
        self._machine = Machine(Path(proc), Path(cgroups))
        self._monitor = ProcessMonitor(proc)

    def analyze(self, top: int = 10) -> MemoryAnalysis:
        """Looks once; the pressure is what this one look shows. `OSError` where `/proc/meminfo` cannot be read."""
        return self._look(top, None)

    async def watch(self, every: float = 1.0, top: int = 10) -> AsyncIterator[MemoryAnalysis]:
        """Looks every so many seconds; the pressure is judged over time: a sign must last, and the level goes down one at a time, later."""
        gauge = Gauge()
        while True:
            yield await asyncio.to_thread(self._look, top, gauge)
            await asyncio.sleep(every)

    def _look(self, top: int, gauge: Gauge | None) -> MemoryAnalysis:
        figures = read_figures(self._machine)
        stalls = read_stalls(self._machine, "memory")
        until_limit = read_until_limit(self._machine)
        signals = Signals(
            total_mib=figures.total_mib - figures.huge_pages_mib,
            available_mib=figures.available_mib,
            until_limit_mib=until_limit,
            stalled_some=stalls.some if stalls else None,
            stalled_all=stalls.all if stalls else None,
        )
        pressure, sign = signals.level()
        if gauge is not None:
            pressure, sign = gauge.look(signals, time.monotonic()), gauge.sign
        return MemoryAnalysis(
            total_mib=figures.total_mib,
            free_mib=figures.free_mib,
            available_mib=figures.available_mib,
            anonymous_mib=figures.anonymous_mib,
            shared_mib=figures.shared_mib,
            cache_mib=figures.file_cache_mib,
            dirty_mib=figures.dirty_mib,
            mapped_mib=figures.mapped_mib,
            kernel_cache_mib=figures.kernel_cache_mib,
            huge_pages_mib=figures.huge_pages_mib,
            swap_total_mib=figures.swap_total_mib,
            swap_used_mib=figures.swap_used_mib,
            until_limit_mib=until_limit,
            memory_stalls=stalls,
            io_stalls=read_stalls(self._machine, "io"),
            pressure=pressure,
            sign=sign,
            cause=signals.cause(pressure),
            top=tuple(self._monitor.processes(top)) if top > 0 else (),
        )
