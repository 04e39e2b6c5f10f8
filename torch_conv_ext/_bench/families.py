"""Layers by kind, cases that users of PyTorch reported as slow, and a short list for a quick look."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch_conv_ext._args import Pair
from torch_conv_ext._bench.layers import Layer, Network, Suite


def _collect(networks: Iterable[Network]) -> tuple[Layer, ...]:
    return tuple(layer for network in networks for layer in network.layers())


def _depthwise() -> tuple[Layer, ...]:
    def dw(
        k: int | Pair, c: int, h: int, s: int = 1, d: int = 1, co: int = 0, n: int = 8, w: int = 0
    ) -> Network:
        return Network("depthwise", n, c, h, w or h).conv(co or c, k, s=s, d=d, g=c)

    return _collect(
        [
            dw(3, 32, 112),
            dw(3, 144, 56),
            dw(3, 576, 14),
            dw(3, 960, 7),
            dw(3, 96, 112, s=2),
            dw(3, 192, 28, s=2),
            dw(3, 256, 28, d=2),
            dw(3, 64, 56, co=128),
            dw(3, 33, 45, w=17),
            dw(3, 32, 112, n=1),
            dw(5, 240, 28),
            dw(5, 144, 56, s=2),
            dw(5, 672, 14),
            dw(7, 96, 56),
            dw(7, 384, 14),
            dw(7, 96, 56, s=2),
            dw(7, 96, 28, d=3),
            dw(13, 128, 28, n=2),
            dw(13, 1024, 7),
            dw(13, 128, 56, s=2, n=2),
            dw(31, 128, 56, n=1),
            dw(31, 128, 28, n=1),
            dw(31, 128, 56, s=2, n=1),
            dw((1, 7), 128, 56),
            dw((7, 1), 128, 56),
            dw((1, 31), 64, 56),
            dw((31, 1), 64, 56),
            dw((1, 9), 64, 1, w=1600),
        ]
    )


def _grouped() -> tuple[Layer, ...]:
    def grouped(
        k: int, ci: int, h: int, g: int, co: int = 0, s: int = 1, p: int | None = None, n: int = 8
    ) -> Network:
        return Network("grouped", n, ci, h).conv(co or ci, k, s=s, p=p, g=g)

    return _collect(
        [
            # ResNeXt-50 32x4d
            *(grouped(3, c, h, 32) for c, h in ((128, 56), (256, 28), (512, 14), (1024, 7))),
            grouped(3, 256, 56, 32, s=2),
            # 8 and 16 channels per group
            grouped(3, 256, 56, 32),
            grouped(3, 256, 14, 16),
            grouped(3, 256, 28, 16, s=2),
            grouped(3, 512, 7, 32),
            # ShuffleNet, three groups: 1x1 to a quarter of the channels and back
            *(grouped(1, c, h, 3, c // 4) for c, h in ((240, 28), (480, 14), (960, 7))),
            *(grouped(1, c // 4, h, 3, c) for c, h in ((240, 28), (480, 14), (960, 7))),
            # AlexNet's two groups
            grouped(5, 96, 27, 2, 256),
            grouped(3, 384, 13, 2),
            grouped(3, 384, 13, 2, 256),
            # RegNetX-1.6GF, 24 channels per group
            *(grouped(3, c, h, c // 24) for c, h in ((72, 56), (168, 28), (408, 14), (912, 7))),
            grouped(3, 168, 56, 7, s=2),
            # no power of two anywhere: 11 channels in and 7 out per group
            Network("grouped", 8, 33, 45, 17).conv(21, 3, g=3),
            grouped(3, 128, 56, 32, n=1),
        ]
    )


def _thin() -> tuple[Layer, ...]:
    def thin(
        k: int, ci: int, co: int, h: int, s: int = 1, p: int | None = None, d: int = 1, n: int = 8
    ) -> Network:
        return Network("thin", n, ci, h).conv(co, k, s=s, p=p, d=d)

    return _collect(
        [
            thin(3, 1, 32, 28, n=64),
            thin(3, 1, 64, 128, n=4),
            thin(3, 3, 64, 32, n=32),
            thin(3, 3, 64, 224, n=2),
            thin(3, 3, 32, 224, s=2),
            thin(7, 3, 64, 224, s=2),
            thin(7, 3, 64, 256, n=2),
            thin(9, 1, 64, 128, n=4),
            thin(9, 3, 64, 128, n=4),
            thin(11, 3, 96, 227, s=4, p=0),
            thin(4, 3, 96, 224, s=4, p=0),
            thin(16, 3, 768, 224, s=16, p=0),
            thin(14, 3, 1024, 224, s=14, p=0),
            thin(3, 64, 1, 128, n=4),
            thin(3, 64, 3, 64, n=4),
            thin(3, 64, 3, 256, n=2),
            thin(5, 32, 3, 128, n=4),
            thin(7, 64, 3, 128, n=4),
            thin(9, 64, 3, 128, n=4),
            thin(1, 64, 1, 128, n=8),
            thin(1, 64, 3, 128, n=8),
            thin(1, 3, 64, 128, n=8),
            thin(3, 3, 3, 128, n=8),
            thin(3, 1, 1, 256, n=8),
            thin(3, 3, 33, 101, s=2, n=8),
        ]
    )


def _transposed() -> tuple[Layer, ...]:
    def up(
        k: int | Pair,
        ci: int,
        co: int,
        h: int,
        s: int | Pair = 1,
        p: int | Pair = 0,
        op: int = 0,
        g: int = 1,
        n: int = 8,
        w: int = 0,
    ) -> Network:
        return Network("transposed", n, ci, h, w or h).up(co, k, s=s, p=p, op=op, g=g)

    return _collect(
        [
            up(2, 128, 64, 64, s=2, n=4),
            up(2, 256, 128, 28, s=2),
            up(2, 1024, 512, 16, s=2, n=1),
            up(3, 64, 64, 56, s=2, p=1, op=1, n=4),
            up(3, 128, 64, 28, s=2, p=1, op=1),
            up(3, 64, 64, 56, p=1, n=4),
            up(4, 512, 256, 8, s=2, p=1),
            up(4, 128, 64, 32, s=2, p=1),
            up(4, 64, 3, 32, s=2, p=1, n=16),
            up(4, 128, 3, 64, s=2, p=1, n=4),
            up(4, 100, 512, 1, n=16),
            up(9, 56, 1, 64, s=3, p=4, op=2),
            up(5, 64, 32, 32, s=3, p=1),
            up(5, 33, 21, 17, s=3, p=2, op=1),
            up(4, 64, 64, 28, s=2, p=1, g=64),
            up(3, 128, 128, 28, s=2, p=1, op=1, g=128),
            up(4, 21, 21, 32, s=2, p=1, g=21),
            up(3, 128, 128, 28, s=2, p=1, op=1, g=32),
            up(2, 256, 128, 28, s=2, g=8),
        ]
    ) + _vocoder("transposed")


def _vocoder(suite: str) -> tuple[Layer, ...]:
    """The inverse short-time Fourier transform of a vocoder, with one length and with a new one each time."""
    return _collect(
        [
            Network(suite, 1, 1026, 1, 200).up(1, (1, 1024), s=(1, 256)),
            Network(suite, 1, 1026, 1, 200).up(1, (1, 1024), s=(1, 256), variant="new width"),
        ]
    )


def _reports() -> tuple[Layer, ...]:
    return _collect(
        [
            Network("reports", 8, 16, 112).conv(32, 7, d=2, p=0),  # 183815
            Network("reports", 8, 64, 56).conv(64, 3, g=8),  # 183815
            Network("reports", 16, 64, 56).conv(64, 3, g=64),  # 13716, 70954
            Network("reports", 8, 192, 14).conv(192, 7, g=192),  # 70954
            Network("reports", 1, 256, 32).conv(256, 31, g=256),  # 70954
            Network("reports", 16, 128, 28).conv(128, 3, g=32),  # 37406
            Network("reports", 16, 512, 1, 32).up(512, (1, 6), s=(1, 3), g=512),  # 47341
            Network("reports", 16, 512, 1, 32).up(512, (1, 6), s=(1, 3)),  # 47341, the dense layer beside it
            Network("reports", 1, 512, 32).up(256, 2, s=2),  # 194496
            Network("reports", 4, 64, 128).up(32, 2, s=2),  # 194496
            Network("reports", 8, 64, 64).conv(64, 3, s=2),  # 38057
            Network("reports", 8, 32, 33).conv(32, 5, s=3, p=0),  # 38057
            Network("reports", 8, 64, 28).conv(64, 3, variant="denormal weights"),  # 21734, 67797
            Network("reports", 8, 128, 28).conv(64, 1, variant="denormal weights"),  # 21734, 67797
            *(Network("reports", 16, c, 32).conv(c, 1, s=2) for c in (2, 6, 7, 15)),  # oneDNN 6035
        ]
    ) + _vocoder("reports")  # 120982, 133304


def _quick() -> tuple[Layer, ...]:
    return _collect(
        [
            Network("quick", 8, 3, 224).conv(64, 7, s=2),
            Network("quick", 8, 64, 56).conv(256, 1),
            Network("quick", 8, 1024, 14).conv(256, 1),
            *(Network("quick", 8, c, h).conv(c, 3) for c, h in ((64, 56), (256, 14), (512, 7))),
            Network("quick", 8, 128, 56).conv(128, 3, s=2),
            Network("quick", 1, 256, 14).conv(256, 3),
            Network("quick", 8, 144, 56).conv(144, 3, g=144),
            Network("quick", 8, 128, 56).conv(128, 3, g=32),
            Network("quick", 8, 256, 28).up(128, 2, s=2),
            Network("quick", 8, 128, 16).up(64, 4, s=2, p=1),
        ]
    )


def family_suites() -> Iterator[Suite]:
    """One suite for each kind, the reports, and the short list."""
    depthwise = "3x3 and 5x5 of MobileNetV2 and EfficientNet, 7x7 of ConvNeXt, 13x13 and 31x31 of RepLKNet"
    grouped = (
        "ResNeXt (arXiv:1611.05431), ShuffleNet (arXiv:1707.01083), RegNet (arXiv:2003.13678), "
        "AlexNet (Krizhevsky et al., 2012)"
    )
    thin = "first layers and image heads: ResNet, AlexNet, SRCNN (arXiv:1501.00092), ViT, style transfer"
    transposed = (
        "U-Net, DCGAN, pix2pix, FSRCNN, bilinear upsampling of FCN (arXiv:1411.4038), "
        "inverse STFT of a vocoder"
    )
    reports = "issues of pytorch/pytorch by number, and oneDNN 6035, in float32 or float64"
    yield Suite("depthwise", f"{depthwise}; dilation, two outputs per channel, one-row kernels", _depthwise())
    yield Suite("grouped", grouped, _grouped())
    yield Suite("thin", thin, _thin())
    yield Suite("transposed", transposed, _transposed())
    yield Suite("reports", reports, _reports())
    yield Suite("quick", "one of each kind, of the suites above", _quick())
