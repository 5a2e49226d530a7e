/** What can go wrong with a lease: one small family, the same in all packages. Each error says what was wrong, where, and what to do. Nothing here knows the
 * wire or the agent. */

/** Any error of memboss. Its parts stand alone too. */
export class MembossError extends Error {
  /** What was wrong. */
  readonly what: string;
  /** The lease, or the socket, or the field. */
  readonly where: string;
  /** What to do about it. */
  readonly advice: string;

  constructor(what: string, where = "", advice = "", options?: ErrorOptions) {
    super(what + (where && ` [${where}]`) + (advice && `: ${advice}`), options);
    this.name = new.target.name;
    this.what = what;
    this.where = where;
    this.advice = advice;
  }
}

/** Nobody answers at the agent's socket. */
export class AgentUnavailable extends MembossError {}

/** What was asked makes no sense: nothing was changed. */
export class InvalidRequest extends MembossError {}

/** The agent does not do that now, or not for this caller: nothing was changed. */
export class RequestRefused extends MembossError {}

/** There is no room now, and the caller would not wait (`timeoutMs: 0`), or has as many leases as anybody may. */
export class NoRoom extends MembossError {}

/** There was no room within the caller's timeout. Nothing is held. */
export class LeaseTimeout extends MembossError {}

/** The lease has ended, and not by its holder: the memory may be another's from now on. */
export class LeaseLost extends MembossError {}

/** The memory is needed by a higher class: give it back within the notice. */
export class Preempted extends LeaseLost {}
