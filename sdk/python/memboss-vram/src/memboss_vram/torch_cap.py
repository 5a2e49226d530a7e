"""PyTorch's own limit on what it allocates, set to what a lease holds. A lease is an agreement: this makes PyTorch keep it. It may not import torch before
it is asked to."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from memboss_client.errors import MembossError
from memboss_client.words import GPUShare

MIB = 1 << 20

CONTEXT_MIB = 512
"""What CUDA itself needs on a GPU beside PyTorch's allocator, roughly: a context and loaded kernels. It is part of the lease."""


class TorchUnavailable(MembossError, RuntimeError):
    """PyTorch is not there, or does not see the lease's GPUs."""


def cap(gpus: Sequence[GPUShare], context_mib: int = CONTEXT_MIB) -> dict[str, float]:
    """Limits PyTorch on each of the lease's GPUs; the share of the GPU's memory that it may allocate, by UUID."""
    torch = _torch()
    fractions = {}
    for slot, gpu in enumerate(gpus):
        device = _device(torch, gpu, slot, len(gpus))
        total_mib = torch.cuda.get_device_properties(device).total_memory / MIB
        fraction = fraction_of(gpu.memory_mib, total_mib, context_mib)
        torch.cuda.set_per_process_memory_fraction(fraction, device)
        fractions[gpu.uuid] = fraction
    return fractions


def fraction_of(memory_mib: int, total_mib: float, context_mib: int) -> float:
    """The share of a GPU that is left for the allocator. A lease below what CUDA needs leaves none."""
    return min(1.0, max(0, memory_mib - context_mib) / total_mib)


def _torch() -> Any:
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise TorchUnavailable(
            "PyTorch is not installed", "cap_torch", "install torch, or leave cap_torch out"
        ) from error


def _device(torch: Any, gpu: GPUShare, slot: int, slots: int) -> int:
    """PyTorch's number of a GPU: by its UUID where PyTorch tells it, else by its place where the lease's GPUs are all that it sees."""
    count = torch.cuda.device_count()
    told = [str(getattr(torch.cuda.get_device_properties(device), "uuid", "")) for device in range(count)]
    for device, uuid in enumerate(told):
        if uuid and uuid.removeprefix("GPU-") == gpu.uuid.removeprefix("GPU-"):
            return device
    if count == slots and not any(told):
        return slot
    advice = "acquire with set_visible_devices=True before CUDA is used"
    raise TorchUnavailable(f"PyTorch sees {count} GPU(s), and not {gpu.uuid}", "cap_torch", advice)
