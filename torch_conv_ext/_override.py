"""override: torch's 2-D convolutions inside of a block of code run here; model and code stay as they are."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from torch_conv_ext import functional

F = TypeVar("F", bound=Callable[..., Any])


class override(TorchFunctionMode):
    """Routes torch's 2-D convolutions to this package, for a block or for the calls of a decorated function.

        with torch_conv_ext.override():
            loss = model(images).sum()
        loss.backward()  # in the block or not: a graph that was recorded in it has this package's gradients

    What is routed: torch.nn.functional.conv2d and conv_transpose2d, which are torch.conv2d and
    torch.conv_transpose2d, so also torch.nn.Conv2d, torch.nn.ConvTranspose2d and subclasses that call them;
    torch.nn.grad.conv2d_input and conv2d_weight. `torch_conv_ext.functional` tells which tensors and calls go
    on to torch's own operators.

    What is not: code compiled by torch.jit, calls of torch.ops.aten, and other threads, as for every mode of
    torch. With torch.compile the block may be around the call of a compiled function, which is compiled once
    more for it, or inside of the function. torch.utils.checkpoint runs a part of the forward pass again
    during backward, where torch's modes are off: let that part have a block of its own,
    `checkpoint(override()(part), x)`.

    Inside of the block each call of torch takes about a microsecond or two longer, because the mode is asked.
    To run a model many times, `convert` it. Blocks may be nested, and an exception ends a block as usual.

    Raises:
        TypeError: used as a decorator of a generator or of a coroutine. Their body runs in pieces, and the
            block would have to stay open in between, for all code of the thread.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        # The mode is off in here: what our functions pass on to torch's operator does not come back.
        return _ROUTES.get(func, func)(*args, **(kwargs or {}))

    def __call__(self, function: F) -> F:
        """The function with its calls in a block."""
        for is_kind in (inspect.isgeneratorfunction, inspect.isasyncgenfunction, inspect.iscoroutinefunction):
            if is_kind(function):
                raise TypeError(
                    "override(): expected a function that runs from start to end, "
                    f"but got the generator or coroutine {function.__name__}; put the block into its body, "
                    "around the calls"
                )

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with override():
                return function(*args, **kwargs)

        return call  # type: ignore[return-value]


def _convolution_backward(*args: Any, **kwargs: Any) -> Any:
    """What torch.nn.grad calls: one gradient of a 2-D convolution is ours, all else is torch's."""
    if len(args) == 11 and not kwargs:
        dy, x, w, bias_sizes, stride, padding, dilation, transposed, _, groups, mask = args
        options = (stride, padding, dilation, groups)
        if bias_sizes is None and not transposed and w.dim() == 4:
            none: tuple[Tensor | None, ...] = (None, None)
            if tuple(mask) == (True, False, False):
                return functional.conv2d_input(x.shape, w, dy, *options), *none
            if tuple(mask) == (False, True, False):
                return (None, functional.conv2d_weight(x, w.shape, dy, *options), None)
    return torch.ops.aten.convolution_backward(*args, **kwargs)


_ROUTES: dict[Any, Callable[..., Any]] = {
    torch.conv2d: functional.conv2d,  # torch.nn.functional.conv2d is the same object
    torch.conv_transpose2d: functional.conv_transpose2d,
    torch.ops.aten.convolution_backward: _convolution_backward,
}
