/** A batch job gives half of its memory back when somebody more important needs it; another, that says nothing about it, is told to stop. */

import { setTimeout as sleep } from "node:timers/promises";

import { GPUBoss, type GPULease, type Notice, Preempted } from "@memboss/vram";

const BATCH = { vramMb: 16_000, gpus: 2, priority: "batch", protectionMs: 1 } as const;

async function giveWay({ lease, neededMib, preemptorPriority, remainingMs }: Notice<GPULease>): Promise<void> {
  console.log(`${preemptorPriority} needs ${neededMib.join(" + ")} MiB in ${(remainingMs / 1000).toFixed(0)} s`);
  // Free the memory here (drop a batch, move weights), and then say so:
  await lease.shrink({ vramMb: lease.gpus.map((gpu, slot) => gpu.memoryMib - (neededMib[slot] ?? 0)) });
}

await using boss = new GPUBoss();

const batch = await boss.acquire({ ...BATCH, onPreempt: giveWay });
await boss.withLease({ vramMb: 10_000, priority: "urgent" }, () => {
  console.log(`the batch job goes on with ${batch.vramMib} MiB`);
});
await batch.release();

let urgent: Promise<void> | undefined;
try {
  await boss.withLease(BATCH, async (lease) => {
    urgent = boss.withLease({ vramMb: 10_000, priority: "urgent" }, ({ vramMib }) =>
      console.log(`urgent has ${vramMib} MiB`),
    );
    // An hour of work that heeds the signal.
    await sleep(3_600_000, undefined, { signal: lease.signal });
  });
} catch (error) {
  if (!(error instanceof Preempted)) throw error;
  console.log("stopped:", error.message);
}
await urgent;
