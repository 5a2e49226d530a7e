/** Host RAM without an agent: what is read, who uses it, and dropping cache by the real program. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, fsyncSync, mkdirSync, mkdtempSync, openSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, describe, it } from "node:test";

import {
  CacheManager,
  Cause,
  InvalidRequest,
  MemoryAnalyzer,
  Pressure,
  pressureRank,
  ProcessMonitor,
  ProgramFailed,
  ProgramMissing,
  Sign,
} from "@memboss/ram";

import { binary, soon, WORKSPACE } from "./bed.js";

/** A machine in a folder. */
function machine(folder: string, files: Readonly<Record<string, string>>): { proc: string; cgroups: string } {
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), text);
  }
  return { proc: join(folder, "proc"), cgroups: join(folder, "cgroups") };
}

const MEMINFO = `MemTotal:       25165824 kB
MemFree:         1048576 kB
MemAvailable:   12582912 kB
Buffers:          102400 kB
Cached:          8388608 kB
Shmem:           1048576 kB
Dirty:             10240 kB
Writeback:             0 kB
Mapped:           204800 kB
AnonPages:       4194304 kB
SReclaimable:     512000 kB
SwapTotal:       2097152 kB
SwapFree:        1048576 kB
Hugetlb:               0 kB
`;

const PSI = `some avg10=12.50 avg60=3.00 avg300=1.00 total=1
full avg10=1.25 avg60=0.00 avg300=0.00 total=1
`;

describe("RAM", () => {
  let folder: string;
  before(() => {
    folder = mkdtempSync(join(tmpdir(), "memboss-ts-ram-"));
  });
  after(() => rmSync(folder, { recursive: true, force: true }));

  it("is told as the kernel tells it, and judged", async () => {
    const cgroup = {
      "proc/self/cgroup": "0::/app/one\n",
      "cgroups/app/memory.max": "2147483648\n",
      "cgroups/app/memory.current": "2097152000\n",
    };
    const files = {
      "proc/meminfo": MEMINFO,
      "proc/pressure/memory": PSI,
      "cgroups/app/one/memory.max": "max\n",
      "cgroups/app/one/memory.current": "0\n",
    };
    const analysis = await new MemoryAnalyzer(machine(join(folder, "limited"), { ...files, ...cgroup })).analyze();
    const { totalMib, availableMib, cacheMib, sharedMib, droppableMib, swapUsedMib, untilLimitMib } = analysis;
    assert.deepEqual([totalMib, availableMib, cacheMib, sharedMib], [24_576, 12_288, 7_268, 1_024]);
    assert.deepEqual([droppableMib, swapUsedMib, untilLimitMib], [7_268 - 10 - 200, 1_024, 48]);
    assert.deepEqual(
      [analysis.memoryStalls, analysis.ioStalls, analysis.top],
      [{ some: 12.5, all: 1.25 }, undefined, []],
    );
    assert.deepEqual(
      [analysis.pressure, analysis.sign, analysis.cause],
      [Pressure.CRITICAL, Sign.LIMIT_NEAR, Cause.CACHE],
    );
    assert.match(analysis.advice, /cache/);
  });

  it("has no limit where the first version of control groups says so", async () => {
    const files = {
      "proc/meminfo": MEMINFO,
      "proc/self/cgroup": "4:cpu,memory:/app\n",
      "cgroups/memory/memory.limit_in_bytes": "9223372036854771712\n",
      "cgroups/memory/memory.usage_in_bytes": "1\n",
    };
    const analysis = await new MemoryAnalyzer(machine(join(folder, "v1"), files)).analyze({ top: 0 });
    assert.deepEqual(
      [analysis.untilLimitMib, analysis.pressure, analysis.memoryStalls],
      [undefined, Pressure.LOW, undefined],
    );
  });

  it("of this machine is told, with this process", async () => {
    const analysis = await new MemoryAnalyzer().analyze({ top: 3 });
    assert(analysis.availableMib > 0 && analysis.availableMib <= analysis.totalMib);
    assert(pressureRank(analysis.pressure) >= 0);
    assert.equal(analysis.top.length, 3);
    const mine = (await new ProcessMonitor().processes({ exact: true })).find(({ pid }) => pid === process.pid);
    assert(mine !== undefined && mine.residentMib > 10);
    assert(mine.exactMib === undefined || mine.exactMib <= mine.residentMib);
    assert.equal(mine.uid, process.getuid?.());
  });

  it("is watched until the watching is aborted", async () => {
    const abort = new AbortController();
    let looks = 0;
    for await (const { totalMib } of new MemoryAnalyzer().watch({ everyMs: 1, top: 0, signal: abort.signal })) {
      assert(totalMib > 0);
      looks += 1;
      if (looks === 3) abort.abort();
    }
    assert.equal(looks, 3);
  });

  it("of a process that grows is told as growth", async () => {
    const program = `process.stdin.once("data", () => { globalThis.held = Buffer.alloc(64 << 20, 1); console.log("grown"); }); console.log("begun");`;
    const child = spawn(process.execPath, ["-e", program], { stdio: ["pipe", "pipe", "inherit"] });
    try {
      await soon(once(child.stdout, "data"));
      const monitor = new ProcessMonitor();
      assert.deepEqual(await monitor.growth(), []);
      child.stdin.write("\n");
      await soon(once(child.stdout, "data"));
      const grown = (await monitor.growth()).find(({ pid }) => pid === child.pid);
      assert(grown !== undefined);
      assert(grown.nowMib - grown.beforeMib >= 60 && grown.mibPerMinute > 0, JSON.stringify(grown));
    } finally {
      child.kill("SIGKILL");
    }
  });
});

