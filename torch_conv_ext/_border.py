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

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from torch_conv_ext._args import Geometry as PlainGeometry
from torch_conv_ext._args import Pair, check_border
from torch_conv_ext._dispatch import is_compiling
from torch_conv_ext._format import in_other_format, is_channels_last

if TYPE_CHECKING:
    from torch_conv_ext._autograd import Contraction

# Where the border has at least this part of the image's pixels, the image is padded after all: the copy is
# O(border) too, and takes less time than the calls for four strips. Code that is compiled always pads: what
# is kept is the compiler's choice there, and a rule of sizes would be a guard.
COPY_FROM = 1 / 8

Range = tuple[int, int]  # the first position, and the one past the last


class Border(NamedTuple):
    """Stands in a geometry in the place of the padding."""

    padding: Pair  # that of the geometry, above and left
    extended: str  # the argument of T that is continued, 'x' or 'y'
    before: Pair  # by so many rows above and columns to the left
    after: Pair  # and below, and to the right
    mode: str  # 'reflect', 'replicate' or 'circular'


Geometry = tuple[Pair, Pair | Border, Pair, int]


def extended_x(input: Tensor, geometry: PlainGeometry, after: Pair, mode: str) -> tuple[Tensor, Geometry]:
    """Input and geometry of a convolution whose padding continues the input."""
    return _extended(input, geometry, Border(geometry[1], "x", geometry[1], after, mode))


def extended_y(
    input: Tensor, kernel: Sequence[int], output: Pair, geometry: PlainGeometry, mode: str
) -> tuple[Tensor, Geometry]:
    """Input and geometry of a transposed convolution whose input goes on as far as the output reads it."""
    before, after = reach(input.shape[2:], kernel, output, geometry)
    return _extended(input, geometry, Border(geometry[1], "y", before, after, mode))


def reach(
    input: Sequence[int], kernel: Sequence[int], output: Pair, geometry: PlainGeometry
) -> tuple[Pair, Pair]:
    """How far a transposed convolution reads beyond its input, above and left, and below and right."""
    stride, padding, dilation, _ = geometry
    sizes = zip(input, kernel, output, stride, padding, dilation, strict=True)
    ends = [(max(0, (d * (k - 1) - p) // s), max(0, (o - 1 + p) // s - i + 1)) for i, k, o, s, p, d in sizes]
    (top, bottom), (left, right) = ends
    return (top, left), (bottom, right)


def padded(image: Tensor, before: Pair, after: Pair, mode: str) -> Tensor:
    """torch.nn.functional.pad along height and width, zeros too."""
    ends = (before[1], after[1], before[0], after[0])
    return F.pad(image, ends, mode="constant" if mode == "zeros" else mode)


def _extended(input: Tensor, geometry: PlainGeometry, border: Border) -> tuple[Tensor, Geometry]:
    """The input with a geometry that continues it, or a padded copy. RuntimeError for too small an input."""
    (top, left), (bottom, right) = border.before, border.after
    if not (top or left or bottom or right):
        return input, geometry
    check_border(input.shape, border.before, border.after, border.mode)
    stride, (p, q), dilation, groups = geometry
    if not is_compiling():
        h, w = input.shape[2:]
        if (h + top + bottom) * (w + left + right) - h * w < COPY_FROM * h * w:
            return input, (stride, border, dilation, groups)
    # What lies before the first element of the input is no longer padding of x, or is more of y to cut off.
    step = (-1, -1) if border.extended == "x" else stride
    copy = padded(input, border.before, border.after, border.mode)
    if is_channels_last(input.stride(), input.shape):
        copy = in_other_format(copy, channels_last=True)  # torch pads 'circular' into NCHW
    return copy, (stride, (p + top * step[0], q + left * step[1]), dilation, groups)


def run(
    contraction: type[Contraction],
    a: Tensor,
    b: Tensor,
    bias: Tensor | None,
    size: Pair,
    geometry: tuple[Pair, Border, Pair, int],
) -> Tensor:
    """The contraction of T with an extended argument."""
    stride, border, dilation, groups = geometry
    operands = dict(zip(contraction.operands, (a, b), strict=True))
    planes = {name: (t.shape[2], t.shape[3]) for name, t in operands.items()} | {contraction.result: size}
    h, w = planes[border.extended]
    (top, left), (bottom, right) = border.before, border.after
    out = contraction.run(a, b, bias, size, (stride, border.padding, dilation, groups))
    rows, columns = (-top, h + bottom), (-left, w + right)
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
    geometry: PlainGeometry,
    border: Border,
) -> None:
    """Add the terms of a strip to the result of the contraction; `parts` are those of x, w and y."""
    a, b = (
        _filled(t, parts[name], border.mode) if name == border.extended else _part(t, parts[name])
        for name, t in operands.items()
    )
    (top, bottom), (left, right) = parts[contraction.result]
    size = bottom - top, right - left
    if a.shape[2] > a.shape[3]:
        # A strip of columns, turned into one of rows: the kernels compute along rows.
        (stride_h, stride_w), (padding_h, padding_w), (dilation_h, dilation_w), groups = geometry
        geometry = (stride_w, stride_h), (padding_w, padding_h), (dilation_w, dilation_h), groups
        terms = contraction.run(a.mT, b.mT, None, (size[1], size[0]), geometry).mT
    else:
        terms = contraction.run(a, b, None, size, geometry)
    if contraction.result == border.extended:
        _fold(terms, parts[contraction.result], out, border.mode)
    else:
        _part(out, parts[contraction.result]).add_(terms)


# --- positions ----------------------------------------------------------------------------------------------


def _parts(
    strip: tuple[Range, Range], planes: dict[str, Pair], geometry: tuple[Pair, Border, Pair, int]
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
    return _cut(_cut(t, 2, top, bottom - top), 3, left, right - left)


def _cut(t: Tensor, dim: int, first: int, length: int) -> Tensor:
    """A view. Not by indexing, for which the vmap of torch.autograd.gradcheck has no rule."""
    return t if length == t.shape[dim] else t.narrow(dim, first, length)


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
        strip_rows, image_rows = _cut(strip, 2, row - top, rows), _cut(image, 2, from_row, rows)
        for column, from_column, columns, mirrored in _segments((left, right), image.shape[3], mode):
            yield (
                _cut(strip_rows, 3, column - left, columns),
                _cut(image_rows, 3, from_column, columns),
                [2] * (upside_down and rows > 1) + [3] * (mirrored and columns > 1),
            )


def _filled(image: Tensor, positions: tuple[Range, Range], mode: str) -> Tensor:
    """The elements of the extended image at these positions."""
    (top, bottom), (left, right) = positions
    strip = image.new_empty((*image.shape[:2], bottom - top, right - left))
    for part, source, reverse in _sources(strip, positions, image, mode):
        part.copy_(source.flip(reverse) if reverse else source)
    return strip


def _fold(strip: Tensor, positions: tuple[Range, Range], image: Tensor, mode: str) -> None:
    """The adjoint of `_filled`: add each element of the strip to the one of the image that it repeats."""
    for part, source, reverse in _sources(strip, positions, image, mode):
        source.add_(part.flip(reverse) if reverse else part)
