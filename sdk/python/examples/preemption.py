"""A batch job gives a part of its memory back when somebody more important needs it; another, that says nothing about it, is cancelled."""

import asyncio

from memboss_vram import GPUBoss, GPULease, Notice, Preempted


async def batch_job(boss: GPUBoss, started: asyncio.Event) -> None:
    smaller = asyncio.Event()

    async def give_way(notice: Notice[GPULease]) -> None:
        print(f"{notice.preemptor_priority} needs {sum(notice.needed_mib)} MiB in {notice.remaining_seconds:.0f} s")
        # Free the memory here (drop a batch, move weights), and then say so:
        lease = notice.lease
        await lease.shrink([gpu.memory_mib - needed for gpu, needed in zip(lease.gpus, notice.needed_mib, strict=True)])
        smaller.set()

    async with boss.acquire(vram_mb=16000, gpus=2, priority="batch", protection=0.001, on_preempt=give_way) as lease:
        started.set()
        await smaller.wait()
        print(f"it goes on with {lease.vram_mib} MiB")


async def plain_job(boss: GPUBoss, started: asyncio.Event) -> None:
    try:
        async with boss.acquire(vram_mb=16000, gpus=2, priority="batch", protection=0.001):
            started.set()
            await asyncio.Event().wait()
    except Preempted as error:
        print("cancelled:", error)


async def main() -> None:
    async with GPUBoss() as boss:
        for job in (batch_job, plain_job):
            started = asyncio.Event()
            running = asyncio.create_task(job(boss, started))
            await started.wait()
            async with boss.acquire(vram_mb=10000, priority="urgent"):
                await running


asyncio.run(main())
