"""`CUDA_VISIBLE_DEVICES` and PyTorch's limit. PyTorch is not installed here: a module of its name with the few functions that are used stands for it, to show the
arithmetic and the calls."""

from __future__ import annotations

import os
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from conftest import Agent, until

from memboss_vram import GPUBoss, TorchUnavailable, UnsafeDevices

VARIABLE = "CUDA_VISIBLE_DEVICES"
MIB = 1 << 20


class Torch(ModuleType):
    def __init__(self, uuids: list[str], initialised: bool = False) -> None:
        super().__init__("torch")
        self.limits: dict[int, float] = {}
        self.cuda = SimpleNamespace(
            is_initialized=lambda: initialised,
            device_count=lambda: len(uuids),
            get_device_properties=lambda device: SimpleNamespace(total_memory=24576 * MIB, uuid=uuids[device]),
            set_per_process_memory_fraction=lambda fraction, device: self.limits.update({device: fraction}),
        )


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(uuids: list[str], initialised: bool = False) -> Torch:
        module = Torch(uuids, initialised)
        monkeypatch.setitem(sys.modules, "torch", module)
        return module

    return install


async def test_the_variable_is_set_for_the_lease_where_that_was_asked_for(agent: Agent) -> None:
    async with GPUBoss() as boss:
        async with boss.acquire(vram_mb=100, gpus=2):
            assert VARIABLE not in os.environ
        async with boss.acquire(vram_mb=100, gpus=2, set_visible_devices=True) as lease:
            assert os.environ[VARIABLE] == lease.visible_devices == ",".join(gpu.uuid for gpu in lease.gpus)
            async with boss.acquire(vram_mb=100, uuids=[lease.gpus[0].uuid]) as other:
                with pytest.raises(UnsafeDevices):
                    other.set_visible_devices()
        assert VARIABLE not in os.environ


async def test_what_somebody_set_stays_and_nothing_is_held_then(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "7")
    async with GPUBoss() as boss:
        with pytest.raises(UnsafeDevices, match="'7' already"):
            async with boss.acquire(vram_mb=100, set_visible_devices=True):
                pass
        assert os.environ[VARIABLE] == "7"
        await until(boss, lambda status: not status.leases)


async def test_after_cuda_was_initialised_it_is_refused_before_anything_is_asked(torch: Any) -> None:
    torch([], initialised=True)
    with pytest.raises(UnsafeDevices, match="by torch"):
        GPUBoss("/nowhere").acquire(vram_mb=100, set_visible_devices=True)
    torch([], initialised=False)
    GPUBoss("/nowhere").acquire(vram_mb=100, set_visible_devices=True)


async def test_pytorch_is_limited_to_the_lease_on_its_gpus(agent: Agent, torch: Any) -> None:
    async with GPUBoss() as boss:
        first, second = ((await boss.status()).gpus)[:2]
        module = torch([first.uuid.removeprefix("GPU-"), second.uuid.removeprefix("GPU-")])
        async with boss.acquire(vram_mb=6144 + 512, uuids=[second.uuid]) as lease:
            assert lease.cap_torch() == {second.uuid: 0.25}
            assert module.limits == {1: 0.25}
            assert lease.cap_torch(context_mib=0) == {second.uuid: (6144 + 512) / 24576}
            assert lease.cap_torch(context_mib=10_000) == {second.uuid: 0.0}


async def test_a_pytorch_that_tells_no_uuids_is_limited_only_where_it_sees_just_the_lease(
    agent: Agent, torch: Any
) -> None:
    async with GPUBoss() as boss, boss.acquire(vram_mb=12288) as lease:
        module = torch([""])
        lease.cap_torch(context_mib=0)
        assert module.limits == {0: 0.5}
        for uuids in (["", ""], ["another"], []):
            torch(uuids)
            with pytest.raises(TorchUnavailable, match="set_visible_devices"):
                lease.cap_torch()


async def test_without_pytorch_it_is_told(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    async with GPUBoss() as boss, boss.acquire(vram_mb=100) as lease:
        with pytest.raises(TorchUnavailable, match="install torch"):
            lease.cap_torch()
