"""What the public functions accept: arguments in normal form, sizes of results, every error a user can meet.

The exceptions have the type and the words of torch's own operators where those have clear ones; the value
that was given is added where torch leaves it out. A message is put together only when it is raised.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Pair = tuple[int, int]
IntOrPair = int | Sequence[int]
Padding = str | IntOrPair | Sequence[Sequence[int]]
# stride, padding, dilation, groups: what the three contractions share. The padding is that of the top and the
# left; what lies below and to the right follows from the sizes.
Geometry = tuple[Pair, Pair, Pair, int]

PADDING_NAMES = ("same", "valid")
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


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
    """RuntimeError unless the gradient has the size of the convolution's output."""
    if tuple(grad_output.shape) != expected:
        convolution = function.rpartition("_")[0]
        raise RuntimeError(
            f"{function}(): expected grad_output to have the size of {convolution}'s output, "
            f"{list(expected)}, but got grad_output of size {list(grad_output.shape)}"
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
    padding: Padding,
    dilation: IntOrPair,
    groups: int,
    function: str = "conv2d",
) -> tuple[Pair, Pair, Geometry]:
    """The output's size along height and width, the padding below and right, and the geometry.

    `input_size` is that of a batch.
    """
    stride, dilation = pair(stride, "stride", function), pair(dilation, "dilation", function)
    groups = _check_weight(input_size, weight_size, stride, dilation, groups, function)
    n, c, ih, iw = input_size
    co, ci, kh, kw = weight_size
    extent_h, extent_w = dilation[0] * (kh - 1) + 1, dilation[1] * (kw - 1) + 1
    output_size = None
    if type(padding) is int and padding >= 0:
        before = after = padding, padding
    elif isinstance(padding, str):
        if is_same(padding):
            # Rounded up without negative numbers: ONNX divides these towards zero.
            output_size = (ih + stride[0] - 1) // stride[0], (iw + stride[1] - 1) // stride[1]
            before, after = same_sides((ih, iw), output_size, stride, (extent_h, extent_w))
        else:
            before = after = 0, 0
    else:
        before, after = sides(padding, function)
    if c != ci * groups:
        raise RuntimeError(
            f"Given groups={groups}, weight of size {list(weight_size)}, expected input{list(input_size)} "
            f"to have {ci * groups} channels, but got {c} channels instead"
        )
    if bias is not None and bias.shape != (co,):
        raise _bias_error(f"weight of size {list(weight_size)}", co, bias)
    padded_h, padded_w = ih + before[0] + after[0], iw + before[1] + after[1]
    if padded_h < extent_h or padded_w < extent_w:
        raise RuntimeError(
            f"Calculated padded input size per channel: ({padded_h} x {padded_w}). Kernel size: "
            f"({extent_h} x {extent_w}). Kernel size can't be greater than actual input size"
        )
    if (ih == 0 or iw == 0) and n != 0 and c != 0:
        raise _empty_error(input_size)
    if output_size is None:
        output_size = (padded_h - extent_h) // stride[0] + 1, (padded_w - extent_w) // stride[1] + 1
    return output_size, after, (stride, before, dilation, groups)


def conv_transpose2d_geometry(
    input_size: Sequence[int],
    weight_size: Sequence[int],
    bias: Tensor | None,
    stride: IntOrPair,
    padding: Padding,
    output_padding: IntOrPair,
    groups: int,
    dilation: IntOrPair,
    function: str = "conv_transpose2d",
) -> tuple[Pair, Geometry]:
    """The output's size along height and width, and the geometry. `input_size` is that of a batch."""
    stride, dilation = pair(stride, "stride", function), pair(dilation, "dilation", function)
    groups = _check_weight(input_size, weight_size, stride, dilation, groups, function)
    extra_h, extra_w = _not_negative(output_padding, "output_padding", function)
    n, c, ih, iw = input_size
    ci, co, kh, kw = weight_size
    extent_h, extent_w = dilation[0] * (kh - 1) + 1, dilation[1] * (kw - 1) + 1
    same = False
    if type(padding) is int and padding >= 0:
        before = after = padding, padding
    elif isinstance(padding, str):
        same = is_same(padding)
        before = after = 0, 0
    else:
        before, after = sides(padding, function)
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
    if same:
        if extra_h or extra_w:
            raise RuntimeError(
                "padding='same' gives an output of size input * stride and takes no output padding, "
                f"but got output_padding={[extra_h, extra_w]}"
            )
        oh, ow = ih * stride[0], iw * stride[1]
        before, after = same_sides((oh, ow), (ih, iw), stride, (extent_h, extent_w))
    else:
        oh = (ih - 1) * stride[0] - before[0] - after[0] + extent_h + extra_h
        ow = (iw - 1) * stride[1] - before[1] - after[1] + extent_w + extra_w
    if oh < 1 or ow < 1:
        raise RuntimeError(
            f"Given input size per channel: ({ih} x {iw}). "
            f"Calculated output size per channel: ({oh} x {ow}). Output size is too small"
        )
    return (oh, ow), (stride, before, dilation, groups)


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


