/** Each package works when it is installed alone, from what would be published. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { it } from "node:test";

import { WORKSPACE } from "./bed.js";

/** Packs a package and unpacks it where it would be installed; the packages of others that it names are linked. */
function install(name: string, folder: string): void {
  const packed = execFileSync("npm", ["pack", "--silent", "--ignore-scripts", `--pack-destination=${folder}`], {
    cwd: join(WORKSPACE, name),
    encoding: "utf8",
  });
  const place = join(folder, "node_modules/@memboss", name);
  mkdirSync(place, { recursive: true });
  execFileSync("tar", ["-xzf", join(folder, packed.trim()), "-C", place, "--strip-components=1"]);
  const { dependencies }: { dependencies: Record<string, string> } = JSON.parse(
    readFileSync(join(place, "package.json"), "utf8"),
  );
  for (const needed of Object.keys(dependencies).filter((one) => !one.startsWith("@memboss/"))) {
    mkdirSync(join(folder, "node_modules", needed, ".."), { recursive: true });
    symlinkSync(join(WORKSPACE, "node_modules", needed), join(folder, "node_modules", needed));
  }
}

for (const [name, expression, expected] of [
  ["vram", `new all.GPUBoss({ socket: "/nowhere" }).connect().catch((error) => error.name)`, "AgentUnavailable"],
  ["ram", `new all.MemoryAnalyzer().analyze().then(({ totalMib }) => totalMib > 0)`, "true"],
] as const) {
  it(`@memboss/${name} works without the other`, () => {
    const folder = mkdtempSync(join(tmpdir(), "memboss-ts-pack-"));
    try {
      install("client", folder);
      install(name, folder);
      const script = `import * as all from "@memboss/${name}"; console.log(String(await ${expression}));`;
      const said = execFileSync(process.execPath, ["--input-type=module", "-e", script], {
        cwd: folder,
        encoding: "utf8",
      });
      assert.equal(said.trim(), expected);
      const files = readdirSync(join(folder, "node_modules/@memboss", name, "dist"));
      assert(files.includes("index.d.ts"));
      assert.deepEqual(
        files.filter((file) => file.includes(".test.")),
        [],
      );
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
}
