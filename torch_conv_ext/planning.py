"""How a layer is computed, without computing it: `torch_conv_ext.plan`."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from torch_conv_ext import _C
from torch_conv_ext._args import (
    Geometry,
    IntOrPair,
    Padding,
    Pair,
    check_same_type,
    conv2d_geometry,
    conv_transpose2d_geometry,
    is_nested,
    pair,
)
from torch_conv_ext._dispatch import DTYPES, has_kernel

__all__ = ["ContractionPlan", "Plan", "plan"]

CONTRACTIONS = ("forward", "grad_input", "grad_weight")
RESULTS = ("output", "gradient by the input", "gradient by the weight")

# Which contraction computes each of RESULTS. A transposed convolution is the gradient of a convolution by its
# input, so the two first exchange their roles.
_ROLES = {
    "conv2d": ("forward", "grad_input", "grad_weight"),
    "conv_transpose2d": ("grad_input", "forward", "grad_weight"),
}
_LAYOUTS = ("nchw", "channels_last")
_OPERANDS = {"forward": ("x", "w", "y"), "grad_input": ("y", "w", "x"), "grad_weight": ("x", "y", "w")}


@dataclass(frozen=True)
class ContractionPlan:
    """One of the three contractions of a layer."""

    result: str  # of RESULTS: what of the layer it computes
    contraction: str  # of CONTRACTIONS: the kernel that computes it
    algorithm: str  # "direct", "winograd", ...
    reason: str  # why this algorithm
    cycles: float  # estimate per sample and group on one core: it compares algorithms, and predicts no time
    others: dict[str, float | str]  # the algorithms not taken: their estimate, or why they do not apply
    isa: str
    tiles: dict[str, int]  # sizes of register tile, blocks and chunk; the keys depend on the algorithm
    scratch_bytes: int  # per thread
    flops: int  # multiplications and additions of the definition; products with padding count too
    bytes_read: int  # both operands once
    bytes_written: int  # the result once
    text: str  # the core's own description

    @property
    def bytes(self) -> int:
        """The least traffic with memory: what is read and what is written, each once."""
        return self.bytes_read + self.bytes_written

    @property
    def intensity(self) -> float:
        """FLOPs per byte of the least traffic."""
        return self.flops / self.bytes if self.bytes else 0.0

    def _why_not(self, why: float | str) -> str:
        if isinstance(why, str):
            return why
        return f"{why:.3g} cycles" + (f", {why / self.cycles:.2f} times as many" if self.cycles else "")

    def facts(self) -> list[tuple[str, str]]:
        """Names and values for people."""
        read, written = self.bytes_read / 2**20, self.bytes_written / 2**20
        described = [re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in self.text.splitlines()[1:]]
        own = {"reason", "estimate", "geometry", "scratch"}  # shown from the fields
        return [
            ("contraction", self.contraction),
            ("algorithm", self.algorithm),
            ("reason", f"{self.reason}: {self.cycles:.3g} per sample and group"),
            *(("not taken", f"{name}: {self._why_not(why)}") for name, why in self.others.items()),
            *((fact[0], fact[-1]) for fact in described if fact[0] not in own),
            ("scratch", f"{self.scratch_bytes / 2**20:.2f} MiB per thread"),
            ("work", f"{self.flops / 1e9:.4g} GFLOP"),
            ("memory", f"at least {read:.4g} MiB read, {written:.4g} MiB written"),
            ("intensity", f"{self.intensity:.4g} FLOP per byte"),
        ]


@dataclass(frozen=True)
class Plan:
    """A layer: its geometry, and how its output and its two gradients are computed. `print` shows it."""

    function: str
    input: tuple[int, ...]
    weight: tuple[int, ...]
    output: tuple[int, ...]
    stride: Pair
    padding: str | Pair | tuple[Pair, Pair]  # as given: by its name, (height, width) or for each side
    output_padding: Pair
    dilation: Pair
    groups: int
    dtype: str
    layout: str
    computed_by: str  # "torch_conv_ext", or "torch": its own operator
    reason: str  # why torch's operator computes; empty where it does not
    contractions: tuple[
        ContractionPlan, ...
    ]  # in the order of RESULTS; empty where torch's operator computes

    def header(self) -> list[str]:
        """The layer in two lines, and what is particular about it."""
        options = [f"stride {_show(self.stride)}", f"padding {_show(self.padding)}"]
        if self.function == "conv_transpose2d":
            options.append(f"output_padding {_show(self.output_padding)}")
        options += [f"dilation {_show(self.dilation)}", f"groups {self.groups}", self.dtype, self.layout]
        sizes = f"input {_size(self.input)}, weight {_size(self.weight)} -> output {_size(self.output)}"
        lines = [
            f"{self.function}: {sizes}",
            ", ".join(options + [c.isa for c in self.contractions[:1]]),
        ]
        if self.computed_by == "torch":
            lines.append(f"torch's own operator computes this layer: {self.reason}.")
        elif self.function == "conv_transpose2d":
            lines.append(
                "The contractions exchange their roles: grad_input computes the output, "
                "forward the gradient by the input."
            )
        return lines

    def __str__(self) -> str:
        lines = self.header()
        for part in self.contractions:
            lines += ["", part.result, *(f"  {name:<12}{value}" for name, value in part.facts())]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists, strings and numbers, for JSON."""
        layer = dataclasses.asdict(self)
        for part, fields in zip(self.contractions, layer["contractions"], strict=True):
            fields["bytes"], fields["intensity"] = part.bytes, part.intensity
        return layer


