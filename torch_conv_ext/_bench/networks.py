"""The convolution layers of published networks, written as the papers' tables tell them.

Batches are chosen so that a call takes some milliseconds to some tenths of a second.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch_conv_ext._bench.layers import Layer, Network, Suite


def _residual_stages(net: Network, groups: int, base: int, dilated: bool = False) -> Network:
    """The body of ResNet-50 and its relatives: a stem, four stages of bottlenecks 1x1, 3x3, 1x1.

    The stride is in the 3x3 (He et al.'s later code, as in torchvision). Dilated: the last two stages keep
    the size and take dilations 2 and 4 instead of the stride.
    """
    net.conv(64, 7, s=2).at(64, (net.h + 1) // 2)
    dilation = 1
    for stage, blocks in enumerate((3, 4, 6, 3)):
        co = 256 << stage
        width = base << stage
        for block in range(blocks):
            stride = 2 if block == 0 and stage > 0 else 1
            before = dilation
            if stride == 2 and dilated and stage >= 2:
                stride, dilation = 1, 2 * dilation
            ci, h = net.c, net.h
            net.conv(width, 1).conv(width, 3, s=stride, d=before, g=groups).conv(co, 1)
            if block == 0:
                net.at(ci, h).conv(co, 1, s=stride)
    return net


def _resnet50() -> tuple[Layer, ...]:
    return _residual_stages(Network("resnet50", 8, 3, 224), 1, 64).layers()


def _resnext50() -> tuple[Layer, ...]:
    return _residual_stages(Network("resnext50", 8, 3, 224), 32, 128).layers()


def _deeplabv3() -> tuple[Layer, ...]:
    net = _residual_stages(Network("deeplabv3", 2, 3, 257), 1, 64, dilated=True)
    h = net.h
    for rate in (12, 24, 36):
        net.at(2048, h).conv(256, 3, d=rate)
    net.at(2048, h).conv(256, 1).at(2048, 1).conv(256, 1)
    return net.at(1280, h).conv(256, 1).conv(256, 3).conv(21, 1).layers()


def _vgg16() -> tuple[Layer, ...]:
    net = Network("vgg16", 2, 3, 224)
    for co, times in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(times):
            net.conv(co, 3)
        net.at(co, net.h // 2)
    return net.layers()


def _inverted_residual(net: Network, co: int, k: int, s: int, expansion: int, squeeze: int = 0) -> None:
    """1x1 to more channels, depthwise, 1x1 to fewer; `squeeze` channels of squeeze-and-excitation between."""
    wide = net.c * expansion
    if expansion != 1:
        net.conv(wide, 1)
    net.conv(wide, k, s=s, g=wide)
    if squeeze:
        h = net.h
        net.at(wide, 1).conv(squeeze, 1).conv(wide, 1).at(wide, h)
    net.conv(co, 1)


def _mobilenetv2() -> tuple[Layer, ...]:
    net = Network("mobilenetv2", 8, 3, 224).conv(32, 3, s=2)
    table = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    for t, c, repeats, s in table:
        for i in range(repeats):
            _inverted_residual(net, c, 3, s if i == 0 else 1, t)
    return net.conv(1280, 1).layers()


def _efficientnet_b0() -> tuple[Layer, ...]:
    net = Network("efficientnet_b0", 8, 3, 224).conv(32, 3, s=2)
    table = (
        (1, 3, 16, 1, 1),
        (6, 3, 24, 2, 2),
        (6, 5, 40, 2, 2),
        (6, 3, 80, 3, 2),
        (6, 5, 112, 3, 1),
        (6, 5, 192, 4, 2),
        (6, 3, 320, 1, 1),
    )
    for t, k, c, repeats, s in table:
        for i in range(repeats):
            _inverted_residual(net, c, k, s if i == 0 else 1, t, squeeze=net.c // 4)
    return net.conv(1280, 1).layers()


def _convnext_t() -> tuple[Layer, ...]:
    net = Network("convnext_t", 8, 3, 224).conv(96, 4, s=4, p=0)
    for blocks, c in ((3, 96), (3, 192), (9, 384), (3, 768)):
        if c != net.c:
            net.conv(c, 2, s=2, p=0)
        for _ in range(blocks):
            net.conv(c, 7, g=c).conv(4 * c, 1).conv(c, 1)
    return net.layers()


def _replknet31() -> tuple[Layer, ...]:
    net = Network("replknet31", 1, 3, 224).conv(128, 3, s=2)
    net.conv(128, 3, g=128).conv(128, 1).conv(128, 3, s=2, g=128)
    for k, blocks, c in ((31, 2, 128), (29, 2, 256), (27, 18, 512), (13, 2, 1024)):
        if c != net.c:
            net.conv(c, 1).conv(c, 3, s=2, g=c)
        for _ in range(blocks):
            net.conv(c, 1).conv(c, k, g=c).conv(c, 1)  # large kernel
            net.conv(4 * c, 1).conv(c, 1)  # feed forward
    return net.layers()


def _inception_v3() -> tuple[Layer, ...]:
    net = Network("inception_v3", 4, 3, 299).conv(32, 3, s=2, p=0).conv(32, 3, p=0).conv(64, 3)
    net.at(64, 73).conv(80, 1).conv(192, 3, p=0)
    for c, pooled in ((192, 32), (256, 64), (288, 64)):
        net.at(c, 35).conv(64, 1)
        net.at(c, 35).conv(48, 1).conv(64, 5)
        net.at(c, 35).conv(64, 1).conv(96, 3).conv(96, 3)
        net.at(c, 35).conv(pooled, 1)
    net.at(288, 35).conv(384, 3, s=2, p=0)
    net.at(288, 35).conv(64, 1).conv(96, 3).conv(96, 3, s=2, p=0)
    for c in (128, 160, 160, 192):
        net.at(768, 17).conv(192, 1)
        net.at(768, 17).conv(c, 1).conv(c, (1, 7)).conv(192, (7, 1))
        net.at(768, 17).conv(c, 1).conv(c, (7, 1)).conv(c, (1, 7)).conv(c, (7, 1)).conv(192, (1, 7))
        net.at(768, 17).conv(192, 1)
    net.at(768, 17).conv(192, 1).conv(320, 3, s=2, p=0)
    net.at(768, 17).conv(192, 1).conv(192, (1, 7)).conv(192, (7, 1)).conv(192, 3, s=2, p=0)
    for c in (1280, 2048):
        net.at(c, 8).conv(320, 1)
        net.at(c, 8).conv(384, 1).conv(384, (1, 3)).at(384, 8).conv(384, (3, 1))
        net.at(c, 8).conv(448, 1).conv(384, 3).conv(384, (1, 3)).at(384, 8).conv(384, (3, 1))
        net.at(c, 8).conv(192, 1)
    return net.layers()


def _unet() -> tuple[Layer, ...]:
    net = Network("unet", 1, 1, 256)
    for c in (64, 128, 256, 512):
        net.conv(c, 3).conv(c, 3).at(c, net.h // 2)
    net.conv(1024, 3).conv(1024, 3)
    for c in (512, 256, 128, 64):
        net.up(c, 2, s=2).at(2 * c, net.h).conv(c, 3).conv(c, 3)
    return net.conv(2, 1).layers()


def _pix2pix() -> tuple[Layer, ...]:
    net = Network("pix2pix", 1, 3, 256)
    for c in (64, 128, 256, 512, 512, 512, 512, 512):
        net.conv(c, 4, s=2, p=1)
    net.up(512, 4, s=2, p=1)
    for c in (512, 512, 512, 256, 128, 64, 3):
        net.at(2 * net.c, net.h).up(c, 4, s=2, p=1)  # beside the encoder's tensor of this size
    net.at(6, 256).conv(64, 4, s=2, p=1).conv(128, 4, s=2, p=1).conv(256, 4, s=2, p=1)  # discriminator
    return net.conv(512, 4, p=1).conv(1, 4, p=1).layers()


def _dcgan() -> tuple[Layer, ...]:
    net = Network("dcgan", 16, 100, 1).up(512, 4)
    for c in (256, 128, 64, 3):
        net.up(c, 4, s=2, p=1)
    for c in (64, 128, 256, 512):  # discriminator
        net.conv(c, 4, s=2, p=1)
    return net.conv(1, 4, p=0).layers()


def _fsrcnn() -> tuple[Layer, ...]:
    net = Network("fsrcnn", 8, 1, 64).conv(56, 5).conv(12, 1)
    for _ in range(4):
        net.conv(12, 3)
    return net.conv(56, 1).up(1, 9, s=3, p=4, op=2).layers()


def _vit() -> tuple[Layer, ...]:
    net = Network("vit", 8, 3, 224).conv(768, 16, s=16, p=0)
    return net.at(3, 224).conv(768, 32, s=32, p=0).at(3, 224).conv(1280, 14, s=14, p=0).layers()


def _lenet() -> tuple[Layer, ...]:
    net = Network("lenet", 64, 1, 32).conv(6, 5, p=0)
    return net.at(6, 14).conv(16, 5, p=0).at(16, 5).conv(120, 5, p=0).layers()


def network_suites() -> Iterator[Suite]:
    """One suite for each network."""
    unet = "Ronneberger et al., arXiv:1505.04597, with padding 1 so that 256x256 stays 256x256"
    dcgan = "Radford et al., arXiv:1511.06434, both networks for 64x64, widths of pytorch/examples"
    yield Suite("resnet50", "He et al., arXiv:1512.03385, table 1, stride in the 3x3", _resnet50())
    yield Suite("vgg16", "Simonyan and Zisserman, arXiv:1409.1556, table 1, D", _vgg16())
    yield Suite("mobilenetv2", "Sandler et al., arXiv:1801.04381, table 2", _mobilenetv2())
    yield Suite("efficientnet_b0", "Tan and Le, arXiv:1905.11946, table 1", _efficientnet_b0())
    yield Suite("convnext_t", "Liu et al., arXiv:2201.03545, table 9", _convnext_t())
    yield Suite("resnext50", "Xie et al., arXiv:1611.05431, table 1, 32x4d", _resnext50())
    yield Suite("replknet31", "Ding et al., arXiv:2203.06717, RepLKNet-31B", _replknet31())
    yield Suite("deeplabv3", "Chen et al., arXiv:1706.05587, ResNet-50, output stride 8", _deeplabv3())
    yield Suite("inception_v3", "Szegedy et al., arXiv:1512.00567, sizes of torchvision", _inception_v3())
    yield Suite("unet", unet, _unet())
    yield Suite("pix2pix", "Isola et al., arXiv:1611.07004, U-Net 256, discriminator 70x70", _pix2pix())
    yield Suite("dcgan", dcgan, _dcgan())
    yield Suite("fsrcnn", "Dong et al., arXiv:1608.00367, FSRCNN(56,12,4), scale 3", _fsrcnn())
    yield Suite("vit", "Dosovitskiy et al., arXiv:2010.11929, patches of B/16, B/32 and H/14", _vit())
    yield Suite("lenet", "LeCun et al., Proc. IEEE 86(11), 1998, LeNet-5", _lenet())
