"""torch.compile with its own backend, which writes and compiles code: ours are the only calls left in it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torch_conv_ext

pytestmark = [
    pytest.mark.usefixtures("threads"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler for inductor"),
]

QUICK: dict[str, Any] = {"cpp_cache_precompile_headers": False, "compile_threads": 1}


@pytest.fixture(autouse=True)
def fresh_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Nothing is left over from another run, and a CI is announced: torch then turns warnings into errors."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("CI", "1")
    yield
    torch._dynamo.reset()


def model(package: Any) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        package.Conv2d(4, 8, (3, 2), (2, 1), (1, 2), groups=2),
        nn.Tanh(),
        package.ConvTranspose2d(8, 6, 3, 2, 1, output_padding=(1, 0), groups=2, bias=False),
    ).double()


def close(result: Any, expected: Any) -> None:
    """Sums of at most some hundred products of order one: 1e-11 is a thousand roundings of float64."""
    torch.testing.assert_close(result, expected, rtol=1e-11, atol=1e-11)


def gradients(run: Any, module: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(run(x).sin().sum(), [x, *module.parameters()])


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_inductor(dynamic: bool) -> None:
    """Compiled in one graph: outputs, and gradients of a loss, of torch.nn's model."""
    ours, theirs = model(torch_conv_ext), model(nn)
    run: Any = torch.compile(ours, fullgraph=True, dynamic=dynamic, options=QUICK)
    generator = torch.Generator().manual_seed(1)
    for height in (9, 12) if dynamic else (9,):
        x = torch.randn(3, 4, height, 7, generator=generator, dtype=torch.float64)
        with torch.inference_mode():
            close(run(x), theirs(x))
        x.requires_grad_()
        close(gradients(run, ours, x), gradients(theirs, theirs, x))
