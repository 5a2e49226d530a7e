/** The five classes of a lease. They are equal to their own names. */

import { InvalidRequest } from "./errors.js";

/** How important a lease is. A higher class may ask a strictly lower one to give way, with notice. */
export const Priority = {
  /** Never passed in the queue. */
  URGENT: "urgent",
  /** Before normal work. */
  HIGH: "high",
  /** What is asked for without a word. */
  NORMAL: "normal",
  /** After normal work. */
  LOW: "low",
  /** What can wait and can be asked to go. */
  BATCH: "batch",
} as const;
/** One of the five names. */
export type Priority = (typeof Priority)[keyof typeof Priority];

const NAMES: readonly string[] = Object.values(Priority);

function isPriority(name: string): name is Priority {
  return NAMES.includes(name);
}

/** The class of that name, in any case. `InvalidRequest` for what is none. */
export function priorityNamed(name: string): Priority {
  const lower = String(name).toLowerCase();
  if (isPriority(lower)) return lower;
  throw new InvalidRequest(`there is no priority "${name}"`, "priority", `${NAMES.join(", ")} are`);
}

/** The class as the agent tells it; without a word, or with one that only a later agent knows, it is taken for normal. */
export function priorityTold(name: string): Priority {
  return isPriority(name) ? name : Priority.NORMAL;
}
