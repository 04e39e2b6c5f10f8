"""Every error of the public functions: torch's exception type, and torch's words where it has clear ones."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import torch_conv_ext

DTYPES = [torch.float32, torch.float64]
OTHER = {torch.float32: torch.float64, torch.float64: torch.float32}


@dataclass(frozen=True)
class Wrong:
    """A call that must fail: what differs from a call that fits, and words that the message must contain.

    `torch_says` is what torch's message must contain: the same words, or part of them; None where torch's
    error, or its silence, is no model.
    """

    name: str
    words: str
    torch_says: str | None
    error: type[Exception]
    dtype_of: str  # the tensor that has another dtype
    shapes: dict[str, tuple[int, ...]]
    options: dict[str, Any]

    def __str__(self) -> str:
        return self.name


def wrong(
    name: str,
    words: str,
    torch_says: Any = "the same",
    error: Any = RuntimeError,
    dtype_of: Any = "",
    **arguments: Any,
) -> Wrong:
    shapes = {k: v for k, v in arguments.items() if k in ("input", "weight", "bias")}
    options = {k: v for k, v in arguments.items() if k not in shapes}
    torch_says = words if torch_says == "the same" else torch_says
    return Wrong(name, words, torch_says, error, dtype_of, shapes, options)


CONV_SHAPES = {"input": (2, 4, 6, 7), "weight": (8, 4, 3, 3), "bias": (8,)}
TRANSPOSED_SHAPES = {"input": (2, 4, 6, 7), "weight": (4, 8, 3, 3), "bias": (8,)}

TUPLE = "a single integer value or a list of 2 values to match the convolution dimensions, but got"

# Wrong in the same way for both convolutions.
COMMON = [
    wrong("stride_zero", "non-positive stride is not supported", stride=0),
    wrong("stride_negative_in_one_dimension", "non-positive stride is not supported", stride=(1, -1)),
    wrong("dilation_zero", "dilation should be greater than zero, but got dilation=[0, 0]", None, dilation=0),
    wrong("dilation_negative", "dilation should be greater than zero", dilation=(1, -2)),
    wrong("groups_zero", "non-positive groups is not supported", groups=0),
    wrong("groups_negative", "non-positive groups is not supported", groups=-2),
    wrong("padding_negative", "negative padding is not supported", padding=(0, -1)),
    wrong("stride_of_3", f"expected stride to be {TUPLE} stride=[1, 1, 1]", stride=(1, 1, 1)),
    wrong("stride_empty", f"expected stride to be {TUPLE} stride=[]", stride=()),
    wrong("padding_of_4", f"expected padding to be {TUPLE} padding=[1, 1, 1, 1]", padding=[1, 1, 1, 1]),
    wrong(
        "padding_of_one_side",
        "expected padding to be an integer, (height, width) or ((top, bottom), (left, right)), but got "
        "padding=((1, 0), 1)",
        None,
        padding=((1, 0), 1),
    ),
    wrong("padding_negative_on_a_side", "negative padding is not supported", None, padding=((0, 0), (1, -1))),
    wrong(
        "padding_float_on_a_side",
        "argument 'padding' must be tuple of ints, not tuple ((1, 0.5))",
        None,
        TypeError,
        padding=((0, 0), (1, 0.5)),
    ),
    wrong("dilation_of_3", f"expected dilation to be {TUPLE} dilation=[1, 1, 1]", dilation=(1, 1, 1)),
    # torch's own words, though it says this only with padding='same'.
    wrong("weight_3d", "Expected 3-dimensional input for 3-dimensional weight", None, weight=(8, 4, 3)),
    wrong("weight_5d", "Expected 5-dimensional input for 5-dimensional weight", None, weight=(8, 4, 3, 3, 3)),
    wrong(
        "input_without_rows",
        "Only zero batch or zero channel inputs are supported, but got input shape: [2, 4, 0, 7]",
        input=(2, 4, 0, 7),
        padding=2,
    ),
    wrong(
        "kernel_without_rows", "kernel size should be greater than zero", None, weight=(4, 4, 0, 3), bias=(4,)
    ),
    *(
        wrong(
            f"{name}_{type(value).__name__}",
            f"argument '{name}' must be tuple of ints, not {type(value).__name__}",
            "argument",
            TypeError,
            **{name: value},
        )
        for name in ("stride", "padding", "dilation")
        for value in (1.5, None, True, (1.0, 2), np.array([1, 1]))
    ),
    *(
        wrong(
            f"groups_{type(value).__name__}",
            f"argument 'groups' must be int, not {type(value).__name__}",
            "argument",
            TypeError,
            groups=value,
        )
        for value in (1.0, True, (1,), None)
    ),
    # torch's float32 kernel speaks of types, its float64 kernel of scalar types.
    wrong("weight_of_another_dtype", "weight type", "type", dtype_of="weight"),
]

CONV = [
    *COMMON,
    wrong(
        "input_2d",
        "Expected 3D (unbatched) or 4D (batched) input to conv2d, but got input of size: [6, 7]",
        input=(6, 7),
    ),
    wrong(
        "input_5d",
        "Expected 3D (unbatched) or 4D (batched) input to conv2d, but got input of size: [1, 2, 4, 6, 7]",
        input=(1, 2, 4, 6, 7),
    ),
    wrong(
        "channels",
        "Given groups=1, weight of size [8, 4, 3, 3], expected input[2, 5, 6, 7] to have 4 channels, "
        "but got 5 channels instead",
        input=(2, 5, 6, 7),
    ),
    wrong(
        "channels_unbatched",
        "Given groups=1, weight of size [8, 4, 3, 3], expected input[1, 5, 6, 7] to have 4 channels, "
        "but got 5 channels instead",
        input=(5, 6, 7),
    ),
    wrong(
        "channels_of_groups",
        "Given groups=2, weight of size [8, 4, 3, 3], expected input[2, 4, 6, 7] to have 8 channels, "
        "but got 4 channels instead",
        groups=2,
    ),
    wrong(
        "groups_do_not_divide",
        "Given groups=3, expected weight to be divisible by 3 at dimension 0, "
        "but got weight of size [8, 4, 3, 3] instead",
        "Given groups=3, expected weight to be divisible by 3 at dimension 0",
        groups=3,
        input=(2, 12, 6, 7),
    ),
    wrong(
        "no_output_channels",
        "Given groups=1, expected weight to be at least 1 at dimension 0, "
        "but got weight of size [0, 4, 3, 3] instead",
        weight=(0, 4, 3, 3),
        bias=(0,),
    ),
    *(
        wrong(
            f"bias_{len(shape)}d",
            "Given weight of size [8, 4, 3, 3], expected bias to be 1-dimensional with 8 elements, "
            f"but got bias of size {list(shape)} instead",
            bias=shape,
        )
        for shape in ((3,), (8, 1), ())
    ),
    wrong(
        "kernel_larger_than_input",
        "Calculated padded input size per channel: (6 x 7). Kernel size: (7 x 7). "
        "Kernel size can't be greater than actual input size",
        weight=(8, 4, 7, 7),
    ),
    wrong(
        "dilated_kernel_larger_than_padded_input",
        "Calculated padded input size per channel: (8 x 9). Kernel size: (11 x 11). "
        "Kernel size can't be greater than actual input size",
        padding=1,
        dilation=5,
    ),
    wrong(
        "kernel_larger_than_images_of_an_empty_batch",
        "Kernel size can't be greater than actual input size",
        input=(0, 4, 2, 2),
    ),
    wrong("unknown_padding", "Invalid padding string: 'full'", padding="full"),
    wrong("unknown_padding_mode", "padding_mode must be one of", None, ValueError, padding_mode="mirror"),
    wrong(
        "reflect_as_large_as_the_image",
        "Padding size should be less than the corresponding input dimension, but got: padding (6, 6) at "
        "dimension 2 of input [2, 4, 6, 7]",
        None,
        padding=(6, 1),
        padding_mode="reflect",
    ),
    wrong(
        "circular_larger_than_the_image",
        "Padding value causes wrapping around more than once",
        None,
        padding=(1, 8),
        padding_mode="circular",
    ),
    wrong(
        "replicate_of_no_rows",
        "Expected 3D or 4D (batch mode) tensor with possibly 0 batch size and other non-zero dimensions "
        "for input, but got: [0, 4, 0, 7]",
        None,
        input=(0, 4, 0, 7),
        padding=2,
        padding_mode="replicate",
    ),
    wrong("bias_of_another_dtype", "bias type", dtype_of="bias"),
]

TRANSPOSED = [
    *COMMON,
    wrong(
        "input_2d",
        "Expected 3D (unbatched) or 4D (batched) input to conv_transpose2d, but got input of size: [6, 7]",
        input=(6, 7),
    ),
    wrong(
        "channels",
        "Given transposed=1, weight of size [4, 8, 3, 3], expected input[2, 5, 6, 7] to have 4 channels, "
        "but got 5 channels instead",
        input=(2, 5, 6, 7),
    ),
    wrong(
        "groups_do_not_divide",
        "Given groups=3, expected weight to be divisible by 3 at dimension 0, "
        "but got weight of size [4, 8, 3, 3] instead",
        "Given groups=3, expected weight to be divisible by 3 at dimension 0",
        groups=3,
    ),
    wrong("no_output_channels", "non-empty weight tensor expected", None, weight=(4, 0, 3, 3), bias=(0,)),
    wrong(
        "bias_with_groups",
        "Given transposed=1, weight of size [4, 8, 3, 3], expected bias to be 1-dimensional with 16 elements"
        ", but got bias of size [8] instead",
        groups=2,
    ),
    wrong(
        "output_padding_as_large_as_stride",
        "output padding must be smaller than either stride or dilation, but got output_padding_height: 2 "
        "output_padding_width: 1 stride_height: 2 stride_width: 2 dilation_height: 1 dilation_width: 1",
        output_padding=(2, 1),
        stride=2,
    ),
    wrong(
        "output_padding_in_one_dimension",
        "output padding must be smaller than either stride or dilation",
        output_padding=1,
        stride=(2, 1),
    ),
    wrong("output_padding_negative", "negative output_padding is not supported", output_padding=-1, stride=2),
    wrong(
        "output_padding_of_3",
        f"expected output_padding to be {TUPLE} output_padding=[0, 0, 0]",
        output_padding=(0, 0, 0),
    ),
    wrong(
        "output_padding_float",
        "argument 'output_padding' must be tuple of ints",
        error=TypeError,
        output_padding=0.5,
    ),
    wrong(
        "output_smaller_than_one",
        "Given input size per channel: (1 x 2). Calculated output size per channel: (-1 x 0). "
        "Output size is too small",
        None,  # torch's float32 kernel complains about a memory descriptor
        input=(2, 4, 1, 2),
        padding=2,
    ),
    wrong("unknown_padding", "Invalid padding string: 'full'", None, padding="full"),
    wrong(
        "same_with_output_padding",
        "padding='same' gives an output of size input * stride and takes no output padding, but got "
        "output_padding=[1, 1]",
        None,
        padding="same",
        output_padding=1,
        stride=2,
    ),
    wrong("unknown_padding_mode", "padding_mode must be one of", None, ValueError, padding_mode="mirror"),
    wrong(
        "reflect_as_far_as_the_input",
        "Padding size should be less than the corresponding input dimension, but got: padding (2, 2) at "
        "dimension 2 of input [2, 4, 2, 7]",
        None,
        input=(2, 4, 2, 7),
        padding_mode="reflect",
    ),
    # torch's float64 kernel computes with it.
    wrong("bias_of_another_dtype", "bias type", None, dtype_of="bias"),
]


def call(
    function: Callable[..., Tensor], fitting: dict[str, tuple[int, ...]], case: Wrong, dtype: torch.dtype
) -> Tensor:
    shapes = fitting | case.shapes
    tensors = {
        name: torch.zeros(shape, dtype=OTHER[dtype] if name == case.dtype_of else dtype)
        for name, shape in shapes.items()
    }
    return function(**tensors, **case.options)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("name", "case"),
    [("conv2d", case) for case in CONV] + [("conv_transpose2d", case) for case in TRANSPOSED],
    ids=str,
)
def test_error_is_that_of_torch(name: str, case: Wrong, dtype: torch.dtype) -> None:
    """The exception has torch's type and contains torch's words."""
    fitting = CONV_SHAPES if name == "conv2d" else TRANSPOSED_SHAPES
    with pytest.raises(case.error, match=re.escape(case.words)) as ours:
        call(getattr(torch_conv_ext, name), fitting, case, dtype)
    assert ours.type is case.error
    if case.torch_says is not None:
        with pytest.raises(case.error, match=re.escape(case.torch_says)):
            call(getattr(F, name), fitting, case, dtype)


def test_mixed_dtypes_tell_both() -> None:
    """One message holds what torch's float32 and its float64 kernel say."""
    x, w = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    expected = (
        "Input type (torch.FloatTensor) and weight type (torch.DoubleTensor) should be the same "
        "(conv2d(): expected scalar type Float but found Double)"
    )
    with pytest.raises(RuntimeError, match=re.escape(expected)):
        torch_conv_ext.conv2d(x, w)
    for other in (torch.bfloat16, torch.int64):
        with pytest.raises(RuntimeError, match="should be the same"):
            torch_conv_ext.conv2d(x, w.to(other))
        with pytest.raises(RuntimeError, match="should be the same"):
            torch_conv_ext.conv2d(x.to(other), w)


