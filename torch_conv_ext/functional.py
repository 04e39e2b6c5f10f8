"""conv2d, conv_transpose2d and their gradients, with the signatures of torch.nn.functional and torch.nn.grad.

What runs here: plain tensors on the CPU, dense, in any strides, all float32 or all float64. A result is
channels_last if one of its two operands is, else contiguous. Nothing is copied, neither for padding='same'
nor for an input without a batch.

What goes to torch's own operator, so that every model runs: tensors on other devices, of other dtypes
(bfloat16, float16, complex, integers) or of a subclass; and all calls under torch.autocast, which chooses a
dtype itself, and under torch.jit.trace. What is more than torch's operators take, they get as a padded input
or as part of an output. torch.fx.symbolic_trace records a call of these functions.

Beyond torch's arguments, all functions and both modules take, as `padding`:
  - 'same' with a stride, by TensorFlow's rule. A convolution has outputs of size ceil(input / stride), a
    transposed one of size input * stride. Along each axis the padding of both sides together is
    max((o - 1)*stride + dilation*(k - 1) + 1 - i, 0), with i the larger and o the smaller of the two sizes;
    the smaller half of it lies above or left;
  - ((top, bottom), (left, right)): a padding for each side.
conv2d, conv_transpose2d and the modules take a `padding_mode`:
  - 'zeros': absent elements;
  - 'reflect', 'replicate', 'circular': the input continued beyond its sides as torch.nn.functional.pad does.
    This takes no padded copy of the input: the forward pass and each derivative need O(border) memory beside
    their results. Only an input whose border has at least an eighth of its pixels is padded, and any input
    in code that torch.compile compiles.

Errors have the type and the words of torch's operators where those have clear ones: RuntimeError for tensors
and numbers that do not fit together, TypeError for an argument of the wrong type. Tensors that differ in
device or dtype are an error everywhere, also where torch lets some pass.

All functions can be differentiated to any order, in reverse and in forward mode, and vmapped without a loop.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from torch_conv_ext import _fallback
from torch_conv_ext._args import (
    IntOrPair,
    Padding,
    check_batch,
    check_grad_output,
    check_input,
    check_mode,
    conv2d_geometry,
    conv_transpose2d_geometry,
)
from torch_conv_ext._autograd import Call, Forward, GradInput, GradWeight, KnownCalls, contract, perform
from torch_conv_ext._border import extended_x, extended_y
from torch_conv_ext._dispatch import EAGER, elsewhere, has_kernel

__all__ = [
    "Conv2dFunction",
    "ConvTranspose2dFunction",
    "conv2d",
    "conv2d_bias",
    "conv2d_input",
    "conv2d_weight",
    "conv_transpose2d",
    "conv_transpose2d_input",
    "conv_transpose2d_weight",
]


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
) -> Tensor:
    """2-D convolution (cross-correlation), as torch.nn.functional.conv2d.

    Args:
        input: (N, C_in, iH, iW), or (C_in, iH, iW).
        weight: (C_out, C_in / groups, kH, kW).
        bias: (C_out), or None.
        stride: step of the kernel, an integer or (height, width).
        padding: rows and columns added on each side, an integer, (height, width) or ((top, bottom), (left,
            right)); 'valid' for none; 'same' for an output of size ceil(input / stride): of an odd number of
            them the larger part lies below and right.
        dilation: step between the kernel's elements, an integer or (height, width).
        groups: number of blocks of channels that are convolved separately.
        padding_mode: what the padding holds, 'zeros', 'reflect' (fewer than the input has), 'replicate' or
            'circular' (at most as many as the input has).

    Returns:
        (N, C_out, oH, oW), or (C_out, oH, oW), with o = (i + p - dilation*(k - 1) - 1) // stride + 1, where p
        is the padding of both sides together.

    Raises:
        RuntimeError: sizes, devices or dtypes that do not fit together, or numbers out of range.
        TypeError: an argument of the wrong type.
        ValueError: an unknown padding mode.
    """
    if padding_mode != "zeros":
        check_mode(padding_mode)
    where = has_kernel("conv2d", input, weight, bias)
    if not where:
        options = (stride, padding, dilation, groups)
        return elsewhere(conv2d, _fallback.conv2d, input, weight, bias, *options, padding_mode=padding_mode)
    key = None
    if where == EAGER and padding_mode == "zeros":
        sizes = input.shape, weight.shape, None if bias is None else bias.shape
        key = sizes, id(stride), id(padding), id(dilation), id(groups)
        call = _CONV2D.find(key)
        if call is not None:
            return perform(call, input, weight, bias)
    options = (stride, padding, dilation, groups)
    if input.dim() != 4:
        check_input(input, "conv2d")
        return conv2d(input.unsqueeze(0), weight, bias, *options, padding_mode=padding_mode).squeeze(0)
    size, after, geometry = conv2d_geometry(input.shape, weight.shape, bias, *options)
    if key is not None:
        call = Call.of(Conv2dFunction, input, weight, size, geometry)
        return perform(_CONV2D.keep(key, options, call), input, weight, bias)
    if padding_mode != "zeros":
        input, extended = extended_x(input, geometry, after, padding_mode)
        return contract(Conv2dFunction, input, weight, bias, size, extended)
    return contract(Conv2dFunction, input, weight, bias, size, geometry)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    output_padding: IntOrPair = 0,
    groups: int = 1,
    dilation: IntOrPair = 1,
    *,
    padding_mode: str = "zeros",
) -> Tensor:
    """2-D transposed convolution, conv2d's gradient by its input, as torch.nn.functional.conv_transpose2d.

    Args:
        input: (N, C_in, iH, iW), or (C_in, iH, iW).
        weight: (C_in, C_out / groups, kH, kW).
        bias: (C_out), or None.
        stride: step between the kernel's places in the output, an integer or (height, width).
        padding: rows and columns cut off on each side of the output, an integer, (height, width) or ((top,
            bottom), (left, right)); 'valid' for none; 'same' for an output of size input * stride, the
            gradient of conv2d's 'same' with this stride. 'same' takes no output padding.
        output_padding: rows and columns added below and right, an integer or (height, width). conv2d with
            stride s gives s sizes of input the same size of output; this chooses one of them. Must be smaller
            than the stride or the dilation.
        groups: number of blocks of channels that are convolved separately.
        dilation: step between the kernel's elements, an integer or (height, width).
        padding_mode: what lies beyond the sides of the input. 'zeros': nothing, so that outputs near the
            sides sum fewer terms than others. 'reflect', 'replicate', 'circular': the input goes on in that
            mode as far as the output reads it; of the transposed convolution of this longer input, the result
            is the part that lies where the output with 'zeros' lies. Its size stays the same. Along an axis
            the input goes on by max(0, (dilation*(k - 1) - padding) // stride) elements at the begin, and by
            max(0, (dilation*(k - 1) + output_padding - padding) // stride) at the end. On a torus, where
            output = input * stride, 'circular' is the gradient of conv2d's 'circular'.

    Returns:
        (N, C_out, oH, oW), or (C_out, oH, oW), with
        o = (i - 1)*stride - p + dilation*(k - 1) + output_padding + 1, where p is what is cut off both sides.

    Raises:
        RuntimeError: sizes, devices or dtypes that do not fit together, or numbers out of range.
        TypeError: an argument of the wrong type.
        ValueError: an unknown padding mode.
    """
    if padding_mode != "zeros":
        check_mode(padding_mode)
    options = (stride, padding, output_padding, groups, dilation)
    where = has_kernel("conv_transpose2d", input, weight, bias)
    if not where:
        return elsewhere(
            conv_transpose2d,
            _fallback.conv_transpose2d,
            input,
            weight,
            bias,
            *options,
            padding_mode=padding_mode,
        )
    key = None
    if where == EAGER and padding_mode == "zeros":
        sizes = input.shape, weight.shape, None if bias is None else bias.shape
        key = sizes, id(stride), id(padding), id(output_padding), id(groups), id(dilation)
        call = _CONV_TRANSPOSE2D.find(key)
        if call is not None:
            return perform(call, input, weight, bias)
    if input.dim() != 4:
        check_input(input, "conv_transpose2d")
        batch = input.unsqueeze(0)
        return conv_transpose2d(batch, weight, bias, *options, padding_mode=padding_mode).squeeze(0)
    size, geometry = conv_transpose2d_geometry(input.shape, weight.shape, bias, *options)
    if key is not None:
        call = Call.of(ConvTranspose2dFunction, input, weight, size, geometry)
        return perform(_CONV_TRANSPOSE2D.keep(key, options, call), input, weight, bias)
    if padding_mode != "zeros":
        input, extended = extended_y(input, weight.shape[2:], size, geometry, padding_mode)
        return contract(ConvTranspose2dFunction, input, weight, bias, size, extended)
    return contract(ConvTranspose2dFunction, input, weight, bias, size, geometry)


def conv2d_input(
    input_size: Sequence[int],
    weight: Tensor,
    grad_output: Tensor,
    stride: IntOrPair = 1,
    padding: Padding = 0,
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
        return elsewhere(conv2d_input, _fallback.conv2d_input, input_size, weight, grad_output, *options)
    check_batch(input_size, "input", function)
    n, _, ih, iw = input_size
    size, _, geometry = conv2d_geometry(input_size, weight.shape, None, *options, function)
    check_grad_output(grad_output, (n, weight.shape[0], *size), function)
    return contract(GradInput, grad_output, weight, None, (ih, iw), geometry)


def conv2d_weight(
    input: Tensor,
    weight_size: Sequence[int],
    grad_output: Tensor,
    stride: IntOrPair = 1,
    padding: Padding = 0,
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
        return elsewhere(conv2d_weight, _fallback.conv2d_weight, input, weight_size, grad_output, *options)
    check_batch(input.shape, "input", function)
    size, _, geometry = conv2d_geometry(input.shape, weight_size, None, *options, function)
    co, _, kh, kw = weight_size
    check_grad_output(grad_output, (input.shape[0], co, *size), function)
    return contract(GradWeight, input, grad_output, None, (kh, kw), geometry)


def conv2d_bias(grad_output: Tensor) -> Tensor:
    """The gradient of conv2d, and of conv_transpose2d, by the bias: the sum over all but the channels.

    Args:
        grad_output: the gradient of the output, (N, C_out, oH, oW), of any dtype and device.

    Returns:
        (C_out). Its bits do not depend on the number of threads.

    Raises:
        RuntimeError: a gradient that is not 4-D.
    """
    return elsewhere(conv2d_bias, _fallback.conv2d_bias, grad_output)


def conv_transpose2d_input(
    input_size: Sequence[int],
    weight: Tensor,
    grad_output: Tensor,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    output_padding: IntOrPair = 0,
    groups: int = 1,
    dilation: IntOrPair = 1,
) -> Tensor:
    """The gradient of conv_transpose2d by its input.

    Args:
        input_size: the input's size, (N, C_in, iH, iW).
        weight: (C_in, C_out / groups, kH, kW).
        grad_output: the gradient of the output, (N, C_out, oH, oW).
        stride, padding, output_padding, groups, dilation: those of conv_transpose2d.

    Returns:
        (N, C_in, iH, iW).

    Raises:
        RuntimeError: sizes, devices or dtypes that do not fit together, or numbers out of range.
        TypeError: an argument of the wrong type.
    """
    function, options = "conv_transpose2d_input", (stride, padding, output_padding, groups, dilation)
    if not has_kernel(function, weight, grad_output, names=("weight", "grad_output", "bias")):
        return elsewhere(
            conv_transpose2d_input,
            _fallback.conv_transpose2d_input,
            input_size,
            weight,
            grad_output,
            *options,
        )
    check_batch(input_size, "input", function)
    n, _, ih, iw = input_size
    size, geometry = conv_transpose2d_geometry(input_size, weight.shape, None, *options, function)
    check_grad_output(grad_output, (n, weight.shape[1] * geometry[3], *size), function)
    return contract(Forward, grad_output, weight, None, (ih, iw), geometry)


def conv_transpose2d_weight(
    input: Tensor,
    weight_size: Sequence[int],
    grad_output: Tensor,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    output_padding: IntOrPair = 0,
    groups: int = 1,
    dilation: IntOrPair = 1,
) -> Tensor:
    """The gradient of conv_transpose2d by its weight.

    Args:
        input: (N, C_in, iH, iW).
        weight_size: the weight's size, (C_in, C_out / groups, kH, kW).
        grad_output: the gradient of the output, (N, C_out, oH, oW).
        stride, padding, output_padding, groups, dilation: those of conv_transpose2d.

    Returns:
        (C_in, C_out / groups, kH, kW).

    Raises:
        RuntimeError: sizes, devices or dtypes that do not fit together, or numbers out of range.
        TypeError: an argument of the wrong type.
    """
    function, options = "conv_transpose2d_weight", (stride, padding, output_padding, groups, dilation)
    if not has_kernel(function, input, grad_output, names=("input", "grad_output", "bias")):
        return elsewhere(
            conv_transpose2d_weight,
            _fallback.conv_transpose2d_weight,
            input,
            weight_size,
            grad_output,
            *options,
        )
    check_batch(input.shape, "input", function)
    size, geometry = conv_transpose2d_geometry(input.shape, weight_size, None, *options, function)
    _, co, kh, kw = weight_size
    check_grad_output(grad_output, (input.shape[0], co * geometry[3], *size), function)
    return contract(GradWeight, grad_output, input, None, (kh, kw), geometry)


class Conv2dFunction(Forward):
    """conv2d as a torch.autograd.Function: the node that conv2d leaves in the graph.

    `Conv2dFunction.apply(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, *,
    padding_mode='zeros')`
    """

    apply = staticmethod(conv2d)


class ConvTranspose2dFunction(GradInput):
    """conv_transpose2d as a torch.autograd.Function: the node that conv_transpose2d leaves in the graph.

    `ConvTranspose2dFunction.apply(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1,
    dilation=1, *, padding_mode='zeros')`
    """

    apply = staticmethod(conv_transpose2d)


_CONV2D = KnownCalls()
_CONV_TRANSPOSE2D = KnownCalls()
