/** The program `memboss`: where it is, and what it answers. It does for Node what Node cannot do itself. */

import { execFile } from "node:child_process";
import { accessSync, constants, statSync } from "node:fs";
import { delimiter, join } from "node:path";

import { MembossError } from "@memboss/client";

const NAME = "memboss";

/** Names the program, or the folder that it is in. */
const VARIABLE = "MEMBOSS_BIN";

/** Answers are one line for each file: a home may have many. */
const LONGEST_ANSWER_BYTES = 64 << 20;

/** There is no program `memboss` here. */
export class ProgramMissing extends MembossError {}

/** The program `memboss` did not do what was asked. */
export class ProgramFailed extends MembossError {}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

/** Where it is. `ProgramMissing` if it is nowhere. */
export function findProgram(): string {
  const named = process.env[VARIABLE];
  const folders = (process.env["PATH"] ?? "").split(delimiter).filter((folder) => folder !== "");
  const places = named ? [named, join(named, NAME)] : folders.map((folder) => join(folder, NAME));
  const found = places.find(isProgram);
  if (found !== undefined) return found;
  const where = named ? `${VARIABLE}=${named}` : "PATH";
  const advice = `Node cannot drop page cache by itself: install the program ${NAME} of memboss, or name it in ${VARIABLE}`;
  throw new ProgramMissing(`the program ${NAME} is not there`, where, advice);
}

/** Its answer to these words, in JSON. `ProgramMissing`, `ProgramFailed`. */
export async function askProgram(words: readonly string[], signal: AbortSignal | undefined): Promise<unknown> {
  const program = findProgram();
  return await new Promise((resolve, reject) => {
    const options = { maxBuffer: LONGEST_ANSWER_BYTES, ...(signal && { signal }) };
    execFile(program, ["-o", "json", ...words], options, (error, out, complaint) => {
      if (error === null) {
        try {
          resolve(JSON.parse(out));
        } catch (cause) {
          reject(
            new ProgramFailed("its answer is no JSON", program, "is it the same release as this package?", { cause }),
          );
        }
      } else if (signal?.aborted) {
        reject(signal.reason);
      } else {
        const what = complaint.trim().replace(/^error: /, "") || error.message;
        reject(new ProgramFailed(what, `${NAME} ${words.join(" ")}`, "nothing more was done", { cause: error }));
      }
    });
  });
}
