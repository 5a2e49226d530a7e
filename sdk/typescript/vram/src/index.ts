/** Leases of GPU memory: `await using boss = new GPUBoss()`, `await using lease = await boss.acquire({ vramMb: 8000 })`.
 *
 * It needs the node's agent. How a lease is kept is in @memboss/client; the errors, the priorities and what the agent tells are the same objects in all of
 * memboss' packages. */

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

export { GPUBoss, type GPURequest, type GPUWish } from "./boss.js";
export { UnsafeDevices } from "./devices.js";
export { GPULease } from "./lease.js";
