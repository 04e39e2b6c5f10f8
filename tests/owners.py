"""Whose operators run: what tests ask about a call that may be computed here or by torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Operators(TorchDispatchMode):
    """Notes which convolutions run: ours, torch's, or both."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.owners: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.owners |= owner(func)
        return func(*args, **(kwargs or {}))


def owner(operator: Any) -> set[str]:
    """The namespace of an operator that convolves; of another nothing."""
    if not isinstance(operator, torch._ops.OpOverload):
        return set()
    namespace = operator.namespace
    return {namespace} if namespace == "torch_conv_ext" or "convolution" in str(operator) else set()


def owners(function: Callable[..., object], *arguments: Any) -> set[str]:
    """The namespaces, "torch_conv_ext" or "aten", of the convolutions that a call runs."""
    operators = Operators()
    with operators:
        function(*arguments)
    return operators.owners


class Compiler:
    """A backend of torch.compile that runs graphs as they are. Notes whose convolutions stand in them.

    A dispatch mode will not do there: torch.compile leaves code alone where one is active.
    """

    def __init__(self) -> None:
        # Here, because this import takes seconds.
        from torch._dynamo.backends.common import aot_autograd

        self.owners: list[set[str]] = []  # of each graph, forward and backward, in the order of compilation
        self.backend: Callable[..., Any] = aot_autograd(fw_compiler=self._compile, bw_compiler=self._compile)

    def _compile(self, graph: torch.fx.GraphModule, _: Any) -> Any:
        self.owners.append(set().union(*(owner(node.target) for node in graph.graph.nodes)))

        def run(inputs: list[Any]) -> Any:
            return graph.forward(*inputs)

        vars(run)["_boxed_call"] = True  # so AOTAutograd hands over a list, which it asks for
        return run
