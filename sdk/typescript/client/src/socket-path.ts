/** Where the agent's socket is. It looks, and connects to nothing. */

import { existsSync } from "node:fs";
import { join, resolve } from "node:path";

import { AgentUnavailable } from "./errors.js";

/** Names the socket; it is set in containers that get one. */
const VARIABLE = "MEMBOSS_SOCKET";

/** Where an agent of the whole machine listens. */
const SYSTEM_SOCKET = "/run/memboss/agent/agent.sock";

/** Where an agent that a user runs for themself listens; nothing without a directory for it. */
function userSockets(): string[] {
  const directory = process.env["XDG_RUNTIME_DIR"];
  return directory ? [join(directory, "memboss/agent/agent.sock")] : [];
}

/** The socket that was named, or by `MEMBOSS_SOCKET`, or the first of the usual ones that exists. `AgentUnavailable` if there is none. */
export function findSocket(named?: string): string {
  const chosen = named || process.env[VARIABLE];
  if (chosen) return resolve(chosen);
  const usual = [SYSTEM_SOCKET, ...userSockets()];
  const found = usual.find((path) => existsSync(path));
  if (found !== undefined) return found;
  const advice = `start memboss-agent, or name its socket in ${VARIABLE}`;
  throw new AgentUnavailable("there is no agent's socket", usual.join(" or "), advice);
}
