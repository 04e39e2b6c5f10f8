"""The memory format of 4-D tensors, also where torch cannot be asked."""

from __future__ import annotations

from torch import Tensor


def is_channels_last(t: Tensor) -> bool:
    """Of a 4-D tensor, also where torch cannot be asked: under vmap."""
    return t.stride(1) == 1 and t.stride(3) >= t.shape[1]


def in_other_format(t: Tensor, channels_last: bool) -> Tensor:
    """A copy in channels_last or, if not `channels_last`, in NCHW."""
    if channels_last:
        return t.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    return t.contiguous()
