"""Which code runs a call: what the functions ask about their tensors and about torch's state.

NOTE [Three ways to run a contraction]
torch has no single way that is differentiable under all of its transforms and also quick.
`_autograd.contract` takes the first that fits:
  1. under torch.compile, torch.export and torch.func the operator itself, which has kernels for autograd and
     for vmap (`_transforms`). torch finds them, which takes some time;
  2. where a gradient or a tangent may be wanted, the operator past these kernels, and a node for autograd;
  3. elsewhere the operator past these kernels.
Names with an underscore that tell these cases apart are private to torch. Where one is missing, the answer is
the one that is right in all cases.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._guards import TracingContext
from torch.autograd import forward_ad
from torch.compiler import is_compiling
from torch.fx import Proxy

from torch_conv_ext._args import check_same_type

__all__ = [
    "EAGER",
    "below_autograd",
    "elsewhere",
    "forward_mode",
    "has_kernel",
    "is_compiling",
    "is_plain",
    "is_traced",
    "transforms_active",
]

NOT_HERE, TRACED, EAGER = 0, 1, 2  # what `has_kernel` says

DTYPES = (torch.float32, torch.float64)
_PLAIN = (Tensor, torch.nn.Parameter)
_STRIDED = torch.strided

transforms_active: Callable[[], bool] = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)

autocast_active: Callable[[], bool] = getattr(torch._C, "_is_any_autocast_enabled", lambda: True)
is_tracing: Callable[[], bool] = getattr(torch._C, "_is_tracing", torch.jit.is_tracing)  # type: ignore[attr-defined]

# In this context an operator is called past the gradient that is registered for it.
below_autograd: Callable[[], contextlib.AbstractContextManager[object]] = getattr(
    torch._C, "_AutoDispatchBelowAutograd", contextlib.nullcontext
)


def forward_mode() -> bool:
    """Whether a tensor may carry a tangent of torch.autograd.forward_ad."""
    level: int = getattr(forward_ad, "_current_level", 0)
    return level >= 0


def is_traced() -> bool:
    """Whether torch.compile traces code, or what it has found in it, as it does for derivatives.

    A level of forward mode that the code opens is then not to be seen by `forward_mode`.
    """
    return is_compiling() or TracingContext.try_get() is not None


def has_kernel(
    function: str,
    first: Tensor,
    second: Tensor,
    bias: Tensor | None = None,
    names: tuple[str, str, str] = ("input", "weight", "bias"),
) -> int:
    """Whether a call is for the kernels here; otherwise it is for torch's own operator.

    It is for plain dense tensors on the CPU, all float32 or all float64, where nothing is active that only
    works with torch's. Raises RuntimeError for plain tensors that differ in device or dtype.

    Returns:
        NOT_HERE, which is false; TRACED, in code that torch.compile compiles and for tensors without data,
        whose sizes may be symbols; EAGER.
    """
    if type(first) in _PLAIN and type(second) in _PLAIN and (bias is None or type(bias) in _PLAIN):
        dtype = first.dtype
        if (
            dtype in DTYPES
            and second.dtype is dtype
            and first.is_cpu
            and second.is_cpu
            and first.layout is _STRIDED
            and (bias is None or (bias.dtype is dtype and bias.is_cpu))
        ):
            if is_compiling():
                return NOT_HERE if _only_torch_compiled() else TRACED
            return NOT_HERE if _only_torch_eager() else EAGER
    tensors = (first, second) if bias is None else (first, second, bias)
    return _has_kernel(function, dict(zip(names, tensors, strict=False)))


def _has_kernel(function: str, operands: dict[str, Tensor]) -> int:
    """The rest of `has_kernel`: the errors, and the tensors by which torch traces code."""
    tensors = operands.values()
    if not all(is_plain(t) for t in tensors):
        return NOT_HERE
    if not any(t.is_cpu for t in tensors):
        return NOT_HERE
    if _only_torch_compiled() if is_compiling() else _only_torch_eager():
        return NOT_HERE
    check_same_type(function, operands)
    here = all(t.dtype in DTYPES and t.layout is torch.strided for t in tensors)
    return TRACED if here else NOT_HERE


def elsewhere(
    ours: Callable[..., Tensor], theirs: Callable[..., Tensor], *arguments: Any, **keywords: Any
) -> Tensor:
    """A call that has no kernel here, by torch's operators.

    Where torch.fx traces, it is noted as a call of our function: the tensors are known when the graph runs.
    """
    for argument in arguments:
        if isinstance(argument, Proxy):
            node: Any = argument.tracer.create_proxy("call_function", ours, arguments, keywords)
            return node  # type: ignore[no-any-return]
    return theirs(*arguments, **keywords)


# Whether something is active that only works with torch's own operators: autocast knows no others,
# torch.jit.trace fails on ours.


def _only_torch_eager() -> bool:
    return (autocast_active() and torch.is_autocast_enabled("cpu")) or is_tracing()


def _only_torch_compiled() -> bool:
    return torch.is_autocast_enabled("cpu")


def is_plain(t: object) -> bool:
    """Whether a tensor is of no subclass. FakeTensor and FunctionalTensor are subclasses in form only."""
    return type(t) in _PLAIN or type(t).__module__.startswith("torch._subclasses.")
