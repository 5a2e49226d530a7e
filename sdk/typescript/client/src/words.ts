/** What the agent tells, in plain objects. Amounts are MiB. They are read, never changed; nothing here asks the agent. */

import { Health, Outlook as WireOutlook, Phase as WirePhase } from "./generated/agent_pb.js";
import type * as wire from "./generated/agent_pb.js";
import { type Priority, priorityTold } from "./priority.js";

/** Where a lease is in its life. */
export const Phase = {
  WAITING: "waiting",
  RESERVED: "reserved",
  ACTIVE: "active",
  /** It was asked to go. */
  REVOKING: "revoking",
  /** It is over, and its memory is not yet seen free. */
  STOPPING: "stopping",
  ENDED: "ended",
} as const;
/** One of the phases. */
export type Phase = (typeof Phase)[keyof typeof Phase];

/** What would come of a request. */
export const Outlook = {
  /** It would be granted at once. */
  NOW: "now",
  /** Others would be asked to give way first. */
  AFTER_PREEMPTION: "after_preemption",
  /** It would have to wait until others go by themselves. */
  WAITS: "waits",
  /** Nothing here could ever hold it. */
  NEVER: "never",
} as const;
/** One of the outlooks. */
export type Outlook = (typeof Outlook)[keyof typeof Outlook];

/** A part of one GPU. */
export interface GPUShare {
  readonly uuid: string;
  readonly memoryMib: number;
  /** NVML's number now; UUIDs stay, numbers do not. */
  readonly index: number;
}

/** The place of a lease that waits. */
export interface QueuePlace {
  /** From 1; 0 where it is told no place. */
  readonly position: number;
  /** Its name. */
  readonly reason: string;
  /** A sentence. */
  readonly message: string;
  /** When it will probably be granted: no promise. Nothing where nothing tells. */
  readonly estimateMs: number | undefined;
  /**
   * What that rests on: `Notice` (those who make room were told to be gone by then), `Protection` (those who can make room are protected until shortly before)
   * or `Queue` (how fast the queue has moved lately).
   */
  readonly estimateBasis: string;
}

/** What would come of a request now; nothing changed by it. */
export interface DryRun {
  readonly outlook: Outlook;
  /** Where, as far as it is known. */
  readonly gpus: readonly GPUShare[];
  /** Who would be asked to give way. */
  readonly victims: readonly string[];
  readonly reason: string;
  readonly message: string;
}

/** A GPU as the driver and the ledger see it. */
export interface GPUStatus {
  readonly uuid: string;
  readonly index: number;
  readonly model: string;
  readonly totalMib: number;
  readonly leasableMib: number;
  readonly leasedMib: number;
  /** In use by whom no lease explains. */
  readonly foreignMib: number;
  readonly usedMib: number;
  /** `unknown` where the agent does not say. */
  readonly health: "healthy" | "degraded" | "lost" | "unknown";
  readonly healthReason: string;
}

/** The host's RAM. */
export interface RAMStatus {
  readonly totalMib: number;
  readonly availableMib: number;
  readonly leasableMib: number;
  readonly leasedMib: number;
}

/** A lease as anyone on the node may see it. */
export interface LeaseStatus {
  readonly id: string;
  readonly phase: Phase;
  readonly priority: Priority;
  readonly gpus: readonly GPUShare[];
  readonly ramMib: number;
  readonly reason: string;
  readonly queue: QueuePlace | undefined;
  /** What its process runs, or its pod. */
  readonly holder: string;
  /** What its holder wishes to be shown; proves nothing. */
  readonly label: string;
  /** 0 for a pod's. */
  readonly pid: number;
}

/** The node: GPUs, RAM, leases and their queue. */
export interface NodeStatus {
  readonly node: string;
  readonly gpus: readonly GPUStatus[];
  readonly ram: RAMStatus;
  readonly leases: readonly LeaseStatus[];
  /** Why nothing is granted for now; empty otherwise. */
  readonly hold: string;
  /** Whether the driver has not told yet which GPUs there are: whoever asks for one waits. */
  readonly gpusUnread: boolean;
}

