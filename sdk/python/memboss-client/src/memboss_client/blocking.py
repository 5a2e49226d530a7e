"""The synchronous face: one event loop in a thread of its own, on which the asyncio classes do the work, and what the synchronous bosses and leases have in
common. It adds no behaviour but one: a block cannot be cancelled from outside, so a lease that was lost is told when the block ends, or by `check()`."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Generic, TypeVar

from memboss_client.boss import Boss
from memboss_client.errors import LeaseLost, MembossError
from memboss_client.lease import Lease, Notice
from memboss_client.priority import Priority
from memboss_client.words import NodeStatus, Phase

_log = logging.getLogger("memboss")

T = TypeVar("T")
A = TypeVar("A", bound=Boss)
L = TypeVar("L", bound=Lease)
S = TypeVar("S", bound="BlockingBoss[Any]")
H = TypeVar("H", bound="BlockingLease[Any]")


class _Worker:
    """The loop and its thread. It ends with the process."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="memboss", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("the synchronous classes cannot be used on memboss' own thread: use the asyncio ones")
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        except BaseException:
            # Whoever interrupts waiting (Ctrl-C) must not leave a request behind.
            future.cancel()
            raise


_worker: _Worker | None = None
_starting = threading.Lock()
_parents: list[_Worker | None] = []


def run(work: Coroutine[Any, Any, T]) -> T:
    """Does it on the loop's thread, and waits for it."""
    global _worker
    with _starting:
        if _worker is None:
            _worker = _Worker()
        worker = _worker
    return worker.run(work)


def _after_fork() -> None:
    """A child has no copy of the thread: it begins with a loop of its own, and keeps its hands off the parent's."""
    global _worker, _starting
    _parents.append(_worker)
    _worker, _starting = None, threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def on_own_thread(
    callback: Callable[[Any], None] | None, wrap: Callable[[Any], Any]
) -> Callable[[Any], Awaitable[None]] | None:
    """The callback, called on a thread of its own: there it may use the synchronous classes."""
    if callback is None:
        return None

    async def call(told: Any) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def settle(error: BaseException | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        def work() -> None:
            error: BaseException | None = None
            try:
                callback(wrap(told))
            except Exception as failure:
                error = failure
            loop.call_soon_threadsafe(settle, error)

        threading.Thread(target=work, name="memboss callback", daemon=True).start()
        await done

    return call


class BlockingLease(Generic[L]):
    """A lease. It is held until it is released, its process ends, or it is taken away with notice; `with` releases it."""

    def __init__(self, lease: L) -> None:
        self._lease = lease

    @property
    def id(self) -> str:
        """Its name."""
        return self._lease.id

    @property
    def priority(self) -> Priority:
        """Its class, which in a pod is at most the pod's own."""
        return self._lease.priority

    @property
    def phase(self) -> Phase:
        """Where it is in its life."""
        return self._lease.phase

    @property
    def ram_mib(self) -> int:
        """Host RAM that it holds, in MiB."""
        return self._lease.ram_mib

    @property
    def token(self) -> tuple[int, int]:
        """It grows with each grant on a node: a later one wins."""
        return self._lease.token

    @property
    def notice(self) -> Notice[Any] | None:
        """The notice that stands, if one does."""
        notice = self._lease.notice
        return None if notice is None else notice._of(self)

    @property
    def lost(self) -> MembossError | None:
        """Why it has ended, if that was not by its holder."""
        return self._lease.lost

    def check(self) -> None:
        """Raises `Preempted` when a notice stands, `LeaseLost` when it has ended otherwise than by its holder: for the loop of a program."""
        self._lease.check()

    def why(self) -> list[str]:
        """Why it is where it is, in sentences."""
        return run(self._lease.why())

    def wait_ended(self) -> MembossError | None:
        """Waits until it is over; why, if that was not by its holder."""
        return run(self._lease.wait_ended())

    def release(self) -> None:
        """Gives all back. What the process still uses on a GPU then counts as foreign. Doing it twice is harmless."""
        if self._lease._holding.connection.is_ours:
            run(self._lease.release())

    def __enter__(self: H) -> H:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lease = self._lease
        if not lease._holding.connection.is_ours:
            return
        run(lease.release())
        if kind is None and isinstance(lease.lost, LeaseLost) and lease._on_lost is None:
            raise lease.lost

    def __repr__(self) -> str:
        return repr(self._lease)


class BlockingBoss(Generic[A]):
    """A connection to the node's agent."""

    def __init__(self, boss: A) -> None:
        self._boss = boss

    def connect(self: S) -> S:
        """Connects to the agent. `AgentUnavailable` if none listens. Doing it twice is harmless."""
        run(self._boss.connect())
        return self

    def close(self) -> None:
        """Gives back what is still held, and ends the connection. In a forked child it does nothing."""
        connection = self._boss._connection
        if connection is not None and connection.is_ours:
            run(self._boss.close())

    def status(self) -> NodeStatus:
        """The node as it stands: GPUs, RAM, leases and their queue."""
        return run(self._boss.status())

    def __enter__(self: S) -> S:
        return self.connect()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def granted(acquiring: Awaitable[L]) -> L:
    """What it comes to."""
    return await acquiring
