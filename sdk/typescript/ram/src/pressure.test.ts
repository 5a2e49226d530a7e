/** The rules of pressure, by the same cases as the agent's own. */

import assert from "node:assert/strict";
import { it } from "node:test";

import { Cause, causeOf, Gauge, judge, Pressure, Sign, type Signals } from "./pressure.js";

const GIB = 1024;

function of24g(availablePercent: number): Signals {
  return { totalMib: 24 * GIB, availableMib: Math.floor((24 * GIB * availablePercent) / 100) };
}

it("one look shows a level, what it rests on, and what would help", () => {
  const base = of24g(50);
  const stalled = { ...base, stalledSome: 15 };
  const cases: readonly (readonly [Signals, Pressure, Sign | undefined, Cause])[] = [
    [base, Pressure.LOW, undefined, Cause.NOTHING],
    [of24g(9), Pressure.MODERATE, Sign.LITTLE_AVAILABLE, Cause.IN_USE],
    [of24g(4), Pressure.HIGH, Sign.LITTLE_AVAILABLE, Cause.IN_USE],
    [of24g(1), Pressure.CRITICAL, Sign.LITTLE_AVAILABLE, Cause.IN_USE],
    [{ ...base, untilLimitMib: 300 }, Pressure.HIGH, Sign.LIMIT_NEAR, Cause.CACHE],
    [stalled, Pressure.MODERATE, Sign.STALLS, Cause.STALLS],
    // A limit that is far has nothing to do with it.
    [{ ...stalled, untilLimitMib: 10 * GIB }, Pressure.MODERATE, Sign.STALLS, Cause.STALLS],
    [{ ...base, stalledAll: 61 }, Pressure.CRITICAL, Sign.STALLS, Cause.STALLS],
    // A terabyte with 5 % left has 51 GiB: that is not little.
    [{ totalMib: 1024 * GIB, availableMib: 51 * GIB }, Pressure.LOW, undefined, Cause.NOTHING],
  ];
  for (const [signals, pressure, sign, cause] of cases) {
    assert.deepEqual(judge(signals), { pressure, sign }, JSON.stringify(signals));
    assert.equal(causeOf(signals, pressure), cause, JSON.stringify(signals));
  }
});

it("a flicker changes nothing and what lasts does", () => {
  const gauge = new Gauge();
  const looks: readonly (readonly [number, number, Pressure])[] = [
    [0, 9, Pressure.LOW],
    [5, 50, Pressure.LOW],
    [6, 9, Pressure.LOW],
    [15, 9, Pressure.LOW],
    [16, 9, Pressure.MODERATE],
    [17, 4, Pressure.MODERATE],
    [19, 4, Pressure.HIGH],
  ];
  for (const [second, percent, level] of looks) {
    assert.equal(gauge.look(of24g(percent), second * 1000).pressure, level, `at ${second} s`);
  }
  assert.equal(gauge.look(of24g(4), 20_000).sign, Sign.LITTLE_AVAILABLE);
});

it("it goes down late and one level at a time", () => {
  const gauge = new Gauge();
  gauge.look(of24g(1), 0);
  const looks: readonly (readonly [number, number, Pressure])[] = [
    [1, 1, Pressure.CRITICAL],
    // Better, but not well: above what enters and below what leaves.
    [1000, 4, Pressure.CRITICAL],
    [2000, 50, Pressure.CRITICAL],
    [2299, 50, Pressure.CRITICAL],
    [2300, 50, Pressure.HIGH],
    [2359, 50, Pressure.HIGH],
    [2360, 50, Pressure.MODERATE],
    [2420, 50, Pressure.LOW],
  ];
  for (const [second, percent, level] of looks) {
    assert.equal(gauge.look(of24g(percent), second * 1000).pressure, level, `at ${second} s`);
  }
  assert.deepEqual(gauge.look(of24g(50), 2_421_000), { pressure: Pressure.LOW, sign: undefined });
});

it("a level that is only kept needs no help", () => {
  assert.equal(causeOf(of24g(50), Pressure.HIGH), Cause.NOTHING);
});
