"""Several processes: they contend, they are killed, they fork. A lease is its process's alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from conftest import Agent, Program, soon, until

from memboss_vram import GPUBoss, QueuePlace


async def test_a_process_that_is_killed_frees_its_lease_at_once(
    agent: Agent, program: Callable[[str], Program]
) -> None:
    holder = program(
        """
        async def main():
            async with GPUBoss() as boss, boss.acquire(vram_mb=20000, gpus=2):
                say(holds=1)
                await heard()
        asyncio.run(main())
        """
    )
    await holder.hears()
    async with GPUBoss() as boss:
        places: asyncio.Queue[QueuePlace] = asyncio.Queue()
        waiting = asyncio.ensure_future(soon(boss.acquire(vram_mb=8000, on_queue=places.put_nowait)))
        await soon(places.get())
        holder.process.kill()
        await (await waiting).release()


async def test_two_processes_that_contend_never_hold_more_than_there_is(
    agent: Agent, program: Callable[[str], Program]
) -> None:
    text = """
        async def one(boss):
            async with boss.acquire(vram_mb=15000) as lease:
                say(begins=lease.gpus[0].uuid)
                await asyncio.sleep(0.001)
                say(ends=lease.gpus[0].uuid)
        async def main():
            async with GPUBoss() as boss:
                await asyncio.gather(*(one(boss) for _ in range(10)))
        asyncio.run(main())
        """
    contenders = [program(text), program(text)]
    async with GPUBoss() as boss:
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                status = await boss.status()
                most = max(most, *(gpu.leased_mib for gpu in status.gpus))

        watching = asyncio.ensure_future(watch())
        for contender in contenders:
            assert await contender.ends() == 0
            assert contender.process.stdout is not None
            assert len(contender.process.stdout.readlines()) == 20
        watching.cancel()
        assert most == 15000
        await until(boss, lambda status: not status.leases)


FORK = """
    import threading

    def wait_for(child):
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)

    async def main():
        async with GPUBoss() as boss:
            async with boss.acquire(vram_mb=8000) as lease:
                child = os.fork()
                if child == 0:
                    {child}
                code = await asyncio.to_thread(wait_for, child)
                status = await boss.status()
                say(code=code, held=[one.id for one in status.leases] == [lease.id], phase=lease.phase)
                await lease.shrink(4000)
                say(vram=lease.vram_mib)

    asyncio.run(main())
"""


@pytest.mark.parametrize(
    "child",
    [
        # It ends as programs do: everything in it is taken down.
        "import gc; gc.collect(); sys.exit(0)",
        "os._exit(0)",
        # It leaves its parent's block.
        "raise KeyboardInterrupt",
    ],
)
async def test_a_forked_child_that_ends_leaves_its_parent_s_lease_alone(
    agent: Agent, program: Callable[[str], Program], child: str
) -> None:
    parent = program(FORK.replace("{child}", child))
    told = await parent.hears()
    assert told["held"] and told["phase"] == "active", told
    assert await parent.hears() == {"vram": 4000}
    assert await parent.ends() == 0


async def test_a_child_that_is_forked_while_its_parent_gives_all_back_does_not_wait_for_that(
    agent: Agent, program: Callable[[str], Program]
) -> None:
    parent = program(
        """
        async def main():
            boss = GPUBoss()
            await boss.acquire(vram_mb=8000)
            closing = asyncio.ensure_future(boss.close())
            await asyncio.sleep(0)
            child = os.fork()
            if child == 0:
                import threading
                thread = threading.Thread(target=lambda: asyncio.run(boss.close()))
                thread.start()
                thread.join()
                say(closed="by the child")
                os._exit(0)
            await asyncio.to_thread(os.waitpid, child, 0)
            await closing
            say(held=len((await boss.status()).leases))
            await boss.close()

        asyncio.run(main())
        """
    )
    assert await parent.hears() == {"closed": "by the child"}
    assert await parent.hears() == {"held": 0}


async def test_a_forked_child_cannot_use_its_parent_s_lease_and_can_have_its_own(
    agent: Agent, program: Callable[[str], Program]
) -> None:
    parent = program(
        """
        import gc

        async def in_child(boss, lease):
            for use in (lease.shrink(1000), lease.release(), boss.status(), boss.acquire(vram_mb=100), boss.close()):
                try:
                    await use
                    say(did=use.__qualname__)
                except WrongProcess as error:
                    say(refused=str(error))
            async with GPUBoss() as own:
                async with own.acquire(vram_mb=500) as mine:
                    say(own=mine.vram_mib, all=len((await own.status()).leases))

        async def main():
            async with GPUBoss() as boss:
                async with boss.acquire(vram_mb=8000) as lease:
                    child = os.fork()
                    if child == 0:
                        import threading
                        thread = threading.Thread(target=lambda: asyncio.run(in_child(boss, lease)))
                        thread.start()
                        thread.join()
                        sys.exit(0)
                    await asyncio.to_thread(os.waitpid, child, 0)
                    say(held=(await boss.status()).leases[0].id == lease.id)

        asyncio.run(main())
        """
    )
    refused = "a forked child has no part in its parent's leases"
    assert refused in (await parent.hears())["refused"]
    assert await parent.hears() == {"did": "Lease.release"}
    assert refused in (await parent.hears())["refused"]
    assert refused in (await parent.hears())["refused"]
    assert await parent.hears() == {"did": "Boss.close"}
    assert await parent.hears() == {"own": 500, "all": 2}
    assert await parent.hears() == {"held": True}
    assert await parent.ends() == 0


async def test_worker_processes_of_the_synchronous_face_come_and_go(
    agent: Agent, program: Callable[[str], Program]
) -> None:
    parent = program(
        """
        import multiprocessing
        from memboss_vram.sync import GPUBoss

        def work(number):
            with GPUBoss() as boss, boss.acquire(vram_mb=100) as lease:
                return lease.vram_mib + number

        with GPUBoss() as boss, boss.acquire(vram_mb=8000) as lease:
            with multiprocessing.get_context("fork").Pool(2) as pool:
                say(work=pool.map(work, range(4)))
            child = os.fork()
            if child == 0:
                lease.release()
                boss.close()
                sys.exit(0)
            os.waitpid(child, 0)
            say(held=[one.id for one in boss.status().leases] == [lease.id])
        """
    )
    assert await parent.hears() == {"work": [100, 101, 102, 103]}
    assert await parent.hears() == {"held": True}
    assert await parent.ends() == 0


@pytest.mark.parametrize(
    "text",
    [
        "asyncio.run(hold())",
        "boss = SyncBoss().connect(); lease = boss.acquire(vram_mb=100); say(holds=lease.vram_mib)",
    ],
)
async def test_a_program_that_just_ends_says_nothing_and_leaves_nothing(
    agent: Agent, program: Callable[[str], Program], text: str
) -> None:
    ending = program(
        f"""
        from memboss_vram.sync import GPUBoss as SyncBoss

        async def hold():
            lease = await (await GPUBoss().connect()).acquire(vram_mb=100)
            say(holds=lease.vram_mib)

        {text}
        """
    )
    assert await ending.hears() == {"holds": 100}
    assert (await ending.ends(), ending.errors()) == (0, "")
    async with GPUBoss() as boss:
        await until(boss, lambda status: not status.leases)


async def test_a_boss_belongs_to_its_event_loop(agent: Agent) -> None:
    async with GPUBoss() as boss:

        def elsewhere() -> None:
            asyncio.run(use())

        async def use() -> None:
            await boss.status()

        with pytest.raises(RuntimeError, match="event loop"):
            await asyncio.to_thread(elsewhere)
