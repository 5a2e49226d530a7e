/** Host RAM as the kernel tells it: `/proc/meminfo`, PSI, and the limit of the control group that this process is in. Amounts are MiB. It judges nothing. */

import { readFile, stat } from "node:fs/promises";
import { dirname, join } from "node:path";

const MIB = 1 << 20;

/** A limit above that is none: version 1 writes "no limit" as a very large number. */
const NO_LIMIT = 2 ** 60;

/** Where the kernel's figures are. */
export interface Machine {
  readonly proc: string;
  readonly cgroups: string;
}

/** Where they usually are. */
export const USUAL: Machine = { proc: "/proc", cgroups: "/sys/fs/cgroup" };

/** Amounts in MiB. */
export interface Figures {
  readonly totalMib: number;
  readonly freeMib: number;
  readonly availableMib: number;
  readonly anonymousMib: number;
  readonly sharedMib: number;
  readonly fileCacheMib: number;
  readonly dirtyMib: number;
  readonly mappedMib: number;
  readonly kernelCacheMib: number;
  readonly hugePagesMib: number;
  readonly swapTotalMib: number;
  readonly swapUsedMib: number;
}

/** The share of the last 10 s in which tasks waited, in percent. */
export interface Stalls {
  /** At least one. */
  readonly some: number;
  /** All at once. */
  readonly all: number;
}

/** Reads `meminfo`; rejects with the system's error where it cannot be read. */
export async function readFigures(machine: Machine): Promise<Figures> {
  const kib = new Map<string, number>();
  for (const line of (await readFile(join(machine.proc, "meminfo"), "utf8")).split("\n")) {
    const [, name, figure] = /^([^:]+):\s*(\d+)/.exec(line) ?? [];
    if (name !== undefined) kib.set(name, Number(figure));
  }
  const mib = (...names: string[]): number =>
    Math.floor(names.reduce((sum, name) => sum + (kib.get(name) ?? 0), 0) / 1024);
  return {
    totalMib: mib("MemTotal"),
    freeMib: mib("MemFree"),
    // Kernels before 3.14 do not tell; what is free is surely available.
    availableMib: kib.has("MemAvailable") ? mib("MemAvailable") : mib("MemFree"),
    anonymousMib: mib("AnonPages"),
    sharedMib: mib("Shmem"),
    fileCacheMib: Math.max(0, mib("Cached", "Buffers") - mib("Shmem")),
    dirtyMib: mib("Dirty", "Writeback"),
    mappedMib: mib("Mapped"),
    kernelCacheMib: mib("SReclaimable"),
    hugePagesMib: mib("Hugetlb"),
    swapTotalMib: mib("SwapTotal"),
    swapUsedMib: Math.max(0, mib("SwapTotal") - mib("SwapFree")),
  };
}

/** PSI of `memory` or `io`; nothing where the kernel does not tell. */
export async function readStalls(machine: Machine, of: "memory" | "io"): Promise<Stalls | undefined> {
  const text = await told(join(machine.proc, "pressure", of));
  const share = (kind: string): number | undefined => {
    const [, figure] = new RegExp(`^${kind} .*avg10=([0-9.]+)`, "m").exec(text) ?? [];
    return figure === undefined ? undefined : Number(figure);
  };
  const some = share("some");
  return some === undefined ? undefined : { some, all: share("full") ?? 0 };
}

/** What is left until the limit of the control group that this process is in, or of one above it; nothing without a limit. */
export async function readUntilLimit(machine: Machine): Promise<number | undefined> {
  const left: number[] = [];
  for (const line of (await told(join(machine.proc, "self/cgroup"))).split("\n")) {
    const [, number, controllers, path] = /^(\d+):([^:]*):(.*)$/.exec(line) ?? [];
    if (controllers === undefined || path === undefined) continue;
    if (number === "0") {
      left.push(...(await leftBelow(machine.cgroups, path, "memory.max", "memory.current")));
    } else if (controllers.split(",").includes("memory")) {
      const top = join(machine.cgroups, "memory");
      left.push(...(await leftBelow(top, path, "memory.limit_in_bytes", "memory.usage_in_bytes")));
    }
  }
  return left.length === 0 ? undefined : Math.min(...left);
}

async function leftBelow(top: string, path: string, limit: string, used: string): Promise<number[]> {
  // In a namespace of its own a container's group is the root of what is mounted.
  const inside = join(top, path);
  const isThere = await stat(inside).then(
    (found) => found.isDirectory(),
    () => false,
  );
  const left: number[] = [];
  for (let group = isThere ? inside : top; group.startsWith(top); group = dirname(group)) {
    const [most, now] = [await figure(join(group, limit)), await figure(join(group, used))];
    if (most !== undefined && most < NO_LIMIT && now !== undefined)
      left.push(Math.floor(Math.max(0, most - now) / MIB));
    if (group === dirname(group)) break;
  }
  return left;
}

async function figure(path: string): Promise<number | undefined> {
  const text = (await told(path)).trim();
  return /^\d+$/.test(text) ? Number(text) : undefined;
}

/** What a file says; nothing where it cannot be read. */
async function told(path: string): Promise<string> {
  return await readFile(path, "utf8").catch(() => "");
}
