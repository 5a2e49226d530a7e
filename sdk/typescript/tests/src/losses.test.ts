/** Leases whose holders are asked to go, end without a word, or lose their agent. Each test has an agent of its own. */

import assert from "node:assert/strict";
import { it } from "node:test";

import { GPUBoss, LeaseLost, Phase, Preempted } from "@memboss/vram";

import { Agent, Holder, soon, until } from "./bed.js";

/** What can be asked to go at once. */
const VICTIM = { vramMb: 20_000, gpus: 2, priority: "batch", protectionMs: 1 } as const;

it("a notice is answered by giving a part back, and the holder goes on", async () => {
  await using agent = await Agent.started();
  await using boss = new GPUBoss();
  await using holder = new Holder({ ...VICTIM, noticeMs: 300_000, answers: true });
  const { id } = await holder.says("granted");
  await using lease = await soon(boss.acquire({ vramMb: 20_000, gpus: 2, priority: "urgent" }));
  const { neededMib = [] } = await holder.says("notice");
  assert(neededMib.length > 0 && neededMib.every((mib) => mib > 0), `${neededMib}`);
  const { leases } = await until(boss, (status) => status.leases.every(({ phase }) => phase === Phase.ACTIVE));
  const sizes = new Map(leases.map((one) => [one.id, one.gpus.map((gpu) => gpu.memoryMib)]));
  assert.deepEqual(
    [sizes.get(id ?? ""), sizes.get(lease.id)],
    [
      [1000, 1000],
      [20_000, 20_000],
    ],
  );
  assert.match(agent.socket, /agent\.sock$/);
});

it("a notice that nobody answers aborts the body, which rejects with it, and the winner is served", async () => {
  await using _agent = await Agent.started();
  await using boss = new GPUBoss();
  let winner: Promise<AsyncDisposable> | undefined;
  const body = boss.withLease({ ...VICTIM, noticeMs: 300_000 }, async (lease) => {
    winner = boss.acquire({ vramMb: 20_000, gpus: 2, priority: "high" });
    // What heeds a signal, and would never end by itself.
    await new Promise((_, reject) => {
      lease.signal.addEventListener("abort", () => reject(lease.signal.reason), { once: true });
    });
  });
  await assert.rejects(soon(body), (error) => error instanceof Preempted && /class high/.test(error.message));
  assert(winner !== undefined);
  await using _granted = await soon(winner);
});

it("a callback that fails is as good as none", async () => {
  await using _agent = await Agent.started();
  await using boss = new GPUBoss();
  const warned = new Promise<Error>((resolve) => void process.once("warning", resolve));
  await using victim = await boss.acquire({
    ...VICTIM,
    noticeMs: 300_000,
    onPreempt: () => Promise.reject(new Error("cannot")),
  });
  const winner = boss.acquire({ vramMb: 20_000, gpus: 2, priority: "high" });
  assert.match((await soon(warned)).message, /onPreempt.*cannot/s);
  assert(victim.signal.reason instanceof Preempted);
  assert.throws(() => victim.check(), Preempted);
  assert.equal(victim.notice?.preemptorPriority, "high");
  await victim.release();
  await using _granted = await soon(winner);
});

it("a holder that does nothing about its notice loses the lease and is asked to end", async () => {
  await using _agent = await Agent.started();
  await using boss = new GPUBoss();
  await using holder = new Holder({ ...VICTIM, noticeMs: 1 });
  await holder.says("granted");
  const winner = boss.acquire({ vramMb: 20_000, gpus: 2, priority: "urgent" });
  await holder.says("notice");
  // The signal and the word come by different ways.
  const told = [await holder.saysAny(["lost", "term"]), await holder.saysAny(["lost", "term"])];
  assert.deepEqual(new Set(told.map(({ what, name }) => name ?? what)), new Set(["Preempted", "term"]));
  holder.tell("exit");
  assert.equal(await holder.ends(), 0);
  await using _granted = await soon(winner);
});

it("what a process held that was killed is free for the next", async () => {
  await using _agent = await Agent.started();
  await using boss = new GPUBoss();
  await using holder = new Holder(VICTIM);
  await holder.says("granted");
  const next = boss.acquire({ vramMb: 20_000, gpus: 2 });
  holder.process.kill("SIGKILL");
  await using lease = await soon(next);
  assert.equal(await holder.ends(), "SIGKILL");
  await until(boss, ({ leases }) => leases.length === 1 && leases[0]?.id === lease.id);
});

it("a lease and a wish outlast an agent that is killed and started again", async () => {
  await using agent = await Agent.started();
  await using boss = new GPUBoss();
  const lost: LeaseLost[] = [];
  await using lease = await boss.acquire({ vramMb: 20_000, gpus: 2, onLost: (error) => void lost.push(error) });
  const waiting = boss.acquire({ vramMb: 8_000 });
  await until(boss, ({ leases }) => leases.length === 2);
  await agent.kill();
  await agent.start();
  await until(boss, ({ leases }) => leases.some(({ id, phase }) => id === lease.id && phase === Phase.ACTIVE));
  // It can be changed, so it is ours still.
  await lease.shrink({ vramMb: 12_000 });
  await using next = await soon(waiting);
  assert.deepEqual([lease.phase, lease.lost, lease.signal.aborted, lost], [Phase.ACTIVE, undefined, false, []]);
  assert.equal(next.vramMib, 8_000);
});

it("a lease whose agent stays away is lost, and everybody hears of it", async () => {
  await using agent = await Agent.started();
  await using boss = new GPUBoss({ resumeForMs: 200 });
  const heard: LeaseLost[] = [];
  const lease = await boss.acquire({ vramMb: 8_000, onLost: (error) => void heard.push(error) });
  await agent.kill();
  const why = await soon(lease.waitEnded());
  assert(why instanceof LeaseLost && !(why instanceof Preempted));
  assert.match(why.message, /out of reach for 200 ms/);
  assert.deepEqual([lease.lost, lease.signal.reason, heard], [why, why, [why]]);
  assert.throws(() => lease.check(), why);
  await assert.rejects(lease.shrink({ vramMb: 1 }), LeaseLost);
  await lease.release();
});

it("a lease that the agent does not know any more is lost", async () => {
  await using agent = await Agent.started();
  await using boss = new GPUBoss();
  await using other = new GPUBoss();
  const lease = await boss.acquire({ vramMb: 8_000 });
  await agent.kill();
  // The new agent takes nothing over from a folder that is gone.
  agent.forget();
  await agent.start();
  const why = await soon(lease.waitEnded());
  assert(why instanceof LeaseLost);
  assert.equal(lease.signal.reason, why);
  await until(other, ({ leases }) => leases.length === 0);
});
