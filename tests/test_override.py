"""override: inside of the block torch's 2-D convolutions run here, outside they do not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import grad
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from owners import Compiler, owners
from torch_conv_ext import conv2d, override

pytestmark = pytest.mark.usefixtures("threads")

OURS, TORCHS = {"torch_conv_ext"}, {"aten"}


def operands(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """x, w and the gradient of the output, for stride 2 and padding 1."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 4, 7, 8), (6, 2, 3, 3), (2, 6, 4, 4))
    x, w, dy = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    return x, w, dy


class Functional(nn.Module):
    """A model that calls functions, and modules beside them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(4, 4, 3, padding="same", groups=2, dtype=torch.float64)
        self.weight = nn.Parameter(torch.randn(4, 3, 2, 2, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(torch.relu(self.conv(x)), self.weight.transpose(0, 1), stride=2)
        return torch.conv_transpose2d(y, self.weight.transpose(0, 1), stride=2)


def close(result: Any, expected: Any) -> None:
    """Sums of at most some hundred products of order one: 1e-11 is a thousand roundings of float64."""
    torch.testing.assert_close(result, expected, rtol=1e-11, atol=1e-11)


def run(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The output and the gradients of a loss by the input and all parameters."""
    x = x.clone().requires_grad_()
    y = model(x)
    return [y, *torch.autograd.grad(y.square().sum(), [x, *model.parameters()])]


# --- what is routed -----------------------------------------------------------------------------------------

_X, _W, _DY = operands()
_B = _W[:, 0, 0, 0]


def _seeded(cls: Any, ci: int, co: int) -> Any:
    torch.manual_seed(0)
    return cls(ci, co, 3, groups=2, dtype=torch.float64)


