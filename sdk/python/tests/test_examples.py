"""The examples, and each piece of the documentation, run as they are written, in order, in one program for each page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PATIENCE, REPOSITORY, Agent

HERE = REPOSITORY / "sdk/python"
EXAMPLES = sorted((HERE / "examples").glob("*.py"))
PAGES = [REPOSITORY / "docs/python.md", *sorted(HERE.glob("memboss-*/README.md"))]


def run(script: str, folder: Path) -> str:
    environment = os.environ | {"HOME": str(folder), "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0 and not done.stderr, done.stderr or done.stdout
    return done.stdout


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(agent: Agent, example: Path, tmp_path: Path) -> None:
    assert run(example.read_text(), tmp_path)


def pieces(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.S | re.M)


@pytest.mark.parametrize("page", [page for page in PAGES if pieces(page)], ids=lambda page: page.parent.name)
def test_each_piece_of_the_documentation_runs(agent: Agent, page: Path, tmp_path: Path) -> None:
    for piece in pieces(page):
        # As in a shell of asyncio, where a page's pieces would be typed: `await` stands by itself.
        if re.search(r"^(async |await )|= await |\bawait ", piece, re.M) and "asyncio.run" not in piece:
            imports = "".join(line + "\n" for line in piece.splitlines() if line.startswith(("from ", "import ")))
            body = "".join("    " + line + "\n" for line in piece.splitlines() if line.strip())
            piece = f"import asyncio\n{imports}async def main():\n{body}asyncio.run(main())\n"
        run(piece, tmp_path)


def test_the_page_begins_with_what_is_used_most() -> None:
    text = " ".join((REPOSITORY / "docs/python.md").read_text().split())
    for line in (
        "async with GPUBoss() as boss: async with boss.acquire(vram_mb=8000) as lease:",
        "analysis = MemoryAnalyzer().analyze()",
        'freed_mb = CacheManager().cleanup(mode="auto")',
    ):
        assert line in text, line
