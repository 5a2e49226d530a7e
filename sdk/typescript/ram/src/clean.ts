/** Dropping page cache that nobody needs, by the program `memboss ram clear`: Node has no call for it. Nothing that a process is seen to have open or mapped
 * is touched in any mode. The cache of the whole machine is dropped only where that is asked for by name. Dropping clean cache makes memory *free*, which
 * the kernel counted as *available* before: both are told. */

import { accessSync, constants, statSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";

import { amount, InvalidRequest } from "@memboss/client";

import { MemoryAnalyzer } from "./analyzer.js";
import { Pressure } from "./pressure.js";
import { askProgram, ProgramFailed } from "./program.js";

/** Where models are kept below a home, looked at when no path is named. */
const MODEL_DIRECTORIES = [".cache/huggingface", ".cache/torch", ".ollama/models", ".cache/llama.cpp"];

/** How far to go. */
export const Mode = {
  /** Files that have not changed for half an hour; at most 0.2 s of dropping. */
  CONSERVATIVE: "conservative",
  /** Files that have not changed for ten minutes; at most 2 s of dropping. */
  BALANCED: "balanced",
  /** Any file that nobody uses; at most 10 s of dropping. */
  AGGRESSIVE: "aggressive",
  /** As the pressure is: nothing where there is none or where dropping cache would not help. */
  AUTO: "auto",
} as const;
/** One of the modes. */
export type Mode = (typeof Mode)[keyof typeof Mode];

/** Why a file was left alone. */
export const Kept = {
  /** A process has it open or mapped. */
  IN_USE: "InUse",
  /** It is somebody else's, and not all processes may be looked into. */
  USE_UNKNOWN: "UseUnknown",
  CHANGED_LATELY: "ChangedLately",
  /** It has pages that must be written first. */
  DIRTY: "Dirty",
  /** It lies in memory itself (tmpfs): nothing of it can be dropped. */
  IN_MEMORY: "InMemory",
  NOT_CACHED: "NotCached",
  /** It may not be read, or another one lies there by now. */
  UNREADABLE: "Unreadable",
  /** There was no time left, or enough was dropped. */
  NOT_REACHED: "NotReached",
  SMALL: "Small",
  /** A link, or another file system. */
  NOT_FOLLOWED: "NotFollowed",
} as const;
/** One of the reasons. */
export type Kept = (typeof Kept)[keyof typeof Kept];

/** A file that was dropped, or would be. */
export interface CleanedFile {
  readonly path: string;
  /** What of it was in the cache; nothing where that cannot be known. */
  readonly beforeMib: number | undefined;
  /** What of it still is. */
  readonly afterMib: number | undefined;
  /** Not all of it was reached in time, or needed. */
  readonly partly: boolean;
}

/** What came of it; amounts in MiB. */
export interface CleanReport {
  /** The mode that it came to; nothing where nothing was done. */
  readonly mode: Mode | undefined;
  /** Why nothing was done; empty otherwise. */
  readonly whyNothing: string;
  /** Before. */
  readonly pressure: Pressure;
  readonly files: readonly CleanedFile[];
  /** How many files were left alone, by reason. */
  readonly kept: Readonly<Partial<Record<Kept, number>>>;
  /** What became free: dropped of these files as far as it is known, and of the whole machine where that was asked for. */
  readonly droppedMib: number;
  /** Of how many of them it is not known. */
  readonly unknownFiles: number;
  readonly freeBeforeMib: number;
  readonly freeAfterMib: number;
  readonly availableBeforeMib: number;
  /** Dropping clean cache hardly changes it. */
  readonly availableAfterMib: number;
  /** Processes that could not be looked into: what they use is not known. */
  readonly unseenProcesses: number;
  readonly tookMs: number;
  /** The longest that the kernel took for one piece. */
  readonly longestStallMs: number;
  /** What of it was in the cache again when it was looked at once more (`checkAfterMs`): it was needed after all. Nothing where that is not known. */
  readonly cameBackMib: number | undefined;
}

/** What is asked. */
export interface CleanRequest {
  /** How far to go; as the pressure is, without. */
  mode?: Mode | undefined;
  /** Enough, in MiB; without, as much as the mode allows. */
  targetMb?: number | undefined;
  /** Only tell what would be done. */
  dryRun?: boolean | undefined;
  /** Drop the clean cache of the whole machine as well: everybody's, and not to be stopped. Needs root. */
  dropCaches?: boolean | undefined;
  /** Look again after so long, and tell what came back. */
  checkAfterMs?: number | undefined;
  /** Ends it where it is. */
  signal?: AbortSignal | undefined;
}

/** Drops page cache that nobody needs: of files below paths that are named, or where models are kept in this user's home. */
export class CacheManager {
  readonly #paths: readonly string[] | undefined;

  constructor({ paths }: { paths?: readonly string[] | undefined } = {}) {
    this.#paths = paths;
  }

  /** Cleans; how many MiB became free. `clean` tells more, and what goes wrong. */
  async cleanup(request: Omit<CleanRequest, "dryRun" | "checkAfterMs"> = {}): Promise<number> {
    return (await this.clean(request)).droppedMib;
  }

  /** Cleans, and tells what came of it. `InvalidRequest` for what makes no sense, `ProgramMissing` without the program, `ProgramFailed` when it could not do
   * it. */
  async clean(request: CleanRequest = {}): Promise<CleanReport> {
    const words = wordsOf(request);
    const roots = this.#paths ?? usualDirectories();
    if (roots.length === 0 && !request.dropCaches) return await nothingToClean();
    const named = roots.flatMap((path) => ["--in", path]);
    return reportOf(await askProgram(["ram", "clear", ...words, ...named], request.signal));
  }
}

function wordsOf({ mode = Mode.AUTO, targetMb, dryRun, dropCaches, checkAfterMs }: CleanRequest): string[] {
  const modes: readonly string[] = Object.values(Mode);
  if (!modes.includes(mode)) throw new InvalidRequest(`there is no mode "${mode}"`, "mode", `${modes.join(", ")} are`);
  if (checkAfterMs !== undefined && !(checkAfterMs >= 0)) {
    throw new InvalidRequest(
      `checkAfterMs=${checkAfterMs} is no span of time`,
      "checkAfterMs",
      "give it in milliseconds, 0 or more",
    );
  }
  const words: string[] = [mode];
  if (targetMb !== undefined) words.push("--target", `${amount("targetMb", targetMb)}Mi`);
  if (dryRun) words.push("--dry-run");
  if (dropCaches) words.push("--drop-caches", "--yes");
  if (checkAfterMs !== undefined && !dryRun) words.push("--check-after", String(Math.ceil(checkAfterMs / 1000)));
  return words;
}

function usualDirectories(): string[] {
  const named = process.env["HF_HOME"];
  const usual = [...(named ? [named] : []), ...MODEL_DIRECTORIES.map((directory) => join(homedir(), directory))];
  return usual.filter((path) => {
    try {
      accessSync(path, constants.R_OK | constants.X_OK);
      return statSync(path).isDirectory();
    } catch {
      return false;
    }
  });
}

async function nothingToClean(): Promise<CleanReport> {
  const { freeMib, availableMib, pressure } = await new MemoryAnalyzer().analyze({ top: 0 });
  return {
    mode: undefined,
    whyNothing: "no directory of models is in this home: name what may be dropped (paths)",
    pressure,
    files: [],
    kept: {},
    droppedMib: 0,
    unknownFiles: 0,
    freeBeforeMib: freeMib,
    freeAfterMib: freeMib,
    availableBeforeMib: availableMib,
    availableAfterMib: availableMib,
    unseenProcesses: 0,
    tookMs: 0,
    longestStallMs: 0,
    cameBackMib: undefined,
  };
}

const SENTENCES: ReadonlyMap<string, string> = new Map([
  ["NoPressure", "there is no pressure: nothing need be dropped"],
  ["InUse", "what presses is in use by processes and cannot be dropped: only they can give it back"],
  ["Stalls", "tasks wait although enough is available: reclaiming more would make them wait longer"],
]);

type Pair = readonly [before: number, after: number];

/** What the program answers; amounts in MiB. */
interface Answer {
  readonly mode: Mode | null;
  readonly refrained: string | null;
  readonly pressure: Pressure;
  readonly files: readonly { path: string; before: number | null; after: number | null; partly: boolean }[];
  readonly kept: Readonly<Partial<Record<Kept, number>>>;
  readonly dropped: number;
  readonly unknown: number;
  readonly whole_machine: Pair | null;
  readonly free: Pair;
  readonly available: Pair;
  readonly unseen_processes: number;
  readonly took_ms: number;
  readonly longest_stall_ms: number;
  readonly came_back: number | null;
}

function isPair(value: unknown): boolean {
  return Array.isArray(value) && value.length === 2 && value.every((one) => typeof one === "number");
}

/** Whether what this package reads is there: another release of the program may answer otherwise. */
function isAnswer(value: unknown): value is Answer {
  if (typeof value !== "object" || value === null) return false;
  const told = new Map<string, unknown>(Object.entries(value));
  const isPressure = Object.values(Pressure).some((level) => level === told.get("pressure"));
  return (
    isPressure &&
    Array.isArray(told.get("files")) &&
    typeof told.get("dropped") === "number" &&
    isPair(told.get("free")) &&
    isPair(told.get("available"))
  );
}

function reportOf(answer: unknown): CleanReport {
  if (!isAnswer(answer)) {
    throw new ProgramFailed(
      "it did not tell what it did",
      "memboss ram clear",
      "is it the same release as this package?",
    );
  }
  const [wholeBefore, wholeAfter] = answer.whole_machine ?? [0, 0];
  return {
    mode: answer.mode ?? undefined,
    whyNothing: answer.refrained === null ? "" : (SENTENCES.get(answer.refrained) ?? answer.refrained),
    pressure: answer.pressure,
    files: answer.files.map(({ path, before, after, partly }) => ({
      path,
      beforeMib: before ?? undefined,
      afterMib: after ?? undefined,
      partly,
    })),
    kept: answer.kept,
    droppedMib: answer.dropped + Math.max(0, wholeBefore - wholeAfter),
    unknownFiles: answer.unknown,
    freeBeforeMib: answer.free[0],
    freeAfterMib: answer.free[1],
    availableBeforeMib: answer.available[0],
    availableAfterMib: answer.available[1],
    unseenProcesses: answer.unseen_processes,
    tookMs: answer.took_ms,
    longestStallMs: answer.longest_stall_ms,
    cameBackMib: answer.came_back ?? undefined,
  };
}
