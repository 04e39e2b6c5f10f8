"""Operands in every layout, the three contractions as one table, expected values and error bounds.

A test names a contraction, a geometry, a dtype and the layouts of the two operands. All values come from
seeds made of those names, so one failing case can be run alone and gives the same numbers.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import cast

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from cases import BY_NAME
from geometry import Geometry
from torch_conv_ext import _C  # registers the operators

DTYPES = [torch.float32, torch.float64]


@dataclass(frozen=True)
class Contraction:
    """One derivative of the trilinear form: its name, its two operands and its result."""

    name: str
    first: str
    second: str
    result: str

    def __str__(self) -> str:
        return self.name

    @property
    def has_bias(self) -> bool:
        return self.result != "dw"

    def bias_size(self, geometry: Geometry) -> int:
        """One element per channel of the result."""
        return geometry.shape(self.result)[1]

    def terms(self, geometry: Geometry) -> int:
        """The largest number of products in one element of the result."""
        match self.result:
            case "y":
                return geometry.ci * math.prod(geometry.kernel)
            case "dx":
                return geometry.co * math.prod(geometry.kernel)
        return geometry.n * math.prod(geometry.output)

    def __call__(
        self, geometry: Geometry, a: Tensor, b: Tensor, bias: Tensor | None = None, *, reference: bool = False
    ) -> Tensor:
        """The raw operator, or its twin in loops. The spatial sizes of the result come from the geometry."""
        op = getattr(torch.ops.torch_conv_ext, f"_reference_{self.name}" if reference else self.name)
        size = geometry.shape(self.result)[2:]
        tail = (*size, *geometry.stride, *geometry.padding, *geometry.dilation, geometry.groups)
        result = op(a, b, bias, *tail) if self.has_bias else op(a, b, *tail)
        return cast(Tensor, result)


FORWARD = Contraction("forward", "x", "w", "y")
GRAD_INPUT = Contraction("grad_input", "dy", "w", "dx")
GRAD_WEIGHT = Contraction("grad_weight", "x", "dy", "dw")
CONTRACTIONS = [FORWARD, GRAD_INPUT, GRAD_WEIGHT]


# --- values -------------------------------------------------------------------------------------------------


def values(name: str, operand: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Standard normal values, contiguous; the seed is made of the two names."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{name}/{operand[-1]}".encode()))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


# Which dimensions of the values are equal along their whole length: an expanded tensor has stride 0 there.
EXPANDED: dict[str, tuple[int, ...]] = {
    "expanded_batch": (0,),
    "expanded_channel": (1,),
    "expanded_all": (0, 1, 2, 3),
}


def _expanded(full: Tensor, layout: str) -> Tensor:
    """The first elements along the dimensions that the layout expands, seen through a stride of 0."""
    first = full
    for dim in EXPANDED[layout]:
        first = first.narrow(dim, 0, min(1, full.size(dim)))
    return first.clone().expand(full.shape)


def _window(full: Tensor, storage_format: torch.memory_format) -> Tensor:
    """A view into a larger buffer: storage offset, every second column, NaN everywhere around the view."""
    n, c, h, w = full.shape
    shape = (n + 2, c + 3, h + 3, 2 * w + 5)
    surroundings = torch.full(shape, math.nan, dtype=full.dtype).contiguous(memory_format=storage_format)
    return surroundings[1 : 1 + n, 2 : 2 + c, 1 : 1 + h, 3 : 3 + 2 * w : 2].copy_(full)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda full: full.clone(),
    "channels_last": lambda full: full.clone(memory_format=torch.channels_last),
    # Memory order (w, c, n, h): no dimension that a kernel may like to walk has stride 1.
    "permuted": lambda full: full.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
    "sliced": lambda full: _window(full, torch.contiguous_format),
    "sliced_channels_last": lambda full: _window(full, torch.channels_last),
    **{layout: partial(_expanded, layout=layout) for layout in EXPANDED},
}

# The algorithms a test may ask for; each applies to some geometries and contractions only.
ALGORITHMS = ["direct", "winograd", "pixels", "lanewise", "rows", "subpixel", "exchanged"]

# Pairs for the two operands. The last pairs are what autograd sends: the gradient of sum() is all stride 0.
LAYOUT_PAIRS = [
    ("contiguous", "contiguous"),
    ("channels_last", "channels_last"),
    ("channels_last", "contiguous"),
    ("contiguous", "channels_last"),
    ("permuted", "permuted"),
    ("sliced", "sliced_channels_last"),
    ("sliced_channels_last", "sliced"),
    ("expanded_batch", "expanded_channel"),
    ("expanded_all", "contiguous"),
    ("contiguous", "expanded_all"),
]


def operand(geometry: Geometry, name: str, dtype: torch.dtype, layout: str = "contiguous") -> Tensor:
    """Operand "x", "w" or "dy" of a geometry, as a fresh tensor in the layout."""
    return LAYOUTS[layout](values(geometry.name, name, geometry.shape(name), dtype))


def bias_of(contraction: Contraction, geometry: Geometry, dtype: torch.dtype) -> Tensor | None:
    """A bias where the contraction takes one."""
    if not contraction.has_bias:
        return None
    return values(geometry.name, "bias", (contraction.bias_size(geometry),), dtype)


# --- expected results ---------------------------------------------------------------------------------------


def error_factor(terms: int, dtype: torch.dtype) -> float:
    """Bound on |computed - exact| / sum |products| of a sum of products in `dtype`, in any order.

    gamma_n = n u / (1 - n u) with n roundings on the longest path, here terms + 1 for the bias (Higham,
    Accuracy and Stability of Numerical Algorithms, section 3.1). Rounding errors of random data partly
    cancel: with probability about 1 - 2 exp(-L^2 / 2) the n becomes L sqrt(n) (Higham and Mary, A New
    Approach to Probabilistic Rounding Error Analysis, SIAM J. Sci. Comput. 41(5), 2019). L = 8 makes that
    1 - 3e-14 for each element.
    """
    n = terms + 1
    n_eff = min(n, 8.0 * math.sqrt(n))
    u = torch.finfo(dtype).eps / 2
    return n_eff * u / (1 - n_eff * u)


def bounds(
    contraction: Contraction,
    geometry: Geometry,
    a: Tensor,
    b: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """The reference's result in float64 and the largest error that each of its elements may have in `dtype`.

    The reference rounds too: in float64 its own error counts as much as the kernel's.
    """
    a, b = a.double().contiguous(), b.double().contiguous()
    bias = None if bias is None else bias.double()
    expected = contraction(geometry, a, b, bias, reference=True)
    magnitude = contraction(geometry, a.abs(), b.abs(), None if bias is None else bias.abs(), reference=True)
    return expected, error_bound(contraction, geometry, magnitude, dtype)


def uses_winograd(contraction: Contraction, geometry: Geometry, dtype: torch.dtype) -> bool:
    """Whether the plan chooses Winograd on the ISA in use, for one layout at least."""
    return any(
        _C.plan(contraction.name, str(dtype).removeprefix("torch."), layout, geometry.plan_sizes())[
            "algorithm"
        ]
        == "winograd"
        for layout in ("nchw", "channels_last")
    )


def error_bound(
    contraction: Contraction, geometry: Geometry, magnitude: Tensor, dtype: torch.dtype
) -> Tensor:
    """The largest error of each element whose absolute products sum to `magnitude`, the reference's included.

    Winograd's transforms mix the elements of a tile, so the error of one is measured by the largest.
    """
    terms = contraction.terms(geometry)
    if magnitude.numel() > 0 and uses_winograd(contraction, geometry, dtype):
        magnitude = magnitude.amax().expand(magnitude.shape)
        terms += 36  # each result is a sum of 36 products, whatever the number of channels
    return magnitude * (error_factor(terms, dtype) + error_factor(terms, torch.float64))


@lru_cache(maxsize=64)
def _expected_result(
    contraction: Contraction,
    case: str,
    dtype: torch.dtype,
    layouts: tuple[str, str],
    with_bias: bool,
    winograd: bool,  # the bound depends on it
) -> tuple[Tensor, Tensor]:
    geometry = BY_NAME[case]
    a = operand(geometry, contraction.first, dtype, layouts[0])
    b = operand(geometry, contraction.second, dtype, layouts[1])
    bias = bias_of(contraction, geometry, dtype) if with_bias else None
    return bounds(contraction, geometry, a, b, bias, dtype)


def expected_result(
    contraction: Contraction, case: str, dtype: torch.dtype, layouts: tuple[str, str], with_bias: bool
) -> tuple[Tensor, Tensor]:
    """`bounds` of a named case. Layouts with the same values share one computation."""
    first, second = (layout if layout in EXPANDED else "contiguous" for layout in layouts)
    winograd = uses_winograd(contraction, BY_NAME[case], dtype)
    return _expected_result(contraction, case, dtype, (first, second), with_bias, winograd)


def expected_strides(shape: torch.Size, *operands: Tensor) -> tuple[int, ...]:
    """channels_last if one operand suggests it, else contiguous: torch's own rule for convolutions."""
    channels_last = any(suggest_memory_format(t) == torch.channels_last for t in operands)
    chosen = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, memory_format=chosen, device="meta").stride()


