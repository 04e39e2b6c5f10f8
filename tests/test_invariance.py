"""Same bits: for any number of threads, for a sample alone or in a batch, from run to run."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cases import BY_NAME, CASES
from geometry import Geometry, conv, transposed
from operands import (
    ALGORITHMS,
    CONTRACTIONS,
    DTYPES,
    FORWARD,
    GRAD_INPUT,
    GRAD_WEIGHT,
    Contraction,
    bias_of,
    operand,
)

LAYOUT_NAMES = ["contiguous", "channels_last"]

# Enough work that several threads get a share, with sizes that no number of threads divides.
LARGER = [
    conv("dense_29x31", (13, 21), (29, 31), 3, padding=1, n=3),
    conv("dense_one_sample", (24, 40), (27, 26), 3, padding=1, n=1),
    conv("strided", (11, 18), (41, 39), 3, stride=2, padding=1, n=3),
    conv("pointwise_few_pixels", (130, 270), (5, 5), 1, n=2),
    conv("pointwise_many_pixels", (12, 20), (43, 41), 1, n=3),
    conv("depthwise_large", (1, 1), (37, 35), 5, padding=2, groups=23, n=2),
    transposed("upsample", (17, 9), (19, 17), 4, 2, 1, n=3),
]

PAST_THE_CACHES = [
    conv("past_the_caches_dense", (64, 64), 64, 1, n=15),
    conv("past_the_caches_several_k_blocks", (64, 64), 64, (1, 6), padding=(0, 3), n=15),
    conv("past_the_caches_groups", (2, 2), 64, 3, padding=1, groups=32, n=15),
    conv("past_the_caches_depthwise", (1, 1), 64, 3, padding=1, groups=60, n=15),
    conv("past_the_caches_odd", (1, 1), (61, 63), 3, padding=1, groups=63, n=16),
]

# Channels that fill vectors, or nearly, several K blocks of them, and several panels.
VECTORS_OF_CHANNELS = [
    conv("full_vectors", (64, 64), (9, 11), 3, padding=1, n=1),
    conv("nearly_full_vectors", (95, 96), (7, 9), 3, stride=2, padding=1),
    conv("few_channels", (3, 64), (13, 15), 3, padding=1),
    conv("patches_several_k_blocks", (3, 80), (45, 61), 14, stride=14),
    conv("full_vectors_in_groups", (32, 80), (8, 8), 3, padding=2, dilation=2, groups=2),
]


def compute(contraction: Contraction, case: Geometry, dtype: torch.dtype, layout: str) -> Tensor:
    a, b = (operand(case, name, dtype, layout) for name in (contraction.first, contraction.second))
    return contraction(case, a, b, bias_of(contraction, case, dtype))


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal sizes and equal bits; a NaN of a poisoned result equals nothing."""
    integer = torch.int64 if a.dtype == torch.float64 else torch.int32
    return torch.equal(a, b) and torch.equal(a.view(integer), b.view(integer))


# result with t threads = result with 1 thread, bit for bit, t in 2, 3, 5; again with 2 threads = before
@pytest.mark.parametrize("layout", LAYOUT_NAMES)
@pytest.mark.parametrize("contraction", CONTRACTIONS, ids=str)
@pytest.mark.parametrize("case", [*CASES, *LARGER], ids=str)
def test_number_of_threads(
    case: Geometry, contraction: Contraction, layout: str, isa: str, threads: int
) -> None:
    for dtype in DTYPES:
        torch.set_num_threads(1)
        expected = compute(contraction, case, dtype, layout)
        for count in (2, 3, 5, 2):
            torch.set_num_threads(count)
            result = compute(contraction, case, dtype, layout)
            assert same_bits(result, expected), f"{dtype}: {count} threads differ from one"


# forward(X, W)[n] = forward(X[n:n+1], W)  and  grad_input(dY, W)[n] = grad_input(dY[n:n+1], W), bit for bit
@pytest.mark.parametrize("layout", LAYOUT_NAMES)
@pytest.mark.parametrize("threads", [1, 2], indirect=True)
@pytest.mark.parametrize("contraction", [FORWARD, GRAD_INPUT], ids=str)
@pytest.mark.parametrize("case", [c for c in [*CASES, *LARGER] if c.n > 1], ids=str)
def test_sample_alone_or_in_a_batch(
    case: Geometry, contraction: Contraction, layout: str, isa: str, threads: int
) -> None:
    for dtype in DTYPES:
        a = operand(case, contraction.first, dtype, layout)
        b = operand(case, contraction.second, dtype, layout)
        bias = bias_of(contraction, case, dtype)
        batch = contraction(case, a, b, bias)
        for n in range(case.n):
            alone = contraction(case, a[n : n + 1], b, bias)
            assert same_bits(alone[0], batch[n]), f"{dtype}: sample {n} differs"


