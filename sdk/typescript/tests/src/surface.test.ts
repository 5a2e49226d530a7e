/** The packages have the names of the one list that all languages share (sdk/surface.json), written as TypeScript writes them; and nothing else but what is
 * named here with its reason. Names are compared by the compiler, which alone knows the types. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { it } from "node:test";

import * as ram from "@memboss/ram";
import * as vram from "@memboss/vram";

import { WORKSPACE } from "./bed.js";
import { compile } from "./compile.js";

interface Described {
  readonly kind: "class" | "record" | "enum" | "error";
  readonly is_a?: string | null;
  readonly new?: readonly string[];
  readonly methods?: Readonly<Record<string, readonly string[]>>;
  readonly properties?: readonly string[];
  readonly members?: Readonly<Record<string, string>>;
}

interface Surface {
  readonly in_all_packages: readonly string[];
  readonly packages: Readonly<Record<"vram" | "ram", readonly string[]>>;
  readonly classes: Readonly<Record<string, Described>>;
}

const surface: Surface = JSON.parse(readFileSync(join(WORKSPACE, "../surface.json"), "utf8"));
const PACKAGES = { vram, ram } as const;

/** What Node has no use for. */
const LEFT_OUT: ReadonlyMap<string, string> = new Map([
  ["WrongProcess", "a process of Node is never forked: a child is a program of its own"],
  ["TorchUnavailable", "there is no PyTorch in Node"],
  ["GPULease.capTorch", "there is no PyTorch in Node"],
  ["Notice.of", "leases have one face, as nothing here is synchronous"],
  ["new CacheManager.proc", "the program looks at the machine itself"],
  ["new CacheManager.cgroups", "the program looks at the machine itself"],
]);

/** What only Node has. */
const ADDED: ReadonlyMap<string, string> = new Map([
  ["GPUBoss.withLease", "a block that is a callback"],
  ["RAMBoss.withLease", "a block that is a callback"],
  ["GPULease.signal", "a body cannot be cancelled: it is told by a signal"],
  ["RAMLease.signal", "a body cannot be cancelled: it is told by a signal"],
  ["GPUBoss.acquire.signal", "whoever waits is cancelled by a signal"],
  ["RAMBoss.acquire.signal", "whoever waits is cancelled by a signal"],
  ["MemoryAnalyzer.watch.signal", "whoever waits is cancelled by a signal"],
  ["CacheManager.cleanup.signal", "whoever waits is cancelled by a signal"],
  ["CacheManager.clean.signal", "whoever waits is cancelled by a signal"],
  ["CacheManager.clean.checkAfterMs", "the program answers once: what came back is asked for before"],
  ["ProgramMissing", "cleaning is done by a program"],
  ["ProgramFailed", "cleaning is done by a program"],
  ["pressureRank", "names have no order of their own"],
]);

/** Seconds there are milliseconds here, and say so. */
const TIMES: ReadonlyMap<string, string> = new Map([
  ["timeout", "timeoutMs"],
  ["notice", "noticeMs"],
  ["protection", "protectionMs"],
  ["resume_for", "resumeForMs"],
  ["every", "everyMs"],
]);
const SPANS: ReadonlyMap<string, string> = new Map([
  ["remaining_seconds", "remainingMs"],
  ["estimate_seconds", "estimateMs"],
  ["longest_stall_seconds", "longestStallMs"],
  ["seconds", "tookMs"],
]);

function camel(name: string): string {
  return name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
}

/** The names that are here below `owner`, of those that the list has there. */
function here(owner: string, listed: readonly string[]): string[] {
  const added = [...ADDED.keys()].filter((name) => name.slice(0, name.lastIndexOf(".")) === owner);
  const names = listed.filter((name) => !LEFT_OUT.has(`${owner}.${name}`));
  return [...names, ...added.map((name) => name.slice(owner.length + 1))];
}

