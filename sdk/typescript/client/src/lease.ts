/** What every lease has, whatever it is of: its name, its notice, its end. What it holds is told by `GPULease` and `RAMLease`. */

import "./dispose.js";

import type { Connection } from "./connection.js";
import { LeaseLost, type MembossError, Preempted } from "./errors.js";
import type { AcquireRequest, Notice as WireNotice } from "./generated/agent_pb.js";
import { Holding } from "./holding.js";
import { type Priority, priorityTold } from "./priority.js";
import { Phase, phaseTold, type QueuePlace } from "./words.js";

/** A notice of preemption: by when the memory must be free, and for whom. */
export class Notice<L> {
  readonly id: string;
  /** The lease for which the memory is needed. */
  readonly preemptor: string;
  /** Its class; nothing where no lease needs it, as when a GPU is emptied. */
  readonly preemptorPriority: Priority | undefined;
  /** Its name. */
  readonly reason: string;
  /** What must become free, GPU by GPU of the lease, in MiB. */
  readonly neededMib: readonly number[];
  /** What must become free of its RAM, in MiB. */
  readonly neededRamMib: number;
  readonly #deadline: number;

  /** Notices come with a lease; they are not made by callers. */
  constructor(
    /** Whose notice it is: `shrink`, `offload` or `release` it. */
    readonly lease: L,
    told: WireNotice,
  ) {
    this.#deadline = performance.now() + Number(told.remainingMs);
    this.id = told.id;
    this.preemptor = told.preemptor;
    this.preemptorPriority = told.preemptorClass ? priorityTold(told.preemptorClass) : undefined;
    this.reason = told.reason;
    this.neededMib = told.neededMib.map(Number);
    this.neededRamMib = Number(told.neededRamMib);
  }

  /** How long it has still, in milliseconds, at least 0. */
  get remainingMs(): number {
    return Math.max(0, this.#deadline - performance.now());
  }
}

/** What a caller may hear of a lease. */
export interface Callbacks<L> {
  /** Called with the notice when the memory is needed by a higher class: shrink, offload or release `notice.lease`. Without it, or when it fails, the lease's
   * `signal` aborts with `Preempted`. */
  onPreempt?(notice: Notice<L>): void | Promise<void>;
  /** Called when the lease has ended otherwise than by its holder. Its `signal` aborts in any case. */
  onLost?(error: LeaseLost): void | Promise<void>;
  /** Called with the place in the queue, at first and on every change. */
  onQueue?(place: QueuePlace): void;
}

/** Where a lease is from. */
export interface Origin {
  readonly connection: Connection;
  readonly request: AcquireRequest;
  readonly resumeForMs: number;
}

/** It grows with each grant on a node: a later one wins. */
export type Token = readonly [epoch: number, sequence: number];

/** Asks for a lease that was made, and waits for its grant; what is to be done when it is over, however that comes. For `acquire` alone. */
export let start: (lease: Lease, signal: AbortSignal | undefined, over: () => void) => Promise<void>;

/** A lease. It is held until it is released, its process ends, or it is taken away with notice. */
export abstract class Lease implements AsyncDisposable {
  protected readonly holding: Holding;
  readonly #callbacks: Callbacks<Lease>;
  readonly #broken = new AbortController();
  readonly #atEnd: (() => void)[] = [];
  #notice: Notice<this> | undefined;
  #lost: MembossError | undefined;

  static {
    start = async (lease, signal, over) => {
      lease.whenOver(over);
      await lease.holding.acquire(signal);
    };
  }

  /** Leases are made by `acquire`. */
  constructor(origin: Origin, callbacks: Callbacks<Lease>) {
    this.#callbacks = callbacks;
    this.holding = new Holding(origin.connection, origin.request, origin.resumeForMs, {
      queued: (place) => this.#call("onQueue", () => callbacks.onQueue?.(place)),
      noticed: (told) => this.#noticed(told),
      withdrawn: () => {
        this.#notice = undefined;
      },
      ended: (error) => this.#ended(error),
    });
  }