describe("cleaning", () => {
  let folder: string;
  const file = (): string => join(folder, "model.bin");
  before(() => {
    // Below this folder, not in /tmp, which may lie in memory.
    folder = mkdtempSync(join(WORKSPACE, "node_modules/.memboss-clean-"));
    const descriptor = openSync(file(), "w");
    writeSync(descriptor, Buffer.alloc(8 << 20, 1));
    fsyncSync(descriptor);
    closeSync(descriptor);
    process.env["MEMBOSS_BIN"] = binary("memboss");
  });
  after(() => {
    delete process.env["MEMBOSS_BIN"];
    rmSync(folder, { recursive: true, force: true });
  });

  it("tells what it would drop, drops it, and tells what became free", async (test) => {
    const cache = new CacheManager({ paths: [folder] });
    const plan = await cache.clean({ mode: "aggressive", dryRun: true });
    // Such a file is touched only when it is surely written, which takes longer than a test may.
    if (plan.kept.ChangedLately) return test.skip("this file system tells nothing of its files' pages");
    assert.deepEqual(
      plan.files.map(({ path, beforeMib, afterMib }) => [path, beforeMib, afterMib]),
      [[file(), 8, undefined]],
    );
    const report = await cache.clean({ mode: "aggressive", checkAfterMs: 1 });
    assert.deepEqual([report.mode, report.whyNothing, report.droppedMib], ["aggressive", "", 8]);
    assert.deepEqual(
      report.files.map(({ path, beforeMib, afterMib }) => [path, beforeMib, afterMib]),
      [[file(), 8, 0]],
    );
    assert.equal(report.cameBackMib, 0);
    assert(report.availableAfterMib > 0 && report.tookMs >= report.longestStallMs);
    assert.equal(await cache.cleanup({ mode: "aggressive" }), 0);
  });

  it("leaves alone what changed lately, and says so", async () => {
    const report = await new CacheManager({ paths: [folder] }).clean({ mode: "conservative" });
    assert.deepEqual([report.droppedMib, report.kept], [0, { ChangedLately: 1 }]);
  });

  it("does nothing without pressure, unless a mode is named", async () => {
    const { pressure } = await new MemoryAnalyzer().analyze({ top: 0 });
    const report = await new CacheManager({ paths: [folder] }).clean();
    assert.equal(
      report.pressure === Pressure.LOW,
      report.whyNothing.includes("no pressure"),
      `${pressure}: ${report.whyNothing}`,
    );
    assert.equal(typeof (await new CacheManager({ paths: [folder] }).cleanup({ mode: "auto" })), "number");
  });

  it("without a directory of models has nothing to do", async () => {
    const [home, hugging] = [process.env["HOME"], process.env["HF_HOME"]];
    process.env["HOME"] = folder;
    delete process.env["HF_HOME"];
    try {
      const report = await new CacheManager().clean({ mode: "aggressive" });
      assert.deepEqual([report.droppedMib, report.mode], [0, undefined]);
      assert.match(report.whyNothing, /paths/);
    } finally {
      if (home !== undefined) process.env["HOME"] = home;
      if (hugging !== undefined) process.env["HF_HOME"] = hugging;
    }
  });

  it("of what is not there fails in the program's words", async () => {
    await assert.rejects(
      new CacheManager({ paths: ["/nowhere"] }).clean({ mode: "balanced" }),
      (error) => error instanceof ProgramFailed && /\/nowhere/.test(error.what),
    );
  });

  it("in no known mode is refused", async () => {
    await assert.rejects(new CacheManager().cleanup(JSON.parse('{"mode":"hard"}')), InvalidRequest);
  });

  it("without the program says what to install", async () => {
    process.env["MEMBOSS_BIN"] = "/nowhere/memboss";
    try {
      await assert.rejects(
        new CacheManager({ paths: [folder] }).cleanup({ mode: "aggressive" }),
        (error) => error instanceof ProgramMissing && /install/.test(error.advice),
      );
    } finally {
      process.env["MEMBOSS_BIN"] = binary("memboss");
    }
  });
});
