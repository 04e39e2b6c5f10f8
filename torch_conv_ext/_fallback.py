"""The same functions by torch's operators, for tensors that have no kernel here.

What torch's operators do not take, such as a padding for each side, they get as a padded input or as a part
of a larger output.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import grad

from torch_conv_ext._args import (
    IntOrPair,
    Padding,
    Pair,
    check_batch,
    check_grad_output,
    check_input,
    conv2d_geometry,
    conv_transpose2d_geometry,
    is_nested,
    pair,
)
from torch_conv_ext._autograd import bias_gradient
from torch_conv_ext._border import padded, reach


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: IntOrPair,
    padding: Padding,
    dilation: IntOrPair,
    groups: int,
    padding_mode: str,
) -> Tensor:
    same_with_stride = (
        isinstance(padding, str) and padding == "same" and pair(stride, "stride", "conv2d") != (1, 1)
    )
    if padding_mode == "zeros" and not same_with_stride and not is_nested(padding):
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)  # type: ignore[arg-type]
    size = _batch_size(input, "conv2d")
    _, after, (_, before, *_) = conv2d_geometry(size, weight.shape, None, stride, padding, dilation, groups)
    return F.conv2d(padded(input, before, after, padding_mode), weight, bias, stride, 0, dilation, groups)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: IntOrPair,
    padding: Padding,
    output_padding: IntOrPair,
    groups: int,
    dilation: IntOrPair,
    padding_mode: str,
) -> Tensor:
    if _is_plain(padding) and padding_mode == "zeros":
        options = (stride, padding, output_padding, groups, dilation)
        return F.conv_transpose2d(input, weight, bias, *options)  # type: ignore[arg-type]
    size = _batch_size(input, "conv_transpose2d")
    out, geometry = conv_transpose2d_geometry(
        size, weight.shape, None, stride, padding, output_padding, groups, dilation
    )
    step, begin, dilations, _ = geometry
    if padding_mode != "zeros":
        before, after = reach(size[2:], weight.shape[2:], out, geometry)
        input = padded(input, before, after, padding_mode)
        begin = begin[0] + before[0] * step[0], begin[1] + before[1] * step[1]
    # The whole output, and the rows and columns of the part that are not in it.
    missing = [
        max(0, b + o - (i - 1) * s - d * (k - 1) - 1)
        for b, o, i, s, d, k in zip(
            begin, out, input.shape[-2:], step, dilations, weight.shape[2:], strict=True
        )
    ]
    y = F.conv_transpose2d(input, weight, bias, stride, 0, missing, groups, dilation)
    return _part(y, begin, out)


def conv2d_input(
    input_size: Sequence[int],
    weight: Tensor,
    grad_output: Tensor,
    stride: IntOrPair,
    padding: Padding,
    dilation: IntOrPair,
    groups: int,
) -> Tensor:
    if _is_plain(padding):
        dx: Tensor = grad.conv2d_input(input_size, weight, grad_output, stride, padding, dilation, groups)
        return dx
    check_batch(input_size, "input", "conv2d_input")
    n, c, *plane = input_size
    _, after, (_, before, *_) = conv2d_geometry(
        input_size, weight.shape, None, stride, padding, dilation, groups, "conv2d_input"
    )
    whole = [n, c, *(b + i + a for b, i, a in zip(before, plane, after, strict=True))]
    dx = grad.conv2d_input(whole, weight, grad_output, stride, 0, dilation, groups)
    return _part(dx, before, (plane[0], plane[1]))


def conv2d_weight(
    input: Tensor,
    weight_size: Sequence[int],
    grad_output: Tensor,
    stride: IntOrPair,
    padding: Padding,
    dilation: IntOrPair,
    groups: int,
) -> Tensor:
    if not _is_plain(padding):
        check_batch(input.shape, "input", "conv2d_weight")
        _, after, (_, before, *_) = conv2d_geometry(
            input.shape, weight_size, None, stride, padding, dilation, groups, "conv2d_weight"
        )
        input, padding = padded(input, before, after, "zeros"), 0
    dw: Tensor = grad.conv2d_weight(input, weight_size, grad_output, stride, padding, dilation, groups)
    return dw


def conv2d_bias(grad_output: Tensor) -> Tensor:
    check_batch(grad_output.shape, "grad_output", "conv2d_bias")
    return bias_gradient(grad_output)


def conv_transpose2d_input(
    input_size: Sequence[int],
    weight: Tensor,
    grad_output: Tensor,
    stride: IntOrPair,
    padding: Padding,
    output_padding: IntOrPair,
    groups: int,
    dilation: IntOrPair,
) -> Tensor:
    check_batch(input_size, "input", "conv_transpose2d_input")
    options = (stride, padding, output_padding, groups, dilation)
    whole = _whole(grad_output, input_size, weight.shape, options, "conv_transpose2d_input")
    return F.conv2d(whole, weight, None, stride, 0, dilation, groups)


def conv_transpose2d_weight(
    input: Tensor,
    weight_size: Sequence[int],
    grad_output: Tensor,
    stride: IntOrPair,
    padding: Padding,
    output_padding: IntOrPair,
    groups: int,
    dilation: IntOrPair,
) -> Tensor:
    check_batch(input.shape, "input", "conv_transpose2d_weight")
    options = (stride, padding, output_padding, groups, dilation)
    whole = _whole(grad_output, input.shape, weight_size, options, "conv_transpose2d_weight")
    dw: Tensor = grad.conv2d_weight(whole, weight_size, input, stride, 0, dilation, groups)
    return dw


def _whole(
    grad_output: Tensor,
    input_size: Sequence[int],
    weight_size: Sequence[int],
    options: tuple[IntOrPair, Padding, IntOrPair, int, IntOrPair],
    function: str,
) -> Tensor:
    """The gradient of a transposed convolution's output without padding, of which the given one is a part."""
    size, geometry = conv_transpose2d_geometry(input_size, weight_size, None, *options, function)
    stride, before, dilation, groups = geometry
    check_grad_output(grad_output, (input_size[0], weight_size[1] * groups, *size), function)
    after = [
        (i - 1) * s + d * (k - 1) + 1 - b - o
        for i, s, d, k, b, o in zip(
            input_size[2:], stride, dilation, weight_size[2:], before, size, strict=True
        )
    ]
    return padded(grad_output, before, (after[0], after[1]), "zeros")


def _is_plain(padding: Padding) -> bool:
    return not isinstance(padding, str) and not is_nested(padding)


def _batch_size(input: Tensor, function: str) -> torch.Size:
    check_input(input, function)
    return input.shape if input.dim() == 4 else torch.Size((1, *input.shape))


def _part(t: Tensor, begin: Pair, size: Pair) -> Tensor:
    return t.narrow(-2, begin[0], size[0]).narrow(-1, begin[1], size[1])