  /** Its name. */
  get id(): string {
    return this.holding.view.lease;
  }

  /** Its class, which in a pod is at most the pod's own. */
  get priority(): Priority {
    return priorityTold(this.holding.view.class);
  }

  /** Where it is in its life. */
  get phase(): Phase {
    return this.holding.isOver ? Phase.ENDED : phaseTold(this.holding.view.phase);
  }

  /** Host RAM that it holds, in MiB. */
  get ramMib(): number {
    return Number(this.holding.view.ramMib);
  }

  /** It grows with each grant on a node: a later one wins. */
  get token(): Token {
    const { epoch = 0, sequence = 0n } = this.holding.view.token ?? {};
    return [epoch, Number(sequence)];
  }

  /** The notice that stands, if one does. */
  get notice(): Notice<this> | undefined {
    return this.#notice;
  }

  /** Why it has ended, if that was not by its holder. */
  get lost(): MembossError | undefined {
    return this.#lost;
  }

  /** Aborts when its memory must no longer be used: with `LeaseLost` when it has ended otherwise than by its holder, with `Preempted` when a notice came and
   * no `onPreempt` answers it. Give it to whatever the work calls. */
  get signal(): AbortSignal {
    return this.#broken.signal;
  }

  /** Throws `Preempted` when a notice stands, `LeaseLost` when it has ended otherwise than by its holder: for loops that call nothing else here. */
  check(): void {
    if (this.#lost !== undefined) throw this.#lost;
    if (this.#notice !== undefined) throw preempted(this.#notice, this.id);
  }

  /** Why it is where it is, in sentences. */
  async why(): Promise<string[]> {
    return await this.holding.explain();
  }

  /** Waits until it is over; why, if that was not by its holder. */
  async waitEnded(): Promise<MembossError | undefined> {
    return await this.holding.over;
  }

  /** Gives all back. What the process still uses on a GPU then counts as foreign. Doing it twice is harmless. */
  async release(): Promise<void> {
    await this.holding.release();
  }

  /** `await using`: the same as `release`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.release();
  }

  /** Has something done when it is over, however that came; at once if it is. */
  protected whenOver(act: () => void): void {
    if (this.holding.isOver) act();
    else this.#atEnd.push(act);
  }

  #noticed(told: WireNotice): void {
    const notice = (this.#notice = new Notice<this>(this, told));
    const cut = (): void => this.#broken.abort(preempted(notice, this.id));
    if (this.#callbacks.onPreempt === undefined) cut();
    else this.#call("onPreempt", () => this.#callbacks.onPreempt?.(notice), cut);
  }

  #ended(error: MembossError | undefined): void {
    this.#notice = undefined;
    this.#lost = error;
    this.#atEnd.splice(0).forEach((act) => act());
    if (!(error instanceof LeaseLost)) return;
    this.#broken.abort(error);
    this.#call("onLost", () => this.#callbacks.onLost?.(error));
  }

  /** Calls what the user gave, without making the stream wait for it or break by it. */
  #call(name: string, callback: () => void | Promise<void>, failed?: () => void): void {
    void (async () => {
      try {
        await callback();
      } catch (error) {
        const why = error instanceof Error ? (error.stack ?? error.message) : String(error);
        process.emitWarning(`${name} of lease ${this.id} failed: ${why}`, "MembossWarning");
        failed?.();
      }
    })();
  }
}

function preempted(notice: Notice<unknown>, lease: string): Preempted {
  const whom = notice.preemptorPriority ? `a lease of class ${notice.preemptorPriority}` : notice.reason;
  const ram = notice.neededRamMib > 0 ? ` and ${notice.neededRamMib} MiB of RAM` : "";
  const advice = `free [${notice.neededMib.join(", ")}] MiB${ram} in ${(notice.remainingMs / 1000).toFixed(1)} s, or give it back`;
  return new Preempted(`its memory is needed for ${whom}`, `lease ${lease}`, advice);
}
