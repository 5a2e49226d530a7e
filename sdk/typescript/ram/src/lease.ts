/** A lease of host RAM. */

import { Lease, remaining } from "@memboss/client";

/** Host RAM. Amounts are MiB. */
export class RAMLease extends Lease {
  /** Gives a part back: afterwards it holds `ramMb`. */
  async shrink({ ramMb }: { ramMb: number }): Promise<void> {
    await this.holding.resize(undefined, remaining("ramMb", ramMb));
  }
}
