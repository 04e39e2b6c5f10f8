"""Conv2d, ConvTranspose2d and their lazy forms: torch.nn's modules, computed here.

They are subclasses of torch.nn's, so constructor, repr, initialisation, attributes and state_dict are the
same: a state_dict of one loads into the other, and the same seed gives the same parameters.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_conv_ext.functional import conv2d, conv_transpose2d


class Conv2d(torch.nn.Conv2d):
    """torch.nn.Conv2d, with `torch_conv_ext.conv2d` as its convolution.

    All arguments of torch.nn.Conv2d, the padding modes 'zeros', 'reflect', 'replicate' and 'circular' too.
    Input (N, C_in, iH, iW) or (C_in, iH, iW); `torch_conv_ext.conv2d` tells the output's size and the errors.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            return conv2d(input, weight, bias, self.stride, (0, 0), self.dilation, self.groups)
        return conv2d(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)


class ConvTranspose2d(torch.nn.ConvTranspose2d):
    """torch.nn.ConvTranspose2d, with `torch_conv_ext.conv_transpose2d` as its convolution.

    All arguments of torch.nn.ConvTranspose2d. Input (N, C_in, iH, iW) or (C_in, iH, iW);
    `torch_conv_ext.conv_transpose2d` tells the output's size and the errors.
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolve; `output_size` (oH, oW), or the size of the whole output, chooses the output padding.

        Raises ValueError for an output size that no output padding gives.
        """
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
            self.padding,  # type: ignore[arg-type]
            output_padding,
            self.groups,
            self.dilation,
        )


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
