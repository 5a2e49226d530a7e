"""Preemption with notice, end to end: a holder of a lower class is told for whom, how much and by when, and gives way in one of its ways, or is made to."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import pytest
from conftest import Agent, Program, soon, until

from memboss_client.acquisition import Acquisition
from memboss_ram import RAMBoss
from memboss_vram import GPUBoss, GPULease, LeaseLost, Notice, Phase, Preempted, Priority

UNPROTECTED = 0.001
"""Seconds after its grant in which a holder is not asked to go: none, or tests would wait for a minute."""


async def test_a_holder_in_another_process_shrinks_and_both_go_on(
    agent: Agent, program: Callable[[str], Program]
) -> None:
    holder = program(
        """
        async def give_way(notice):
            told = dict(who=notice.preemptor, priority=notice.preemptor_priority, why=notice.reason)
            say(**told, needed=notice.needed_mib, left=notice.remaining_seconds)
            await notice.lease.shrink(vram_mb=10000)
            say(shrunk=1)

        async def main():
            async with GPUBoss() as boss:
                asked = boss.acquire(vram_mb=20000, gpus=2, priority="batch", protection=0.001, on_preempt=give_way)
                async with asked as lease:
                    say(id=lease.id)
                    await heard()
                    while lease.notice is not None:
                        await asyncio.sleep(0)
                    say(holds=[gpu.memory_mib for gpu in lease.gpus])

        asyncio.run(main())
        """
    )
    held = await holder.hears()
    async with GPUBoss() as boss:
        async with boss.acquire(vram_mb=10000, priority=Priority.URGENT) as lease:
            told = await holder.hears()
            assert (told["who"], told["priority"], told["why"]) == (lease.id, "urgent", "Preempted")
            assert 0 < told["left"] <= 30 and any(told["needed"])
            assert await holder.hears() == {"shrunk": 1}
            holder.tell()
            assert await holder.hears() == {"holds": [10000, 10000]}
            assert await holder.ends() == 0
        assert held["id"] != lease.id


async def test_without_a_word_about_it_the_block_is_cancelled_and_the_lease_given_back(agent: Agent) -> None:
    async with GPUBoss() as boss:
        cleaned = False

        async def work() -> None:
            nonlocal cleaned
            try:
                async with boss.acquire(vram_mb=20000, gpus=2, priority="batch", protection=UNPROTECTED):
                    try:
                        await asyncio.Event().wait()
                    finally:
                        cleaned = True
            finally:
                # What follows the block is not cancelled any more.
                await asyncio.sleep(0)

        holding = asyncio.ensure_future(work())
        await until(boss, lambda status: status.leases)
        async with soon_granted(boss) as urgent:
            with pytest.raises(Preempted, match="class urgent") as told:
                await soon(holding)
            assert holding.cancelled() is False and cleaned and "MiB in" in told.value.advice
            assert urgent.vram_mib == 10000


def soon_granted(boss: GPUBoss) -> Acquisition[GPULease]:
    return boss.acquire(vram_mb=10000, priority="urgent", timeout=60)


async def test_a_callback_may_release_and_the_block_goes_on(agent: Agent) -> None:
    async with GPUBoss() as boss:
        over = asyncio.Event()

        async def go(notice: Notice[GPULease]) -> None:
            await notice.lease.release()
            over.set()

        async def work() -> str:
            asked = boss.acquire(vram_mb=20000, gpus=2, priority="low", protection=UNPROTECTED, on_preempt=go)
            async with asked as lease:
                await over.wait()
                return str(lease.phase)

        holding = asyncio.ensure_future(work())
        await until(boss, lambda status: status.leases)
        async with soon_granted(boss):
            assert await soon(holding) == "ended"


async def test_a_callback_may_offload_what_is_needed(agent: Agent) -> None:
    async with GPUBoss() as boss:
        done = asyncio.Event()

        async def offload(notice: Notice[GPULease]) -> None:
            lease = notice.lease
            keeps = [gpu.memory_mib - needed for gpu, needed in zip(lease.gpus, notice.needed_mib, strict=True)]
            await lease.offload(keeps)
            done.set()

        asked = boss.acquire(vram_mb=20000, gpus=2, priority="low", protection=UNPROTECTED, on_preempt=offload)
        async with asked as lease:
            async with soon_granted(boss):
                await soon(done.wait())
                assert lease.vram_mib == 40000 - lease.ram_mib and 0 < lease.ram_mib <= 10000


async def test_a_callback_that_fails_ends_the_block_as_if_there_were_none(agent: Agent) -> None:
    async with GPUBoss() as boss:

        def fail(notice: Notice[GPULease]) -> None:
            raise ZeroDivisionError

        async def work() -> None:
            asked = boss.acquire(vram_mb=20000, gpus=2, priority="low", protection=UNPROTECTED, on_preempt=fail)
            async with asked:
                await asyncio.Event().wait()

        holding = asyncio.ensure_future(work())
        await until(boss, lambda status: status.leases)
        async with soon_granted(boss):
            with pytest.raises(Preempted):
                await soon(holding)


async def test_cancelled_from_outside_at_the_same_time_it_stays_cancelled(agent: Agent) -> None:
    async with GPUBoss() as boss:
        told = asyncio.Event()

        async def work() -> None:
            asked = boss.acquire(vram_mb=20000, gpus=2, priority="batch", protection=UNPROTECTED)
            async with asked:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    told.set()
                    # The second, from outside.
                    await asyncio.Event().wait()

        holding = asyncio.ensure_future(work())
        await until(boss, lambda status: status.leases)
        urgent = asyncio.ensure_future(soon(boss.acquire(vram_mb=10000, priority="urgent")))
        await soon(told.wait())
        holding.cancel()
        await soon(asyncio.wait([holding]))
        assert holding.cancelled() or isinstance(holding.exception(), Preempted)
        await (await urgent).release()


async def test_a_holder_that_heeds_nothing_is_ended_when_its_time_is_over(
    agent: Agent, program: Callable[[str], Program]
) -> None:
    holder = program(
        """
        async def main():
            async with GPUBoss() as boss:
                asked = boss.acquire(
                    vram_mb=20000, gpus=2, priority="batch", protection=0.001, notice=0.2, on_preempt=lambda notice: say(told=1)
                )
                async with asked:
                    say(holds=1)
                    # A program that does not come back to its event loop.
                    await asyncio.sleep(0.05)
                    signal.pause()

        asyncio.run(main())
        """
    )
    assert await holder.hears() == {"holds": 1}
    async with GPUBoss() as boss, soon_granted(boss) as urgent:
        assert await holder.ends() == -signal.SIGTERM
        assert urgent.phase is Phase.ACTIVE


async def test_whoever_overstays_is_told_that_the_lease_is_lost(
    agent: Agent, program: Callable[[str], Program]
) -> None:
    holder = program(
        """
        async def main():
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: say(asked_to_end=1))
            async with GPUBoss() as boss:
                asked = boss.acquire(
                    vram_mb=20000, gpus=2, priority="batch", protection=0.001, notice=0.2,
                    on_preempt=lambda notice: say(told=notice.preemptor_priority),
                    on_lost=lambda error: say(lost=type(error).__name__),
                )
                async with asked:
                    say(holds=1)
                    await heard()

        asyncio.run(main())
        """
    )
    assert await holder.hears() == {"holds": 1}
    async with GPUBoss() as boss:
        urgent = asyncio.ensure_future(soon(boss.acquire(vram_mb=10000, priority="urgent")))
        assert await holder.hears() == {"told": "urgent"}
        after = [await holder.hears(), await holder.hears()]
        assert {"lost": "Preempted"} in after and {"asked_to_end": 1} in after
        holder.tell()
        assert await holder.ends() == 0
        await (await urgent).release()


async def test_ram_gives_way_as_vram_does(agent: Agent) -> None:
    async with RAMBoss() as boss:
        leasable = (await boss.status()).ram.leasable_mib
        held = asyncio.Event()

        async def work() -> None:
            async with boss.acquire(ram_mb=leasable - 1000, priority="batch", protection=UNPROTECTED):
                held.set()
                await asyncio.Event().wait()

        holding = asyncio.ensure_future(work())
        await soon(held.wait())
        async with boss.acquire(ram_mb=2000, priority="high", timeout=60) as lease:
            with pytest.raises(Preempted, match="class high"):
                await soon(holding)
            assert lease.ram_mib == 2000


async def test_a_notice_that_comes_before_the_block_begins_is_heeded_too(agent: Agent) -> None:
    async with GPUBoss() as boss:
        acquiring = boss.acquire(vram_mb=20000, gpus=2, priority="batch", protection=UNPROTECTED)
        lease = await acquiring
        urgent = asyncio.ensure_future(soon(boss.acquire(vram_mb=10000, priority="urgent")))
        while lease.notice is None:
            await boss.status()

        async def there() -> GPULease:
            return lease

        with pytest.raises(Preempted):
            async with Acquisition(there):
                pytest.fail("the block began")
        await (await urgent).release()


async def test_a_loop_that_asks_by_itself_is_told_too(agent: Agent) -> None:
    async with GPUBoss() as boss:
        noticed = asyncio.Event()
        lease = await boss.acquire(
            vram_mb=20000, gpus=2, priority="batch", protection=UNPROTECTED, on_preempt=lambda notice: noticed.set()
        )
        lease.check()
        urgent = asyncio.ensure_future(soon(boss.acquire(vram_mb=10000, priority="urgent")))
        await soon(noticed.wait())
        with pytest.raises(Preempted, match="urgent"):
            lease.check()
        assert lease.notice is not None and lease.notice.preemptor_priority is Priority.URGENT
        assert issubclass(Preempted, LeaseLost)
        await lease.release()
        await (await urgent).release()
