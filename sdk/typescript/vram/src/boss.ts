/** Asks the node's agent for memory on GPUs. It says what is asked for and hands out leases; how a lease is kept is in @memboss/client. */

import {
  amount,
  type AnyRequest,
  Boss,
  type Callbacks,
  type DryRun,
  holdingFor,
  type Priority,
  type Request,
  slotsOf,
} from "@memboss/client";

import { checkCudaUnused } from "./devices.js";
import { GPULease } from "./lease.js";

/** What is asked for. */
export interface GPUWish {
  /** MiB on each GPU, or a list with one amount for each. */
  vramMb?: number | readonly number[] | undefined;
  /** In place of an amount: a share of a GPU's leasable memory, 1 to 100. */
  vramPercent?: number | undefined;
  /** MiB of host RAM that is granted in the same step, all or nothing. */
  ramMb?: number | undefined;
  /** On how many GPUs, all different; 1 without. */
  gpus?: number | undefined;
  /** The class; normal without. */
  priority?: Priority | undefined;
  /** Only GPUs whose model contains one of these. */
  models?: readonly string[] | undefined;
  /** Only these GPUs. */
  uuids?: readonly string[] | undefined;
  /** Prefer the emptiest GPU to the fullest that will do. */
  spread?: boolean | undefined;
}

/** What is asked for, and how. */
export interface GPURequest extends GPUWish, AnyRequest, Callbacks<GPULease> {
  /** Milliseconds to wait at most (`LeaseTimeout`); 0 not to wait at all (`NoRoom`); without, as long as it takes. */
  timeoutMs?: number | undefined;
  /** Milliseconds of notice that are wished for before it has to go, at most 300,000. */
  noticeMs?: number | undefined;
  /** Milliseconds for which it is not asked to go after its grant; without, what its class gives. */
  protectionMs?: number | undefined;
  /** Shown to people; without, the program's name. */
  label?: string | undefined;
  /** Sets `CUDA_VISIBLE_DEVICES` of this process to the GPUs until the lease ends (`UnsafeDevices` where it would not count). */
  setVisibleDevices?: boolean | undefined;
}

/** A connection to the agent that leases memory on GPUs: `await using boss = new GPUBoss()`. */
export class GPUBoss extends Boss {
  /** Asks for memory on GPUs, and waits until it is granted. The lease is the caller's to give back: by `await using`, or by `release`. */
  async acquire(request: GPURequest): Promise<GPULease> {
    const canGive = request.onPreempt !== undefined;
    const asked: Request = {
      ...wished(request),
      timeoutMs: request.timeoutMs,
      noticeMs: request.noticeMs,
      protectionMs: request.protectionMs,
      label: request.label,
      canShrink: canGive,
      canOffload: canGive,
    };
    if (request.setVisibleDevices) checkCudaUnused();
    const lease = await this.begin(asked, (origin) => new GPULease(origin, request), request.signal);
    if (request.setVisibleDevices) {
      try {
        lease.setVisibleDevices();
      } catch (error) {
        await lease.release();
        throw error;
      }
    }
    return lease;
  }

  /** Acquires, calls the body, and gives the lease back however the body ends. Give `lease.signal` to what the body calls: it aborts when the lease has to go
   * or is gone, and what it aborts rejects with the reason here too. */
  async withLease<T>(request: GPURequest, body: (lease: GPULease) => T | Promise<T>): Promise<T> {
    return await holdingFor(await this.acquire(request), body);
  }

  /** What would come of such a request now, and who would be asked to give way; nothing changes by it. */
  async dryRun(wish: GPUWish): Promise<DryRun> {
    return await this.ask(wished(wish));
  }
}

function wished(wish: GPUWish): Request {
  return {
    slots: slotsOf(wish),
    ramMib: wish.ramMb ? amount("ramMb", wish.ramMb) : 0,
    priority: wish.priority,
    models: wish.models,
    uuids: wish.uuids,
    spread: wish.spread,
  };
}
