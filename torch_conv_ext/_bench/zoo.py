"""Whole networks: four from the package pytorchcv, and small ones of torch.nn alone.

All are built of torch.nn's modules; `torch_conv_ext.convert` makes them ours. The shapes of the small ones
follow the papers named in `models.SOURCES`.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class Model:
    """A network, and the size of one sample. `build` gives random weights; it may need a package."""

    name: str
    build: Callable[[], nn.Module]
    sample: tuple[int, int, int]
    batch: int
    package: str = ""

    @property
    def available(self) -> bool:
        return not self.package or importlib.util.find_spec(self.package) is not None


def _published(module: str, function: str) -> nn.Module:
    """A network of pytorchcv, with random weights, for images of any size.

    Its last pooling, 7x7 for images of 224x224, is made adaptive, which is the same there. Dropout passes
    all, so that two runs can be compared.
    """
    build = getattr(importlib.import_module(f"pytorchcv.models.{module}"), function)
    net: nn.Module = build(pretrained=False)
    features = net.get_submodule("features")
    assert isinstance(features.get_submodule("final_pool"), nn.AvgPool2d | nn.AdaptiveAvgPool2d)
    features.register_module("final_pool", nn.AdaptiveAvgPool2d(1))
    for layer in net.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return net


def _norm_relu(c: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(c), nn.ReLU()]


class _Residual(nn.Module):
    """body(x) + shortcut(x), then a ReLU where it is asked for."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None, relu: bool = True) -> None:
        super().__init__()
        self.body, self.shortcut, self.relu = body, shortcut or nn.Identity(), relu

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x) + self.shortcut(x)
        return F.relu(y) if self.relu else y


def _resnet() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, padding=1, bias=False), *_norm_relu(32)]
    ci = 32
    for co, stride in ((32, 1), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1)):
        body = nn.Sequential(
            nn.Conv2d(ci, co, 3, stride, 1, bias=False),
            *_norm_relu(co),
            nn.Conv2d(co, co, 3, 1, 1, bias=False),
            nn.BatchNorm2d(co),
        )
        same = ci == co and stride == 1
        shortcut = (
            None if same else nn.Sequential(nn.Conv2d(ci, co, 1, stride, bias=False), nn.BatchNorm2d(co))
        )
        layers.append(_Residual(body, shortcut))
        ci = co
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(ci, 10))


def _mobilenet() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6()]
    ci = 32
    for co, stride in ((16, 1), (24, 2), (24, 1), (32, 2), (32, 1), (64, 2), (64, 1), (96, 1)):
        wide = 6 * ci
        body = nn.Sequential(
            *(nn.Conv2d(ci, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()),
            *(nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()),
            *(nn.Conv2d(wide, co, 1, bias=False), nn.BatchNorm2d(co)),
        )
        layers.append(_Residual(body, relu=False) if ci == co and stride == 1 else body)
        ci = co
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(ci, 10))


def _twice(ci: int, co: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(ci, co, 3, padding=1), nn.ReLU(), nn.Conv2d(co, co, 3, padding=1), nn.ReLU()
    )


class _UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = (16, 32, 64, 128)
        self.down = nn.ModuleList(_twice(ci, co) for ci, co in zip((1, *widths[:-1]), widths, strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * co, co, 2, 2) for co in widths[-2::-1])
        self.join = nn.ModuleList(_twice(2 * co, co) for co in widths[-2::-1])
        self.head = nn.Conv2d(widths[0], 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for up, join, skip in zip(self.up, self.join, skips[-2::-1], strict=True):
            x = join(torch.cat([up(x), skip], 1))
        y: Tensor = self.head(x)
        return y


def _generator() -> nn.Module:
    layers: list[nn.Module] = [nn.ConvTranspose2d(100, 256, 4, bias=False), *_norm_relu(256)]
    for ci, co in ((256, 128), (128, 64), (64, 32)):
        layers += [nn.ConvTranspose2d(ci, co, 4, 2, 1, bias=False), *_norm_relu(co)]
    return nn.Sequential(*layers, nn.ConvTranspose2d(32, 3, 4, 2, 1, bias=False), nn.Tanh())


def _from_pytorchcv(name: str, module: str, function: str) -> Model:
    return Model(name, partial(_published, module, function), (3, 224, 224), 4, "pytorchcv")


# By suite.
MODELS: dict[str, tuple[Model, ...]] = {
    "models": (
        _from_pytorchcv("ResNet-50", "resnet", "resnet50"),
        _from_pytorchcv("MobileNetV2", "mobilenetv2", "mobilenetv2_w1"),
        _from_pytorchcv("EfficientNet-B0", "efficientnet", "efficientnet_b0"),
        _from_pytorchcv("ResNeXt-50 32x4d", "resnext", "resnext50_32x4d"),
        Model("U-Net", _UNet, (1, 96, 96), 4),
        Model("DCGAN generator", _generator, (100, 1, 1), 16),
    ),
    "narrow": (
        Model("ResNet", _resnet, (3, 32, 32), 32),
        Model("MobileNet", _mobilenet, (3, 64, 64), 16),
    ),
}
