/** RAM and GPU memory: one inside the other, and both in one step, all or nothing. */

import { RAMBoss } from "@memboss/ram";
import { GPUBoss } from "@memboss/vram";

await using ramBoss = new RAMBoss();
await using gpuBoss = new GPUBoss();
{
  await using r = await ramBoss.acquire({ ramMb: 16_000 });
  await using v = await gpuBoss.acquire({ vramMb: 8000 });
  console.log(`${r.ramMib} MiB of RAM, ${v.vramMib} MiB of VRAM`);
}

await using lease = await gpuBoss.acquire({ vramMb: 8000, ramMb: 16_000 });
console.log(`${lease.ramMib} MiB of RAM and ${lease.vramMib} MiB of VRAM in one lease`);