_OPTIONS: dict[str, Any] = {"stride": 2, "padding": 1, "groups": 2}
CALLS: dict[str, Callable[[], Any]] = {
    "F.conv2d": lambda: F.conv2d(_X, _W, **_OPTIONS),
    "torch.conv2d": lambda: torch.conv2d(_X, _W, None, (2, 2), padding=[1, 1], dilation=1, groups=2),
    "F.conv2d, keywords": lambda: F.conv2d(
        weight=_W, input=_X, padding="valid", groups=2, bias=_W[:, 0, 0, 0]
    ),
    "F.conv_transpose2d": lambda: F.conv_transpose2d(_DY, _W, output_padding=1, **_OPTIONS),
    "torch.conv_transpose2d": lambda: torch.conv_transpose2d(_DY, _W, None, 2, 1, (0, 1), 2),
    "nn.Conv2d": lambda: _seeded(nn.Conv2d, 4, 6)(_X),
    "nn.ConvTranspose2d": lambda: _seeded(nn.ConvTranspose2d, 6, 4)(_DY),
    "grad.conv2d_input": lambda: grad.conv2d_input(_X.shape, _W, _DY, **_OPTIONS),
    "grad.conv2d_weight": lambda: grad.conv2d_weight(_X, _W.shape, _DY, **_OPTIONS),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_run_here_inside_and_not_outside(name: str) -> None:
    call = CALLS[name]
    assert owners(call) == TORCHS
    with override():
        assert owners(call) == OURS
        result = call()
    assert owners(call) == TORCHS
    close(result, call())


def test_a_model_and_its_gradients() -> None:
    """The graph of the block has our nodes; its backward runs here after the block too."""
    model, x = Functional(), operands()[0]
    with override():
        close(run(model, x), expected := run(model, x))
        y = model(x)
    assert owners(lambda: y.sum().backward()) == OURS
    assert owners(lambda: model(x).sum().backward()) == TORCHS
    close(expected, run(model, x))


@pytest.mark.parametrize("name", ["conv1d", "conv3d", "conv_transpose1d", "conv_transpose3d"])
def test_other_dimensions_stay_with_torch(name: str) -> None:
    shape = [2] * (3 if "1d" in name else 5)
    x = torch.randn(shape)
    with override():
        assert owners(getattr(F, name), x, x) == TORCHS
        if name == "conv1d":
            assert owners(grad.conv1d_input, x.shape, x[..., :1], x) == TORCHS


def test_fallback_does_not_come_back() -> None:
    """What has no kernel here goes on to torch, in nested blocks and between other modes too."""
    seen: list[Any] = []

    class Other(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    x, w, dy = operands(torch.bfloat16)
    with override(), Other(), override():
        assert owners(F.conv2d, x, w, None, 2, 1, 1, 2) == TORCHS
        assert owners(F.conv_transpose2d, dy, w, None, 2, 1, 1, 2) == TORCHS
        assert owners(grad.conv2d_input, x.shape, w, dy, 2, 1, 1, 2) == TORCHS
        assert owners(grad.conv2d_weight, x, w.shape, dy, 2, 1, 1, 2) == TORCHS
        assert torch.equal(F.conv2d(x, w, groups=2), conv2d(x, w, groups=2))
    assert F.conv2d in seen


def test_other_gradients_asked_of_the_operator_stay_with_torch() -> None:
    """torch.nn.grad asks for one gradient; calls for several are torch's and give all of them."""
    x, w, dy = operands()
    arguments = (dy, x, w, [6], [2, 2], [1, 1], [1, 1], False, [0, 0], 2, [True, True, True])
    expected = torch.ops.aten.convolution_backward(*arguments)
    with override():
        assert owners(torch.ops.aten.convolution_backward, *arguments) == TORCHS
        torch.testing.assert_close(torch.ops.aten.convolution_backward(*arguments), expected, rtol=0, atol=0)


# --- the block ----------------------------------------------------------------------------------------------


def inside() -> bool:
    return owners(CALLS["F.conv2d"]) == OURS


def test_nesting() -> None:
    block = override()
    with block:
        with block, override():
            assert inside()
        assert inside()
    assert not inside()


def test_an_exception_ends_the_block() -> None:
    with pytest.raises(RuntimeError, match="to have 4 channels, but got 3 channels"), override():
        F.conv2d(_X[:, :3], _W, groups=2)
    assert not inside()


def test_decorator() -> None:
    @override()
    def decorated(depth: int) -> bool:
        """Its own text."""
        return inside() and (depth == 0 or decorated(depth - 1))

    assert decorated(2) and not inside()
    assert decorated.__doc__ == "Its own text."


def test_no_decorator_of_what_runs_in_pieces() -> None:
    def pieces() -> Iterator[int]:
        yield 1

    async def later() -> None:
        pass

    for function in (pieces, later):
        with pytest.raises(TypeError, match=f"the generator or coroutine {function.__name__}; put"):
            override()(function)


def test_other_threads_see_nothing() -> None:
    seen: list[bool] = []
    with override():
        other = threading.Thread(target=lambda: seen.append(inside()))
        other.start()
        other.join()
        assert inside()
    assert seen == [False]


def test_backward_in_another_thread() -> None:
    """The graph decides, not the thread in which backward runs."""
    model, x = Functional(), operands()[0]
    with override():
        loss = model(x).sum()
    seen: list[set[str]] = []
    other = threading.Thread(target=lambda: seen.append(owners(loss.backward)))
    other.start()
    other.join()
    assert seen == [OURS]


@pytest.mark.parametrize("reentrant", [False, True], ids=["", "reentrant"])
def test_checkpoint(reentrant: bool) -> None:
    """A part with a block of its own runs here both times, and the gradients are those without."""
    model, x = Functional(), operands()[0].requires_grad_(reentrant)
    expected = torch.autograd.grad(model(x).sum(), list(model.parameters()))

    def both() -> None:
        checkpoint(override()(model), x, use_reentrant=reentrant).sum().backward()

    assert owners(both) == OURS
    close([p.grad for p in model.parameters()], list(expected))


def test_transforms() -> None:
    """vmap and grad inside of the block: the gradient of each sample, as outside."""
    x, w, _ = operands()

    def loss(w: Tensor, x: Tensor) -> Tensor:
        return F.conv2d(x, w, None, 2, 1, 1, 2).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))
    with override():
        assert owners(each, w, x) == OURS
        result = each(w, x)
    close(result, each(w, x))


# --- with torch.compile -------------------------------------------------------------------------------------


def test_compile_in_the_block() -> None:
    """A compiled model called inside, outside and so on: each has its own code, forward and backward."""
    model, x = Functional(), operands()[0]
    expected = run(model, x)
    compiler = Compiler()
    compiled: Any = torch.compile(model, backend=compiler.backend, fullgraph=True)
    for _ in range(2):
        with override():
            close(run(compiled, x), expected)
        torch.testing.assert_close(run(compiled, x), expected, rtol=0, atol=0)
    assert compiler.owners == [OURS, OURS, TORCHS, TORCHS]
    torch._dynamo.reset()


def test_block_in_compiled_code() -> None:
    """As a block and as a decorator, each in one graph."""
    model, x = Functional(), operands()[0]

    def block(x: Tensor) -> Tensor:
        with override():
            y: Tensor = model(x)
        return y

    @override()
    def decorated(x: Tensor) -> Tensor:
        y: Tensor = model(x)
        return y

    for function in (block, decorated):
        compiler = Compiler()
        with torch.no_grad():
            close(torch.compile(function, backend=compiler.backend, fullgraph=True)(x), model(x))
        assert compiler.owners == [OURS]
    torch._dynamo.reset()
