"""Runs Python code in a process of its own: where a fault may end it, or where the process is measured."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def run_python(
    code: str, *arguments: object, environment: dict[str, str] | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """`python -c code arguments`, with this folder importable; OMP_NUM_THREADS and the like are inherited."""
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH", "")]))
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def output_of(code: str, *arguments: object, environment: dict[str, str] | None = None) -> str:
    """What the code printed; an exit status other than 0 is an error that shows both streams."""
    done = run_python(code, *arguments, environment=environment)
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
