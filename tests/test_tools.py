"""Tools that look at a model or rewrite it: torch.fx, torch.jit, quantization, profiler, counters, modes."""

from __future__ import annotations

import io
import pickle
from typing import Any

import pytest
import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import torch_conv_ext

pytestmark = pytest.mark.usefixtures("threads")


def model(package: Any, groups: int = 1) -> Any:
    """The same parameters from torch_conv_ext and from torch.nn."""
    torch.manual_seed(0)
    return nn.Sequential(
        package.Conv2d(4, 6, (3, 2), 2, (1, 0), groups=groups),
        nn.ReLU(),
        package.ConvTranspose2d(6, 4, 3, 2, 1, output_padding=1, groups=groups),
    )


X = torch.randn(2, 4, 8, 9, generator=torch.Generator().manual_seed(1))


# --- torch.fx -----------------------------------------------------------------------------------------------


class Functions(nn.Module):
    """All functions, called from a model of a user."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        y = torch_conv_ext.conv2d(x, self.w, padding="same")
        z = torch_conv_ext.conv_transpose2d(y, weight=self.w, stride=2)
        dx = torch_conv_ext.conv2d_input((2, 4, 8, 9), self.w, y, padding=1)
        dw = torch_conv_ext.conv2d_weight(x, (4, 4, 3, 3), y, padding=1)
        u = torch_conv_ext.conv2d(x, self.w, None, 2, "same", padding_mode="reflect")
        v = torch_conv_ext.conv_transpose2d(u, self.w, None, 2, ((1, 2), (0, 1)), padding_mode="circular")
        du = torch_conv_ext.conv_transpose2d_input((2, 4, 4, 5), self.w, v, 2, ((1, 2), (0, 1)))
        dv = torch_conv_ext.conv_transpose2d_weight(u, (4, 4, 3, 3), v, 2, ((1, 2), (0, 1)))
        db = torch_conv_ext.conv2d_bias(v)
        return torch.stack([t.sum() for t in (z, dx, dw, du, dv, db * db)])


FUNCTIONS = [
    *("conv2d", "conv_transpose2d", "conv2d_input", "conv2d_weight", "conv2d", "conv_transpose2d"),
    *("conv_transpose2d_input", "conv_transpose2d_weight", "conv2d_bias"),
]


def test_fx_trace() -> None:
    """A traced model calls our functions, and so gives the bits of the model."""
    for module, names in (
        (model(torch_conv_ext), ["conv2d", "conv_transpose2d"]),
        (Functions(), FUNCTIONS),
    ):
        traced = torch.fx.symbolic_trace(module)
        targets = [node.target for node in traced.graph.nodes if node.op == "call_function"]
        ours = [getattr(torch_conv_ext, name) for name in names]
        assert [target for target in targets if target in ours] == ours
        assert torch.equal(traced(X), module(X))
    whole = model(torch_conv_ext)
    assert torch.equal(pickle.loads(pickle.dumps(torch.fx.symbolic_trace(whole)))(X), whole(X))


# --- torch.jit ----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "circular"])
def test_script(padding_mode: Any) -> None:
    """Scripted layers are made of torch's operators, as scripted layers of torch.nn, and can be saved."""
    ours = model(torch_conv_ext)
    ours.append(torch_conv_ext.Conv2d(4, 4, 3, padding=1, padding_mode=padding_mode, bias=False))
    ours.append(torch_conv_ext.Conv2d(4, 4, 2, padding="same"))
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(ours), file)
    file.seek(0)
    loaded: Any = torch.jit.load(file)
    # four layers of sums of less than 100 products of order one
    torch.testing.assert_close(loaded(X), ours(X), rtol=1e-5, atol=1e-5)
    graph = str(loaded.inlined_graph)
    assert graph.count("aten::conv2d") == 3 and graph.count("aten::conv_transpose2d") == 1
    assert type(ours[0]) is torch_conv_ext.Conv2d


SIDES: Any = ((0, 1), (1, 0))


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize(
    "module",
    [
        torch_conv_ext.Conv2d(4, 4, 3, 2, padding="same"),
        torch_conv_ext.Conv2d(4, 4, 3, padding=SIDES),
        torch_conv_ext.Conv2d(4, 4, 3, padding=SIDES, padding_mode="circular"),
        torch_conv_ext.ConvTranspose2d(4, 4, 3, 2, padding="same"),
        torch_conv_ext.ConvTranspose2d(4, 4, 3, padding=SIDES),
        torch_conv_ext.ConvTranspose2d(4, 4, 3, padding_mode="circular"),
    ],
    ids=str,
)
def test_script_has_torchs_paddings_only(module: Any) -> None:
    """What torch's operators do not take is an error, when it is scripted or when it runs."""
    with pytest.raises((RuntimeError, torch.jit.Error)):
        torch.jit.script(module)(X)


def _scripted(x: Tensor, w: Tensor) -> Tensor:
    y = torch_conv_ext.conv2d(x, w, padding="same")
    return torch_conv_ext.conv_transpose2d(y, w, None, 2)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_script_of_a_function() -> None:
    """Our functions may be called in scripted code."""
    w = torch.randn(4, 4, 3, 3)
    torch.testing.assert_close(torch.jit.script(_scripted)(X, w), _scripted(X, w), rtol=1e-5, atol=1e-4)


