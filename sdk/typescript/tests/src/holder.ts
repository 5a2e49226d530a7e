/** A process that leases as its first argument says (a `GPURequest` in JSON), and tells on its output what happens, line by line. It ends when it hears
 * "release" or "exit". With `answers` it shrinks to 1,000 MiB on a notice; without, it does nothing about one. */

import { createInterface } from "node:readline";

import { GPUBoss, type GPURequest } from "@memboss/vram";

function say(what: string, more: object = {}): void {
  process.stdout.write(`${JSON.stringify({ what, ...more })}\n`);
}

const { answers, ...request }: GPURequest & { answers?: boolean } = JSON.parse(process.argv[2] ?? "{}");
process.on("SIGTERM", () => say("term"));

const boss = new GPUBoss();
const lease = await boss.acquire({
  ...request,
  onQueue: ({ reason }) => say("queued", { name: reason }),
  onPreempt: async (notice) => {
    say("notice", { neededMib: notice.neededMib });
    if (answers) await notice.lease.shrink({ vramMb: 1_000 });
  },
  onLost: (error) => say("lost", { name: error.name }),
});
say("granted", { id: lease.id });
for await (const line of createInterface({ input: process.stdin })) {
  if (line === "release") await boss.close();
  break;
}
process.exit(0);