/** That a type's names are these; otherwise the compiler tells the names that only one of them has. */
function claim(type: string, names: readonly string[]): string {
  const union = names.map((name) => JSON.stringify(name)).join(" | ") || "never";
  return `(0 as unknown as Apart<${type}, ${union}>) satisfies never;`;
}

function parameters(owner: string, listed: readonly string[]): string[] {
  return here(
    owner,
    listed.map((name) => TIMES.get(name) ?? camel(name)),
  );
}

/** The claims about one class that the compiler is to check, line by line. */
function claims(name: string, { kind, new: asked = [], methods = {}, properties = [] }: Described): string[] {
  const type = name === "Notice" ? "Notice<unknown>" : name;
  const members = [...Object.keys(methods).map(camel), ...properties.map((one) => SPANS.get(one) ?? camel(one))];
  const lines = [claim(`Names<${type}>`, here(name, members))];
  if (asked.length > 0) {
    lines.push(claim(`Names<NonNullable<ConstructorParameters<typeof ${name}>[0]>>`, parameters(`new ${name}`, asked)));
  }
  for (const [method, given] of kind === "class" ? Object.entries(methods) : []) {
    const owner = `${name}.${camel(method)}`;
    if (given.length === 0 || LEFT_OUT.has(owner)) continue;
    lines.push(claim(`Names<NonNullable<Parameters<${type}["${camel(method)}"]>[0]>>`, parameters(owner, given)));
  }
  return lines;
}

for (const [short, itself] of Object.entries(PACKAGES)) {
  assert(short === "vram" || short === "ram");
  const listed = [...surface.in_all_packages, ...surface.packages[short]].filter((name) => !LEFT_OUT.has(name));

  it(`@memboss/${short} has the names of the list, with their members and parameters`, () => {
    const described = listed.map((name) => [name, surface.classes[name]] as const);
    const checked = described.flatMap(([name, one]) =>
      one?.kind === "class" || one?.kind === "record" ? claims(name, one) : [],
    );
    assert(checked.length > listed.length / 3);
    using compiled = compile({
      "surface.ts": `import { ${listed.map((name) => `type ${name}`).join(", ")} } from "@memboss/${short}";
type Names<T> = Extract<keyof T, string>;
type Apart<A, B> = Exclude<A, B> | Exclude<B, A>;
${checked.join("\n")}
`.replaceAll(/type (\w+)/g, (whole, name: string) => (surface.classes[name]?.new ? name : whole)),
    });
    assert.equal(compiled.complaints, "");
  });

  it(`@memboss/${short} has no other names than those`, () => {
    const valued = listed.filter((name) => surface.classes[name]?.kind !== "record");
    const unlisted = Object.keys(itself).filter((name) => !valued.includes(name));
    assert.deepEqual(
      unlisted.filter((name) => !ADDED.has(name)),
      [],
    );
    assert.deepEqual(
      valued.filter((name) => !(name in itself)),
      [],
    );
  });

  it(`@memboss/${short} has the enums and errors of the list`, () => {
    const values: ReadonlyMap<string, unknown> = new Map(Object.entries(itself));
    for (const name of listed) {
      const { kind, members, is_a: parent } = surface.classes[name] ?? {};
      if (kind === "enum") assert.deepEqual({ ...(values.get(name) as object) }, members, name);
      if (kind === "error") {
        const expected = parent ? values.get(parent) : Error;
        assert.equal(Object.getPrototypeOf(values.get(name)), expected, name);
      }
    }
  });
}

it("what all packages have is the same in all of them, and none has another's", () => {
  const [one, other]: ReadonlyMap<string, unknown>[] = [new Map(Object.entries(vram)), new Map(Object.entries(ram))];
  assert(one !== undefined && other !== undefined);
  const shared = surface.in_all_packages.filter((name) => one.has(name));
  assert(shared.includes("Priority") && shared.includes("LeaseLost"));
  for (const name of shared) assert.equal(one.get(name), other.get(name), name);
  for (const name of surface.packages.ram) assert(!one.has(name), name);
  for (const name of surface.packages.vram) assert(!other.has(name), name);
});
