"""Self-test on this machine, on every instruction set that its CPU has; less than a minute.

agreement   output and gradients against torch's operators, in float32 and float64, NCHW and channels_last
gradcheck   first and second derivatives and forward mode against finite differences
threads     the same bits for any number of threads
batch       the same bits for a sample alone and in a batch
accuracy    errors against float64, beside those of torch, for the direct algorithm and for Winograd

All random operands are scaled so that results have a variance of about one; errors are relative to their rms.
Exit status 1 where something failed.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import torch_conv_ext
from torch_conv_ext import _C, settings
from torch_conv_ext._cli import UsageError
from torch_conv_ext._cli.console import Console, add_json
from torch_conv_ext._cli.layer import LAYOUTS, Layer

# Small layers of each kind. What the sizes are matters little; few are multiples of a vector.
LAYERS = [
    Layer("conv2d", (2, 16, 17, 19), (24, 16, 3, 3), padding=1),
    Layer("conv2d", (2, 64, 23, 26), (64, 64, 3, 3), padding=1),
    Layer("conv2d", (2, 7, 21, 18), (13, 7, 3, 5), stride=(2, 1), padding=(1, 2)),
    Layer("conv2d", (2, 12, 20, 15), (18, 4, 3, 3), padding=2, dilation=2, groups=3),
    Layer("conv2d", (3, 35, 14, 13), (35, 1, 5, 5), padding=2, groups=35),
    Layer("conv2d", (2, 40, 9, 11), (33, 40, 1, 1)),
    Layer("conv2d", (2, 3, 37, 35), (20, 3, 7, 7), stride=2, padding=3),
    Layer("conv2d", (5, 12, 11), (6, 5, 4, 2), padding="same"),
    Layer("conv_transpose2d", (2, 17, 9, 8), (17, 10, 4, 4), stride=2, padding=1),
    Layer("conv_transpose2d", (2, 12, 6, 7), (12, 3, 3, 3), stride=2, padding=1, output_padding=1, groups=4),
    Layer("conv_transpose2d", (2, 64, 14, 15), (64, 48, 3, 3), padding=1),
]

TINY = [
    Layer("conv2d", (2, 3, 5, 4), (4, 3, 3, 3), padding=1),
    Layer("conv2d", (2, 4, 6, 5), (4, 2, 2, 3), stride=(2, 1), padding=1, dilation=(2, 1), groups=2),
    Layer("conv_transpose2d", (1, 4, 3, 3), (4, 1, 3, 2), stride=2, output_padding=1, groups=2),
]

ACCURACY = Layer("conv2d", (2, 128, 28, 28), (128, 128, 3, 3), padding=1)

RESULTS = ("output", "input gradient", "weight gradient", "bias gradient")

# An rms error above this is more than rounding: the direct algorithm has 2e-7 to 4e-7, Winograd 5e-7 to 8e-7.
RMS_LIMIT = 2e-6


class Failed(Exception):
    """A check found something wrong; the message says what."""


@dataclass(frozen=True)
class Outcome:
    """One check on one instruction set."""

    isa: str
    check: str
    passed: bool
    detail: str  # what was checked, or what went wrong
    seconds: float


@dataclass(frozen=True)
class Accuracy:
    """Errors of a float32 result against float64, relative to the result's rms."""

    isa: str
    algorithm: str
    result: str
    max_error: float
    rms_error: float
    torch_max_error: float
    torch_rms_error: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--isa and --json."""
    parser.add_argument("--isa", help="only this instruction set (default: all that the CPU has)")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Run all checks; 1 if one failed."""
    console = Console(args.json)
    isas = _C.supported_isas()
    if args.isa is not None:
        if args.isa not in isas:
            raise UsageError(f"--isa: expected one of {', '.join(isas)}, but got {args.isa!r}")
        isas = [args.isa]
    start = time.perf_counter()
    table: list[Accuracy] = []
    counts = sorted({2, 3, torch.get_num_threads()} - {1})
    checks: dict[str, Callable[[str], str]] = {
        "agreement": agreement,
        "gradcheck": derivatives,
        "threads": partial(threads, counts=counts),
        "batch": batch,
        "accuracy": partial(accuracy, table=table),
    }
    outcomes = []
    with _restored(), console.progress(len(isas) * len(checks)) as step:
        for isa in isas:
            _C.set_isa(isa)
            for name, check in checks.items():
                step(f"{isa}: {name}")
                # One thread, so that a busy machine takes no longer; more give the same bits.
                torch.set_num_threads(1)
                outcomes.append(_outcome(isa, name, check))
    return _report(console, outcomes, table, time.perf_counter() - start)


