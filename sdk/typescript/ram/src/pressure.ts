/** How hard pressed a machine's RAM is, and of what kind the pressure is: the rules of the agent and of `memboss ram`, number by number. Up as soon as a
 * signal has lasted, down one level at a time and later. It measures nothing. */

/** The level. It is equal to its name; `pressureRank` compares. */
export const Pressure = {
  /** Nothing need be done. */
  LOW: "low",
  /** What nobody needs should go. */
  MODERATE: "moderate",
  /** New work would hurt what runs. */
  HIGH: "high",
  /** The kernel or the kubelet is about to kill. */
  CRITICAL: "critical",
} as const;
/** One of the levels. */
export type Pressure = (typeof Pressure)[keyof typeof Pressure];

/** What a level rests on. */
export const Sign = {
  /** Little is available. */
  LITTLE_AVAILABLE: "LittleAvailable",
  /** A limit that counts cache is near. */
  LIMIT_NEAR: "LimitNear",
  /** Tasks wait for memory. */
  STALLS: "Stalls",
} as const;
/** One of the signs. */
export type Sign = (typeof Sign)[keyof typeof Sign];

/** What would help. */
export const Cause = {
  /** Nothing is wrong, or no longer. */
  NOTHING: "Nothing",
  /** Cache counts against a limit that is near, while enough is available: dropping cache that nobody needs helps. */
  CACHE: "Cache",
  /** What is in use cannot be dropped: only its users can give it back. */
  IN_USE: "InUse",
  /** Tasks wait although enough is available: something reclaims too eagerly, or the disk is slow. */
  STALLS: "Stalls",
} as const;
/** One of the causes. */
export type Cause = (typeof Cause)[keyof typeof Cause];

const RANKS: readonly Pressure[] = Object.values(Pressure);

/** 0 for low, 3 for critical. */
export function pressureRank(pressure: Pressure): number {
  return RANKS.indexOf(pressure);
}

interface Bounds {
  readonly level: Pressure;
  /** Entered below that part of all RAM, in percent, and that amount, in MiB. */
  readonly below: readonly [percent: number, mib: number];
  /** Left above those. */
  readonly above: readonly [percent: number, mib: number];
  /** Entered when no more than that is left until a limit. */
  readonly untilLimitMib: number;
  /** Entered when some, or all, waited for more than that share, in percent. */
  readonly some: number;
  readonly all: number;
  /** How long a sign must last before it counts. */
  readonly lastingMs: number;
  /** How long it must have been calm before the level is left. */
  readonly calmMs: number;
}

const GIB = 1024;
const NEVER = Number.POSITIVE_INFINITY;

const MODERATE: Bounds = {
  level: Pressure.MODERATE,
  below: [10, 16 * GIB],
  above: [13, 20 * GIB],
  untilLimitMib: GIB,
  some: 10,
  all: NEVER,
  lastingMs: 10_000,
  calmMs: 60_000,
};
const HIGH: Bounds = {
  level: Pressure.HIGH,
  below: [5, 8 * GIB],
  above: [7, 11 * GIB],
  untilLimitMib: 384,
  some: 40,
  all: 5,
  lastingMs: 2_000,
  calmMs: 60_000,
};
const CRITICAL: Bounds = {
  level: Pressure.CRITICAL,
  below: [2, 4 * GIB],
  above: [5, 8 * GIB],
  untilLimitMib: 64,
  some: NEVER,
  all: 60,
  lastingMs: 1_000,
  calmMs: 300_000,
};

/** Levels above the lowest. */
const LEVELS: readonly Bounds[] = [MODERATE, HIGH, CRITICAL];

/** What is seen of a machine's RAM at one moment. */
export interface Signals {
  /** All of it that is not set aside for huge pages. */
  readonly totalMib: number;
  readonly availableMib: number;
  readonly untilLimitMib?: number | undefined;
  /** In percent of the last 10 s; nothing where the kernel does not tell. */
  readonly stalledSome?: number | undefined;
  readonly stalledAll?: number | undefined;
}

/** A level, and what it rests on. */
export interface Judgement {
  readonly pressure: Pressure;
  readonly sign: Sign | undefined;
}