@pytest.mark.parametrize("meta", ["input", "weight", "bias"])
@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_mixed_devices_are_an_error(name: str, meta: str) -> None:
    """torch takes a CPU tensor together with a meta tensor; here it is torch's error for two devices."""
    tensors = {"input": torch.zeros(1, 1, 4, 4), "weight": torch.zeros(1, 1, 3, 3), "bias": torch.zeros(1)}
    tensors[meta] = tensors[meta].to("meta")
    with pytest.raises(RuntimeError, match="found at least two devices"):
        getattr(torch_conv_ext, name)(**tensors)


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_arguments_that_are_no_tensors(name: str) -> None:
    """TypeError, raised by torch's own parser."""
    function: Callable[..., Tensor] = getattr(torch_conv_ext, name)
    x, w = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 3, 3)
    for arguments in ((None, w), (x, None), ([[0.0]], w), (x, w, [0.0]), (x.numpy(), w)):
        with pytest.raises(TypeError, match=name):
            function(*arguments)


X, W, DY = (2, 4, 6, 7), (8, 4, 3, 3), (2, 8, 4, 5)

GRADIENT_ERRORS: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    (
        "grad_output_rows",
        {"dy": (2, 8, 5, 5)},
        RuntimeError,
        "but got grad_output of size [2, 8, 5, 5]",
    ),
    ("grad_output_batch", {"dy": (3, 8, 4, 5)}, RuntimeError, "size of conv2d's output, [2, 8, 4, 5]"),
    ("grad_output_channels", {"dy": (2, 9, 4, 5)}, RuntimeError, "size of conv2d's output, [2, 8, 4, 5]"),
    ("grad_output_unbatched", {"dy": (8, 4, 5)}, RuntimeError, "size of conv2d's output, [2, 8, 4, 5]"),
    ("input_3d", {"x": (4, 6, 7)}, RuntimeError, "Expected 4D (batched) input"),
    ("weight_3d", {"w": (8, 4, 3)}, RuntimeError, "expects a 4-dimensional weight"),
    ("channels", {"x": (2, 5, 6, 7)}, RuntimeError, "expected input[2, 5, 6, 7] to have 4 channels"),
    ("stride", {"stride": 0}, RuntimeError, "non-positive stride is not supported"),
    ("padding", {"padding": -1}, RuntimeError, "negative padding is not supported"),
    ("dilation", {"dilation": 0}, RuntimeError, "dilation should be greater than zero"),
    ("groups", {"groups": 3}, RuntimeError, "Given groups=3, expected weight to be divisible by 3"),
    ("stride_type", {"stride": 1.5}, TypeError, "argument 'stride' must be tuple of ints, not float"),
    ("dtype", {"dtype": torch.float64}, RuntimeError, "expected scalar type"),
]


