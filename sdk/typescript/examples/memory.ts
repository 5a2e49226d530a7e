/** How hard pressed this machine's RAM is, who uses it, and dropping page cache that nobody needs. It needs no agent; the last part needs the program
 * memboss. */

import { CacheManager, MemoryAnalyzer, ProcessMonitor } from "@memboss/ram";

const analysis = await new MemoryAnalyzer().analyze();
console.log(`pressure ${analysis.pressure}: ${analysis.advice}`);
console.log(
  `${analysis.availableMib} of ${analysis.totalMib} MiB available, ${analysis.droppableMib} MiB of cache could be dropped`,
);
if (analysis.pressure !== "low") console.log("resting on", analysis.sign);

const monitor = new ProcessMonitor();
await monitor.growth();
for (const { name, pid, residentMib } of await monitor.processes({ top: 3 }))
  console.log(`${name} (${pid}): ${residentMib} MiB`);
for (const { name, mibPerMinute } of await monitor.growth({ top: 3 }))
  console.log(`${name}: ${mibPerMinute.toFixed(0)} MiB a minute`);

const freedMb = await new CacheManager().cleanup({ mode: "auto" });
console.log(`${freedMb} MiB became free`);
const report = await new CacheManager().clean({ mode: "balanced", dryRun: true });
console.log(`balanced would drop ${report.droppedMib} MiB of ${report.files.length} files`);