def _report(console: Console, outcomes: list[Outcome], table: list[Accuracy], seconds: float) -> int:
    failures = [o for o in outcomes if not o.passed]
    console.table(
        ("isa", "check", "", "seconds", ""),
        [_row(o) for o in outcomes],
        right=(3,),
    )
    console.text()
    console.text(f"float32 against float64, {ACCURACY.function} of 128 channels, 28x28, kernel 3x3")
    errors = ("max_error", "rms_error", "torch_max_error", "torch_rms_error")
    console.table(
        ("isa", "algorithm", "result", "max", "rms", "torch max", "torch rms"),
        [(a.isa, a.algorithm, a.result, *(f"{getattr(a, e):.2e}" for e in errors)) for a in table],
        right=(3, 4, 5, 6),
    )
    console.text()
    for o in failures:
        console.text(f"FAILED: {o.check} on {o.isa}: {o.detail}", style="bold red")
    verdict = (
        f"{len(failures)} of {len(outcomes)} checks failed"
        if failures
        else f"all {len(outcomes)} checks passed"
    )
    console.text(f"{verdict} in {seconds:.0f} s", style="bold red" if failures else "bold green")
    if failures:
        console.text("Please report this with the output of `python -m torch_conv_ext info`.")
    console.result(
        {
            "passed": not failures,
            "seconds": round(seconds, 1),
            "checks": [dataclasses.asdict(o) for o in outcomes],
            "accuracy": [dataclasses.asdict(a) for a in table],
        }
    )
    return 1 if failures else 0


def _row(o: Outcome) -> tuple[str, ...]:
    seconds = f"{o.seconds:.1f}"
    if o.passed:
        return o.isa, o.check, "ok", seconds, o.detail
    return o.isa, o.check, "FAILED", seconds, "see below"


def _outcome(isa: str, name: str, check: Callable[[str], str]) -> Outcome:
    start = time.perf_counter()
    passed = True
    try:
        detail = check(isa)
    except Exception as error:
        passed = False
        detail = str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"
        detail = " ".join(detail.split())
    return Outcome(isa, name, passed, detail, round(time.perf_counter() - start, 2))


