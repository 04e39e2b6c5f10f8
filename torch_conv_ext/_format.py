"""The memory format of 4-D tensors, also where torch cannot be asked."""

from __future__ import annotations

from torch import Tensor


def is_channels_last(t: Tensor) -> bool:
    """Of a 4-D tensor, also where torch cannot be asked: under vmap."""
    return t.stride(1) == 1 and t.stride(3) >= t.shape[1]


def in_other_format(g: Tensor, channels_last: bool) -> Tensor:
    """A cotangent in the format of the result that it belongs to, as torch brings it there.

    The operands of the forward call so decide the format of the gradients, whatever the cotangent's is.
    """
    if channels_last:
        return g.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    return g.contiguous()
