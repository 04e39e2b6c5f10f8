"""Derivatives of functions, Functions and modules, of any order; forward mode and torch.func: test_func."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import torch_conv_ext
from torch_conv_ext import Conv2dFunction, ConvTranspose2dFunction

pytestmark = pytest.mark.usefixtures("threads")

Function = Callable[..., Tensor]


def randn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def leaves(*shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    return tuple(randn(*shape, seed=i).requires_grad_() for i, shape in enumerate(shapes))


def close(result: Any, expected: Any) -> None:
    """Sums of at most some hundred products of order one: 1e-11 is a thousand roundings of float64."""
    torch.testing.assert_close(result, expected, rtol=1e-11, atol=1e-11)


# --- gradcheck: analytic derivatives against finite differences ---------------------------------------------

# Every argument away from its default, height and width different. Where only the dilation makes the output
# padding legal, the gradient is `forward` of another size than conv2d's.
GRADCHECK: dict[str, tuple[Function, tuple[tuple[int, ...], ...]]] = {
    "Conv2dFunction": (
        lambda x, w, b: Conv2dFunction.apply(x, w, b, (2, 1), (1, 2), (1, 2), 2),
        ((2, 4, 4, 3), (4, 2, 3, 2), (4,)),
    ),
    "ConvTranspose2dFunction": (
        lambda x, w, b: ConvTranspose2dFunction.apply(x, w, b, (2, 1), (1, 2), (1, 0), 2, (1, 2)),
        ((2, 4, 3, 2), (4, 1, 3, 3), (2,)),
    ),
    "ConvTranspose2dFunction_output_padding_by_dilation": (
        lambda x, w, b: ConvTranspose2dFunction.apply(x, w, b, 1, 0, 1, 1, 2),
        ((1, 2, 3, 3), (2, 1, 2, 2), (1,)),
    ),
    "Conv2dFunction_same": (
        lambda x, w: Conv2dFunction.apply(x, w, None, 1, "same", (1, 2)),
        ((1, 2, 3, 4), (1, 2, 2, 4)),
    ),
    "conv2d_unbatched": (lambda x, w, b: torch_conv_ext.conv2d(x, w, b, 2), ((2, 4, 5), (1, 2, 2, 2), (1,))),
    "conv2d_input": (
        lambda w, dy: torch_conv_ext.conv2d_input((2, 2, 6, 5), w, dy, (2, 1), (1, 0), 1, 2),
        ((2, 1, 3, 2), (2, 2, 3, 4)),
    ),
    "conv2d_weight": (
        lambda x, dy: torch_conv_ext.conv2d_weight(x, (2, 1, 3, 2), dy, (2, 1), (1, 0), 1, 2),
        ((2, 2, 6, 5), (2, 2, 3, 4)),
    ),
    "conv_transpose2d_input": (
        lambda w, dy: torch_conv_ext.conv_transpose2d_input((1, 2, 3, 4), w, dy, 2, 1, 1),
        ((2, 2, 3, 2), (1, 2, 6, 7)),
    ),
    "conv_transpose2d_weight": (
        lambda x, dy: torch_conv_ext.conv_transpose2d_weight(x, (2, 2, 3, 2), dy, 2, 1, 1),
        ((1, 2, 3, 4), (1, 2, 6, 7)),
    ),
}


@pytest.mark.parametrize("name", GRADCHECK)
def test_first_derivatives(name: str) -> None:
    """J from vjp, from jvp and from both under vmap = J from finite differences."""
    function, shapes = GRADCHECK[name]
    assert gradcheck(
        function,
        leaves(*shapes),
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
        check_undefined_grad=True,
    )


@pytest.mark.parametrize("name", GRADCHECK)
def test_second_derivatives(name: str) -> None:
    """The derivative of vjp, reverse over reverse and forward over reverse = its finite differences."""
    function, shapes = GRADCHECK[name]
    assert gradgradcheck(
        function, leaves(*shapes), check_fwd_over_rev=True, check_rev_over_rev=True, check_batched_grad=True
    )


@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
def test_modules(name: str) -> None:
    """gradcheck and gradgradcheck of a module by its input, weight and bias."""
    module = getattr(torch_conv_ext, name)(2, 4, (3, 2), 2, 1, groups=2, dtype=torch.float64)
    names = [n for n, _ in module.named_parameters()]

    def function(x: Tensor, *parameters: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (x,))
        return result

    inputs = (*leaves((1, 2, 4, 3)), *module.parameters())
    assert gradcheck(function, inputs, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, inputs, check_fwd_over_rev=True, check_rev_over_rev=True)


def test_third_derivative() -> None:
    """The three contractions are closed under differentiation: d3/dx3 of sum(conv(x, w)^4) as in torch."""

    def third(conv: Function) -> Tensor:
        x, w = leaves((1, 2, 4, 4), (2, 2, 3, 3))
        value = conv(x, w).pow(4).sum()
        for _ in range(3):
            (g,) = torch.autograd.grad(value, x, create_graph=True)
            value = (g * randn(*x.shape, seed=9)).sum()
        return torch.autograd.grad(value, w)[0]

    close(third(torch_conv_ext.conv2d), third(F.conv2d))


# --- identities ---------------------------------------------------------------------------------------------

OPTIONS: dict[str, Any] = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2}
X, W, DY = randn(2, 4, 7, 6, seed=1), randn(6, 2, 3, 2, seed=2), randn(2, 6, 4, 8, seed=3)


def test_every_derivative_is_one_of_the_three() -> None:
    """The derivative table: the vjp of each contraction by each operand is a contraction, bit for bit."""

    def conv2d(x: Tensor, w: Tensor) -> Tensor:
        return torch_conv_ext.conv2d(x, w, **OPTIONS)

    def conv2d_input(w: Tensor, dy: Tensor) -> Tensor:
        return torch_conv_ext.conv2d_input(X.shape, w, dy, **OPTIONS)

    def conv2d_weight(x: Tensor, dy: Tensor) -> Tensor:
        return torch_conv_ext.conv2d_weight(x, W.shape, dy, **OPTIONS)

    g_x, g_w = randn(*X.shape, seed=4), randn(*W.shape, seed=5)
    table = [
        (conv2d, (X, W), DY, (conv2d_input(W, DY), conv2d_weight(X, DY))),
        (conv2d_input, (W, DY), g_x, (conv2d_weight(g_x, DY), conv2d(g_x, W))),
        (conv2d_weight, (X, DY), g_w, (conv2d_input(g_w, DY), conv2d(X, g_w))),
    ]
    for function, operands, cotangent, expected in table:
        inputs = [t.clone().requires_grad_() for t in operands]
        gradients = torch.autograd.grad(function(*inputs), inputs, cotangent)
        for gradient, value in zip(gradients, expected, strict=True):
            assert torch.equal(gradient, value)


def test_gradients_are_those_of_torch() -> None:
    """conv2d_input and conv2d_weight are torch.nn.grad's; conv_transpose2d is conv2d's input gradient."""
    close(
        torch_conv_ext.conv2d_input(X.shape, W, DY, **OPTIONS),
        torch.nn.grad.conv2d_input(X.shape, W, DY, **OPTIONS),
    )
    close(
        torch_conv_ext.conv2d_weight(X, W.shape, DY, **OPTIONS),
        torch.nn.grad.conv2d_weight(X, W.shape, DY, **OPTIONS),
    )
    transposed = torch_conv_ext.conv_transpose2d(DY, W, output_padding=(1, 0), **OPTIONS)
    assert torch.equal(
        transposed, torch_conv_ext.conv2d_input((2, 4, *transposed.shape[2:]), W, DY, **OPTIONS)
    )


@pytest.mark.parametrize("shape", [(2, 3, 257, 255), (8, 1, 128, 128), (1, 1, 1, 32767)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_bias_gradient_has_the_same_bits_on_any_number_of_threads(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    """The bias gradient is the sum of the cotangent, also for one channel, where torch's own sum varies."""
    dy = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    x = torch.zeros(shape[0], 1, *shape[2:], dtype=dtype)
    w = torch.zeros(shape[1], 1, 1, 1, dtype=dtype)
    gradients: list[Tensor] = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        bias = torch.zeros(shape[1], dtype=dtype, requires_grad=True)
        gradients += torch.autograd.grad(torch_conv_ext.conv2d(x, w, bias), bias, dy)
    torch.set_num_threads(before)
    assert all(torch.equal(gradients[0], g) for g in gradients)
    # Pairwise sums of n terms: about log2(n) roundings, each of at most eps * sum |dy|.
    bound = 20 * torch.finfo(dtype).eps * dy.double().abs().sum((0, 2, 3))
    assert ((gradients[0].double() - dy.double().sum((0, 2, 3))).abs() <= bound).all()


