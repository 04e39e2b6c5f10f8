"""Tensors without kernels here go to torch's own operator, with torch's results, dtypes and devices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import torch_conv_ext
from owners import owners

pytestmark = pytest.mark.usefixtures("threads")

NAMES = ["conv2d", "conv_transpose2d"]


def tensors(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Small integers, exact in every dtype, of which no sum of products rounds."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 4, 6, 7), (4, 4, 3, 2), (4,))
    x, w, b = (torch.randint(-2, 3, shape, generator=generator).to(dtype) for shape in shapes)
    return x, w, b


@pytest.mark.parametrize("name", NAMES)
def test_float32_and_float64_run_here(name: str) -> None:
    for dtype in (torch.float32, torch.float64):
        assert owners(getattr(torch_conv_ext, name), *tensors(dtype)) == {"torch_conv_ext"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.complex64, torch.int64], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_other_dtypes_go_to_torch(name: str, dtype: torch.dtype) -> None:
    """The same result and gradients as torch's, by torch's operator."""
    ours, theirs = getattr(torch_conv_ext, name), getattr(F, name)
    try:
        expected = theirs(*tensors(dtype), stride=2, padding=1)
    except RuntimeError as error:  # a dtype that torch has no kernel for: the same error here
        with pytest.raises(RuntimeError, match=str(error)[:20]):
            ours(*tensors(dtype), stride=2, padding=1)
        return
    assert "torch_conv_ext" not in owners(ours, *tensors(dtype))
    result = ours(*tensors(dtype), stride=2, padding=1)
    assert result.dtype == dtype
    assert torch.equal(result, expected)
    if dtype.is_floating_point:
        gradients = []
        for function in (ours, theirs):
            leaves = [t.requires_grad_() for t in tensors(dtype)]
            gradients.append(torch.autograd.grad(function(*leaves, stride=2).sum(), leaves))
        torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_other_dtypes_of_the_gradients_go_to_torch() -> None:
    """conv2d_input and conv2d_weight in bfloat16 are torch.nn.grad's."""
    x, w, _ = tensors(torch.bfloat16)
    dy = torch.ones_like(F.conv2d(x, w))
    grad: Any = torch.nn.grad
    assert torch.equal(torch_conv_ext.conv2d_input(x.shape, w, dy), grad.conv2d_input(x.shape, w, dy))
    assert torch.equal(torch_conv_ext.conv2d_weight(x, w.shape, dy), grad.conv2d_weight(x, w.shape, dy))


@pytest.mark.parametrize("name", NAMES)
def test_modules_of_other_dtypes(name: str) -> None:
    """A module in bfloat16 runs and trains."""
    module = {"conv2d": torch_conv_ext.Conv2d, "conv_transpose2d": torch_conv_ext.ConvTranspose2d}[name](
        4, 4, 3
    )
    module = module.to(torch.bfloat16)
    y = module(tensors(torch.bfloat16)[0])
    y.sum().backward()
    assert y.dtype == torch.bfloat16
    assert all(p.grad is not None and p.grad.dtype == torch.bfloat16 for p in module.parameters())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_meta_tensors(name: str) -> None:
    """On the meta device: size, dtype and device of torch's result."""
    ours, theirs = getattr(torch_conv_ext, name), getattr(F, name)
    meta = [t.to("meta") for t in tensors(torch.float32)]
    for options in [{}, {"stride": 2, "padding": 1}] + ([{"padding": "same"}] if name == "conv2d" else []):
        result, expected = ours(*meta, **options), theirs(*meta, **options)
        assert (result.shape, result.dtype, result.device) == (expected.shape, expected.dtype, meta[0].device)
    with torch.device("meta"):
        module = torch_conv_ext.Conv2d(4, 6, 3)
    assert module(meta[0]).device.type == "meta"


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("name", NAMES)
def test_fake_tensors(name: str, channels_last: bool) -> None:
    """In FakeTensorMode: size and strides of the kernel's result."""
    x, w, b = tensors(torch.float32)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    function = getattr(torch_conv_ext, name)
    expected = function(x, w, b, stride=2)
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(t) for t in (x, w, b)]
        result = function(*fakes, stride=2)
    assert (result.shape, result.stride()) == (expected.shape, expected.stride())


