"""Makes rows: checks a layer or a pass against float64, times it, notes what belongs to the figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch

from torch_conv_ext import planning
from torch_conv_ext._bench import timing
from torch_conv_ext._bench.layers import CONTRACTIONS, Layer
from torch_conv_ext._bench.models import Pass
from torch_conv_ext._bench.results import Row
from torch_conv_ext._bench.rivals import time_rivals

Step = Callable[[str], None]  # told the name of each row before it is measured


class Session:
    """The rows of one run, and the results that were wrong: those have no row.

    contractions: which of the three; seconds: for each row; rivals: runtimes to time beside.
    """

    def __init__(self, contractions: Sequence[str], seconds: float, rivals: list[str]) -> None:
        self.contractions, self.seconds, self.rivals = contractions, seconds, rivals
        self.rows: list[Row] = []
        self.wrong: list[str] = []

    def measure_layer(self, layer: Layer, dtype: str, layout: str, step: Step) -> None:
        """One row for each contraction."""
        t = timing.operands(layer, dtype, layout)
        algorithms = _algorithms(layer, dtype, layout)
        with torch.no_grad():
            for contraction in self.contractions:
                name = f"{layer.suite} {layer.name} {contraction}"
                step(name)
                errors = timing.errors(layer, contraction, t)
                if not timing.is_right(layer, dtype, errors[1]):
                    self._note_wrong(name, dtype, layout, errors)
                    continue
                measured = timing.time_layer(layer, contraction, t, dtype, layout, self.seconds)
                row = Row(
                    suite=layer.suite,
                    layer=layer.name,
                    batch=layer.n,
                    contraction=contraction,
                    dtype=dtype,
                    layout=layout,
                    tags=list(layer.tags),
                    count=layer.count,
                    flops=layer.flops,
                    algorithm=algorithms[contraction],
                    torch_error=errors[0],
                    ours_error=errors[1],
                    **dataclasses.asdict(measured),
                )
                row.copy_share = timing.copy_share(layer, contraction, t, row.ours, self.seconds / 4)
                if (contraction, dtype, layout) == ("forward", "float32", "nchw"):
                    row.rivals = time_rivals(self.rivals, layer, t, self.seconds / 2)
                self.rows.append(row)

    def measure_pass(self, p: Pass, step: Step) -> None:
        """One row."""
        name = f"{p.suite} {p.name} {p.kind}"
        step(name)
        measured, *errors = p.measure(self.seconds)
        if measured is None:
            self._note_wrong(name, p.dtype, p.layout, errors)
            return
        row = Row(
            suite=p.suite,
            layer=p.name,
            batch=p.batch,
            contraction=p.kind,
            dtype=p.dtype,
            layout=p.layout,
            tags=[p.suite.removesuffix("s")],
            count=1,
            flops=0,
            algorithm="",
            torch_error=errors[0],
            ours_error=errors[1],
            **dataclasses.asdict(measured),
        )
        self.rows.append(row)

    def _note_wrong(self, name: str, dtype: str, layout: str, errors: Sequence[float]) -> None:
        of_torch, ours = errors
        self.wrong.append(
            f"{name}, {dtype}, {layout}: error {ours:.1e} of the largest element, torch's {of_torch:.1e}"
        )


def _algorithms(layer: Layer, dtype: str, layout: str) -> dict[str, str]:
    """What the plan says for each of CONTRACTIONS, which are in the order of the plan's results."""
    plan = planning.plan(
        layer.op,
        layer.input_shape,
        layer.weight_shape,
        stride=layer.stride,
        padding=layer.padding,
        output_padding=layer.output_padding,
        dilation=layer.dilation,
        groups=layer.groups,
        dtype=getattr(torch, dtype),
        layout=layout,
    )
    return dict(zip(CONTRACTIONS, (part.algorithm for part in plan.contractions), strict=True))
