"""Whole networks, swapped by convert: outputs, gradients and a step of training are torch.nn's."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn

import torch_conv_ext
from owners import owners
from torch_conv_ext._bench.zoo import MODELS, Model

pytestmark = pytest.mark.usefixtures("threads")

# Small images, which the networks take as well.
SIDE = {"ResNet-50": 64, "MobileNetV2": 64, "EfficientNet-B0": 64, "ResNeXt-50 32x4d": 64, "U-Net": 32}
# Their convolutions, as the papers count them: 1 + 48 + 4 shortcuts, and so on.
CONVOLUTIONS = {
    "ResNet-50": 53,
    "MobileNetV2": 54,
    "EfficientNet-B0": 81,
    "ResNeXt-50 32x4d": 53,
    "U-Net": 18,
    "DCGAN generator": 5,
}
# Relative to the largest element of each tensor. Some fifty layers, each with normalisation over a few
# numbers, magnify the roundings of float64.
LIMIT = 1e-9
# The gradient of a shift that a normalisation takes out again is zero up to rounding.
ZERO = 1e-13


@pytest.fixture(params=MODELS["models"], ids=lambda model: model.name)
def nets(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module, Tensor]:
    """A network, the same one converted, and two samples, in float64."""
    model: Model = request.param
    if model.package:
        pytest.importorskip(model.package)
    side = SIDE.get(model.name, model.sample[1])
    model = dataclasses.replace(model, sample=(model.sample[0], side, side))
    net = model.build().double()
    ours = copy.deepcopy(net)
    report = torch_conv_ext.convert(ours)
    assert len(report.swapped) == CONVOLUTIONS[model.name] and not report.left and not report.on_torch
    return net, ours, torch.randn(2, *model.sample, dtype=torch.float64)


def close(result: Tensor, expected: Tensor, name: str) -> None:
    scale = expected.detach().abs().max()
    assert scale > 0, f"{name}: nothing to compare"
    difference = (result - expected).abs().max()
    assert difference <= LIMIT * scale + ZERO, f"{name}: {difference:.1e} of {scale:.1e}"


def test_output(nets: tuple[nn.Module, nn.Module, Tensor]) -> None:
    """In evaluation, where all convolutions run here."""
    net, ours, x = nets
    with torch.no_grad():
        expected = net.eval()(x)
        close(ours.eval()(x), expected, "output")
        assert owners(ours, x) == {"torch_conv_ext"}


def test_training_step(nets: tuple[nn.Module, nn.Module, Tensor]) -> None:
    """The gradient of each parameter, and each parameter and statistic after a step of SGD with momentum."""
    net, ours, x = nets
    for each in (net, ours):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
        each(x).square().mean().backward()
        optimizer.step()
    of_ours = dict(ours.named_parameters())
    for name, p in net.named_parameters():
        grad, expected = of_ours[name].grad, p.grad
        assert grad is not None and expected is not None
        close(grad, expected, f"gradient of {name}")
    state = ours.state_dict()
    for name, expected in net.state_dict().items():
        close(state[name].double(), expected.double(), name)
