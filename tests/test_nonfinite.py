"""NaN and infinity reach exactly the results that have a term with them, and no others."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cases import BY_NAME
from geometry import Geometry
from operands import (
    ALGORITHMS,
    CONTRACTIONS,
    DTYPES,
    FORWARD,
    GRAD_INPUT,
    GRAD_WEIGHT,
    Contraction,
    expected_result,
    operand,
)

pytestmark = pytest.mark.usefixtures("threads")

NAMES = [
    "plain_3x3",
    "odd_width_17_lane_tail",
    "width_7_shorter_than_a_vector",
    "co_33_one_past_two_vectors",
    "many_channels_several_k_blocks",
    "pointwise_1x1_wide_image",
    "stride_2_even_image",
    "stride_larger_than_kernel_leaves_untouched_rows",
    "residue_without_taps",
    "dilation_and_stride_not_coprime",
    "padding_larger_than_kernel",
    "asymmetric_everything",
    "groups_3_uneven",
    "depthwise",
    "depthwise_multiplier_2",
    "kernel_3_stride_2_output_padding_1",
    "long_row_several_segments",
    "tiles_partial_at_both_ends",
    "tiles_groups_2_one_past_vectors",
]
CASES = [BY_NAME[name] for name in NAMES]


def places(tensor: Tensor) -> list[tuple[int, ...]]:
    """The first element, the last, and one in the middle."""
    return [(0,) * tensor.dim(), tuple(s - 1 for s in tensor.shape), tuple(s // 2 for s in tensor.shape)]


def reached(
    contraction: Contraction, case: Geometry, a: Tensor, b: Tensor, spoilt: str, place: tuple[int, ...]
) -> Tensor:
    """Where the result has a term with the element at `place`: the contraction of its indicator with ones."""
    a, b = torch.ones_like(a), torch.ones_like(b)
    target = a if spoilt == contraction.first else b
    target.zero_()
    target[place] = 1
    return contraction(case, a.double(), b.double(), reference=True) > 0


def assert_spreads_to_its_terms_only(
    contraction: Contraction, case: Geometry, dtype: torch.dtype, layout: str, spoilt: str
) -> None:
    """Not finite exactly where the spoilt element has a term; elsewhere the values are as before."""
    a, b = (operand(case, name, dtype, layout) for name in (contraction.first, contraction.second))
    expected, bound = expected_result(contraction, case.name, dtype, (layout, layout), False)
    target = a if spoilt == contraction.first else b
    for place, value in zip(places(target), (math.nan, math.inf, -math.inf), strict=True):
        before = target[place].item()
        target[place] = value
        result = contraction(case, a, b)
        target[place] = before
        affected = reached(contraction, case, a, b, spoilt, place)
        wrong = result.isfinite() == affected
        assert not wrong.any(), f"{value} at {place} of {spoilt}: wrong at {wrong.nonzero()[0].tolist()}"
        untouched = ~affected & ~((result.double() - expected).abs() <= bound)
        assert not untouched.any(), (
            f"{value} at {place} of {spoilt}: another value at {untouched.nonzero()[0]}"
        )


# A pixel of X reaches Y where its window covers it; a pixel of dY reaches dX where its window lies. Padding
# is no pixel: it must not turn a neighbour's NaN into a product 0 * NaN.
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("contraction", [FORWARD, GRAD_INPUT], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_pixel(case: Geometry, contraction: Contraction, layout: str, isa: str) -> None:
    for dtype in DTYPES:
        assert_spreads_to_its_terms_only(contraction, case, dtype, layout, contraction.first)


# A pixel of X reaches the taps of dW that meet it, in the input channel that it belongs to.
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_pixel_in_weight_gradient(case: Geometry, layout: str, isa: str) -> None:
    for dtype in DTYPES:
        assert_spreads_to_its_terms_only(GRAD_WEIGHT, case, dtype, layout, "x")


# The same of each algorithm, wherever it applies: which one computes a layer is nobody's concern.
@pytest.mark.parametrize("algorithm", ALGORITHMS, indirect=True)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("contraction", CONTRACTIONS, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_pixel_by_every_algorithm(
    case: Geometry, contraction: Contraction, layout: str, algorithm: str
) -> None:
    spoilt = "x" if contraction is GRAD_WEIGHT else contraction.first
    assert_spreads_to_its_terms_only(contraction, case, torch.float32, layout, spoilt)


# A weight, and a pixel of dY in the weight gradient, may also meet zeros of the padding (torch computes 0 *
# NaN there too). It reaches at least its terms, and at most the channel, or the channels of its group, that
# it belongs to.
@pytest.mark.parametrize("contraction", [FORWARD, GRAD_INPUT, GRAD_WEIGHT], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_stays_in_its_channels(case: Geometry, contraction: Contraction, isa: str) -> None:
    for dtype in DTYPES:
        a, b = (operand(case, name, dtype) for name in (contraction.first, contraction.second))
        for place in places(b):
            before = b[place].item()
            b[place] = math.nan
            result = contraction(case, a, b)
            b[place] = before
            affected = reached(contraction, case, a, b, contraction.second, place)
            assert not result[affected].isfinite().any(), f"NaN at {place} was lost"
            outside = torch.ones_like(affected)
            match contraction.result:
                case "y":
                    outside[:, place[0]] = False
                case "dx":
                    outside[:, place[0] // case.co * case.ci + place[1]] = False
                case "dw":
                    outside[place[1]] = False
            assert result[outside].isfinite().all(), f"NaN at {place} left its channels"
