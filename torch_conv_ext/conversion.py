"""convert and revert: the convolutions of a whole model become this package's, and torch's again.

    report = torch_conv_ext.convert(model)  # in place
    print(report)  # what was swapped, and what was left and why
    torch_conv_ext.revert(model)

NOTE [A swap changes the class and nothing else]
The modules here are subclasses of torch.nn's without any state of their own. So a swap sets `__class__` of
the module that is there. Parameters, buffers, hooks, pruning masks and the training flag stay the same
objects, and so does the module: optimizers, several parents and other references go on as before.
torch.nn.utils.parametrize gives each module a class of its own, derived from the one that it had; such a
class is made once more on the other base.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from torch_conv_ext import modules
from torch_conv_ext._dispatch import DTYPES, is_plain

__all__ = ["ConversionReport", "convert", "revert"]

_OURS: dict[type, type] = {
    nn.Conv2d: modules.Conv2d,
    nn.ConvTranspose2d: modules.ConvTranspose2d,
    nn.LazyConv2d: modules.LazyConv2d,
    nn.LazyConvTranspose2d: modules.LazyConvTranspose2d,
}
_TORCHS = {ours: torchs for torchs, ours in _OURS.items()}
_PREVIOUS = "_class_before_conversion"
_SHOWN = 6  # names in a line of a report


@dataclasses.dataclass(frozen=True, repr=False)
class ConversionReport:
    """What `convert` or `revert` did. `str` and `repr` are lines to read; names are those of named_modules().

    A module that stands in several places has its first name; the model itself has the name ''.

    Attributes:
        package: whose classes the swapped modules have now, 'torch_conv_ext' or 'torch.nn'.
        swapped: the new class of each swapped module, by name.
        left: why a convolution was left as it was, by name.
        on_torch: why a swapped module still runs on torch's operator, by name: its dtype, say. It runs here
            as soon as that changes.
    """

    package: str
    swapped: Mapping[str, str]
    left: Mapping[str, str]
    on_torch: Mapping[str, str]

    def __str__(self) -> str:
        parts = (
            (f"swapped for {self.package}'s", self.swapped),
            ("left as they were", self.left),
            ("swapped, but on torch's operator for now", self.on_torch),
        )
        lines = []
        for title, entries in parts:
            if entries or entries is self.swapped:
                lines += [f"{title}: {len(entries)}", *_grouped(entries)]
        return "\n".join(lines)

    __repr__ = __str__


def convert(model: nn.Module) -> ConversionReport:
    """Swap torch.nn's 2-D convolutions in a model for this package's, in place.

    Swapped are modules whose class is torch.nn.Conv2d, torch.nn.ConvTranspose2d or one of their lazy forms,
    with parametrizations or without; the model itself too, if it is one. Parameters, buffers, hooks and the
    modules' identity stay (NOTE [A swap changes the class and nothing else]), so an optimizer goes on with
    its state. A second call finds nothing left to do.

    Left as they are, with a reason in the report: subclasses of these classes, which may compute anything in
    methods of their own; modules whose `forward` was replaced on the instance; quantised and scripted
    modules; convolutions of other dimensions. Calls of torch.nn.functional.conv2d in a model's own code are
    not modules: for these there is `override`.

    A converted model can be copied, saved and loaded like any. A state_dict has no trace of the conversion.
    A model saved whole names this package's classes; `revert` before saving avoids that.
    Tools that look for torch.nn's own classes do not know ours: `revert` before torch.jit.script, and before
    fusion or quantisation by torch.ao.

    Args:
        model: any module.

    Returns:
        The report. The model is not returned: it is the same object.

    Raises:
        TypeError: not a torch.nn.Module.
    """
    return _swap(model, _OURS, "torch_conv_ext", "convert")


def revert(model: nn.Module) -> ConversionReport:
    """Swap this package's convolutions in a model for torch.nn's, in place: what `convert` did is undone.

    Every module whose class is one of this package's becomes torch.nn's, wherever it came from, also one that
    was built as `torch_conv_ext.Conv2d`. Left are those with a padding that torch.nn's do not have, and
    subclasses. Where none are left, the model needs this package no more. A copy or a loaded model can be
    reverted like the one that was converted. Of a model that had none of them before, `convert` and `revert`
    leave every class, parameter and hook as it was.

    Args:
        model: any module.

    Returns:
        The report, with what was left and why.

    Raises:
        TypeError: not a torch.nn.Module.
    """
    return _swap(model, _TORCHS, "torch.nn", "revert")


def _swap(model: nn.Module, classes: Mapping[type, type], package: str, function: str) -> ConversionReport:
    if not isinstance(model, nn.Module):
        raise TypeError(f"{function}(): expected a torch.nn.Module, but got {_a(type(model).__name__)}")
    swapped, left, on_torch = {}, {}, {}
    to_ours = classes is _OURS
    for name, module in model.named_modules():
        new = _new_class(module, classes)
        reason = _reason_to_leave(module, to_ours, new is not None)
        if reason:
            left[name] = reason
        elif new is not None:
            module.__class__ = new
            swapped[name] = new.__name__
            if to_ours and (reason := _reason_for_torch(module)):
                on_torch[name] = reason
    return ConversionReport(package, swapped, left, on_torch)


# --- classes ------------------------------------------------------------------------------------------------


def _new_class(module: nn.Module, classes: Mapping[type, type]) -> type | None:
    """The class that a module gets, or None for one that is not swapped."""
    cls = type(module)
    if cls in classes:
        return classes[cls]
    if is_parametrized(module) and cls.__bases__[0] in classes:
        return _on_another_base(cls, classes[cls.__bases__[0]])
    return None


def _on_another_base(cls: type, base: type) -> type:
    """A class with the namespace of another, derived from `base`.

    It remembers the other one. So the way back ends at the class where it began, unless parametrizations have
    been registered or removed in between.
    """
    previous: type | None = vars(cls).get(_PREVIOUS)
    if previous is not None and previous.__bases__ == (base,) and _namespace(previous) == _namespace(cls):
        return previous
    return type(cls.__name__, (base,), {**_namespace(cls), _PREVIOUS: cls})


def _namespace(cls: type) -> dict[str, object]:
    """What the class statement of a class would hold."""
    added = ("__dict__", "__weakref__", _PREVIOUS)
    return {key: value for key, value in vars(cls).items() if key not in added}


# --- reasons ------------------------------------------------------------------------------------------------


def _reason_to_leave(module: nn.Module, to_ours: bool, is_known: bool) -> str:
    """Why a convolution is left as it is; '' for one that is swapped, and for all other modules."""
    if is_known:
        replaced = [name for name in ("forward", "_conv_forward") if name in vars(module)]
        if replaced:
            return f"its {replaced[0]}() was replaced on the instance"
        lacking = "" if to_ours else modules.beyond_torch(module)
        return f"torch.nn has no {lacking}" if lacking else ""
    cls = type(module)
    if is_parametrized(module):
        cls = cls.__bases__[0]
    if not to_ours:
        mine = next((base for base in cls.__mro__ if base in _TORCHS), None)
        return f"{cls.__name__} is a subclass of {_full_name(mine)}" if mine and mine is not cls else ""
    scripted = getattr(module, "original_name", "")  # of torch.jit's modules
    if scripted in ("Conv2d", "ConvTranspose2d") and isinstance(module, torch.jit.ScriptModule):
        return f"{scripted} compiled by torch.jit"
    if re.match(r"torch\.ao\.nn\..*(quantized|qat)", cls.__module__) and re.search(r"Conv.*2d", cls.__name__):
        return f"{_full_name(cls)} is quantised"
    if cls in _TORCHS:
        return f"it is {_full_name(cls)} already"
    mine = next((base for base in cls.__mro__ if base in _TORCHS or base in _OURS), None)
    if mine is not None:
        return f"{cls.__name__} is a subclass of {_full_name(mine)}"
    if issubclass(cls, _ConvNd):
        return f"{cls.__name__} is not 2-D"
    return ""


def _reason_for_torch(module: nn.Module) -> str:
    """Why torch's operator runs a swapped module: what `_dispatch.has_kernel` will ask of its parameters."""
    for t in module.parameters():
        if not t.is_cpu:
            return f"parameters on {t.device.type}"
        if t.dtype not in DTYPES:
            return f"parameters of dtype {t.dtype}"
        if not is_plain(t) and not is_lazy(t):
            return f"parameters of type {type(t).__name__}"
    return ""


def _full_name(cls: type) -> str:
    """The name under which a user knows a class: torch.nn.Conv2d, torch_conv_ext.Conv2d."""
    package = "torch_conv_ext" if cls in _TORCHS else "torch.nn" if cls in _OURS else cls.__module__
    return f"{package}.{cls.__name__}"


# --- text ---------------------------------------------------------------------------------------------------


def _grouped(entries: Mapping[str, str]) -> list[str]:
    """One line for each value, with the names that have it."""
    names: dict[str, list[str]] = {}
    for name, value in entries.items():
        names.setdefault(value, []).append(name or "(the model itself)")
    return [f"  {value} ({len(group)}): {_some(group)}" for value, group in names.items()]


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _a(noun: str) -> str:
    return f"an {noun}" if noun[:1] in "aeiouAEIOU" else f"a {noun}"