@contextmanager
def _restored() -> Iterator[None]:
    """The ISA, the settings, the number of threads and the random state are afterwards what they were.

    Inside, results and scratch are filled with NaN before a kernel runs: what is left unwritten cannot look
    right.
    """
    isa, count = _C.isa(), torch.get_num_threads()
    with torch.random.fork_rng(devices=[]), settings.override(winograd=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, on copies that its operators make
        torch.manual_seed(0)  # gradgradcheck draws its own operands
        try:
            _C.poison(True)
            yield
        finally:
            _C.poison(False)
            _C.set_isa(isa)
            torch.set_num_threads(count)


# --- the checks: each returns what it checked, or raises ----------------------------------------------------


def agreement(isa: str) -> str:
    """Results are those of torch, within the default tolerances of torch.testing.assert_close."""
    count = 0
    algorithms: set[str] = set()
    for layer in _variants(LAYERS):
        operands = _operands(layer)
        algorithms.update(part.algorithm for part in layer.plan().contractions)
        ours, theirs = _results(layer, torch_conv_ext, operands), _results(layer, F, operands)
        for name, result, expected in zip(RESULTS, ours, theirs, strict=True):
            rms = _rms(expected)
            try:
                torch.testing.assert_close(result / rms, expected / rms)
            except AssertionError as error:
                raise Failed(f"{name} of {_describe(layer)} is not torch's: {error}") from None
            count += 1
    return f"{count} results are torch's; algorithms: {', '.join(sorted(algorithms))}"


def derivatives(isa: str) -> str:
    """Finite differences agree with the derivatives, of first and second order."""
    for layer in TINY:
        x, w, b, _ = (t.requires_grad_() for t in _operands(dataclasses.replace(layer, dtype="float64")))
        function = partial(layer.run, torch_conv_ext)
        try:
            gradcheck(function, (x, w, b), check_forward_ad=True)
            gradgradcheck(function, (x, w, b))
        except RuntimeError as error:
            raise Failed(f"{_describe(layer)}: {error}") from None
    return f"{len(TINY)} layers, first and second order, forward mode"


def threads(isa: str, counts: list[int]) -> str:
    """One thread and several give the same bits."""
    for layer in _variants(LAYERS):
        operands = _operands(layer)
        torch.set_num_threads(1)
        expected = _results(layer, torch_conv_ext, operands)
        for count in counts:
            torch.set_num_threads(count)
            results = _results(layer, torch_conv_ext, operands)
            for name, a, b in zip(RESULTS, results, expected, strict=True):
                if not torch.equal(a, b):
                    raise Failed(f"{name} of {_describe(layer)} differs with {count} threads from one")
    return f"same bits with {', '.join(map(str, [1, *counts]))} threads"


def batch(isa: str) -> str:
    """The output and the input gradient of a sample are the same bits alone and in a batch."""
    samples = 0
    for layer in _variants([layer for layer in LAYERS if len(layer.input) == 4]):
        x, w, b, g = _operands(layer)
        together = _results(layer, torch_conv_ext, (x, w, b, g))
        for n in range(len(x)):
            alone = _results(layer, torch_conv_ext, (x[n : n + 1], w, b, g[n : n + 1]))
            for name, a, all_of_them in zip(RESULTS[:2], alone, together, strict=False):
                if not torch.equal(a[0], all_of_them[n]):
                    raise Failed(
                        f"{name} of {_describe(layer)}: sample {n} alone differs from it in the batch"
                    )
            samples += 1
    return f"same bits for {samples} samples alone"


def accuracy(isa: str, table: list[Accuracy]) -> str:
    """The errors of float32 are those of rounding. Adds rows to the table."""
    layer = ACCURACY
    operands = _operands(layer)
    exact = _results(layer, F, tuple(t.double() for t in operands))
    theirs = _results(layer, F, operands)
    worst = 0.0
    for winograd in (False, True):
        with settings.override(winograd=winograd):
            algorithms = [part.algorithm for part in layer.plan().contractions]
            if winograd and "winograd" not in algorithms:
                continue
            ours = _results(layer, torch_conv_ext, operands)
        for algorithm, name, a, t, e in zip(algorithms, RESULTS, ours, theirs, exact, strict=False):
            row = Accuracy(isa, algorithm, name, *_errors(a, e), *_errors(t, e))
            table.append(row)
            # `not <=`: a NaN fails too
            if not row.rms_error <= RMS_LIMIT:
                raise Failed(
                    f"{algorithm}, {name}: expected an rms error of at most {RMS_LIMIT:g}, "
                    f"but got {row.rms_error:.2e}"
                )
            worst = max(worst, row.rms_error / row.torch_rms_error)
    return f"rms errors at most {worst:.1f} times torch's"


# --- operands and results -----------------------------------------------------------------------------------


def _variants(layers: list[Layer]) -> Iterator[Layer]:
    for layer in layers:
        for dtype in ("float32", "float64"):
            for layout in LAYOUTS if len(layer.input) == 4 else LAYOUTS[:1]:
                yield dataclasses.replace(layer, dtype=dtype, layout=layout)


def _operands(layer: Layer) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Input, weight, bias and gradient of the output: the same numbers in each run."""
    generator = torch.Generator().manual_seed(0)
    x, w = layer.operands(generator)
    size = layer.plan().output
    bias = torch.randn(size[-3], generator=generator, dtype=torch.float64)
    g = torch.randn(size, generator=generator, dtype=torch.float64)
    return x, w, bias.to(x.dtype), layer.laid_out(g)


def _results(layer: Layer, namespace: Any, operands: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """RESULTS, by the functions of a namespace."""
    x, w, b = (t.detach().requires_grad_() for t in operands[:3])
    y = layer.run(namespace, x, w, b)
    return y.detach(), *torch.autograd.grad(y, (x, w, b), operands[3])


def _rms(t: Tensor) -> float:
    return t.double().square().mean().sqrt().item()


def _errors(result: Tensor, exact: Tensor) -> tuple[float, float]:
    """The largest and the rms error, relative to the rms of the exact result."""
    error, rms = result.double() - exact, _rms(exact)
    return error.abs().max().item() / rms, _rms(error) / rms


def _describe(layer: Layer) -> str:
    return "; ".join(layer.plan().header()[:2])
