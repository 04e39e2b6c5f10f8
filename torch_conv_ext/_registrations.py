"""What torch's tools are told about the operators and the functions, each in the tool's own table.

The derivatives are in `_autograd`, the sizes of results in `_ops`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode
from torch.jit import _builtins
from torch.utils.flop_counter import register_flop_formula

from torch_conv_ext import _ops, functional

Shape = Sequence[int]

# --- torch.onnx.export --------------------------------------------------------------------------------------
#
# The operators in terms of torch's own: a model becomes standard Conv and ConvTranspose nodes, however it was
# captured. Only where torch.onnx traces: in the table of all decompositions they would be taken for ones that
# torch.compile has missed, an error where the environment variable CI is set. grad_weight has none: it stands
# in no inference graph, and ONNX has no such node.

_convolution: Callable[..., Tensor] = torch.ops.aten.convolution.default


def _forward(
    x: Tensor, w: Tensor, bias: Tensor | None, output_h: int, output_w: int, *geometry: int
) -> Tensor:
    """A convolution. Where torch's formula gives another size, zeros are added to x, or rows cut off."""
    *pairs, groups = geometry
    stride, padding, dilation = (pairs[i : i + 2] for i in (0, 2, 4))
    below = []  # the padding below and right that the output's size asks for
    as_torch = all(p >= 0 for p in padding)
    for i, o, k, s, p, d in zip(
        x.shape[2:], (output_h, output_w), w.shape[2:], stride, padding, dilation, strict=True
    ):
        reach = d * (k - 1) + 1
        as_torch = as_torch and _surely((i + 2 * p - reach) // s + 1 == o)
        below.append((o - 1) * s + reach - i - p)
    if not as_torch:
        x = F.pad(x, (padding[1], below[1], padding[0], below[0]))
        padding = [0, 0]
    return _convolution(x, w, bias, stride, padding, dilation, False, [0, 0], groups)


def _grad_input(
    dy: Tensor, w: Tensor, bias: Tensor | None, input_h: int, input_w: int, *geometry: int
) -> Tensor:
    """A transposed convolution. Rows that no product reaches are its output padding, or are added to it.

    torch has output paddings as large as the dilation too; onnxruntime has those below the stride.
    """
    *pairs, groups = geometry
    stride, padding, dilation = (pairs[i : i + 2] for i in (0, 2, 4))
    extra = [
        i - ((o - 1) * s - 2 * p + d * (k - 1) + 1)
        for i, o, k, s, p, d in zip(
            (input_h, input_w), dy.shape[2:], w.shape[2:], stride, padding, dilation, strict=True
        )
    ]
    if all(
        p >= 0 and _surely(e >= 0) and _surely(e < s) for e, p, s in zip(extra, padding, stride, strict=True)
    ):
        return _convolution(dy, w, bias, stride, padding, dilation, True, extra, groups)
    dx = _convolution(dy, w, None, stride, [0, 0], dilation, True, [0, 0], groups)
    below = [e - p for e, p in zip(extra, padding, strict=True)]
    dx = F.pad(dx, (-padding[1], below[1], -padding[0], below[0]))
    return dx if bias is None else dx + bias[:, None, None]


def _surely(condition: bool) -> bool:
    """Whether it holds for all sizes, where the sizes are symbols."""
    from torch.fx.experimental.symbolic_shapes import statically_known_true  # takes a second to import

    return statically_known_true(condition)


DECOMPOSITIONS: dict[Any, Callable[..., Tensor]] = {_ops.forward: _forward, _ops.grad_input: _grad_input}


def _trace(
    mode: ProxyTorchDispatchMode, operator: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Record a call of an operator, or for ONNX the calls that it comes to."""
    if not torch.onnx.is_in_onnx_export():
        return mode.__torch_dispatch__(operator, types, args, kwargs)
    with mode:
        return DECOMPOSITIONS[operator](*args, **kwargs)


for _operator in DECOMPOSITIONS:
    torch.library.register_torch_dispatch(_operator, ProxyTorchDispatchMode, _trace)

# --- torch.utils.flop_counter -------------------------------------------------------------------------------


def _flops(y: Shape, w: Shape) -> int:
    """Two for each product in T, those with the padding's zeros included: torch's count for convolutions.

    The strips of a padding mode (`_border`) are calls of their own, and counted beside.
    """
    return 2 * y[0] * y[2] * y[3] * math.prod(w)


@register_flop_formula(torch.ops.torch_conv_ext.forward)
def _forward_flops(x: Shape, w: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    return _flops(out_shape, w)


@register_flop_formula(torch.ops.torch_conv_ext.grad_input)
def _grad_input_flops(dy: Shape, w: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    return _flops(dy, w)


@register_flop_formula(torch.ops.torch_conv_ext.grad_weight)
def _grad_weight_flops(x: Shape, dy: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    return _flops(dy, out_shape)


# --- torch.jit.script ---------------------------------------------------------------------------------------
#
# Scripted code calls torch's operators, as traced code does: it runs without Python.

_builtins._register_builtin(functional.conv2d, "aten::conv2d")
_builtins._register_builtin(functional.conv_transpose2d, "aten::conv_transpose2d")
