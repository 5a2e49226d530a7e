#!/usr/bin/env python3
"""Shows memboss on a real NVIDIA GPU: what the agent reports is held against nvidia-smi, use is told process by process, leases are enforced, and
memory counts as free only when it is. It starts an agent of its own, takes most of the first GPU for a minute or two, and leaves nothing behind.

Usage: tests/gpu.py [FOLDER OF THE PROGRAMS]        (target/release if not given; needs root, an NVIDIA driver, and nobody else on the first GPU)
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PROGRAMS = Path(sys.argv[1] if len(sys.argv) > 1 else "target/release").resolve()
PATIENCE = 60.0

CONFIG = """
admin-address = "127.0.0.1:0"
run-dir = "{run}"
state-dir = "{state}"
[protection]
batch = "0s"
low = "0s"
normal = "0s"
[over-lease]
batch = "2s"
"""


def say(text: str) -> None:
    print(text, flush=True)


def wait(what: str, holds: Callable[[], Any]) -> Any:
    """What `holds` answers, once that is true; the time it took is told."""
    begun = time.monotonic()
    while True:
        answer = holds()
        if answer:
            say(f"  {what}: after {(time.monotonic() - begun) * 1000:.0f} ms")
            return answer
        if time.monotonic() - begun > PATIENCE:
            raise SystemExit(f"FAILED: not within {PATIENCE:.0f} s: {what}\n{memboss('vram', 'status', '-o', 'wide')}")
        time.sleep(0.01)


def check(what: str, holds: bool, seen: object = "") -> None:
    if not holds:
        raise SystemExit(f"FAILED: {what}: {seen}")
    say(f"  {what}: yes {seen}".rstrip())


def memboss(*words: str) -> str:
    done = subprocess.run([PROGRAMS / "memboss", *words], capture_output=True, text=True)
    return done.stdout + done.stderr


def told(*words: str) -> Any:
    return json.loads(subprocess.run([PROGRAMS / "memboss", *words, "-o", "json"], capture_output=True, check=True).stdout)


def smi(query: str, kind: str = "gpu") -> list[list[str]]:
    command = ["nvidia-smi", f"--query-{kind}={query}", "--format=csv,noheader,nounits"]
    lines = subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()
    return [[cell.strip() for cell in line.split(",")] for line in lines if line.strip()]


def gpu() -> dict[str, Any]:
    return told("vram", "status")["gpus"][0]


def leases() -> list[dict[str, Any]]:
    return told("lease", "list")


def lease(name: str) -> dict[str, Any] | None:
    return next((seen for seen in leases() if seen["lease"].endswith(f"/{name}")), None)


def used(name: str) -> int:
    seen = lease(name)
    return seen["holder"]["used_mib"] if seen else 0


def near(one: float, other: float, by: float) -> bool:
    return abs(one - other) <= by


@contextlib.contextmanager
def process(*words: object, **options: Any) -> Iterator[subprocess.Popen[str]]:
    running = subprocess.Popen([str(word) for word in words], text=True, start_new_session=True, **options)
    try:
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()


def held(name: str, vram: str, alloc: str, *words: str, options: tuple[str, ...] = ()) -> Any:
    """`memboss run` of the workload."""
    command = [PROGRAMS / "memboss", "run", "--name", name, "--gpu", "0", "--vram", vram, *options, "--"]
    return process(*command, PROGRAMS / "memboss-workload", "--alloc", alloc, *words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def uses(name: str, mib: int) -> Callable[[], bool]:
    """A context of the driver's own comes on top of what is allocated."""

    return lambda: mib <= used(name) <= mib + 1024


def report() -> None:
    say("the report, beside nvidia-smi")
    total, name, uuid = smi("memory.total,name,uuid")[0]
    seen = gpu()
    check("the UUID is the same", seen["uuid"] == uuid, seen["uuid"])
    check("the model is the same", seen["model"] == name.replace(' ', '-'), f"{seen['model']} / {name}")
    # nvidia-smi counts what the driver keeps or not, depending on its version.
    check("the total is the same", near(seen["total_mib"], float(total), 1024), f"{seen['total_mib']} / {total} MiB")
    check("nothing is leased", seen["leased_mib"] == 0)
    say(memboss("vram", "status", "-o", "wide"))


def one_process(total: int) -> None:
    say("a process that leases 8 GiB and takes 4")
    with held("own", "8Gi", "4Gi") as running:
        wait("its use is told", uses("own", 4096))
        pids = {int(row[0]): float(row[1]) for row in smi("pid,used_memory", "compute-apps")}
        mine = next(mib for pid, mib in pids.items() if mib >= 4096)
        check("nvidia-smi says the same of it", near(used("own"), mine, 16), f"{used('own')} / {mine} MiB")
        check("it is charged what it leases", gpu()["leased_mib"] == 8192, gpu())
        check("none of it is foreign", gpu()["foreign_mib"] <= 700, gpu()["foreign_mib"])
        say("  killed (-9)")
        os.kill(running.pid, signal.SIGKILL)
        wait("its lease is over", lambda: lease("own") is None and gpu()["leased_mib"] == 0)
        # The guard of `memboss run` ends the command; until that has gone, what it has is others' use and not free.
        wait("nvidia-smi sees nobody", lambda: not smi("pid,used_memory", "compute-apps"))
        wait("and nor does memboss", lambda: gpu()["foreign_mib"] < 1024)