def plan(
    function: str,
    input: Tensor | Sequence[int],
    weight: Tensor | Sequence[int],
    bias: Tensor | None = None,
    *,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    output_padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    dtype: torch.dtype | None = None,
    layout: str | None = None,
) -> Plan:
    """How `conv2d` or `conv_transpose2d` computes a layer: algorithm, tiles, scratch, work, and why.

        print(torch_conv_ext.plan("conv2d", (8, 64, 56, 56), (64, 64, 3, 3), padding=1))

    Nothing is run. The plan depends on the instruction set, on `torch_conv_ext.settings` and on autocast. It
    depends neither on the batch size nor on the number of threads: how work is shared out among threads is
    decided in the call, and no result depends on it.

    Args:
        function: "conv2d" or "conv_transpose2d".
        input: a tensor, whose elements are not read, or its size: (N, C_in, iH, iW), or (C_in, iH, iW).
        weight: a tensor or its size, as for the function.
        bias: a tensor or None, the default. It is only checked.
        stride, padding, output_padding, dilation, groups: as for the function, by name.
        dtype: default: that of the tensors, or torch.float32 for sizes.
        layout: "nchw" or "channels_last"; default: that of the result for these tensors, or "nchw" for sizes.

    Raises:
        RuntimeError, TypeError: those of the function, for the same arguments.
        ValueError: an unknown function or layout, or a dtype or layout that is not the one of the tensors.
    """
    if function not in _ROLES:
        raise ValueError(f"plan(): expected function to be one of {', '.join(_ROLES)}, but got {function!r}")
    tensors = {
        name: t for name, t in (("input", input), ("weight", weight), ("bias", bias)) if isinstance(t, Tensor)
    }
    if len(tensors) > 1:
        check_same_type(function, tensors)
    dtype, layout = _dtype(tensors, dtype), _layout(tensors, layout)
    size, w_size = _sizes(input), _sizes(weight)
    if len(size) not in (3, 4):
        raise RuntimeError(
            f"Expected 3D (unbatched) or 4D (batched) input to {function}, "
            f"but got input of size: {list(size)}"
        )
    batched = size if len(size) == 4 else (1, *size)
    extra = pair(output_padding, "output_padding", function)
    if function == "conv2d":
        if extra != (0, 0):
            raise ValueError(f"plan(): expected output_padding 0 for conv2d, but got {list(extra)}")
        out, _, geometry = conv2d_geometry(batched, w_size, bias, stride, padding, dilation, groups)
        y_size = (batched[0], w_size[0], *out)
    else:
        out, geometry = conv_transpose2d_geometry(
            batched, w_size, bias, stride, padding, extra, groups, dilation
        )
        y_size = (batched[0], w_size[1] * geometry[3], *out)
    reason = _why_torch(function, tensors, dtype)
    parts = () if reason else _contractions(function, batched, w_size, y_size, geometry, dtype, layout)
    return Plan(
        function=function,
        input=size,
        weight=w_size,
        output=y_size[4 - len(size) :],
        stride=geometry[0],
        padding=_as_given(padding, geometry[1]),
        output_padding=extra,
        dilation=geometry[2],
        groups=geometry[3],
        dtype=str(dtype).removeprefix("torch."),
        layout=layout,
        computed_by="torch" if reason else "torch_conv_ext",
        reason=reason,
        contractions=parts,
    )


