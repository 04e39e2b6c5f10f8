"""The kernel `grad_weight` against the definition: geometries x dtypes x layouts x ISAs, poisoned results."""

from __future__ import annotations

import pytest
import torch

from cases import CASES
from geometry import Geometry
from operands import ALGORITHMS, DTYPES, GRAD_WEIGHT, LAYOUT_PAIRS, assert_matches_reference

pytestmark = pytest.mark.usefixtures("threads")


# dW[g,co,ci,kh,kw] = sum over n,oh,ow of
#     dY[n,g,co,oh,ow] * X[n,g,ci, oh*stride - padding + kh*dilation, ow*stride - padding + kw*dilation]
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_definition(case: Geometry, dtype: torch.dtype, isa: str) -> None:
    for layouts in LAYOUT_PAIRS:
        assert_matches_reference(GRAD_WEIGHT, case, dtype, layouts, with_bias=False)


# The same by each algorithm, also where the plan would take another one.
@pytest.mark.parametrize("algorithm", ALGORITHMS, indirect=True)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_algorithm_equals_the_definition(case: Geometry, algorithm: str, isa: str) -> None:
    for dtype, layouts in zip(DTYPES, LAYOUT_PAIRS, strict=False):
        assert_matches_reference(GRAD_WEIGHT, case, dtype, layouts)
