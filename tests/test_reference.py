"""The reference operators, against which the kernels are tested, against two other definitions."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import example, given, settings
from torch import Tensor
from torch.nn import functional, grad

from cases import BY_NAME, CASES
from geometry import Geometry
from operands import (
    CONTRACTIONS,
    FORWARD,
    GRAD_INPUT,
    GRAD_WEIGHT,
    Contraction,
    assert_within,
    bias_of,
    bounds,
    operand,
)
from strategies import geometries

CONV2D_CASES = [case for case in CASES if case.is_conv2d]
TRANSPOSED_CASES = [case for case in CASES if case.is_transposed]
DTYPE = torch.float64


def definition(geometry: Geometry, x: Tensor, w: Tensor, dy: Tensor) -> dict[str, Tensor]:
    """The three derivatives of T in plain Python: every term T = dY * W * X of the sum is visited once."""
    values = {"x": x.tolist(), "w": w.tolist(), "y": dy.tolist()}
    result = {name: torch.zeros(geometry.shape(name), dtype=DTYPE) for name in ("y", "dx", "dw")}
    y, dx, dw = (result[name].tolist() for name in ("y", "dx", "dw"))
    (s_h, s_w), (p_h, p_w), (d_h, d_w) = geometry.stride, geometry.padding, geometry.dilation
    ranges = [
        range(size)
        for size in (
            geometry.n,
            geometry.groups,
            geometry.co,
            geometry.ci,
            *geometry.output,
            *geometry.kernel,
        )
    ]
    for n, g, co, ci, oh, ow, kh, kw in product(*ranges):
        ih, iw = oh * s_h - p_h + kh * d_h, ow * s_w - p_w + kw * d_w
        if not (0 <= ih < geometry.image[0] and 0 <= iw < geometry.image[1]):
            continue
        c_in, c_out = g * geometry.ci + ci, g * geometry.co + co
        x_value, w_value = values["x"][n][c_in][ih][iw], values["w"][c_out][ci][kh][kw]
        y_value = values["y"][n][c_out][oh][ow]
        y[n][c_out][oh][ow] += w_value * x_value
        dx[n][c_in][ih][iw] += y_value * w_value
        dw[c_out][ci][kh][kw] += y_value * x_value
    shaped = {"y": y, "dx": dx, "dw": dw}
    return {name: torch.tensor(shaped[name], dtype=DTYPE).reshape(result[name].shape) for name in result}


# reference(a, b) = the derivative of T that the contraction is named for, with sizes that obey no formula.
@settings(max_examples=150)
@given(geometries(largest_image=6, largest_kernel=3))
@example(Geometry("one_term", 1, 1, 1, 1, (1, 1), (1, 1), (1, 1)))
@example(Geometry("swapped_axes", 1, 2, 2, 1, (5, 6), (3, 4), (2, 3), (1, 3), (2, -1), (3, 1)))
def test_equals_the_sum_over_all_terms_on_free_sizes(geometry: Geometry) -> None:
    x, w, dy = (operand(geometry, name, DTYPE) for name in ("x", "w", "dy"))
    expected = definition(geometry, x, w, dy)
    tensors = {"x": x, "w": w, "dy": dy}
    for contraction in CONTRACTIONS:
        a, b = tensors[contraction.first], tensors[contraction.second]
        result, bound = bounds(contraction, geometry, a, b, None, DTYPE)
        assert_within(result, expected[contraction.result], bound, str(contraction))


# forward(X, W) + bias = conv2d(X, W, bias)
@pytest.mark.parametrize("case", CONV2D_CASES, ids=str)
def test_forward_equals_conv2d(case: Geometry) -> None:
    x, w, bias = operand(case, "x", DTYPE), operand(case, "w", DTYPE), bias_of(FORWARD, case, DTYPE)
    result, bound = bounds(FORWARD, case, x, w, bias, DTYPE)
    expected = functional.conv2d(x, w, bias, case.stride, case.padding, case.dilation, case.groups)
    assert_within(result, expected, bound, "conv2d")


# grad_input(dY, W) = d<dY, conv2d(X, W)> / dX  and  grad_weight(X, dY) = d<dY, conv2d(X, W)> / dW
@pytest.mark.parametrize("case", CONV2D_CASES, ids=str)
def test_gradients_equal_torch_nn_grad(case: Geometry) -> None:
    x, w, dy = (operand(case, name, DTYPE) for name in ("x", "w", "dy"))
    tail = (case.stride, case.padding, case.dilation, case.groups)
    result, bound = bounds(GRAD_INPUT, case, dy, w, None, DTYPE)
    assert_within(result, grad.conv2d_input(x.shape, w, dy, *tail), bound, "conv2d_input")
    result, bound = bounds(GRAD_WEIGHT, case, x, dy, None, DTYPE)
    assert_within(result, grad.conv2d_weight(x, w.shape, dy, *tail), bound, "conv2d_weight")


# grad_input(dY, W) + bias = conv_transpose2d(dY, W, bias), with W as it is
@pytest.mark.parametrize("case", TRANSPOSED_CASES, ids=str)
def test_grad_input_equals_conv_transpose2d(case: Geometry) -> None:
    dy, w, bias = operand(case, "dy", DTYPE), operand(case, "w", DTYPE), bias_of(GRAD_INPUT, case, DTYPE)
    result, bound = bounds(GRAD_INPUT, case, dy, w, bias, DTYPE)
    expected = functional.conv_transpose2d(
        dy, w, bias, case.stride, case.padding, case.output_padding, case.groups, case.dilation
    )
    assert_within(result, expected, bound, "conv_transpose2d")


# The reference reads views as the values that they show.
@pytest.mark.parametrize("contraction", CONTRACTIONS, ids=str)
def test_reads_strided_views(contraction: Contraction) -> None:
    geometry = BY_NAME["asymmetric_everything"]
    plain = [operand(geometry, name, DTYPE) for name in (contraction.first, contraction.second)]
    view_a = operand(geometry, contraction.first, DTYPE, "sliced")
    view_b = operand(geometry, contraction.second, DTYPE, "permuted")
    expected = contraction(geometry, *plain, reference=True)
    assert torch.equal(contraction(geometry, view_a, view_b, reference=True), expected)