# Both of each algorithm, wherever it applies.
@pytest.mark.parametrize("algorithm", ALGORITHMS, indirect=True)
@pytest.mark.parametrize("layout", LAYOUT_NAMES)
@pytest.mark.parametrize("contraction", CONTRACTIONS, ids=str)
@pytest.mark.parametrize("case", LARGER, ids=str)
def test_every_algorithm(
    case: Geometry, contraction: Contraction, layout: str, algorithm: str, isa: str, threads: int
) -> None:
    expected = compute(contraction, case, torch.float32, layout)
    for count in (2, 3):
        torch.set_num_threads(count)
        result = compute(contraction, case, torch.float32, layout)
        assert same_bits(result, expected), f"{count} threads differ from one"
    if contraction is GRAD_WEIGHT:
        return
    a, b = (operand(case, name, torch.float32, layout) for name in (contraction.first, contraction.second))
    bias = bias_of(contraction, case, torch.float32)
    for n in range(case.n):
        assert same_bits(contraction(case, a[n : n + 1], b, bias)[0], expected[n]), f"sample {n} differs"


# batch[n] = the sample alone, where only the batch is large enough to be written past the caches, in rows of
# whole aligned vectors and in others.
@pytest.mark.parametrize("algorithm", ["direct", "lanewise", "rows"], indirect=True)
@pytest.mark.parametrize("threads", [2], indirect=True)
@pytest.mark.parametrize("layout", LAYOUT_NAMES)
@pytest.mark.parametrize("contraction", [FORWARD, GRAD_INPUT], ids=str)
@pytest.mark.parametrize("case", PAST_THE_CACHES, ids=str)
def test_large_results(
    case: Geometry, contraction: Contraction, layout: str, algorithm: str, isa: str, threads: int
) -> None:
    a, b = (operand(case, name, torch.float32, layout) for name in (contraction.first, contraction.second))
    bias = bias_of(contraction, case, torch.float32)
    batch = contraction(case, a, b, bias)
    assert batch.nbytes > 14 << 20
    for n in (0, case.n // 2, case.n - 1):
        alone = contraction(case, a[n : n + 1], b, bias)
        assert same_bits(alone[0], batch[n]), f"sample {n} differs"


# result in channels_last = result in NCHW, bit for bit: the direct algorithm packs and stores in another way,
# and adds in the same order.
@pytest.mark.parametrize("algorithm", ["direct"], indirect=True)
@pytest.mark.parametrize("contraction", CONTRACTIONS, ids=str)
@pytest.mark.parametrize("case", [*LARGER, *VECTORS_OF_CHANNELS], ids=str)
def test_layouts_by_the_direct_algorithm(
    case: Geometry, contraction: Contraction, algorithm: str, isa: str, threads: int
) -> None:
    for dtype in DTYPES:
        expected = compute(contraction, case, dtype, "contiguous")
        result = compute(contraction, case, dtype, "channels_last")
        assert same_bits(result.contiguous(), expected), f"{dtype}: the layouts differ"


# The batch may be any number of samples, and a sample may stand at any place in it.
@pytest.mark.parametrize("contraction", [FORWARD, GRAD_INPUT], ids=str)
@pytest.mark.parametrize("name", ["plain_3x3", "asymmetric_everything", "width_7_shorter_than_a_vector"])
def test_place_in_the_batch(name: str, contraction: Contraction, isa: str, threads: int) -> None:
    case = BY_NAME[name]
    a = operand(case, contraction.first, torch.float32)
    b = operand(case, contraction.second, torch.float32)
    alone = contraction(case, a[:1], b)[0]
    for size in (2, 3, 7, 16, 33):
        batch = a[1:2].repeat(size, 1, 1, 1)
        for place in (0, size // 2, size - 1):
            mixed = batch.clone()
            mixed[place] = a[0]
            assert same_bits(contraction(case, mixed, b)[place], alone), f"batch {size}, place {place}"
