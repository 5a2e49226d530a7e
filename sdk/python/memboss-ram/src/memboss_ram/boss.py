"""Asks the node's agent for host RAM. It says what is asked for and hands out leases; how a lease is kept is in memboss-client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from memboss_client.acquisition import Acquisition
from memboss_client.boss import Boss
from memboss_client.errors import LeaseLost
from memboss_client.lease import Notice
from memboss_client.priority import Priority
from memboss_client.request import Request, amount
from memboss_client.words import DryRun, QueuePlace
from memboss_ram.lease import RAMLease


class RAMBoss(Boss):
    """A connection to the agent that leases host RAM: `async with RAMBoss() as boss`."""

    def acquire(
        self,
        ram_mb: int,
        *,
        priority: Priority | str = Priority.NORMAL,
        timeout: float | None = None,
        on_preempt: Callable[[Notice[RAMLease]], Awaitable[None] | None] | None = None,
        on_lost: Callable[[LeaseLost], Awaitable[None] | None] | None = None,
        on_queue: Callable[[QueuePlace], None] | None = None,
        notice: float | None = None,
        protection: float | None = None,
        label: str = "",
    ) -> Acquisition[RAMLease]:
        """Asks for host RAM, and waits until it is granted.

        Args:
            ram_mb: MiB.
            priority: The class.
            timeout: Seconds to wait at most (`LeaseTimeout`); 0 not to wait at all (`NoRoom`); without, as long as it takes.
            on_preempt: Called with the notice when the memory is needed by a higher class. Without it the block is cancelled, the lease given back, and
                `Preempted` raised.
            on_lost: Called when the lease has ended otherwise than by its holder. Without it the block is cancelled and `LeaseLost` raised.
            on_queue: Called with the place in the queue, at first and on every change.
            notice: Seconds of notice that are wished for before it has to go, at most 300.
            protection: Seconds for which it is not asked to go after its grant; without, what its class gives.
            label: Shown to people; without, the program's name.
        """
        request = Request(
            ram_mib=amount("ram_mb", ram_mb),
            priority=priority,
            timeout=timeout,
            can_shrink=on_preempt is not None,
            notice=notice,
            protection=protection,
            label=label,
        )
        request.message()
        return self._acquisition(
            lambda connection: RAMLease(connection, request, self._resume_for, on_preempt, on_lost, on_queue),
            lambda lease: lease._start(),
        )

    async def dry_run(self, ram_mb: int, *, priority: Priority | str = Priority.NORMAL) -> DryRun:
        """What would come of such a request now, and who would be asked to give way; nothing changes by it."""
        return await self._dry_run(Request(ram_mib=amount("ram_mb", ram_mb), priority=priority))
