"""Padding beyond torch's, of zeros: 'same' with a stride, and a padding for each side."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import torch_conv_ext
from padding import (
    Function,
    Pair,
    Sides,
    close,
    conv2d,
    conv_transpose2d,
    cropped_conv_transpose2d,
    padded_conv2d,
    pair,
    randn,
    with_derivatives,
)
from torch_conv_ext import plan

pytestmark = pytest.mark.usefixtures("threads")

# mypy does not follow `*tensors, *options`.
conv2d_bias: Function = torch_conv_ext.conv2d_bias
conv2d_input: Function = torch_conv_ext.conv2d_input
conv2d_weight: Function = torch_conv_ext.conv2d_weight
conv_transpose2d_input: Function = torch_conv_ext.conv_transpose2d_input
conv_transpose2d_weight: Function = torch_conv_ext.conv_transpose2d_weight

# --- 'same' with a stride -----------------------------------------------------------------------------------

# Input, kernel, stride and dilation along an axis, and the zeros that TensorFlow puts at its ends.
SAME: list[tuple[tuple[int, int, int, int], Pair]] = [
    ((5, 3, 2, 1), (1, 1)),
    ((6, 3, 2, 1), (0, 1)),
    ((7, 2, 2, 1), (0, 1)),
    ((224, 7, 2, 1), (2, 3)),
    ((9, 1, 2, 1), (0, 0)),
    ((10, 2, 3, 1), (0, 1)),
    ((11, 4, 3, 1), (1, 1)),
    ((8, 3, 2, 3), (2, 3)),
    ((8, 4, 1, 1), (1, 2)),
]


@pytest.mark.parametrize(("rows", "columns"), list(zip(SAME, SAME[1:] + SAME[:1], strict=True)), ids=str)
def test_same_with_stride(rows: Any, columns: Any) -> None:
    """conv2d(X, padding='same') = conv2d(pad(X)), of size ceil(i / stride), and so are all derivatives."""
    image, kernel, stride, dilation = zip(rows[0], columns[0], strict=True)
    x, w, b = randn(2, 2, *image), randn(3, 2, *kernel), randn(3)
    options = stride, "same", dilation
    result = with_derivatives(lambda x, w, b: conv2d(x, w, b, *options), x, w, b)
    sides = rows[1], columns[1]
    close(result, with_derivatives(padded_conv2d(stride, sides, dilation), x, w, b))
    assert result[0].shape[2:] == tuple(-(-i // s) for i, s in zip(image, stride, strict=True))
    dy = torch.cos(result[0])
    close(conv2d_input(x.shape, w, dy, *options), result[1])
    close(conv2d_weight(x, w.shape, dy, *options), result[2])
    close(conv2d_bias(dy), result[3])


@pytest.mark.parametrize("kernel", [(1, 2), (3, 4), (5, 7)], ids=str)
@pytest.mark.parametrize("stride", [1, 2, (3, 1)], ids=str)
@pytest.mark.parametrize("dilation", [1, (2, 1)], ids=str)
def test_transposed_same(kernel: Pair, stride: Any, dilation: Any) -> None:
    """The output has the size i * stride, and is conv2d's adjoint:
    <conv2d(X, W, padding='same'), Y> = <X, conv_transpose2d(Y, W, padding='same')>."""
    y, w, b = randn(2, 3, 5, 4), randn(3, 2, *kernel), randn(2)
    options: Any = {"stride": stride, "dilation": dilation, "padding": "same"}
    z = conv_transpose2d(y, w, **options)
    assert z.shape == (2, 2, 5 * pair(stride)[0], 4 * pair(stride)[1])
    x = randn(*z.shape, seed=1)
    close((conv2d(x, w, **options) * y).sum(), (x * z).sum())
    close(conv_transpose2d(y, w, b, **options), z + b[:, None, None])
    valid = conv_transpose2d(y, w, stride=stride, dilation=dilation, padding="valid")
    assert torch.equal(valid, conv_transpose2d(y, w, stride=stride, dilation=dilation))


# --- a padding for each side --------------------------------------------------------------------------------

SIDES: list[Sides] = [((0, 1), (0, 1)), ((2, 0), (1, 3)), ((0, 0), (4, 0)), ((3, 4), (0, 1))]


@pytest.mark.parametrize("sides", SIDES, ids=str)
@pytest.mark.parametrize("stride", [1, (2, 3)], ids=str)
def test_sides(sides: Sides, stride: Any) -> None:
    """conv2d with ((top, bottom), (left, right)) = conv2d of the padded image; so are all derivatives."""
    x, w, b = randn(2, 4, 6, 7), randn(6, 2, 3, 4), randn(6)
    options = stride, sides, (2, 1), 2
    result = with_derivatives(lambda x, w, b: conv2d(x, w, b, *options), x, w, b)
    close(result, with_derivatives(padded_conv2d(*options), x, w, b))
    dy = torch.cos(result[0])
    close(conv2d_input(x.shape, w, dy, *options), result[1])
    close(conv2d_weight(x, w.shape, dy, *options), result[2])
    assert torch.equal(conv2d(x, w, b, stride, [list(side) for side in sides], (2, 1), 2), result[0])


@pytest.mark.parametrize("sides", SIDES, ids=str)
@pytest.mark.parametrize(("stride", "output_padding"), [(1, 0), ((2, 3), (1, 2))], ids=str)
def test_transposed_sides(sides: Sides, stride: Any, output_padding: Any) -> None:
    """conv_transpose2d with a padding for each side crops; so do all derivatives."""
    x, w, b = randn(2, 4, 6, 7), randn(4, 3, 3, 4), randn(6)
    size = [
        (i - 1) * s + d * (k - 1) + 1 - sum(ends) + extra
        for i, s, d, k, ends, extra in zip(
            (6, 7), pair(stride), (2, 1), (3, 4), sides, pair(output_padding), strict=True
        )
    ]
    options = stride, sides, output_padding, 2, (2, 1)
    result = with_derivatives(lambda x, w, b: conv_transpose2d(x, w, b, *options), x, w, b)
    reference = (stride, sides, (2, 1), 2, "constant", size)
    close(result, with_derivatives(cropped_conv_transpose2d(*reference), x, w, b))
    dy = torch.cos(result[0])
    close(conv_transpose2d_input(x.shape, w, dy, *options), result[1])
    close(conv_transpose2d_weight(x, w.shape, dy, *options), result[2])
    close(conv2d_bias(dy), result[3])


@pytest.mark.parametrize(
    "run",
    [
        lambda *t: conv2d(*t, 2, "same"),
        lambda *t: conv2d(*t, 1, ((0, 2), (1, 0))),
        lambda *t: conv_transpose2d(*t, 2, "same"),
        lambda *t: conv_transpose2d(*t, 2, ((0, 2), (1, 0))),
    ],
    ids=["same", "sides", "transposed_same", "transposed_sides"],
)
def test_gradcheck(run: Function) -> None:
    """First and second derivatives against finite differences."""
    inputs = tuple(t.requires_grad_() for t in (randn(1, 2, 4, 5), randn(2, 2, 3, 2), randn(2)))
    assert gradcheck(run, inputs, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(run, inputs, check_fwd_over_rev=True, check_rev_over_rev=True)


def test_plan() -> None:
    """plan takes what the functions take: the output's size, and the padding as it is shown."""
    found = plan("conv2d", (1, 3, 9, 8), (4, 3, 3, 3), padding="same", stride=2)
    assert (found.output, found.padding) == ((1, 4, 5, 4), "same")
    found = plan("conv2d", (1, 3, 9, 8), (4, 3, 3, 3), padding=[(0, 1), (2, 0)])
    assert (found.output, found.padding) == ((1, 4, 8, 8), ((0, 1), (2, 0)))
    assert "padding ((0, 1), (2, 0))" in str(found)
    found = plan("conv_transpose2d", (1, 3, 9, 8), (3, 4, 3, 3), padding="same", stride=2)
    assert found.output == (1, 4, 18, 16)
