"""Tensors of a layer, the calls that are compared, the check against float64, and timing in turns.

What is timed. Forward is the function, torch.nn.functional's against ours, without recording a graph. The
two gradients of torch are its own backward operator, torch.ops.aten.convolution_backward, asked for one
gradient; ours are the public functions: conv2d_input and conv2d_weight for conv2d. The gradients of a
transposed convolution are a convolution of dy, and the gradient of that convolution by its weight, so ours
are conv2d and conv2d_weight. All results are allocated in the call, as in a user's program. Bias gradients
are sums of dy and are not timed.
"""

from __future__ import annotations

import dataclasses
import gc
import math
import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

import torch_conv_ext
from torch_conv_ext._bench.layers import Layer

T = TypeVar("T")
Call = Callable[[], object]

# A wrong kernel is found here; how accurate a right one is, the tests ask. In units of the largest result.
# Denormal weights have few bits, and sums of them few more.
LIMIT = {"float32": 1e-4, "float64": 1e-11}
DENORMAL_LIMIT = 1e-2

_BLOCK = 5e-4  # seconds; quicker calls are repeated until one measurement takes this long
_ROUNDS = 5  # at least, unless they take _PATIENCE times the time for a row
_PATIENCE = 6


@dataclasses.dataclass(frozen=True)
class Operands:
    """x is the operator's input, w its weight, dy the gradient of its output."""

    x: Tensor
    w: Tensor
    dy: Tensor


def operands(layer: Layer, dtype: str, layout: str) -> Operands:
    """Random tensors, the same ones each time; outputs have a variance of about one.

    dtype: "float32" or "float64"; layout: "nchw" or "channels_last", of all three.
    """
    generator = torch.Generator().manual_seed(0)
    form = torch.channels_last if layout == "channels_last" else torch.contiguous_format

    def draw(shape: tuple[int, ...]) -> Tensor:
        t = torch.randn(shape, generator=generator, dtype=getattr(torch, dtype))
        return t.contiguous(memory_format=form)

    w = draw(layer.weight_shape)
    if layer.variant == "denormal weights":
        w *= torch.finfo(w.dtype).tiny / 64
    else:
        w /= math.sqrt(w[0].numel())
    return Operands(draw(layer.input_shape), w, draw(layer.output_shape))


def torch_call(layer: Layer, contraction: str, t: Operands) -> Callable[[], Tensor]:
    """torch's way to a contraction."""
    stride, padding, dilation = layer.stride, layer.padding, layer.dilation
    extra, groups = layer.output_padding, layer.groups
    if contraction == "forward":
        if layer.transposed:
            return lambda: F.conv_transpose2d(t.x, t.w, None, stride, padding, extra, groups, dilation)
        return lambda: F.conv2d(t.x, t.w, None, stride, padding, dilation, groups)
    which = 0 if contraction == "grad_input" else 1
    mask = [which == 0, which == 1, False]
    backward = torch.ops.aten.convolution_backward.default
    options = (None, stride, padding, dilation, layer.transposed, extra, groups, mask)
    return lambda: backward(t.dy, t.x, t.w, *options)[which]


def our_call(layer: Layer, contraction: str, t: Operands) -> Callable[[], Tensor]:
    """The same by this package's public functions."""
    stride, padding, dilation, groups = layer.stride, layer.padding, layer.dilation, layer.groups
    options = (stride, padding, dilation, groups)
    if layer.transposed:
        if contraction == "forward":
            extra = layer.output_padding
            return lambda: torch_conv_ext.conv_transpose2d(
                t.x, t.w, None, stride, padding, extra, groups, dilation
            )
        if contraction == "grad_input":
            return lambda: torch_conv_ext.conv2d(t.dy, t.w, None, *options)
        return lambda: torch_conv_ext.conv2d_weight(t.dy, t.w.shape, t.x, *options)
    if contraction == "forward":
        return lambda: torch_conv_ext.conv2d(t.x, t.w, None, *options)
    if contraction == "grad_input":
        return lambda: torch_conv_ext.conv2d_input(t.x.shape, t.w, t.dy, *options)
    return lambda: torch_conv_ext.conv2d_weight(t.x, t.w.shape, t.dy, *options)


def errors(layer: Layer, contraction: str, t: Operands) -> tuple[float, float]:
    """Largest errors of torch's and of our result, over the largest element of torch's result in float64.

    The calls are those that will be timed, with the whole batch. The reference takes the first and the last
    sample only: of an output these samples are compared, and for a weight gradient dy is zero elsewhere.
    """
    some = sorted({0, layer.n - 1})
    few = Operands(t.x[some].double(), t.w.double(), t.dy[some].double())
    reference = torch_call(layer, contraction, few)()
    if contraction == "grad_weight":
        dy = torch.zeros_like(t.dy)
        dy[some] = t.dy[some]
        t = Operands(t.x, t.w, dy)
    found = []
    for call in (torch_call, our_call):
        result = call(layer, contraction, t)()
        result = result if contraction == "grad_weight" else result[some]
        found.append(largest_error(result, reference))
    return found[0], found[1]


