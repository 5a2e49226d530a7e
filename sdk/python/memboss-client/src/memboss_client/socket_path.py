"""Where the agent's socket is. It looks, and connects to nothing."""

from __future__ import annotations

import os
from pathlib import Path

from memboss_client.errors import AgentUnavailable

VARIABLE = "MEMBOSS_SOCKET"
"""Names the socket; it is set in containers that get one."""

SYSTEM_SOCKET = Path("/run/memboss/agent/agent.sock")
"""Where an agent of the whole machine listens."""


def user_socket() -> Path | None:
    """Where an agent that a user runs for themself listens; nothing without a directory for it."""
    directory = os.environ.get("XDG_RUNTIME_DIR")
    return Path(directory) / "memboss/agent/agent.sock" if directory else None


def find_socket(named: str | os.PathLike[str] | None = None) -> Path:
    """The socket that was named, or by `MEMBOSS_SOCKET`, or the first of the usual ones that exists. `AgentUnavailable` if there is none."""
    chosen = named or os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen)
    usual = [path for path in (SYSTEM_SOCKET, user_socket()) if path is not None]
    for path in usual:
        if path.exists():
            return path
    places = " or ".join(str(path) for path in usual)
    raise AgentUnavailable(
        "there is no agent's socket", places, f"start memboss-agent, or name its socket in {VARIABLE}"
    )
