"""Cleaning of real files in this machine's page cache, by the rules of `memboss ram clear`. On a file system that does not tell what is in the cache these tests
can show nothing, and say so."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from conftest import REPOSITORY

from memboss_ram import CacheManager, Kept, Mode, clean, page_cache
from memboss_ram.files import Candidate, InUse, find_below, find_in_use, parse_mapping
from memboss_ram.page_cache import Knowledge
from memboss_ram.pressure import Cause, Pressure

SIZE = 16 << 20
MIB = 1 << 20


@pytest.fixture
def folder() -> Iterator[Path]:
    """On a disk, unless that tells nothing."""
    base = os.environ.get("MEMBOSS_TEST_DISK") or Path.home()
    with TemporaryDirectory(dir=base, prefix=".memboss-test-") as name:
        probe = cached(Path(name) / "probe")
        tells = in_cache(probe) == SIZE
        probe.unlink()
        if not tells:
            pytest.skip(
                f"the file system of {base} does not tell what is in the cache (MEMBOSS_TEST_DISK names another folder)"
            )
        yield Path(name)


def cached(path: Path) -> Path:
    """A file that is in the cache and written."""
    with path.open("wb") as file:
        file.write(b"7" * SIZE)
        os.fsync(file.fileno())
    return path


def in_cache(path: Path) -> int | None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        told = page_cache.residency(descriptor)
    finally:
        os.close(descriptor)
    return told.cached if told.knowledge is Knowledge.KNOWN else None


def test_what_nobody_uses_goes_and_what_somebody_has_open_or_mapped_stays(folder: Path) -> None:
    idle, held, mapped = (cached(folder / name) for name in ("idle", "open", "mapped"))
    holder = f"import mmap,sys; f=open({str(mapped)!r},'rb'); m=mmap.mmap(f.fileno(),0,prot=1); f.close(); print(1,flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with held.open("rb"), subprocess.Popen([sys.executable, "-c", holder], **pipes) as other:  # type: ignore[call-overload]
        assert other.stdout.readline() == b"1\n"
        report = CacheManager([folder]).clean("aggressive")
        assert (in_cache(idle), in_cache(held), in_cache(mapped)) == (0, SIZE, SIZE), report
        assert (report.dropped_mib, report.kept[Kept.IN_USE], report.mode) == (16, 2, Mode.AGGRESSIVE)
        assert report.came_back_mib() == 0
        # Somebody needs it after all.
        idle.read_bytes()
        assert report.came_back_mib() == 16
        other.stdin.write(b"\n")


def test_what_became_free_is_answered(folder: Path) -> None:
    cached(folder / "one")
    assert CacheManager([folder]).cleanup(mode="aggressive") == 16
    assert CacheManager([folder]).cleanup(Mode.AGGRESSIVE) == 0


def test_the_gentler_modes_spare_what_changed_lately(folder: Path) -> None:
    path = cached(folder / "file")
    for mode in (Mode.CONSERVATIVE, Mode.BALANCED):
        report = CacheManager([folder]).clean(mode)
        assert (in_cache(path), dict(report.kept)) == (SIZE, {Kept.CHANGED_LATELY: 1}), mode


def test_a_dry_run_touches_nothing_and_a_target_ends_it(folder: Path) -> None:
    one, two = cached(folder / "one"), cached(folder / "two")
    told = CacheManager([folder]).clean("aggressive", dry_run=True)
    assert (len(told.files), told.dropped_mib, in_cache(one), in_cache(two)) == (2, 32, SIZE, SIZE)
    enough = CacheManager([folder]).clean("aggressive", target_mb=16)
    assert (enough.dropped_mib, dict(enough.kept)) == (16, {Kept.NOT_REACHED: 1})


def test_pages_that_are_not_written_yet_stay(folder: Path) -> None:
    path = folder / "dirty"
    path.write_bytes(b"7" * SIZE)
    report = CacheManager([folder]).clean("aggressive")
    assert (in_cache(path), dict(report.kept)) in [(SIZE, {Kept.DIRTY: 1}), (0, {})], (
        "the kernel may have written them by now"
    )


def test_without_pressure_auto_does_nothing_and_says_why(folder: Path) -> None:
    path = cached(folder / "file")
    report = CacheManager([folder]).clean()
    if report.pressure is not Pressure.LOW:
        pytest.skip("this machine is under pressure")
    assert report.mode is None and "no pressure" in report.why_nothing
    assert (in_cache(path), CacheManager([folder]).cleanup(mode="auto")) == (SIZE, 0)


@pytest.mark.parametrize(
    ("pressure", "cause", "mode"),
    [
        (Pressure.LOW, Cause.NOTHING, None),
        (Pressure.CRITICAL, Cause.IN_USE, None),
        (Pressure.HIGH, Cause.STALLS, None),
        (Pressure.MODERATE, Cause.CACHE, Mode.BALANCED),
        (Pressure.HIGH, Cause.CACHE, Mode.AGGRESSIVE),
    ],
)
def test_automatic_cleaning_does_something_only_where_that_helps(
    pressure: Pressure, cause: Cause, mode: Mode | None
) -> None:
    found, why = clean._resolve(Mode.AUTO, pressure, cause)
    assert found is mode and bool(why) == (mode is None)
    assert clean._resolve(Mode.CONSERVATIVE, pressure, cause) == (Mode.CONSERVATIVE, "")


def test_the_limits_of_the_modes_are_those_of_the_command() -> None:
    rules = (REPOSITORY / "ram/src/clean.rs").read_text()
    for mode, limits in clean._LIMITS.items():
        told = re.search(rf"Self::{mode.name.capitalize()}.*? => \((\d+), ([\d_]+), ([\d_]+)\)", rules)
        assert told, mode
        minutes, stall, whole = (int(number.replace("_", "")) for number in told.groups())
        assert (limits.unchanged, limits.stall, limits.whole) == (minutes * 60, stall / 1000, whole / 1000)
    for directory in clean.MODEL_DIRECTORIES:
        assert f'"{directory}"' in (REPOSITORY / "cli/src/ram.rs").read_text()


def test_the_whole_machine_is_touched_only_by_name_and_whoever_may_not_is_told_first(tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    (proc / "sys/vm").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 1048576 kB\nMemFree: 1 kB\nMemAvailable: 524288 kB\nCached: 4096 kB\n")
    switch = proc / "sys/vm/drop_caches"
    with pytest.raises(PermissionError, match="root"):
        CacheManager([], proc=proc).clean("aggressive", drop_caches=True)
    switch.write_text("-")
    for mode in Mode:
        CacheManager([], proc=proc).clean(mode)
    CacheManager([], proc=proc).clean("aggressive", dry_run=True, drop_caches=True)
    assert switch.read_text() == "-"
    CacheManager([], proc=proc).clean("auto", drop_caches=True)
    assert switch.read_text() == "1"


def test_what_is_no_mode_and_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="conservative, balanced, aggressive, auto"):
        CacheManager().cleanup(mode="gentle")
    with pytest.raises(OSError, match="absent"):
        CacheManager([tmp_path / "absent"]).cleanup(mode="balanced")


def test_files_of_others_stay_where_not_all_processes_may_be_looked_into(tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    (proc / "7").mkdir(parents=True)
    assert find_in_use(proc).unseen == 1, "the first process is hidden"
    foreign = Candidate(tmp_path / "x", SIZE, 0.0, os.geteuid() + 1, 1, 1)
    one = clean._Pass(Mode.AGGRESSIVE, None, False)
    one.in_use = InUse(unseen=1)
    assert one._clean(foreign, 1e9) is Kept.USE_UNKNOWN


def test_each_large_file_is_found_once_and_links_are_not_followed(tmp_path: Path) -> None:
    root, other = tmp_path / "root", tmp_path / "other"
    (root / "deep").mkdir(parents=True)
    other.mkdir()
    (root / "deep/large").write_bytes(bytes(MIB))
    (root / "small").write_bytes(b"x")
    (other / "elsewhere").write_bytes(bytes(MIB))
    os.link(root / "deep/large", root / "again")
    (root / "link").symlink_to(other)
    found = find_below([root, root / "deep"])
    assert (len(found.files), found.small, found.not_followed) == (1, 1, 1)
    assert len(find_below([root / "link"]).files) == 1, "a link that was named is meant"
    (candidate,) = find_below([root / "deep"]).files
    (root / "deep/large").unlink()
    (root / "deep/large").symlink_to(other / "elsewhere")
    assert candidate.open() is None, "another file lies there now"


def test_a_mapped_file_is_told_by_its_device_and_inode() -> None:
    line = "7f6e80000000-7f6e80021000 r-xp 00000000 fe:01 1234567  /usr/lib/libc.so.6"
    assert parse_mapping(line) == (os.makedev(0xFE, 1), 1234567)
    for other in (
        "7ffd0000-7ffd1000 rw-p 00000000 00:00 0  [stack]",
        "7ffd0000-7ffd1000 rw-s 00000000 00:01 4  /memfd:x (deleted)",
        "garbage",
    ):
        assert parse_mapping(other) is None
    in_use = InUse()
    in_use.note(os.makedev(0, 40), 12)
    file = Candidate(Path("x"), 1, 0.0, 0, os.makedev(8, 1), 12)
    assert in_use.has(file), "where devices have no name the inode must do"
