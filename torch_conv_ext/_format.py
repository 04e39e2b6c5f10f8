"""The memory format of 4-D tensors, also where torch cannot be asked."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def is_channels_last(stride: Sequence[int], shape: Sequence[int]) -> bool:
    """Of a 4-D tensor, also where torch cannot be asked: under vmap."""
    return stride[1] == 1 and stride[3] >= shape[1]


def in_other_format(t: Tensor, channels_last: bool) -> Tensor:
    """In channels_last or, if not `channels_last`, in NCHW: a copy, unless it is that already."""
    if channels_last:
        return t.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    return t.contiguous()
