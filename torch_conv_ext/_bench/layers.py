"""A convolution layer as numbers, the class that it belongs to, and suites of layers."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable
from typing import Literal

from torch_conv_ext._args import Pair

Op = Literal["conv2d", "conv_transpose2d"]
LayerClass = Literal["dense", "depthwise", "grouped", "thin", "transposed"]
# What differs from plain tensors: weights that are denormal numbers, or a width that is new in each call.
Variant = Literal["", "denormal weights", "new width"]

CONTRACTIONS = ("forward", "grad_input", "grad_weight")
CLASSES: tuple[LayerClass, ...] = ("dense", "depthwise", "grouped", "thin", "transposed")
# Parts of the dense class: with enough channels for Winograd's transforms to pay, and without any Winograd.
DENSE_WINOGRAD = "3x3 s1 >= 64 channels"
DENSE_DIRECT = "direct dense"


@dataclasses.dataclass(frozen=True)
class Layer:
    """One call of conv2d or conv_transpose2d.

    n is the batch, ci and co are all input and output channels of the operator (not per group), h and w are
    the size of its input: of a transposed convolution the small one. `count` is how often the layer stands in
    its network.
    """

    name: str
    suite: str
    op: Op
    n: int
    ci: int
    co: int
    h: int
    w: int
    kh: int
    kw: int
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    output_padding: Pair = (0, 0)
    count: int = 1
    variant: Variant = ""

    @property
    def transposed(self) -> bool:
        return self.op == "conv_transpose2d"

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        return self.n, self.ci, self.h, self.w

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        first, second = (self.ci, self.co) if self.transposed else (self.co, self.ci)
        return first, second // self.groups, self.kh, self.kw

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        sizes = zip(
            (self.h, self.w),
            (self.kh, self.kw),
            self.stride,
            self.padding,
            self.dilation,
            self.output_padding,
            strict=True,
        )
        if self.transposed:
            oh, ow = ((i - 1) * s - 2 * p + d * (k - 1) + op + 1 for i, k, s, p, d, op in sizes)
        else:
            oh, ow = ((i + 2 * p - d * (k - 1) - 1) // s + 1 for i, k, s, p, d, _ in sizes)
        return self.n, self.co, oh, ow

    @property
    def flops(self) -> int:
        """Of each of the three contractions: two for each term of the sum. Terms in the padding count."""
        pixels = self.input_shape[2:] if self.transposed else self.output_shape[2:]
        return 2 * self.n * math.prod(pixels) * math.prod(self.weight_shape)

    @property
    def layer_class(self) -> LayerClass:
        """The class. Thin is a layer of one group with at most 3 input or output channels."""
        if self.transposed:
            return "transposed"
        if self.groups > 1:
            return "depthwise" if self.groups == self.ci else "grouped"
        return "thin" if min(self.ci, self.co) <= 3 else "dense"

    @property
    def tags(self) -> tuple[str, ...]:
        """The class, and for a dense layer the part of it."""
        if self.layer_class != "dense":
            return (self.layer_class,)
        if (self.kh, self.kw) != (3, 3) or self.stride != (1, 1) or self.dilation != (1, 1):
            return "dense", DENSE_DIRECT
        return ("dense", DENSE_WINOGRAD) if min(self.ci, self.co) >= 64 else ("dense",)

    @property
    def geometry(self) -> tuple[object, ...]:
        """All that its speed depends on."""
        names = ("name", "suite", "count")
        return tuple(v for k, v in vars(self).items() if k not in names)

    def describe(self) -> str:
        """A short name made from the numbers, without the batch.

        'T g32 3x3 s2 p0 128-256 @56': transposed, 32 groups ('dw': depthwise), kernel, stride, padding,
        channels, size of the input. What is usual is left out: stride 1, dilation 1, as padding the dilation
        times k - 1, halved.
        """
        parts = ["T"] if self.transposed else []
        if self.groups > 1:
            parts.append("dw" if self.groups == self.ci else f"g{self.groups}")
        parts.append(f"{self.kh}x{self.kw}")
        for letter, pair in (("s", self.stride), ("d", self.dilation)):
            if pair != (1, 1):
                parts.append(letter + _pair(pair))
        size = (self.kh, self.kw)
        same = tuple(d * (k - 1) // 2 for k, d in zip(size, self.dilation, strict=True))
        if self.padding != same:
            parts.append("p" + _pair(self.padding))
        if self.output_padding != (0, 0):
            parts.append("op" + _pair(self.output_padding))
        channels = f"{self.ci}" if self.ci == self.co else f"{self.ci}-{self.co}"
        return " ".join([*parts, channels, "@" + _pair((self.h, self.w))])


def _pair(pair: Pair) -> str:
    return f"{pair[0]}" if pair[0] == pair[1] else f"{pair[0]}x{pair[1]}"


@dataclasses.dataclass(frozen=True)
class Suite:
    """Layers that belong together, and where their numbers are from."""

    name: str
    source: str
    layers: tuple[Layer, ...]


class Network:
    """Walks through a network and notes its layers. It keeps the channels and the size of the current tensor.

    Each method moves on and returns the network, so calls can be chained. Equal layers are counted.
    """

    def __init__(self, suite: str, n: int, c: int, h: int, w: int | None = None) -> None:
        self.suite, self.n = suite, n
        self.c, self.h, self.w = c, h, h if w is None else w
        self._counts: dict[Layer, int] = {}

    def at(self, c: int, h: int, w: int | None = None) -> Network:
        """Go on with a tensor of c channels and this size: after a pooling, a concatenation, for a branch."""
        self.c, self.h, self.w = c, h, h if w is None else w
        return self

    def conv(
        self,
        co: int,
        k: int | Pair,
        s: int | Pair = 1,
        p: int | Pair | None = None,
        d: int | Pair = 1,
        g: int = 1,
        variant: Variant = "",
    ) -> Network:
        """conv2d. The padding is that of an output of the input's size, or of half of it, unless given."""
        (kh, kw), (dh, dw) = _as_pair(k), _as_pair(d)
        padding = (dh * (kh - 1) // 2, dw * (kw - 1) // 2) if p is None else _as_pair(p)
        return self._note("conv2d", co, (kh, kw), _as_pair(s), padding, (dh, dw), g, (0, 0), variant)

    def up(
        self,
        co: int,
        k: int | Pair,
        s: int | Pair = 1,
        p: int | Pair = 0,
        op: int | Pair = 0,
        g: int = 1,
        variant: Variant = "",
    ) -> Network:
        """conv_transpose2d."""
        pairs = (_as_pair(k), _as_pair(s), _as_pair(p), (1, 1))
        return self._note("conv_transpose2d", co, *pairs, g, _as_pair(op), variant)

    def _note(
        self,
        op: Op,
        co: int,
        kernel: Pair,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
        groups: int,
        output_padding: Pair,
        variant: Variant,
    ) -> Network:
        numbers = (self.n, self.c, co, self.h, self.w, *kernel, stride, padding, dilation, groups)
        layer = Layer("", self.suite, op, *numbers, output_padding, variant=variant)
        name = " ".join([layer.describe(), *([variant] if variant else [])])
        layer = dataclasses.replace(layer, name=name)
        self._counts[layer] = self._counts.get(layer, 0) + 1
        _, self.c, self.h, self.w = layer.output_shape
        return self

    def layers(self) -> tuple[Layer, ...]:
        """The different layers, in the order of their first use."""
        return tuple(dataclasses.replace(layer, count=c) for layer, c in self._counts.items())


def _as_pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else value


def without_repeats(layers: Iterable[Layer]) -> list[Layer]:
    """The layers that differ in geometry, each from the first suite that has it."""
    first: dict[tuple[object, ...], Layer] = {}
    for layer in layers:
        first.setdefault(layer.geometry, layer)
    return list(first.values())


def merged(*suites: Iterable[Suite]) -> dict[str, Suite]:
    """Suites by name. ValueError if two have the same name."""
    by_name: dict[str, Suite] = {}
    for suite in itertools.chain(*suites):
        if suite.name in by_name:
            raise ValueError(f"two suites have the name {suite.name!r}")
        by_name[suite.name] = suite
    return by_name
