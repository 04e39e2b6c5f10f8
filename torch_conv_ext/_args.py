"""What the public functions accept: arguments in normal form, sizes of results, every error a user can meet.

The exceptions have the type and the words of torch's own operators where those have clear ones; the value
that was given is added where torch leaves it out. A message is put together only when it is raised.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import Tensor

Pair = tuple[int, int]
IntOrPair = int | Sequence[int]
# stride, padding, dilation, groups: what the three contractions share. The padding is that of the top and the
# left; what lies below and to the right follows from the sizes.
Geometry = tuple[Pair, Pair, Pair, int]


# --- tensors ------------------------------------------------------------------------------------------------


def check_same_type(function: str, operands: dict[str, Tensor]) -> None:
    """RuntimeError unless all operands are on one device and of one dtype."""
    (first_name, first), *others = operands.items()
    for name, t in others:
        if t.device != first.device:
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"{first.device} and {t.device}! ({function}(): {first_name} and {name})"
            )
        if t.dtype != first.dtype:
            raise RuntimeError(
                f"{first_name.capitalize()} type ({first.type()}) and {name} type ({t.type()}) should be the "
                f"same ({function}(): expected scalar type {_scalar_type(first)} but found {_scalar_type(t)})"
            )


def _scalar_type(t: Tensor) -> str:
    return t.type().removeprefix("torch.").removesuffix("Tensor")


def check_input(input: Tensor, function: str) -> None:
    """RuntimeError unless the input is an image or a batch of images."""
    if input.dim() not in (3, 4):
        raise RuntimeError(
            f"Expected 3D (unbatched) or 4D (batched) input to {function}, "
            f"but got input of size: {list(input.shape)}"
        )


def check_batch(size: Sequence[int], name: str, function: str) -> None:
    """RuntimeError unless the size is that of a batch of images."""
    if len(size) != 4:
        raise RuntimeError(
            f"Expected 4D (batched) {name} to {function}, but got {name} of size: {list(size)}"
        )


def check_grad_output(grad_output: Tensor, expected: tuple[int, int, int, int], function: str) -> None:
    """RuntimeError unless the gradient has the size of conv2d's output."""
    if tuple(grad_output.shape) != expected:
        raise RuntimeError(
            f"{function}(): expected grad_output to have the size of conv2d's output, {list(expected)}, "
            f"but got grad_output of size {list(grad_output.shape)}"
        )


# --- integers -----------------------------------------------------------------------------------------------


def pair(value: IntOrPair, name: str, function: str) -> Pair:
    """An integer, or a sequence of one or two, as (height, width)."""
    if type(value) is int:
        return value, value
    if type(value) is tuple and len(value) == 2 and type(value[0]) is int and type(value[1]) is int:
        return value
    return _pair(value, name, function)


def _pair(value: IntOrPair, name: str, function: str) -> Pair:
    """`pair` for lists, single elements, numpy's and other integers, and the errors."""
    values = value if isinstance(value, tuple | list) else (value,)
    try:
        integers = [_index(v) for v in values]
    except TypeError:
        raise TypeError(
            f"{function}(): argument '{name}' must be tuple of ints, not {type(value).__name__} ({value!r})"
        ) from None
    if len(integers) not in (1, 2):
        raise RuntimeError(
            f"expected {name} to be a single integer value or a list of 2 values to match the convolution "
            f"dimensions, but got {name}={integers}"
        )
    return integers[0], integers[-1]


def _index(value: object) -> int:
    """An integer of any type; bool is not one, as for torch. A symbolic integer stays what it is."""
    if isinstance(value, bool):
        raise TypeError
    if isinstance(value, int | torch.SymInt):
        return value  # type: ignore[return-value]
    return operator.index(value)  # type: ignore[arg-type]


def _integer(value: int, name: str, function: str) -> int:
    try:
        return _index(value)
    except TypeError:
        raise TypeError(
            f"{function}(): argument '{name}' must be int, not {type(value).__name__} ({value!r})"
        ) from None


# --- sizes --------------------------------------------------------------------------------------------------


def conv2d_geometry(
    input_size: Sequence[int],
    weight_size: Sequence[int],
    bias: Tensor | None,
    stride: IntOrPair,
    padding: str | IntOrPair,
    dilation: IntOrPair,
    groups: int,
    function: str = "conv2d",
) -> tuple[Pair, Geometry]:
    """The output's size along height and width, and the geometry. `input_size` is that of a batch."""
    stride, dilation = pair(stride, "stride", function), pair(dilation, "dilation", function)
    groups = _check_weight(input_size, weight_size, stride, dilation, groups, function)
    if not isinstance(padding, str):
        padding = _not_negative(padding, "padding", function)
    n, c, ih, iw = input_size
    co, ci, kh, kw = weight_size
    if c != ci * groups:
        raise RuntimeError(
            f"Given groups={groups}, weight of size {list(weight_size)}, expected input{list(input_size)} "
            f"to have {ci * groups} channels, but got {c} channels instead"
        )
    if bias is not None and bias.shape != (co,):
        raise _bias_error(f"weight of size {list(weight_size)}", co, bias)
    extent_h, extent_w = dilation[0] * (kh - 1) + 1, dilation[1] * (kw - 1) + 1
    if isinstance(padding, str):
        total_h, total_w = _total_of_named_padding(padding, stride, extent_h, extent_w)
        padding = total_h // 2, total_w // 2
    else:
        total_h, total_w = 2 * padding[0], 2 * padding[1]
    if ih + total_h < extent_h or iw + total_w < extent_w:
        raise RuntimeError(
            f"Calculated padded input size per channel: ({ih + total_h} x {iw + total_w}). Kernel size: "
            f"({extent_h} x {extent_w}). Kernel size can't be greater than actual input size"
        )
    if (ih == 0 or iw == 0) and n != 0 and c != 0:
        raise _empty_error(input_size)
    output_size = (ih + total_h - extent_h) // stride[0] + 1, (iw + total_w - extent_w) // stride[1] + 1
    return output_size, (stride, padding, dilation, groups)


