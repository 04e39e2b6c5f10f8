"""conv2d, conv_transpose2d and their gradients, with the signatures of torch.nn.functional and torch.nn.grad.

What runs here: plain tensors on the CPU, dense, in any strides, all float32 or all float64. A result is
channels_last if one of its two operands is, else contiguous. Nothing is copied, neither for padding='same'
nor for an input without a batch.

What goes to torch's own operator, so that every model runs: tensors on other devices, of other dtypes
(bfloat16, float16, complex, integers) or of a subclass; all calls under torch.autocast, which chooses a dtype
itself, and under torch.jit.trace; and code that torch.compile compiles under a functorch transform or in
forward mode. torch.fx.symbolic_trace records a call of these functions.

Errors have the type and the words of torch's operators where those have clear ones: RuntimeError for tensors
and numbers that do not fit together, TypeError for an argument of the wrong type. Tensors that differ in
device or dtype are an error everywhere, also where torch lets some pass.

All functions can be differentiated to any order, in reverse and in forward mode, and vmapped without a loop.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor
from torch.nn import grad

from torch_conv_ext._args import (
    IntOrPair,
    check_batch,
    check_grad_output,
    check_input,
    conv2d_geometry,
    conv_transpose2d_geometry,
)
from torch_conv_ext._autograd import Forward, GradInput, GradWeight, contract
from torch_conv_ext._dispatch import elsewhere, has_kernel

__all__ = [
    "Conv2dFunction",
    "ConvTranspose2dFunction",
    "conv2d",
    "conv2d_input",
    "conv2d_weight",
    "conv_transpose2d",
]


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrPair = 1,
    padding: str | IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
) -> Tensor:
    """2-D convolution (cross-correlation), as torch.nn.functional.conv2d.

    Args:
        input: (N, C_in, iH, iW), or (C_in, iH, iW).
        weight: (C_out, C_in / groups, kH, kW).
        bias: (C_out), or None.
        stride: step of the kernel, an integer or (height, width).
        padding: zeros on each side, an integer or (height, width); 'valid' for none; 'same', with stride 1,
            for an output of the input's size: of an odd number of zeros the larger part lies below and right.
        dilation: step between the kernel's elements, an integer or (height, width).
        groups: number of blocks of channels that are convolved separately.

    Returns:
        (N, C_out, oH, oW), or (C_out, oH, oW), with o = (i + 2*padding - dilation*(k - 1) - 1) // stride + 1.

    Raises:
        RuntimeError: sizes, devices or dtypes that do not fit together, or numbers out of range.
        TypeError: an argument of the wrong type.
    """
    if not has_kernel("conv2d", input, weight, bias):
        return elsewhere(conv2d, F.conv2d, input, weight, bias, stride, padding, dilation, groups)
    if input.dim() != 4:
        check_input(input, "conv2d")
        return conv2d(input.unsqueeze(0), weight, bias, stride, padding, dilation, groups).squeeze(0)
    size, geometry = conv2d_geometry(input.shape, weight.shape, bias, stride, padding, dilation, groups)
    return contract(Conv2dFunction, input, weight, bias, size, geometry)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    output_padding: IntOrPair = 0,
    groups: int = 1,
    dilation: IntOrPair = 1,
) -> Tensor:
    """2-D transposed convolution, conv2d's gradient by its input, as torch.nn.functional.conv_transpose2d.

    Args:
        input: (N, C_in, iH, iW), or (C_in, iH, iW).
        weight: (C_in, C_out / groups, kH, kW).
        bias: (C_out), or None.
        stride: step between the kernel's places in the output, an integer or (height, width).
        padding: rows and columns cut off on each side of the output, an integer or (height, width).
        output_padding: rows and columns added below and right, an integer or (height, width). conv2d with
            stride s gives s sizes of input the same size of output; this chooses one of them. Must be smaller
            than the stride or the dilation.
        groups: number of blocks of channels that are convolved separately.
        dilation: step between the kernel's elements, an integer or (height, width).

    Returns:
        (N, C_out, oH, oW), or (C_out, oH, oW), with
        o = (i - 1)*stride - 2*padding + dilation*(k - 1) + output_padding + 1.

    Raises:
        RuntimeError: sizes, devices or dtypes that do not fit together, or numbers out of range.
        TypeError: an argument of the wrong type.
    """
    options = (stride, padding, output_padding, groups, dilation)
    if not has_kernel("conv_transpose2d", input, weight, bias):
        return elsewhere(conv_transpose2d, F.conv_transpose2d, input, weight, bias, *options)
    if input.dim() != 4:
        check_input(input, "conv_transpose2d")
        return conv_transpose2d(input.unsqueeze(0), weight, bias, *options).squeeze(0)
    size, geometry = conv_transpose2d_geometry(input.shape, weight.shape, bias, *options)
    return contract(ConvTranspose2dFunction, input, weight, bias, size, geometry)


def conv2d_input(
    input_size: Sequence[int],
    weight: Tensor,
    grad_output: Tensor,
    stride: IntOrPair = 1,
    padding: str | IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
) -> Tensor:
    """The gradient of conv2d by its input, as torch.nn.grad.conv2d_input.

    Args:
        input_size: the input's size, (N, C_in, iH, iW). With a stride it does not follow from other sizes.
        weight: (C_out, C_in / groups, kH, kW).
        grad_output: the gradient of the output, (N, C_out, oH, oW).
        stride, padding, dilation, groups: those of conv2d.

    Returns:
        (N, C_in, iH, iW).

    Raises:
        RuntimeError: sizes, devices or dtypes that do not fit together, or numbers out of range.
        TypeError: an argument of the wrong type.
    """
    function, options = "conv2d_input", (stride, padding, dilation, groups)
    if not has_kernel(function, weight, grad_output, names=("weight", "grad_output", "bias")):
        return elsewhere(conv2d_input, grad.conv2d_input, input_size, weight, grad_output, *options)
    check_batch(input_size, "input", function)
    n, _, ih, iw = input_size
    size, geometry = conv2d_geometry(input_size, weight.shape, None, *options, function)
    check_grad_output(grad_output, (n, weight.shape[0], *size), function)
    return contract(GradInput, grad_output, weight, None, (ih, iw), geometry)


def conv2d_weight(
    input: Tensor,
    weight_size: Sequence[int],
    grad_output: Tensor,
    stride: IntOrPair = 1,
    padding: str | IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
) -> Tensor:
    """The gradient of conv2d by its weight, as torch.nn.grad.conv2d_weight.

    Args:
        input: (N, C_in, iH, iW).
        weight_size: the weight's size, (C_out, C_in / groups, kH, kW).
        grad_output: the gradient of the output, (N, C_out, oH, oW).
        stride, padding, dilation, groups: those of conv2d.

    Returns:
        (C_out, C_in / groups, kH, kW).

    Raises:
        RuntimeError: sizes, devices or dtypes that do not fit together, or numbers out of range.
        TypeError: an argument of the wrong type.
    """
    function, options = "conv2d_weight", (stride, padding, dilation, groups)
    if not has_kernel(function, input, grad_output, names=("input", "grad_output", "bias")):
        return elsewhere(conv2d_weight, grad.conv2d_weight, input, weight_size, grad_output, *options)
    check_batch(input.shape, "input", function)
    size, geometry = conv2d_geometry(input.shape, weight_size, None, *options, function)
    co, _, kh, kw = weight_size
    check_grad_output(grad_output, (input.shape[0], co, *size), function)
    return contract(GradWeight, input, grad_output, None, (kh, kw), geometry)


class Conv2dFunction(Forward):
    """conv2d as a torch.autograd.Function: the node that conv2d leaves in the graph.

    `Conv2dFunction.apply(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1)`
    """

    apply = staticmethod(conv2d)


class ConvTranspose2dFunction(GradInput):
    """conv_transpose2d as a torch.autograd.Function: the node that conv_transpose2d leaves in the graph.

    `ConvTranspose2dFunction.apply(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1,
    dilation=1)`
    """

    apply = staticmethod(conv_transpose2d)
