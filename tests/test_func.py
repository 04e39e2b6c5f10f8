"""torch.func and forward mode beside torch's own convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as fwd
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import torch_conv_ext
from test_autograd import Calls, Function, close, randn

pytestmark = pytest.mark.usefixtures("threads")

Pair = tuple[Function, Function, tuple[Tensor, Tensor, Tensor]]  # ours, torch's, and tensors for them


def conv_pair() -> Pair:
    arguments = (2, 1, (1, 2), 2)
    return (
        lambda x, w, b: torch_conv_ext.conv2d(x, w, b, *arguments),
        lambda x, w, b: F.conv2d(x, w, b, *arguments),
        (randn(2, 4, 5, 6), randn(6, 2, 3, 2), randn(6)),
    )


def transposed_pair() -> Pair:
    arguments = (2, 1, 1, 2, (1, 2))
    return (
        lambda x, w, b: torch_conv_ext.conv_transpose2d(x, w, b, *arguments),
        lambda x, w, b: F.conv_transpose2d(x, w, b, *arguments),
        (randn(2, 4, 5, 6), randn(4, 3, 3, 2), randn(6)),
    )


def gradient_pairs() -> list[Pair]:
    """The two gradients as functions of two tensors; the third argument scales the result."""
    nn_grad: Any = torch.nn.grad
    x, w, b = randn(2, 4, 5, 6), randn(6, 2, 3, 2), randn(1)
    dy = F.conv2d(x, w, None, 2, 1, (1, 2), 2)
    arguments = (2, 1, (1, 2), 2)
    return [
        (
            lambda w, dy, s: s * torch_conv_ext.conv2d_input((2, 4, 5, 6), w, dy, *arguments),
            lambda w, dy, s: s * nn_grad.conv2d_input((2, 4, 5, 6), w, dy, *arguments),
            (w, dy, b),
        ),
        (
            lambda x, dy, s: s * torch_conv_ext.conv2d_weight(x, (6, 2, 3, 2), dy, *arguments),
            lambda x, dy, s: s * nn_grad.conv2d_weight(x, (6, 2, 3, 2), dy, *arguments),
            (x, dy, b),
        ),
    ]


PAIRS: dict[str, Pair] = dict(
    zip(
        ["conv2d", "conv_transpose2d", "conv2d_input", "conv2d_weight"],
        [conv_pair(), transposed_pair(), *gradient_pairs()],
        strict=True,
    )
)
IN_DIMS = [
    (0, None, None),
    (None, 0, None),
    (None, None, 0),
    (0, 0, None),
    (0, None, 0),
    (None, 0, 0),
    (0, 0, 0),
]


def loss(function: Function) -> Function:
    return lambda *tensors: function(*tensors).sin().sum()


def stacked(
    tensors: tuple[Tensor, ...], in_dims: tuple[int | None, ...], length: int = 3
) -> tuple[Tensor, ...]:
    """Each tensor, or `length` different ones stacked along its dimension of `in_dims`."""
    return tuple(
        t if dim is None else torch.stack([randn(*t.shape, seed=10 * i + j) for j in range(length)], dim)
        for i, (t, dim) in enumerate(zip(tensors, in_dims, strict=True))
    )


@pytest.mark.parametrize("in_dims", IN_DIMS, ids=str)
@pytest.mark.parametrize("name", PAIRS)
def test_vmap_mixes(name: str, in_dims: tuple[int | None, ...]) -> None:
    """vmap, vmap of grad, grad of vmap and vmap of jvp over any of the tensors, against torch's."""
    ours, theirs, single = PAIRS[name]
    tensors = stacked(single, in_dims)
    every = (0, 1, 2)
    for transform in (
        lambda f: vmap(f, in_dims),
        lambda f: vmap(grad(loss(f), every), in_dims),
        lambda f: grad(loss(vmap(f, in_dims)), every),
        lambda f: vmap(lambda *t: jvp(f, t, t), in_dims),
    ):
        close(transform(ours)(*tensors), transform(theirs)(*tensors))


@pytest.mark.parametrize("name", PAIRS)
def test_vmap_dimensions(name: str) -> None:
    """vmap over inner dimensions, to an inner dimension, and nested."""
    ours, theirs, tensors = PAIRS[name]
    inner = stacked(tensors, (2, 1, None))
    outer = stacked(tensors, (0, 0, None))
    transforms: list[tuple[Callable[[Function], Function], tuple[Tensor, ...]]] = [
        (lambda f: vmap(f, (2, 1, None), out_dims=3), inner),
        (lambda f: vmap(vmap(f, (None, 0, None)), (0, None, None)), outer),
    ]
    for transform, arguments in transforms:
        close(transform(ours)(*arguments), transform(theirs)(*arguments))


def test_vmap_runs_one_kernel() -> None:
    """The vmapped dimension joins the batch, the channels or the groups: one call of the operator."""
    x, w, b = randn(5, 2, 4, 6, 6), randn(5, 6, 2, 3, 3), randn(6)
    for in_dims in ((0, None, None), (None, 0, None), (0, 0, None)):
        arguments = (x if in_dims[0] == 0 else x[0], w if in_dims[1] == 0 else w[0], b)
        with Calls() as calls:
            vmap(lambda x, w, b: torch_conv_ext.conv2d(x, w, b, groups=2), in_dims)(*arguments)
        assert calls.names == ["forward"]


