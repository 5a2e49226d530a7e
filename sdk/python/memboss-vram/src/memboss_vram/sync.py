"""Leases of GPU memory without asyncio: `with GPUBoss() as boss`, `with boss.acquire(vram_mb=8000) as lease`. The same words as in `memboss_vram`; what a
block cannot be told from outside, it asks by `lease.check()`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from memboss_client.blocking import BlockingBoss, BlockingLease, granted, on_own_thread, run
from memboss_client.boss import RESUME_FOR
from memboss_client.errors import LeaseLost
from memboss_client.lease import Notice
from memboss_client.priority import Priority
from memboss_client.words import DryRun, GPUShare, QueuePlace
from memboss_vram import boss as asynchronous
from memboss_vram import lease as asynchronous_lease
from memboss_vram.torch_cap import CONTEXT_MIB


class GPULease(BlockingLease[asynchronous_lease.GPULease]):
    """Memory on one GPU or several. Amounts are MiB."""

    @property
    def gpus(self) -> tuple[GPUShare, ...]:
        """The GPUs, and what of each is held."""
        return self._lease.gpus

    @property
    def vram_mib(self) -> int:
        """What is held on all GPUs together."""
        return self._lease.vram_mib

    @property
    def visible_devices(self) -> str:
        """The GPUs as `CUDA_VISIBLE_DEVICES` takes them, for a process that this one starts."""
        return self._lease.visible_devices

    def shrink(self, vram_mb: int | Sequence[int] | None = None, ram_mb: int | None = None) -> None:
        """Gives a part back, as `memboss_vram.GPULease.shrink` does."""
        run(self._lease.shrink(vram_mb, ram_mb))

    def offload(self, vram_mb: int | Sequence[int], ram_mb: int | None = None) -> None:
        """Moves a part into host RAM, as `memboss_vram.GPULease.offload` does."""
        run(self._lease.offload(vram_mb, ram_mb))

    def cap_torch(self, context_mib: int = CONTEXT_MIB) -> dict[str, float]:
        """Limits what PyTorch allocates, as `memboss_vram.GPULease.cap_torch` does."""
        return self._lease.cap_torch(context_mib)

    def set_visible_devices(self) -> None:
        """Sets `CUDA_VISIBLE_DEVICES` of this process, as `memboss_vram.GPULease.set_visible_devices` does."""
        self._lease.set_visible_devices()


class GPUBoss(BlockingBoss[asynchronous.GPUBoss]):
    """A connection to the agent that leases memory on GPUs: `with GPUBoss() as boss`."""

    def __init__(self, socket: str | os.PathLike[str] | None = None, *, resume_for: float = RESUME_FOR) -> None:
        super().__init__(asynchronous.GPUBoss(socket, resume_for=resume_for))

    def acquire(
        self,
        vram_mb: int | Sequence[int] | None = None,
        *,
        vram_percent: int | None = None,
        ram_mb: int = 0,
        gpus: int = 1,
        priority: Priority | str = Priority.NORMAL,
        timeout: float | None = None,
        on_preempt: Callable[[Notice[GPULease]], None] | None = None,
        on_lost: Callable[[LeaseLost], None] | None = None,
        on_queue: Callable[[QueuePlace], None] | None = None,
        models: Sequence[str] = (),
        uuids: Sequence[str] = (),
        spread: bool = False,
        notice: float | None = None,
        protection: float | None = None,
        label: str = "",
        set_visible_devices: bool = False,
    ) -> GPULease:
        """Asks for memory on GPUs, and waits until it is granted; what each word means is told by `memboss_vram.GPUBoss.acquire`.

        `on_preempt` and `on_lost` are called on threads of their own, `on_queue` on memboss' thread. Without `on_preempt` a notice is told by
        `lease.notice` and `lease.check()`; when its time is over the agent ends this process (SIGTERM first)."""
        acquiring = self._boss.acquire(
            vram_mb,
            vram_percent=vram_percent,
            ram_mb=ram_mb,
            gpus=gpus,
            priority=priority,
            timeout=timeout,
            on_preempt=on_own_thread(on_preempt, lambda told: told._of(GPULease(told.lease))),
            on_lost=on_own_thread(on_lost, lambda error: error),
            on_queue=on_queue,
            models=models,
            uuids=uuids,
            spread=spread,
            notice=notice,
            protection=protection,
            label=label,
            set_visible_devices=set_visible_devices,
        )
        return GPULease(run(granted(acquiring)))

    def dry_run(
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
        asking = self._boss.dry_run(
            vram_mb,
            vram_percent=vram_percent,
            ram_mb=ram_mb,
            gpus=gpus,
            priority=priority,
            models=models,
            uuids=uuids,
            spread=spread,
        )
        return run(asking)
