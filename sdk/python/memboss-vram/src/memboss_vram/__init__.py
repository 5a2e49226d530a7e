"""Leases of GPU memory: `async with GPUBoss() as boss`, `async with boss.acquire(vram_mb=8000) as lease`. The same without asyncio: `memboss_vram.sync`.

It needs the node's agent. How a lease is kept is in memboss-client; the errors, the priorities and what the agent tells are the same objects in all of
memboss' packages."""

from memboss_client.errors import (
    AgentUnavailable,
    InvalidRequest,
    LeaseLost,
    LeaseTimeout,
    MembossError,
    NoRoom,
    Preempted,
    RequestRefused,
    WrongProcess,
)
from memboss_client.lease import Notice
from memboss_client.priority import Priority
from memboss_client.words import (
    DryRun,
    GPUShare,
    GPUStatus,
    LeaseStatus,
    NodeStatus,
    Outlook,
    Phase,
    QueuePlace,
    RAMStatus,
)
from memboss_vram.boss import GPUBoss
from memboss_vram.devices import UnsafeDevices
from memboss_vram.lease import GPULease
from memboss_vram.torch_cap import TorchUnavailable

__all__ = [
    "AgentUnavailable",
    "DryRun",
    "GPUBoss",
    "GPULease",
    "GPUShare",
    "GPUStatus",
    "InvalidRequest",
    "LeaseLost",
    "LeaseStatus",
    "LeaseTimeout",
    "MembossError",
    "NoRoom",
    "NodeStatus",
    "Notice",
    "Outlook",
    "Phase",
    "Preempted",
    "Priority",
    "QueuePlace",
    "RAMStatus",
    "RequestRefused",
    "TorchUnavailable",
    "UnsafeDevices",
    "WrongProcess",
]
