"""`async with boss.acquire(...) as lease`, or `lease = await boss.acquire(...)`. In the first form the lease is given back however the block ends, and
the block is cancelled when the lease ends before it; in the second, both are the caller's. It knows no kind of lease."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import Generic, TypeVar

from memboss_client.errors import LeaseLost
from memboss_client.lease import Lease

L = TypeVar("L", bound=Lease)


class Acquisition(Generic[L]):
    """A lease that is about to be asked for."""

    def __init__(self, start: Callable[[], Awaitable[L]]) -> None:
        self._start = start
        self._lease: L | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelled_before = 0
        self._cut_short: LeaseLost | None = None

    def __await__(self) -> Generator[object, None, L]:
        return self._start().__await__()

    async def __aenter__(self) -> L:
        if self._lease is not None:
            raise RuntimeError("this acquisition was entered before: call acquire() again")
        self._lease = lease = await self._start()
        self._task = asyncio.current_task()
        if sys.version_info >= (3, 11) and self._task is not None:
            self._cancelled_before = self._task.cancelling()
        lease._body = self._cut
        cut = lease._cut_at_once()
        if cut is not None:
            lease._body = None
            await lease.release()
            raise cut
        return lease

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        lease = self._lease
        if lease is None or not lease._holding.connection.is_ours:
            # A forked child that leaves its parent's block ends nothing.
            return None
        lease._body = None
        # There is nothing left to give; that the lease is lost is still told.
        for giving_way in tuple(lease._giving_way):
            giving_way.cancel()
        cut_short = None
        try:
            await lease.release()
        finally:
            # Also where somebody cancels this very wait: our own cancellation is ours to take back.
            if self._cut_short is not None and not self._is_cancelled_too():
                cut_short = self._cut_short
        if cut_short is not None and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise cut_short from error
        return None

    def _cut(self, error: LeaseLost) -> None:
        if self._cut_short is None and self._task is not None:
            self._cut_short = error
            self._task.cancel(f"memboss: {error.what}")

    def _is_cancelled_too(self) -> bool:
        """Takes our own cancellation back; whether somebody else's is left."""
        if sys.version_info >= (3, 11) and self._task is not None:
            return self._task.uncancel() > self._cancelled_before
        return False
