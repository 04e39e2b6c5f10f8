"""The compiled operators, and what torch.compile has to know about them without running them.

    forward(x, w, bias, output_h, output_w, ...)     -> y
    grad_input(dy, w, bias, input_h, input_w, ...)   -> dx
    grad_weight(x, dy, kernel_h, kernel_w, ...)      -> dw
    ... is stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, groups

    x, dx (N, G*Ci, iH, iW)   w, dw (G*Co, Ci, kH, kW)   y, dy (N, G*Co, oH, oW)   bias: one per channel

The tensors are float32 or float64, on the CPU, in any strides. The size argument is the free size of the
result along height and width; no formula between the sizes is assumed. `_autograd` has the derivatives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch  # before _C: it loads the libraries that _C is linked to
from torch import Tensor
from torch._prims_common import suggest_memory_format

from torch_conv_ext import _C  # registers the operators

__all__ = ["_C", "empty_result", "forward", "grad_input", "grad_weight", "quick"]

forward: Callable[..., Tensor] = torch.ops.torch_conv_ext.forward.default
grad_input: Callable[..., Tensor] = torch.ops.torch_conv_ext.grad_input.default
grad_weight: Callable[..., Tensor] = torch.ops.torch_conv_ext.grad_weight.default


def quick(operator: Any) -> Callable[..., Tensor]:
    """What a call of an operator calls, without the function around it that torch.compile traces."""
    inner: Callable[..., Tensor] = getattr(operator, "_op", operator)
    return inner


def empty_result(a: Tensor, b: Tensor, shape: Sequence[int]) -> Tensor:
    """An empty result with the kernel's strides: channels_last if one of the two operands suggests it."""
    formats = (suggest_memory_format(a), suggest_memory_format(b))
    chosen = torch.channels_last if torch.channels_last in formats else torch.contiguous_format
    return torch.empty(shape, dtype=a.dtype, device=a.device, memory_format=chosen)


@torch.library.register_fake("torch_conv_ext::forward")
def forward_fake(
    x: Tensor, w: Tensor, bias: Tensor | None, output_h: int, output_w: int, *geometry: int
) -> Tensor:
    return empty_result(x, w, (x.shape[0], w.shape[0], output_h, output_w))


@torch.library.register_fake("torch_conv_ext::grad_input")
def grad_input_fake(
    dy: Tensor, w: Tensor, bias: Tensor | None, input_h: int, input_w: int, *geometry: int
) -> Tensor:
    return empty_result(dy, w, (dy.shape[0], w.shape[1] * geometry[-1], input_h, input_w))


@torch.library.register_fake("torch_conv_ext::grad_weight")
def grad_weight_fake(x: Tensor, dy: Tensor, kernel_h: int, kernel_w: int, *geometry: int) -> Tensor:
    return empty_result(x, dy, (dy.shape[1], x.shape[1] // geometry[-1], kernel_h, kernel_w))
