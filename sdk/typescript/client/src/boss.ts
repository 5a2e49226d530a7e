/** What a `GPUBoss` and a `RAMBoss` have in common: the connection, and the leases that were asked for by it. What is leased is theirs to say. */

import "./dispose.js";

import { Connection } from "./connection.js";
import { InvalidRequest } from "./errors.js";
import { Leases } from "./generated/agent_pb.js";
import { type Lease, type Origin, start } from "./lease.js";
import { messageOf, type Request } from "./request.js";
import { findSocket } from "./socket-path.js";
import { type DryRun, dryRunTold, type NodeStatus, nodeTold } from "./words.js";

/** Milliseconds for which a lease is held on to while the agent is out of reach. */
const RESUME_FOR_MS = 30_000;

/** How a boss reaches the agent. */
export interface BossOptions {
  /** The agent's socket; without, `MEMBOSS_SOCKET`, else the usual places. */
  socket?: string | undefined;
  /** Milliseconds for which a lease is held on to while the agent is out of reach; 30,000 without. */
  resumeForMs?: number | undefined;
}

/** What every request may carry. */
export interface AnyRequest {
  /** Gives up waiting when it aborts; `acquire` then rejects with its reason, and nothing is left behind. It has no part in what was granted. */
  signal?: AbortSignal | undefined;
}

/** A connection to the node's agent. It connects at the first call that needs it. */
export abstract class Boss implements AsyncDisposable {
  readonly #socket: string | undefined;
  readonly #resumeForMs: number;
  readonly #leases = new Set<Lease>();
  #connection: Connection | undefined;
  #opening: Promise<Connection> | undefined;

  constructor({ socket, resumeForMs = RESUME_FOR_MS }: BossOptions = {}) {
    if (!(resumeForMs >= 0)) {
      throw new InvalidRequest(
        `resumeForMs=${resumeForMs} is no span of time`,
        "resumeForMs",
        "give it in milliseconds, 0 or more",
      );
    }
    this.#socket = socket;
    this.#resumeForMs = resumeForMs;
  }

  /** Connects to the agent. `AgentUnavailable` if none listens. Doing it twice is harmless. */
  async connect(): Promise<this> {
    await this.#connected();
    return this;
  }

  /** Gives back what is still held, and ends the connection. */
  async close(): Promise<void> {
    // Whoever still waits to be connected asks for its lease first, and gives it back then.
    await this.#opening?.catch(() => {});
    const connection = this.#connection;
    // Whoever asks from now on connects anew.
    this.#connection = undefined;
    await Promise.all([...this.#leases].map((lease) => lease.release()));
    connection?.close();
  }

  /** `await using`: the same as `close`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** The node as it stands: GPUs, RAM, leases and their queue. */
  async status(): Promise<NodeStatus> {
    const connection = await this.#connected();
    return nodeTold(await connection.ask(Leases.method.status, {}));
  }

  /** What would come of a request now. */
  protected async ask(request: Request): Promise<DryRun> {
    const message = messageOf(request);
    const connection = await this.#connected();
    return dryRunTold(await connection.ask(Leases.method.dryRun, message));
  }

  /** A lease that was granted. */
  protected async begin<L extends Lease>(
    request: Request,
    make: (origin: Origin) => L,
    signal?: AbortSignal,
  ): Promise<L> {
    const message = messageOf(request);
    signal?.throwIfAborted();
    const connection = await this.#connected();
    const lease = make({ connection, request: message, resumeForMs: this.#resumeForMs });
    this.#leases.add(lease);
    await start(lease, signal, () => this.#leases.delete(lease));
    return lease;
  }

  async #connected(): Promise<Connection> {
    if (this.#connection !== undefined) return this.#connection;
    this.#opening ??= this.#open().finally(() => {
      this.#opening = undefined;
    });
    return await this.#opening;
  }

  async #open(): Promise<Connection> {
    const connection = new Connection(findSocket(this.#socket));
    try {
      await connection.open();
    } catch (error) {
      connection.close();
      throw error;
    }
    this.#connection = connection;
    return connection;
  }
}

/** The body with its lease, which is given back however the body ends. What the body threw because the lease's signal aborted becomes the signal's reason. */
export async function holdingFor<L extends Lease, T>(lease: L, body: (lease: L) => T | Promise<T>): Promise<T> {
  try {
    return await body(lease);
  } catch (error) {
    throw isAbortOf(error, lease.signal) ? lease.signal.reason : error;
  } finally {
    await lease.release();
  }
}

function isAbortOf(error: unknown, signal: AbortSignal): boolean {
  return signal.aborted && error instanceof Error && error.name === "AbortError" && error.cause === signal.reason;
}