@pytest.mark.parametrize(
    ("arguments", "error", "words"), [e[1:] for e in GRADIENT_ERRORS], ids=[e[0] for e in GRADIENT_ERRORS]
)
@pytest.mark.parametrize("name", ["conv2d_input", "conv2d_weight"])
def test_errors_of_the_gradients(
    name: str, arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    """torch.nn.grad's errors come from deep inside a kernel; these are conv2d's, in the function's name."""
    options = {k: v for k, v in arguments.items() if k not in ("x", "w", "dy", "dtype")}
    x, w = arguments.get("x", X), arguments.get("w", W)
    dy = torch.zeros(arguments.get("dy", DY), dtype=arguments.get("dtype", torch.float32))
    with pytest.raises(error, match=re.escape(words)):
        if name == "conv2d_input":
            torch_conv_ext.conv2d_input(x, torch.zeros(w), dy, **options)
        else:
            torch_conv_ext.conv2d_weight(torch.zeros(x), w, dy, **options)


TRANSPOSED_ERRORS: list[tuple[str, dict[str, Any], str]] = [
    (
        "grad_output_rows",
        {"dy": (2, 8, 9, 9)},
        "conv_transpose2d's output, [2, 8, 8, 9], but got grad_output of size [2, 8, 9, 9]",
    ),
    ("grad_output_channels", {"groups": 2}, "conv_transpose2d's output, [2, 16, 8, 9]"),
    ("input_3d", {"x": (4, 6, 7)}, "Expected 4D (batched) input"),
    ("channels", {"x": (2, 5, 6, 7)}, "expected input[2, 5, 6, 7] to have 4 channels"),
    (
        "output_padding",
        {"output_padding": 1},
        "output padding must be smaller than either stride or dilation",
    ),
    ("dtype", {"dtype": torch.float64}, "expected scalar type"),
]


@pytest.mark.parametrize(
    ("arguments", "words"), [e[1:] for e in TRANSPOSED_ERRORS], ids=[e[0] for e in TRANSPOSED_ERRORS]
)
@pytest.mark.parametrize("name", ["conv_transpose2d_input", "conv_transpose2d_weight"])
def test_errors_of_the_transposed_gradients(name: str, arguments: dict[str, Any], words: str) -> None:
    """Those of conv_transpose2d, in the function's name."""
    options = {k: v for k, v in arguments.items() if k not in ("x", "dy", "dtype")}
    x, w = arguments.get("x", (2, 4, 6, 7)), (4, 8, 3, 3)
    dy = torch.zeros(arguments.get("dy", (2, 8, 8, 9)), dtype=arguments.get("dtype", torch.float32))
    with pytest.raises(RuntimeError, match=re.escape(words)):
        if name == "conv_transpose2d_input":
            torch_conv_ext.conv_transpose2d_input(x, torch.zeros(w), dy, **options)
        else:
            torch_conv_ext.conv_transpose2d_weight(torch.zeros(x), w, dy, **options)


def test_errors_of_the_bias_gradient() -> None:
    with pytest.raises(RuntimeError, match=re.escape("Expected 4D (batched) grad_output to conv2d_bias")):
        torch_conv_ext.conv2d_bias(torch.zeros(8, 4, 5))
