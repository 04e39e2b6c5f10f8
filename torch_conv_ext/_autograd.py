"""The three contractions as differentiable functions.

The trilinear form of an input X, a weight W and an output Y,

    T(X, W, Y) = sum over n,g,co,ci,oh,ow,kh,kw of Y[n,g,co,oh,ow] * W[g,co,ci,kh,kw]
                 * X[n,g,ci, oh*stride_h - padding_h + kh*dilation_h, ow*stride_w - padding_w + kw*dilation_w]

has three derivatives: `forward` by Y, `grad_input` by X and `grad_weight` by W. T is linear in each argument,
so the derivatives of these three are these three again, to any order (`_RULES`). Each result has a free size:
a derivative is given the size of the tensor that it belongs to, and no size is inferred from another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import Function, FunctionMeta

from torch_conv_ext import _border, _ops
from torch_conv_ext._args import Pair
from torch_conv_ext._border import Border, Geometry
from torch_conv_ext._dispatch import below_autograd, forward_mode, is_compiling, transforms_active
from torch_conv_ext._format import in_other_format, is_channels_last


def contract(
    contraction: type[Contraction], a: Tensor, b: Tensor, bias: Tensor | None, size: Pair, geometry: Geometry
) -> Tensor:
    """Run a contraction so that it is differentiable wherever that may be asked for.

    Takes the two operands, the bias of the result's channels or None, and the result's size along height and
    width. See NOTE [Four ways to run a contraction].
    """
    if is_compiling():
        return contraction.run(a, b, bias, size, geometry)
    if transforms_active():
        return _Transformable.record(_Call(contraction, size, geometry), a, b, bias)
    if forward_mode() or (
        torch.is_grad_enabled()
        and (a.requires_grad or b.requires_grad or (bias is not None and bias.requires_grad))
    ):
        return contraction.record(contraction, a, b, bias, size, geometry)
    with below_autograd():
        return contraction.run(a, b, bias, size, geometry)


# --- the contractions and their derivatives -----------------------------------------------------------------


class _Meta(FunctionMeta):
    """torch.compile has its own way with classes of type FunctionMeta; those of this type it just traces."""


class Contraction(Function, metaclass=_Meta):
    """A node of the autograd graph. Its arguments are those of `contract`; the sums start at the bias."""

    operands: ClassVar[tuple[str, str]]  # the arguments of T that it takes
    result: ClassVar[str]  # the argument of T by which it is the derivative

    @staticmethod
    def run(a: Tensor, b: Tensor, bias: Tensor | None, size: Pair, geometry: Geometry) -> Tensor:
        """Call the compiled operator."""
        raise NotImplementedError

    @classmethod
    def record(cls, *args: Any) -> Tensor:
        """Call the kernel and put a node into the autograd graph.

        This is torch.autograd.Function.apply without the part that serves functorch and takes some time.
        """
        result: Tensor = super(Function, cls).apply(*args)  # type: ignore[misc]
        return result

    @staticmethod
    def forward(
        ctx: Any,
        contraction: type[Contraction],
        a: Tensor,
        b: Tensor,
        bias: Tensor | None,
        size: Pair,
        geometry: Geometry,
    ) -> Tensor:
        with below_autograd():
            result = contraction.run(a, b, bias, size, geometry)
        _, needs_a, needs_b, *_ = ctx.needs_input_grad
        _remember(ctx, contraction, a, b, result, size, geometry, needs_a, needs_b)
        if forward_mode():
            ctx.save_for_forward(a, b)
        return result

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, ...]:
        _, needs_a, needs_b, needs_bias, *_ = ctx.needs_input_grad
        return None, *_vjp(ctx, g, needs_a, needs_b, needs_bias), None, None

    @staticmethod
    def jvp(
        ctx: Any, _: None, da: Tensor | None, db: Tensor | None, dbias: Tensor | None, *__: None
    ) -> Tensor:
        """The product rule; the sums of the first term start at the tangent of the bias."""
        a, b = ctx.saved_tensors
        contraction, size, geometry, *_ = ctx.call
        terms = []
        if da is not None:
            terms.append(contract(contraction, da, b, dbias, size, geometry))
        if db is not None:
            terms.append(contract(contraction, a, db, None if terms else dbias, size, geometry))
        if not terms and dbias is not None:
            terms.append(dbias.view(-1, 1, 1).expand(a.shape[0], -1, *size).clone())
        return sum(terms[1:], start=terms[0])


class Forward(Contraction):
    """(X, W) -> Y"""

    operands, result = ("x", "w"), "y"

    @staticmethod
    def run(x: Tensor, w: Tensor, bias: Tensor | None, size: Pair, geometry: Geometry) -> Tensor:
        stride, padding, dilation, groups = geometry
        if isinstance(padding, Border):
            return _border.run(Forward, x, w, bias, size, (stride, padding, dilation, groups))
        return _ops.forward(x, w, bias, *size, *stride, *padding, *dilation, groups)


class GradInput(Contraction):
    """(Y, W) -> X"""

    operands, result = ("y", "w"), "x"

    @staticmethod
    def run(y: Tensor, w: Tensor, bias: Tensor | None, size: Pair, geometry: Geometry) -> Tensor:
        stride, padding, dilation, groups = geometry
        if isinstance(padding, Border):
            return _border.run(GradInput, y, w, bias, size, (stride, padding, dilation, groups))
        return _ops.grad_input(y, w, bias, *size, *stride, *padding, *dilation, groups)


class GradWeight(Contraction):
    """(X, Y) -> W. It has no bias."""

    operands, result = ("x", "y"), "w"

    @staticmethod
    def run(x: Tensor, y: Tensor, bias: Tensor | None, size: Pair, geometry: Geometry) -> Tensor:
        stride, padding, dilation, groups = geometry
        if isinstance(padding, Border):
            return _border.run(GradWeight, x, y, bias, size, (stride, padding, dilation, groups))
        return _ops.grad_weight(x, y, *size, *stride, *padding, *dilation, groups)


_Rule = Callable[[Tensor, Tensor, Tensor], tuple[type[Contraction], Tensor, Tensor]]

# For each result, the derivative by the first operand and by the second; g is the cotangent of the result.
_RULES: dict[str, tuple[_Rule, _Rule]] = {
    "y": (lambda x, w, g: (GradInput, g, w), lambda x, w, g: (GradWeight, x, g)),
    "x": (lambda y, w, g: (Forward, g, w), lambda y, w, g: (GradWeight, g, y)),
    "w": (lambda x, y, g: (GradInput, y, g), lambda x, y, g: (Forward, x, g)),
}


def _remember(
    ctx: Any,
    contraction: type[Contraction],
    a: Tensor,
    b: Tensor,
    result: Tensor,
    size: Pair,
    geometry: Geometry,
    needs_a: bool,
    needs_b: bool,
) -> None:
    """Keep what the derivatives need. An operand is needed only for the derivative by the other one."""
    ctx.set_materialize_grads(False)
    ctx.call = contraction, size, geometry, a.shape, b.shape, is_channels_last(result)
    ctx.save_for_backward(a if needs_b else None, b if needs_a else None)


def _vjp(
    ctx: Any, g: Tensor | None, needs_a: bool, needs_b: bool, needs_bias: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of the two operands and of the bias, those that are needed."""
    if g is None:
        return None, None, None
    a, b = ctx.saved_tensors
    contraction, _, geometry, shape_a, shape_b, channels_last = ctx.call
    # As torch does. The operands of the forward call so decide the format of the gradients, whatever the
    # cotangent's is.
    if is_channels_last(g) != channels_last:
        g = in_other_format(g, channels_last)
    by_a, by_b = _RULES[contraction.result]
    return (
        contract(*by_a(a, b, g), None, shape_a[2:], geometry) if needs_a else None,
        contract(*by_b(a, b, g), None, shape_b[2:], geometry) if needs_b else None,
        bias_gradient(g) if needs_bias else None,
    )


