/** Measures leases from TypeScript on the agent at MEMBOSS_SOCKET, and prints; it asserts nothing. `node bench.mjs [ROUNDS]`, after a build. */

import { GPUBoss } from "@memboss/vram";

const rounds = Number(process.argv[2] ?? 1000);

/** One line: the median, and what 99 of 100 stay below. */
function told(what, milliseconds) {
  const ordered = milliseconds.toSorted((one, other) => one - other);
  const at = (part) => ordered[Math.min(ordered.length - 1, Math.floor(ordered.length * part))].toFixed(2).padStart(7);
  console.log(`${what.padEnd(44)} p50 ${at(0.5)} ms   p99 ${at(0.99)} ms`);
}

const boss = new GPUBoss();
const acquired = [];
const released = [];
for (let round = 0; round < rounds; round++) {
  const begun = performance.now();
  const lease = await boss.acquire({ vramMb: 256 });
  const held = performance.now();
  await lease.release();
  acquired.push(held - begun);
  released.push(performance.now() - held);
}
told("TypeScript, acquire", acquired);
told("TypeScript, release", released);

const pairs = Math.max(1, Math.floor(rounds / 64));
const begun = performance.now();
await Promise.all(
  Array.from({ length: 64 }, async () => {
    for (let pair = 0; pair < pairs; pair++) {
      const lease = await boss.acquire({ vramMb: 8000 });
      await lease.release();
    }
  }),
);
const rate = ((64 * pairs * 1000) / (performance.now() - begun)).toFixed(0).padStart(7);
console.log(`${"TypeScript, 64 tasks that contend".padEnd(44)} ${rate} pairs a second`);
await boss.close();
