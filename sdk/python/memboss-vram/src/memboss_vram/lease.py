"""A lease of memory on GPUs, and of host RAM where that was asked for with it."""

from __future__ import annotations

from collections.abc import Sequence

from memboss_client.errors import InvalidRequest
from memboss_client.lease import Lease
from memboss_client.request import remaining
from memboss_client.words import GPUShare
from memboss_vram import devices, torch_cap


class GPULease(Lease):
    """Memory on one GPU or several. Amounts are MiB."""

    @property
    def gpus(self) -> tuple[GPUShare, ...]:
        """The GPUs, and what of each is held."""
        return tuple(GPUShare.told(gpu) for gpu in self._holding.view.gpus)

    @property
    def vram_mib(self) -> int:
        """What is held on all GPUs together."""
        return sum(gpu.memory_mib for gpu in self.gpus)

    @property
    def visible_devices(self) -> str:
        """The GPUs as `CUDA_VISIBLE_DEVICES` takes them, for a process that this one starts."""
        return ",".join(gpu.uuid for gpu in self.gpus)

    async def shrink(self, vram_mb: int | Sequence[int] | None = None, ram_mb: int | None = None) -> None:
        """Gives a part back: afterwards each GPU holds `vram_mb` (one amount for all, or one for each), the host `ram_mb`; without, as before. Free the
        memory first: what is still used stays charged until it is seen free."""
        memory = None if vram_mb is None else self._each(vram_mb)
        ram = None if ram_mb is None else remaining("ram_mb", ram_mb)
        if memory is None and ram is None:
            raise InvalidRequest("nothing was said to shrink to", "shrink", "give vram_mb, ram_mb, or both")
        await self._holding.resize(memory, ram)

    async def offload(self, vram_mb: int | Sequence[int], ram_mb: int | None = None) -> None:
        """Moves a part into host RAM: afterwards each GPU holds `vram_mb`, and the host `ram_mb` more (without: as much as leaves the GPUs). The RAM is
        held in the same step, or `NoRoom` and nothing is changed."""
        memory = self._each(vram_mb)
        leaves = max(0, self.vram_mib - sum(memory))
        await self._holding.move(memory, leaves if ram_mb is None else remaining("ram_mb", ram_mb))

    def cap_torch(self, context_mib: int = torch_cap.CONTEXT_MIB) -> dict[str, float]:
        """Limits what PyTorch allocates to what is held, less what CUDA itself needs (`context_mib` on each GPU); the shares of the GPUs' memory, by
        UUID. `TorchUnavailable` without PyTorch."""
        self._holding.connection.check_process()
        return torch_cap.cap(self.gpus, context_mib)

    def set_visible_devices(self) -> None:
        """Sets `CUDA_VISIBLE_DEVICES` of this process to the lease's GPUs until it ends. `UnsafeDevices` where that would not count."""
        self._holding.connection.check_process()
        visible = tuple(gpu.uuid for gpu in self.gpus)
        found, before = devices.set_visible(visible), self._gone

        def gone() -> None:
            devices.restore(visible, found)
            if before is not None:
                before()

        self._gone = gone

    def _each(self, vram_mb: int | Sequence[int]) -> list[int]:
        amounts = [vram_mb] * len(self.gpus) if isinstance(vram_mb, int) else list(vram_mb)
        if len(amounts) != len(self.gpus):
            advice = "give one amount for all of them, or one for each"
            raise InvalidRequest(f"{len(amounts)} amounts for {len(self.gpus)} GPUs", "vram_mb", advice)
        return [remaining("vram_mb", amount) for amount in amounts]
