"""The agent goes: killed and started again, away for good, without its ledger, or never there."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from conftest import Agent, soon, until

from memboss_client import holding
from memboss_ram import RAMBoss
from memboss_vram import AgentUnavailable, GPUBoss, LeaseLost, LeaseTimeout, Phase, QueuePlace


async def test_an_agent_that_was_killed_and_started_again_ends_no_lease_and_loses_no_waiter(agent: Agent) -> None:
    async with GPUBoss() as boss, boss.acquire(vram_mb=20000, gpus=2) as lease:
        before = (lease.id, lease.token, lease.gpus)
        places: asyncio.Queue[QueuePlace] = asyncio.Queue()
        waiting = asyncio.ensure_future(soon(boss.acquire(vram_mb=8000, on_queue=places.put_nowait)))
        await soon(places.get())
        agent.kill()
        with pytest.raises(AgentUnavailable, match=str(agent.socket)):
            await boss.status()
        await asyncio.to_thread(agent.start)
        # The waiter has been taken up again when it is told its place anew.
        await soon(places.get())
        status = await boss.status()
        assert len(status.leases) == 2 and (lease.id, lease.token, lease.gpus) == before
        await lease.shrink(10000)
        assert lease.phase is Phase.ACTIVE
        await (await waiting).release()


async def test_a_lease_that_the_new_agent_does_not_know_is_lost(agent: Agent) -> None:
    async with GPUBoss() as boss:
        with pytest.raises(LeaseLost, match="lease user-"):
            async with boss.acquire(vram_mb=8000):
                agent.kill()
                shutil.rmtree(agent.run_dir)
                await asyncio.to_thread(agent.start)
                await soon(asyncio.Event().wait())


async def test_an_agent_that_stays_away_loses_the_lease_after_a_time(agent: Agent) -> None:
    lost: asyncio.Future[LeaseLost] = asyncio.get_running_loop().create_future()
    async with GPUBoss(resume_for=0.2) as boss:
        async with boss.acquire(vram_mb=8000, on_lost=lost.set_result) as lease:
            agent.kill()
            error = await soon(lost)
            assert "out of reach" in str(error) and "acquire again" in str(error)
            assert lease.lost is error and await soon(lease.wait_ended()) is error
            with pytest.raises(LeaseLost):
                lease.check()
            with pytest.raises(LeaseLost):
                await lease.shrink(1000)


async def test_leaving_the_block_while_the_agent_is_away_hides_no_error(agent: Agent) -> None:
    async with GPUBoss() as boss:
        with pytest.raises(ZeroDivisionError):
            async with boss.acquire(vram_mb=8000):
                agent.kill()
                raise ZeroDivisionError


async def test_an_agent_that_hangs_holds_nobody_up_for_long(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "_GIVEN_BACK_WITHIN", 0.1)
    monkeypatch.setattr(holding, "_AGENT_ANSWERS_WITHIN", 0.1)
    async with GPUBoss() as boss:
        async with boss.acquire(vram_mb=8000):
            agent.pause()
            with pytest.raises(LeaseTimeout, match="did not answer"):
                await boss.acquire(vram_mb=8000, timeout=0.01)
        agent.resume()
        # What could not be given back in time ended with its connection, or is given back by the agent when it reads on.
        await until(boss, lambda status: not status.leases)


async def test_without_an_agent_the_socket_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = tmp_path / "agent.sock"
    for boss in (GPUBoss(nowhere), RAMBoss(nowhere)):
        with pytest.raises(AgentUnavailable, match=str(nowhere)):
            await boss.connect()
    monkeypatch.setenv("MEMBOSS_SOCKET", str(nowhere))
    with pytest.raises(AgentUnavailable, match=str(nowhere)):
        async with GPUBoss():
            pass
    assert issubclass(AgentUnavailable, ConnectionError)


async def test_a_user_s_own_agent_is_found(agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from memboss_client import socket_path

    monkeypatch.delenv("MEMBOSS_SOCKET")
    monkeypatch.setattr(socket_path, "SYSTEM_SOCKET", tmp_path / "absent.sock")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    with pytest.raises(AgentUnavailable, match="MEMBOSS_SOCKET"):
        await GPUBoss().connect()
    own = tmp_path / "runtime/memboss/agent/agent.sock"
    own.parent.mkdir(parents=True)
    own.symlink_to(agent.socket)
    async with GPUBoss() as boss:
        assert (await boss.status()).node == "test"


async def test_an_agent_that_begins_a_little_later_is_waited_for(agent: Agent) -> None:
    async with GPUBoss() as boss:
        agent.kill()
        asking = asyncio.ensure_future(soon(boss.acquire(vram_mb=8000)))
        await asyncio.to_thread(agent.start)
        lease = await asking
        assert lease.vram_mib == 8000
        await lease.release()
        await until(boss, lambda status: not status.leases)