# --- quantization -------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_quantization_leaves_our_layers() -> None:
    """torch.ao's quantization knows layers by their class: ours stay as they are, and work."""
    quantization = pytest.importorskip("torch.ao.quantization")
    from torch.ao.quantization import quantize_fx

    ours = model(torch_conv_ext).eval()
    mapping = quantization.get_default_qconfig_mapping()
    prepared = quantize_fx.prepare_fx(ours, mapping, (X,))
    assert torch.equal(prepared(X), ours(X))
    converted = quantize_fx.convert_fx(prepared)
    targets = [node.target for node in converted.graph.nodes]
    assert torch_conv_ext.conv2d in targets and torch_conv_ext.conv_transpose2d in targets
    # the ReLU between them has 8 bits: a step of 1/100, and few terms
    torch.testing.assert_close(converted(X), ours(X), rtol=0, atol=0.05)
    ours.train().qconfig = quantization.get_default_qat_qconfig()
    trained = quantization.prepare_qat(ours)
    assert type(trained[0]) is torch_conv_ext.Conv2d
    trained(X).sum().backward()


# --- profiler and counters ----------------------------------------------------------------------------------


def test_profiler() -> None:
    """Operators and nodes of the graph are listed under their names, with the shapes of the operands."""
    with torch.profiler.profile(record_shapes=True) as profile:
        model(torch_conv_ext)(X).sum().backward()
    events = profile.key_averages(group_by_input_shape=True)
    shapes = {(event.key, tuple(map(tuple, event.input_shapes[:2]))) for event in events}
    for convolution in (
        ("torch_conv_ext::forward", (tuple(X.shape), (6, 4, 3, 2))),
        ("torch_conv_ext::grad_input", ((2, 6, 4, 4), (6, 4, 3, 3))),
        ("torch_conv_ext::forward", ((2, 4, 8, 8), (6, 4, 3, 3))),  # in backward of the transposed one
        ("torch_conv_ext::grad_weight", (tuple(X.shape), (2, 6, 4, 4))),
    ):
        assert convolution in shapes
    assert {"Conv2dFunctionBackward", "ConvTranspose2dFunctionBackward"} <= {name for name, _ in shapes}


def test_flop_counter() -> None:
    """Operations are counted as torch counts those of its convolutions, forward and backward."""
    counts = []
    for package in (torch_conv_ext, nn):
        with FlopCounterMode(display=False) as counter:
            model(package)(X.clone().requires_grad_()).sum().backward()
        counts.append(counter.get_flop_counts())
    ours, theirs = counts
    for layer in ("Global", "Sequential.0", "Sequential.2"):
        assert sum(ours[layer].values()) == sum(theirs[layer].values()) > 0
    # Each layer's three contractions are equally many products: 2 * N * oH * oW * elements of the weight.
    first, second = 2 * 2 * 4 * 4 * (6 * 4 * 3 * 2), 2 * 2 * 4 * 4 * (6 * 4 * 3 * 3)
    assert sorted(ours["Sequential.0"].values()) == [first] * 3
    assert sorted(ours["Sequential.2"].values()) == [second] * 3
    with FlopCounterMode(display=False) as counter:
        model(torch_conv_ext, groups=2)(X)
    assert counter.get_total_flops() == (first + second) / 2


# --- modes and subclasses -----------------------------------------------------------------------------------


class Scaled(TorchDispatchMode):
    """Notes our operators and doubles what they return."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.namespace != "torch_conv_ext":
            return result
        self.names.append(func._opname)
        return 2 * result


def test_dispatch_mode() -> None:
    """A mode sees each operator of forward and backward, and what it returns is taken."""
    x = X.clone().requires_grad_()
    conv = model(torch_conv_ext)[0]
    expected = torch.autograd.grad(conv(x).sum(), (x, conv.weight))
    mode = Scaled()
    with mode:
        y = conv(x)
        doubled = torch.autograd.grad(y.sum(), (x, conv.weight))
    assert mode.names == ["forward", "grad_input", "grad_weight"]
    assert torch.equal(y, 2 * conv(X))
    assert all(torch.equal(a, 2 * b) for a, b in zip(doubled, expected, strict=True))


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_wrapper_subclass(compiled: bool) -> None:
    """A subclass that holds two tensors gets torch's convolution of each, eager and compiled."""
    w = torch.randn(6, 4, 3, 3)

    def function(x: Tensor) -> Tensor:
        return torch_conv_ext.conv2d(x, w, None, 2)

    run = torch.compile(function, backend="aot_eager", fullgraph=True) if compiled else function
    result: Any = run(TwoTensor(X, 2 * X))
    torch._dynamo.reset()
    assert type(result) is TwoTensor
    torch.testing.assert_close(result.a, F.conv2d(X, w, None, 2), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(result.b, F.conv2d(2 * X, w, None, 2), rtol=1e-5, atol=1e-5)
