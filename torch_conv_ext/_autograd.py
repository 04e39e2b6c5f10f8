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

from torch import Tensor, is_grad_enabled
from torch.autograd.function import Function, FunctionMeta, _SingleLevelFunction

from torch_conv_ext import _border, _ops
from torch_conv_ext._args import Pair
from torch_conv_ext._border import Border, Geometry
from torch_conv_ext._dispatch import (
    below_autograd,
    forward_mode,
    is_compiling,
    is_traced,
    transforms_active,
)
from torch_conv_ext._format import in_other_format, is_channels_last


def contract(
    contraction: type[Contraction], a: Tensor, b: Tensor, bias: Tensor | None, size: Pair, geometry: Geometry
) -> Tensor:
    """Run a contraction so that it is differentiable wherever that may be asked for.

    Takes the two operands, the bias of the result's channels or None, and the result's size along height and
    width. See NOTE [Three ways to run a contraction].
    """
    if is_compiling():
        stride, padding, dilation, groups = geometry
        tensors = (a, b) if contraction.result == "w" else (a, b, bias)
        return contraction.operator(*tensors, *size, *stride, *padding, *dilation, groups)
    return perform(Call.of(contraction, a, b, size, geometry), a, b, bias)


def perform(call: Call, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """`contract` of a call that is ready, in code that torch.compile does not compile."""
    if transforms_active():
        return call.run(a, b, bias)
    with below_autograd():
        result = call.run(a, b, bias)
    tangents = forward_mode()
    if tangents or (
        is_grad_enabled()
        and (a.requires_grad or b.requires_grad or (bias is not None and bias.requires_grad))
    ):
        return call.contraction.record((call, result, tangents), a, b, bias)
    return result


class KnownCalls:
    """The calls of a function, by sizes and arguments: what has been checked once is not checked again.

    Arguments are told apart as objects, because 1 == 1.0 == True, and only the first is an integer for torch.
    Those that can change are not kept. The number of calls is bounded: with the next one all are forgotten.
    """

    LIMIT = 256

    def __init__(self) -> None:
        self._calls: dict[tuple[object, ...], Call] = {}
        # The call of a key, or None. A key: the sizes of the tensors, and the id of each argument.
        self.find = self._calls.get

    def keep(self, key: tuple[object, ...], arguments: tuple[object, ...], call: Call) -> Call:
        """Keep a call. It holds its arguments, so that no other object gets the id of one of them."""
        call.arguments = arguments
        numbers = (n for a in arguments for n in (a if type(a) is tuple else (a,)))
        if all(type(n) in (int, str) for n in numbers):
            if len(self._calls) >= self.LIMIT:
                self._calls.clear()
            self._calls[key] = call
        return call


class Call:
    """A contraction with its numbers, which may be used again for tensors of the same sizes.

    `planes` are the sizes of T's three arguments along height and width, by name.
    """

    __slots__ = (
        "arguments",
        "contraction",
        "derivatives",
        "geometry",
        "numbers",
        "operator",
        "planes",
        "size",
    )

    def __init__(self, contraction: type[Contraction], planes: dict[str, Pair], geometry: Geometry) -> None:
        self.contraction, self.planes, self.geometry = contraction, planes, geometry
        self.size = size = planes[contraction.result]
        self.arguments: tuple[object, ...] = ()
        stride, padding, dilation, groups = geometry
        # Those of the operator. A border takes more than one call of it.
        self.numbers = None if type(padding) is Border else (*size, *stride, *padding, *dilation, groups)
        self.operator = contraction.quick_operator
        self.derivatives: dict[type[Contraction], Call] = {}  # those that have been asked for

    @classmethod
    def of(cls, contraction: type[Contraction], a: Tensor, b: Tensor, size: Pair, geometry: Geometry) -> Call:
        """The call for these operands and this size of the result."""
        first, second = contraction.operands
        (*_, ah, aw), (*_, bh, bw) = a.shape, b.shape
        return cls(contraction, {first: (ah, aw), second: (bh, bw), contraction.result: size}, geometry)

    def run(self, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
        """Call the compiled operator."""
        numbers = self.numbers
        if numbers is None:
            return _border.run(self.contraction, a, b, bias, self.size, self.geometry)  # type: ignore[arg-type]
        if self.contraction is GradWeight:
            return self.operator(a, b, *numbers)
        return self.operator(a, b, bias, *numbers)

    def derivative(self, contraction: type[Contraction]) -> Call:
        """The call that gives the derivative by the argument of T that is this contraction's result."""
        known = self.derivatives.get(contraction)
        if known is None:
            known = self.derivatives[contraction] = Call(contraction, self.planes, self.geometry)
        return known


# --- the contractions and their derivatives -----------------------------------------------------------------


_OF_NODE = ("forward", "backward", "jvp", "_compiled_autograd_key")


class _Meta(FunctionMeta):
    """torch.compile has its own way with classes of type FunctionMeta; those of this type it just traces."""


class Contraction(Function, metaclass=_Meta):
    """A node of the autograd graph. Its arguments: what ran, the operands, the bias.

    What ran is the call, its result, and whether there may be tangents. The result is there before the node,
    because torch runs `forward` without derivatives, also without those of other levels of torch.func.
    """

    operands: ClassVar[tuple[str, str]]  # the arguments of T that it takes
    result: ClassVar[str]  # the argument of T by which it is the derivative
    operator: ClassVar[Callable[..., Tensor]]
    quick_operator: ClassVar[Callable[..., Tensor]]
    record: ClassVar[Callable[..., Tensor]]  # puts a node into the autograd graph

    def __init_subclass__(cls) -> None:
        # As torch.func makes it of a Function for one of its levels, and without what serves Functions there.
        parts = {name: staticmethod(getattr(cls, name)) for name in _OF_NODE}
        node: Any = type(cls.__name__, (_SingleLevelFunction,), parts)
        cls.record = node.apply

    @classmethod
    def run(cls, a: Tensor, b: Tensor, bias: Tensor | None, size: Pair, geometry: Geometry) -> Tensor:
        """The contraction without a node."""
        return Call.of(cls, a, b, size, geometry).run(a, b, bias)

    @staticmethod
    def forward(
        ctx: Any, ran: tuple[Call, Tensor, bool], a: Tensor, b: Tensor, bias: Tensor | None
    ) -> Tensor:
        call, result, tangents = ran
        _, needs_a, needs_b, _ = ctx.needs_input_grad
        ctx.set_materialize_grads(False)
        ctx.call = call, result.stride()
        # An operand is needed only for the derivative by the other one.
        ctx.save_for_backward(a if needs_b else None, b if needs_a else None)
        if tangents:
            ctx.save_for_forward(a, b)
        return result

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, ...]:
        if g is None:
            return None, None, None, None
        _, needs_a, needs_b, needs_bias = ctx.needs_input_grad
        a, b = ctx.saved_tensors
        call: Call
        call, stride = ctx.call
        if g.stride() != stride:
            # As torch does. The operands of the forward call so decide the format of the gradients, whatever
            # the cotangent's is.
            channels_last = is_channels_last(stride, g.shape)
            if is_channels_last(g.stride(), g.shape) != channels_last:
                g = in_other_format(g, channels_last)
        by_a, by_b = _RULES[call.contraction.result]
        return (
            None,
            _derivative(call, *by_a(a, b, g)) if needs_a else None,
            _derivative(call, *by_b(a, b, g)) if needs_b else None,
            bias_gradient(g) if needs_bias else None,
        )

    @staticmethod
    def jvp(
        ctx: Any, _: None, da: Tensor | None, db: Tensor | None, dbias: Tensor | None, *__: None
    ) -> Tensor:
        """The product rule; the sums of the first term start at the tangent of the bias."""
        a, b = ctx.saved_tensors
        call: Call = ctx.call[0]
        terms = []
        if da is not None:
            terms.append(perform(call, da, b, dbias))
        if db is not None:
            terms.append(perform(call, a, db, None if terms else dbias))
        if not terms and dbias is not None:
            terms.append(dbias.view(-1, 1, 1).expand(a.shape[0], -1, *call.size).clone())
        return sum(terms[1:], start=terms[0])


class Forward(Contraction):
    """(X, W) -> Y"""

    operands, result = ("x", "w"), "y"
    operator, quick_operator = _ops.forward, _ops.quick(_ops.forward)


class GradInput(Contraction):
    """(Y, W) -> X"""

    operands, result = ("y", "w"), "x"
    operator, quick_operator = _ops.grad_input, _ops.quick(_ops.grad_input)


class GradWeight(Contraction):
    """(X, Y) -> W. It has no bias."""

    operands, result = ("x", "y"), "w"
    operator, quick_operator = _ops.grad_weight, _ops.quick(_ops.grad_weight)


_Rule = Callable[[Tensor, Tensor, Tensor], tuple[type[Contraction], Tensor, Tensor]]

# For each result, the derivative by the first operand and by the second; g is the cotangent of the result.
_RULES: dict[str, tuple[_Rule, _Rule]] = {
    "y": (lambda x, w, g: (GradInput, g, w), lambda x, w, g: (GradWeight, x, g)),
    "x": (lambda y, w, g: (Forward, g, w), lambda y, w, g: (GradWeight, g, y)),
    "w": (lambda x, y, g: (GradInput, y, g), lambda x, y, g: (Forward, x, g)),
}


def _derivative(call: Call, contraction: type[Contraction], a: Tensor, b: Tensor) -> Tensor:
    """The derivative of a call by the argument of T that is the result of this contraction."""
    if is_traced():
        return call.derivative(contraction).run(a, b, None)
    return perform(call.derivative(contraction), a, b, None)


def bias_gradient(g: Tensor) -> Tensor:
    """The sum over all but the channels, the same bits with any number of threads.

    torch gives each thread some of the sums, except where there is only one: that one it cuts into parts, if
    it has at least 32768 terms. A long channel that is alone is therefore summed twice.
    """
    if g.shape[1] != 1 or g.numel() < 32768:
        return g.sum((0, 2, 3))
    return g.expand(-1, 2, -1, -1).sum((0, 2, 3))[:1]
