"""What every lease has, whatever it is of: its name, its notice, its end. What it holds is told by `GPULease` and `RAMLease`."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from memboss_client import agent_pb2 as pb
from memboss_client.connection import Connection
from memboss_client.errors import LeaseLost, MembossError, Preempted
from memboss_client.holding import Holding
from memboss_client.priority import Priority
from memboss_client.request import Request
from memboss_client.words import Phase, QueuePlace, priority_of

_log = logging.getLogger("memboss")

_telling: set[asyncio.Task[None]] = set()
"""Callbacks that go on when their lease is gone: the event loop itself does not hold on to them."""

L = TypeVar("L", covariant=True)
M = TypeVar("M")


class Notice(Generic[L]):
    """A notice of preemption: by when the memory must be free, and for whom."""

    def __init__(self, lease: L, told: pb.Notice) -> None:
        self._deadline = time.monotonic() + told.remaining_ms / 1000
        self.lease = lease
        """Whose notice it is: `shrink`, `offload` or `release` it."""
        self.id = told.id
        self.preemptor = told.preemptor
        """The lease for which the memory is needed."""
        self.preemptor_priority = Priority.of(told.preemptor_class) if told.preemptor_class else None
        """Its class; nothing where no lease needs it, as when a GPU is emptied."""
        self.reason = told.reason
        """Its name."""
        self.needed_mib = tuple(told.needed_mib)
        """What must become free, GPU by GPU of the lease, in MiB."""
        self.needed_ram_mib = int(told.needed_ram_mib)
        """What must become free of its RAM, in MiB."""

    def _needed(self) -> str:
        """All of it in words."""
        ram = f" and {self.needed_ram_mib} MiB of RAM" if self.needed_ram_mib else ""
        return f"{list(self.needed_mib)} MiB{ram}"

    @property
    def remaining_seconds(self) -> float:
        """How long it has still, at least 0."""
        return max(0.0, self._deadline - time.monotonic())

    def _of(self, lease: M) -> Notice[M]:
        """The same notice, told of another face of the lease."""
        twin = Notice.__new__(Notice)
        twin.__dict__.update(self.__dict__, lease=lease)
        return twin

    def __repr__(self) -> str:
        left = f"{self.remaining_seconds:.1f} s left"
        return f"<Notice {self.reason} for {self.preemptor or 'nobody'}: {self._needed()}, {left}>"


OnPreempt = Callable[[Notice[Any]], "Awaitable[None] | None"]
OnLost = Callable[[LeaseLost], "Awaitable[None] | None"]


class Lease:
    """A lease. It is held until it is released, its process ends, or it is taken away with notice."""

    def __init__(
        self,
        connection: Connection,
        request: Request,
        resume_for: float,
        on_preempt: Callable[[Notice[Any]], Awaitable[None] | None] | None = None,
        on_lost: OnLost | None = None,
        on_queue: Callable[[QueuePlace], None] | None = None,
    ) -> None:
        self._on_preempt, self._on_lost, self._on_queue = on_preempt, on_lost, on_queue
        self._giving_way: set[asyncio.Task[None]] = set()
        self._body: Callable[[LeaseLost], None] | None = None
        self._gone: Callable[[], None] | None = None
        self._notice: Notice[Any] | None = None
        self._error: MembossError | None = None
        self._holding = Holding(connection, request.message(), self, resume_for)

    @property
    def id(self) -> str:
        """Its name."""
        return self._holding.view.lease

    @property
    def priority(self) -> Priority:
        """Its class, which in a pod is at most the pod's own."""
        return priority_of(self._holding.view)

    @property
    def phase(self) -> Phase:
        """Where it is in its life."""
        return Phase.ENDED if self._holding.is_over else Phase.told(self._holding.view.phase)

    @property
    def ram_mib(self) -> int:
        """Host RAM that it holds, in MiB."""
        return self._holding.view.ram_mib

    @property
    def token(self) -> tuple[int, int]:
        """It grows with each grant on a node: a later one wins."""
        token = self._holding.view.token
        return token.epoch, token.sequence

    @property
    def notice(self) -> Notice[Any] | None:
        """The notice that stands, if one does."""
        return self._notice

    @property
    def lost(self) -> MembossError | None:
        """Why it has ended, if that was not by its holder."""
        return self._error

    def check(self) -> None:
        """Raises `Preempted` when a notice stands, `LeaseLost` when it has ended otherwise than by its holder: for loops that call nothing else here. What
        happens to a lease is heard on its event loop: a loop of your own on that thread has to give it a turn first, by `await asyncio.sleep(0)`; the
        synchronous face hears on a thread of its own."""
        self._holding.connection.check_process()
        if self._error is not None:
            raise self._error
        if self._notice is not None:
            raise _preempted(self._notice, self.id)

    async def why(self) -> list[str]:
        """Why it is where it is, in sentences."""
        return await self._holding.explain()

    async def wait_ended(self) -> MembossError | None:
        """Waits until it is over; why, if that was not by its holder."""
        return await self._holding.wait_over()

    async def release(self) -> None:
        """Gives all back. What the process still uses on a GPU then counts as foreign. Doing it twice is harmless."""
        await self._holding.release()

    async def _start(self) -> None:
        await self._holding.acquire()

    def _cut_at_once(self) -> LeaseLost | None:
        """Why a block would be cancelled before it began: its notice, or its end, came while the grant was on its way."""
        if isinstance(self._error, LeaseLost) and self._on_lost is None:
            return self._error
        if self._notice is not None and self._on_preempt is None:
            return _preempted(self._notice, self.id)
        return None

    # What the holding tells.

    def _queued(self, place: QueuePlace) -> None:
        if self._on_queue is None:
            return
        try:
            self._on_queue(place)
        except Exception:
            _log.exception("on_queue of lease %s failed", self.id)

    def _noticed(self, notice: pb.Notice) -> None:
        self._notice = told = self._make_notice(notice)
        if self._on_preempt is not None:
            failed = _preempted(told, self.id)
            self._call(self._on_preempt, told, lambda: self._end_body(failed), self._giving_way)
        else:
            self._end_body(_preempted(told, self.id))

    def _withdrawn(self) -> None:
        self._notice = None

    def _ended(self, error: MembossError | None) -> None:
        self._error, self._notice = error, None
        if self._gone is not None:
            self._gone()
        if isinstance(error, LeaseLost):
            if self._on_lost is not None:
                self._call(self._on_lost, error, lambda: None, _telling)
            else:
                self._end_body(error)

    def _make_notice(self, notice: pb.Notice) -> Notice[Any]:
        return Notice(self, notice)

    def _end_body(self, error: LeaseLost) -> None:
        if self._body is not None:
            self._body(error)

    def _call(
        self,
        callback: Callable[[Any], Awaitable[None] | None],
        told: object,
        failed: Callable[[], None],
        tasks: set[asyncio.Task[None]],
    ) -> None:
        """Calls what the user gave, without making the stream wait for it."""

        async def call() -> None:
            try:
                result = callback(told)
                if inspect.isawaitable(result):
                    await result
            except Exception:
                _log.exception("a callback of lease %s failed", self.id)
                failed()

        task = asyncio.create_task(call(), name="memboss callback")
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id or '(new)'} {self.phase}>"


def _preempted(notice: Notice[Any], lease: str) -> Preempted:
    whom = f"a lease of class {notice.preemptor_priority}" if notice.preemptor_priority else notice.reason
    advice = f"free {notice._needed()} in {notice.remaining_seconds:.1f} s, or give it back"
    return Preempted(f"its memory is needed for {whom}", f"lease {lease}", advice)
