/** Compiling text as a user of the packages would: in a folder where they resolve, with the same strictness. */

import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { WORKSPACE } from "./bed.js";

/** Where it was compiled to, and what the compiler had to say. */
export interface Compiled extends Disposable {
  readonly folder: string;
  /** Nothing where all is well. */
  readonly complaints: string;
}

/** Compiles files, by name. */
export function compile(files: Readonly<Record<string, string>>): Compiled {
  const parent = join(WORKSPACE, "node_modules/.memboss-compiled");
  mkdirSync(parent, { recursive: true });
  const folder = mkdtempSync(join(parent, "c-"));
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text);
  const config = {
    extends: "../../../tsconfig.base.json",
    compilerOptions: { composite: false, incremental: false, declaration: false, noUnusedLocals: false },
    include: ["*.ts"],
  };
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify(config));
  writeFileSync(join(folder, "package.json"), JSON.stringify({ type: "module" }));
  const told = spawnSync(join(WORKSPACE, "node_modules/.bin/tsc"), ["-p", folder], { encoding: "utf8" });
  const complaints = told.status === 0 ? "" : told.stdout + told.stderr;
  return { folder, complaints, [Symbol.dispose]: () => rmSync(folder, { recursive: true, force: true }) };
}
