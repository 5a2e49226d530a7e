/** The machine's RAM at one moment: what there is, how hard pressed it is, who uses it, and what could be freed. It needs no agent and changes nothing. */

import { setTimeout as sleep } from "node:timers/promises";

import { type Machine, readFigures, readStalls, readUntilLimit, type Stalls, USUAL } from "./meminfo.js";
import { Cause, causeOf, Gauge, judge, type Judgement, type Pressure, type Sign, type Signals } from "./pressure.js";
import { type ProcessMemory, ProcessMonitor, type Wanted } from "./processes.js";

const SENTENCES: Readonly<Record<Cause, string>> = {
  [Cause.NOTHING]: "nothing need be done",
  [Cause.CACHE]: "cache counts against a limit that is near: dropping cache that nobody needs helps",
  [Cause.IN_USE]: "what is in use cannot be dropped: only its users can give it back",
  [Cause.STALLS]: "tasks wait although enough is available: something reclaims too eagerly, or the disk is slow",
};

/** So many processes are told without a word. */
const TOP = 10;

/** Amounts in MiB. */
export interface MemoryAnalysis {
  readonly totalMib: number;
  /** Not used for anything. */
  readonly freeMib: number;
  /** What new work could have without swapping, as the kernel thinks. Clean cache is counted here. */
  readonly availableMib: number;
  /** Memory of processes that is no file's. */
  readonly anonymousMib: number;
  /** Shared memory and files in memory (tmpfs): counted as cache by the kernel, and cannot be dropped. */
  readonly sharedMib: number;
  /** Pages of files. */
  readonly cacheMib: number;
  /** The part of them that must be written first. */
  readonly dirtyMib: number;
  /** Pages of files and shared memory that processes have mapped. */
  readonly mappedMib: number;
  /** Cache of files that is clean and that nobody has mapped, at most: dropping it makes memory free that was available before. */
  readonly droppableMib: number;
  /** Caches of the kernel itself that it can shrink. */
  readonly kernelCacheMib: number;
  readonly hugePagesMib: number;
  readonly swapTotalMib: number;
  readonly swapUsedMib: number;
  /** What is left until the limit of the container that this runs in, if it has one. */
  readonly untilLimitMib: number | undefined;
  /** Waiting for memory; nothing where the kernel does not tell (PSI is off). */
  readonly memoryStalls: Stalls | undefined;
  /** Waiting for the disk. */
  readonly ioStalls: Stalls | undefined;
  readonly pressure: Pressure;
  /** What the pressure rests on. */
  readonly sign: Sign | undefined;
  /** What would help. */
  readonly cause: Cause;
  /** What would help, in a sentence. */
  readonly advice: string;
  /** Who has most, the largest first. */
  readonly top: readonly ProcessMemory[];
}

/** How to look again and again. */
export interface Watching extends Wanted {
  /** Milliseconds between two looks; 1,000 without. */
  everyMs?: number | undefined;
  /** Ends it, without an error. */
  signal?: AbortSignal | undefined;
}

/** Looks at the machine's RAM. */
export class MemoryAnalyzer {
  readonly #machine: Machine;
  readonly #monitor: ProcessMonitor;

  constructor({
    proc = USUAL.proc,
    cgroups = USUAL.cgroups,
  }: { proc?: string | undefined; cgroups?: string | undefined } = {}) {
    this.#machine = { proc, cgroups };
    this.#monitor = new ProcessMonitor({ proc });
  }

  /** Looks once; the pressure is what this one look shows. Rejects with the system's error where `/proc/meminfo` cannot be read. */
  async analyze({ top = TOP }: Wanted = {}): Promise<MemoryAnalysis> {
    return await this.#look(top, judge);
  }

  /** Looks every so often; the pressure is judged over time: a sign must last, and the level goes down one at a time, later. */
  async *watch({ everyMs = 1_000, top = TOP, signal }: Watching = {}): AsyncGenerator<MemoryAnalysis, void, void> {
    const gauge = new Gauge();
    while (!signal?.aborted) {
      yield await this.#look(top, (signals) => gauge.look(signals, performance.now()));
      try {
        await sleep(everyMs, undefined, signal && { signal });
      } catch {
        return;
      }
    }
  }

  async #look(top: number, judged: (signals: Signals) => Judgement): Promise<MemoryAnalysis> {
    const [figures, memoryStalls, ioStalls, untilLimitMib, processes] = await Promise.all([
      readFigures(this.#machine),
      readStalls(this.#machine, "memory"),
      readStalls(this.#machine, "io"),
      readUntilLimit(this.#machine),
      top > 0 ? this.#monitor.processes({ top }) : [],
    ]);
    const signals: Signals = {
      totalMib: figures.totalMib - figures.hugePagesMib,
      availableMib: figures.availableMib,
      untilLimitMib,
      stalledSome: memoryStalls?.some,
      stalledAll: memoryStalls?.all,
    };
    const { pressure, sign } = judged(signals);
    const cause = causeOf(signals, pressure);
    const { fileCacheMib: cacheMib, ...others } = figures;
    const droppableMib = Math.max(0, cacheMib - figures.dirtyMib - figures.mappedMib);
    const advice = SENTENCES[cause];
    return {
      ...others,
      cacheMib,
      droppableMib,
      untilLimitMib,
      memoryStalls,
      ioStalls,
      pressure,
      sign,
      cause,
      advice,
      top: processes,
    };
  }
}
