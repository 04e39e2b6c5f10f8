"""Padding modes: 'reflect', 'replicate' and 'circular', by strips of the border or by a padded copy."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import jvp, vmap
from torch.utils._python_dispatch import TorchDispatchMode

import torch_conv_ext
from isolated import output_of
from padding import (
    NAMES,
    Function,
    Pair,
    close,
    conv2d,
    conv_transpose2d,
    cropped_conv_transpose2d,
    nested,
    padded_conv2d,
    pair,
    randn,
    with_derivatives,
)
from test_memory import MIB, NO_REUSE, STATUS
from torch_conv_ext import _border

pytestmark = pytest.mark.usefixtures("threads")

MODES = ("reflect", "replicate", "circular")


@pytest.fixture(params=["strips", "copy"])
def mechanism(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """An image is continued by strips, or padded, whatever its size."""
    monkeypatch.setattr(_border, "COPY_FROM", {"strips": float("inf"), "copy": 0}[request.param])
    name: str = request.param
    return name


# --- against the definition ---------------------------------------------------------------------------------

# stride, padding, dilation, groups, kernel
MODE_CASES: dict[str, tuple[Any, Any, Any, int, Pair]] = {
    "same_size": (1, 1, 1, 1, (3, 3)),
    "stride_2_groups": (2, (2, 3), 1, 2, (3, 4)),
    "padding_beyond_the_kernel": ((3, 1), (4, 5), 1, 1, (2, 2)),
    "dilated": (1, (2, 4), (2, 3), 1, (3, 3)),
    "rows_only": ((1, 2), (2, 0), 1, 2, (5, 3)),
    "left_only": (1, ((0, 0), (3, 0)), 1, 1, (2, 4)),
    "sides": ((2, 1), ((1, 3), (0, 2)), (1, 2), 1, (3, 3)),
    "as_far_as_possible": (1, ((6, 5), (7, 6)), 1, 1, (3, 2)),
}


@pytest.mark.parametrize("case", MODE_CASES)
@pytest.mark.parametrize("mode", MODES)
def test_padding_mode(mode: str, case: str, mechanism: str) -> None:
    """conv2d with a padding mode = conv2d of the padded image; so are all derivatives."""
    stride, padding, dilation, groups, kernel = MODE_CASES[case]
    x, w, b = randn(2, 4, 7, 8), randn(6, 4 // groups, *kernel), randn(6)
    options = stride, padding, dilation, groups
    result = with_derivatives(lambda x, w, b: conv2d(x, w, b, *options, padding_mode=mode), x, w, b)
    reference = stride, nested(padding), dilation, groups, mode
    close(result, with_derivatives(padded_conv2d(*reference), x, w, b))
    close(conv2d(x[0], w, b, *options, padding_mode=mode), result[0][0])


# stride, padding, output padding, dilation, groups, kernel
TRANSPOSED_CASES: dict[str, tuple[Any, Any, Any, Any, int, Pair]] = {
    "stride_1": (1, 0, 0, 1, 1, (3, 3)),
    "twice_the_size": (2, 1, 0, 1, 2, (4, 4)),
    "output_padding": ((2, 3), (1, 0), (1, 2), 1, 1, (3, 5)),
    "sides": (2, ((0, 1), (3, 0)), 0, 1, 2, (3, 4)),
    "dilated": ((1, 2), (2, 0), 0, (2, 3), 1, (3, 2)),
    "crop_beyond_the_kernel": (1, (4, 3), 0, 1, 1, (3, 2)),
    "same": ((3, 1), "same", 0, 1, 1, (4, 2)),
    "stride_beyond_the_kernel": (3, "same", 0, 1, 1, (2, 1)),
}


@pytest.mark.parametrize("case", TRANSPOSED_CASES)
@pytest.mark.parametrize("mode", MODES)
def test_transposed_padding_mode(mode: str, case: str, mechanism: str) -> None:
    """conv_transpose2d with a padding mode = a crop of the transposed convolution of an input that goes on in
    all directions, of the size that it has with 'zeros'; so are all derivatives."""
    stride, padding, extra, dilation, groups, kernel = TRANSPOSED_CASES[case]
    x, w, b = randn(2, 4, 7, 8), randn(4, 6 // groups, *kernel), randn(6)
    options = stride, padding, extra, groups, dilation
    result = with_derivatives(lambda x, w, b: conv_transpose2d(x, w, b, *options, padding_mode=mode), x, w, b)
    size = conv_transpose2d(x, w, b, *options).shape[2:]
    if padding == "same":
        totals = [
            max(d * (k - 1) + 1 - s, 0) for d, k, s in zip(pair(dilation), kernel, pair(stride), strict=True)
        ]
        padding = tuple((total // 2, total - total // 2) for total in totals)
    reference = stride, nested(padding), dilation, groups, mode, size
    close(result, with_derivatives(cropped_conv_transpose2d(*reference), x, w, b))
    close(conv_transpose2d(x[0], w, b, *options, padding_mode=mode), result[0][0])


def test_circular_is_a_torus(mechanism: str) -> None:
    """Where the output has the size input * stride, 'circular' keeps conv2d and conv_transpose2d adjoint."""
    x, w, y = randn(2, 3, 12, 15), randn(4, 3, 4, 5), randn(2, 4, 6, 5)
    options: Any = {"stride": (2, 3), "padding": 1, "padding_mode": "circular"}
    close((conv2d(x, w, **options) * y).sum(), (x * conv_transpose2d(y, w, **options)).sum())
    # And rotating the input rotates the output.
    turned = conv_transpose2d(y.roll((1, 2), (2, 3)), w, **options)
    close(turned, conv_transpose2d(y, w, **options).roll((2, 6), (2, 3)))


def function(name: str, mode: str) -> tuple[Function, tuple[Tensor, ...]]:
    """A function of three tensors, all of whose sides matter, and the tensors."""
    if name == "conv2d":
        tensors = randn(2, 2, 4, 5), randn(2, 1, 3, 2), randn(2)
        return lambda *t: conv2d(*t, (1, 2), ((1, 2), (2, 0)), 1, 2, padding_mode=mode), tensors
    tensors = randn(2, 2, 4, 3), randn(2, 1, 3, 4), randn(2)
    return lambda *t: conv_transpose2d(*t, (1, 2), ((0, 1), (1, 0)), 0, 2, padding_mode=mode), tensors


@pytest.mark.parametrize(("name", "mode"), list(itertools.product(NAMES, MODES)))
def test_gradcheck(name: str, mode: str, mechanism: str) -> None:
    """First and second derivatives, forward mode, and both under vmap, against finite differences."""
    run, tensors = function(name, mode)
    inputs = tuple(t.requires_grad_() for t in tensors)
    batched: Any = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
    assert gradcheck(run, inputs, **batched)
    assert gradgradcheck(run, inputs, check_fwd_over_rev=True, check_rev_over_rev=True, fast_mode=True)


@pytest.mark.parametrize(("name", "mode"), list(itertools.product(NAMES, MODES)))
def test_transforms(name: str, mode: str, mechanism: str) -> None:
    """vmap over each of the tensors = a loop; the tangent of jvp obeys the product rule."""
    run, tensors = function(name, mode)
    for places in itertools.product((None, 0), repeat=3):
        if any(place == 0 for place in places):
            many = [
                t if place is None else torch.stack((t, 2 * t, -t))
                for t, place in zip(tensors, places, strict=True)
            ]
            one = [
                [t if place is None else t[i] for t, place in zip(many, places, strict=True)]
                for i in range(3)
            ]
            close(vmap(run, places)(*many), torch.stack([run(*t) for t in one]))
    x, w, b = tensors
    tangents = randn(*x.shape, seed=1), randn(*w.shape, seed=2), randn(*b.shape, seed=3)
    tangent = jvp(run, tensors, tangents)[1]
    close(tangent, run(tangents[0], w, tangents[2]) + run(x, tangents[1], 0 * b))


@pytest.mark.parametrize(("name", "mode"), [("conv2d", "reflect"), ("conv_transpose2d", "circular")])
def test_compiled(name: str, mode: str) -> None:
    """Output and gradients are those of the function itself, in one graph for all sizes, also where the
    function takes strips."""
    convolution: Function = getattr(torch_conv_ext, name)
    w = randn(2, 2, 3, 3).requires_grad_()

    def run(x: Tensor) -> Tensor:
        result: Tensor = convolution(x, w, None, 2, padding=((0, 1), (1, 1)), padding_mode=mode)
        return result

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for size in ((9, 70), (50, 60)):
            x = randn(2, 2, *size).requires_grad_()
            results = []
            for y in (compiled(x), run(x)):
                results.append((y, *torch.autograd.grad(y.sin().sum(), (x, w))))
            close(*results)
    torch._dynamo.reset()


@pytest.mark.parametrize("mode", MODES)
def test_memory_format(mode: str, mechanism: str) -> None:
    """channels_last in, channels_last out; a view of every other element counts like a copy of it."""
    w = randn(3, 4, 3, 3)
    x = randn(2, 4, 9, 8).contiguous(memory_format=torch.channels_last)
    y = conv2d(x, w, padding=1, padding_mode=mode)
    assert y.is_contiguous(memory_format=torch.channels_last)
    close(y, conv2d(x.contiguous(), w, padding=1, padding_mode=mode))
    assert conv2d(x.contiguous(), w, padding=1, padding_mode=mode).is_contiguous()
    view = randn(2, 8, 9, 16).transpose(2, 3)[:, ::2, ::2]
    close(
        conv2d(view, w, padding=1, padding_mode=mode),
        conv2d(view.contiguous(), w, padding=1, padding_mode=mode),
    )


@pytest.mark.parametrize(("name", "mode"), list(itertools.product(NAMES, MODES)))
def test_same_bits(name: str, mode: str, mechanism: str) -> None:
    """Output and gradients have the same bits with 1, 2 and 3 threads, a sample's also alone."""
    convolution: Function = getattr(torch_conv_ext, name)
    x, w = randn(3, 5, 40, 37).float(), randn(5, 5, 3, 3).float()

    def run(x: Tensor) -> list[Tensor]:
        inputs = [x.clone().requires_grad_(), w.clone().requires_grad_()]
        y = convolution(*inputs, padding=((1, 0), (0, 1)), padding_mode=mode)
        return [y, *torch.autograd.grad(y.square().sum(), inputs)]

    expected = run(x)
    for count in (2, 3):
        torch.set_num_threads(count)
        assert all(map(torch.equal, run(x), expected))
    for sample in range(3):
        assert all(
            torch.equal(alone[0], batch[sample])
            for alone, batch in zip(run(x[sample, None])[:2], expected, strict=False)
        )


