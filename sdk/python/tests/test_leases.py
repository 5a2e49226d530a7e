"""Leases over the real socket: asked for, held, changed, given back, and what happens when that goes wrong."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from conftest import Agent, soon, until

from memboss_ram import RAMBoss
from memboss_vram import (
    GPUBoss,
    GPULease,
    InvalidRequest,
    LeaseTimeout,
    NoRoom,
    Outlook,
    Phase,
    Priority,
    QueuePlace,
)


async def test_a_lease_is_held_for_the_block_and_gone_after_it(agent: Agent) -> None:
    async with GPUBoss() as boss:
        async with boss.acquire(vram_mb=8000, priority=Priority.HIGH, label="mine") as lease:
            (held,) = (await boss.status()).leases
            assert (held.id, held.priority, held.gpus, held.label) == (lease.id, Priority.HIGH, lease.gpus, "mine")
            assert (lease.vram_mib, lease.ram_mib, lease.phase) == (8000, 0, Phase.ACTIVE)
            assert lease.visible_devices == lease.gpus[0].uuid
        assert lease.phase is Phase.ENDED and lease.lost is None
        status = await until(boss, lambda status: not status.leases)
        assert all(gpu.leased_mib == 0 for gpu in status.gpus)


async def test_ram_and_vram_are_leased_one_in_the_other_and_by_one_call(agent: Agent) -> None:
    ram_boss = RAMBoss()
    gpu_boss = GPUBoss()
    await ram_boss.connect()
    await gpu_boss.connect()
    async with ram_boss.acquire(ram_mb=16000) as r:
        async with gpu_boss.acquire(vram_mb=8000) as v:
            assert (r.ram_mib, v.vram_mib, v.ram_mib) == (16000, 8000, 0)
            assert (await gpu_boss.status()).ram.leased_mib == 16000
    async with gpu_boss.acquire(vram_mb=8000, ram_mb=16000) as both:
        assert (both.vram_mib, both.ram_mib) == (8000, 16000)
        # The one before has ended when its GPU is seen free.
        await until(gpu_boss, lambda status: len(status.leases) == 1)
    await ram_boss.close()
    await gpu_boss.close()


async def test_several_gpus_shares_and_places_are_as_asked(agent: Agent) -> None:
    async with GPUBoss() as boss:
        gpus = (await boss.status()).gpus
        async with boss.acquire(vram_mb=[1000, 3000]) as lease:
            assert sorted(gpu.memory_mib for gpu in lease.gpus) == [1000, 3000]
            assert {gpu.uuid for gpu in lease.gpus} == {gpu.uuid for gpu in gpus}
        async with boss.acquire(vram_percent=50, gpus=2) as lease:
            # A share is rounded down to the unit.
            assert all(0 <= gpus[0].leasable_mib // 2 - gpu.memory_mib < 256 for gpu in lease.gpus)
            assert len(lease.gpus) == 2
        async with boss.acquire(vram_mb=100, uuids=[gpus[1].uuid], models=["SIM"]) as lease:
            assert lease.gpus[0].uuid == gpus[1].uuid


async def test_an_error_in_the_block_gives_the_lease_back_and_is_told(agent: Agent) -> None:
    async with GPUBoss() as boss:
        with pytest.raises(ZeroDivisionError):
            async with boss.acquire(vram_mb=8000):
                raise ZeroDivisionError
        await until(boss, lambda status: not status.leases)


async def test_a_close_that_is_cancelled_gives_all_back_all_the_same(agent: Agent) -> None:
    boss = await GPUBoss().connect()
    for _ in range(3):
        await boss.acquire(vram_mb=1000)
    closing = asyncio.ensure_future(boss.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await boss.close()
    async with GPUBoss() as another:
        await until(another, lambda status: not status.leases)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, "vram_mb or vram_percent"),
        ({"vram_mb": 0}, "MiB"),
        ({"vram_mb": 1.5}, "whole number"),
        ({"vram_mb": "8Gi"}, "whole number"),
        ({"vram_mb": []}, "one for each"),
        ({"vram_mb": [1, 2], "gpus": 3}, "one for each"),
        ({"vram_mb": 1, "vram_percent": 1}, "both"),
        ({"vram_percent": 101}, "1 to 100"),
        ({"vram_mb": 1, "gpus": 0}, "at least 1"),
        ({"vram_mb": 1, "priority": "highest"}, "urgent, high, normal, low, batch"),
        ({"vram_mb": 1, "timeout": -1}, "seconds"),
        ({"vram_mb": 1, "ram_mb": -1}, "ram_mb"),
        ({"vram_mb": 1, "models": "H100"}, r"models=\['H100'\]"),
        ({"vram_mb": 1, "uuids": "GPU-0"}, r"uuids=\['GPU-0'\]"),
    ],
)
async def test_what_makes_no_sense_is_told_before_anything_is_sent(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        GPUBoss("/nowhere").acquire(**asked)


async def test_without_room_it_waits_as_long_as_was_asked_and_holds_nothing_then(agent: Agent) -> None:
    async with GPUBoss() as boss, boss.acquire(vram_mb=20000, gpus=2) as held:
        with pytest.raises(NoRoom, match="timeout="):
            await boss.acquire(vram_mb=8000, timeout=0)
        with pytest.raises(LeaseTimeout, match=r"needs 8000Mi on one GPU.*wait longer"):
            await boss.acquire(vram_mb=8000, timeout=1)
        assert [lease.id for lease in (await boss.status()).leases] == [held.id]


async def test_whoever_is_cancelled_while_waiting_leaves_the_queue(agent: Agent) -> None:
    async with GPUBoss() as boss, boss.acquire(vram_mb=20000, gpus=2) as held:
        places: asyncio.Queue[QueuePlace] = asyncio.Queue()
        waiting = asyncio.ensure_future(soon(boss.acquire(vram_mb=8000, on_queue=places.put_nowait)))
        place = await soon(places.get())
        assert (place.position, place.reason) == (1, "NoRoom")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert [lease.id for lease in (await boss.status()).leases] == [held.id]


async def test_whoever_is_cancelled_before_the_agent_answers_leaves_nothing_behind(agent: Agent) -> None:
    async with GPUBoss() as boss:
        for turns in range(12):

            async def ask() -> None:
                async with boss.acquire(vram_mb=8000):
                    await asyncio.Event().wait()

            asking = asyncio.ensure_future(ask())
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        await until(boss, lambda status: not status.leases)


async def test_a_waiter_is_granted_what_is_given_back(agent: Agent) -> None:
    async with GPUBoss() as boss:
        first = await boss.acquire(vram_mb=20000, gpus=2)
        places: asyncio.Queue[QueuePlace] = asyncio.Queue()
        second = asyncio.ensure_future(soon(boss.acquire(vram_mb=8000, on_queue=places.put_nowait)))
        await soon(places.get())
        await first.shrink(12000)
        lease: GPULease = await second
        assert (first.vram_mib, lease.vram_mib) == (24000, 8000)
        await lease.release()
        await lease.release()
        await first.release()


async def test_a_part_moves_into_ram(agent: Agent) -> None:
    async with GPUBoss() as boss, boss.acquire(vram_mb=8000) as lease:
        await lease.offload(vram_mb=2000)
        assert (lease.vram_mib, lease.ram_mib) == (2000, 6000)
        await lease.shrink(ram_mb=1000)
        assert (lease.vram_mib, lease.ram_mib) == (2000, 1000)
        with pytest.raises(InvalidRequest):
            await lease.shrink(9000)
        with pytest.raises(InvalidRequest):
            await lease.offload(vram_mb=1000, ram_mb=10_000_000)
        assert (lease.vram_mib, lease.ram_mib) == (2000, 1000)


async def test_a_dry_run_tells_what_would_come_of_it_and_why_tells_what_did(agent: Agent) -> None:
    async with GPUBoss() as boss:
        async with boss.acquire(vram_mb=20000, gpus=2, priority="batch", protection=0.001) as held:
            for asked, outlook in [
                ({"vram_mb": 2000}, Outlook.NOW),
                ({"vram_mb": 8000, "priority": "batch"}, Outlook.WAITS),
                ({"vram_mb": 8000, "priority": "urgent"}, Outlook.AFTER_PREEMPTION),
                ({"vram_mb": 800_000}, Outlook.NEVER),
            ]:
                told = await boss.dry_run(**asked)  # type: ignore[arg-type]
                assert told.outlook is outlook, told
                assert told.victims == ((held.id,) if outlook is Outlook.AFTER_PREEMPTION else ())
            assert "Active" in (await held.why())[0]
            assert [lease.id for lease in (await boss.status()).leases] == [held.id]


async def test_a_boss_that_is_closed_gives_back_what_it_held(agent: Agent) -> None:
    async with GPUBoss() as watching:
        async with GPUBoss() as boss:
            lease = await boss.acquire(vram_mb=1000)
        assert lease.phase is Phase.ENDED
        await until(watching, lambda status: not status.leases)


async def test_whoever_gives_back_second_waits_for_the_first(agent: Agent) -> None:
    async with GPUBoss() as watching:
        async with GPUBoss() as boss:
            lease = await boss.acquire(vram_mb=1000)
            giving = asyncio.ensure_future(lease.release())
            await asyncio.sleep(0)
        # The connection is closed, and the agent was told before.
        await giving
        await until(watching, lambda status: not status.leases)
