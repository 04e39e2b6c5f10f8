"""Padding with the image's own elements, 'reflect', 'replicate' and 'circular', without a padded image.

T is the trilinear form of `_autograd`. One of its arguments, X or Y, is continued beyond its sides. T is
linear in that argument, so what lies beyond adds terms of its own:

    +-------------------------+
    | top, with both corners  |       T(extended X, W, Y) = T(X, W, Y)
    +----+-------------+------+           + sum over the four strips of T(strip of X, W', Y')
    |left|  the image  |right |
    +----+-------------+------+       W' and Y' are the parts of W and Y that have terms with the strip.
    | bottom, likewise        |
    +-------------------------+

The three contractions with an extended argument are the derivatives of this sum. They copy one strip at a
time. As T stays trilinear, the table of derivatives in `_autograd` holds for them as it stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from torch_conv_ext import _ops
from torch_conv_ext._args import Geometry, Pair, check_border

if TYPE_CHECKING:
    from torch_conv_ext._autograd import Contraction

# Where the border has at least this part of the image's pixels, the contraction runs on a padded copy: it is
# O(border) too, and takes less time than the calls for four strips.
COPY_FROM = 1 / 4

Range = tuple[int, int]  # the first position, and the one past the last


class Border(NamedTuple):
    """Stands in a geometry in the place of the padding."""

    padding: Pair  # that of the geometry, above and left
    extended: Literal["x", "y"]  # the argument of T that is continued
    before: Pair  # by so many rows above and columns to the left
    after: Pair  # and below, and to the right
    mode: str  # 'reflect', 'replicate' or 'circular'


ExtendedGeometry = tuple[Pair, Border, Pair, int]


def extended_x(input_size: torch.Size, geometry: Geometry, after: Pair, mode: str) -> ExtendedGeometry:
    """The geometry of a convolution whose padding continues the input; RuntimeError if that is too small."""
    stride, before, dilation, groups = geometry
    check_border(input_size, before, after, mode)
    return stride, Border(before, "x", before, after, mode), dilation, groups


def extended_y(
    input_size: torch.Size, kernel: torch.Size, output: Pair, geometry: Geometry, mode: str
) -> ExtendedGeometry:
    """The geometry of a transposed convolution whose input goes on as far as the output reads it."""
    stride, padding, dilation, groups = geometry
    sizes = zip(input_size[2:], kernel, output, stride, padding, dilation, strict=True)
    ends = [(max(0, (d * (k - 1) - p) // s), max(0, (o - 1 + p) // s - i + 1)) for i, k, o, s, p, d in sizes]
    (top, bottom), (left, right) = ends
    check_border(input_size, (top, left), (bottom, right), mode)
    return stride, Border(padding, "y", (top, left), (bottom, right), mode), dilation, groups


def run(
    contraction: type[Contraction],
    a: Tensor,
    b: Tensor,
    bias: Tensor | None,
    size: Pair,
    geometry: ExtendedGeometry,
) -> Tensor:
    """The contraction of T with an extended argument. If that is the result, there is no bias."""
    stride, border, dilation, groups = geometry
    operands = dict(zip(contraction.operands, (a, b), strict=True))
    planes = {name: (t.shape[2], t.shape[3]) for name, t in operands.items()} | {contraction.result: size}
    h, w = planes[border.extended]
    (top, left), (bottom, right) = border.before, border.after
    rows, columns = (-top, h + bottom), (-left, w + right)
    if (h + top + bottom) * (w + left + right) - h * w >= COPY_FROM * h * w:
        return _on_copy(contraction, operands, bias, size, geometry, (rows, columns))
    out = contraction.run(a, b, bias, size, (stride, border.padding, dilation, groups))
    for strip in (
        ((-top, 0), columns),
        ((h, rows[1]), columns),
        ((0, h), (-left, 0)),
        ((0, h), (w, columns[1])),
    ):
        parts, padding = _parts(strip, planes, geometry)
        if all(first < past for part in parts.values() for first, past in part):
            _add_strip(out, contraction, operands, parts, (stride, padding, dilation, groups), border)
    return out


def _add_strip(
    out: Tensor,
    contraction: type[Contraction],
    operands: dict[str, Tensor],
    parts: dict[str, tuple[Range, Range]],
    geometry: Geometry,
    border: Border,
) -> None:
    """Add the terms of a strip to the result of the contraction; `parts` are those of x, w and y."""
    first, second = (
        _filled(t, parts[name], border.mode) if name == border.extended else _part(t, parts[name])
        for name, t in operands.items()
    )
    rows, columns = parts[contraction.result]
    size = rows[1] - rows[0], columns[1] - columns[0]
    terms = contraction.run(first, second, None, size, geometry)
    if contraction.result == border.extended:
        _fold(terms, (rows, columns), out, border.mode)
    else:
        _part(out, (rows, columns)).add_(terms)


def _on_copy(
    contraction: type[Contraction],
    operands: dict[str, Tensor],
    bias: Tensor | None,
    size: Pair,
    geometry: ExtendedGeometry,
    whole: tuple[Range, Range],
) -> Tensor:
    """The contraction with a padded copy in the place of the extended argument."""
    stride, border, dilation, groups = geometry
    # Position 0 of the copy is position `whole` of the argument.
    (top, _), (left, _) = whole
    if border.extended == "x":
        padding = border.padding[0] + top, border.padding[1] + left
    else:
        padding = border.padding[0] - top * stride[0], border.padding[1] - left * stride[1]
    plain = stride, padding, dilation, groups
    a, b = (_filled(t, whole, border.mode) if name == border.extended else t for name, t in operands.items())
    if contraction.result != border.extended:
        return contraction.run(a, b, bias, size, plain)
    terms = contraction.run(a, b, None, (whole[0][1] - top, whole[1][1] - left), plain)
    out = _ops.empty_result(a, b, (*terms.shape[:2], *size)).zero_()
    _fold(terms, whole, out, border.mode)
    return out


# --- positions ----------------------------------------------------------------------------------------------


def _parts(
    strip: tuple[Range, Range], planes: dict[str, Pair], geometry: ExtendedGeometry
) -> tuple[dict[str, tuple[Range, Range]], Pair]:
    """The parts of x, w and y that have terms with a strip, and the padding between these parts."""
    stride, border, dilation, _ = geometry
    ranges, padding = [], []
    for axis in (0, 1):
        p, s, d = border.padding[axis], stride[axis], dilation[axis]
        x, k, y = (planes[name][axis] for name in "xwy")
        first, past = strip[axis]
        # x = y * s - p + k * d
        if border.extended == "x":
            at_x = first, past
            at_y = max(0, -((d * (k - 1) - p - first) // s)), min(y, (past - 1 + p) // s + 1)
        else:
            at_x = max(0, first * s - p), min(x, (past - 1) * s - p + d * (k - 1) + 1)
            at_y = first, past
        lowest, highest = at_x[0] + p - (at_y[1] - 1) * s, at_x[1] - 1 + p - at_y[0] * s  # of k * d
        at_k = max(0, -(-lowest // d)), min(k, highest // d + 1)
        ranges.append((at_x, at_k, at_y))
        padding.append(p + at_x[0] - at_y[0] * s - at_k[0] * d)
    rows, columns = ranges
    return dict(zip("xwy", zip(rows, columns, strict=True), strict=True)), (padding[0], padding[1])


def _part(t: Tensor, part: tuple[Range, Range]) -> Tensor:
    (top, bottom), (left, right) = part
    return t[:, :, top:bottom, left:right]


def _segments(positions: Range, size: int, mode: str) -> Iterator[tuple[int, int, int, bool]]:
    """Runs of positions on an axis and where its elements come from: (position, source, length, reversed)."""
    first, past = positions
    begin, end = min(max(first, 0), past), max(min(past, size), first)
    if begin < end:
        yield begin, begin, end - begin, False
    if mode == "replicate":
        yield from ((at, 0, 1, False) for at in range(first, min(past, 0)))
        yield from ((at, size - 1, 1, False) for at in range(max(first, size), past))
        return
    reflect = mode == "reflect"
    if first < 0:
        yield first, 1 if reflect else first + size, -first, reflect
    if past > size:
        yield size, 2 * size - 1 - past if reflect else 0, past - size, reflect


def _sources(
    strip: Tensor, positions: tuple[Range, Range], image: Tensor, mode: str
) -> Iterator[tuple[Tensor, Tensor, list[int]]]:
    """Parts of a strip, the parts of the image that they repeat, and the dimensions that are reversed."""
    (top, bottom), (left, right) = positions
    for row, from_row, rows, upside_down in _segments((top, bottom), image.shape[2], mode):
        for column, from_column, columns, mirrored in _segments((left, right), image.shape[3], mode):
            yield (
                strip[:, :, row - top : row - top + rows, column - left : column - left + columns],
                image[:, :, from_row : from_row + rows, from_column : from_column + columns],
                [2] * upside_down + [3] * mirrored,
            )


def _filled(image: Tensor, positions: tuple[Range, Range], mode: str) -> Tensor:
    """The elements of the extended image at these positions."""
    (top, bottom), (left, right) = positions
    shape = (*image.shape[:2], bottom - top, right - left)
    strip = torch.empty(
        shape, dtype=image.dtype, device=image.device, memory_format=suggest_memory_format(image)
    )
    for part, source, reverse in _sources(strip, positions, image, mode):
        part.copy_(source.flip(reverse) if reverse else source)
    return strip


def _fold(strip: Tensor, positions: tuple[Range, Range], image: Tensor, mode: str) -> None:
    """The adjoint of `_filled`: add each element of the strip to the one of the image that it repeats."""
    for part, source, reverse in _sources(strip, positions, image, mode):
        source.add_(part.flip(reverse) if reverse else part)