def test_without_padding_nothing_is_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    """A padding mode without padding is 'zeros', for any size of image."""
    monkeypatch.setattr(_border, "run", None)
    x, w = randn(1, 1, 1, 1), randn(2, 1, 1, 1)
    for mode in MODES:
        assert torch.equal(conv2d(x, w, padding_mode=mode), conv2d(x, w))


# --- memory -----------------------------------------------------------------------------------------------

# For a function and a mode: the peak of the forward pass, what it leaves, and the peak of the backward pass
# above that; each beside the result and the gradients.
PEAK = (
    STATUS
    + f"MODES, IMAGE, WEIGHT = {MODES}, (4, 64, 120, 120), (64, 64, 3, 3)"
    + """
import torch.nn.functional as F
torch.set_num_threads(1)

def ours(x, w, mode):
    return torch_conv_ext.conv2d(x, w, padding=1, padding_mode=mode)

def theirs(x, w, mode):
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode=mode), w)

def reset():
    open("/proc/self/clear_refs", "w").write("5")
    return status("VmRSS")

dy = torch.ones(IMAGE)
for function, mode in [(ours, "reflect"), *((ours, mode) for mode in MODES), (theirs, "reflect")]:
    x, w = torch.ones(IMAGE, requires_grad=True), torch.ones(WEIGHT, requires_grad=True)
    before = reset()
    y = function(x, w, mode)
    forward, left = status("VmHWM") - before - y.nbytes, status("VmRSS") - before - y.nbytes
    before = reset()
    gradients = torch.autograd.grad(y, (x, w), dy)
    backward = status("VmHWM") - before - sum(g.nbytes for g in gradients)
    print(forward, left, backward)
    del x, w, y, gradients
"""
)


