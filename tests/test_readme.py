"""README.md as a new user would try it: its Python runs, its commands run."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def fenced_blocks(language: str) -> list[str]:
    """The README's fenced blocks of a language; "" for those without one, which hold commands."""
    parts = (ROOT / "README.md").read_text().split("```")[1::2]
    return [body for tag, _, body in (part.partition("\n") for part in parts) if tag.strip() == language]


PYTHON = fenced_blocks("python")
COMMANDS = [
    line.split("#")[0].strip() for block in fenced_blocks("") for line in block.splitlines() if line.strip()
]

# A command with what keeps it short here. The benchmark's rows are timed for a moment, and only two of them.
SHORTER = {"bench": ["--time", "0.001", "--filter", "7 2048-512|dw", "--no-rivals"]}


def test_blocks_are_found() -> None:
    """The patterns above see the README's blocks, so that the tests below test something."""
    assert len(PYTHON) >= 3
    assert {"make demo", "make test"} < set(COMMANDS)
    assert sum(command.startswith("python -m torch_conv_ext") for command in COMMANDS) >= 4


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.strip().splitlines()[-1][:40])
def test_python_runs(block: str) -> None:
    """Each Python block is a program of its own."""
    exec(compile(block, "README.md", "exec"), {})


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python -m torch_conv_ext")])
def test_command_runs(command: str) -> None:
    """Each command of the package, as it stands there, ends with exit status 0."""
    words = shlex.split(command)
    run = [sys.executable, *words[1:], *SHORTER.get(words[3], [])]
    done = subprocess.run(run, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make")])
def test_make_knows(command: str) -> None:
    """Each target exists. (make test runs this file; the others take minutes.)"""
    if not (ROOT / "Makefile").exists() or shutil.which("make") is None:
        pytest.skip("no checkout, or no make, beside these tests")
    done = subprocess.run(["make", "-n", *command.split()[1:]], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_nothing_else_is_asked_for() -> None:
    """A command of another kind has to be tested in another way: pip's are run by tools/test_package.sh."""
    others = [c for c in COMMANDS if not c.startswith(("make ", "python -m torch_conv_ext", "pip install "))]
    assert others == []
