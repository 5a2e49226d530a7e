/** Asks the node's agent for host RAM. It says what is asked for and hands out leases; how a lease is kept is in @memboss/client. */

import { amount, type AnyRequest, Boss, type Callbacks, type DryRun, holdingFor, type Priority } from "@memboss/client";

import { RAMLease } from "./lease.js";

/** What is asked for. */
export interface RAMWish {
  /** MiB. */
  ramMb: number;
  /** The class; normal without. */
  priority?: Priority | undefined;
}

/** What is asked for, and how. */
export interface RAMRequest extends RAMWish, AnyRequest, Callbacks<RAMLease> {
  /** Milliseconds to wait at most (`LeaseTimeout`); 0 not to wait at all (`NoRoom`); without, as long as it takes. */
  timeoutMs?: number | undefined;
  /** Milliseconds of notice that are wished for before it has to go, at most 300,000. */
  noticeMs?: number | undefined;
  /** Milliseconds for which it is not asked to go after its grant; without, what its class gives. */
  protectionMs?: number | undefined;
  /** Shown to people; without, the program's name. */
  label?: string | undefined;
}

/** A connection to the agent that leases host RAM: `await using boss = new RAMBoss()`. */
export class RAMBoss extends Boss {
  /** Asks for host RAM, and waits until it is granted. The lease is the caller's to give back: by `await using`, or by `release`. */
  async acquire(request: RAMRequest): Promise<RAMLease> {
    const asked = {
      ramMib: amount("ramMb", request.ramMb),
      priority: request.priority,
      timeoutMs: request.timeoutMs,
      noticeMs: request.noticeMs,
      protectionMs: request.protectionMs,
      label: request.label,
      canShrink: request.onPreempt !== undefined,
    };
    return await this.begin(asked, (origin) => new RAMLease(origin, request), request.signal);
  }

  /** Acquires, calls the body, and gives the lease back however the body ends. Give `lease.signal` to what the body calls: it aborts when the lease has to go
   * or is gone, and what it aborts rejects with the reason here too. */
  async withLease<T>(request: RAMRequest, body: (lease: RAMLease) => T | Promise<T>): Promise<T> {
    return await holdingFor(await this.acquire(request), body);
  }

  /** What would come of such a request now, and who would be asked to give way; nothing changes by it. */
  async dryRun({ ramMb, priority }: RAMWish): Promise<DryRun> {
    return await this.ask({ ramMib: amount("ramMb", ramMb), priority });
  }
}