def conv_transpose2d_geometry(
    input_size: Sequence[int],
    weight_size: Sequence[int],
    bias: Tensor | None,
    stride: IntOrPair,
    padding: IntOrPair,
    output_padding: IntOrPair,
    groups: int,
    dilation: IntOrPair,
) -> tuple[Pair, Geometry]:
    """The output's size along height and width, and the geometry. `input_size` is that of a batch."""
    function = "conv_transpose2d"
    stride, dilation = pair(stride, "stride", function), pair(dilation, "dilation", function)
    groups = _check_weight(input_size, weight_size, stride, dilation, groups, function)
    padding = _not_negative(padding, "padding", function)
    extra_h, extra_w = _not_negative(output_padding, "output_padding", function)
    n, c, ih, iw = input_size
    ci, co, kh, kw = weight_size
    if c != ci:
        raise RuntimeError(
            f"Given transposed=1, weight of size {list(weight_size)}, expected input{list(input_size)} "
            f"to have {ci} channels, but got {c} channels instead"
        )
    if co < 1:
        raise RuntimeError(f"non-empty weight tensor expected, but got weight of size {list(weight_size)}")
    if bias is not None and bias.shape != (co * groups,):
        raise _bias_error(f"transposed=1, weight of size {list(weight_size)}", co * groups, bias)
    if (extra_h >= stride[0] and extra_h >= dilation[0]) or (extra_w >= stride[1] and extra_w >= dilation[1]):
        raise RuntimeError(
            "output padding must be smaller than either stride or dilation, but got "
            f"output_padding_height: {extra_h} output_padding_width: {extra_w} "
            f"stride_height: {stride[0]} stride_width: {stride[1]} "
            f"dilation_height: {dilation[0]} dilation_width: {dilation[1]}"
        )
    if (ih == 0 or iw == 0) and n != 0 and c != 0:
        raise _empty_error(input_size)
    oh = (ih - 1) * stride[0] - 2 * padding[0] + dilation[0] * (kh - 1) + extra_h + 1
    ow = (iw - 1) * stride[1] - 2 * padding[1] + dilation[1] * (kw - 1) + extra_w + 1
    if oh < 1 or ow < 1:
        raise RuntimeError(
            f"Given input size per channel: ({ih} x {iw}). "
            f"Calculated output size per channel: ({oh} x {ow}). Output size is too small"
        )
    return (oh, ow), (stride, padding, dilation, groups)


def _check_weight(
    input_size: Sequence[int],
    weight_size: Sequence[int],
    stride: Pair,
    dilation: Pair,
    groups: int,
    function: str,
) -> int:
    """What both convolutions ask of weight, stride, dilation and groups; returns groups as an integer."""
    if type(groups) is not int:
        groups = _integer(groups, "groups", function)
    if groups < 1:
        raise RuntimeError(f"non-positive groups is not supported, but got groups={groups}")
    if stride[0] < 1 or stride[1] < 1:
        raise RuntimeError(f"non-positive stride is not supported, but got stride={list(stride)}")
    if dilation[0] < 1 or dilation[1] < 1:
        raise RuntimeError(
            "non-positive dilation is not supported: dilation should be greater than zero, "
            f"but got dilation={list(dilation)}"
        )
    if len(weight_size) != 4:
        raise RuntimeError(
            f"Expected {len(weight_size)}-dimensional input for {len(weight_size)}-dimensional weight "
            f"{list(weight_size)}, but got {len(input_size)}-dimensional input of size {list(input_size)} "
            f"instead ({function}() expects a 4-dimensional weight)"
        )
    channels = weight_size[0]
    if channels < groups or channels % groups:
        problem = "at least" if channels < groups else "divisible by"
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be {problem} {groups} at dimension 0, "
            f"but got weight of size {list(weight_size)} instead"
        )
    if weight_size[2] < 1 or weight_size[3] < 1:
        raise RuntimeError(
            "kernel size should be greater than zero, but got "
            f"kernel_height: {weight_size[2]} kernel_width: {weight_size[3]}"
        )
    return groups


def _bias_error(weight: str, channels: int, bias: Tensor) -> RuntimeError:
    return RuntimeError(
        f"Given {weight}, expected bias to be 1-dimensional with {channels} elements, "
        f"but got bias of size {list(bias.shape)} instead"
    )


def _empty_error(input_size: Sequence[int]) -> RuntimeError:
    return RuntimeError(
        f"Only zero batch or zero channel inputs are supported, but got input shape: {list(input_size)}"
    )


def _not_negative(value: IntOrPair, name: str, function: str) -> Pair:
    h, w = value = pair(value, name, function)
    if h < 0 or w < 0:
        raise RuntimeError(f"negative {name} is not supported, but got {name}={[h, w]}")
    return value


def _total_of_named_padding(name: str, stride: Pair, extent_h: int, extent_w: int) -> Pair:
    """Rows and columns that 'valid' or 'same' add; of an odd number the larger half goes below and right."""
    if name == "valid":
        return 0, 0
    if name != "same":
        raise RuntimeError(f"Invalid padding string: '{name}'")
    if stride != (1, 1):
        raise RuntimeError(
            f"padding='same' is not supported for strided convolutions, but got stride={list(stride)}"
        )
    return extent_h - 1, extent_w - 1
