"""Leases of host RAM without asyncio: `with RAMBoss() as boss`, `with boss.acquire(ram_mb=16000) as lease`. The same words as in `memboss_ram`; what a block
cannot be told from outside, it asks by `lease.check()`."""

from __future__ import annotations

import os
from collections.abc import Callable

from memboss_client.blocking import BlockingBoss, BlockingLease, granted, on_own_thread, run
from memboss_client.boss import RESUME_FOR
from memboss_client.errors import LeaseLost
from memboss_client.lease import Notice
from memboss_client.priority import Priority
from memboss_client.words import DryRun, QueuePlace
from memboss_ram import boss as asynchronous
from memboss_ram import lease as asynchronous_lease


class RAMLease(BlockingLease[asynchronous_lease.RAMLease]):
    """Host RAM. Amounts are MiB."""

    def shrink(self, ram_mb: int) -> None:
        """Gives a part back: afterwards it holds `ram_mb`."""
        run(self._lease.shrink(ram_mb))


class RAMBoss(BlockingBoss[asynchronous.RAMBoss]):
    """A connection to the agent that leases host RAM: `with RAMBoss() as boss`."""

    def __init__(self, socket: str | os.PathLike[str] | None = None, *, resume_for: float = RESUME_FOR) -> None:
        super().__init__(asynchronous.RAMBoss(socket, resume_for=resume_for))

    def acquire(
        self,
        ram_mb: int,
        *,
        priority: Priority | str = Priority.NORMAL,
        timeout: float | None = None,
        on_preempt: Callable[[Notice[RAMLease]], None] | None = None,
        on_lost: Callable[[LeaseLost], None] | None = None,
        on_queue: Callable[[QueuePlace], None] | None = None,
        notice: float | None = None,
        protection: float | None = None,
        label: str = "",
    ) -> RAMLease:
        """Asks for host RAM, and waits until it is granted; what each word means is told by `memboss_ram.RAMBoss.acquire`.

        `on_preempt` and `on_lost` are called on threads of their own, `on_queue` on memboss' thread. Without `on_preempt` a notice is told by
        `lease.notice` and `lease.check()`; when its time is over the agent ends this process (SIGTERM first)."""
        acquiring = self._boss.acquire(
            ram_mb,
            priority=priority,
            timeout=timeout,
            on_preempt=on_own_thread(on_preempt, lambda told: told._of(RAMLease(told.lease))),
            on_lost=on_own_thread(on_lost, lambda error: error),
            on_queue=on_queue,
            notice=notice,
            protection=protection,
            label=label,
        )
        return RAMLease(run(granted(acquiring)))

    def dry_run(self, ram_mb: int, *, priority: Priority | str = Priority.NORMAL) -> DryRun:
        """What would come of such a request now, and who would be asked to give way; nothing changes by it."""
        return run(self._boss.dry_run(ram_mb, priority=priority))
