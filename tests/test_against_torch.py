"""The public functions against torch's: values, gradients, memory format; the grid and OpInfo's samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional, grad
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import OpInfo, SampleInput

import torch_conv_ext
from cases import CASES
from geometry import Geometry
from operands import (
    DTYPES,
    FORWARD,
    GRAD_INPUT,
    GRAD_WEIGHT,
    Contraction,
    assert_within,
    bias_of,
    error_bound,
    operand,
)

pytestmark = pytest.mark.usefixtures("threads")

CONV2D_CASES = [case for case in CASES if case.is_conv2d]
TRANSPOSED_CASES = [case for case in CASES if case.is_transposed]
LAYOUT_PAIRS = [
    ("contiguous", "contiguous"),
    ("channels_last", "channels_last"),
    ("channels_last", "contiguous"),
    ("contiguous", "channels_last"),
    ("sliced", "contiguous"),
    ("sliced_channels_last", "permuted"),
    ("permuted", "sliced"),
    ("expanded_batch", "contiguous"),
    ("expanded_all", "contiguous"),
]


def assert_same_values(
    contraction: Contraction,
    case: Geometry,
    ours: Tensor,
    theirs: Callable[..., Tensor],
    tensors: list[Tensor | None],
    what: str,
) -> None:
    """|ours - theirs in float64| <= error bound of ours and of float64.

    `theirs` takes the tensors; on their absolute values it gives the sum of absolute products of the bound.
    """
    expected = theirs(*(None if t is None else t.double() for t in tensors))
    magnitude = theirs(*(None if t is None else t.double().abs() for t in tensors))
    bound = error_bound(contraction, case, magnitude, ours.dtype)
    assert_within(ours, expected, bound, what)


def assert_same_format(ours: Tensor, theirs: Tensor, what: str) -> None:
    """Equal strides, but for dimensions of size 1, whose stride is never used, and for empty results."""

    def used(t: Tensor) -> list[int]:
        return [stride for stride, size in zip(t.stride(), t.shape, strict=True) if size > 1]

    assert ours.numel() == 0 or used(ours) == used(theirs), (
        f"{what}: strides {ours.stride()}, torch's {theirs.stride()}"
    )


# conv2d(X, W, b) = torch.nn.functional.conv2d(X, W, b), in the same memory format
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CONV2D_CASES, ids=str)
def test_conv2d(case: Geometry, dtype: torch.dtype) -> None:
    def theirs(x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        return functional.conv2d(x, w, bias, case.stride, case.padding, case.dilation, case.groups)

    bias = bias_of(FORWARD, case, dtype)
    for layout_x, layout_w in LAYOUT_PAIRS:
        x, w = operand(case, "x", dtype, layout_x), operand(case, "w", dtype, layout_w)
        ours = torch_conv_ext.conv2d(x, w, bias, case.stride, case.padding, case.dilation, case.groups)
        what = f"{layout_x} x {layout_w}"
        assert_same_values(FORWARD, case, ours, theirs, [x, w, bias], what)
        assert_same_format(ours, theirs(x, w, bias), what)


# conv_transpose2d(dY, W, b) = torch.nn.functional.conv_transpose2d(dY, W, b), in the same memory format
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", TRANSPOSED_CASES, ids=str)
def test_conv_transpose2d(case: Geometry, dtype: torch.dtype) -> None:
    tail = (case.stride, case.padding, case.output_padding, case.groups, case.dilation)

    def theirs(dy: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        return functional.conv_transpose2d(dy, w, bias, *tail)

    bias = bias_of(GRAD_INPUT, case, dtype)
    for layout_dy, layout_w in LAYOUT_PAIRS:
        dy, w = operand(case, "dy", dtype, layout_dy), operand(case, "w", dtype, layout_w)
        ours = torch_conv_ext.conv_transpose2d(dy, w, bias, *tail)
        what = f"{layout_dy} x {layout_w}"
        assert_same_values(GRAD_INPUT, case, ours, theirs, [dy, w, bias], what)
        assert_same_format(ours, theirs(dy, w, bias), what)


# conv2d_input(size, W, dY) = torch.nn.grad.conv2d_input(size, W, dY). Not the format: torch decides it by W
# and by an input that is only a size here, we by dY and W.
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CONV2D_CASES, ids=str)
def test_conv2d_input(case: Geometry, dtype: torch.dtype) -> None:
    size, tail = case.shape("dx"), (case.stride, case.padding, case.dilation, case.groups)
    for layout_dy, layout_w in LAYOUT_PAIRS:
        dy, w = operand(case, "dy", dtype, layout_dy), operand(case, "w", dtype, layout_w)
        ours = torch_conv_ext.conv2d_input(size, w, dy, *tail)

        def theirs(dy: Tensor, w: Tensor) -> Tensor:
            return cast(Tensor, grad.conv2d_input(size, w, dy, *tail))

        assert_same_values(GRAD_INPUT, case, ours, theirs, [dy, w], f"{layout_dy} x {layout_w}")


# conv2d_weight(X, size, dY) = torch.nn.grad.conv2d_weight(X, size, dY). Not the format, as above.
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CONV2D_CASES, ids=str)
def test_conv2d_weight(case: Geometry, dtype: torch.dtype) -> None:
    size, tail = case.shape("dw"), (case.stride, case.padding, case.dilation, case.groups)
    for layout_x, layout_dy in LAYOUT_PAIRS:
        x, dy = operand(case, "x", dtype, layout_x), operand(case, "dy", dtype, layout_dy)
        ours = torch_conv_ext.conv2d_weight(x, size, dy, *tail)

        def theirs(x: Tensor, dy: Tensor) -> Tensor:
            return cast(Tensor, grad.conv2d_weight(x, size, dy, *tail))

        assert_same_values(GRAD_WEIGHT, case, ours, theirs, [x, dy], f"{layout_x} x {layout_dy}")


# A gradient that arrives in the format of the output leaves in the formats that torch's gradients have.
@pytest.mark.parametrize("layout_w", ["contiguous", "channels_last"])
@pytest.mark.parametrize("layout_x", ["contiguous", "channels_last", "permuted"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_format_of_gradients(dtype: torch.dtype, layout_x: str, layout_w: str) -> None:
    for case in (case for case in CONV2D_CASES if case.n > 0):
        tail = (None, case.stride, case.padding, case.dilation, case.groups)
        gradients = []
        for conv2d in (torch_conv_ext.conv2d, functional.conv2d):
            x = operand(case, "x", dtype, layout_x).requires_grad_()
            w = operand(case, "w", dtype, layout_w).requires_grad_()
            y = conv2d(x, w, *tail)
            gradients.append(torch.autograd.grad(y, (x, w), torch.ones_like(y)))
        for ours, theirs, name in zip(*gradients, ("dX", "dW"), strict=True):
            assert_same_format(ours, theirs, f"{case}: {name}")


# --- PyTorch's own samples ----------------------------------------------------------------------------------

OURS: dict[str, Callable[..., Tensor]] = {
    "nn.functional.conv2d": torch_conv_ext.conv2d,
    "nn.functional.conv_transpose2d": torch_conv_ext.conv_transpose2d,
}
OPINFOS: list[OpInfo] = [info for info in op_db if info.name in OURS]
assert len(OPINFOS) == len(OURS)
BY_DTYPE: list[tuple[OpInfo, torch.dtype]] = [
    (info, dtype) for info in OPINFOS for dtype in sorted(info.supported_dtypes("cpu"), key=str)
]
DIFFERENTIABLE = [pair for pair in BY_DTYPE if pair[1].is_floating_point or pair[1].is_complex]


def name_of(parameter: OpInfo | torch.dtype) -> str:
    return parameter.name if isinstance(parameter, OpInfo) else str(parameter)


def samples(info: OpInfo, dtype: torch.dtype, requires_grad: bool) -> Iterator[SampleInput]:
    torch.manual_seed(0)
    yield from info.sample_inputs("cpu", dtype, requires_grad=requires_grad)


# For each sample and each dtype that OpInfo lists: same values, dtype and strides as torch's function.
@pytest.mark.parametrize(("info", "dtype"), BY_DTYPE, ids=name_of)
def test_opinfo_samples(info: OpInfo, dtype: torch.dtype) -> None:
    count = 0
    for sample in samples(info, dtype, requires_grad=False):
        arguments, options = (sample.input, *sample.args), sample.kwargs
        ours, theirs = OURS[info.name](*arguments, **options), info.op(*arguments, **options)
        torch.testing.assert_close(ours, theirs, check_stride=True)
        count += 1
    assert count >= 12


# The gradients of input, weight and bias, for the same random cotangent, are torch's.
@pytest.mark.parametrize(("info", "dtype"), DIFFERENTIABLE, ids=name_of)
def test_opinfo_gradients(info: OpInfo, dtype: torch.dtype) -> None:
    for sample in samples(info, dtype, requires_grad=True):
        arguments, options = (sample.input, *sample.args), sample.kwargs
        leaves = [t for t in arguments if isinstance(t, Tensor)]
        ours, theirs = OURS[info.name](*arguments, **options), info.op(*arguments, **options)
        cotangent = torch.randn(theirs.shape, dtype=dtype)
        actual = torch.autograd.grad(ours, leaves, cotangent)
        expected = torch.autograd.grad(theirs, leaves, cotangent)
        torch.testing.assert_close(actual, expected)


# Where torch gives an error, so do we: of the same type and with the words that OpInfo looks for.
@pytest.mark.parametrize("info", [i for i in OPINFOS if i.error_inputs_func is not None], ids=name_of)
def test_opinfo_error_inputs(info: OpInfo) -> None:
    count = 0
    for error in info.error_inputs("cpu"):
        sample = error.sample_input
        with pytest.raises(error.error_type, match=error.error_regex):
            OURS[info.name](sample.input, *sample.args, **sample.kwargs)
        count += 1
    assert count >= 8
