"""Measures leases from Python on the agent at MEMBOSS_SOCKET, and prints; it asserts nothing. `python bench.py [ROUNDS]`."""

from __future__ import annotations

import asyncio
import sys
import time

from memboss_vram import GPUBoss
from memboss_vram.sync import GPUBoss as BlockingGPUBoss


def told(what: str, seconds: list[float]) -> None:
    """One line: the median, and what 99 of 100 stay below."""
    ordered = sorted(seconds)
    median, worst = (1000 * ordered[min(len(ordered) - 1, int(len(ordered) * part))] for part in (0.5, 0.99))
    print(f"{what:<44} p50 {median:7.2f} ms   p99 {worst:7.2f} ms")


async def asynchronous(rounds: int) -> None:
    """Acquire and release one after the other, and then by 64 tasks at once."""
    async with GPUBoss() as boss:
        acquired, released = [], []
        for _ in range(rounds):
            begun = time.perf_counter()
            lease = await boss.acquire(vram_mb=256)
            held = time.perf_counter()
            await lease.release()
            acquired.append(held - begun)
            released.append(time.perf_counter() - held)
        told("Python, acquire", acquired)
        told("Python, release", released)

        async def contend(pairs: int) -> None:
            for _ in range(pairs):
                async with boss.acquire(vram_mb=8000):
                    pass

        begun = time.perf_counter()
        await asyncio.gather(*(contend(max(1, rounds // 64)) for _ in range(64)))
        pairs = 64 * max(1, rounds // 64)
        print(f"{'Python, 64 tasks that contend':<44} {pairs / (time.perf_counter() - begun):7.0f} pairs a second")


def blocking(rounds: int) -> None:
    """The same without asyncio."""
    with BlockingGPUBoss() as boss:
        taken = []
        for _ in range(rounds):
            begun = time.perf_counter()
            with boss.acquire(vram_mb=256):
                pass
            taken.append(time.perf_counter() - begun)
        told("Python without asyncio, acquire and release", taken)


if __name__ == "__main__":
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    asyncio.run(asynchronous(number))
    blocking(number)
