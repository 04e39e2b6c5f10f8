"""What can be switched, for the whole process: `torch_conv_ext.settings`.

    from torch_conv_ext import settings

    settings.winograd                        # True: Winograd may be used; the default
    settings.winograd = False                # from now on without Winograd
    with settings.override(winograd=False):  # only inside of the block
        y = conv2d(x, w, padding=1)

winograd (bool, default True)
    Whether Winograd's algorithm may be used, in any of the three contractions: F(4x4, 3x3) for 3x3 kernels,
    with a quarter of the multiplications, and its relatives for other kernels of more than one element, with
    stride or dilation. The plan takes it where it expects a gain (`torch_conv_ext.plan` tells). Its rms error
    is about two to three times that of the direct algorithm; the choice of its points keeps it that low.
    Results of unit variance stay within the default tolerances of torch.testing.assert_close. The error of a
    result is relative to the largest values in its tile. Switch Winograd off where the last bits matter
    more than time, or to find out whether they do. `python -m torch_conv_ext check` measures both errors.

Threads. A setting belongs to the process, not to a thread. A kernel reads it once, when it starts, so no
result is a mixture. Other threads see an `override` too while its block lasts; where blocks of several
threads overlap, the last one to end decides what stays. A backward pass follows the settings of the moment in
which it runs, not those of its forward pass; so does code compiled by torch.compile, without a recompilation.
For each value of the settings results are the same bits for any number of threads; they differ in the last
bits between the values.

Environment variables, read when the package is imported:

    TORCH_CONV_EXT_WINOGRAD=0    starts with winograd = False
    TORCH_CONV_EXT_ISA=NAME      the instruction set: portable, avx2 or avx512. An unknown name, or one that
                                 this CPU lacks, is an ImportError. Without it the fastest one is used.

`python -m torch_conv_ext info` shows what is in force.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from torch_conv_ext import _C

__all__ = ["override", "winograd"]

winograd: bool  # a property of the module, below


@contextmanager
def override(*, winograd: bool | None = None) -> Iterator[None]:
    """Change settings for a block, or for the calls of a decorated function, and restore them afterwards.

    Args:
        winograd: the value inside of the block; None (default) leaves it as it is.

    Raises:
        TypeError: a value that is not a bool, or a setting that does not exist.
    """
    before = _C.winograd()
    if winograd is not None:
        _set_winograd(winograd)
    try:
        yield
    finally:
        if winograd is not None:
            _C.set_winograd(before)


def _set_winograd(on: bool) -> None:
    if not isinstance(on, bool):
        raise TypeError(f"settings.winograd: expected True or False, but got {on!r}")
    _C.set_winograd(on)


class _Settings(ModuleType):
    """The class of this module: settings are properties, and a misspelt one is an error."""

    @property
    def winograd(self) -> bool:
        return _C.winograd()

    @winograd.setter
    def winograd(self, on: bool) -> None:
        _set_winograd(on)

    def __setattr__(self, name: str, value: object) -> None:
        if not hasattr(self, name) and not name.startswith("__"):
            raise AttributeError(
                f"torch_conv_ext.settings: expected the setting 'winograd', but got {name!r}"
            )
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Settings
