"""What is told of the machine's RAM: on this machine, and on machines made of files. The numbers of pressure are those of the rules in core/."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import pytest
from conftest import REPOSITORY

from memboss_ram import Cause, MemoryAnalyzer, Pressure, ProcessMonitor, Sign, pressure
from memboss_ram.pressure import Gauge, Signals

GIB = 1024


def of_24g(percent: int, **more: float) -> Signals:
    return Signals(24 * GIB, 24 * GIB * percent // 100, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("signals", "level", "sign", "cause"),
    [
        (of_24g(50), "low", None, Cause.NOTHING),
        (of_24g(9), "moderate", Sign.LITTLE_AVAILABLE, Cause.IN_USE),
        (of_24g(4), "high", Sign.LITTLE_AVAILABLE, Cause.IN_USE),
        (of_24g(1), "critical", Sign.LITTLE_AVAILABLE, Cause.IN_USE),
        (of_24g(50, until_limit_mib=300), "high", Sign.LIMIT_NEAR, Cause.CACHE),
        (of_24g(50, stalled_some=15.0), "moderate", Sign.STALLS, Cause.STALLS),
        (of_24g(50, stalled_some=15.0, until_limit_mib=10 * GIB), "moderate", Sign.STALLS, Cause.STALLS),
        (of_24g(50, stalled_all=61.0), "critical", Sign.STALLS, Cause.STALLS),
        # A terabyte with 5 % left has 51 GiB: that is not little.
        (Signals(1024 * GIB, 51 * GIB), "low", None, Cause.NOTHING),
    ],
)
def test_one_look_shows_a_level_what_it_rests_on_and_what_would_help(
    signals: Signals, level: str, sign: Sign | None, cause: Cause
) -> None:
    shown, rests_on = signals.level()
    assert (shown, rests_on, signals.cause(shown)) == (level, sign, cause)


def test_the_numbers_are_those_of_the_rules() -> None:
    rules = (REPOSITORY / "core/src/pressure.rs").read_text()
    for bounds in pressure._LEVELS:
        block = re.search(rf"const {bounds.level.name}: Bounds = Bounds {{(.*?)^}};", rules, re.S | re.M)
        assert block, bounds.level
        told = {}
        for name, value in re.findall(r"(\w+): (.+),\n", block.group(1)):
            value = re.sub(r"gib\((\d+)\)", lambda amount: str(int(amount[1]) * GIB), value)
            value = re.sub(r"(?:Mib::from_mib|Span::from_secs)\((\d+)\)", r"\1", value)
            told[name] = value
        assert told == {
            "below": str(bounds.below),
            "above": str(bounds.above),
            "until_limit": str(bounds.until_limit_mib),
            "some": told["some"],
            "all": told["all"],
            "lasting": str(bounds.lasting),
            "calm": str(bounds.calm),
        }
        assert (percent(told["some"]), percent(told["all"])) == (bounds.some, bounds.all)


def percent(hundredths: str) -> float:
    return float("inf") if hundredths == "NEVER" else int(hundredths.replace("_", "")) / 100


def test_a_flicker_changes_nothing_and_what_lasts_does_and_it_goes_down_late() -> None:
    gauge = Gauge()
    for second, percent, level in [
        (0, 9, "low"),
        (5, 50, "low"),
        (6, 9, "low"),
        (15, 9, "low"),
        (16, 9, "moderate"),
        (17, 4, "moderate"),
        (19, 4, "high"),
    ]:
        assert gauge.look(of_24g(percent), second) == level, second
    assert gauge.sign is Sign.LITTLE_AVAILABLE
    gauge = Gauge()
    gauge.look(of_24g(1), 0)
    assert gauge.look(of_24g(1), 1) == "critical"
    assert gauge.look(of_24g(4), 1000) == "critical"
    gauge.look(of_24g(50), 2000)
    for second, level in [(2299, "critical"), (2300, "high"), (2359, "high"), (2360, "moderate"), (2420, "low")]:
        assert gauge.look(of_24g(50), second) == level, second
    assert gauge.sign is None


def test_a_level_is_equal_to_its_name_and_compared_by_rank() -> None:
    low: Pressure = Pressure("low")
    assert low == "low" and low != "high" and Pressure.HIGH.value == "high"
    assert sorted(Pressure) == [Pressure.LOW, Pressure.MODERATE, Pressure.HIGH, Pressure.CRITICAL]
    assert Pressure.CRITICAL > "low" and Pressure.LOW <= Pressure.LOW < Pressure.MODERATE and Pressure.HIGH >= "high"
    assert {Pressure.LOW: 1}["low"] == 1  # type: ignore[index]


MEMINFO = """MemTotal:       24683520 kB
MemFree:         1048576 kB
MemAvailable:    2097152 kB
Buffers:          102400 kB
Cached:          4194304 kB
SwapTotal:       1048576 kB
SwapFree:         524288 kB
Dirty:             10240 kB
Writeback:             0 kB
AnonPages:      16777216 kB
Mapped:           512000 kB
Shmem:           2097152 kB
SReclaimable:     204800 kB
Hugetlb:               0 kB
"""


def machine(root: Path, **files: str) -> MemoryAnalyzer:
    for name, text in {
        "proc/meminfo": MEMINFO,
        **{key.replace("__", "/"): text for key, text in files.items()},
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return MemoryAnalyzer(root / "proc", root / "groups")


def test_figures_come_from_meminfo_and_shared_memory_is_no_cache(tmp_path: Path) -> None:
    told = machine(tmp_path).analyze()
    assert (told.total_mib, told.available_mib, told.cache_mib, told.shared_mib) == (24105, 2048, 2148, 2048)
    assert (told.swap_used_mib, told.droppable_mib, told.memory_stalls) == (512, 2148 - 10 - 500, None)
    assert (told.pressure, told.sign, told.cause) == ("moderate", Sign.LITTLE_AVAILABLE, Cause.IN_USE)
    assert "only its users" in told.advice


def test_stalls_are_read_where_the_kernel_tells_them(tmp_path: Path) -> None:
    text = "some avg10=41.50 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.07 avg60=0.00 avg300=0.00 total=1\n"
    told = machine(tmp_path, proc__pressure__memory=text).analyze()
    assert told.memory_stalls is not None and (told.memory_stalls.some, told.memory_stalls.all) == (41.5, 0.07)
    assert (told.pressure, told.sign) == ("high", Sign.STALLS)


def test_the_tightest_limit_counts_in_both_versions_of_control_groups(tmp_path: Path) -> None:
    mib = 1 << 20
    two = machine(
        tmp_path / "two",
        proc__self__cgroup="0::/a/b\n",
        **{
            "groups/a/memory.max": str(900 * mib),
            "groups/a/memory.current": str(500 * mib),
            "groups/a/b/memory.max": "max\n",
            "groups/a/b/memory.current": str(100 * mib),
        },
    )
    assert two.analyze().until_limit_mib == 400
    one = {
        "groups/memory/c/memory.limit_in_bytes": str(256 * mib),
        "groups/memory/c/memory.usage_in_bytes": str(250 * mib),
    }
    near = machine(tmp_path / "one", proc__self__cgroup="9:memory:/c\n0::/\n", **one).analyze()
    assert (near.until_limit_mib, near.pressure) == (6, "critical")
    none = {
        "groups/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "groups/memory/memory.usage_in_bytes": "1\n",
    }
    assert machine(tmp_path / "none", proc__self__cgroup="9:memory:/\n", **none).analyze().until_limit_mib is None


def test_this_machine_is_told_without_an_agent() -> None:
    told = MemoryAnalyzer().analyze(top=3)
    assert told.total_mib > told.available_mib > 0 and len(told.top) == 3
    assert told.pressure.value in {"low", "moderate", "high", "critical"}
    assert told.top[0].resident_mib >= told.top[2].resident_mib > 0


def test_what_cannot_be_read_is_named() -> None:
    with pytest.raises(OSError, match="/nowhere/meminfo"):
        MemoryAnalyzer("/nowhere").analyze()


async def test_watching_tells_one_look_after_the_other() -> None:
    looks = []
    async for told in MemoryAnalyzer().watch(every=0.001, top=0):
        looks.append(told)
        if len(looks) == 3:
            break
    assert all(look.total_mib == looks[0].total_mib and look.top == () for look in looks)


def test_this_process_is_among_them_with_its_parts() -> None:
    (me,) = (one for one in ProcessMonitor().processes(exact=True) if one.pid == os.getpid())
    assert me.resident_mib >= me.anonymous_mib > 0 and me.uid == os.geteuid()
    assert me.exact_mib is not None and 0 < me.exact_mib <= me.resident_mib


def process(root: Path, pid: int, started: int, resident_mib: int) -> None:
    entry = root / str(pid)
    entry.mkdir(exist_ok=True)
    kib = resident_mib * 1024
    (entry / "status").write_text(f"Name:\ta ) b\nUid:\t1\t2\t3\t4\nVmRSS:\t{kib} kB\nRssAnon:\t{kib} kB\n")
    (entry / "stat").write_text(f"{pid} (a ) b) S " + "0 " * 18 + f"{started} 0\n")


def test_growth_is_of_one_process_not_of_a_pid(tmp_path: Path) -> None:
    monitor = ProcessMonitor(tmp_path)
    process(tmp_path, 7, 1, 100)
    assert monitor.growth() == []
    process(tmp_path, 7, 1, 160)
    (grown,) = monitor.growth()
    assert (grown.name, grown.before_mib, grown.now_mib) == ("a ) b", 100, 160) and grown.mib_per_minute > 0
    process(tmp_path, 7, 2, 900)
    assert monitor.growth() == [], "another process"
    process(tmp_path, 7, 2, 840)
    process(tmp_path, 8, 1, 1)
    (less,) = monitor.growth()
    assert less.mib_per_minute < 0 and asyncio is not None