def _contractions(
    function: str,
    input: Sequence[int],
    weight: Sequence[int],
    output: Sequence[int],
    geometry: Geometry,
    dtype: torch.dtype,
    layout: str,
) -> tuple[ContractionPlan, ...]:
    """The plans of the core, in the order of RESULTS."""
    # x and y of the trilinear form; a transposed convolution reads y and writes x.
    x, y = (input, output) if function == "conv2d" else (output, input)
    stride, padding, dilation, groups = geometry
    sizes = {"groups": groups, "ci": x[1] // groups, "co": y[1] // groups}
    for axis in (0, 1):
        sizes |= {
            "i" + "hw"[axis]: x[2 + axis],
            "o" + "hw"[axis]: y[2 + axis],
            "k" + "hw"[axis]: weight[2 + axis],
            "stride_" + "hw"[axis]: stride[axis],
            "padding_" + "hw"[axis]: padding[axis],
            "dilation_" + "hw"[axis]: dilation[axis],
        }
    count = {name: math.prod(t) * dtype.itemsize for name, t in (("x", x), ("w", weight), ("y", y))}
    parts = []
    for result, contraction in zip(RESULTS, _ROLES[function], strict=True):
        core = cast("dict[str, Any]", _C.plan(contraction, str(dtype).removeprefix("torch."), layout, sizes))
        first, second, written = _OPERANDS[contraction]
        parts.append(
            ContractionPlan(
                result=result,
                contraction=contraction,
                algorithm=core["algorithm"],
                reason=core["reason"],
                cycles=core["cycles"],
                others=core["others"],
                isa=core["isa"],
                tiles={k: v for k, v in core.items() if type(v) is int and k != "scratch_bytes"},
                scratch_bytes=core["scratch_bytes"],
                flops=round(core["flops_per_sample"]) * input[0],
                bytes_read=count[first] + count[second],
                bytes_written=count[written],
                text=core["text"],
            )
        )
    return tuple(parts)


def _why_torch(function: str, tensors: dict[str, Tensor], dtype: torch.dtype) -> str:
    """Why torch's operator computes the layer; empty where the kernels here do."""
    for name, t in tensors.items():
        if not t.is_cpu:
            return f"{name} is on the device {t.device}, the kernels here are for the CPU"
    if dtype not in DTYPES:
        known = ", ".join(str(d).removeprefix("torch.") for d in DTYPES)
        return f"the dtype is {str(dtype).removeprefix('torch.')}, the kernels here are for {known}"
    if torch.is_autocast_enabled("cpu"):
        return "autocast is on and chooses a dtype itself"
    stand_in = torch.empty(0, dtype=dtype)
    for name, t in tensors.items():
        if not has_kernel(function, t, stand_in):
            kind = f"a {type(t).__name__} of layout {t.layout}"
            return f"{name} is {kind}, the kernels here are for plain dense tensors"
    return ""


def _dtype(tensors: dict[str, Tensor], dtype: torch.dtype | None) -> torch.dtype:
    for name, t in tensors.items():
        if dtype is not None and t.dtype != dtype:
            raise ValueError(f"plan(): expected dtype to be that of {name}, {t.dtype}, but got {dtype}")
        dtype = t.dtype
    return dtype or torch.float32


def _layout(tensors: dict[str, Tensor], layout: str | None) -> str:
    """The memory format of the result: channels_last if one of the operands suggests it."""
    if layout is not None and layout not in _LAYOUTS:
        raise ValueError(f"plan(): expected layout to be one of {', '.join(_LAYOUTS)}, but got {layout!r}")
    operands = [
        t for name, t in tensors.items() if name != "bias" and t.dim() == 4 and t.layout is torch.strided
    ]
    if not operands:
        return layout or "nchw"
    last = any(suggest_memory_format(t) == torch.channels_last for t in operands)
    found = "channels_last" if last else "nchw"
    if layout not in (None, found):
        raise ValueError(f"plan(): expected layout to be that of the tensors, {found}, but got {layout}")
    return found


def _sizes(operand: Tensor | Sequence[int]) -> tuple[int, ...]:
    return tuple(operand.shape) if isinstance(operand, Tensor) else tuple(int(n) for n in operand)


def _as_given(padding: Padding, before: Pair) -> str | Pair | tuple[Pair, Pair]:
    """The padding in normal form; `before` is that above and left."""
    if isinstance(padding, str):
        return padding
    if not is_nested(padding):
        return before
    (_, bottom), (_, right) = cast("Sequence[Sequence[int]]", padding)
    return (before[0], bottom), (before[1], right)


def _size(size: Sequence[int]) -> str:
    return f"({', '.join(map(str, size))})"


def _show(value: str | Pair | tuple[Pair, Pair]) -> str:
    if isinstance(value, str) or is_nested(value):
        return repr(value)
    return str(value[0]) if value[0] == value[1] else f"{value[0]}x{value[1]}"
