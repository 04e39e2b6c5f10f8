"""Style and types, each tool a test that fails with the tool's own output. `make format` mends most of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# An installed package is tested without the sources of its C++ and without the settings of the tools.
pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="not in a checkout")


def run_tool(name: str, *arguments: str | Path) -> None:
    """Run a tool of this environment in the root of the checkout. Its output is the failure's message."""
    tool = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    assert tool is not None, f"{name} is not installed: pip install -r requirements-dev.txt"
    done = subprocess.run([tool, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.fail(f"{name} {arguments[0] if arguments else ''}\n{done.stdout}{done.stderr}", pytrace=False)


def test_ruff_check() -> None:
    run_tool("ruff", "check", "--quiet", "--output-format=concise", ".")


def test_ruff_format() -> None:
    run_tool("ruff", "format", "--check", ".")


def test_mypy() -> None:
    run_tool("mypy")


def test_clang_format() -> None:
    sources = sorted(path for suffix in ("h", "cpp", "inl") for path in (ROOT / "csrc").rglob(f"*.{suffix}"))
    assert sources
    run_tool("clang-format", "--dry-run", "-Werror", *sources)
