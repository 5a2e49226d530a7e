/** A real agent with simulated GPUs for the tests, and other processes that lease beside this one. Nothing here stands in for a part of memboss: the binaries
 * are those of the build (MEMBOSS_BIN_DIR). */

import assert from "node:assert/strict";
import { type ChildProcessByStdio, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, openSync, closeSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import { GPUBoss, MembossError, type NodeStatus } from "@memboss/vram";

/** sdk/typescript. */
export const WORKSPACE = fileURLToPath(new URL("../../", import.meta.url));
export const REPOSITORY = resolve(WORKSPACE, "../..");
const BINARIES = resolve(WORKSPACE, process.env["MEMBOSS_BIN_DIR"] ?? "../../target/release");

/** Milliseconds for anything that surely comes; only a failure takes so long. */
const PATIENCE_MS = 60_000;

export function binary(name: string): string {
  const path = join(BINARIES, name);
  assert(
    existsSync(path),
    `${path} is not there: build it (cargo build --release), or name its folder in MEMBOSS_BIN_DIR`,
  );
  return path;
}

/** What surely comes. */
export async function soon<T>(promise: Promise<T>): Promise<T> {
  const timer = new AbortController();
  const late = sleep(PATIENCE_MS, undefined, { signal: timer.signal }).then(() => assert.fail("it did not come"));
  late.catch(() => {});
  try {
    return await Promise.race([promise, late]);
  } finally {
    timer.abort();
  }
}

/** The node, once it looks so. */
export async function until(boss: GPUBoss, looks: (status: NodeStatus) => boolean): Promise<NodeStatus> {
  const begun = performance.now();
  for (;;) {
    const status = await boss.status();
    if (looks(status)) return status;
    assert(performance.now() - begun < PATIENCE_MS, `it does not come to that: ${JSON.stringify(status.leases)}`);
    await sleep(10);
  }
}

/** memboss-agent alone on this machine, in a folder of its own, with two simulated GPUs of 24 GiB. */
export class Agent implements AsyncDisposable {
  readonly folder = mkdtempSync(join(tmpdir(), "memboss-ts-"));
  readonly socket = join(this.folder, "run/agent/agent.sock");
  readonly #environment = { ...process.env, MEMBOSS_SIM_DIR: join(this.folder, "sim") };
  readonly #meminfo = join(this.folder, "meminfo");
  #process: ReturnType<typeof spawn> | undefined;

  static async started(): Promise<Agent> {
    const agent = new Agent();
    const words = ["create", "--seed", "test", "--gpu", "SIM-24G:24576x2"];
    execFileSync(binary("memboss-sim"), words, { env: agent.#environment, stdio: "pipe" });
    // As much RAM wherever it runs: it is leased, not used.
    writeFileSync(agent.#meminfo, "MemTotal: 67108864 kB\nMemFree: 50331648 kB\nMemAvailable: 50331648 kB\n");
    await agent.start();
    process.env["MEMBOSS_SOCKET"] = agent.socket;
    return agent;
  }

  /** Starts it; it answers when this returns. */
  async start(): Promise<void> {
    const words = [
      "--standalone",
      "--node-name=test",
      `--run-dir=${join(this.folder, "run")}`,
      `--state-dir=${join(this.folder, "state")}`,
      `--nvml-library=${binary("libmemboss_sim_nvml.so")}`,
      "--admin-address=127.0.0.1:0",
      `--meminfo-file=${this.#meminfo}`,
    ];
    const log = openSync(join(this.folder, "agent.log"), "a");
    this.#process = spawn(binary("memboss-agent"), words, { env: this.#environment, stdio: ["ignore", log, log] });
    closeSync(log);
    await this.#answers(this.#process);
  }

  async #answers(started: ReturnType<typeof spawn>): Promise<void> {
    const begun = performance.now();
    await using boss = new GPUBoss({ socket: this.socket });
    for (;;) {
      try {
        const status = await boss.status();
        if (status.gpus.length === 2 && !status.hold) return;
      } catch (error) {
        if (!(error instanceof MembossError)) throw error;
      }
      const log = (): string => readFileSync(join(this.folder, "agent.log"), "utf8").slice(-2000);
      assert(started.exitCode === null, `the agent has ended:\n${log()}`);
      assert(performance.now() - begun < PATIENCE_MS, `the agent does not begin:\n${log()}`);
      await sleep(10);
    }
  }

  /** Ends it without a word. */
  async kill(): Promise<void> {
    const running = this.#process;
    this.#process = undefined;
    if (running === undefined || running.exitCode !== null) return;
    const ended = once(running, "exit");
    running.kill("SIGKILL");
    await ended;
  }

  /** Its ledger is gone, while it is not running. */
  forget(): void {
    rmSync(join(this.folder, "run"), { recursive: true });
    rmSync(join(this.folder, "state"), { recursive: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** What another process tells. */
export interface Told {
  readonly what: string;
  readonly id?: string;
  readonly name?: string;
  readonly neededMib?: readonly number[];
}

/** `holder.ts` in a process of its own. */
export class Holder implements AsyncDisposable {
  readonly process: ChildProcessByStdio<Writable, Readable, null>;
  readonly #lines: AsyncIterator<string>;

  constructor(request: object) {
    const words = [fileURLToPath(new URL("holder.js", import.meta.url)), JSON.stringify(request)];
    this.process = spawn(process.execPath, words, { stdio: ["pipe", "pipe", "inherit"] });
    this.#lines = createInterface({ input: this.process.stdout })[Symbol.asyncIterator]();
  }

  /** What it says next but for its place in the queue, which must be that. */
  async says(what: string): Promise<Told> {
    return await this.saysAny([what]);
  }

  /** What it says next but for its place in the queue, which must be one of these. */
  async saysAny(whats: readonly string[]): Promise<Told> {
    for (;;) {
      const line = await soon(this.#lines.next());
      assert(!line.done, `the holder has ended and did not say "${whats.join(" or ")}"`);
      const told: Told = JSON.parse(line.value);
      if (told.what === "queued" && !whats.includes(told.what)) continue;
      assert(whats.includes(told.what), `it said ${line.value}`);
      return told;
    }
  }

  tell(line: string): void {
    this.process.stdin.write(`${line}\n`);
  }

  /** How it ended: its exit code, or the signal. */
  async ends(): Promise<number | string | null> {
    if (this.process.exitCode === null && this.process.signalCode === null) await soon(once(this.process, "exit"));
    return this.process.exitCode ?? this.process.signalCode;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.process.kill("SIGKILL");
    await this.ends();
  }
}
