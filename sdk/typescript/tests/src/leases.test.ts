/** Leases over the real socket: asked for, held, changed, given back. */

import assert from "node:assert/strict";
import { existsSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";

import { RAMBoss, Priority as RAMPriority } from "@memboss/ram";
import {
  AgentUnavailable,
  GPUBoss,
  type GPURequest,
  InvalidRequest,
  LeaseTimeout,
  NoRoom,
  Outlook,
  Phase,
  Priority,
  type QueuePlace,
  UnsafeDevices,
} from "@memboss/vram";

import { Agent, Holder, soon, until } from "./bed.js";

/** All of both GPUs but a little. */
const ALMOST_ALL: GPURequest = { vramMb: 20_000, gpus: 2 };

function isEmpty({
  leases,
  gpus,
  ram,
}: {
  leases: readonly unknown[];
  gpus: readonly { leasedMib: number }[];
  ram: { leasedMib: number };
}): boolean {
  return leases.length === 0 && ram.leasedMib === 0 && gpus.every((gpu) => gpu.leasedMib === 0);
}

describe("a lease", () => {
  let agent: Agent;
  before(async () => {
    agent = await Agent.started();
  });
  after(async () => agent[Symbol.asyncDispose]());

  it("is held for the block and gone after it", async () => {
    await using boss = new GPUBoss();
    let id: string;
    {
      await using lease = await boss.acquire({ vramMb: 8000, priority: Priority.HIGH, label: "mine" });
      const [held, ...others] = (await boss.status()).leases;
      assert.deepEqual(others, []);
      assert.deepEqual([held?.id, held?.priority, held?.label, held?.pid], [lease.id, "high", "mine", process.pid]);
      assert.deepEqual([lease.vramMib, lease.ramMib, lease.phase, lease.priority], [8000, 0, Phase.ACTIVE, "high"]);
      assert.equal(lease.visibleDevices, lease.gpus[0]?.uuid);
      assert.equal(lease.signal.aborted, false);
      lease.check();
      id = lease.id;
    }
    await until(boss, isEmpty);
    assert.match(id, /ts-/);
  });

  it("is held for a callback, whose result is told", async () => {
    await using boss = new GPUBoss();
    const result = await boss.withLease({ vramMb: 8000 }, async (lease) => {
      assert.equal((await boss.status()).leases[0]?.id, lease.id);
      return lease.vramMib;
    });
    assert.equal(result, 8000);
    await until(boss, isEmpty);
  });

  it("is given back when its body fails, and the failure is told", async () => {
    await using boss = new GPUBoss();
    const failure = new RangeError("no");
    await assert.rejects(
      boss.withLease({ vramMb: 8000 }, () => Promise.reject(failure)),
      failure,
    );
    await assert.rejects(async () => {
      await using lease = await boss.acquire({ vramMb: 8000 });
      throw new TypeError(lease.id);
    }, TypeError);
    await until(boss, isEmpty);
  });

  it("is of RAM and of VRAM, one in the other and by one call", async () => {
    await using ramBoss = new RAMBoss();
    await using gpuBoss = new GPUBoss();
    {
      await using r = await ramBoss.acquire({ ramMb: 1600, priority: RAMPriority.LOW });
      await using v = await gpuBoss.acquire({ vramMb: 8000 });
      assert.deepEqual([r.ramMib, v.vramMib, v.ramMib], [1600, 8000, 0]);
      assert.equal((await gpuBoss.status()).ram.leasedMib, 1600);
      await r.shrink({ ramMb: 600 });
      assert.equal((await ramBoss.status()).ram.leasedMib, 600);
    }
    await using both = await gpuBoss.acquire({ vramMb: 8000, ramMb: 1600 });
    assert.deepEqual([both.vramMib, both.ramMib], [8000, 1600]);
    assert.equal((await gpuBoss.status()).leases.length, 1);
  });

  it("is on as many GPUs as asked, in amounts, shares and places", async () => {
    await using boss = new GPUBoss();
    const { gpus } = await boss.status();
    const second = gpus[1]?.uuid ?? "";
    await boss.withLease({ vramMb: [1000, 3000] }, (lease) => {
      assert.deepEqual(
        lease.gpus.map((gpu) => gpu.memoryMib).sort((a, b) => a - b),
        [1000, 3000],
      );
      assert.deepEqual(new Set(lease.gpus.map((gpu) => gpu.uuid)), new Set(gpus.map((gpu) => gpu.uuid)));
    });
    await boss.withLease({ vramPercent: 50, gpus: 2 }, (lease) => {
      assert.equal(lease.gpus.length, 2);
      // A share is rounded down to the unit.
      const missing = lease.gpus.map((gpu) => Math.floor((gpus[0]?.leasableMib ?? 0) / 2) - gpu.memoryMib);
      assert(
        missing.every((mib) => mib >= 0 && mib < 256),
        `${missing}`,
      );
    });
    await boss.withLease({ vramMb: 100, uuids: [second], models: ["SIM"] }, (lease) => {
      assert.equal(lease.visibleDevices, second);
    });
  });

  it("waits no longer than was asked, and holds nothing then", async () => {
    await using boss = new GPUBoss();
    await using held = await boss.acquire(ALMOST_ALL);
    await assert.rejects(
      boss.acquire({ vramMb: 8000, timeoutMs: 0 }),
      (error) => error instanceof NoRoom && /timeoutMs/.test(error.advice),
    );
    await assert.rejects(
      boss.acquire({ vramMb: 8000, timeoutMs: 1000 }),
      (error) => error instanceof LeaseTimeout && /needs 8000Mi on one GPU.*wait longer/.test(error.message),
    );
    assert.deepEqual(
      (await boss.status()).leases.map((lease) => lease.id),
      [held.id],
    );
  });

  it("whose wish is aborted while it waits leaves the queue", async () => {
    await using boss = new GPUBoss();
    await using held = await boss.acquire(ALMOST_ALL);
    const abort = new AbortController();
    const reason = new Error("changed my mind");
    const places: QueuePlace[] = [];
    const waiting = boss.acquire({
      vramMb: 8000,
      signal: abort.signal,
      onQueue: (place) => {
        places.push(place);
        abort.abort(reason);
      },
    });
    await assert.rejects(soon(waiting), reason);
    assert.deepEqual([places[0]?.position, places[0]?.reason], [1, "NoRoom"]);
    assert.deepEqual(
      (await boss.status()).leases.map((lease) => lease.id),
      [held.id],
    );
  });

  it("whose wish is aborted before the agent answers leaves nothing behind", async () => {
    await using boss = new GPUBoss();
    await assert.rejects(boss.acquire({ vramMb: 8000, signal: AbortSignal.abort() }), { name: "AbortError" });
    for (let turns = 0; turns < 8; turns += 1) {
      const abort = new AbortController();
      const asking = boss.acquire({ vramMb: 8000, signal: abort.signal });
      for (let turn = 0; turn < turns; turn += 1) await new Promise(setImmediate);
      abort.abort();
      // The grant may have been quicker.
      await asking.then(
        (lease) => lease.release(),
        (error: Error) => assert.equal(error.name, "AbortError"),
      );
    }
    await until(boss, isEmpty);
  });

  it("is granted what another process gives back", async () => {
    await using boss = new GPUBoss();
    await using first = new Holder(ALMOST_ALL);
    await first.says("granted");
    await using second = new Holder(ALMOST_ALL);
    assert.equal((await second.says("queued")).name, "NoRoom");
    first.tell("release");
    const { id } = await second.says("granted");
    assert.equal(await first.ends(), 0);
    assert.deepEqual(
      (await boss.status()).leases.map((lease) => lease.id),
      [id],
    );
    second.tell("release");
    assert.equal(await second.ends(), 0);
    await until(boss, isEmpty);
  });

  it("gives a part back to who waits", async () => {
    await using boss = new GPUBoss();
    await using first = await boss.acquire(ALMOST_ALL);
    const second = boss.acquire({ vramMb: 8000 });
    await until(boss, ({ leases }) => leases.some((lease) => lease.phase === Phase.WAITING));
    await first.shrink({ vramMb: 12_000 });
    await using lease = await soon(second);
    assert.deepEqual([first.vramMib, lease.vramMib], [24_000, 8000]);
  });

  it("moves a part into RAM, or changes nothing", async () => {
    await using boss = new GPUBoss();
    await using lease = await boss.acquire({ vramMb: 8000 });
    await lease.offload({ vramMb: 2000 });
    assert.deepEqual([lease.vramMib, lease.ramMib], [2000, 6000]);
    await lease.shrink({ ramMb: 1000 });
    assert.deepEqual([lease.vramMib, lease.ramMib], [2000, 1000]);
    await assert.rejects(lease.shrink({ vramMb: 9000 }), InvalidRequest);
    await assert.rejects(lease.shrink({}), InvalidRequest);
    await assert.rejects(lease.offload({ vramMb: 1000, ramMb: 10_000_000 }), InvalidRequest);
    assert.deepEqual([lease.vramMib, lease.ramMib], [2000, 1000]);
  });

  it("is foretold by a dry run, and explained", async () => {
    await using boss = new GPUBoss();
    await using held = await boss.acquire({ ...ALMOST_ALL, priority: "batch", protectionMs: 1 });
    assert.equal((await boss.dryRun({ vramMb: 2000 })).outlook, Outlook.NOW);
    assert.equal((await boss.dryRun({ vramMb: 8000, priority: "batch" })).outlook, Outlook.WAITS);
    assert.equal((await boss.dryRun({ vramMb: 800_000 })).outlook, Outlook.NEVER);
    const urgent = await boss.dryRun({ vramMb: 8000, priority: "urgent" });
    assert.deepEqual([urgent.outlook, urgent.victims], [Outlook.AFTER_PREEMPTION, [held.id]]);
    assert.match((await held.why()).join("\n"), /Active/);
    assert.equal((await boss.status()).leases.length, 1);
  });

  it("is given back when its boss is closed, also one that still waits", async () => {
    await using watching = new GPUBoss();
    const boss = new GPUBoss();
    const lease = await boss.acquire(ALMOST_ALL);
    const waiting = assert.rejects(boss.acquire(ALMOST_ALL), /given back/);
    await until(watching, ({ leases }) => leases.length === 2);
    await boss.close();
    await waiting;
    assert.deepEqual([lease.phase, lease.lost, await lease.waitEnded()], [Phase.ENDED, undefined, undefined]);
    await until(watching, isEmpty);
    await lease.release();
  });

  it("is asked for where a user's own agent listens, when no socket is named", async (test) => {
    if (existsSync("/run/memboss/agent/agent.sock"))
      return test.skip("an agent of the whole machine is here, and comes first");
    const [named, directory] = [process.env["MEMBOSS_SOCKET"], process.env["XDG_RUNTIME_DIR"]];
    delete process.env["MEMBOSS_SOCKET"];
    process.env["XDG_RUNTIME_DIR"] = agent.folder;
    try {
      await assert.rejects(
        new GPUBoss().connect(),
        (error) => error instanceof AgentUnavailable && error.where.includes(agent.folder),
      );
      symlinkSync(join(agent.folder, "run"), join(agent.folder, "memboss"));
      await using boss = new GPUBoss();
      assert.equal((await boss.status()).node, "test");
    } finally {
      process.env["MEMBOSS_SOCKET"] = named;
      if (directory === undefined) delete process.env["XDG_RUNTIME_DIR"];
      else process.env["XDG_RUNTIME_DIR"] = directory;
    }
  });

  it("sets the visible devices where it is asked to, until it ends", async () => {
    await using boss = new GPUBoss();
    delete process.env["CUDA_VISIBLE_DEVICES"];
    await boss.withLease({ vramMb: 1000 }, () => assert.equal(process.env["CUDA_VISIBLE_DEVICES"], undefined));
    await boss.withLease({ vramMb: 1000, setVisibleDevices: true }, (lease) => {
      assert.equal(process.env["CUDA_VISIBLE_DEVICES"], lease.visibleDevices);
    });
    assert.equal(process.env["CUDA_VISIBLE_DEVICES"], undefined);
    process.env["CUDA_VISIBLE_DEVICES"] = "7";
    await assert.rejects(boss.acquire({ vramMb: 1000, setVisibleDevices: true }), UnsafeDevices);
    assert.equal(process.env["CUDA_VISIBLE_DEVICES"], "7");
    delete process.env["CUDA_VISIBLE_DEVICES"];
    await until(boss, isEmpty);
  });
});

describe("a wish", () => {
  const senseless: readonly (readonly [GPURequest, RegExp])[] = [
    [{}, /vramMb or vramPercent/],
    [{ vramMb: 0 }, /MiB/],
    [{ vramMb: 1.5 }, /whole number/],
    [{ vramMb: 1, vramPercent: 1 }, /both/],
    [{ vramPercent: 101 }, /1 to 100/],
    [{ vramMb: 1, gpus: 0 }, /at least 1/],
    [{ vramMb: [1, 2], gpus: 3 }, /one for each/],
    [{ vramMb: 1, timeoutMs: -1 }, /milliseconds/],
    [{ vramMb: 1, ramMb: -1 }, /ramMb/],
    [{ vramMb: 1, ...JSON.parse('{"priority":"highest"}') }, /urgent, high, normal, low, batch/],
    [{ vramMb: 1, ...JSON.parse('{"models":"H100"}') }, /models: \["H100"\]/],
  ];
  for (const [request, words] of senseless) {
    it(`that makes no sense is refused before anything is sent: ${JSON.stringify(request)}`, async () => {
      const asked = new GPUBoss({ socket: "/nowhere" }).acquire(request);
      await assert.rejects(asked, (error) => error instanceof InvalidRequest && words.test(error.message));
    });
  }

  it("without an agent is told so, with the socket and what to do", async () => {
    await assert.rejects(new GPUBoss({ socket: "/nowhere/agent.sock" }).connect(), (error) => {
      assert(error instanceof AgentUnavailable);
      assert.equal(error.where, "/nowhere/agent.sock");
      assert.match(error.advice, /memboss-agent/);
      return true;
    });
  });
});
