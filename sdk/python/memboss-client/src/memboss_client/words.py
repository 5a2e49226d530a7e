"""What the agent tells, in plain objects. Amounts are MiB, spans of time are seconds. They are read, never changed; nothing here asks the agent."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from memboss_client import agent_pb2 as pb
from memboss_client.priority import Priority


class Phase(str, Enum):
    """Where a lease is in its life."""

    WAITING = "waiting"
    RESERVED = "reserved"
    ACTIVE = "active"
    REVOKING = "revoking"
    STOPPING = "stopping"
    ENDED = "ended"

    def __str__(self) -> str:
        return self.value

    @classmethod
    def told(cls, phase: int) -> Phase:
        """From the agent's number; one that only a later agent knows is taken for waiting, of which nothing follows."""
        by_number: dict[int, Phase] = {
            pb.RESERVED: cls.RESERVED,
            pb.ACTIVE: cls.ACTIVE,
            pb.REVOKING: cls.REVOKING,
            pb.STOPPING: cls.STOPPING,
            pb.ENDED: cls.ENDED,
        }
        return by_number.get(phase, cls.WAITING)


class Outlook(str, Enum):
    """What would come of a request."""

    NOW = "now"
    """It would be granted at once."""
    AFTER_PREEMPTION = "after_preemption"
    """Others would be asked to give way first."""
    WAITS = "waits"
    """It would have to wait until others go by themselves."""
    NEVER = "never"
    """Nothing here could ever hold it."""

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class GPUShare:
    """A part of one GPU."""

    uuid: str
    memory_mib: int
    index: int = 0
    """NVML's number now; UUIDs stay, numbers do not."""

    @classmethod
    def told(cls, share: pb.GpuShare) -> GPUShare:
        """From the agent's message."""
        return cls(uuid=share.uuid, memory_mib=share.memory_mib, index=share.index)


@dataclass(frozen=True)
class QueuePlace:
    """The place of a lease that waits."""

    position: int
    """From 1; 0 where it is told no place."""
    reason: str
    """Its name."""
    message: str
    """A sentence."""
    estimate_seconds: float | None
    """When it will probably be granted: no promise. Nothing where nothing tells."""
    estimate_basis: str
    """What that rests on: `Notice` (those who make room were told to be gone by then), `Protection` (those who can make room are protected until shortly
    before) or `Queue` (how fast the queue has moved lately)."""

    @classmethod
    def told(cls, queue: pb.Queue) -> QueuePlace:
        """From the agent's message."""
        return cls(
            position=queue.position,
            reason=queue.reason,
            message=queue.message,
            estimate_seconds=queue.estimate_ms / 1000 if queue.HasField("estimate_ms") else None,
            estimate_basis=queue.estimate_basis,
        )


@dataclass(frozen=True)
class DryRun:
    """What would come of a request now; nothing changed by it."""

    outlook: Outlook
    gpus: tuple[GPUShare, ...]
    """Where, as far as it is known."""
    victims: tuple[str, ...]
    """Who would be asked to give way."""
    reason: str
    message: str

    @classmethod
    def told(cls, answer: pb.DryRunResponse) -> DryRun:
        """From the agent's message."""
        outlooks: dict[int, Outlook] = {
            pb.NOW: Outlook.NOW,
            pb.AFTER_PREEMPTION: Outlook.AFTER_PREEMPTION,
            pb.NEVER: Outlook.NEVER,
        }
        return cls(
            outlook=outlooks.get(answer.outlook, Outlook.WAITS),
            gpus=tuple(map(GPUShare.told, answer.gpus)),
            victims=tuple(answer.victims),
            reason=answer.reason,
            message=answer.message,
        )


_HEALTH: dict[int, str] = {pb.HEALTHY: "healthy", pb.DEGRADED: "degraded", pb.LOST: "lost"}


@dataclass(frozen=True)
class GPUStatus:
    """A GPU as the driver and the ledger see it."""

    uuid: str
    index: int
    model: str
    total_mib: int
    leasable_mib: int
    leased_mib: int
    foreign_mib: int
    """In use by whom no lease explains."""
    used_mib: int
    health: str
    """`healthy`, `degraded` or `lost`."""
    health_reason: str

    @classmethod
    def told(cls, gpu: pb.Gpu) -> GPUStatus:
        """From the agent's message."""
        return cls(
            uuid=gpu.uuid,
            index=gpu.index,
            model=gpu.model,
            total_mib=gpu.total_mib,
            leasable_mib=gpu.leasable_mib,
            leased_mib=gpu.leased_mib,
            foreign_mib=gpu.foreign_mib,
            used_mib=gpu.used_mib,
            health=_HEALTH.get(gpu.health, "unknown"),
            health_reason=gpu.health_reason,
        )


@dataclass(frozen=True)
class RAMStatus:
    """The host's RAM."""

    total_mib: int
    available_mib: int
    leasable_mib: int
    leased_mib: int


@dataclass(frozen=True)
class LeaseStatus:
    """A lease as anyone on the node may see it."""

    id: str
    phase: Phase
    priority: Priority
    gpus: tuple[GPUShare, ...]
    ram_mib: int
    reason: str
    queue: QueuePlace | None
    holder: str
    """What its process runs, or its pod."""
    label: str
    """What its holder wishes to be shown; proves nothing."""
    pid: int
    """0 for a pod's."""

    @classmethod
    def told(cls, lease: pb.LeaseView) -> LeaseStatus:
        """From the agent's message."""
        return cls(
            id=lease.lease,
            phase=Phase.told(lease.phase),
            priority=priority_of(lease),
            gpus=tuple(map(GPUShare.told, lease.gpus)),
            ram_mib=lease.ram_mib,
            reason=lease.reason,
            queue=QueuePlace.told(lease.queue) if lease.HasField("queue") else None,
            holder=lease.holder.name,
            label=lease.holder.label,
            pid=lease.holder.pid,
        )


def priority_of(lease: pb.LeaseView) -> Priority:
    """Its class."""
    return Priority.of(getattr(lease, "class") or "normal")


@dataclass(frozen=True)
class NodeStatus:
    """The node: GPUs, RAM, leases and their queue."""

    node: str
    gpus: tuple[GPUStatus, ...]
    ram: RAMStatus
    leases: tuple[LeaseStatus, ...]
    hold: str
    """Why nothing is granted for now; empty otherwise."""
    gpus_unread: bool
    """Whether the driver has not told yet which GPUs there are: whoever asks for one waits."""

    @classmethod
    def told(cls, status: pb.StatusResponse) -> NodeStatus:
        """From the agent's message."""
        ram = status.ram
        return cls(
            node=status.node,
            gpus=tuple(map(GPUStatus.told, status.gpus.gpus)),
            ram=RAMStatus(ram.total_mib, ram.available_mib, ram.leasable_mib, ram.leased_mib),
            leases=tuple(map(LeaseStatus.told, status.leases)),
            hold=status.gpus.hold,
            gpus_unread=status.gpus.unread,
        )
