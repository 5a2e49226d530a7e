"""Asks the node's agent for memory on GPUs. It says what is asked for and hands out leases; how a lease is kept is in memboss-client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from memboss_client.acquisition import Acquisition
from memboss_client.boss import Boss
from memboss_client.errors import LeaseLost
from memboss_client.lease import Notice
from memboss_client.priority import Priority
from memboss_client.request import Request, amount, slots_of
from memboss_client.words import DryRun, QueuePlace
from memboss_vram.devices import check_cuda_unused
from memboss_vram.lease import GPULease


class GPUBoss(Boss):
    """A connection to the agent that leases memory on GPUs: `async with GPUBoss() as boss`."""

    def acquire(
        self,
        vram_mb: int | Sequence[int] | None = None,
        *,
        vram_percent: int | None = None,
        ram_mb: int = 0,
        gpus: int = 1,
        priority: Priority | str = Priority.NORMAL,
        timeout: float | None = None,
        on_preempt: Callable[[Notice[GPULease]], Awaitable[None] | None] | None = None,
        on_lost: Callable[[LeaseLost], Awaitable[None] | None] | None = None,
        on_queue: Callable[[QueuePlace], None] | None = None,
        models: Sequence[str] = (),
        uuids: Sequence[str] = (),
        spread: bool = False,
        notice: float | None = None,
        protection: float | None = None,
        label: str = "",
        set_visible_devices: bool = False,
    ) -> Acquisition[GPULease]:
        """Asks for memory on GPUs, and waits until it is granted.

        Args:
            vram_mb: MiB on each GPU, or a list with one amount for each.
            vram_percent: In place of an amount: a share of a GPU's leasable memory, 1 to 100.
            ram_mb: MiB of host RAM that is granted in the same step, all or nothing.
            gpus: On how many GPUs, all different.
            priority: The class.
            timeout: Seconds to wait at most (`LeaseTimeout`); 0 not to wait at all (`NoRoom`); without, as long as it takes.
            on_preempt: Called with the notice when the memory is needed by a higher class. Without it the block is cancelled, the lease given back, and
                `Preempted` raised.
            on_lost: Called when the lease has ended otherwise than by its holder. Without it the block is cancelled and `LeaseLost` raised.
            on_queue: Called with the place in the queue, at first and on every change.
            models: Only GPUs whose model contains one of these.
            uuids: Only these GPUs.
            spread: Prefer the emptiest GPU to the fullest that will do.
            notice: Seconds of notice that are wished for before it has to go, at most 300.
            protection: Seconds for which it is not asked to go after its grant; without, what its class gives.
            label: Shown to people; without, the program's name.
            set_visible_devices: Sets `CUDA_VISIBLE_DEVICES` of this process to the GPUs until the lease ends (`UnsafeDevices` where it would not count).
        """
        request = Request(
            slots=slots_of(vram_mb, vram_percent, gpus),
            ram_mib=ram_mb and amount("ram_mb", ram_mb),
            priority=priority,
            timeout=timeout,
            models=models,
            uuids=uuids,
            spread=spread,
            can_shrink=on_preempt is not None,
            can_offload=on_preempt is not None,
            notice=notice,
            protection=protection,
            label=label,
        )
        if set_visible_devices:
            check_cuda_unused()

        async def begin(lease: GPULease) -> None:
            await lease._start()
            if set_visible_devices:
                try:
                    lease.set_visible_devices()
                except BaseException:
                    await lease.release()
                    raise

        request.message()
        return self._acquisition(
            lambda connection: GPULease(connection, request, self._resume_for, on_preempt, on_lost, on_queue), begin
        )

    async def dry_run(
        self,
        vram_mb: int | Sequence[int] | None = None,
        *,
        vram_percent: int | None = None,
        ram_mb: int = 0,
        gpus: int = 1,
        priority: Priority | str = Priority.NORMAL,
        models: Sequence[str] = (),
        uuids: Sequence[str] = (),
        spread: bool = False,
    ) -> DryRun:
        """What would come of such a request now, and who would be asked to give way; nothing changes by it."""
        slots = slots_of(vram_mb, vram_percent, gpus)
        ram_mib = ram_mb and amount("ram_mb", ram_mb)
        return await self._dry_run(
            Request(slots=slots, ram_mib=ram_mib, priority=priority, models=models, uuids=uuids, spread=spread)
        )