def test_no_padded_copy() -> None:
    """Forward and backward need at most 3 MiB beside their results: scratch of 1.7 MiB, strips of 0.2 MiB.

    The forward pass leaves nothing. A padded image has 15 MiB; the measure sees the one that torch keeps.
    """
    lines = output_of(PEAK, environment=NO_REUSE).splitlines()
    # The first round imports what torch needs for a backward pass, and starts what stays.
    (*ours, theirs) = [[int(size) / MIB for size in line.split()] for line in lines[1:]]
    assert len(ours) == len(MODES)
    for mode, (forward, left, backward) in zip(MODES, ours, strict=True):
        assert forward <= 3, f"{mode}: forward {forward:.1f} MiB"
        assert left <= 1, f"{mode}: left by forward {left:.1f} MiB"
        assert backward <= 3, f"{mode}: backward {backward:.1f} MiB"
    assert theirs[1] >= 14


def test_small_images_are_padded() -> None:
    """From a border of an eighth of the image on: (34*34 - 32*32) / (32*32) = 0.13."""
    for size, padding in ((33, _border.Border), (32, tuple)):
        x = torch.empty(1, 1, size, size)
        _, geometry = _border.extended_x(x, ((1, 1), (1, 1), (1, 1), 1), (1, 1), "reflect")
        assert type(geometry[1]) is padding