/** From the agent's number; one that only a later agent knows is taken for waiting, of which nothing follows. */
export function phaseTold(phase: WirePhase): Phase {
  switch (phase) {
    case WirePhase.RESERVED:
      return Phase.RESERVED;
    case WirePhase.ACTIVE:
      return Phase.ACTIVE;
    case WirePhase.REVOKING:
      return Phase.REVOKING;
    case WirePhase.STOPPING:
      return Phase.STOPPING;
    case WirePhase.ENDED:
      return Phase.ENDED;
    default:
      return Phase.WAITING;
  }
}

/** From the agent's message. */
export function shareTold(share: wire.GpuShare): GPUShare {
  return { uuid: share.uuid, memoryMib: Number(share.memoryMib), index: share.index };
}

/** From the agent's message. */
export function placeTold(queue: wire.Queue): QueuePlace {
  const { position, reason, message, estimateMs, estimateBasis } = queue;
  return {
    position,
    reason,
    message,
    estimateMs: estimateMs === undefined ? undefined : Number(estimateMs),
    estimateBasis,
  };
}

function outlookTold(outlook: WireOutlook): Outlook {
  switch (outlook) {
    case WireOutlook.NOW:
      return Outlook.NOW;
    case WireOutlook.AFTER_PREEMPTION:
      return Outlook.AFTER_PREEMPTION;
    case WireOutlook.NEVER:
      return Outlook.NEVER;
    default:
      return Outlook.WAITS;
  }
}

/** From the agent's message. */
export function dryRunTold(answer: wire.DryRunResponse): DryRun {
  return {
    outlook: outlookTold(answer.outlook),
    gpus: answer.gpus.map(shareTold),
    victims: [...answer.victims],
    reason: answer.reason,
    message: answer.message,
  };
}

function healthTold(health: Health): GPUStatus["health"] {
  switch (health) {
    case Health.HEALTHY:
      return "healthy";
    case Health.DEGRADED:
      return "degraded";
    case Health.LOST:
      return "lost";
    default:
      return "unknown";
  }
}

function gpuTold(gpu: wire.Gpu): GPUStatus {
  return {
    uuid: gpu.uuid,
    index: gpu.index,
    model: gpu.model,
    totalMib: Number(gpu.totalMib),
    leasableMib: Number(gpu.leasableMib),
    leasedMib: Number(gpu.leasedMib),
    foreignMib: Number(gpu.foreignMib),
    usedMib: Number(gpu.usedMib),
    health: healthTold(gpu.health),
    healthReason: gpu.healthReason,
  };
}

function leaseTold(lease: wire.LeaseView): LeaseStatus {
  return {
    id: lease.lease,
    phase: phaseTold(lease.phase),
    priority: priorityTold(lease.class),
    gpus: lease.gpus.map(shareTold),
    ramMib: Number(lease.ramMib),
    reason: lease.reason,
    queue: lease.queue && placeTold(lease.queue),
    holder: lease.holder?.name ?? "",
    label: lease.holder?.label ?? "",
    pid: lease.holder?.pid ?? 0,
  };
}

/** From the agent's message. */
export function nodeTold(status: wire.StatusResponse): NodeStatus {
  return {
    node: status.node,
    gpus: (status.gpus?.gpus ?? []).map(gpuTold),
    ram: {
      totalMib: Number(status.ram?.totalMib ?? 0),
      availableMib: Number(status.ram?.availableMib ?? 0),
      leasableMib: Number(status.ram?.leasableMib ?? 0),
      leasedMib: Number(status.ram?.leasedMib ?? 0),
    },
    leases: status.leases.map(leaseTold),
    hold: status.gpus?.hold ?? "",
    gpusUnread: status.gpus?.unread ?? false,
  };
}
