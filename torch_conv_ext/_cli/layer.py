"""A layer on the command line: `conv2d --input 8,64,56,56 --weight 64,64,3,3 --padding 1`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torch_conv_ext import planning
from torch_conv_ext._args import PADDING_NAMES, IntOrPair, Padding
from torch_conv_ext._cli import UsageError

FUNCTIONS = ("conv2d", "conv_transpose2d")
LAYOUTS = ("nchw", "channels_last")
DTYPES = ("float32", "float64", "bfloat16", "float16")


@dataclass(frozen=True)
class Layer:
    """One call of conv2d or conv_transpose2d: sizes of the operands and all options."""

    function: str
    input: tuple[int, ...]  # (N, C_in, iH, iW), or (C_in, iH, iW)
    weight: tuple[
        int, ...
    ]  # conv2d: (C_out, C_in / groups, kH, kW); conv_transpose2d: (C_in, C_out / groups, kH, kW)
    stride: IntOrPair = 1
    padding: Padding = 0
    output_padding: IntOrPair = 0  # conv_transpose2d
    dilation: IntOrPair = 1
    groups: int = 1
    dtype: str = "float32"
    layout: str = "nchw"

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of the function."""
        options = {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
        }
        if self.function == "conv_transpose2d":
            options["output_padding"] = self.output_padding
        return options

    def plan(self) -> planning.Plan:
        """torch_conv_ext.plan of the layer; RuntimeError where the sizes do not fit together."""
        dtype = getattr(torch, self.dtype)
        return planning.plan(
            self.function, self.input, self.weight, **self.options, dtype=dtype, layout=self.layout
        )

    def operands(self, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Random input and weight in the dtype and the layout. The output has a variance of about one."""
        x = torch.randn(self.input, generator=generator, dtype=torch.float64)
        w = torch.randn(self.weight, generator=generator, dtype=torch.float64)
        channels = self.weight[1] if self.function == "conv2d" else self.weight[0] // self.groups
        w /= max(1, channels * self.weight[2] * self.weight[3]) ** 0.5
        return self.laid_out(x), self.laid_out(w)

    def laid_out(self, t: Tensor) -> Tensor:
        """The tensor in the dtype and the layout."""
        t = t.to(getattr(torch, self.dtype))
        return t.contiguous(memory_format=torch.channels_last) if self._channels_last(t) else t

    def _channels_last(self, t: Tensor) -> bool:
        return self.layout == "channels_last" and t.dim() == 4

    def run(self, namespace: Any, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        """Call the function of torch.nn.functional, or of torch_conv_ext."""
        y: Tensor = getattr(namespace, self.function)(x, w, bias, **self.options)
        return y


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The function, the sizes and the options of a layer."""
    parser.add_argument("function", choices=FUNCTIONS, metavar="|".join(FUNCTIONS))
    parser.add_argument(
        "--input", type=_sizes, required=True, metavar="N,C,H,W", help="size of the input, with or without N"
    )
    parser.add_argument(
        "--weight",
        type=_sizes,
        required=True,
        metavar="A,B,KH,KW",
        help="conv2d: C_out, C_in/groups, KH, KW; conv_transpose2d: C_in, C_out/groups, KH, KW",
    )
    parser.add_argument("--stride", type=_pair, default=1, metavar="S[,S]", help="default 1")
    parser.add_argument(
        "--padding",
        type=_padding,
        default=0,
        metavar="P[,P]|T,B,L,R",
        help="default 0; for each side: top, bottom, left, right; also 'same' and 'valid'",
    )
    parser.add_argument("--output-padding", type=_pair, metavar="P[,P]", help="conv_transpose2d; default 0")
    parser.add_argument("--dilation", type=_pair, default=1, metavar="D[,D]", help="default 1")
    parser.add_argument("--groups", type=_integer, default=1, metavar="G", help="default 1")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="default float32")
    parser.add_argument("--layout", choices=LAYOUTS, default="nchw", help="memory layout; default nchw")


def from_arguments(args: argparse.Namespace) -> Layer:
    """The layer of a parsed command line. UsageError for an option that the function does not have."""
    if args.function == "conv2d" and args.output_padding is not None:
        raise UsageError("--output-padding: expected conv_transpose2d, but got conv2d; leave the option out")
    return Layer(
        args.function,
        args.input,
        args.weight,
        args.stride,
        args.padding,
        0 if args.output_padding is None else args.output_padding,
        args.dilation,
        args.groups,
        args.dtype,
        args.layout,
    )


def _integers(text: str, counts: tuple[int, ...], expected: str) -> tuple[int, ...]:
    """Integers between commas, or between x as in 3x3."""
    try:
        values = tuple(int(part) for part in text.lower().replace("x", ",").split(","))
    except ValueError:
        values = ()
    if len(values) not in counts:
        raise argparse.ArgumentTypeError(f"expected {expected}, but got {text!r}")
    return values


def _sizes(text: str) -> tuple[int, ...]:
    sizes = _integers(text, (3, 4), "four sizes such as 8,64,56,56")
    if min(sizes) < 0:
        raise argparse.ArgumentTypeError(f"expected sizes of at least 0, but got {text!r}")
    return sizes


def _pair(text: str) -> IntOrPair:
    values = _integers(text, (1, 2), "one integer or two, such as 2 or 2,1")
    return values[0] if len(values) == 1 else values


def _integer(text: str) -> int:
    return _integers(text, (1,), "an integer")[0]


def _padding(text: str) -> Padding:
    if text in PADDING_NAMES:
        return text
    values = _integers(text, (1, 2, 4), "one, two or four integers, 'same' or 'valid'")
    if len(values) == 4:
        return values[:2], values[2:]
    return values[0] if len(values) == 1 else values
