/** Who uses RAM, process by process, and how that changes. Reading a process's exact share (PSS) makes that process wait, so it is read only where it is
 * asked for. It needs no agent and no right; what may not be read is left out. */

import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";

import { USUAL } from "./meminfo.js";

/** A process above that size is not asked for its exact share: that would make it wait for too long. */
const TOO_LARGE_FOR_PSS_MIB = 64 * 1024;

/** So many processes are read at once: the threads that read files are few, and others need them too. */
const AT_ONCE = 16;

/** A process and its memory; amounts in MiB. */
export interface ProcessMemory {
  readonly pid: number;
  /** In clock ticks since the boot: pid and start name a process, a pid alone does not. */
  readonly started: number;
  readonly uid: number;
  readonly name: string;
  /** All that it has in memory; what it shares is counted for each who shares it. */
  readonly residentMib: number;
  /** The part of it that is no file's: free when it ends. */
  readonly anonymousMib: number;
  /** The part of it that is files': mapped cache. */
  readonly fileMib: number;
  /** The part of it that is shared memory. */
  readonly sharedMib: number;
  readonly swappedMib: number;
  /** Its exact share of what it has in memory; only where it was asked for and may be known. */
  readonly exactMib: number | undefined;
}

/** How a process's memory changed since it was first seen. */
export interface ProcessGrowth {
  readonly pid: number;
  readonly name: string;
  readonly beforeMib: number;
  readonly nowMib: number;
  readonly mibPerMinute: number;
}

/** Which processes are wanted. */
export interface Wanted {
  /** So many, the first ones; all without. */
  top?: number | undefined;
}

/** Looks at processes, and remembers what they had. */
export class ProcessMonitor {
  readonly #proc: string;
  readonly #seen = new Map<string, { readonly since: number; readonly residentMib: number }>();

  constructor({ proc = USUAL.proc }: { proc?: string | undefined } = {}) {
    this.#proc = proc;
  }

  /** All processes that have memory of their own, the largest first; `exact` reads their exact shares too. */
  async processes({ top, exact = false }: Wanted & { exact?: boolean | undefined } = {}): Promise<ProcessMemory[]> {
    const all = await this.#all();
    const found = all.sort((a, b) => b.residentMib - a.residentMib || a.pid - b.pid).slice(0, top);
    if (!exact) return found;
    return await inTurns(found, async (process) => ({ ...process, exactMib: await this.#exact(process) }));
  }

  /** Looks, and tells how those that were there at an earlier look have changed since they were first seen; those that grew most first. */
  async growth({ top }: Wanted = {}): Promise<ProcessGrowth[]> {
    const there = new Map((await this.#all()).map((process) => [`${process.pid} ${process.started}`, process]));
    const now = performance.now();
    for (const key of this.#seen.keys()) if (!there.has(key)) this.#seen.delete(key);
    const grown: ProcessGrowth[] = [];
    for (const [key, { pid, name, residentMib }] of there) {
      const seen = this.#seen.get(key);
      if (seen === undefined) {
        this.#seen.set(key, { since: now, residentMib });
      } else {
        const mibPerMinute = ((residentMib - seen.residentMib) * 60_000) / (now - seen.since);
        grown.push({ pid, name, beforeMib: seen.residentMib, nowMib: residentMib, mibPerMinute });
      }
    }
    return grown.sort((a, b) => b.mibPerMinute - a.mibPerMinute || a.pid - b.pid).slice(0, top);
  }

  async #all(): Promise<ProcessMemory[]> {
    const pids = (await readdir(this.#proc)).filter((name) => /^\d+$/.test(name));
    const read = await inTurns(pids, (pid) => readProcess(join(this.#proc, pid), Number(pid)));
    return read.filter((process) => process !== undefined);
  }

  async #exact(process: ProcessMemory): Promise<number | undefined> {
    if (process.residentMib > TOO_LARGE_FOR_PSS_MIB) return undefined;
    const entry = join(this.#proc, String(process.pid));
    try {
      const [, kib] = /^Pss:\s+(\d+)/m.exec(await readFile(join(entry, "smaps_rollup"), "utf8")) ?? [];
      // The pid may be another's by now.
      return kib === undefined || (await readStart(entry)) !== process.started ? undefined : mibUp(Number(kib));
    } catch {
      return undefined;
    }
  }
}

/** Nothing for a thread of the kernel, which has no memory of its own, and for a process that has ended meanwhile. */
async function readProcess(entry: string, pid: number): Promise<ProcessMemory | undefined> {
  try {
    const status = await readFile(join(entry, "status"), "latin1");
    const word = (name: string): string | undefined => new RegExp(`^${name}:\\s*(.*)$`, "m").exec(status)?.[1];
    const mib = (name: string): number => mibUp(Number.parseInt(word(name) ?? "0", 10));
    if (word("VmRSS") === undefined) return undefined;
    return {
      pid,
      started: await readStart(entry),
      uid: Number(word("Uid")?.split(/\s+/)[1]),
      name: Buffer.from(word("Name") ?? "", "latin1").toString(),
      residentMib: mib("VmRSS"),
      anonymousMib: mib("RssAnon"),
      fileMib: mib("RssFile"),
      sharedMib: mib("RssShmem"),
      swappedMib: mib("VmSwap"),
      exactMib: undefined,
    };
  } catch {
    return undefined;
  }
}

async function readStart(entry: string): Promise<number> {
  const stat = await readFile(join(entry, "stat"), "latin1");
  // The name may hold anything, also parentheses and blanks.
  return Number(
    stat
      .slice(stat.lastIndexOf(")") + 1)
      .trim()
      .split(" ")[19],
  );
}

async function inTurns<T, U>(items: readonly T[], act: (item: T) => Promise<U>): Promise<U[]> {
  const done: U[] = [];
  for (let at = 0; at < items.length; at += AT_ONCE) {
    done.push(...(await Promise.all(items.slice(at, at + AT_ONCE).map(act))));
  }
  return done;
}

function mibUp(kib: number): number {
  return Math.ceil(kib / 1024);
}