def is_right(layer: Layer, dtype: str, error: float) -> bool:
    """Whether an error is one of rounding. NaN is not."""
    return error <= (DENORMAL_LIMIT if layer.variant == "denormal weights" else LIMIT[dtype])


def largest_error(result: Tensor, reference: Tensor) -> float:
    """max |result - reference| / max |reference|; NaN where the result has one."""
    scale = reference.abs().max().item() or 1.0
    return (result.double() - reference).abs().max().item() / scale


# --- timing -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of a call, medians over the rounds.

    ratio is torch's time over ours: the median of the quotients of the rounds; low and high are their
    quartiles. In a round both calls meet the same state of the machine. The quotient of the two medians may
    differ a little.
    """

    torch: float
    ours: float
    ratio: float
    low: float
    high: float
    rounds: int


def in_turns(prepare: Callable[[int], tuple[Call, Call]], seconds: float, fresh: bool = False) -> Timing:
    """Time torch's call and ours in turns, in one process: A B, B A, A B, ...

    Slow phases of the machine so hit both alike, and so does what one call leaves in the caches for the next.
    prepare(round) gives the two calls. Fresh: it is asked anew for each round, outside of the time, and each
    call is made once; else it is asked once, both calls are made once before any time counts, and calls that
    take less than half a millisecond are repeated within a round. Rounds go on for `seconds`, at least five.
    """
    pair = prepare(0)
    once = [_timed(call, 1) for call in pair]
    once = [_timed(call, 1) for call in pair]
    repeats = [1 if fresh else max(1, math.ceil(_BLOCK / max(t, 1e-9))) for t in once]
    taken: tuple[list[float], list[float]] = [], []
    collecting = gc.isenabled()
    gc.disable()
    try:
        start = time.perf_counter()
        spent = 0.0
        while spent < seconds or (len(taken[0]) < _ROUNDS and spent < _PATIENCE * seconds):
            rounds = len(taken[0])
            if fresh:
                pair = prepare(rounds + 1)
            for which in (0, 1) if rounds % 2 == 0 else (1, 0):
                taken[which].append(_timed(pair[which], repeats[which]))
            spent = time.perf_counter() - start
    finally:
        if collecting:
            gc.enable()
    return _statistics(*taken)


def _timed(call: Call, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def _statistics(a: list[float], b: list[float]) -> Timing:
    quotients = [x / y for x, y in zip(a, b, strict=True)]
    low, high = quartiles(quotients)
    ratio = statistics.median(quotients)
    return Timing(statistics.median(a), statistics.median(b), ratio, low, high, len(quotients))


def quartiles(values: list[float]) -> tuple[float, float]:
    """The first and the third quartile; of a single value the value twice."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def alone(call: Call, seconds: float) -> float:
    """Seconds of a call, the median of calls that are timed without another in between."""
    call()
    end = time.perf_counter() + seconds
    taken = [_timed(call, 1) for _ in range(3)]
    while time.perf_counter() < end:
        taken.append(_timed(call, 1))
    return statistics.median(taken)


def time_layer(
    layer: Layer, contraction: str, t: Operands, dtype: str, layout: str, seconds: float
) -> Timing:
    """Time a contraction of a layer. Of the variant 'new width' each round has an input of another width."""
    if layer.variant != "new width":
        return in_turns(
            lambda _: (torch_call(layer, contraction, t), our_call(layer, contraction, t)), seconds
        )

    def prepare(number: int) -> tuple[Call, Call]:
        # 201 widths around the layer's, each once before any comes again, none close to the one before.
        one = dataclasses.replace(layer, w=max(1, layer.w + number * 37 % 201 - 100))
        new = operands(one, dtype, layout)
        return torch_call(one, contraction, new), our_call(one, contraction, new)

    return in_turns(prepare, seconds, fresh=True)


def copy_share(layer: Layer, contraction: str, t: Operands, ours: float, seconds: float) -> float | None:
    """Our bandwidth as a share of a copy's, for depthwise 3x3 outputs and input gradients; else None.

    Ours counts the image read and the image written. The copy is the image that is read, cloned: into fresh
    memory too.
    """
    if layer.layer_class != "depthwise" or (layer.kh, layer.kw) != (3, 3) or contraction == "grad_weight":
        return None
    read = t.x if contraction == "forward" else t.dy
    copied = 2 * read.numel() / alone(read.clone, seconds)
    return (t.x.numel() + t.dy.numel()) / ours / copied
