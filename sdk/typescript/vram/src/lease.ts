/** A lease of memory on GPUs, and of host RAM where that was asked for with it. */

import { type GPUShare, InvalidRequest, Lease, remaining, shareTold } from "@memboss/client";

import { restoreVisible, setVisible } from "./devices.js";

/** What is left after a part was given back. */
export interface Remaining {
  /** MiB on each GPU afterwards, or a list with one amount for each; without, as before. */
  vramMb?: number | readonly number[] | undefined;
  /** MiB of host RAM afterwards; without, as before. */
  ramMb?: number | undefined;
}

/** What is left on GPUs after a part was moved. */
export interface Offload {
  /** MiB on each GPU afterwards, or a list with one amount for each. */
  vramMb: number | readonly number[];
  /** MiB of host RAM that come in addition; without, as much as leaves the GPUs. */
  ramMb?: number | undefined;
}

/** Memory on one GPU or several. Amounts are MiB. */
export class GPULease extends Lease {
  /** The GPUs, and what of each is held. */
  get gpus(): readonly GPUShare[] {
    return this.holding.view.gpus.map(shareTold);
  }

  /** What is held on all GPUs together. */
  get vramMib(): number {
    return this.gpus.reduce((sum, gpu) => sum + gpu.memoryMib, 0);
  }

  /** The GPUs as `CUDA_VISIBLE_DEVICES` takes them, for a process that this one starts. */
  get visibleDevices(): string {
    return this.gpus.map((gpu) => gpu.uuid).join(",");
  }

  /** Gives a part back. Free the memory first: what is still used stays charged until it is seen free. */
  async shrink({ vramMb, ramMb }: Remaining): Promise<void> {
    const memory = vramMb === undefined ? undefined : this.#each(vramMb);
    const ram = ramMb === undefined ? undefined : remaining("ramMb", ramMb);
    if (memory === undefined && ram === undefined) {
      throw new InvalidRequest("nothing was said to shrink to", "shrink", "give vramMb, ramMb, or both");
    }
    await this.holding.resize(memory, ram);
  }

  /** Moves a part into host RAM. The RAM is held in the same step, or `NoRoom` and nothing is changed. */
  async offload({ vramMb, ramMb }: Offload): Promise<void> {
    const memory = this.#each(vramMb);
    const leaves = Math.max(0, this.vramMib - memory.reduce((sum, mib) => sum + mib, 0));
    await this.holding.move(memory, ramMb === undefined ? leaves : remaining("ramMb", ramMb));
  }

  /** Sets `CUDA_VISIBLE_DEVICES` of this process to the lease's GPUs until it ends. `UnsafeDevices` where that would not count. */
  setVisibleDevices(): void {
    const visible = this.visibleDevices;
    const before = setVisible(visible);
    this.whenOver(() => restoreVisible(visible, before));
  }

  #each(vramMb: number | readonly number[]): number[] {
    const amounts: readonly number[] = typeof vramMb === "number" ? this.gpus.map(() => vramMb) : vramMb;
    if (amounts.length !== this.gpus.length) {
      const advice = "give one amount for all of them, or one for each";
      throw new InvalidRequest(`${amounts.length} amounts for ${this.gpus.length} GPUs`, "vramMb", advice);
    }
    return amounts.map((amount) => remaining("vramMb", amount));
  }
}
