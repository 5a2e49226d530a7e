"""What a `GPUBoss` and a `RAMBoss` have in common: the connection, and the leases that were asked for by it. What is leased is theirs to say."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TypeVar

from memboss_client import agent_pb2 as pb
from memboss_client.acquisition import Acquisition
from memboss_client.connection import Connection
from memboss_client.lease import Lease
from memboss_client.request import Request
from memboss_client.socket_path import find_socket
from memboss_client.words import DryRun, NodeStatus

L = TypeVar("L", bound=Lease)
B = TypeVar("B", bound="Boss")

RESUME_FOR = 30.0
"""Seconds for which a lease is held on to while the agent is out of reach."""


class Boss:
    """A connection to the node's agent."""

    def __init__(self, socket: str | os.PathLike[str] | None = None, *, resume_for: float = RESUME_FOR) -> None:
        self._socket, self._resume_for = socket, resume_for
        self._connection: Connection | None = None
        self._closing: tuple[asyncio.Task[None], int] | None = None
        """What gives back, and the process that it runs in."""
        self._leases: set[Lease] = set()

    async def connect(self: B) -> B:
        """Connects to the agent. `AgentUnavailable` if none listens. Doing it twice is harmless."""
        await self._connected()
        return self

    async def close(self) -> None:
        """Gives back what is still held, and ends the connection. In a forked child it does nothing."""
        connection, self._connection = self._connection, None
        if connection is not None and connection.is_ours:
            closing = asyncio.create_task(self._give_back_all(connection), name="memboss close")
            self._closing = (closing, os.getpid())
        # Whoever is cancelled meanwhile leaves no lease behind; whoever comes second waits for the first. A child has only a copy of what its parent runs.
        if self._closing is not None and self._closing[1] == os.getpid() and not self._closing[0].done():
            await asyncio.shield(self._closing[0])

    async def _give_back_all(self, connection: Connection) -> None:
        try:
            await asyncio.gather(*(lease.release() for lease in tuple(self._leases)))
        finally:
            connection.close()

    async def __aenter__(self: B) -> B:
        return await self.connect()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def status(self) -> NodeStatus:
        """The node as it stands: GPUs, RAM, leases and their queue."""
        connection = await self._connected()
        return NodeStatus.told(await connection.ask(connection.calls.status, pb.StatusRequest()))

    async def _dry_run(self, request: Request) -> DryRun:
        message = request.message()
        connection = await self._connected()
        return DryRun.told(await connection.ask(connection.calls.dry_run, message))

    async def _connected(self) -> Connection:
        connection = self._connection
        if connection is None:
            # Whoever comes meanwhile finds it, and connects by it.
            self._connection = connection = Connection(find_socket(self._socket))
            try:
                await connection.open()
            except BaseException:
                self._connection = None
                connection.close()
                raise
        connection.check()
        return connection

    def _acquisition(self, make: Callable[[Connection], L], begin: Callable[[L], Awaitable[None]]) -> Acquisition[L]:
        async def start() -> L:
            lease = make(await self._connected())
            self._leases.add(lease)
            lease._gone = lambda: self._leases.discard(lease)
            try:
                await begin(lease)
            except BaseException:
                self._leases.discard(lease)
                raise
            return lease

        return Acquisition(start)
