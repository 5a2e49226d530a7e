"""A lease of GPU memory for as long as a block lasts, and what may be asked for with it."""

import asyncio

from memboss_vram import GPUBoss, LeaseTimeout, NoRoom, Priority


async def main() -> None:
    async with GPUBoss() as boss:
        async with boss.acquire(vram_mb=8000) as lease:
            print(f"{lease.vram_mib} MiB on {lease.visible_devices}")

        async with boss.acquire(vram_mb=4000, gpus=2, priority=Priority.HIGH, timeout=60) as lease:
            for gpu in lease.gpus:
                print(f"{gpu.memory_mib} MiB on GPU {gpu.index}")

        forecast = await boss.dry_run(vram_mb=8000, priority="urgent")
        print("8000 MiB would come:", forecast.outlook)
        try:
            await boss.acquire(vram_mb=1_000_000, timeout=0)
        except (NoRoom, LeaseTimeout) as error:
            print("refused:", error)

        status = await boss.status()
        for one in status.gpus:
            print(f"{one.model}: {one.leased_mib} of {one.leasable_mib} MiB leased")


asyncio.run(main())
