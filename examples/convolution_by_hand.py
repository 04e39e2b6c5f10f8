"""Convolution and transposed convolution by hand: eight examples small enough to check with a pencil.

Each example is a function that returns the matrices it is about, by name; its docstring has the formula. The
results come from torch_conv_ext; the loops in numpy further down are kept as a baseline. Run it to see every
example as text and as a picture:

    python examples/convolution_by_hand.py --output out/by_hand

Letters: X input, W weight, Y output, dX dW dY their gradients. In formulas of sizes W is the input's width,
F the filter's width, P the padding, S the stride.
"""

from __future__ import annotations

import argparse
import inspect
import sys
import time
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drawing import save_matrices
from torch_conv_ext import conv2d, conv2d_input, conv2d_weight, conv_transpose2d

Array = npt.NDArray[np.float64]
# By name. A name with bars, "a|b", has the headings of the columns.
Matrices = dict[str, Tensor]


def matrix(rows: Sequence[Sequence[float]]) -> Tensor:
    """Rows of numbers as one image of one channel: (1, 1, H, W) float64."""
    return torch.tensor(rows, dtype=torch.float64)[None, None]


IMAGE = matrix([[1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1], [0, 1, 1, 0]])
CROSS = matrix([[1, 0, 1], [0, 1, 0], [1, 0, 1]])
ONE_TO_NINE = matrix([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
ONE_TO_FOUR = matrix([[1, 2], [3, 4]])


def filter_a_4x4_image() -> Matrices:
    """A 4x4 image and a 3x3 filter

    Y[oh, ow] = sum over kh, kw of W[kh, kw] * X[oh*S - P + kh, ow*S - P + kw].
    Pixels outside the image count as zero. The filter lies fully inside the image at 2x2 places. Padding 1
    adds the places where it hangs over the edge by one pixel, stride 2 keeps every second place.
    """
    return {
        "X": IMAGE,
        "W": CROSS,
        "Y": conv2d(IMAGE, CROSS),
        "Y, padding 1": conv2d(IMAGE, CROSS, padding=1),
        "Y, padding 1, stride 2": conv2d(IMAGE, CROSS, padding=1, stride=2),
        "Y, stride 2": conv2d(IMAGE, CROSS, stride=2),
    }


def filter_ten_colour_images() -> Matrices:
    """Ten images of 3 x 32 x 32 and one 5x5 filter, padding 2, stride 1

    X is (10, 3, 32, 32), W is (1, 3, 5, 5), Y is (10, 1, 32, 32), as (32 - 5 + 2*2)/1 + 1 = 32.
    All pixels and weights are 1 here, so Y counts the products in each sum: 3*5*5 = 75 inside, 3*3*5 = 45 at
    an edge, 3*3*3 = 27 at a corner. The rest of the filter hangs over the edge.
    """
    x = torch.ones(10, 3, 32, 32, dtype=torch.float64)
    w = torch.ones(1, 3, 5, 5, dtype=torch.float64)
    y = conv2d(x, w, padding=2, stride=1)
    return {"Y of each image": y, "its upper left corner": y[:1, :, :6, :6]}


def conv_size(width: int, kernel: int, stride: int, padding: int) -> int:
    """(W - F + 2P)/S + 1, rounded down: what is left over at the far edge is not used."""
    return (width - kernel + 2 * padding) // stride + 1


def conv_transpose_size(width: int, kernel: int, stride: int, padding: int) -> int:
    """(W - 1)S + F - 2P: the inverse of conv_size where that division left no rest."""
    return (width - 1) * stride + kernel - 2 * padding


def compare_output_sizes() -> Matrices:
    """Output sizes by formula and by the operators

    conv2d: (W - F + 2P)/S + 1, rounded down.    conv_transpose2d: (W - 1)S + F - 2P.
    Each line has W, F, S, P, the formula's result, and the width of what conv2d or conv_transpose2d returns.
    """

    def measure(operator: Callable[..., Tensor], width: int, kernel: int, stride: int, padding: int) -> int:
        x, w = torch.zeros(1, 1, width, width), torch.zeros(1, 1, kernel, kernel)
        return operator(x, w, stride=stride, padding=padding).shape[-1]

    conv_cases = [(4, 3, 1, 0), (4, 3, 1, 1), (4, 3, 2, 1), (7, 3, 2, 0), (32, 5, 1, 2), (224, 7, 2, 3)]
    transposed_cases = [(2, 3, 2, 0), (2, 3, 2, 1), (2, 2, 2, 0), (4, 3, 1, 1), (32, 5, 1, 2), (112, 4, 2, 1)]
    conv = [(*case, conv_size(*case), measure(conv2d, *case)) for case in conv_cases]
    transposed = [
        (*case, conv_transpose_size(*case), measure(conv_transpose2d, *case)) for case in transposed_cases
    ]
    return {"W|F|S|P|formula|conv2d": matrix(conv), "W|F|S|P|formula|transposed": matrix(transposed)}


def go_backward() -> Matrices:
    """The backward pass: gradients of input, weight and bias

    dX[ih, iw] = sum of W[kh, kw] * dY[oh, ow] over all oh*S - P + kh = ih, ow*S - P + kw = iw,
    dW[kh, kw] = sum over oh, ow of dY[oh, ow] * X[oh*S - P + kh, ow*S - P + kw],
    db = sum of dY. Autograd calls the same two operators that conv2d_input and conv2d_weight call.
    """
    x, w = IMAGE.clone().requires_grad_(), CROSS.clone().requires_grad_()
    b = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    dy = ONE_TO_FOUR
    dx, dw, db = torch.autograd.grad(conv2d(x, w, b), (x, w, b), dy)
    assert torch.equal(dx, conv2d_input(x.shape, CROSS, dy))
    assert torch.equal(dw, conv2d_weight(IMAGE, w.shape, dy))
    return {"X": IMAGE, "W": CROSS, "dY": dy, "dX": dx, "dW": dw, "db": db}


def turn_the_gradient_into_a_convolution() -> Matrices:
    """The input's gradient is a convolution with the flipped filter

    At stride 1: dX = conv2d(dY, W turned by 180 degrees, padding = F - 1).
    Forward, output o takes W[k] times input o + k. Seen from input i, it is output i - k that took W[k] times
    it: the same sum with k counted backwards.
    """
    flipped = ONE_TO_NINE.flip(2, 3)
    return {
        "dY": ONE_TO_FOUR,
        "W": ONE_TO_NINE,
        "W flipped": flipped,
        "dX by conv2d": conv2d(ONE_TO_FOUR, flipped, padding=2),
        "dX by conv2d_input": conv2d_input((1, 1, 4, 4), ONE_TO_NINE, ONE_TO_FOUR),
    }


def transpose_in_one_dimension() -> Matrices:
    """Transposed convolution of [a, b] with [x, y, z] at stride 2

    Each input element stamps its multiple of the filter, two places further each time. Where stamps overlap
    they add: [ax, ay, az + bx, by, bz]. Here a, b = 2, 3 and x, y, z = 5, 7, 11.
    """
    ab, xyz = matrix([[2, 3]]), matrix([[5, 7, 11]])
    return {
        "a|b": ab,
        "x|y|z": xyz,
        "ax|ay|az+bx|by|bz": conv_transpose2d(ab, xyz, stride=(1, 2)),
    }


def write_convolution_as_a_matrix() -> Matrices:
    """Convolution is a matrix, transposed convolution its transpose

    vec(Y) = C vec(X) with C of (4, 16) for a 4x4 input and a 3x3 filter; vec(dX) = C^T vec(dY).
    Column j of C is the convolution of the image that is 1 at pixel j and 0 elsewhere. The transpose gives
    back the shape of X, not its values.
    """
    pixels = torch.eye(16, dtype=torch.float64).reshape(16, 1, 4, 4)
    c = conv2d(pixels, ONE_TO_NINE).reshape(16, 4).T
    return {
        "C": c[None, None],
        "C vec(X)": (c @ IMAGE.flatten()).reshape(1, 1, 2, 2),
        "conv2d(X, W)": conv2d(IMAGE, ONE_TO_NINE),
        "C^T vec(dY)": (c.T @ ONE_TO_FOUR.flatten()).reshape(1, 1, 4, 4),
        "conv_transpose2d(dY, W)": conv_transpose2d(ONE_TO_FOUR, ONE_TO_NINE),
    }


def upsample_2x2_to_4x4() -> Matrices:
    """Upsampling 2x2 to 4x4: 3x3 filter, stride 2, padding 1

    (W - 1)S + F - 2P = (2 - 1)*2 + 3 - 2 = 3, so the formula alone gives 3x3. A convolution with this
    filter makes 2x2 out of 3x3 and also out of 4x4, as it rounds down. output_padding=1 says that 4x4 is
    meant. It computes one more row and column of the result, it does not fill in zeros. This filter
    interpolates between the pixels.
    """
    w = matrix([[0.25, 0.5, 0.25], [0.5, 1, 0.5], [0.25, 0.5, 0.25]])
    return {
        "X": ONE_TO_FOUR,
        "W": w,
        "Y": conv_transpose2d(ONE_TO_FOUR, w, stride=2, padding=1),
        "Y, output_padding 1": conv_transpose2d(ONE_TO_FOUR, w, stride=2, padding=1, output_padding=1),
    }


EXAMPLES: tuple[Callable[[], Matrices], ...] = (
    filter_a_4x4_image,
    filter_ten_colour_images,
    compare_output_sizes,
    go_backward,
    turn_the_gradient_into_a_convolution,
    transpose_in_one_dimension,
    write_convolution_as_a_matrix,
    upsample_2x2_to_4x4,
)


def backward_by_loops(x: Array, w: Array, dy: Array, stride: int, padding: int) -> tuple[Array, Array, Array]:
    """The naive baseline: dX, dW and db by loops over images, filters and output positions.

    x is (N, Ci, iH, iW), w is (Co, Ci, F, F), dy is (N, Co, oH, oW). Each output pixel hands its gradient to
    the window of x that it came from, and to the filter that it came through.
    """
    kernel = w.shape[-1]
    border = ((0, 0), (0, 0), (padding, padding), (padding, padding))
    x_padded = np.pad(x, border)
    dx_padded, dw = np.zeros_like(x_padded), np.zeros_like(w)
    for n in range(dy.shape[0]):
        for co in range(dy.shape[1]):
            for oh in range(dy.shape[2]):
                for ow in range(dy.shape[3]):
                    rows = slice(oh * stride, oh * stride + kernel)
                    columns = slice(ow * stride, ow * stride + kernel)
                    dx_padded[n, :, rows, columns] += w[co] * dy[n, co, oh, ow]
                    dw[co] += x_padded[n, :, rows, columns] * dy[n, co, oh, ow]
    inside = slice(padding, -padding or None)
    return dx_padded[:, :, inside, inside], dw, dy.sum(axis=(0, 2, 3))


class Race(NamedTuple):
    """Times of one backward pass in seconds, and the largest difference of any gradient element."""

    loops: float
    ours: float
    difference: float


def race_backward(images: int = 10) -> Race:
    """The backward pass of x (images, 3, 32, 32) and eight 5x5 filters: backward_by_loops against our
    operators.

    Ours is the best of five. Both sides compute in float64.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(images, 3, 32, 32, dtype=torch.float64, generator=generator, requires_grad=True)
    w = torch.randn(8, 3, 5, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    b = torch.zeros(8, dtype=torch.float64, requires_grad=True)
    y = conv2d(x, w, b, padding=2)
    dy = torch.randn(y.shape, dtype=torch.float64, generator=generator)

    start = time.perf_counter()
    expected = backward_by_loops(x.detach().numpy(), w.detach().numpy(), dy.numpy(), stride=1, padding=2)
    loops = time.perf_counter() - start

    ours = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        gradients = torch.autograd.grad(y, (x, w, b), dy, retain_graph=True)
        ours = min(ours, time.perf_counter() - start)
    pairs = zip(gradients, expected, strict=True)
    difference = max(float((mine - torch.from_numpy(theirs)).abs().max()) for mine, theirs in pairs)
    return Race(loops, ours, difference)


def first_plane(values: Tensor) -> Tensor:
    """The first image's first channel of a 4-D result: (H, W). A vector becomes one row."""
    plane = values.detach()
    while plane.dim() > 2:
        plane = plane[0]
    return plane.reshape(-1, plane.shape[-1])


def as_block(name: str, values: Tensor) -> list[str]:
    """The lines of one matrix under its name, all of one length. A large one has its shape only."""
    if values.shape[-1] > 16:
        return [name, str(tuple(values.shape))]
    cells = [[f"{value:g}" for value in row] for row in first_plane(values).tolist()]
    if "|" in name:
        cells.insert(0, name.split("|"))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.rjust, row, widths)) for row in cells]
    if "|" not in name:
        lines.insert(0, name)
    return [line.ljust(max(map(len, lines))) for line in lines]