def stranger(leasable: int) -> None:
    say("a stranger takes 16 GiB without a lease")
    with process(PROGRAMS / "memboss-workload", "--alloc", "16Gi", stdout=subprocess.DEVNULL) as other:
        wait("it is told as foreign", lambda: gpu()["foreign_mib"] >= 16384)
        most = leasable - 8 * 1024
        said = memboss("run", "--vram", f"{most}Mi", "--gpu", "0", "--no-wait", "--", "true")
        check("what it has is not leased again", "not granted" in said or "no room" in said.lower() or "wait" in said, said.strip())
        os.killpg(other.pid, signal.SIGKILL)
        other.wait()
        wait("it is free again", lambda: gpu()["foreign_mib"] < 1024)


def over() -> None:
    say("a batch process that leases 4 GiB and takes 12 is ended after 2 s (over-lease.batch)")
    with held("greedy", "4Gi", "12Gi", options=("--class", "batch")) as running:
        wait("it is seen", lambda: lease("greedy") and gpu()["foreign_mib"] >= 7 * 1024)
        wait("it is ended", lambda: running.poll() is not None)
        wait("its memory is free", lambda: lease("greedy") is None and gpu()["foreign_mib"] < 1024)
        say("  " + (running.stderr.read().strip().replace("\n", "\n  ") if running.stderr else ""))


def preempted(leasable: int) -> None:
    half = leasable * 3 // 4
    say(f"urgent work of {half} MiB comes to a batch process that has as much")
    with held("victim", f"{half}Mi", f"{half - 2048}Mi", options=("--class", "batch")) as victim:
        wait("the batch process has it", uses("victim", half - 2048))
        with held("urgent", f"{half}Mi", f"{half - 2048}Mi", options=("--class", "urgent")) as urgent:
            wait("the victim is asked and goes", lambda: victim.poll() is not None)
            wait("the urgent one has it", uses("urgent", half - 2048))
            check("nobody ran out of memory", urgent.poll() is None)
            say("  the victim heard: " + (victim.stderr.read().strip().replace("\n", "\n  ") if victim.stderr else ""))
    wait("all is free", lambda: gpu()["leased_mib"] == 0 and not leases())


def stubborn(leasable: int) -> None:
    half = leasable * 3 // 4
    say("a victim that ignores notice and SIGTERM is killed, and what waits for its memory gets it only then")
    with held("deaf", f"{half}Mi", "20Gi", "--on-notice", "ignore", "--ignore-term", options=("--class", "batch", "--kill-after", "2s")) as victim:
        wait("it has it", uses("deaf", 20480))
        with held("next", f"{half}Mi", "1Gi", options=("--class", "urgent")):
            wait("the next one has it", uses("next", 1024))
            check("the deaf one is gone", victim.poll() is not None)
    wait("all is free", lambda: gpu()["leased_mib"] == 0 and not leases())


def restart(agent: "Agent") -> None:
    say("the agent is killed (-9) under a lease, and begins again")
    with held("stays", "8Gi", "4Gi") as running:
        wait("its use is told", uses("stays", 4096))
        agent.kill()
        agent.start()
        check("the lease is there", lease("stays") is not None)
        wait("its use is told again", uses("stays", 4096))
        check("the process did not notice", running.poll() is None)
    wait("all is free", lambda: gpu()["leased_mib"] == 0 and not leases())


class Agent:
    def __init__(self, folder: Path) -> None:
        self.config = folder / "agent.toml"
        self.config.write_text(CONFIG.format(run=folder / "run", state=folder / "state"))
        self.log = (folder / "agent.log").open("w")
        os.environ["MEMBOSS_SOCKET"] = str(folder / "run/agent/agent.sock")
        os.environ["MEMBOSS_NODE_SOCKET"] = str(folder / "run/node/node.sock")
        self.running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [PROGRAMS / "memboss-agent", "--standalone", "--config", self.config]
        self.running = subprocess.Popen(command, stdout=self.log, stderr=self.log)

        def answers() -> bool:
            asked = subprocess.run([PROGRAMS / "memboss", "vram", "status", "-o", "json"], capture_output=True)
            return asked.returncode == 0 and bool(json.loads(asked.stdout)["gpus"])

        wait("the agent answers", answers)

    def kill(self) -> None:
        if self.running is not None:
            self.running.kill()
            self.running.wait()


def main() -> None:
    say("; ".join(", ".join(row) for row in smi("name,memory.total,driver_version")))
    base = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=base) as folder:
        agent = Agent(Path(folder))
        try:
            agent.start()
            report()
            seen = gpu()
            one_process(seen["total_mib"])
            stranger(seen["leasable_mib"])
            over()
            preempted(seen["leasable_mib"])
            stubborn(seen["leasable_mib"])
            restart(agent)
            say(memboss("doctor"))
        except BaseException:
            say((Path(folder) / "agent.log").read_text()[-4000:])
            raise
        finally:
            agent.kill()
    say("all of it was seen")


if __name__ == "__main__":
    main()
