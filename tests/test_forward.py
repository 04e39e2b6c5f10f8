"""The kernel `forward` against the definition: geometries x dtypes x layouts x ISAs, poisoned results."""

from __future__ import annotations

import pytest
import torch

from cases import CASES
from geometry import Geometry
from operands import ALGORITHMS, DTYPES, FORWARD, LAYOUT_PAIRS, assert_matches_reference

pytestmark = pytest.mark.usefixtures("threads")


# Y[n,g,co,oh,ow] = bias[g,co] + sum over ci,kh,kw of
#     W[g,co,ci,kh,kw] * X[n,g,ci, oh*stride - padding + kh*dilation, ow*stride - padding + kw*dilation]
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_definition(case: Geometry, dtype: torch.dtype, isa: str) -> None:
    for index, layouts in enumerate(LAYOUT_PAIRS):
        assert_matches_reference(FORWARD, case, dtype, layouts, with_bias=index % 2 == 0)


# The same by each algorithm, also where the plan would take another one.
@pytest.mark.parametrize("algorithm", ALGORITHMS, indirect=True)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_algorithm_equals_the_definition(case: Geometry, algorithm: str, isa: str) -> None:
    for dtype, layouts in zip(DTYPES, LAYOUT_PAIRS, strict=False):
        assert_matches_reference(FORWARD, case, dtype, layouts, with_bias=True)
