/** A lease of GPU memory for as long as a block lasts, and what may be asked for with it. */

import { GPUBoss, LeaseTimeout, NoRoom, Priority } from "@memboss/vram";

await using boss = new GPUBoss();
{
  await using lease = await boss.acquire({ vramMb: 8000 });
  console.log(`${lease.vramMib} MiB on ${lease.visibleDevices}`);
}

await boss.withLease({ vramMb: 4000, gpus: 2, priority: Priority.HIGH, timeoutMs: 60_000 }, (lease) => {
  for (const gpu of lease.gpus) console.log(`${gpu.memoryMib} MiB on GPU ${gpu.uuid}`);
});

const forecast = await boss.dryRun({ vramMb: 8000, priority: "urgent" });
console.log("8000 MiB would come:", forecast.outlook);
try {
  await boss.acquire({ vramMb: 1_000_000, timeoutMs: 0 });
} catch (error) {
  if (!(error instanceof NoRoom || error instanceof LeaseTimeout)) throw error;
  console.log("refused:", error.message);
}

for (const gpu of (await boss.status()).gpus) {
  console.log(`${gpu.model}: ${gpu.leasedMib} of ${gpu.leasableMib} MiB leased`);
}