# --- only what is needed ------------------------------------------------------------------------------------


class Contractions(TorchDispatchMode):
    """Counts the calls of each of the compiled operators."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "torch_conv_ext":
            self.counts[func._schema.name.removeprefix("torch_conv_ext::")] += 1
        return func(*args, **(kwargs or {}))


# The contractions of the backward pass by the input, the weight and the bias.
NEEDED: dict[str, tuple[str | None, ...]] = {
    "conv2d": ("grad_input", "grad_weight", None),
    "conv_transpose2d": ("forward", "grad_weight", None),
}


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize("name", NAMES)
def test_only_what_requires_grad(name: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """backward runs the contractions of the tensors that require a gradient, and once more for each strip.

    For the bias alone it runs none, and nothing is kept.
    """
    monkeypatch.setattr(_border, "COPY_FROM", float("inf"))
    convolution: Function = getattr(torch_conv_ext, name)
    times = 1 if mode == "zeros" else 5
    for needs in itertools.product((False, True), repeat=3):
        tensors = [
            t.requires_grad_(need)
            for t, need in zip((randn(2, 3, 6, 7), randn(3, 3, 3, 3), randn(3)), needs, strict=True)
        ]
        if not any(needs):
            continue
        y = convolution(*tensors, padding=1, padding_mode=mode)
        saved = [t for t in y.grad_fn.saved_tensors if t is not None]
        assert len(saved) == needs[0] + needs[1]
        contractions = Contractions()
        with contractions:
            y.sum().backward()
        expected = {what: times for what, need in zip(NEEDED[name], needs, strict=True) if need and what}
        assert contractions.counts == expected
        assert [t.grad is not None for t in tensors] == list(needs)
