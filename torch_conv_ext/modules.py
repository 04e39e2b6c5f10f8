"""Conv2d, ConvTranspose2d and their lazy forms: torch.nn's modules, computed here.

They are subclasses of torch.nn's, so constructor, repr, initialisation, attributes and state_dict are the
same: a state_dict of one loads into the other, and the same seed gives the same parameters. The constructors
take more values of `padding` and `padding_mode` than torch's.

NOTE [Branches for TorchScript]
torch.jit.script compiles `forward`, with torch's convolutions for ours. What it cannot compile it leaves out,
if it stands in the other branch of `is_scripting()`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._jit_internal import is_scripting
from torch.nn.common_types import _size_2_t
from torch.nn.modules.utils import _pair

from torch_conv_ext._args import (
    PADDING_NAMES,
    Padding,
    check_mode,
    is_nested,
    sides,
)
from torch_conv_ext.functional import conv2d, conv_transpose2d


class Conv2d(torch.nn.Conv2d):
    """torch.nn.Conv2d, with `torch_conv_ext.conv2d` as its convolution.

    All arguments of torch.nn.Conv2d. Beyond these, `padding` may be 'same' with a stride, or ((top, bottom),
    (left, right)), both in all padding modes: 'zeros', 'reflect', 'replicate' and 'circular'.
    Input (N, C_in, iH, iW) or (C_in, iH, iW); `torch_conv_ext.conv2d` tells the output's size and the errors.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _size_2_t,
        stride: _size_2_t = 1,
        padding: Padding = 0,
        dilation: _size_2_t = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        more = is_nested(padding) or (padding == "same" and _pair(stride) != (1, 1))
        options = (dilation, groups, bias, padding_mode, device, dtype)
        super().__init__(in_channels, out_channels, kernel_size, stride, 0 if more else padding, *options)  # type: ignore[arg-type]
        if more:
            _set_padding(self, padding)

    def forward(self, input: Tensor) -> Tensor:
        if is_scripting():
            return self._conv_forward(input, self.weight, self.bias)
        else:  # see NOTE [Branches for TorchScript]
            # self.weight and self.bias, without the time that torch.nn.Module takes to find them.
            parameters = self._parameters
            weight: Any = parameters["weight"] if "weight" in parameters else self.weight  # noqa: SIM401
            bias = parameters["bias"] if "bias" in parameters else self.bias  # noqa: SIM401
            return self._conv_forward(input, weight, bias)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode == "zeros":
            return conv2d(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        if is_scripting():
            # The convolution is torch's there, which has no padding modes.
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            return conv2d(input, weight, bias, self.stride, (0, 0), self.dilation, self.groups)
        else:  # see NOTE [Branches for TorchScript]
            options = (self.stride, self.padding, self.dilation, self.groups)
            return conv2d(input, weight, bias, *options, padding_mode=self.padding_mode)


class ConvTranspose2d(torch.nn.ConvTranspose2d):
    """torch.nn.ConvTranspose2d, with `torch_conv_ext.conv_transpose2d` as its convolution.

    All arguments of torch.nn.ConvTranspose2d. Beyond these, `padding` may be 'same', 'valid' or ((top,
    bottom), (left, right)), and `padding_mode` also 'reflect', 'replicate' or 'circular'.
    Input (N, C_in, iH, iW) or (C_in, iH, iW); `torch_conv_ext.conv_transpose2d` tells what these mean, the
    output's size and the errors.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _size_2_t,
        stride: _size_2_t = 1,
        padding: Padding = 0,
        output_padding: _size_2_t = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: _size_2_t = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        check_mode(padding_mode)
        more = isinstance(padding, str) or is_nested(padding)
        options = (output_padding, groups, bias, dilation, "zeros", device, dtype)
        super().__init__(in_channels, out_channels, kernel_size, stride, 0 if more else padding, *options)  # type: ignore[arg-type]
        self.padding_mode = padding_mode  # type: ignore[assignment]
        if more:
            _set_padding(self, padding)
        if padding == "same" and any(self.output_padding):
            raise ValueError(
                "padding='same' gives an output of size input * stride and takes no output padding, "
                f"but got output_padding={self.output_padding}"
            )

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolve; `output_size` (oH, oW), or the size of the whole output, chooses the output padding.

        With padding 'same' it chooses one of the sizes from which conv2d's 'same' gives the input's size.
        Raises ValueError for an output size that is not one of those possible.
        """
        if is_scripting():
            return self._scripted(input, output_size)
        else:  # see NOTE [Branches for TorchScript]
            parameters = self._parameters
            weight: Any = parameters["weight"] if "weight" in parameters else self.weight  # noqa: SIM401
            bias = parameters["bias"] if "bias" in parameters else self.bias  # noqa: SIM401
            padding: Padding = self.padding
            output_padding = self.output_padding
            if output_size is not None:
                padding, output_padding = self._padding_for(input, output_size)
            return conv_transpose2d(
                input,
                weight,
                bias,
                self.stride,
                padding,
                output_padding,
                self.groups,
                self.dilation,
                padding_mode=self.padding_mode,
            )

    def _scripted(self, input: Tensor, output_size: list[int] | None) -> Tensor:
        """The layer in TorchScript, where the convolution is torch's: it has torch's paddings."""
        if self.padding_mode != "zeros":
            raise ValueError("Only `zeros` padding mode is supported for ConvTranspose2d")
        output_padding = self._output_padding(
            input,
            output_size,
            self.stride,  # type: ignore[arg-type]
            self.padding,  # type: ignore[arg-type]
            self.kernel_size,  # type: ignore[arg-type]
            2,
            self.dilation,  # type: ignore[arg-type]
        )
        return conv_transpose2d(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            output_padding,
            self.groups,
            self.dilation,
        )

    def _padding_for(self, input: Tensor, output_size: list[int]) -> tuple[Padding, Any]:
        """The padding and the output padding that give this size."""
        extent = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size, strict=True)]
        if self.padding == "same":
            # The sizes begin at one element after the last but one step, where a 1x1 kernel has its smallest.
            more = self._more_than_smallest(input, output_size, [1, 1])
            totals = [max(e - 1 - m, 0) for e, m in zip(extent, more, strict=True)]
            padding = tuple((total // 2, total - total // 2) for total in totals)
            return padding, [max(m + 1 - e, 0) for e, m in zip(extent, more, strict=True)]
        given: Any = 0 if self.padding == "valid" else self.padding
        before, after = sides(given, "conv_transpose2d")
        kept = [e - b - a for e, b, a in zip(extent, before, after, strict=True)]
        return self.padding, self._more_than_smallest(input, output_size, kept)

    def _more_than_smallest(self, input: Tensor, output_size: list[int], extent: list[int]) -> list[int]:
        """By how much a size exceeds the one that a kernel of this extent gives.

        ValueError unless it is by less than the stride.
        """
        options = (self.stride, [0, 0], extent, 2, [1, 1])
        return self._output_padding(input, output_size, *options)  # type: ignore[arg-type]


# torch's lazy module changes its own class during its first call, whose `forward` has been looked up by then.
# That one is ours, because our class comes before torch.nn's in the order of the bases.


class LazyConv2d(torch.nn.LazyConv2d, Conv2d):  # type: ignore[misc]
    """torch.nn.LazyConv2d: the first input gives in_channels, and the module becomes this package's Conv2d.

    All arguments of torch.nn.LazyConv2d: those of Conv2d without in_channels.
    """

    cls_to_become = Conv2d


class LazyConvTranspose2d(torch.nn.LazyConvTranspose2d, ConvTranspose2d):  # type: ignore[misc]
    """torch.nn.LazyConvTranspose2d: with the first input it becomes this package's ConvTranspose2d.

    All arguments of torch.nn.LazyConvTranspose2d: those of ConvTranspose2d without in_channels.
    """

    cls_to_become = ConvTranspose2d


def _set_padding(module: torch.nn.Conv2d | torch.nn.ConvTranspose2d, padding: Any) -> None:
    """What torch's constructor refuses."""
    if isinstance(padding, str):
        if padding not in PADDING_NAMES:
            raise ValueError(
                f"Invalid padding string {padding!r}, should be one of {', '.join(PADDING_NAMES)}"
            )
        module.padding = padding
        # It depends on the input's size.
        del module._reversed_padding_repeated_twice
        return
    before, after = sides(padding, type(module).__name__)
    module.padding = tuple(zip(before, after, strict=True))  # type: ignore[arg-type]
    module._reversed_padding_repeated_twice = [before[1], after[1], before[0], after[0]]


def beyond_torch(module: torch.nn.Module) -> str:
    """Of the padding of one of the modules here, what torch.nn's module does not have; '' for nothing."""
    padding: Padding = module.padding  # type: ignore[assignment]
    transposed = isinstance(module, torch.nn.ConvTranspose2d)
    if transposed and module.padding_mode != "zeros":
        return f"padding_mode={module.padding_mode!r} of a transposed convolution"
    if is_nested(padding):
        return "padding for each side"
    if isinstance(padding, str) and transposed:
        return f"padding={padding!r} of a transposed convolution"
    if padding == "same" and module.stride != (1, 1):
        return "padding='same' with a stride"
    return ""