/** The level that these signals show by themselves: for one look, with nothing known of before. */
export function judge(signals: Signals): Judgement {
  for (const bounds of [...LEVELS].reverse()) {
    const sign = signOf(signals, bounds);
    if (sign !== undefined) return { pressure: bounds.level, sign };
  }
  return { pressure: Pressure.LOW, sign: undefined };
}

/** What would help at that level. */
export function causeOf(signals: Signals, level: Pressure): Cause {
  if (level === Pressure.LOW) return Cause.NOTHING;
  if (signals.availableMib < part(signals, MODERATE.above)) return Cause.IN_USE;
  if (isNearLimit(signals, MODERATE)) return Cause.CACHE;
  const stalls = (signals.stalledSome ?? 0) > MODERATE.some / 2 || (signals.stalledAll ?? 0) > HIGH.all / 2;
  return stalls ? Cause.STALLS : Cause.NOTHING;
}

function part({ totalMib }: Signals, [percent, most]: readonly [number, number]): number {
  return Math.min(Math.floor((totalMib * percent) / 100), most);
}

function signOf(signals: Signals, bounds: Bounds): Sign | undefined {
  if (signals.availableMib < part(signals, bounds.below)) return Sign.LITTLE_AVAILABLE;
  if (signals.untilLimitMib !== undefined && signals.untilLimitMib <= bounds.untilLimitMib) return Sign.LIMIT_NEAR;
  if ((signals.stalledSome ?? 0) > bounds.some || (signals.stalledAll ?? 0) > bounds.all) return Sign.STALLS;
  return undefined;
}

function isNearLimit({ untilLimitMib }: Signals, bounds: Bounds): boolean {
  return untilLimitMib !== undefined && untilLimitMib <= Math.floor((bounds.untilLimitMib * 3) / 2);
}

function isCalm(signals: Signals, bounds: Bounds): boolean {
  return (
    signals.availableMib >= part(signals, bounds.above) &&
    !isNearLimit(signals, bounds) &&
    (signals.stalledSome ?? 0) <= bounds.some / 2 &&
    (signals.stalledAll ?? 0) <= bounds.all / 2
  );
}

/** The level over time. Looks should be about a second apart. */
export class Gauge {
  #level: Pressure = Pressure.LOW;
  #sign: Sign | undefined;
  /** Since when each level's signs have been there without a break. */
  readonly #seen = new Map<Pressure, number>();
  /** Since when it has been calm enough to leave the present level. */
  #calm: number | undefined;

  /** Takes in one look, at a moment in milliseconds; what the level is now, and what it rests on or rested on when it rose. */
  look(signals: Signals, nowMs: number): Judgement {
    const shown = this.#shown(signals, nowMs);
    if (pressureRank(shown.pressure) >= pressureRank(this.#level)) {
      this.#sign = shown.sign ?? (shown.pressure === Pressure.LOW ? undefined : this.#sign);
      this.#level = shown.pressure;
      this.#calm = undefined;
    } else {
      this.#calmDown(signals, nowMs);
    }
    return { pressure: this.#level, sign: this.#sign };
  }

  #shown(signals: Signals, nowMs: number): Judgement {
    let shown: Judgement = { pressure: Pressure.LOW, sign: undefined };
    for (const bounds of LEVELS) {
      const sign = signOf(signals, bounds);
      if (sign === undefined) {
        this.#seen.delete(bounds.level);
        continue;
      }
      const since = this.#seen.get(bounds.level) ?? nowMs;
      this.#seen.set(bounds.level, since);
      if (nowMs - since >= bounds.lastingMs) shown = { pressure: bounds.level, sign };
    }
    return shown;
  }

  #calmDown(signals: Signals, nowMs: number): void {
    const bounds = LEVELS.find(({ level }) => level === this.#level);
    if (bounds === undefined || !isCalm(signals, bounds)) {
      this.#calm = undefined;
      return;
    }
    this.#calm ??= nowMs;
    if (nowMs - this.#calm < bounds.calmMs) return;
    this.#level = RANKS[pressureRank(this.#level) - 1] ?? Pressure.LOW;
    this.#calm = nowMs;
    if (this.#level === Pressure.LOW) this.#sign = undefined;
  }
}
