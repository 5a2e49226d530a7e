/** What @memboss/vram and @memboss/ram share: one connection to the node's agent, and a lease that is held by it. It is an inner part: import `@memboss/vram`
 * or `@memboss/ram`. It may not know GPUs of this process, nor how RAM is measured.
 *
 * - one socket and its calls: `connection.ts`; where the socket is: `socket-path.ts`; the messages: `generated/`
 * - a lease over its whole life: `holding.ts`; how a request is told: `request.ts`; what the agent says, in plain objects: `words.ts`
 * - what a GPUBoss and a RAMBoss have in common: `boss.ts`, `lease.ts` */

import "./dispose.js";

export { type AnyRequest, Boss, type BossOptions, holdingFor } from "./boss.js";
export {
  AgentUnavailable,
  InvalidRequest,
  LeaseLost,
  LeaseTimeout,
  MembossError,
  NoRoom,
  Preempted,
  RequestRefused,
} from "./errors.js";
export { type Callbacks, Lease, Notice, type Origin, type Token } from "./lease.js";
export { Priority } from "./priority.js";
export { amount, remaining, type Request, type Slot, type SlotsAsked, slotsOf } from "./request.js";
export {
  type DryRun,
  type GPUShare,
  type GPUStatus,
  type LeaseStatus,
  type NodeStatus,
  Outlook,
  Phase,
  type QueuePlace,
  type RAMStatus,
  shareTold,
} from "./words.js";
