"""Whole passes: training steps and inference of networks, and single calls on a tiny tensor.

Each network is built of torch.nn's modules; ours is a copy that `torch_conv_ext.convert` has swapped.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import torch_conv_ext
from torch_conv_ext._bench.timing import Call, Timing, in_turns, largest_error
from torch_conv_ext._bench.zoo import MODELS, Model

SOURCES = {
    "models": (
        "training step (forward, loss, backward, SGD) and inference of ResNet-50, MobileNetV2, "
        "EfficientNet-B0 and ResNeXt-50 32x4d, all from the package pytorchcv, of a narrow U-Net "
        "(arXiv:1505.04597) and of a narrow generator of DCGAN (arXiv:1511.06434)"
    ),
    "narrow": (
        "the same passes of a ResNet-18 for 32x32 images (arXiv:1512.03385) and of a MobileNetV2 "
        "(arXiv:1801.04381), both narrow"
    ),
    "calls": (
        "what a call costs: Conv2d(1, 1, 3, padding=1) on (1, 1, 4, 4), second derivatives "
        "(pytorch/pytorch 22577), and each sample's own gradient by torch.func's vmap of grad"
    ),
}

# Of gradients and outputs, against float64. ReLU's kink lets single elements differ more than rounding does:
# where torch's differ that much too, ours may by twice as much.
LIMIT = {"float32": 1e-2, "float64": 1e-8}


@dataclasses.dataclass(frozen=True)
class Convolutions:
    """Where a network takes its convolutions from."""

    conv: type[nn.Conv2d]
    up: type[nn.ConvTranspose2d]


TORCH = Convolutions(nn.Conv2d, nn.ConvTranspose2d)
OURS = Convolutions(torch_conv_ext.Conv2d, torch_conv_ext.ConvTranspose2d)


COMPILED = "inference, torch compiled"
BOTH_COMPILED = "inference, both compiled"
# On one tiny image a call's own cost is all there is; the last three are of small layers.
CALLS = (
    "inference",
    "recorded",
    "with backward",
    "second derivative p0",
    "second derivative p1",
    "per-sample gradients",
)
_CALLED_ON = {"second": (8, 8, 32), "per-sample": (16, 16, 32)}  # batch, channels, size of the image


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
        if not ours_error <= max(LIMIT[self.dtype], 2 * torch_error):
            return None, torch_error, ours_error
        return in_turns(lambda _: (torch_call, our_call), seconds), torch_error, ours_error


def passes(
    suite: str, dtype: str, layout: str, batch: int | None = None, compiled: bool = False
) -> Iterator[Pass]:
    """The passes of a suite of SOURCES, without models that need what is not installed.

    `batch` replaces those of the models. `compiled` adds inference beside torch.compile.
    """
    if suite in MODELS:
        kinds: dict[str, Callable[[Model, int, str, str], Prepared]] = {
            "inference": _inference,
            "training step": _training,
        }
        if compiled:
            kinds[COMPILED] = partial(_inference, compiler=_compiled)
            kinds[BOTH_COMPILED] = partial(_inference, compiler=_compiled, ours_too=True)
        for model in MODELS[suite]:
            n = batch or model.batch
            for kind, prepare in kinds.items() if model.available else ():
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
    net = _laid_out(model.build(), dtype, layout)
    ours = copy.deepcopy(net)
    torch_conv_ext.convert(ours)
    x = torch.randn(n, *model.sample, dtype=getattr(torch, dtype)).contiguous(memory_format=_form(layout))
    return net, ours, x


def _compiled(net: nn.Module) -> Any:
    """By torch.compile, during the first call. It forgets earlier networks, of which it keeps a few only."""
    torch.compiler.reset()
    return torch.compile(net)


def _inference(
    model: Model,
    n: int,
    dtype: str,
    layout: str,
    compiler: Callable[..., Any] = lambda net: net,
    ours_too: bool = False,
) -> Prepared:
    """Without a graph. torch's network goes through the compiler; ours too, if that is asked for."""
    first, second, x = _twins(model, n, dtype, layout)
    first.eval()
    second.eval()
    with torch.no_grad():
        reference = copy.deepcopy(first).double()(x.double())
        first, second = compiler(first), compiler(second) if ours_too else second
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
    n, channels, size = _CALLED_ON.get(kind.split()[0], (1, 1, 4))
    padding = 0 if kind.endswith("p0") else 1
    net = nn.Conv2d(channels, channels, 3, padding=padding)
    ours = torch_conv_ext.Conv2d(channels, channels, 3, padding=padding)
    ours.load_state_dict(net.state_dict())
    x = torch.randn(n, channels, size, size, dtype=getattr(torch, dtype))
    x = x.contiguous(memory_format=_form(layout))

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
        if kind == "per-sample gradients":
            return _per_sample_gradients(module, x)
        y = module(x)
        weight = module.get_parameter("weight")
        (dw,) = torch.autograd.grad((y * y).sum(), weight, create_graph=True)
        return torch.autograd.grad((dw * dw).sum(), weight)[0]

    nets = [_laid_out(module, dtype, layout) for module in (net, ours)]
    reference = run(copy.deepcopy(nets[0]).double(), x.double()).detach()
    a, b = (largest_error(run(module, x).detach(), reference) for module in nets)
    return a, b, lambda: run(nets[0], x), lambda: run(nets[1], x)


def _per_sample_gradients(module: nn.Module, x: Tensor) -> Tensor:
    """The weight's gradient of each sample's loss, (N, Co, Ci, kH, kW)."""

    def loss(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
        y: Tensor = functional_call(module, parameters, (sample[None],))
        return (y * y).sum()

    parameters = {name: p.detach() for name, p in module.named_parameters()}
    gradients: dict[str, Tensor] = vmap(grad(loss), (None, 0))(parameters, x)
    return gradients["weight"]
