"""One connection to the agent's socket. It turns what goes wrong into the family of `errors.py`, and makes a fork harmless; it knows no lease.

A forked child has a copy of the socket, and of the event loop's epoll, which is the same one as the parent's: a child that ends as programs do takes both
down, and its parent would hear no more. So in a child the copy of the socket is put out of the way at once, and the loop gets an epoll of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import selectors
import socket
import weakref
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import Message
from grpclib.client import Channel, UnaryStreamMethod, UnaryUnaryMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from grpclib.protocol import H2Protocol

from memboss_client.errors import (
    AgentUnavailable,
    InvalidRequest,
    LeaseLost,
    LeaseTimeout,
    MembossError,
    NoRoom,
    RequestRefused,
    WrongProcess,
)
from memboss_client.wire import Calls

_Asked = TypeVar("_Asked", bound=Message)
_Told = TypeVar("_Told", bound=Message)

ANSWER_WITHIN = 30.0
"""Seconds that the agent has for an answer that needs no waiting."""


class _Channel(Channel):
    """A channel whose socket is known, so that a forked child can put its copy away."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._pid = os.getpid()
        self._where = path
        self.socket: socket.socket | None = None

    async def _create_connection(self) -> H2Protocol:
        connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connecting.setblocking(False)
        try:
            await self._loop.sock_connect(connecting, str(self._where))
            _, protocol = await self._loop.create_unix_connection(self._protocol_factory, sock=connecting)
        except BaseException:
            connecting.close()
            raise
        self.socket = connecting
        return protocol

    def __del__(self) -> None:
        # What is closed here must not be closed by a child as well.
        if os.getpid() == self._pid and not self._loop.is_closed():
            self.close()


class Connection:
    """A connection of this process, on one event loop."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pid = os.getpid()
        self._loop = asyncio.get_running_loop()
        self._channel = _Channel(path)
        self.calls = Calls(self._channel)
        _open.add(self)

    @property
    def is_ours(self) -> bool:
        """Whether this process made it; not in a forked child."""
        return self._pid == os.getpid()

    def check_process(self) -> None:
        """`WrongProcess` in a forked child."""
        if not self.is_ours:
            advice = "a forked child has no part in its parent's leases; let it make a connection of its own"
            raise WrongProcess("this connection is the parent process's", str(self.path), advice)

    def check(self) -> None:
        """`WrongProcess` in a forked child, `RuntimeError` on another event loop."""
        self.check_process()
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("a boss serves the event loop that it was connected on: make another one for this loop")

    async def open(self) -> None:
        """Connects. `AgentUnavailable` if nobody listens."""
        self.check()
        try:
            await self._channel.__connect__()
        except OSError as error:
            raise self.unavailable(error) from error

    def close(self) -> None:
        """Ends it."""
        if self.is_ours:
            self._channel.close()
            _open.discard(self)

    async def ask(
        self, call: UnaryUnaryMethod[_Asked, _Told], message: _Asked, where: str = "", within: float = ANSWER_WITHIN
    ) -> _Told:
        """One question, one answer. Any of `errors.py`."""
        self.check()
        with self.translating(where):
            return await call(message, timeout=within)

    @contextlib.asynccontextmanager
    async def listen(
        self, call: UnaryStreamMethod[_Asked, _Told], message: _Asked, where: str = ""
    ) -> AsyncIterator[AsyncIterator[_Told]]:
        """One question, many answers, as long as the block lasts. Any of `errors.py`."""
        self.check()
        with self.translating(where):
            async with call.open() as stream:
                await stream.send_message(message, end=True)
                yield stream

    @contextlib.contextmanager
    def translating(self, where: str) -> Iterator[None]:
        """What goes wrong in the block, in the words of `errors.py`."""
        try:
            yield
        except GRPCError as error:
            raise _refusal(error, where or str(self.path)) from error
        except (OSError, asyncio.TimeoutError, StreamTerminatedError, ProtocolError) as error:
            if isinstance(error, MembossError):
                raise
            raise self.unavailable(error) from error

    def unavailable(self, error: BaseException) -> AgentUnavailable:
        """Nobody answers."""
        reason = str(error) or type(error).__name__
        advice = "is memboss-agent running, and may this user open its socket?"
        return AgentUnavailable(f"the agent does not answer ({reason})", str(self.path), advice)

    def _put_away(self) -> None:
        """In a forked child: the copy of the socket becomes a descriptor of nothing, which may be closed without harm."""
        connected = self._channel.socket
        if connected is None or connected.fileno() < 0:
            return
        with contextlib.suppress(OSError):
            nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            os.dup2(nothing, connected.fileno(), inheritable=False)
            os.close(nothing)


_open: weakref.WeakSet[Connection] = weakref.WeakSet()


def _after_fork() -> None:
    for connection in list(_open):
        connection._put_away()
        _part_selectors(connection._loop)
        # Its parts would otherwise be taken down here, which is the parent's to do.
        _parents.append(connection)
    _open.clear()


def _part_selectors(loop: asyncio.AbstractEventLoop) -> None:
    """In a forked child: the loop's descriptor becomes an epoll of the child's own, with the same entries. Python does not do it, and there is no public
    way to a loop's selector; a loop of another make is left as it is."""
    selector = getattr(loop, "_selector", None)
    if not isinstance(selector, selectors.EpollSelector):
        return
    with contextlib.suppress(OSError, RuntimeError), select.epoll() as own:
        for key in (selector.get_map() or {}).values():
            reads = select.EPOLLIN if key.events & selectors.EVENT_READ else 0
            writes = select.EPOLLOUT if key.events & selectors.EVENT_WRITE else 0
            # What is no socket any more cannot be waited for.
            with contextlib.suppress(OSError):
                own.register(key.fd, reads | writes)
        os.dup2(own.fileno(), selector.fileno(), inheritable=False)


_parents: list[Connection] = []

os.register_at_fork(after_in_child=_after_fork)

_ADVICE: dict[Status, tuple[type[MembossError], str]] = {
    Status.INVALID_ARGUMENT: (InvalidRequest, "change the request"),
    Status.RESOURCE_EXHAUSTED: (NoRoom, "ask for less, wait (timeout=), or ask in a higher class"),
    Status.DEADLINE_EXCEEDED: (LeaseTimeout, "wait longer, ask for less, or ask in a higher class"),
    Status.NOT_FOUND: (LeaseLost, "stop using its memory, and acquire again"),
    Status.PERMISSION_DENIED: (RequestRefused, "a lease is its owner's alone"),
    Status.UNAVAILABLE: (AgentUnavailable, "the agent begins or ends: ask again in a moment"),
    Status.UNIMPLEMENTED: (RequestRefused, "the agent is older than this package: update it"),
}


def _refusal(error: GRPCError, where: str) -> MembossError:
    kind, advice = _ADVICE.get(error.status, (RequestRefused, "see why with `memboss lease why`"))
    return kind(error.message or error.status.name, where, advice)
