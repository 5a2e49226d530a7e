"""Host RAM: leases of it (`RAMBoss`), how hard pressed it is (`MemoryAnalyzer`), who uses it (`ProcessMonitor`), and dropping page cache that nobody needs
(`CacheManager`). Leases need the node's agent; the rest works on any Linux machine. Leases without asyncio: `memboss_ram.sync`.

How a lease is kept is in memboss-client; the errors, the priorities and what the agent tells are the same objects in all of memboss' packages."""

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
from memboss_ram.analyzer import MemoryAnalysis, MemoryAnalyzer
from memboss_ram.boss import RAMBoss
from memboss_ram.clean import CacheManager, CleanedFile, CleanReport, Kept, Mode
from memboss_ram.lease import RAMLease
from memboss_ram.meminfo import Stalls
from memboss_ram.pressure import Cause, Pressure, Sign
from memboss_ram.processes import ProcessGrowth, ProcessMemory, ProcessMonitor

__all__ = [
    "AgentUnavailable",
    "CacheManager",
    "Cause",
    "CleanReport",
    "CleanedFile",
    "DryRun",
    "GPUShare",
    "GPUStatus",
    "InvalidRequest",
    "Kept",
    "LeaseLost",
    "LeaseStatus",
    "LeaseTimeout",
    "MembossError",
    "MemoryAnalysis",
    "MemoryAnalyzer",
    "Mode",
    "NoRoom",
    "NodeStatus",
    "Notice",
    "Outlook",
    "Phase",
    "Preempted",
    "Pressure",
    "Priority",
    "ProcessGrowth",
    "ProcessMemory",
    "ProcessMonitor",
    "QueuePlace",
    "RAMBoss",
    "RAMLease",
    "RAMStatus",
    "RequestRefused",
    "Sign",
    "Stalls",
    "WrongProcess",
]
