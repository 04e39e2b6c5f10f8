"""Padding by its definition, a composition of torch's operators: pad, a convolution, a crop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import torch_conv_ext

Function = Callable[..., Any]
# mypy does not follow `*tensors, *options`.
conv2d: Function = torch_conv_ext.conv2d
conv_transpose2d: Function = torch_conv_ext.conv_transpose2d

Pair = tuple[int, int]
Sides = tuple[Pair, Pair]

NAMES = ("conv2d", "conv_transpose2d")
# As far as the reference continues an input: farther than any kernel here reaches.
FAR = 6


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(result: Any, expected: Any) -> None:
    """Second derivatives here are sums of some thousand terms up to 1e3: 1e-9 is far more than rounding."""
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)


def pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else value


def nested(padding: Any) -> Sides:
    h, w = pair(padding)
    return pair(h), pair(w)


def with_derivatives(function: Function, *tensors: Tensor) -> list[Tensor]:
    """The result, its gradients and second derivatives."""
    inputs = [t.clone().requires_grad_() for t in tensors]
    y = function(*inputs)
    first = torch.autograd.grad(y.sin().sum(), inputs, create_graph=True)
    return [y, *first, *torch.autograd.grad(torch.cat([g.sin().flatten() for g in first]).sum(), inputs)]


def padded_conv2d(
    stride: Any, sides: Sides, dilation: Any = 1, groups: int = 1, mode: str = "constant"
) -> Function:
    """The definition of conv2d with a padding."""
    ends = (*sides[1], *sides[0])
    return lambda x, w, b: F.conv2d(F.pad(x, ends, mode=mode), w, b, stride, 0, dilation, groups)


def cropped_conv_transpose2d(
    stride: Any, sides: Sides, dilation: Any, groups: int, mode: str, size: Sequence[int]
) -> Function:
    """The definition of conv_transpose2d with a padding: of the transposed convolution of a longer input, the
    part that begins `sides` below and right of where the output of the input itself begins."""
    top, left = (first + FAR * s for (first, _), s in zip(sides, pair(stride), strict=True))

    def run(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        longer = F.pad(x, (FAR,) * 4, mode=mode)
        y = F.conv_transpose2d(longer, w, b, stride, 0, 0, groups, dilation)
        return y[:, :, top : top + size[0], left : left + size[1]]

    return run
