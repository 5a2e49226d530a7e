"""The synchronous face: the same leases, without asyncio."""

from __future__ import annotations

import threading
import time

import pytest
from conftest import PATIENCE, Agent

from memboss_ram.sync import RAMBoss
from memboss_vram import AgentUnavailable, LeaseLost, LeaseTimeout, NoRoom, Notice, Outlook, Phase, Preempted
from memboss_vram.sync import GPUBoss, GPULease


def test_leases_are_held_for_their_blocks(agent: Agent) -> None:
    with RAMBoss() as ram_boss, GPUBoss() as gpu_boss:
        with ram_boss.acquire(ram_mb=16000) as r, gpu_boss.acquire(vram_mb=8000, priority="high") as v:
            assert (r.ram_mib, v.vram_mib, str(v.priority)) == (16000, 8000, "high")
            assert {lease.id for lease in gpu_boss.status().leases} == {r.id, v.id}
            r.shrink(1000)
            v.offload(vram_mb=6000)
            assert (r.ram_mib, v.vram_mib, v.ram_mib) == (1000, 6000, 2000)
            assert "Active" in v.why()[0] and v.gpus[0].uuid == v.visible_devices
        assert (v.phase, v.lost) == (Phase.ENDED, None) and v.wait_ended() is None
        lease = gpu_boss.acquire(vram_mb=100)
        lease.release()
        assert gpu_boss.dry_run(vram_mb=100).outlook is ram_boss.dry_run(ram_mb=100).outlook is Outlook.NOW


def test_without_room_it_is_told_and_an_error_in_the_block_too(agent: Agent) -> None:
    with GPUBoss() as boss:
        with pytest.raises(ZeroDivisionError), boss.acquire(vram_mb=20000, gpus=2):
            with pytest.raises(NoRoom):
                boss.acquire(vram_mb=8000, timeout=0)
            with pytest.raises(LeaseTimeout):
                boss.acquire(vram_mb=8000, timeout=0.05)
            raise ZeroDivisionError
        with boss.acquire(vram_mb=20000, gpus=2, timeout=PATIENCE):
            pass
    with pytest.raises(AgentUnavailable):
        GPUBoss("/nowhere/agent.sock").connect()


def test_a_notice_calls_on_a_thread_that_may_give_way(agent: Agent) -> None:
    called: list[str] = []

    def give_way(notice: Notice[GPULease]) -> None:
        called.append(threading.current_thread().name)
        notice.lease.shrink(vram_mb=10000)
        done.set()

    done = threading.Event()
    with GPUBoss() as boss:
        asked = boss.acquire(vram_mb=20000, gpus=2, priority="batch", protection=0.001, on_preempt=give_way)
        with asked as lease, boss.acquire(vram_mb=10000, priority="urgent", timeout=PATIENCE):
            assert done.wait(PATIENCE)
            assert [gpu.memory_mib for gpu in lease.gpus] == [10000, 10000]
    assert called == ["memboss callback"]


def test_a_loop_asks_whether_it_must_go(agent: Agent) -> None:
    with GPUBoss() as boss:
        granted: list[GPULease] = []

        def urgent() -> None:
            granted.append(boss.acquire(vram_mb=10000, priority="urgent", timeout=PATIENCE))

        asking = threading.Thread(target=urgent)
        with pytest.raises(Preempted, match="class urgent"):
            with boss.acquire(vram_mb=20000, gpus=2, priority="batch", protection=0.001) as lease:
                lease.check()
                asking.start()
                begun = time.monotonic()
                while time.monotonic() - begun < PATIENCE:
                    lease.check()
        asking.join(PATIENCE)
        granted[0].release()


def test_a_lease_that_was_lost_meanwhile_is_told_when_the_block_ends(agent: Agent) -> None:
    with GPUBoss(resume_for=0.1) as boss:
        with pytest.raises(LeaseLost, match="out of reach"):
            with boss.acquire(vram_mb=8000) as lease:
                agent.kill()
                assert lease.wait_ended() is lease.lost
