"""Padding beyond torch's: 'same' with a stride, a padding for each side, padding modes.

The reference is a composition of torch's operators: torch.nn.functional.pad, a convolution, a crop.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import jvp, vmap
from torch.utils._python_dispatch import TorchDispatchMode

import torch_conv_ext
from isolated import output_of
from test_memory import MIB, NO_REUSE, STATUS
from torch_conv_ext import _border, plan

pytestmark = pytest.mark.usefixtures("threads")

Function = Callable[..., Any]

# mypy does not follow `*tensors, *options`.
conv2d: Function = torch_conv_ext.conv2d
conv2d_bias: Function = torch_conv_ext.conv2d_bias
conv2d_input: Function = torch_conv_ext.conv2d_input
conv2d_weight: Function = torch_conv_ext.conv2d_weight
conv_transpose2d: Function = torch_conv_ext.conv_transpose2d
conv_transpose2d_input: Function = torch_conv_ext.conv_transpose2d_input
conv_transpose2d_weight: Function = torch_conv_ext.conv_transpose2d_weight

Pair = tuple[int, int]
Sides = tuple[Pair, Pair]

MODES = ("reflect", "replicate", "circular")
# As far as the reference continues an input: farther than any kernel here reaches.
FAR = 6


@pytest.fixture(params=["strips", "copy"])
def mechanism(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """An image is continued by strips, or padded, whatever its size."""
    monkeypatch.setattr(_border, "COPY_FROM", {"strips": float("inf"), "copy": 0}[request.param])
    name: str = request.param
    return name


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(result: Any, expected: Any) -> None:
    """Second derivatives here are sums of some thousand terms up to 1e3: 1e-9 is far more than rounding."""
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)


def pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else value


def nested(padding: Any) -> Sides:
    h, w = pair(padding)
    return pair(h), pair(w)


def with_derivatives(function: Function, *tensors: Tensor) -> list[Tensor]:
    """The result, its gradients and second derivatives."""
    inputs = [t.clone().requires_grad_() for t in tensors]
    y = function(*inputs)
    first = torch.autograd.grad(y.sin().sum(), inputs, create_graph=True)
    return [y, *first, *torch.autograd.grad(torch.cat([g.sin().flatten() for g in first]).sum(), inputs)]


def padded_conv2d(
    stride: Any, sides: Sides, dilation: Any = 1, groups: int = 1, mode: str = "constant"
) -> Function:
    """The definition of conv2d with a padding."""
    ends = (*sides[1], *sides[0])
    return lambda x, w, b: F.conv2d(F.pad(x, ends, mode=mode), w, b, stride, 0, dilation, groups)


def cropped_conv_transpose2d(
    stride: Any, sides: Sides, dilation: Any, groups: int, mode: str, size: Sequence[int]
) -> Function:
    """The definition of conv_transpose2d with a padding: of the transposed convolution of a longer input, the
    part that begins `sides` below and right of where the output of the input itself begins."""
    top, left = (first + FAR * s for (first, _), s in zip(sides, pair(stride), strict=True))

    def run(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        longer = F.pad(x, (FAR,) * 4, mode=mode)
        y = F.conv_transpose2d(longer, w, b, stride, 0, 0, groups, dilation)
        return y[:, :, top : top + size[0], left : left + size[1]]

    return run


# --- 'same' with a stride -----------------------------------------------------------------------------------

# Input, kernel, stride and dilation along an axis, and the zeros that TensorFlow puts at its ends.
SAME: list[tuple[tuple[int, int, int, int], Pair]] = [
    ((5, 3, 2, 1), (1, 1)),
    ((6, 3, 2, 1), (0, 1)),
    ((7, 2, 2, 1), (0, 1)),
    ((224, 7, 2, 1), (2, 3)),
    ((9, 1, 2, 1), (0, 0)),
    ((10, 2, 3, 1), (0, 1)),
    ((11, 4, 3, 1), (1, 1)),
    ((8, 3, 2, 3), (2, 3)),
    ((8, 4, 1, 1), (1, 2)),
]


@pytest.mark.parametrize(("rows", "columns"), list(zip(SAME, SAME[1:] + SAME[:1], strict=True)), ids=str)
def test_same_with_stride(rows: Any, columns: Any) -> None:
    """conv2d(X, padding='same') = conv2d(pad(X)), of size ceil(i / stride), and so are all derivatives."""
    image, kernel, stride, dilation = zip(rows[0], columns[0], strict=True)
    x, w, b = randn(2, 2, *image), randn(3, 2, *kernel), randn(3)
    options = stride, "same", dilation
    result = with_derivatives(lambda x, w, b: conv2d(x, w, b, *options), x, w, b)
    sides = rows[1], columns[1]
    close(result, with_derivatives(padded_conv2d(stride, sides, dilation), x, w, b))
    assert result[0].shape[2:] == tuple(-(-i // s) for i, s in zip(image, stride, strict=True))
    dy = torch.cos(result[0])
    close(conv2d_input(x.shape, w, dy, *options), result[1])
    close(conv2d_weight(x, w.shape, dy, *options), result[2])
    close(conv2d_bias(dy), result[3])


@pytest.mark.parametrize("kernel", [(1, 2), (3, 4), (5, 7)], ids=str)
@pytest.mark.parametrize("stride", [1, 2, (3, 1)], ids=str)
@pytest.mark.parametrize("dilation", [1, (2, 1)], ids=str)
def test_transposed_same(kernel: Pair, stride: Any, dilation: Any) -> None:
    """The output has the size i * stride, and is conv2d's adjoint:
    <conv2d(X, W, padding='same'), Y> = <X, conv_transpose2d(Y, W, padding='same')>."""
    y, w, b = randn(2, 3, 5, 4), randn(3, 2, *kernel), randn(2)
    options: Any = {"stride": stride, "dilation": dilation, "padding": "same"}
    z = conv_transpose2d(y, w, **options)
    assert z.shape == (2, 2, 5 * pair(stride)[0], 4 * pair(stride)[1])
    x = randn(*z.shape, seed=1)
    close((conv2d(x, w, **options) * y).sum(), (x * z).sum())
    close(conv_transpose2d(y, w, b, **options), z + b[:, None, None])
    valid = conv_transpose2d(y, w, stride=stride, dilation=dilation, padding="valid")
    assert torch.equal(valid, conv_transpose2d(y, w, stride=stride, dilation=dilation))


# --- a padding for each side --------------------------------------------------------------------------------

SIDES: list[Sides] = [((0, 1), (0, 1)), ((2, 0), (1, 3)), ((0, 0), (4, 0)), ((3, 4), (0, 1))]


@pytest.mark.parametrize("sides", SIDES, ids=str)
@pytest.mark.parametrize("stride", [1, (2, 3)], ids=str)
def test_sides(sides: Sides, stride: Any) -> None:
    """conv2d with ((top, bottom), (left, right)) = conv2d of the padded image; so are all derivatives."""
    x, w, b = randn(2, 4, 6, 7), randn(6, 2, 3, 4), randn(6)
    options = stride, sides, (2, 1), 2
    result = with_derivatives(lambda x, w, b: conv2d(x, w, b, *options), x, w, b)
    close(result, with_derivatives(padded_conv2d(*options), x, w, b))
    dy = torch.cos(result[0])
    close(conv2d_input(x.shape, w, dy, *options), result[1])
    close(conv2d_weight(x, w.shape, dy, *options), result[2])
    assert torch.equal(conv2d(x, w, b, stride, [list(side) for side in sides], (2, 1), 2), result[0])


@pytest.mark.parametrize("sides", SIDES, ids=str)
@pytest.mark.parametrize(("stride", "output_padding"), [(1, 0), ((2, 3), (1, 2))], ids=str)
def test_transposed_sides(sides: Sides, stride: Any, output_padding: Any) -> None:
    """conv_transpose2d with a padding for each side crops; so do all derivatives."""
    x, w, b = randn(2, 4, 6, 7), randn(4, 3, 3, 4), randn(6)
    size = [
        (i - 1) * s + d * (k - 1) + 1 - sum(ends) + extra
        for i, s, d, k, ends, extra in zip(
            (6, 7), pair(stride), (2, 1), (3, 4), sides, pair(output_padding), strict=True
        )
    ]
    options = stride, sides, output_padding, 2, (2, 1)
    result = with_derivatives(lambda x, w, b: conv_transpose2d(x, w, b, *options), x, w, b)
    reference = (stride, sides, (2, 1), 2, "constant", size)
    close(result, with_derivatives(cropped_conv_transpose2d(*reference), x, w, b))
    dy = torch.cos(result[0])
    close(conv_transpose2d_input(x.shape, w, dy, *options), result[1])
    close(conv_transpose2d_weight(x, w.shape, dy, *options), result[2])
    close(conv2d_bias(dy), result[3])


# --- padding modes ------------------------------------------------------------------------------------------

# stride, padding, dilation, groups, kernel
MODE_CASES: dict[str, tuple[Any, Any, Any, int, Pair]] = {
    "same_size": (1, 1, 1, 1, (3, 3)),
    "stride_2_groups": (2, (2, 3), 1, 2, (3, 4)),
    "padding_beyond_the_kernel": ((3, 1), (4, 5), 1, 1, (2, 2)),
    "dilated": (1, (2, 4), (2, 3), 1, (3, 3)),
    "rows_only": ((1, 2), (2, 0), 1, 2, (5, 3)),
    "left_only": (1, ((0, 0), (3, 0)), 1, 1, (2, 4)),
    "sides": ((2, 1), ((1, 3), (0, 2)), (1, 2), 1, (3, 3)),
    "as_far_as_possible": (1, ((6, 5), (7, 6)), 1, 1, (3, 2)),
}


@pytest.mark.parametrize("case", MODE_CASES)
@pytest.mark.parametrize("mode", MODES)
def test_padding_mode(mode: str, case: str, mechanism: str) -> None:
    """conv2d with a padding mode = conv2d of the padded image; so are all derivatives."""
    stride, padding, dilation, groups, kernel = MODE_CASES[case]
    x, w, b = randn(2, 4, 7, 8), randn(6, 4 // groups, *kernel), randn(6)
    options = stride, padding, dilation, groups
    result = with_derivatives(lambda x, w, b: conv2d(x, w, b, *options, padding_mode=mode), x, w, b)
    reference = stride, nested(padding), dilation, groups, mode
    close(result, with_derivatives(padded_conv2d(*reference), x, w, b))
    close(conv2d(x[0], w, b, *options, padding_mode=mode), result[0][0])


# stride, padding, output padding, dilation, groups, kernel
TRANSPOSED_CASES: dict[str, tuple[Any, Any, Any, Any, int, Pair]] = {
    "stride_1": (1, 0, 0, 1, 1, (3, 3)),
    "twice_the_size": (2, 1, 0, 1, 2, (4, 4)),
    "output_padding": ((2, 3), (1, 0), (1, 2), 1, 1, (3, 5)),
    "sides": (2, ((0, 1), (3, 0)), 0, 1, 2, (3, 4)),
    "dilated": ((1, 2), (2, 0), 0, (2, 3), 1, (3, 2)),
    "crop_beyond_the_kernel": (1, (4, 3), 0, 1, 1, (3, 2)),
    "same": ((3, 1), "same", 0, 1, 1, (4, 2)),
    "stride_beyond_the_kernel": (3, "same", 0, 1, 1, (2, 1)),
}


@pytest.mark.parametrize("case", TRANSPOSED_CASES)
@pytest.mark.parametrize("mode", MODES)
def test_transposed_padding_mode(mode: str, case: str, mechanism: str) -> None:
    """conv_transpose2d with a padding mode = a crop of the transposed convolution of an input that goes on in
    all directions, of the size that it has with 'zeros'; so are all derivatives."""
    stride, padding, extra, dilation, groups, kernel = TRANSPOSED_CASES[case]
    x, w, b = randn(2, 4, 7, 8), randn(4, 6 // groups, *kernel), randn(6)
    options = stride, padding, extra, groups, dilation
    result = with_derivatives(lambda x, w, b: conv_transpose2d(x, w, b, *options, padding_mode=mode), x, w, b)
    size = conv_transpose2d(x, w, b, *options).shape[2:]
    if padding == "same":
        totals = [
            max(d * (k - 1) + 1 - s, 0) for d, k, s in zip(pair(dilation), kernel, pair(stride), strict=True)
        ]
        padding = tuple((total // 2, total - total // 2) for total in totals)
    reference = stride, nested(padding), dilation, groups, mode, size
    close(result, with_derivatives(cropped_conv_transpose2d(*reference), x, w, b))
    close(conv_transpose2d(x[0], w, b, *options, padding_mode=mode), result[0][0])


def test_circular_is_a_torus(mechanism: str) -> None:
    """Where the output has the size input * stride, 'circular' keeps conv2d and conv_transpose2d adjoint."""
    x, w, y = randn(2, 3, 12, 15), randn(4, 3, 4, 5), randn(2, 4, 6, 5)
    options: Any = {"stride": (2, 3), "padding": 1, "padding_mode": "circular"}
    close((conv2d(x, w, **options) * y).sum(), (x * conv_transpose2d(y, w, **options)).sum())
    # And rotating the input rotates the output.
    turned = conv_transpose2d(y.roll((1, 2), (2, 3)), w, **options)
    close(turned, conv_transpose2d(y, w, **options).roll((2, 6), (2, 3)))


def function(name: str, mode: str) -> tuple[Function, tuple[Tensor, ...]]:
    """A function of three tensors, all of whose sides matter, and the tensors."""
    if name == "conv2d":
        tensors = randn(2, 2, 4, 5), randn(2, 1, 3, 2), randn(2)
        return lambda *t: conv2d(*t, (1, 2), ((1, 2), (2, 0)), 1, 2, padding_mode=mode), tensors
    tensors = randn(2, 2, 4, 3), randn(2, 1, 3, 4), randn(2)
    return lambda *t: conv_transpose2d(*t, (1, 2), ((0, 1), (1, 0)), 0, 2, padding_mode=mode), tensors


NAMES = ("conv2d", "conv_transpose2d")


@pytest.mark.parametrize(("name", "mode"), list(itertools.product(NAMES, MODES)))
def test_gradcheck(name: str, mode: str, mechanism: str) -> None:
    """First and second derivatives, forward mode, and both under vmap, against finite differences."""
    run, tensors = function(name, mode)
    inputs = tuple(t.requires_grad_() for t in tensors)
    batched: Any = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
    assert gradcheck(run, inputs, **batched)
    assert gradgradcheck(run, inputs, check_fwd_over_rev=True, check_rev_over_rev=True, fast_mode=True)


@pytest.mark.parametrize(
    "run",
    [
        lambda *t: conv2d(*t, 2, "same"),
        lambda *t: conv2d(*t, 1, ((0, 2), (1, 0))),
        lambda *t: conv_transpose2d(*t, 2, "same"),
        lambda *t: conv_transpose2d(*t, 2, ((0, 2), (1, 0))),
    ],
    ids=["same", "sides", "transposed_same", "transposed_sides"],
)
def test_gradcheck_of_zeros(run: Function) -> None:
    """The same of 'same' with a stride and of sides."""
    inputs = tuple(t.requires_grad_() for t in (randn(1, 2, 4, 5), randn(2, 2, 3, 2), randn(2)))
    assert gradcheck(run, inputs, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(run, inputs, check_fwd_over_rev=True, check_rev_over_rev=True)


@pytest.mark.parametrize(
    "run",
    [
        lambda w, dy: conv_transpose2d_input((1, 2, 3, 4), w, dy, 2, 1, 1),
        lambda x, dy: conv_transpose2d_weight(x, (2, 2, 3, 2), dy, 2, 1, 1),
    ],
    ids=["input", "weight"],
)
def test_gradcheck_of_the_gradients(run: Function) -> None:
    """The same of the transposed convolution's two gradients."""
    first = {"w": (2, 2, 3, 2), "x": (1, 2, 3, 4)}[run.__code__.co_varnames[0]]
    inputs = tuple(t.requires_grad_() for t in (randn(*first), randn(1, 2, 6, 7)))
    assert gradcheck(run, inputs, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(run, inputs)


@pytest.mark.parametrize(("name", "mode"), list(itertools.product(NAMES, MODES)))
def test_transforms(name: str, mode: str, mechanism: str) -> None:
    """vmap over each of the tensors = a loop; the tangent of jvp obeys the product rule."""
    run, tensors = function(name, mode)
    for places in itertools.product((None, 0), repeat=3):
        if any(place == 0 for place in places):
            many = [
                t if place is None else torch.stack((t, 2 * t, -t))
                for t, place in zip(tensors, places, strict=True)
            ]
            one = [
                [t if place is None else t[i] for t, place in zip(many, places, strict=True)]
                for i in range(3)
            ]
            close(vmap(run, places)(*many), torch.stack([run(*t) for t in one]))
    x, w, b = tensors
    tangents = randn(*x.shape, seed=1), randn(*w.shape, seed=2), randn(*b.shape, seed=3)
    tangent = jvp(run, tensors, tangents)[1]
    close(tangent, run(tangents[0], w, tangents[2]) + run(x, tangents[1], 0 * b))


@pytest.mark.parametrize(("name", "mode"), [("conv2d", "reflect"), ("conv_transpose2d", "circular")])
def test_compiled(name: str, mode: str) -> None:
    """Output and gradients are those of the function itself, in one graph for all sizes, also where the
    function takes strips."""
    convolution: Function = getattr(torch_conv_ext, name)
    w = randn(2, 2, 3, 3).requires_grad_()

    def run(x: Tensor) -> Tensor:
        result: Tensor = convolution(x, w, None, 2, padding=((0, 1), (1, 1)), padding_mode=mode)
        return result

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for size in ((9, 70), (50, 60)):
            x = randn(2, 2, *size).requires_grad_()
            results = []
            for y in (compiled(x), run(x)):
                results.append((y, *torch.autograd.grad(y.sin().sum(), (x, w))))
            close(*results)
    torch._dynamo.reset()


@pytest.mark.parametrize("mode", MODES)
def test_memory_format(mode: str, mechanism: str) -> None:
    """channels_last in, channels_last out; a view of every other element counts like a copy of it."""
    w = randn(3, 4, 3, 3)
    x = randn(2, 4, 9, 8).contiguous(memory_format=torch.channels_last)
    y = conv2d(x, w, padding=1, padding_mode=mode)
    assert y.is_contiguous(memory_format=torch.channels_last)
    close(y, conv2d(x.contiguous(), w, padding=1, padding_mode=mode))
    assert conv2d(x.contiguous(), w, padding=1, padding_mode=mode).is_contiguous()
    view = randn(2, 8, 9, 16).transpose(2, 3)[:, ::2, ::2]
    close(
        conv2d(view, w, padding=1, padding_mode=mode),
        conv2d(view.contiguous(), w, padding=1, padding_mode=mode),
    )


@pytest.mark.parametrize(("name", "mode"), list(itertools.product(NAMES, MODES)))
def test_same_bits(name: str, mode: str, mechanism: str) -> None:
    """Output and gradients have the same bits with 1, 2 and 3 threads, a sample's also alone."""
    convolution: Function = getattr(torch_conv_ext, name)
    x, w = randn(3, 5, 40, 37).float(), randn(5, 5, 3, 3).float()

    def run(x: Tensor) -> list[Tensor]:
        inputs = [x.clone().requires_grad_(), w.clone().requires_grad_()]
        y = convolution(*inputs, padding=((1, 0), (0, 1)), padding_mode=mode)
        return [y, *torch.autograd.grad(y.square().sum(), inputs)]

    expected = run(x)
    for count in (2, 3):
        torch.set_num_threads(count)
        assert all(map(torch.equal, run(x), expected))
    for sample in range(3):
        assert all(
            torch.equal(alone[0], batch[sample])
            for alone, batch in zip(run(x[sample, None])[:2], expected, strict=False)
        )


def test_without_padding_nothing_is_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    """A padding mode without padding is 'zeros', for any size of image."""
    monkeypatch.setattr(_border, "run", None)
    x, w = randn(1, 1, 1, 1), randn(2, 1, 1, 1)
    for mode in MODES:
        assert torch.equal(conv2d(x, w, padding_mode=mode), conv2d(x, w))


# --- where torch's operators compute ------------------------------------------------------------------------

OPTIONS: list[dict[str, Any]] = [
    {"padding": "same", "stride": [2, 1]},
    {"padding": ((1, 0), (2, 1)), "stride": (1, 2)},
    {"padding": 1, "padding_mode": "reflect"},
    {"padding": ((1, 0), (2, 1)), "padding_mode": "circular", "dilation": (1, 2)},
    {"padding": "same", "padding_mode": "replicate", "groups": 2},
    {"padding": "same", "stride": (4, 3)},  # rows and columns of the transposed output without terms
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_fallback(name: str, options: dict[str, Any]) -> None:
    """bfloat16, autocast and the meta device: the result that float64 has here, up to a rounding.

    Small integers: no sum rounds in float32.
    """
    run: Function = getattr(torch_conv_ext, name)
    groups = options.get("groups", 1)
    x, w = (torch.randint(-2, 3, s).double() for s in ((2, 4, 6, 7), (4, 4 // groups, 3, 2)))
    expected = run(x, w, **options)
    result = run(x.bfloat16(), w.bfloat16(), **options)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, expected.bfloat16())
    assert torch.equal(run(x[0].bfloat16(), w.bfloat16(), **options), result[0])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(run(x.float(), w.float(), **options), result)
    assert run(x.to("meta"), w.to("meta"), **options).shape == expected.shape


@pytest.mark.parametrize("options", OPTIONS[:2], ids=str)
def test_fallback_of_the_gradients(options: dict[str, Any]) -> None:
    """The four gradient functions in bfloat16: the result that float64 has here, up to a rounding."""
    x, w = (torch.randint(-2, 3, s).double() for s in ((2, 4, 6, 7), (4, 4, 3, 2)))
    for by_input, by_weight, convolution in (
        (conv2d_input, conv2d_weight, conv2d),
        (conv_transpose2d_input, conv_transpose2d_weight, conv_transpose2d),
    ):
        dy = torch.randint_like(convolution(x, w, **options), -1, 2)
        expected = by_input(x.shape, w, dy, **options), by_weight(x, w.shape, dy, **options)
        x_, w_, dy_ = (t.bfloat16() for t in (x, w, dy))
        assert torch.equal(by_input(x.shape, w_, dy_, **options), expected[0].bfloat16())
        assert torch.equal(by_weight(x_, w.shape, dy_, **options), expected[1].bfloat16())


# --- the plan -----------------------------------------------------------------------------------------------


def test_plan() -> None:
    """plan takes what the functions take: the output's size, and the padding as it is shown."""
    found = plan("conv2d", (1, 3, 9, 8), (4, 3, 3, 3), padding="same", stride=2)
    assert (found.output, found.padding) == ((1, 4, 5, 4), "same")
    found = plan("conv2d", (1, 3, 9, 8), (4, 3, 3, 3), padding=[(0, 1), (2, 0)])
    assert (found.output, found.padding) == ((1, 4, 8, 8), ((0, 1), (2, 0)))
    assert "padding ((0, 1), (2, 0))" in str(found)
    found = plan("conv_transpose2d", (1, 3, 9, 8), (3, 4, 3, 3), padding="same", stride=2)
    assert found.output == (1, 4, 18, 16)


# --- memory -----------------------------------------------------------------------------------------------

# For a function and a mode: the peak of the forward pass, what it leaves, and the peak of the backward pass
# above that; each beside the result and the gradients.
PEAK = (
    STATUS
    + """
import torch.nn.functional as F
from test_padding import IMAGE, MODES, WEIGHT
torch.set_num_threads(1)

def ours(x, w, mode):
    return torch_conv_ext.conv2d(x, w, padding=1, padding_mode=mode)

def theirs(x, w, mode):
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode=mode), w)

def reset():
    open("/proc/self/clear_refs", "w").write("5")
    return status("VmRSS")

dy = torch.ones(IMAGE)
for function, mode in [(ours, "reflect"), *((ours, mode) for mode in MODES), (theirs, "reflect")]:
    x, w = torch.ones(IMAGE, requires_grad=True), torch.ones(WEIGHT, requires_grad=True)
    before = reset()
    y = function(x, w, mode)
    forward, left = status("VmHWM") - before - y.nbytes, status("VmRSS") - before - y.nbytes
    before = reset()
    gradients = torch.autograd.grad(y, (x, w), dy)
    backward = status("VmHWM") - before - sum(g.nbytes for g in gradients)
    print(forward, left, backward)
    del x, w, y, gradients
"""
)
IMAGE, WEIGHT = (4, 64, 120, 120), (64, 64, 3, 3)


def test_no_padded_copy() -> None:
    """Forward and backward need at most 3 MiB beside their results: scratch of 1.7 MiB, strips of 0.2 MiB.

    The forward pass leaves nothing. A padded image has 15 MiB; the measure sees the one that torch keeps.
    """
    lines = output_of(PEAK, environment=NO_REUSE).splitlines()
    # The first round imports what torch needs for a backward pass, and starts what stays.
    (*ours, theirs) = [[int(size) / MIB for size in line.split()] for line in lines[1:]]
    assert len(ours) == len(MODES)
    for mode, (forward, left, backward) in zip(MODES, ours, strict=True):
        assert forward <= 3, f"{mode}: forward {forward:.1f} MiB"
        assert left <= 1, f"{mode}: left by forward {left:.1f} MiB"
        assert backward <= 3, f"{mode}: backward {backward:.1f} MiB"
    assert theirs[1] >= 14


def test_small_images_are_padded() -> None:
    """From a border of an eighth of the image on: (34*34 - 32*32) / (32*32) = 0.13."""
    for size, padding in ((33, _border.Border), (32, tuple)):
        x = torch.empty(1, 1, size, size)
        _, geometry = _border.extended_x(x, ((1, 1), (1, 1), (1, 1), 1), (1, 1), "reflect")
        assert type(geometry[1]) is padding


# --- gradients one by one -----------------------------------------------------------------------------------


class Contractions(TorchDispatchMode):
    """Counts the calls of each of the compiled operators."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "torch_conv_ext":
            self.counts[func._schema.name.removeprefix("torch_conv_ext::")] += 1
        return func(*args, **(kwargs or {}))


# The contractions of the backward pass by the input, the weight and the bias.
NEEDED: dict[str, tuple[str | None, ...]] = {
    "conv2d": ("grad_input", "grad_weight", None),
    "conv_transpose2d": ("forward", "grad_weight", None),
}


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize("name", NAMES)
def test_only_what_requires_grad(name: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """backward runs the contractions of the tensors that require a gradient, and once more for each strip.

    For the bias alone it runs none, and nothing is kept.
    """
    monkeypatch.setattr(_border, "COPY_FROM", float("inf"))
    convolution: Function = getattr(torch_conv_ext, name)
    times = 1 if mode == "zeros" else 5
    for needs in itertools.product((False, True), repeat=3):
        tensors = [
            t.requires_grad_(need)
            for t, need in zip((randn(2, 3, 6, 7), randn(3, 3, 3, 3), randn(3)), needs, strict=True)
        ]
        if not any(needs):
            continue
        y = convolution(*tensors, padding=1, padding_mode=mode)
        saved = [t for t in y.grad_fn.saved_tensors if t is not None]
        assert len(saved) == needs[0] + needs[1]
        contractions = Contractions()
        with contractions:
            y.sum().backward()
        expected = {what: times for what, need in zip(NEEDED[name], needs, strict=True) if need and what}
        assert contractions.counts == expected
        assert [t.grad is not None for t in tensors] == list(needs)
