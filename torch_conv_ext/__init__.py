"""2-D convolution and transposed convolution for PyTorch on the CPU, with hand-written kernels.

The functions have the signatures of torch.nn.functional and torch.nn.grad, the modules those of torch.nn, and
all give torch's results. `torch_conv_ext.functional` tells what runs here and what goes to torch's operators.
`convert` swaps the convolutions of a whole model, `override` those of a block of code.
"""

from torch_conv_ext import (
    _load,  # noqa: F401  first: its errors help
    _registrations,  # noqa: F401  tells torch's tools of the operators
    _transforms,  # noqa: F401  gives the operators their kernels for autograd and vmap
    functional,
    settings,
)
from torch_conv_ext._override import override
from torch_conv_ext._version import __version__
from torch_conv_ext.conversion import ConversionReport, convert, revert
from torch_conv_ext.functional import (
    Conv2dFunction,
    ConvTranspose2dFunction,
    conv2d,
    conv2d_bias,
    conv2d_input,
    conv2d_weight,
    conv_transpose2d,
    conv_transpose2d_input,
    conv_transpose2d_weight,
)
from torch_conv_ext.modules import Conv2d, ConvTranspose2d, LazyConv2d, LazyConvTranspose2d
from torch_conv_ext.planning import plan

__all__ = [
    "Conv2d",
    "Conv2dFunction",
    "ConvTranspose2d",
    "ConvTranspose2dFunction",
    "ConversionReport",
    "LazyConv2d",
    "LazyConvTranspose2d",
    "__version__",
    "conv2d",
    "conv2d_bias",
    "conv2d_input",
    "conv2d_weight",
    "conv_transpose2d",
    "conv_transpose2d_input",
    "conv_transpose2d_weight",
    "convert",
    "functional",
    "override",
    "plan",
    "revert",
    "settings",
]
