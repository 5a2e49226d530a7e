"""One lease, from the request to its end: the stream that keeps it alive, taken up again when it breaks, and the calls that change it. It tells a watcher
what happens; what to do about it is the watcher's.

The stream is the heartbeat. When it breaks, the agent waits for a grace time; the secret of the first event takes the lease up again, also from an agent
that was started anew. A lease that cannot be taken up is lost."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from typing import Protocol

from memboss_client import agent_pb2 as pb
from memboss_client.connection import Connection
from memboss_client.errors import (
    AgentUnavailable,
    LeaseLost,
    LeaseTimeout,
    MembossError,
    NoRoom,
    Preempted,
    RequestRefused,
)
from memboss_client.words import Phase, QueuePlace

_log = logging.getLogger("memboss")

NEW_WITHIN = 5.0
"""Seconds in which a request that never arrived is sent again: an agent that is being updated is back by then."""

_AGENT_ANSWERS_WITHIN = 10.0
"""Seconds after the caller's timeout by which the agent must have said that it is over."""

_GIVEN_BACK_WITHIN = 5.0
"""Seconds for giving a lease back; what is not given back by then ends with its connection."""

_GIVEN_WITHIN = 300.0
"""Seconds for giving a part back, which may have to be seen free first; no notice is longer."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
"""Seconds between two attempts to take a lease up again."""


class Watcher(Protocol):
    """Who hears what becomes of a lease, on the event loop. None of it may block."""

    def _queued(self, place: QueuePlace) -> None:
        """It waits, there."""

    def _noticed(self, notice: pb.Notice) -> None:
        """Its memory is needed by another."""

    def _withdrawn(self) -> None:
        """It is not, any more."""

    def _ended(self, error: MembossError | None) -> None:
        """It is over; without an error its holder gave it back."""


class Holding:
    """A lease, or the wish for one."""

    def __init__(self, connection: Connection, request: pb.AcquireRequest, watcher: Watcher, resume_for: float) -> None:
        self.connection = connection
        self.view = pb.LeaseView()
        self._request = request
        self._watcher = watcher
        self._resume_for = resume_for
        self._secret = ""
        self._notice = ""
        self._waits_because = ""
        self._giving_back = False
        loop = asyncio.get_running_loop()
        self._known = asyncio.Event()
        self._granted: asyncio.Future[None] = loop.create_future()
        self._over: asyncio.Future[MembossError | None] = loop.create_future()
        self._listening: asyncio.Task[None] | None = None
        self._giving: asyncio.Task[None] | None = None
        self._heard = False

    @property
    def where(self) -> str:
        """Names it in errors."""
        return f"lease {self.view.lease}" if self.view.lease else str(self.connection.path)

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._over.done()

    async def acquire(self) -> None:
        """Asks, and waits for the grant. However that ends but by a grant, nothing is held or waited for afterwards."""
        self.connection.check()
        self._listening = asyncio.create_task(self._listen(), name="memboss lease")
        patience = None
        if self._request.timeout_ms or self._request.no_wait:
            patience = self._request.timeout_ms / 1000 + _AGENT_ANSWERS_WITHIN
        try:
            await asyncio.wait({self._granted}, timeout=patience)
        except BaseException:
            await self.release()
            raise
        if not self._granted.done():
            await self.release()
            raise LeaseTimeout("the agent did not answer in time", self.where, "look at the agent's log")
        self._granted.result()

    async def release(self) -> None:
        """Gives all back. Where the agent cannot be reached it ends by itself, after the agent's grace time."""
        if not self.connection.is_ours:
            return
        if not self.is_over and not self._giving_back:
            self._giving_back = True
            self._giving = asyncio.create_task(self._give_back(), name="memboss release")
        if self._giving is not None:
            # Whoever is cancelled meanwhile must not leave it half done; whoever comes second waits for the first.
            await asyncio.shield(self._giving)

    async def resize(self, memory_mib: Sequence[int] | None, ram_mib: int | None) -> None:
        """Gives a part back: nothing may become more."""
        self._check()
        request = pb.ResizeRequest(lease=self.view.lease, memory_mib=memory_mib or [], notice_id=self._notice)
        if ram_mib is not None:
            request.ram_mib = ram_mib
        self._holds(await self.connection.ask(self.connection.calls.resize, request, self.where, within=_GIVEN_WITHIN))

    async def move(self, memory_mib: Sequence[int], more_ram_mib: int) -> None:
        """Moves a part of the GPUs' into host RAM."""
        self._check()
        request = pb.MoveRequest(
            lease=self.view.lease, memory_mib=memory_mib, more_ram_mib=more_ram_mib, notice_id=self._notice
        )
        self._holds(await self.connection.ask(self.connection.calls.move, request, self.where, within=_GIVEN_WITHIN))

    async def explain(self) -> list[str]:
        """Why it is where it is."""
        request = pb.ExplainRequest(lease=self.view.lease)
        return list((await self.connection.ask(self.connection.calls.explain, request, self.where)).lines)

    async def wait_over(self) -> MembossError | None:
        """Waits for its end."""
        return await asyncio.shield(self._over)

    def _check(self) -> None:
        self.connection.check()
        if self._over.done():
            raise self._over.result() or LeaseLost("it was given back", self.where, "acquire again")

    async def _give_back(self) -> None:
        try:
            if not self.view.lease and self._listening and not self._listening.done():
                await asyncio.wait_for(self._known.wait(), _GIVEN_BACK_WITHIN)
            if self.view.lease and not self.is_over:
                request = pb.LeaseRequest(lease=self.view.lease)
                calls = self.connection.calls
                await self.connection.ask(calls.release, request, self.where, within=_GIVEN_BACK_WITHIN)
        except LeaseLost:
            pass
        except (MembossError, asyncio.TimeoutError) as error:
            _log.warning("could not give back %s; the agent ends it after its grace time: %s", self.where, error)
        finally:
            self._end(None)

    async def _listen(self) -> None:
        try:
            await self._keep()
        except Exception as error:
            # Nobody would learn of it otherwise, and the lease would seem to be held.
            _log.exception("listening to %s failed", self.where)
            self._end(
                LeaseLost(f"listening to it failed ({error!r})", self.where, "this is a mistake in memboss-client")
            )

    async def _keep(self) -> None:
        broke_at: float | None = None
        pause = _FIRST_PAUSE
        while not self.is_over:
            try:
                await self._hear()
                broke: MembossError = AgentUnavailable("the agent ended the stream", self.where, "is it ending?")
            except AgentUnavailable as error:
                broke = error
            except LeaseLost as error:
                if self._granted.done():
                    self._end(error)
                    return
                # It only waited, and the agent forgot it meanwhile: it is asked for again.
                broke, self._secret = error, ""
            except RequestRefused as error:
                # An agent that has just begun may not have its ledger together yet.
                if not self._secret and broke_at is None:
                    self._end(error)
                    return
                broke = error
            except NoRoom as error:
                # Of what was granted: only asking was too much just now.
                if not self._secret:
                    self._end(error)
                    return
                broke = error
            except MembossError as error:
                held = self._granted.done() and self._granted.exception() is None
                self._end(LeaseLost(error.what, self.where, "stop using its memory; acquire again") if held else error)
                return
            if self._heard:
                broke_at, pause, self._heard = None, _FIRST_PAUSE, False
            broke_at = time.monotonic() if broke_at is None else broke_at
            if not self._may_go_on(time.monotonic() - broke_at, broke):
                return
            await asyncio.sleep(pause * random.uniform(0.5, 1))
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _may_go_on(self, silence: float, broke: MembossError) -> bool:
        """Whether another attempt makes sense after so many seconds."""
        if self.is_over:
            return False
        if not self._secret:
            patience = min(NEW_WITHIN, self._request.timeout_ms / 1000 or NEW_WITHIN)
            if silence >= patience or self._giving_back or self._request.no_wait:
                self._end(broke)
        elif silence >= self._resume_for:
            why = f"the agent has been out of reach for {self._resume_for:g} s ({broke.what})"
            self._end(LeaseLost(why, self.where, "stop using its memory; acquire again when the agent is back"))
        return not self.is_over

    async def _hear(self) -> None:
        """Listens until the stream breaks or the lease is over."""
        calls, connection = self.connection.calls, self.connection
        if self._secret:
            again = pb.ResumeRequest(lease=self.view.lease, secret=self._secret)
            stream = connection.listen(calls.resume, again, self.where)
            async with stream as events:
                async for event in events:
                    self._take(event)
        else:
            async with connection.listen(calls.acquire, self._request) as events:
                async for event in events:
                    self._take(event)

    def _take(self, event: pb.LeaseEvent) -> None:
        if self.is_over:
            return
        self._heard = True
        self._secret = event.secret or self._secret
        self.view.CopyFrom(event.lease)
        self._known.set()
        phase = Phase.told(event.lease.phase)
        if phase is Phase.ENDED or (phase is Phase.STOPPING and not self._giving_back):
            self._end(self._why_over())
        elif phase is Phase.WAITING and not self._granted.done():
            self._waits_because = event.queue.message
            self._watcher._queued(QueuePlace.told(event.queue))
        elif phase in (Phase.ACTIVE, Phase.REVOKING):
            if not self._granted.done():
                self._granted.set_result(None)
            self._take_notice(event.lease.notice if phase is Phase.REVOKING else None)

    def _holds(self, answer: pb.LeaseEvent) -> None:
        """What it holds now. The rest is the stream's to tell: an answer may overtake it."""
        del self.view.gpus[:]
        self.view.gpus.extend(answer.lease.gpus)
        self.view.ram_mib = answer.lease.ram_mib

    def _take_notice(self, notice: pb.Notice | None) -> None:
        before, self._notice = self._notice, notice.id if notice else ""
        if notice is None:
            if before:
                self._watcher._withdrawn()
        elif notice.id != before:
            self._watcher._noticed(notice)

    def _why_over(self) -> MembossError | None:
        if self._giving_back:
            return None
        reason = self.view.reason or "Ended"
        if not self._granted.done():
            if reason == "Expired":
                advice = "wait longer, ask for less, or ask in a higher class"
                because = f" ({self._waits_because})" if self._waits_because else ""
                return LeaseTimeout(f"there was no room within the timeout{because}", self.where, advice)
            return LeaseLost(f"it ended before it was granted ({reason})", self.where, "acquire again")
        if reason == "Preempted":
            return Preempted(
                "a higher class has taken its memory", self.where, "stop using it; acquire again to wait for room"
            )
        return LeaseLost(f"it has ended ({reason})", self.where, "stop using its memory; acquire again")

    def _end(self, error: MembossError | None) -> None:
        if self._over.done():
            return
        self._over.set_result(error)
        self._known.set()
        if not self._granted.done():
            self._granted.set_exception(error or LeaseLost("it was given back", self.where, "acquire again"))
            # Nobody need be waiting for it.
            self._granted.exception()
        if self._listening is not None and self._listening is not asyncio.current_task():
            self._listening.cancel()
        self._watcher._ended(error)
