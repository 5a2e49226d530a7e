"""RAM and GPU memory: one inside the other, and both in one step, all or nothing."""

import asyncio

from memboss_ram import RAMBoss
from memboss_vram import GPUBoss


async def main() -> None:
    ram_boss = RAMBoss()
    gpu_boss = GPUBoss()
    await ram_boss.connect()
    await gpu_boss.connect()
    async with ram_boss.acquire(ram_mb=16000) as r:
        async with gpu_boss.acquire(vram_mb=8000) as v:
            print(f"{r.ram_mib} MiB of RAM, {v.vram_mib} MiB of VRAM")

    async with gpu_boss.acquire(vram_mb=8000, ram_mb=16000) as lease:
        print(f"{lease.ram_mib} MiB of RAM and {lease.vram_mib} MiB of VRAM in one lease")
    await gpu_boss.close()
    await ram_boss.close()


asyncio.run(main())