def bias_gradient(g: Tensor) -> Tensor:
    """The sum over all but the channels, the same bits with any number of threads.

    torch gives each thread some of the sums, except where there is only one: that one it cuts into parts, if
    it has at least 32768 terms. A long channel that is alone is therefore summed twice.
    """
    if g.shape[1] != 1 or g.numel() < 32768:
        return g.sum((0, 2, 3))
    return g.expand(-1, 2, -1, -1).sum((0, 2, 3))[:1]


# --- under torch.func ---------------------------------------------------------------------------------------


class _Call:
    """A contraction with its numbers. functorch walks through tuples many times; this it takes as one."""

    __slots__ = ("contraction", "geometry", "size")

    def __init__(self, contraction: type[Contraction], size: Pair, geometry: Geometry) -> None:
        self.contraction, self.size, self.geometry = contraction, size, geometry


class _Transformable(Contraction):
    """A contraction in the form that functorch asks for. Its arguments: a _Call, the operands, the bias."""

    @classmethod
    def record(cls, *args: Any) -> Tensor:
        """All of torch.autograd.Function.apply."""
        return cls.apply(*args)  # type: ignore[no-any-return, no-untyped-call]

    @staticmethod
    def forward(call: _Call, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:  # type: ignore[override]
        with below_autograd():
            return call.contraction.run(a, b, bias, call.size, call.geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        call, a, b, _ = inputs
        _, needs_a, needs_b, _ = ctx.needs_input_grad
        _remember(ctx, call.contraction, a, b, output, call.size, call.geometry, needs_a, needs_b)
        ctx.save_for_forward(a, b)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, ...]:
        _, *needs = ctx.needs_input_grad
        return None, *_vjp(ctx, g, *needs)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], call: _Call, a: Tensor, b: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, int]:
        """One contraction for all elements of the vmapped dimension, which joins an index of T: no loop."""
        _, a_dim, b_dim, bias_dim = in_dims
        contraction, size, geometry = call.contraction, call.size, call.geometry
        first, second = contraction.operands
        mapped = {contraction.result}
        mapped.update(t for t, dim in ((first, a_dim), (second, b_dim)) if dim is not None)
        index = _SHARED["".join(sorted(mapped))]
        stride, padding, dilation, groups = geometry
        if a_dim is not None:
            a = _fold(a, a_dim, first, index, groups)
        if b_dim is not None:
            b = _fold(b, b_dim, second, index, groups)
        if index == "g":
            groups *= info.batch_size
        # The bias goes along where the channels of the result stay what they are.
        along = bias if index == "n" and bias_dim is None else None
        out = contract(contraction, a, b, along, size, (stride, padding, dilation, groups))
        out = _unfold(out, info.batch_size, contraction.result, index, groups) if index else out.unsqueeze(0)
        if bias is not None and along is None:
            bias = bias.unsqueeze(0) if bias_dim is None else bias.movedim(bias_dim, 0)
            out = out + bias[:, None, :, None, None]
        return out, 0


