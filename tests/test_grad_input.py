"""The kernel `grad_input` against the definition: geometries x dtypes x layouts x ISAs, poisoned results."""

from __future__ import annotations

import pytest
import torch

from cases import CASES
from geometry import Geometry
from operands import ALGORITHMS, DTYPES, GRAD_INPUT, LAYOUT_PAIRS, assert_matches_reference

pytestmark = pytest.mark.usefixtures("threads")


# dX[n,g,ci,ih,iw] = bias[g,ci] + sum over co,kh,kw of W[g,co,ci,kh,kw] * dY[n,g,co,oh,ow]
#     where oh*stride - padding + kh*dilation = ih and ow*stride - padding + kw*dilation = iw have a solution
# This is conv_transpose2d too, hence the bias. An element that no term reaches is 0 + bias.
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_definition(case: Geometry, dtype: torch.dtype, isa: str) -> None:
    for index, layouts in enumerate(LAYOUT_PAIRS):
        assert_matches_reference(GRAD_INPUT, case, dtype, layouts, with_bias=index % 2 == 0)


# The same by each algorithm, also where the plan would take another one.
@pytest.mark.parametrize("algorithm", ALGORITHMS, indirect=True)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_algorithm_equals_the_definition(case: Geometry, algorithm: str, isa: str) -> None:
    for dtype, layouts in zip(DTYPES, LAYOUT_PAIRS, strict=False):
        assert_matches_reference(GRAD_INPUT, case, dtype, layouts, with_bias=True)
