"""The grid of geometries. Each case is named for the fault that it hunts.

A geometry holds every size of the trilinear form that the three contractions share:

    T(X, W, dY) = sum over n,g,co,ci,oh,ow,kh,kw of dY[n,g,co,oh,ow] * W[g,co,ci,kh,kw]
        * X[n,g,ci, oh*stride_h - padding_h + kh*dilation_h, ow*stride_w - padding_w + kw*dilation_w]

Terms whose index into X lies outside the input are absent. The kernels assume no formula between the sizes,
so a case is made in one of three ways: by conv2d's formula (`conv`), by conv_transpose2d's (`transposed`), or
by neither (`free`). The sums stay small, so that the reference (the definition in loops) needs milliseconds
for a case.
"""

from __future__ import annotations

from dataclasses import dataclass

Pair = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """All sizes of one convolution; `ci` and `co` are channels per group, pairs are (height, width)."""

    name: str
    n: int
    groups: int
    ci: int
    co: int
    image: Pair
    output: Pair
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)

    def __str__(self) -> str:
        return self.name

    def shape(self, operand: str) -> tuple[int, int, int, int]:
        """Shape of "x", "w" or "y", of one of their gradients "dx", "dw", "dy"."""
        match operand[-1]:
            case "x":
                return (self.n, self.groups * self.ci, *self.image)
            case "w":
                return (self.groups * self.co, self.ci, *self.kernel)
            case "y":
                return (self.n, self.groups * self.co, *self.output)
        raise ValueError(f"expected an operand that ends in x, w or y, got {operand!r}")

    def plan_sizes(self) -> dict[str, int]:
        """The sizes under the names that `_C.plan` takes. There is deliberately no batch size."""
        return {
            "groups": self.groups,
            "ci": self.ci,
            "co": self.co,
            **{f"i{axis}": size for axis, size in zip("hw", self.image, strict=True)},
            **{f"o{axis}": size for axis, size in zip("hw", self.output, strict=True)},
            **{f"k{axis}": size for axis, size in zip("hw", self.kernel, strict=True)},
            **{f"stride_{axis}": size for axis, size in zip("hw", self.stride, strict=True)},
            **{f"padding_{axis}": size for axis, size in zip("hw", self.padding, strict=True)},
            **{f"dilation_{axis}": size for axis, size in zip("hw", self.dilation, strict=True)},
        }

    @property
    def is_conv2d(self) -> bool:
        """The output has the size that conv2d gives it, so torch.nn.functional.conv2d accepts the case."""
        return self.accepted and self.output == self._formula()

    @property
    def output_padding(self) -> Pair:
        """What conv_transpose2d needs to make an image of this size; negative if it cannot."""
        span = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True)]
        smallest = [
            (o - 1) * s - 2 * p + e
            for o, s, p, e in zip(self.output, self.stride, self.padding, span, strict=True)
        ]
        return self.image[0] - smallest[0], self.image[1] - smallest[1]

    @property
    def is_transposed(self) -> bool:
        """The image has a size that conv_transpose2d can give it."""
        limits = zip(self.output_padding, self.stride, self.dilation, strict=True)
        return self.accepted and all(0 <= extra < max(s, d) for extra, s, d in limits)

    @property
    def accepted(self) -> bool:
        """torch's own operators refuse negative padding, and disagree with themselves about zero channels."""
        sizes = (self.ci, self.co, *self.image, *self.output, *self.kernel)
        return min(self.padding) >= 0 and min(sizes) > 0

    def _formula(self) -> Pair:
        return conv_output(self.image, self.kernel, self.stride, self.padding, self.dilation)


def conv_output(image: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Pair:
    """floor((i + 2 p - d (k - 1) - 1) / s) + 1 along each axis, at least 0."""
    h, w = (
        max(0, (i + 2 * p - d * (k - 1) - 1) // s + 1)
        for i, k, s, p, d in zip(image, kernel, stride, padding, dilation, strict=True)
    )
    return h, w


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else value


def conv(
    name: str,
    channels: tuple[int, int],
    image: int | Pair,
    kernel: int | Pair,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    n: int = 2,
) -> Geometry:
    """A case with conv2d's output size for the image; `channels` is (ci, co) per group."""
    image, kernel, stride = _pair(image), _pair(kernel), _pair(stride)
    padding, dilation = _pair(padding), _pair(dilation)
    output = conv_output(image, kernel, stride, padding, dilation)
    return Geometry(name, n, groups, *channels, image, output, kernel, stride, padding, dilation)


def transposed(
    name: str,
    channels: tuple[int, int],
    output: int | Pair,
    kernel: int | Pair,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    output_padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    n: int = 2,
) -> Geometry:
    """A case with the image size that conv_transpose2d gives for its input, here `output`."""
    output, kernel, stride = _pair(output), _pair(kernel), _pair(stride)
    padding, dilation, extra = _pair(padding), _pair(dilation), _pair(output_padding)
    h, w = (
        (o - 1) * s - 2 * p + d * (k - 1) + 1 + e
        for o, s, p, d, k, e in zip(output, stride, padding, dilation, kernel, extra, strict=True)
    )
    return Geometry(name, n, groups, *channels, (h, w), output, kernel, stride, padding, dilation)


def free(
    name: str,
    channels: tuple[int, int],
    image: Pair,
    output: Pair,
    kernel: Pair,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    n: int = 2,
) -> Geometry:
    """A case with no formula between its sizes."""
    return Geometry(
        name, n, groups, *channels, image, output, kernel, _pair(stride), _pair(padding), _pair(dilation)
    )