def as_text(matrices: Matrices) -> str:
    """The matrices side by side."""
    blocks = [as_block(name, values) for name, values in matrices.items()]
    empty = [" " * len(block[0]) for block in blocks]
    lines = zip_longest(*blocks)
    return "\n".join(
        "    ".join(part or blank for part, blank in zip(line, empty, strict=True)).rstrip() for line in lines
    )


def explanation(example: Callable[..., Any]) -> tuple[str, str]:
    """Title and text of an example: the first line of its docstring, and the rest."""
    title, _, text = (inspect.getdoc(example) or "").partition("\n\n")
    return title, text


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(description="Worked examples of convolution, as text and as pictures.")
    parser.add_argument("--output", type=Path, default=Path("out/by_hand"), help="folder for the pictures")
    options = parser.parse_args(arguments)
    for number, example in enumerate(EXAMPLES, start=1):
        title, text = explanation(example)
        matrices = example()
        if example is go_backward:
            race = race_backward()
            text += (
                f"\n\nX (10, 3, 32, 32) and eight 5x5 filters: loops in numpy {race.loops * 1e3:.0f} ms, "
                f"torch_conv_ext {race.ours * 1e3:.2f} ms, {race.loops / race.ours:.0f} times faster.\n"
                f"Largest difference of a gradient element: {race.difference:.1e}."
            )
        print(f"{number}. {title}\n\n{text}\n\n{as_text(matrices)}\n")
        planes = {name: first_plane(values).numpy() for name, values in matrices.items()}
        save_matrices(f"{number}. {title}", text, planes, options.output / f"{number}_{example.__name__}.png")
    print(f"pictures in {options.output}/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
