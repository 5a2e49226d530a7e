"""A real agent with simulated GPUs for each test that asks for one, and other processes that lease beside this one. Nothing here stands in for a part of
memboss: the binaries are those of the build (MEMBOSS_BIN_DIR)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from memboss_vram import GPUBoss, MembossError, NodeStatus

REPOSITORY = Path(__file__).resolve().parents[3]
BINARIES = Path(os.environ.get("MEMBOSS_BIN_DIR") or REPOSITORY / "target/release")
PATIENCE = float(os.environ.get("MEMBOSS_TEST_PATIENCE", "60"))
"""Seconds for anything that surely comes; only a failure takes so long."""


def binary(name: str) -> Path:
    path = BINARIES / name
    if not path.exists():
        pytest.fail(f"{path} is not there: build it (cargo build --release), or name its folder in MEMBOSS_BIN_DIR")
    return path


class Agent:
    """memboss-agent alone on this machine, in a folder of its own, with two simulated GPUs of 24 GiB."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run_dir = folder / "run"
        self.socket = self.run_dir / "agent/agent.sock"
        self._environment = os.environ | {"MEMBOSS_SIM_DIR": str(folder / "sim")}
        self._process: subprocess.Popen[bytes] | None = None
        create = [str(binary("memboss-sim")), "create", "--seed", "test", "--gpu", "SIM-24G:24576x2"]
        (folder / "meminfo").write_text("MemTotal: 67108864 kB\nMemAvailable: 50331648 kB\n")
        subprocess.run(create, env=self._environment, check=True, capture_output=True)

    def start(self) -> None:
        """Starts it; it answers when this returns."""
        command = [
            str(binary("memboss-agent")),
            "--standalone",
            "--node-name=test",
            f"--run-dir={self.run_dir}",
            f"--state-dir={self.folder / 'state'}",
            f"--nvml-library={binary('libmemboss_sim_nvml.so')}",
            # Of a machine with 64 GiB, whatever this one has: tests must not depend on it.
            f"--meminfo-file={self.folder / 'meminfo'}",
            "--admin-address=127.0.0.1:0",
        ]
        log = (self.folder / "agent.log").open("ab")
        self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        log.close()
        asyncio.run(self._answers())

    async def _answers(self) -> None:
        begun, seen = time.monotonic(), "nothing"
        while True:
            try:
                async with GPUBoss(self.socket) as boss:
                    status = await boss.status()
                    if len(status.gpus) == 2 and not status.hold:
                        return
                    seen = f"{len(status.gpus)} GPUs, hold {status.hold!r}"
            except MembossError as error:
                seen = repr(error)
            if time.monotonic() - begun > PATIENCE or (self._process and self._process.poll() is not None):
                log = (self.folder / "agent.log").read_text()[-2000:]
                pytest.fail(f"the agent does not begin; seen last: {seen}; its log:\n{log}")
            await asyncio.sleep(0.01)

    def kill(self) -> None:
        """Ends it without a word."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        """It does nothing any more, and its socket stays open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self.kill()


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    agent = Agent(tmp_path)
    monkeypatch.setenv("MEMBOSS_SOCKET", str(agent.socket))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    try:
        agent.start()
        yield agent
    finally:
        agent.stop()


async def until(boss: GPUBoss, looks: Callable[[NodeStatus], Any]) -> NodeStatus:
    """The node, once it looks so."""

    async def look() -> NodeStatus:
        while not looks(status := await boss.status()):
            await asyncio.sleep(0.01)
        return status

    return await asyncio.wait_for(look(), PATIENCE)


async def soon(awaited: Awaitable[Any]) -> Any:
    """What surely comes."""
    return await asyncio.wait_for(awaited, PATIENCE)


class Program:
    """Another Python process. What it prints by `say` is read here, line by line."""

    PRELUDE = """
        import asyncio, json, os, signal, sys, time
        from memboss_vram import *
        from memboss_ram import RAMBoss
        def say(**what): print(json.dumps(what), flush=True)
        def listen(): return sys.stdin.readline().strip()
        async def heard(): return await asyncio.to_thread(listen)
    """

    def __init__(self, text: str) -> None:
        script = textwrap.dedent(self.PRELUDE) + textwrap.dedent(text)
        command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    async def hears(self) -> dict[str, Any]:
        """What it says next."""
        assert self.process.stdout is not None
        line = await soon(asyncio.to_thread(self.process.stdout.readline))
        assert line, f"the program has ended with {self.process.wait()} and said nothing: {self.errors()}"
        told: dict[str, Any] = json.loads(line)
        return told

    def tell(self, line: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    async def ends(self) -> int:
        return int(await soon(asyncio.to_thread(self.process.wait)))

    def errors(self) -> str:
        """What it has written to its error output, once it has ended."""
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def program() -> Iterator[Callable[[str], Program]]:
    started: list[Program] = []

    def start(text: str) -> Program:
        started.append(Program(text))
        return started[-1]

    yield start
    for one in started:
        one.stop()
