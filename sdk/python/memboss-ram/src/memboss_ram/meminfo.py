"""Host RAM as the kernel tells it: `/proc/meminfo`, PSI, and the limit of the control group that this process is in. Amounts are MiB. It judges nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20

_NO_LIMIT = 1 << 60
"""A limit above that is none: version 1 writes "no limit" as a very large number."""


@dataclass(frozen=True)
class Machine:
    """Where the kernel's figures are."""

    proc: Path = Path("/proc")
    groups: Path = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Figures:
    """Amounts in MiB."""

    total_mib: int
    free_mib: int
    available_mib: int
    anonymous_mib: int
    shared_mib: int
    file_cache_mib: int
    dirty_mib: int
    mapped_mib: int
    kernel_cache_mib: int
    huge_pages_mib: int
    swap_total_mib: int
    swap_used_mib: int


@dataclass(frozen=True)
class Stalls:
    """The share of the last 10 s in which tasks waited, in percent."""

    some: float
    """At least one."""
    all: float
    """All at once."""


def read_figures(machine: Machine) -> Figures:
    """Reads `meminfo`. `OSError` where it cannot be read."""
    kib: dict[str, int] = {}
    for line in (machine.proc / "meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            kib[name] = int(words[0])

    def mib(*names: str) -> int:
        return sum(kib.get(name, 0) for name in names) // 1024

    shared = mib("Shmem")
    return Figures(
        total_mib=mib("MemTotal"),
        free_mib=mib("MemFree"),
        # Kernels before 3.14 do not tell; what is free is surely available.
        available_mib=mib("MemAvailable") if "MemAvailable" in kib else mib("MemFree"),
        anonymous_mib=mib("AnonPages"),
        shared_mib=shared,
        file_cache_mib=max(0, mib("Cached", "Buffers") - shared),
        dirty_mib=mib("Dirty", "Writeback"),
        mapped_mib=mib("Mapped"),
        kernel_cache_mib=mib("SReclaimable"),
        huge_pages_mib=mib("Hugetlb"),
        swap_total_mib=mib("SwapTotal"),
        swap_used_mib=max(0, mib("SwapTotal") - mib("SwapFree")),
    )


def read_stalls(machine: Machine, of: str) -> Stalls | None:
    """PSI of `memory` or `io`; nothing where the kernel does not tell."""
    try:
        text = (machine.proc / "pressure" / of).read_text()
    except OSError:
        return None
    shares = {}
    for line in text.splitlines():
        kind, *fields = line.split()
        for field in fields:
            name, _, value = field.partition("=")
            if name == "avg10":
                shares[kind] = float(value)
    if "some" not in shares:
        return None
    return Stalls(some=shares["some"], all=shares.get("full", 0.0))


def read_until_limit(machine: Machine) -> int | None:
    """What is left until the limit of the control group that this process is in, or of one above it; nothing without a limit."""
    try:
        lines = (machine.proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return None
    left: list[int] = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            left += _left(machine.groups, path, "memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            left += _left(machine.groups / "memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes")
    return min(left, default=None)


def _left(top: Path, path: str, limit: str, used: str) -> list[int]:
    # In a namespace of its own a container's group is the root of what is mounted.
    inside = top / path.lstrip("/")
    group = inside if inside.is_dir() else top
    left = []
    for directory in (group, *group.parents):
        if not directory.is_relative_to(top):
            break
        most, now = _number(directory / limit), _number(directory / used)
        if most is not None and most < _NO_LIMIT and now is not None:
            left.append(max(0, most - now) // MIB)
    return left


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