# The indices of T's arguments, without height and width; i and o are ci and co.
_INDICES = {"x": "ngi", "w": "goi", "y": "ngo"}
# The index that two vmapped arguments share and the third has not, or that all three have. Where neither
# operand is vmapped, only the bias is.
_SHARED = {"xy": "n", "wx": "i", "wy": "o", "wxy": "g", "x": "", "w": "", "y": ""}


def _fold(t: Tensor, dim: int, argument: str, index: str, groups: int) -> Tensor:
    """An argument of T with a fifth dimension `dim`, which becomes the slower part of an index."""
    g, at = _INDICES[argument].index("g"), _INDICES[argument].index(index)
    t = t.movedim(dim, 0)
    t = t.unflatten(g + 1, (groups, t.shape[g + 1] // groups))
    return t.movedim(0, at).flatten(at, at + 1).flatten(g, g + 1)


def _unfold(t: Tensor, length: int, argument: str, index: str, groups: int) -> Tensor:
    """The reverse of `_fold`, with the fifth dimension in front."""
    g, at = _INDICES[argument].index("g"), _INDICES[argument].index(index)
    t = t.unflatten(g, (groups, t.shape[g] // groups))
    t = t.unflatten(at, (length, t.shape[at] // length))
    return t.movedim(at, 0).flatten(g + 1, g + 2)


# --- under torch.compile and torch.export -------------------------------------------------------------------


def _register(operator: str, contraction: type[Contraction]) -> None:
    """Give the operator itself the derivative of the contraction."""

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        a, b, *bias, h, w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, groups = inputs
        needs_a, needs_b, *_ = ctx.needs_input_grad
        geometry = ((stride_h, stride_w), (padding_h, padding_w), (dilation_h, dilation_w), groups)
        _remember(ctx, contraction, a, b, output, (h, w), geometry, needs_a, needs_b)
        ctx.takes_bias = bool(bias)

    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, ...]:
        needs_a, needs_b, needs_bias, *_ = ctx.needs_input_grad
        da, db, dbias = _vjp(ctx, g, needs_a, needs_b, ctx.takes_bias and needs_bias)
        return (da, db, *([dbias] if ctx.takes_bias else []), *[None] * 9)

    torch.library.register_autograd(operator, backward, setup_context=setup_context)


_register("torch_conv_ext::forward", Forward)
_register("torch_conv_ext::grad_input", GradInput)
_register("torch_conv_ext::grad_weight", GradWeight)
