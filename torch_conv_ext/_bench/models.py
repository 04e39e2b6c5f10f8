"""Whole passes: training steps and inference of small networks, and single calls on a tiny tensor.

Each network is built twice from the same code, with torch.nn's and with our convolutions, and has the same
weights in both. The small networks are of torch.nn alone; their shapes follow the papers named in SOURCES.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import torch_conv_ext
from torch_conv_ext._bench.timing import Call, Timing, in_turns, largest_error

SOURCES = {
    "models": (
        "training step (forward, loss, backward, SGD) and inference of a ResNet-18 for 32x32 images "
        "(arXiv:1512.03385), a U-Net (arXiv:1505.04597), DCGAN's generator (arXiv:1511.06434) "
        "and a MobileNetV2 (arXiv:1801.04381), all narrow"
    ),
    "calls": (
        "what a call costs: Conv2d(1, 1, 3, padding=1) on (1, 1, 4, 4), and second derivatives "
        "(pytorch/pytorch 22577)"
    ),
}

# Of gradients and outputs, against float64. ReLU's kink lets single elements differ more than rounding does.
LIMIT = {"float32": 1e-2, "float64": 1e-8}


@dataclasses.dataclass(frozen=True)
class Convolutions:
    """Where a network takes its convolutions from."""

    conv: type[nn.Conv2d]
    up: type[nn.ConvTranspose2d]


TORCH = Convolutions(nn.Conv2d, nn.ConvTranspose2d)
OURS = Convolutions(torch_conv_ext.Conv2d, torch_conv_ext.ConvTranspose2d)


# --- networks -----------------------------------------------------------------------------------------------


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


def _resnet(c: Convolutions) -> nn.Module:
    layers: list[nn.Module] = [c.conv(3, 32, 3, padding=1, bias=False), *_norm_relu(32)]
    ci = 32
    for co, stride in ((32, 1), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1)):
        body = nn.Sequential(
            c.conv(ci, co, 3, stride, 1, bias=False),
            *_norm_relu(co),
            c.conv(co, co, 3, 1, 1, bias=False),
            nn.BatchNorm2d(co),
        )
        same = ci == co and stride == 1
        shortcut = None if same else nn.Sequential(c.conv(ci, co, 1, stride, bias=False), nn.BatchNorm2d(co))
        layers.append(_Residual(body, shortcut))
        ci = co
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(ci, 10))


def _mobilenet(c: Convolutions) -> nn.Module:
    layers: list[nn.Module] = [c.conv(3, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6()]
    ci = 32
    for co, stride in ((16, 1), (24, 2), (24, 1), (32, 2), (32, 1), (64, 2), (64, 1), (96, 1)):
        wide = 6 * ci
        body = nn.Sequential(
            *(c.conv(ci, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()),
            *(c.conv(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()),
            *(c.conv(wide, co, 1, bias=False), nn.BatchNorm2d(co)),
        )
        layers.append(_Residual(body, relu=False) if ci == co and stride == 1 else body)
        ci = co
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(ci, 10))


def _twice(c: Convolutions, ci: int, co: int) -> nn.Sequential:
    return nn.Sequential(c.conv(ci, co, 3, padding=1), nn.ReLU(), c.conv(co, co, 3, padding=1), nn.ReLU())


class _UNet(nn.Module):
    def __init__(self, c: Convolutions) -> None:
        super().__init__()
        widths = (16, 32, 64, 128)
        self.down = nn.ModuleList(_twice(c, ci, co) for ci, co in zip((1, *widths[:-1]), widths, strict=True))
        self.up = nn.ModuleList(c.up(2 * co, co, 2, 2) for co in widths[-2::-1])
        self.join = nn.ModuleList(_twice(c, 2 * co, co) for co in widths[-2::-1])
        self.head = c.conv(widths[0], 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for up, join, skip in zip(self.up, self.join, skips[-2::-1], strict=True):
            x = join(torch.cat([up(x), skip], 1))
        y: Tensor = self.head(x)
        return y


def _generator(c: Convolutions) -> nn.Module:
    layers: list[nn.Module] = [c.up(100, 256, 4, bias=False), *_norm_relu(256)]
    for ci, co in ((256, 128), (128, 64), (64, 32)):
        layers += [c.up(ci, co, 4, 2, 1, bias=False), *_norm_relu(co)]
    return nn.Sequential(*layers, c.up(32, 3, 4, 2, 1, bias=False), nn.Tanh())


@dataclasses.dataclass(frozen=True)
class Model:
    """A network, and the size of one sample."""

    name: str
    build: Callable[[Convolutions], nn.Module]
    sample: tuple[int, int, int]
    batch: int


MODELS = (
    Model("ResNet", _resnet, (3, 32, 32), 32),
    Model("U-Net", _UNet, (1, 96, 96), 4),
    Model("DCGAN generator", _generator, (100, 1, 1), 16),
    Model("MobileNet", _mobilenet, (3, 64, 64), 16),
)
# On one tiny image a call's own cost is all there is; the second derivatives are those of a small layer.
CALLS = ("inference", "recorded", "with backward", "second derivative p0", "second derivative p1")


# --- what is timed ------------------------------------------------------------------------------------------


Prepared = tuple[float, float, Call, Call]  # torch's error and ours, torch's call and ours


@dataclasses.dataclass(frozen=True)
class Pass:
    """One way to run a network, or one call. `prepare` builds it and runs it once beside float64."""

    name: str
    suite: str
    batch: int
    kind: str
    dtype: str
    layout: str
    prepare: Callable[[], Prepared]

    def measure(self, seconds: float) -> tuple[Timing | None, float, float]:
        """Check, then time: gives the times and both errors. No times where our result is wrong."""
        torch_error, ours_error, torch_call, our_call = self.prepare()
        if not ours_error <= LIMIT[self.dtype]:
            return None, torch_error, ours_error
        return in_turns(lambda _: (torch_call, our_call), seconds), torch_error, ours_error


def passes(suite: str, dtype: str, layout: str, batch: int | None = None) -> Iterator[Pass]:
    """The passes of the suite 'models' or 'calls'; `batch` replaces those of the models."""
    if suite == "models":
        for model in MODELS:
            n = batch or model.batch
            for kind, prepare in (("inference", _inference), ("training step", _training)):
                yield Pass(
                    model.name, suite, n, kind, dtype, layout, partial(prepare, model, n, dtype, layout)
                )
    elif suite == "calls":
        for kind in CALLS:
            yield Pass(
                "Conv2d", suite, 1, f"call: {kind}", dtype, layout, partial(_single_call, kind, dtype, layout)
            )


def _form(layout: str) -> torch.memory_format:
    return torch.channels_last if layout == "channels_last" else torch.contiguous_format


def _laid_out(net: nn.Module, dtype: str, layout: str) -> nn.Module:
    move: Callable[..., nn.Module] = net.to  # torch's annotations do not know the memory format
    return move(dtype=getattr(torch, dtype), memory_format=_form(layout))


def _twins(model: Model, n: int, dtype: str, layout: str) -> tuple[nn.Module, nn.Module, Tensor]:
    """The network with torch's and with our convolutions, and a batch."""
    torch.manual_seed(0)
    nets = [model.build(c) for c in (TORCH, OURS)]
    nets[1].load_state_dict(nets[0].state_dict())
    nets = [_laid_out(net, dtype, layout) for net in nets]
    x = torch.randn(n, *model.sample, dtype=getattr(torch, dtype)).contiguous(memory_format=_form(layout))
    return nets[0], nets[1], x


