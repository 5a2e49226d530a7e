"""Measures the PyPI package reslock in the way in which memboss is measured, beside it and on the same machine. It prints; it asserts nothing.

`python peer_reslock.py [PAIRS]`. Its state lies in memory, as memboss' ledger does.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import threading
import time
from pathlib import Path

from reslock import ResourcePool

SPAN = 4.0
PROCESSES = 8
CAPACITY = 48 * 1024
SHARE = 24 * 1024


def told(what: str, seconds: list[float]) -> None:
    """One line: the median, and what 99 of 100 stay below."""
    ordered = sorted(seconds)
    median, worst = (1000 * ordered[min(len(ordered) - 1, int(len(ordered) * part))] for part in (0.5, 0.99))
    print(f"{what:<44} p50 {median:9.3f} ms   p99 {worst:9.3f} ms", flush=True)


def alone(state: Path, pairs: int) -> None:
    """Acquire and release one after the other."""
    pool = ResourcePool(state)
    acquired, released = [], []
    for _ in range(pairs):
        begun = time.perf_counter()
        with pool.acquire(ram_mb=256):
            held = time.perf_counter()
        acquired.append(held - begun)
        released.append(time.perf_counter() - held)
    told("reslock, acquire, alone", acquired)
    told("reslock, release, alone", released)


def contend(state: Path, until: float, results: multiprocessing.Queue[list[float]]) -> None:
    """Takes and gives back half of all, until that moment."""
    pool = ResourcePool(state)
    waited = []
    while time.time() < until:
        begun = time.perf_counter()
        with pool.acquire(ram_mb=SHARE):
            waited.append(time.perf_counter() - begun)
    results.put(waited)


def contended(state: Path) -> None:
    """Several processes that want the same."""
    results: multiprocessing.Queue[list[float]] = multiprocessing.Queue()
    until = time.time() + SPAN
    crowd = [multiprocessing.Process(target=contend, args=(state, until, results)) for _ in range(PROCESSES)]
    begun = time.perf_counter()
    for one in crowd:
        one.start()
    waited = [sample for _ in crowd for sample in results.get()]
    for one in crowd:
        one.join()
    rate = len(waited) / (time.perf_counter() - begun)
    print(f"{f'reslock, {PROCESSES} processes contend':<44} {rate:9.0f} pairs a second", flush=True)
    told(f"reslock, {PROCESSES} processes contend: to the grant", waited)


def next_grant(state: Path, times: int) -> None:
    """From a release to the grant of whoever waits for it."""
    pool, passed = ResourcePool(state), []
    for _ in range(times):
        granted: list[float] = []

        def wait(granted: list[float] = granted) -> None:
            with ResourcePool(state).acquire(ram_mb=CAPACITY):
                granted.append(time.perf_counter())

        with pool.acquire(ram_mb=CAPACITY):
            waiter = threading.Thread(target=wait)
            waiter.start()
            while not pool.status().queue:
                time.sleep(0.001)
        released = time.perf_counter()
        waiter.join()
        passed.append(granted[0] - released)
    told("reslock, release -> next grant", passed)


def main() -> None:
    """All of it, on a state of its own."""
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        state = Path(folder) / "state.json"
        ResourcePool(state).set_resources({"ram_mb": CAPACITY})
        alone(state, pairs)
        contended(state)
        next_grant(state, 20)


if __name__ == "__main__":
    main()