@pytest.mark.parametrize("name", NAMES)
def test_autocast(name: str) -> None:
    """Under autocast the result has autocast's dtype and is torch's; also from tensors of mixed dtypes."""
    ours, theirs = getattr(torch_conv_ext, name), getattr(F, name)
    x, w, b = tensors(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(x, w, b).dtype == torch.bfloat16
        assert torch.equal(ours(x, w, b), theirs(x, w, b))
        assert torch.equal(ours(x.bfloat16(), w, b), theirs(x.bfloat16(), w, b))
        with torch.autocast("cpu", enabled=False):
            assert ours(x, w, b).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        module = torch_conv_ext.Conv2d(4, 4, 3)
        y = module(x)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert module.weight.grad is not None and module.weight.grad.dtype == torch.float32


class Tagged(torch.Tensor):
    """A subclass; functions of it return it."""


class Logged(torch.Tensor):
    """A subclass that notes the functions called with it."""

    calls: list[Any] = []  # noqa: RUF012

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.calls.append(func)
        return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("name", NAMES)
def test_subclasses_go_to_torch(name: str) -> None:
    """A subclass in any place keeps its class, and its __torch_function__ sees torch's function."""
    ours, theirs = getattr(torch_conv_ext, name), getattr(F, name)
    plain = tensors(torch.float32)
    for place in range(3):
        arguments = [t.as_subclass(Tagged) if i == place else t for i, t in enumerate(plain)]
        result = ours(*arguments)
        assert type(result) is Tagged
        assert torch.equal(result.as_subclass(Tensor), theirs(*plain))
    Logged.calls.clear()
    ours(plain[0].as_subclass(Logged), plain[1])
    assert theirs in Logged.calls


def test_parameters_and_default_device_are_plain() -> None:
    """Parameters run here; so do tensors while a torch function mode, such as torch.device, is active."""
    x, w, b = tensors(torch.float32)
    assert owners(torch_conv_ext.conv2d, x, torch.nn.Parameter(w), torch.nn.Parameter(b)) == {
        "torch_conv_ext"
    }
    with torch.device("cpu"):
        assert owners(torch_conv_ext.conv2d, x, w, b) == {"torch_conv_ext"}


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
def test_jit_trace(name: str) -> None:
    """A traced module is made of torch's operators, and gives our results."""
    module = getattr(torch_conv_ext, name)(4, 4, 3, stride=2)
    x, _, _ = tensors(torch.float32)
    traced: Any = torch.jit.trace(module, (x[:1],))
    assert "aten::_convolution" in str(traced.inlined_graph)
    torch.testing.assert_close(traced(x), module(x))


def test_other_layouts_go_to_torch() -> None:
    """oneDNN's opaque tensors are torch's business."""
    x, w, b = tensors(torch.float32)
    result = torch_conv_ext.conv2d(x.to_mkldnn(), w, b)
    assert torch.equal(result.to_dense(), F.conv2d(x, w, b))


# --- padding beyond torch's ---------------------------------------------------------------------------------

PADDINGS: list[dict[str, Any]] = [
    {"padding": "same", "stride": [2, 1]},
    {"padding": ((1, 0), (2, 1)), "stride": (1, 2)},
    {"padding": 1, "padding_mode": "reflect"},
    {"padding": ((1, 0), (2, 1)), "padding_mode": "circular", "dilation": (1, 2)},
    {"padding": "same", "padding_mode": "replicate", "groups": 2},
    {"padding": "same", "stride": (4, 3)},  # rows and columns of the transposed output without terms
]


@pytest.mark.parametrize("options", PADDINGS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_padding(name: str, options: dict[str, Any]) -> None:
    """bfloat16, autocast and the meta device: the result that float64 has here, up to a rounding.

    Small integers: no sum rounds in float32.
    """
    run: Any = getattr(torch_conv_ext, name)
    groups = options.get("groups", 1)
    x, w = (torch.randint(-2, 3, s).double() for s in ((2, 4, 6, 7), (4, 4 // groups, 3, 2)))
    expected = run(x, w, **options)
    result = run(x.bfloat16(), w.bfloat16(), **options)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, expected.bfloat16())
    assert torch.equal(run(x[0].bfloat16(), w.bfloat16(), **options), result[0])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(run(x.float(), w.float(), **options), result)
    assert run(x.to("meta"), w.to("meta"), **options).shape == expected.shape


@pytest.mark.parametrize("options", PADDINGS[:2], ids=str)
def test_padding_of_the_gradients(options: dict[str, Any]) -> None:
    """The four gradient functions in bfloat16: the result that float64 has here, up to a rounding."""
    x, w = (torch.randint(-2, 3, s).double() for s in ((2, 4, 6, 7), (4, 4, 3, 2)))
    for name in NAMES:
        convolution, by_input, by_weight = (
            getattr(torch_conv_ext, name + gradient) for gradient in ("", "_input", "_weight")
        )
        dy = torch.randint_like(convolution(x, w, **options), -1, 2)
        expected = by_input(x.shape, w, dy, **options), by_weight(x, w.shape, dy, **options)
        x_, w_, dy_ = (t.bfloat16() for t in (x, w, dy))
        assert torch.equal(by_input(x.shape, w_, dy_, **options), expected[0].bfloat16())
        assert torch.equal(by_weight(x_, w.shape, dy_, **options), expected[1].bfloat16())
