"""The three contractions are derivatives of one trilinear form, so they must agree on its value."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from cases import CASES
from geometry import Geometry
from operands import CONTRACTIONS, FORWARD, GRAD_INPUT, GRAD_WEIGHT, error_bound, operand
from strategies import geometries

pytestmark = pytest.mark.usefixtures("threads")
DTYPE = torch.float64


def inner(a: Tensor, b: Tensor) -> float:
    """<a, b>, its products summed exactly."""
    return math.fsum((a * b).flatten().tolist())


def assert_adjoint(geometry: Geometry) -> None:
    """|T by one way - T by another| <= the errors of both: gamma * sum over all terms of |dY| |W| |X|.

    Each way rounds in its contraction, then in the products of the inner product, whose sum is exact: one
    more rounding, covered by the part of the bound that is meant for the reference.
    """
    x, w, dy = (operand(geometry, name, DTYPE) for name in ("x", "w", "dy"))
    by_y = inner(dy, FORWARD(geometry, x, w))
    by_dx = inner(x, GRAD_INPUT(geometry, dy, w))
    by_dw = inner(w, GRAD_WEIGHT(geometry, x, dy))

    tensors = {"x": x.abs(), "w": w.abs(), "dy": dy.abs()}
    errors = []
    for contraction in CONTRACTIONS:
        magnitude = contraction(
            geometry, tensors[contraction.first], tensors[contraction.second], reference=True
        )
        other = tensors["dy" if contraction is FORWARD else contraction.result[1:]]
        errors.append(inner(other, error_bound(contraction, geometry, magnitude, DTYPE)))
    bound = 2 * max(errors)
    assert abs(by_y - by_dx) <= bound, f"<dY, forward> {by_y!r}, <X, grad_input> {by_dx!r}, bound {bound:.3g}"
    assert abs(by_y - by_dw) <= bound, (
        f"<dY, forward> {by_y!r}, <W, grad_weight> {by_dw!r}, bound {bound:.3g}"
    )


# <dY, forward(X, W)> = <X, grad_input(dY, W)> = <W, grad_weight(X, dY)>
@pytest.mark.parametrize("case", CASES, ids=str)
def test_named_geometries(case: Geometry) -> None:
    assert_adjoint(case)


# The same, with every size drawn on its own.
@settings(max_examples=300)
@given(geometries())
def test_random_geometries(geometry: Geometry) -> None:
    assert_adjoint(geometry)


# The same on sizes that cross several register tiles; the sums are short so that the reference stays quick.
@settings(max_examples=60)
@given(geometries(largest_image=40, largest_kernel=7))
def test_random_large_geometries(geometry: Geometry) -> None:
    assert_adjoint(geometry)
