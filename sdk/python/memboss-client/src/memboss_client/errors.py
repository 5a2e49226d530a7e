"""What can go wrong with a lease: one small family, the same in all packages. Each error says what was wrong, where, and what to do. Nothing here knows
the wire or the agent."""

from __future__ import annotations


class MembossError(Exception):
    """Any error of memboss. Its parts stand alone too: `what`, `where`, `advice`."""

    def __init__(self, what: str, where: str = "", advice: str = "") -> None:
        super().__init__(what, where, advice)
        self.what = what
        """What was wrong."""
        self.where = where
        """The lease, or the socket."""
        self.advice = advice
        """What to do about it."""

    def __str__(self) -> str:
        place = f" [{self.where}]" if self.where else ""
        return f"{self.what}{place}" + (f": {self.advice}" if self.advice else "")


class AgentUnavailable(MembossError, ConnectionError):
    """Nobody answers at the agent's socket."""


class InvalidRequest(MembossError, ValueError):
    """What was asked makes no sense: nothing was changed."""


class RequestRefused(MembossError):
    """The agent does not do that now, or not for this caller: nothing was changed."""


class NoRoom(MembossError):
    """There is no room now, and the caller would not wait (`timeout=0`), or has as many leases as anybody may."""


class LeaseTimeout(MembossError, TimeoutError):
    """There was no room within the caller's timeout. Nothing is held."""


class LeaseLost(MembossError):
    """The lease has ended, and not by its holder: the memory may be another's from now on."""


class Preempted(LeaseLost):
    """The memory is needed by a higher class: give it back within the notice."""


class WrongProcess(MembossError, RuntimeError):
    """A forked child used what its parent has: a lease belongs to the process that asked for it."""