def _inference(model: Model, n: int, dtype: str, layout: str) -> Prepared:
    first, second, x = _twins(model, n, dtype, layout)
    first.eval()
    second.eval()
    with torch.no_grad():
        reference = copy.deepcopy(first).double()(x.double())
        a, b = (largest_error(net(x), reference) for net in (first, second))

    def call(net: nn.Module) -> Call:
        @torch.no_grad()
        def run() -> object:
            return net(x)

        return run

    return a, b, call(first), call(second)


def _training(model: Model, n: int, dtype: str, layout: str) -> Prepared:
    first, second, x = _twins(model, n, dtype, layout)
    exact = _gradient(copy.deepcopy(first).double(), x.double())
    a, b = (largest_error(_gradient(copy.deepcopy(net), x), exact) for net in (first, second))

    def call(net: nn.Module) -> Call:
        # Small steps: after some hundred of them the numbers are still ordinary ones.
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-5, momentum=0.9)

        def run() -> None:
            optimizer.zero_grad()
            _loss(net, x).backward()
            optimizer.step()

        return run

    return a, b, call(first), call(second)


def _loss(net: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = net(x)
    return (y * y).mean()


def _gradient(net: nn.Module, x: Tensor) -> Tensor:
    """The gradients by all parameters, in one vector."""
    _loss(net, x).backward()
    return torch.cat([p.grad.double().flatten() for p in net.parameters() if p.grad is not None])


def _single_call(kind: str, dtype: str, layout: str) -> Prepared:
    torch.manual_seed(0)
    second = kind.startswith("second")
    shape, channels, padding = ((8, 8, 32, 32), 8, int(kind[-1])) if second else ((1, 1, 4, 4), 1, 1)
    net = nn.Conv2d(channels, channels, 3, padding=padding)
    ours = torch_conv_ext.Conv2d(channels, channels, 3, padding=padding)
    ours.load_state_dict(net.state_dict())
    x = torch.randn(shape, dtype=getattr(torch, dtype)).contiguous(memory_format=_form(layout))

    def run(module: nn.Module, x: Tensor) -> Tensor:
        if kind == "inference":
            with torch.no_grad():
                y: Tensor = module(x)
            return y
        if kind == "recorded":
            recorded: Tensor = module(x)
            return recorded
        if kind == "with backward":
            module.zero_grad()
            module(x).sum().backward()
            weight: Tensor = module.get_parameter("weight")
            assert weight.grad is not None
            return weight.grad
        y = module(x)
        weight = module.get_parameter("weight")
        (dw,) = torch.autograd.grad((y * y).sum(), weight, create_graph=True)
        return torch.autograd.grad((dw * dw).sum(), weight)[0]

    nets = [_laid_out(module, dtype, layout) for module in (net, ours)]
    reference = run(copy.deepcopy(nets[0]).double(), x.double()).detach()
    a, b = (largest_error(run(module, x).detach(), reference) for module in nets)
    return a, b, lambda: run(nets[0], x), lambda: run(nets[1], x)
