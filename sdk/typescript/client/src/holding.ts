/** One lease, from the request to its end: the stream that keeps it alive, taken up again when it breaks, and the calls that change it. It tells a watcher
 * what happens; what to do about it is the watcher's.
 *
 * The stream is the heartbeat. When it breaks, the agent waits for a grace time; the secret of the first event takes the lease up again, also from an agent
 * that was started anew. A lease that cannot be taken up is lost. */

import { setTimeout as sleep } from "node:timers/promises";

import { create } from "@bufbuild/protobuf";

import type { Connection, Listening } from "./connection.js";
import { Deferred, unlessAborted, within } from "./deferred.js";
import {
  AgentUnavailable,
  LeaseLost,
  LeaseTimeout,
  MembossError,
  NoRoom,
  Preempted,
  RequestRefused,
} from "./errors.js";
import { type AcquireRequest, type LeaseEvent, Leases, LeaseViewSchema, type Notice } from "./generated/agent_pb.js";
import { Phase, phaseTold, placeTold, type QueuePlace } from "./words.js";

/** Milliseconds in which a request that never arrived is sent again: an agent that is being updated is back by then. */
const NEW_WITHIN_MS = 5_000;

/** Milliseconds after the caller's timeout by which the agent must have said that it is over. */
const AGENT_ANSWERS_WITHIN_MS = 10_000;

/** Milliseconds for giving a lease back; what is not given back by then ends with its connection. */
const GIVEN_BACK_WITHIN_MS = 5_000;

/** Milliseconds for giving back or moving a part: the agent answers when it was seen. */
const CHANGED_WITHIN_MS = 300_000;

/** Milliseconds between two attempts to take a lease up again. */
const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 1_000;

/** The longest that a timer of Node can run. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** Who hears what becomes of a lease. */
export interface Watcher {
  /** It waits, there. */
  queued(place: QueuePlace): void;
  /** Its memory is needed by another. */
  noticed(notice: Notice): void;
  /** It is not, any more. */
  withdrawn(): void;
  /** It is over; without an error its holder gave it back. */
  ended(error: MembossError | undefined): void;
}

/** A lease, or the wish for one. */
export class Holding {
  /** As the agent told it last. */
  view = create(LeaseViewSchema);
  readonly #stop = new AbortController();
  readonly #known = new Deferred<void>();
  readonly #granted = new Deferred<void>();
  readonly #over = new Deferred<MembossError | undefined>();
  #stream: Listening | undefined;
  #begun = false;
  #secret = "";
  #notice = "";
  #waitsBecause = "";
  #heard = false;
  #isHeld = false;
  #givingBack: Promise<void> | undefined;

  constructor(
    private readonly connection: Connection,
    private readonly request: AcquireRequest,
    private readonly resumeForMs: number,
    private readonly watcher: Watcher,
  ) {}

  /** Names it in errors. */
  get where(): string {
    return this.view.lease ? `lease ${this.view.lease}` : this.connection.path;
  }

  /** Whether it has ended. */
  get isOver(): boolean {
    return this.#over.isSettled;
  }

  /** Settles when it is over: why, if that was not by its holder. */
  get over(): Promise<MembossError | undefined> {
    return this.#over.promise;
  }