# --- padding ------------------------------------------------------------------------------------------------


def is_nested(padding: Padding) -> bool:
    """Whether the padding is given for each side."""
    return isinstance(padding, tuple | list) and any(isinstance(p, tuple | list) for p in padding)


def sides(padding: IntOrPair | Sequence[Sequence[int]], function: str) -> tuple[Pair, Pair]:
    """The padding above and left, and the padding below and right."""
    if type(padding) is tuple and len(padding) == 2:
        h, w = padding
        if type(h) is int and type(w) is int and h >= 0 and w >= 0:
            return padding, padding  # type: ignore[return-value]
    if is_nested(padding):
        return _nested_sides(padding, function)
    both = _not_negative(padding, "padding", function)  # type: ignore[arg-type]
    return both, both


def _nested_sides(padding: Any, function: str) -> tuple[Pair, Pair]:
    """`sides` of ((top, bottom), (left, right))."""
    if len(padding) != 2 or not all(isinstance(p, tuple | list) and len(p) == 2 for p in padding):
        raise RuntimeError(
            f"expected padding to be an integer, (height, width) or ((top, bottom), (left, right)), "
            f"but got padding={padding}"
        )
    (top, bottom), (left, right) = (_not_negative(p, "padding", function) for p in padding)
    return (top, left), (bottom, right)


def is_same(name: str) -> bool:
    """Whether a padding's name is 'same', not 'valid'; RuntimeError for another."""
    if name not in PADDING_NAMES:
        raise RuntimeError(f"Invalid padding string: '{name}'")
    return name == "same"


def same_sides(i: Pair, o: Pair, stride: Pair, extent: Pair) -> tuple[Pair, Pair]:
    """The `sides` by which i inputs give o outputs: of an odd total the larger half lies below and right.

    TensorFlow's rule for 'same', which for stride 1 is torch's.
    """
    h = max((o[0] - 1) * stride[0] + extent[0] - i[0], 0)
    w = max((o[1] - 1) * stride[1] + extent[1] - i[1], 0)
    return (h // 2, w // 2), (h - h // 2, w - w // 2)


def check_mode(padding_mode: str) -> None:
    """ValueError for an unknown padding mode."""
    if padding_mode not in PADDING_MODES:
        raise ValueError(
            f"padding_mode must be one of {', '.join(map(repr, PADDING_MODES))}, "
            f"but got padding_mode={padding_mode!r}"
        )


def check_border(size: Sequence[int], before: Pair, after: Pair, mode: str) -> None:
    """RuntimeError where the image is too small to be extended, with the words of torch.nn.functional.pad."""
    for dim in (2, 3):
        i, ends = size[dim], (before[dim - 2], after[dim - 2])
        if mode == "reflect" and max(ends) >= i:
            raise RuntimeError(
                "Padding size should be less than the corresponding input dimension, "
                f"but got: padding {ends} at dimension {dim} of input {list(size)}"
            )
        if mode == "circular" and max(ends) > i:
            raise RuntimeError(
                "Padding value causes wrapping around more than once. "
                f"Got: padding {ends} at dimension {dim} of input {list(size)}"
            )
        if i == 0:
            raise RuntimeError(
                "Expected 3D or 4D (batch mode) tensor with possibly 0 batch size and other non-zero "
                f"dimensions for input, but got: {list(size)}"
            )
