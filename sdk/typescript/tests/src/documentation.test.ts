/** The examples, and each piece of the documentation, run as they are written. */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { promisify } from "node:util";

import { Agent, binary, REPOSITORY, soon, WORKSPACE } from "./bed.js";
import { compile } from "./compile.js";

const PAGES = [
  join(REPOSITORY, "docs/typescript.md"),
  ...["vram", "ram"].map((name) => join(WORKSPACE, name, "README.md")),
];

function pieces(page: string): string[] {
  const found = [...readFileSync(page, "utf8").matchAll(/^```ts\n(.*?)^```$/gms)].map(([, piece = ""]) => piece);
  assert(found.length > 0, `${page} shows nothing that could be run`);
  return found;
}

describe("as it is written", () => {
  let agent: Agent;
  let home: string;
  const run = async (script: string): Promise<string> => {
    const env = { ...process.env, HOME: home, MEMBOSS_BIN: binary("memboss") };
    const { stdout, stderr } = await soon(promisify(execFile)(process.execPath, [script], { env, cwd: home }));
    assert.equal(stderr, "");
    return stdout;
  };
  before(async () => {
    home = mkdtempSync(join(tmpdir(), "memboss-ts-home-"));
    agent = await Agent.started();
  });
  after(async () => {
    await agent[Symbol.asyncDispose]();
    rmSync(home, { recursive: true, force: true });
  });

  const examples = readdirSync(join(WORKSPACE, "examples")).filter((name) => name.endsWith(".ts"));
  assert(examples.length > 0);
  for (const example of examples) {
    it(`the example ${example} runs`, async () => {
      assert.notEqual(await run(join(WORKSPACE, "examples/dist", example.replace(/ts$/, "js"))), "");
    });
  }

  for (const page of PAGES) {
    it(`each piece of ${page.slice(REPOSITORY.length + 1)} compiles and runs`, async () => {
      const named = pieces(page).map((piece, at) => [`piece${at + 1}`, piece] as const);
      using compiled = compile(Object.fromEntries(named.map(([name, piece]) => [`${name}.ts`, piece])));
      assert.equal(compiled.complaints, "");
      for (const [name] of named) await run(join(compiled.folder, `${name}.js`));
    });
  }
});
