/** What is asked for, checked before it is sent, in the agent's words. It sends nothing. */

import { randomUUID } from "node:crypto";
import { basename } from "node:path";

import { create } from "@bufbuild/protobuf";

import { InvalidRequest } from "./errors.js";
import { type AcquireRequest, AcquireRequestSchema } from "./generated/agent_pb.js";
import { Priority, priorityNamed } from "./priority.js";

/** A part of one GPU that is asked for: an amount, or a share in percent. */
export type Slot = { readonly memoryMib: number } | { readonly percent: number };

/** A request for memory of GPUs, of the host, or both in one step. Whatever is left out is the agent's to choose. */
export interface Request {
  slots?: readonly Slot[];
  ramMib?: number | undefined;
  priority?: Priority | undefined;
  timeoutMs?: number | undefined;
  models?: readonly string[] | undefined;
  uuids?: readonly string[] | undefined;
  spread?: boolean | undefined;
  canShrink?: boolean;
  canOffload?: boolean;
  noticeMs?: number | undefined;
  protectionMs?: number | undefined;
  label?: string | undefined;
}

/** In the agent's words, under a name of its own: asked twice, it is one lease. `InvalidRequest` for what makes no sense. */
export function messageOf(request: Request): AcquireRequest {
  return create(AcquireRequestSchema, {
    requestId: `ts-${randomUUID()}`,
    slots: (request.slots ?? []).map((slot) =>
      "percent" in slot ? { percent: slot.percent } : { memoryMib: BigInt(slot.memoryMib) },
    ),
    ramMib: BigInt(request.ramMib ?? 0),
    class: priorityNamed(request.priority ?? Priority.NORMAL),
    timeoutMs: span("timeoutMs", request.timeoutMs),
    noWait: request.timeoutMs === 0,
    models: names("models", request.models),
    uuids: names("uuids", request.uuids),
    spread: request.spread ?? false,
    canShrink: request.canShrink ?? false,
    canOffload: request.canOffload ?? false,
    noticeMs: span("noticeMs", request.noticeMs),
    protectionMs: span("protectionMs", request.protectionMs),
    label: request.label || basename(process.argv[1] ?? "node"),
  });
}

/** Some names; one text would be taken for as many names as it has letters. */
function names(name: string, several: readonly string[] = []): string[] {
  if (typeof several === "string") {
    throw new InvalidRequest(`${name}="${several}" is no list`, name, `write ${name}: ["${several}"]`);
  }
  return [...several];
}

/** A whole number of MiB above nothing. */
export function amount(name: string, mib: unknown): number {
  if (typeof mib === "number" && Number.isSafeInteger(mib) && mib > 0) return mib;
  throw new InvalidRequest(
    `${name}=${String(mib)} is no amount`,
    name,
    "give it in MiB, a whole number above 0, such as 8000",
  );
}

/** A whole number of MiB, also none. */
export function remaining(name: string, mib: unknown): number {
  return mib === 0 ? 0 : amount(name, mib);
}

/** At least one, for any time above none. */
function span(name: string, milliseconds: number | undefined): bigint {
  const given = milliseconds ?? 0;
  if (!(given >= 0 && given < 1e15)) {
    throw new InvalidRequest(
      `${name}=${String(milliseconds)} is no span of time`,
      name,
      "give it in milliseconds, 0 or more",
    );
  }
  return BigInt(Math.ceil(given));
}

/** What a request for GPUs names. */
export interface SlotsAsked {
  vramMb?: number | readonly number[] | undefined;
  vramPercent?: number | undefined;
  gpus?: number | undefined;
}

/** One slot for each GPU. */
export function slotsOf({ vramMb, vramPercent, gpus }: SlotsAsked): Slot[] {
  if (gpus !== undefined && (!Number.isSafeInteger(gpus) || gpus < 1 || gpus > 1024)) {
    throw new InvalidRequest(
      `gpus=${String(gpus)} is no number of GPUs`,
      "gpus",
      "give how many are needed, at least 1",
    );
  }
  if (vramPercent !== undefined) {
    if (vramMb !== undefined) {
      throw new InvalidRequest("vramMb and vramPercent were both given", "vramPercent", "give one of them");
    }
    if (!Number.isInteger(vramPercent) || vramPercent < 1 || vramPercent > 100) {
      throw new InvalidRequest(`vramPercent=${String(vramPercent)} is no share`, "vramPercent", "give 1 to 100");
    }
    return Array.from({ length: gpus ?? 1 }, () => ({ percent: vramPercent }));
  }
  if (vramMb === undefined) {
    throw new InvalidRequest("nothing was asked for", "vramMb", "give vramMb or vramPercent");
  }
  if (!Array.isArray(vramMb)) {
    const memoryMib = amount("vramMb", vramMb);
    return Array.from({ length: gpus ?? 1 }, () => ({ memoryMib }));
  }
  const amounts: readonly unknown[] = vramMb;
  if (amounts.length === 0 || (gpus !== undefined && gpus !== amounts.length)) {
    const what = `vramMb has ${amounts.length} amounts for gpus=${String(gpus)}`;
    throw new InvalidRequest(what, "vramMb", "give one amount for all GPUs, or one for each of them");
  }
  return amounts.map((one) => ({ memoryMib: amount("vramMb", one) }));
}
