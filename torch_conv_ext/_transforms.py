"""The operators where torch calls them: under torch.func, and in code of torch.compile and torch.export.

torch takes a call of an operator through the levels of torch.func, the inner ones first, and runs one of the
operator's kernels on each: autograd's on a level of grad, vjp or jvp, vmap's on a level of vmap. Either does
its part of the work and calls the operator for the levels that are left. torch.compile takes such a call into
its graph as it is, and runs autograd's kernel where it traces derivatives.

What of torch is used here has names with an underscore in torch: what is public takes several times as long,
and refuses forward mode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, is_grad_enabled
from torch._C import _functorch

from torch_conv_ext._autograd import Call, Contraction, Forward, GradInput, GradWeight
from torch_conv_ext._dispatch import below_autograd, forward_mode, is_traced

Kernel = Callable[..., Tensor]


def _autograd_kernel(contraction: type[Contraction], operator: Kernel) -> Kernel:
    """Puts a node into autograd's graph, or into the one of a level of torch.func."""

    def kernel(a: Tensor, b: Tensor, bias: Tensor | None, *numbers: int) -> Tensor:
        with below_autograd():
            result = operator(a, b, bias, *numbers)
        tangents = forward_mode() or is_traced()
        needed = is_grad_enabled() and any(t is not None and t.requires_grad for t in (a, b, bias))
        if not (needed or tangents):
            return result
        h, w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, groups = numbers
        geometry = (stride_h, stride_w), (padding_h, padding_w), (dilation_h, dilation_w), groups
        call = Call.of(contraction, a, b, (h, w), geometry)
        # torch.func refuses nodes that serve one level alone. This one may, as the other levels have theirs.
        allowed = _functorch.get_single_level_autograd_function_allowed()
        _functorch.set_single_level_autograd_function_allowed(True)
        try:
            return contraction.record((call, result, tangents), a, b, bias)
        finally:
            _functorch.set_single_level_autograd_function_allowed(allowed)

    return kernel


# --- vmap ---------------------------------------------------------------------------------------------------

# The index of T that two vmapped arguments share and the third has not, or that all three have; i and o are
# ci and co.
_SHARED = {"xy": "n", "wx": "i", "wy": "o", "wxy": "g"}
# The dimension of an argument that an index is part of, and whether that of the groups is the slower part.
_HELD: dict[str, dict[str, tuple[int, bool]]] = {
    "x": {"n": (0, False), "g": (1, False), "i": (1, True)},
    "w": {"g": (0, False), "o": (0, True), "i": (1, False)},
    "y": {"n": (0, False), "g": (1, False), "o": (1, True)},
}
_BATCHED = torch._C.DispatchKeySet(torch._C.DispatchKey.FuncTorchBatched)


def _vmap_kernel(contraction: type[Contraction], operator: Kernel) -> Kernel:
    """One contraction for all elements of the vmapped dimension, which joins an index of T: no loop."""
    first, second = contraction.operands

    def index_of(a_dim: int | None, b_dim: int | None) -> str:
        if a_dim is None and b_dim is None:
            return ""
        mapped = contraction.result + first * (a_dim is not None) + second * (b_dim is not None)
        return _SHARED["".join(sorted(mapped))]

    def kernel(a: Tensor, b: Tensor, bias: Tensor | None, *numbers: int) -> Tensor:
        level = _functorch.current_level()
        a, a_dim = _functorch._unwrap_batched(a, level)
        b, b_dim = _functorch._unwrap_batched(b, level)
        bias, bias_dim = (None, None) if bias is None else _functorch._unwrap_batched(bias, level)
        index = index_of(a_dim, b_dim)
        *sizes, groups = numbers
        length, dim = 1, None
        with torch._C._ExcludeDispatchKeyGuard(_BATCHED):
            if a_dim is not None:
                length = a.shape[a_dim]
                a = _fold(a, a_dim, *_HELD[first][index], groups)
            if b_dim is not None:
                length = b.shape[b_dim]
                b = _fold(b, b_dim, *_HELD[second][index], groups)
            # The bias goes along where the channels of the result stay what they are.
            along = bias if bias_dim is None and index in ("", "n") else None
            out = operator(a, b, along, *sizes, groups * length if index == "g" else groups)
            if index:
                out, dim = _unfold(out, length, *_HELD[contraction.result][index], groups)
            if bias is not None and along is None:
                bias = bias.unsqueeze(0) if bias_dim is None else bias.movedim(bias_dim, 0)
                out = out.unsqueeze(0) if dim is None else out.movedim(dim, 0)
                out, dim = out + bias[:, None, :, None, None], 0
        return out if dim is None else _functorch._add_batch_dim(out, dim, level)

    return kernel


def _fold(t: Tensor, dim: int, at: int, in_groups: bool, groups: int) -> Tensor:
    """A tensor with a fifth dimension `dim`, which becomes the slower part of an index in dimension `at`."""
    if in_groups and groups > 1:
        t = t.movedim(dim, 0).unflatten(at + 1, (groups, -1))
        return t.movedim(0, at + 1).flatten(at, at + 2)
    return (t if dim == at else t.movedim(dim, at)).flatten(at, at + 1)


def _unfold(t: Tensor, length: int, at: int, in_groups: bool, groups: int) -> tuple[Tensor, int]:
    """The reverse of `_fold`, and where the fifth dimension is."""
    if in_groups and groups > 1:
        return t.unflatten(at, (groups, length, -1)).movedim(at + 1, 0).flatten(at + 1, at + 2), 0
    return t.unflatten(at, (length, -1)), at


# --- registration -------------------------------------------------------------------------------------------

_library = torch.library.Library("torch_conv_ext", "IMPL")  # the kernels last as long as this


def _register(contraction: type[Contraction]) -> None:
    operator = contraction.quick_operator
    takes_bias = contraction is not GradWeight

    def run(a: Tensor, b: Tensor, bias: Tensor | None, *numbers: int) -> Tensor:
        return operator(a, b, bias, *numbers) if takes_bias else operator(a, b, *numbers)

    def without_bias(kernel: Kernel) -> Kernel:
        return lambda a, b, *numbers: kernel(a, b, None, *numbers)

    for key, kernel_of in (("Autograd", _autograd_kernel), ("FuncTorchBatched", _vmap_kernel)):
        kernel = kernel_of(contraction, run)
        name: Any = contraction.operator
        _library.impl(name, kernel if takes_bias else without_bias(kernel), key)


for _contraction in (Forward, GradInput, GradWeight):
    _register(_contraction)