  /** Asks, and waits for the grant. However that ends but by a grant, nothing is held or waited for afterwards. */
  async acquire(signal?: AbortSignal): Promise<void> {
    try {
      signal?.throwIfAborted();
      this.#begun = true;
      this.#listen().catch((error: unknown) => {
        // Nobody would learn of it otherwise, and the lease would seem to be held.
        this.#end(failed(error, this.where));
      });
      await unlessAborted(this.#answeredInTime(), signal);
    } catch (error) {
      await this.release();
      throw error;
    }
  }

  /** Gives all back. Where the agent cannot be reached it ends by itself, after the agent's grace time. Doing it twice is harmless. */
  async release(): Promise<void> {
    if (this.isOver) return;
    this.#givingBack ??= this.#giveBack();
    await this.#givingBack;
  }

  /** Gives a part back: nothing may become more. */
  async resize(memoryMib: readonly number[] | undefined, ramMib: number | undefined): Promise<void> {
    this.#check();
    const request = {
      lease: this.view.lease,
      memoryMib: (memoryMib ?? []).map(BigInt),
      noticeId: this.#notice,
      ...(ramMib === undefined ? {} : { ramMib: BigInt(ramMib) }),
    };
    const asking = { where: this.where, withinMs: CHANGED_WITHIN_MS };
    this.#take(await this.connection.ask(Leases.method.resize, request, asking));
  }

  /** Moves a part of the GPUs' into host RAM. */
  async move(memoryMib: readonly number[], moreRamMib: number): Promise<void> {
    this.#check();
    const request = {
      lease: this.view.lease,
      memoryMib: memoryMib.map(BigInt),
      moreRamMib: BigInt(moreRamMib),
      noticeId: this.#notice,
    };
    const asking = { where: this.where, withinMs: CHANGED_WITHIN_MS };
    this.#take(await this.connection.ask(Leases.method.move, request, asking));
  }

  /** Why it is where it is. */
  async explain(): Promise<string[]> {
    const request = { lease: this.view.lease };
    return (await this.connection.ask(Leases.method.explain, request, { where: this.where })).lines;
  }

  async #answeredInTime(): Promise<void> {
    const timeout = Number(this.request.timeoutMs);
    const patience = timeout + AGENT_ANSWERS_WITHIN_MS;
    if ((timeout === 0 && !this.request.noWait) || patience > LONGEST_TIMER_MS) return await this.#granted.promise;
    const answered = await within(
      this.#granted.promise.then(() => true),
      patience,
      false,
    );
    if (!answered) throw new LeaseTimeout("the agent did not answer in time", this.where, "look at the agent's log");
  }

  #check(): void {
    if (this.isOver) throw new LeaseLost("it is over", this.where, "acquire again");
  }

  async #giveBack(): Promise<void> {
    try {
      // Its name comes with the first event; without a name it cannot be given back.
      if (this.#begun && !this.view.lease) await within(this.#known.promise, GIVEN_BACK_WITHIN_MS, undefined);
      if (this.view.lease && !this.isOver) {
        const asking = { where: this.where, withinMs: GIVEN_BACK_WITHIN_MS };
        await this.connection.ask(Leases.method.release, { lease: this.view.lease }, asking);
      }
    } catch (error) {
      if (!(error instanceof MembossError)) throw error;
      if (!(error instanceof LeaseLost)) {
        process.emitWarning(
          `could not give back ${this.where}; the agent ends it after its grace time: ${error.message}`,
          "MembossWarning",
        );
      }
    } finally {
      this.#end(undefined);
    }
  }

  async #listen(): Promise<void> {
    let brokeAt: number | undefined;
    let pause = FIRST_PAUSE_MS;
    while (!this.isOver) {
      const broke = await this.#hear();
      const reason = this.isOver ? undefined : this.#reasonToGoOn(broke, brokeAt !== undefined);
      if (reason === undefined) return;
      if (this.#heard) [brokeAt, pause, this.#heard] = [undefined, FIRST_PAUSE_MS, false];
      brokeAt ??= performance.now();
      if (!this.#mayGoOn(performance.now() - brokeAt, reason)) return;
      try {
        await sleep(pause * (0.5 + Math.random() / 2), undefined, { signal: this.#stop.signal });
      } catch {
        return;
      }
      pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
    }
  }

  /** Why the stream broke, if it may be tried again; otherwise the lease has ended. */
  #reasonToGoOn(broke: MembossError, brokeBefore: boolean): MembossError | undefined {
    if (broke instanceof AgentUnavailable) return broke;
    if (broke instanceof LeaseLost && !this.#granted.isSettled) {
      // It only waited, and the agent forgot it meanwhile: it is asked for again.
      this.#secret = "";
      return broke;
    }
    // An agent that was just started may not know everything yet.
    if (broke instanceof RequestRefused && (this.#secret || brokeBefore)) return broke;
    // Of what was granted: only asking was too much just now.
    if (broke instanceof NoRoom && this.#secret) return broke;
    const lost = this.#isHeld && !(broke instanceof LeaseLost);
    this.#end(
      lost ? new LeaseLost(broke.what, this.where, "stop using its memory; acquire again", { cause: broke }) : broke,
    );
    return undefined;
  }

  /** Whether another attempt makes sense after so many milliseconds of silence. */
  #mayGoOn(silenceMs: number, broke: MembossError): boolean {
    if (!this.#secret) {
      const patience = Math.min(NEW_WITHIN_MS, Number(this.request.timeoutMs) || NEW_WITHIN_MS);
      if (silenceMs >= patience || this.#givingBack !== undefined || this.request.noWait) this.#end(broke);
    } else if (silenceMs >= this.resumeForMs) {
      const why = `the agent has been out of reach for ${this.resumeForMs} ms (${broke.what})`;
      this.#end(new LeaseLost(why, this.where, "stop using its memory; acquire again when the agent is back"));
    }
    return !this.isOver;
  }

  /** Listens until the stream breaks or the lease is over; why it broke. */
  async #hear(): Promise<MembossError> {
    const heard = (event: LeaseEvent): void => this.#take(event);
    const { acquire, resume } = Leases.method;
    this.#stream = this.#secret
      ? this.connection.listen(resume, { lease: this.view.lease, secret: this.#secret }, heard, { where: this.where })
      : this.connection.listen(acquire, this.request, heard);
    try {
      await this.#stream.over;
      return new AgentUnavailable("the agent ended the stream", this.where, "is it ending?");
    } catch (error) {
      return error instanceof MembossError ? error : failed(error, this.where);
    }
  }

  #take(event: LeaseEvent): void {
    if (this.isOver) return;
    this.#heard = true;
    this.#secret = event.secret || this.#secret;
    this.view = event.lease ?? this.view;
    this.#known.resolve();
    const phase = phaseTold(this.view.phase);
    if (phase === Phase.ENDED || (phase === Phase.STOPPING && this.#givingBack === undefined)) {
      this.#end(this.#whyOver());
    } else if (phase === Phase.WAITING && !this.#granted.isSettled) {
      if (event.queue !== undefined) {
        this.#waitsBecause = event.queue.message;
        this.watcher.queued(placeTold(event.queue));
      }
    } else if (phase === Phase.ACTIVE || phase === Phase.REVOKING) {
      this.#isHeld = true;
      this.#granted.resolve();
      this.#takeNotice(phase === Phase.REVOKING ? this.view.notice : undefined);
    }
  }

  #takeNotice(notice: Notice | undefined): void {
    const before = this.#notice;
    this.#notice = notice?.id ?? "";
    if (notice === undefined) {
      if (before) this.watcher.withdrawn();
    } else if (notice.id !== before) {
      this.watcher.noticed(notice);
    }
  }

  #whyOver(): MembossError | undefined {
    if (this.#givingBack !== undefined) return undefined;
    const reason = this.view.reason || "Ended";
    if (!this.#granted.isSettled) {
      if (reason === "Expired") {
        const advice = "wait longer, ask for less, or ask in a higher class";
        const because = this.#waitsBecause ? ` (${this.#waitsBecause})` : "";
        return new LeaseTimeout(`there was no room within the timeout${because}`, this.where, advice);
      }
      return new LeaseLost(`it ended before it was granted (${reason})`, this.where, "acquire again");
    }
    if (reason === "Preempted") {
      const advice = "stop using it; acquire again to wait for room";
      return new Preempted("a higher class has taken its memory", this.where, advice);
    }
    return new LeaseLost(`it has ended (${reason})`, this.where, "stop using its memory; acquire again");
  }

  #end(error: MembossError | undefined): void {
    if (this.#over.isSettled) return;
    this.#over.resolve(error);
    this.#known.resolve();
    if (!this.#granted.isSettled) {
      this.#granted.reject(error ?? new LeaseLost("it was given back", this.where, "acquire again"));
    }
    this.#stop.abort();
    this.#stream?.cancel();
    this.watcher.ended(error);
  }
}

function failed(error: unknown, where: string): LeaseLost {
  return new LeaseLost(`listening to it failed (${String(error)})`, where, "stop using its memory", { cause: error });
}
