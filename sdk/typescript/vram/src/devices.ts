/** `CUDA_VISIBLE_DEVICES` of this process: set where it was asked for and can still count. CUDA reads it once; afterwards setting it would change nothing,
 * and a program would believe itself on another GPU than it is on. */

import { readdirSync, readlinkSync } from "node:fs";

import { MembossError } from "@memboss/client";

const VARIABLE = "CUDA_VISIBLE_DEVICES";

/** `CUDA_VISIBLE_DEVICES` would not do what it says: it was left as it is. */
export class UnsafeDevices extends MembossError {}

/** `UnsafeDevices` if CUDA is initialised in this process. */
export function checkCudaUnused(): void {
  if (!isCudaUsed()) return;
  const what = `CUDA is initialised already (the driver's device is open), so ${VARIABLE} would not count`;
  const advice = "acquire the lease before the first use of CUDA, or choose the device by lease.gpus yourself";
  throw new UnsafeDevices(what, `process ${process.pid}`, advice);
}

/** Sets it to these GPUs; what it was before. `UnsafeDevices` if CUDA is initialised, or somebody has set it to others. */
export function setVisible(wanted: string): string | undefined {
  checkCudaUnused();
  const before = process.env[VARIABLE];
  if (before && before !== wanted) {
    const what = `${VARIABLE} is "${before}" already, and the lease is on "${wanted}"`;
    throw new UnsafeDevices(what, `process ${process.pid}`, "unset it, or leave setVisibleDevices out");
  }
  process.env[VARIABLE] = wanted;
  return before;
}

/** Makes it what it was, unless somebody has changed it since. */
export function restoreVisible(set: string, before: string | undefined): void {
  if (process.env[VARIABLE] !== set) return;
  if (before === undefined) delete process.env[VARIABLE];
  else process.env[VARIABLE] = before;
}

/** The driver opens this device when CUDA is initialised, by whatever library; reading figures (NVML) does not open it. */
function isCudaUsed(): boolean {
  return readdirSync("/proc/self/fd").some((descriptor) => {
    try {
      return readlinkSync(`/proc/self/fd/${descriptor}`) === "/dev/nvidia-uvm";
    } catch {
      return false;
    }
  });
}
