"""The messages are those of agent.proto as it stands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from conftest import REPOSITORY

HERE = REPOSITORY / "sdk/python"


def test_the_generated_messages_are_current(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHON": sys.executable}
    subprocess.run([HERE / "generate.sh", tmp_path], env=environment, check=True, capture_output=True)
    for name in ("agent_pb2.py", "agent_pb2.pyi"):
        committed = HERE / "memboss-client/src/memboss_client" / name
        assert (tmp_path / name).read_text() == committed.read_text(), "run sdk/python/generate.sh"