@pytest.mark.parametrize("argument", range(3), ids=["first", "second", "third"])
@pytest.mark.parametrize("name", PAIRS)
def test_jacobians(name: str, argument: int) -> None:
    """jacrev = jacfwd = torch's, by one tensor at a time; vjp and jvp are its products."""
    ours, theirs, tensors = PAIRS[name]
    expected = jacrev(theirs, argument)(*tensors)
    close(jacrev(ours, argument)(*tensors), expected)
    close(jacfwd(ours, argument)(*tensors), expected)

    def of_one(t: Tensor) -> Tensor:
        return ours(*tensors[:argument], t, *tensors[argument + 1 :])

    y, pull = vjp(of_one, tensors[argument])[:2]
    tangent = randn(*tensors[argument].shape, seed=7)
    close(jvp(of_one, (tensors[argument],), (tangent,))[1], torch.tensordot(expected, tangent, tangent.dim()))
    close(pull(y)[0], torch.tensordot(y, expected, y.dim()))


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_hessian(name: str) -> None:
    """Forward over reverse by all pairs of arguments, as in torch."""
    ours, theirs, (x, w, b) = PAIRS[name]
    tensors = (x[:1, :, :3, :3], w, b)
    close(hessian(loss(ours), (0, 1, 2))(*tensors), hessian(loss(theirs), (0, 1, 2))(*tensors))


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_per_sample_gradients(name: str) -> None:
    """vmap of grad over the samples = the gradients of one sample after the other."""
    ours, _, (x, w, b) = PAIRS[name]
    together = vmap(grad(loss(ours), (1, 2)), (0, None, None))(x, w, b)
    alone = [grad(loss(ours), (1, 2))(sample, w, b) for sample in x]
    close(together, tuple(torch.stack(gradients) for gradients in zip(*alone, strict=True)))


def test_no_grad_in_a_transform() -> None:
    """no_grad inside of a function cuts off gradients and no tangents, as in torch; around grad, nothing."""
    ours, theirs, tensors = PAIRS["conv2d"]

    def cut_off(function: Function) -> Function:
        def run(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
            with torch.no_grad():
                y = function(x, w, b)
            return (y * w.sum() + b.sum()).square().sum()

        return run

    transforms: list[Callable[[Function], Callable[..., Any]]] = [
        lambda f: grad(cut_off(f), (0, 1, 2)),
        lambda f: lambda *t: jvp(cut_off(f), t, t),
        lambda f: lambda *t: grad(lambda w: jvp(lambda x: cut_off(f)(x, w, t[2]), t[:1], t[:1])[1])(t[1]),
        lambda f: lambda *t: jvp(lambda w: grad(cut_off(f))(t[0], w, t[2]), t[1:2], t[1:2]),
        lambda f: torch.no_grad()(grad(loss(f), (0, 1, 2))),
    ]
    for transform in transforms:
        close(transform(ours)(*tensors), transform(theirs)(*tensors))


@pytest.mark.parametrize("name", PAIRS)
def test_ordinary_autograd_through_vmap(name: str) -> None:
    """backward() outside of a vmapped call, to leaves that are vmapped over and to those that are not."""
    ours, theirs, tensors = PAIRS[name]
    gradients = []
    for function in (ours, theirs):
        inputs = [t.clone().requires_grad_() for t in stacked(tensors, (None, 0, None))]
        gradients.append(torch.autograd.grad(loss(vmap(function, (None, 0, None)))(*inputs), inputs))
    close(*gradients)


@pytest.mark.parametrize("name", PAIRS)
def test_forward_mode(name: str) -> None:
    """Dual tensors outside of torch.func: all mixes of tangents, also in no_grad; forward over reverse."""
    ours, theirs, tensors = PAIRS[name]

    def tangent(function: Function, with_tangent: tuple[int, ...]) -> Tensor:
        with fwd.dual_level():
            duals = [fwd.make_dual(t, t.cos()) if i in with_tangent else t for i, t in enumerate(tensors)]
            result: Tensor = fwd.unpack_dual(function(*duals)).tangent
        return result

    def tangents_of_gradients(function: Function) -> list[Tensor]:
        with fwd.dual_level():
            inputs = [t.clone().requires_grad_() for t in tensors]
            duals = [fwd.make_dual(t, t.detach().cos()) for t in inputs]
            gradients = torch.autograd.grad(loss(function)(*duals), inputs)
            return [fwd.unpack_dual(g).tangent for g in gradients]

    for with_tangent in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)):
        close(tangent(ours, with_tangent), tangent(theirs, with_tangent))
        with torch.no_grad():
            close(tangent(ours, with_tangent), tangent(theirs, with_tangent))
    close(tangents_of_gradients(ours), tangents_of_gradients(theirs))