FORMATS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda t: t.contiguous(),
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "expanded": lambda t: t[:1, :1, :1, :1].expand(t.shape),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_formats_of_gradients(name: str, dtype: torch.dtype) -> None:
    """The formats of input and weight decide those of output and gradients, whatever the cotangent's."""
    x, w = randn(2, 4, 5, 6).to(dtype), randn(4, 4, 3, 3).to(dtype)
    dy = getattr(F, name)(x, w)
    for formats in itertools.product(
        ["contiguous", "channels_last"], ["contiguous", "channels_last"], FORMATS
    ):
        x, w, dy = (FORMATS[form](t) for form, t in zip(formats, (x, w, dy), strict=True))
        channels_last = "channels_last" in formats[:2]
        expected = torch.channels_last if channels_last else torch.contiguous_format
        leaves = [x.requires_grad_(), w.requires_grad_()]
        for function in (getattr(torch_conv_ext, name), getattr(F, name)):
            y = function(*leaves)
            for t in (y, *torch.autograd.grad(y, leaves, dy)):
                assert t.is_contiguous(memory_format=expected), (formats, function)


# --- only what is needed ------------------------------------------------------------------------------------


class Calls(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes the names of our operators that run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "torch_conv_ext":
            self.names.append(func._opname)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("needed", "backward", "saved"),
    [
        ("x", ["grad_input"], 1),
        ("w", ["grad_weight"], 1),
        ("b", [], 0),
        ("xw", ["grad_input", "grad_weight"], 2),
    ],
)
def test_only_needed_gradients(needed: str, backward: list[str], saved: int) -> None:
    """backward runs one kernel for each operand that needs a gradient; forward saves the other operand."""
    tensors = {"x": randn(1, 2, 4, 4), "w": randn(3, 2, 3, 3), "b": randn(3)}
    for name in needed:
        tensors[name].requires_grad_()
    packed: list[Tensor] = []

    def pack(t: Tensor) -> Tensor:
        packed.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = torch_conv_ext.conv2d(tensors["x"], tensors["w"], tensors["b"])
    assert len(packed) == saved
    with Calls() as calls:
        y.sum().backward()
    assert calls.names == backward
    assert [name for name, t in tensors.items() if t.grad is not None] == list(needed)


def test_no_graph_without_need() -> None:
    """Without a gradient to be had there is no node; with one, it has the name of the public Function."""
    x, w = leaves((1, 1, 4, 4), (1, 1, 3, 3))
    with torch.no_grad():
        assert torch_conv_ext.conv2d(x, w).grad_fn is None
    with torch.inference_mode():
        assert torch_conv_ext.conv_transpose2d(x, w).is_inference()
    assert torch_conv_ext.conv2d(x.detach(), w.detach()).grad_fn is None
    assert type(torch_conv_ext.conv2d(x, w).grad_fn).__name__ == "Conv2dFunctionBackward"
    assert type(torch_conv_ext.conv_transpose2d(x, w).grad_fn).__name__ == "ConvTranspose2dFunctionBackward"
