"""How a layer is computed: algorithm, tiles, scratch, work, and why.

A layer is computed by three contractions: forward, grad_input and grad_weight. They give the output of conv2d
and its two gradients; for conv_transpose2d grad_input gives the output and forward the gradient by the input.
Nothing is run. The chunk is the largest piece of work that a thread takes at a time; with few pieces and many
threads it is cut further. In Python: torch_conv_ext.plan(...).

example: python -m torch_conv_ext plan conv2d --input 8,64,56,56 --weight 64,64,3,3 --padding 1
"""

from __future__ import annotations

import argparse

from torch_conv_ext._cli import UsageError, layer
from torch_conv_ext._cli.console import Console, add_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A layer, and --json."""
    layer.add_arguments(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print the plan of a layer."""
    console = Console(args.json)
    try:
        plan = layer.from_arguments(args).plan()
    except (RuntimeError, TypeError, ValueError) as error:
        raise UsageError(str(error)) from None
    title, *lines = plan.header()
    console.text(title, style="bold")
    for line in lines:
        console.text(line)
    for part in plan.contractions:
        console.text()
        console.text(part.result, style="bold")
        console.facts([("  " + name, value) for name, value in part.facts()])
    console.result(plan.to_dict())
    return 0
