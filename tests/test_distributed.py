"""Training on two processes over gloo: DistributedDataParallel, fully_shard, distributed checkpoints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

import train_distributed as example

WORKER = Path(__file__).with_name("distributed_worker.py")

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")


def test_example_in_one_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The example without torchrun: the same weights as torch.nn's."""
    monkeypatch.delenv("RANK", raising=False)
    assert example.main([]) == 0
    assert capsys.readouterr().out.count("1 processes, 20 steps") == 2


def test_example_notices_other_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exit status tells when the weights do not agree."""
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(example, "LIMIT", -1.0)
    assert example.main(["--steps", "1"]) == 1


def test_two_processes(tmp_path: Path) -> None:
    """The example on two processes gives torch.nn's weights, in copies and sharded; a checkpoint the bits.

    torchrun --standalone picks a free port.
    """
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*run, str(WORKER), str(tmp_path / "checkpoint")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("2 processes, 20 steps") == 2
    assert [f"rank {rank}: agree=True same=True" in done.stdout for rank in range(2)] == [True, True]