def storage_bytes(tensor: Tensor) -> Tensor:
    """A copy of all bytes of the tensor's storage, also of those between and around its elements."""
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).clone()


# --- the check that the three kernel tests share ------------------------------------------------------------


def assert_within(result: Tensor, expected: Tensor, bound: Tensor, what: str) -> None:
    """Elementwise |result - expected| <= bound; a NaN of a poisoned result is outside of every bound."""
    assert result.shape == expected.shape, (
        f"{what}: shape {tuple(result.shape)}, expected {tuple(expected.shape)}"
    )
    error = (result.double() - expected).abs()
    outside = ~(error <= bound)
    if outside.any():
        at = tuple(outside.nonzero()[0].tolist())
        raise AssertionError(
            f"{what}: {int(outside.sum())} of {outside.numel()} elements outside of the bound; "
            f"first at {at}: got {result[at]:.9g}, expected {expected[at]:.9g}, bound {bound[at]:.3g}"
        )


def assert_matches_reference(
    contraction: Contraction,
    geometry: Geometry,
    dtype: torch.dtype,
    layouts: tuple[str, str],
    with_bias: bool = False,
) -> None:
    """Values, strides, and operands that stay as they were, down to the bytes around a view."""
    layout_a, layout_b = layouts
    what = f"{contraction} {geometry} {dtype} {layout_a} x {layout_b}{' with bias' if with_bias else ''}"
    a = operand(geometry, contraction.first, dtype, layout_a)
    b = operand(geometry, contraction.second, dtype, layout_b)
    bias = bias_of(contraction, geometry, dtype) if with_bias else None
    before = [storage_bytes(t) for t in (a, b, bias) if t is not None]

    result = contraction(geometry, a, b, bias)

    expected, bound = expected_result(contraction, geometry.name, dtype, layouts, with_bias)
    assert result.dtype == dtype
    assert_within(result, expected, bound, what)
    strides = expected_strides(result.shape, a, b)
    assert result.stride() == strides, f"{what}: strides {result.stride()}, expected {strides}"
    after = [storage_bytes(t) for t in (a, b, bias) if t is not None]
    assert all(map(torch.equal, before, after)), f"{what}: an operand was written to"
