"""`CUDA_VISIBLE_DEVICES` of this process: set where it was asked for and can still count. CUDA reads it once; afterwards setting it would change nothing, and
a program would believe itself on another GPU than it is on."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from memboss_client.errors import MembossError

VARIABLE = "CUDA_VISIBLE_DEVICES"


class UnsafeDevices(MembossError, RuntimeError):
    """`CUDA_VISIBLE_DEVICES` would not do what it says: it was left as it is."""


def check_cuda_unused() -> None:
    """`UnsafeDevices` if CUDA is initialised in this process."""
    user = _cuda_user()
    if user:
        advice = "acquire the lease before the first use of CUDA, or choose the device by lease.gpus yourself"
        raise UnsafeDevices(
            f"CUDA is initialised already ({user}), so {VARIABLE} would not count", f"process {os.getpid()}", advice
        )


def set_visible(uuids: Sequence[str]) -> str | None:
    """Sets it to these GPUs; what it was before. `UnsafeDevices` if CUDA is initialised, or somebody has set it to others."""
    check_cuda_unused()
    wanted, before = ",".join(uuids), os.environ.get(VARIABLE)
    if before not in (None, "", wanted):
        advice = "unset it, or leave set_visible_devices out"
        raise UnsafeDevices(
            f"{VARIABLE} is {before!r} already, and the lease is on {wanted!r}", f"process {os.getpid()}", advice
        )
    os.environ[VARIABLE] = wanted
    return before


def restore(uuids: Sequence[str], before: str | None) -> None:
    """Makes it what it was, unless somebody has changed it since."""
    if os.environ.get(VARIABLE) != ",".join(uuids):
        return
    if before is None:
        del os.environ[VARIABLE]
    else:
        os.environ[VARIABLE] = before


def _cuda_user() -> str:
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is not None and cuda.is_initialized():
        return "by torch"
    # The driver opens this device when CUDA is initialised, by whatever library; reading figures (NVML) does not open it.
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            if os.readlink(descriptor) == "/dev/nvidia-uvm":
                return "the driver's device is open"
        except OSError:
            continue
    return ""
