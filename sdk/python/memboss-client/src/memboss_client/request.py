"""What is asked for, checked before it is sent, in the agent's words. It sends nothing."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from memboss_client import agent_pb2 as pb
from memboss_client.errors import InvalidRequest
from memboss_client.priority import Priority


@dataclass(frozen=True)
class Request:
    """A request for memory of GPUs, of the host, or both in one step."""

    slots: tuple[pb.SlotRequest, ...] = ()
    ram_mib: int = 0
    priority: Priority | str = Priority.NORMAL
    timeout: float | None = None
    """Seconds to wait at most; 0: not to wait at all; nothing: as long as it takes."""
    models: Sequence[str] = ()
    uuids: Sequence[str] = ()
    spread: bool = False
    can_shrink: bool = False
    can_offload: bool = False
    notice: float | None = None
    protection: float | None = None
    label: str = ""

    def message(self) -> pb.AcquireRequest:
        """In the agent's words, under a name of its own: asked twice, it is one lease. `InvalidRequest` for what makes no sense."""
        message = pb.AcquireRequest(
            request_id=f"py-{uuid.uuid4().hex}",
            slots=self.slots,
            ram_mib=amount("ram_mb", self.ram_mib) if self.ram_mib else 0,
            timeout_ms=0 if self.timeout is None else milliseconds("timeout", self.timeout),
            no_wait=self.timeout == 0,
            models=names("models", self.models),
            uuids=names("uuids", self.uuids),
            spread=self.spread,
            can_shrink=self.can_shrink,
            can_offload=self.can_offload,
            notice_ms=milliseconds("notice", self.notice or 0),
            protection_ms=milliseconds("protection", self.protection or 0),
            label=text("label", self.label) or default_label(),
        )
        try:
            setattr(message, "class", Priority.of(self.priority).value)
        except ValueError as error:
            raise InvalidRequest(str(error), "priority") from None
        return message


def default_label() -> str:
    """The program's name."""
    return os.path.basename(sys.argv[0] if sys.argv and sys.argv[0] not in ("", "-c") else "python")


def text(name: str, said: object) -> str:
    """Words."""
    if not isinstance(said, str):
        raise InvalidRequest(f"{name}={said!r} is no text", name, f"write {name}={str(said)!r}")
    return said


def names(name: str, several: Sequence[str]) -> list[str]:
    """Some names; one text would be taken for as many names as it has letters."""
    if isinstance(several, str):
        raise InvalidRequest(f"{name}={several!r} is no list", name, f"write {name}=[{several!r}]")
    return list(several)


def amount(name: str, mib: object) -> int:
    """A whole number of MiB above nothing."""
    if isinstance(mib, bool) or not isinstance(mib, int) or mib <= 0:
        raise InvalidRequest(
            f"{name}={mib!r} is no amount", name, "give it in MiB, a whole number above 0, such as 8000"
        )
    return mib


def remaining(name: str, mib: object) -> int:
    """A whole number of MiB, also none."""
    return 0 if mib == 0 and not isinstance(mib, bool) else amount(name, mib)


def milliseconds(name: str, seconds: float) -> int:
    """At least one, for any time above none."""
    if not 0 <= seconds < 1e12:
        raise InvalidRequest(f"{name}={seconds!r} is no span of time", name, "give it in seconds, 0 or more")
    return max(1, round(seconds * 1000)) if seconds > 0 else 0


def slots_of(vram_mb: object, vram_percent: int | None, gpus: int) -> tuple[pb.SlotRequest, ...]:
    """One slot for each GPU."""
    if isinstance(gpus, bool) or not isinstance(gpus, int) or gpus < 1:
        raise InvalidRequest(f"gpus={gpus!r} is no number of GPUs", "gpus", "give how many are needed, at least 1")
    if vram_percent is not None:
        if vram_mb is not None:
            raise InvalidRequest("vram_mb and vram_percent were both given", "vram_percent", "give one of them")
        if not isinstance(vram_percent, int) or not 1 <= vram_percent <= 100:
            raise InvalidRequest(f"vram_percent={vram_percent!r} is no share", "vram_percent", "give 1 to 100")
        return tuple(pb.SlotRequest(percent=vram_percent) for _ in range(gpus))
    if vram_mb is None:
        raise InvalidRequest("nothing was asked for", "vram_mb", "give vram_mb or vram_percent")
    if not isinstance(vram_mb, (list, tuple)):
        return tuple(pb.SlotRequest(memory_mib=amount("vram_mb", vram_mb)) for _ in range(gpus))
    if gpus not in (1, len(vram_mb)) or not vram_mb:
        advice = "give one amount for all GPUs, or one for each of them"
        raise InvalidRequest(f"vram_mb has {len(vram_mb)} amounts for gpus={gpus}", "vram_mb", advice)
    return tuple(pb.SlotRequest(memory_mib=amount("vram_mb", one)) for one in vram_mb)
