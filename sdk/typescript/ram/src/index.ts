/** Host RAM: leases of it (`RAMBoss`), how hard pressed it is (`MemoryAnalyzer`), who uses it (`ProcessMonitor`), and dropping page cache that nobody needs
 * (`CacheManager`). Leases need the node's agent, cleaning the program `memboss`; the rest works on any Linux machine.
 *
 * How a lease is kept is in @memboss/client; the errors, the priorities and what the agent tells are the same objects in all of memboss' packages. */

export {
  AgentUnavailable,
  type BossOptions,
  type DryRun,
  type GPUShare,
  type GPUStatus,
  InvalidRequest,
  LeaseLost,
  type LeaseStatus,
  LeaseTimeout,
  MembossError,
  type NodeStatus,
  NoRoom,
  Notice,
  Outlook,
  Phase,
  Preempted,
  Priority,
  type QueuePlace,
  type RAMStatus,
  RequestRefused,
  type Token,
} from "@memboss/client";

export { type MemoryAnalysis, MemoryAnalyzer } from "./analyzer.js";
export { RAMBoss, type RAMRequest, type RAMWish } from "./boss.js";
export { CacheManager, type CleanedFile, type CleanReport, type CleanRequest, Kept, Mode } from "./clean.js";
export { RAMLease } from "./lease.js";
export { type Stalls } from "./meminfo.js";
export { Cause, Pressure, pressureRank, Sign } from "./pressure.js";
export { type ProcessGrowth, type ProcessMemory, ProcessMonitor } from "./processes.js";
export { ProgramFailed, ProgramMissing } from "./program.js";
