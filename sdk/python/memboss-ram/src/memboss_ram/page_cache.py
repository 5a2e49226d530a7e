"""One file's pages in the cache: how many there are, and dropping them. Only clean pages that nobody has mapped are ever dropped; it needs no right but to
read the file."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from dataclasses import dataclass
from enum import Enum

_PIECE = 256 << 20
"""The kernel drops whole folios only, which may be 2 MiB large: smaller pieces would free nothing, and far larger ones cannot be stopped."""

_IN_MEMORY = (0x0102_1994, 0x8584_58F6, 0x9584_58F6)
_OVERLAY = 0x794C_7630
"""It keeps its files' pages with the files below it, and tells of none."""

_SYS_CACHESTAT = 451
"""The number on all architectures that Kubernetes runs on; elsewhere the kernel refuses it, and nothing is known."""


class Knowledge(Enum):
    """What can be known of a file's pages."""

    KNOWN = 1
    UNKNOWN = 2
    """The kernel (before 6.5), the file system (overlay), or the file's owner does not let us know."""
    IN_MEMORY = 3
    """The file lies in memory itself: nothing of it can be dropped."""


@dataclass(frozen=True)
class Residency:
    """How a file's pages are; in bytes."""

    knowledge: Knowledge
    cached: int = 0
    dirty: int = 0
    """Those that must be written first."""


class _Range(ctypes.Structure):
    _fields_ = [("offset", ctypes.c_uint64), ("length", ctypes.c_uint64)]


class _Counted(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("cached", "dirty", "writeback", "evicted", "recently_evicted")]


class _FileSystem(ctypes.Structure):
    # Only its first field is read; the rest is room for what the C library writes.
    _fields_ = [("type", ctypes.c_long), ("rest", ctypes.c_char * 512)]


_libc = ctypes.CDLL(None, use_errno=True)


def residency(descriptor: int) -> Residency:
    """How the pages of an open file are now."""
    system = _FileSystem()
    told = _libc.fstatfs(descriptor, ctypes.byref(system)) == 0
    kind = system.type & 0xFFFF_FFFF if told else 0
    if kind in _IN_MEMORY:
        return Residency(Knowledge.IN_MEMORY)
    counted = _Counted()
    # A length of 0 means up to the end.
    everything = _Range(0, 0)
    call = (ctypes.c_long(_SYS_CACHESTAT), ctypes.c_int(descriptor))
    answer = _libc.syscall(*call, ctypes.byref(everything), ctypes.byref(counted), ctypes.c_uint(0))
    if answer != 0 or kind == _OVERLAY:
        return Residency(Knowledge.UNKNOWN)
    page = mmap.PAGESIZE
    return Residency(Knowledge.KNOWN, counted.cached * page, (counted.dirty + counted.writeback) * page)


@dataclass(frozen=True)
class Bounds:
    """What dropping may cost, in seconds of the monotonic clock."""

    stall: float
    """After a call to the kernel that took longer, nothing more is dropped."""
    deadline: float
    """From then on nothing is dropped."""


@dataclass(frozen=True)
class Dropping:
    """How dropping went."""

    reached: int = 0
    """How far it got, in bytes."""
    longest: float = 0.0
    """The longest that one call to the kernel took, in seconds."""


def drop_pages(descriptor: int, length: int, bounds: Bounds) -> Dropping:
    """Drops the clean pages of the first `length` bytes, piece by piece, within bounds."""
    reached, longest = 0, 0.0
    while reached < length:
        began = time.monotonic()
        if began >= bounds.deadline or longest > bounds.stall:
            break
        piece = min(length - reached, _PIECE)
        os.posix_fadvise(descriptor, reached, piece, os.POSIX_FADV_DONTNEED)
        longest = max(longest, time.monotonic() - began)
        reached += piece
    return Dropping(reached, longest)
