"""torch.compile, torch.export, make_fx and the registrations that they rest on, each checked by its numbers.

torch.library.opcheck alone would not do: it passes for an operator without a gradient, and several ways to
give it one silently lose gradients or tangents.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as fwd
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

import torch_conv_ext

pytestmark = pytest.mark.usefixtures("threads")

Function = Callable[..., Any]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """No compiled code is left over from another test."""
    yield
    torch._dynamo.reset()


def compiled(function: Function, **options: Any) -> Function:
    """In one graph, traced through AOTAutograd, then run as it is."""
    result: Function = torch.compile(function, fullgraph=True, backend="aot_eager", **options)
    return result


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(result: Any, expected: Any) -> None:
    """Sums of at most some hundred products of order one: 1e-11 is a thousand roundings of float64."""
    torch.testing.assert_close(result, expected, rtol=1e-11, atol=1e-11)


def conv(package: Any) -> Function:
    return lambda x, w, b: package.conv2d(x, w, b, 2, (1, 2), (1, 2), 2)


def transposed(package: Any) -> Function:
    return lambda x, w, b: package.conv_transpose2d(x, w, b, 2, (1, 2), 1, 2, (1, 2))


# Our function, torch's, and tensors for them.
PAIRS: dict[str, tuple[Function, Function, tuple[Tensor, Tensor, Tensor]]] = {
    "conv2d": (conv(torch_conv_ext), conv(F), (randn(2, 4, 5, 6), randn(6, 2, 3, 2), randn(6))),
    "conv_transpose2d": (
        transposed(torch_conv_ext),
        transposed(F),
        (randn(2, 4, 5, 6), randn(4, 3, 3, 2), randn(6)),
    ),
}


def sequence(package: Any, seed: int = 0) -> torch.nn.Sequential:
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        package.Conv2d(4, 8, (3, 2), (2, 1), (1, 2), groups=2),
        torch.nn.Tanh(),
        package.ConvTranspose2d(8, 6, 3, 2, 1, output_padding=(1, 0), groups=2, bias=False),
    ).double()


def loss(function: Function) -> Function:
    return lambda *tensors: function(*tensors).sin().sum()


def with_gradients(function: Function) -> Function:
    """The output, and the gradients of a loss by all tensors."""

    def run(*tensors: Tensor) -> list[Tensor]:
        inputs = [t.clone().requires_grad_() for t in tensors]
        y = function(*inputs)
        return [y, *torch.autograd.grad(y.sin().sum(), inputs)]

    return run


# --- registrations ------------------------------------------------------------------------------------------

SIZES: dict[str, Any] = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2}
OPERATORS: dict[str, tuple[tuple[int, ...], tuple[int, ...], int, tuple[int, int]]] = {
    # the shapes of both operands, the elements of the bias, the free size of the result
    "forward": ((2, 4, 7, 6), (6, 2, 3, 2), 6, (4, 8)),
    "grad_input": ((2, 6, 4, 8), (6, 2, 3, 2), 4, (8, 5)),
    "grad_weight": ((2, 4, 7, 6), (2, 6, 4, 8), 0, (3, 3)),
}


def operator_arguments(name: str, dtype: torch.dtype, memory_format: torch.memory_format) -> list[Any]:
    first, second, channels, size = OPERATORS[name]
    a, b = (
        randn(*shape).to(dtype).contiguous(memory_format=memory_format).requires_grad_()
        for shape in (first, second)
    )
    bias = [randn(channels).to(dtype).requires_grad_()] if channels else []
    return [a, b, *bias, *size, *SIZES["stride"], *SIZES["padding"], *SIZES["dilation"], SIZES["groups"]]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(name: str, dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    """Schema, fake result (sizes and strides) and autograd registration of each operator."""
    operator = getattr(torch.ops.torch_conv_ext, name).default
    torch.library.opcheck(operator, tuple(operator_arguments(name, dtype, memory_format)))


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_have_gradients(name: str) -> None:
    """The operators themselves, as they stand in compiled graphs, to the second order."""
    arguments = operator_arguments(name, torch.float64, torch.contiguous_format)
    tensors = [t for t in arguments if isinstance(t, Tensor)]

    def function(*tensors: Tensor) -> Tensor:
        result: Tensor = getattr(torch.ops.torch_conv_ext, name)(*tensors, *arguments[len(tensors) :])
        return result

    # By random projections of the jacobian: the tensors are many.
    assert torch.autograd.gradcheck(function, tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, tensors, fast_mode=True)


# --- torch.compile ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("name", PAIRS)
def test_inference_and_training(name: str, channels_last: bool) -> None:
    """One graph; the same output and gradients as torch's, and the strides of the eager output."""
    ours, theirs, (x, w, b) = PAIRS[name]
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    function = compiled(ours)
    y = function(x, w, b)
    close(y, theirs(x, w, b))
    assert y.stride() == ours(x, w, b).stride()
    close(with_gradients(function)(x, w, b), with_gradients(theirs)(x, w, b))
    close(function(x[0], w, b), theirs(x[0], w, b))


@pytest.mark.parametrize("name", PAIRS)
def test_dynamic_shapes(name: str) -> None:
    """One compilation for all batch and image sizes."""
    ours, theirs, (_, w, b) = PAIRS[name]
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    function = torch.compile(ours, fullgraph=True, backend=counter, dynamic=True)
    # No first size is a multiple of another: torch would take that for a rule.
    for n, size in ((5, 9), (3, 7), (2, 6)):
        x = randn(n, 4, size, size + 2)
        close(with_gradients(function)(x, w, b), with_gradients(theirs)(x, w, b))
    assert counter.frame_count == 1


def test_gradients_as_functions() -> None:
    """conv2d_input and conv2d_weight in a graph, with their own gradients."""
    x, w = randn(2, 4, 5, 6), randn(6, 2, 3, 2)
    arguments = (2, 1, 1, 2)
    dy = torch.ones_like(F.conv2d(x, w, None, *arguments))
    nn_grad: Any = torch.nn.grad
    for ours, theirs, tensors in (
        (
            lambda w, dy: torch_conv_ext.conv2d_input(x.shape, w, dy, *arguments),
            lambda w, dy: nn_grad.conv2d_input(x.shape, w, dy, *arguments),
            (w, dy),
        ),
        (
            lambda x, dy: torch_conv_ext.conv2d_weight(x, w.shape, dy, *arguments),
            lambda x, dy: nn_grad.conv2d_weight(x, w.shape, dy, *arguments),
            (x, dy),
        ),
    ):
        close(with_gradients(compiled(ours))(*tensors), with_gradients(theirs)(*tensors))


def test_function_apply() -> None:
    """`apply` of the public Functions in a graph."""
    x, w, _ = PAIRS["conv2d"][2]
    for function in (torch_conv_ext.Conv2dFunction, torch_conv_ext.ConvTranspose2dFunction):
        torch_own = F.conv2d if function is torch_conv_ext.Conv2dFunction else F.conv_transpose2d
        apply = compiled(lambda x, w, function=function: function.apply(x, w))
        weight = w.repeat(1, 2, 1, 1)[:4]
        close(with_gradients(apply)(x, weight), with_gradients(torch_own)(x, weight))


TRANSFORMS: dict[str, Callable[[Function], Function]] = {
    "grad": lambda f: grad(loss(f), (0, 1, 2)),
    "jvp": lambda f: lambda *tensors: jvp(f, tensors, tensors),
    "vmap": lambda f: vmap(f, (0, None, None)),
    "vmap_grad": lambda f: vmap(grad(loss(f), 1), (0, None, None)),
    "grad_vmap": lambda f: grad(loss(vmap(f, (0, None, None))), (0, 1)),
    "jacrev": lambda f: jacrev(f, 1),
    "jacfwd": lambda f: jacfwd(f, 2),
    "vjp": lambda f: lambda *tensors: vjp(f, *tensors)[1](f(*tensors)),
    "hessian": lambda f: hessian(loss(f), 2),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", PAIRS)
def test_functorch_inside(name: str, transform: str) -> None:
    """Transforms in compiled code: where a custom Function would give zeros without a word. The graph has our
    operator, and not torch's.
    """
    ours, theirs, tensors = PAIRS[name]
    targets: list[Any] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Function:
        targets.extend(node.target for node in graph.graph.nodes)
        run: Function = torch._dynamo.lookup_backend("aot_eager")(graph, inputs)
        return run

    expected = TRANSFORMS[transform](theirs)(*tensors)
    assert all(t.abs().max() > 0 for t in torch.utils._pytree.tree_leaves(expected))
    close(torch.compile(TRANSFORMS[transform](ours), fullgraph=True, backend=backend)(*tensors), expected)
    operator = {"conv2d": "forward", "conv_transpose2d": "grad_input"}[name]
    assert getattr(torch.ops.torch_conv_ext, operator).default in targets
    assert not {torch.conv2d, torch.conv_transpose2d} & set(targets)


@pytest.mark.parametrize("name", PAIRS)
def test_forward_mode(name: str) -> None:
    """Tangents through compiled code, the level opened inside, or outside after a call without tangents."""
    ours, theirs, (x, w, b) = PAIRS[name]

    def tangent(function: Function) -> Function:
        def run(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
            with fwd.dual_level():
                y = function(fwd.make_dual(x, x.cos()), w, fwd.make_dual(b, b.cos()))
                result: Tensor = fwd.unpack_dual(y).tangent
            return result

        return run

    expected = tangent(theirs)(x, w, b)
    close(compiled(tangent(ours))(x, w, b), expected)
    by_sample = vmap(lambda x, w, b: ours(x[None], w, b)[0], (0, None, None))
    close(compiled(tangent(by_sample))(x, w, b), expected)
    function = compiled(ours)
    function(x, w, b)
    close(tangent(function)(x, w, b), expected)


def test_activation_checkpoint() -> None:
    """A compiled model that is computed again in backward: the bits of one that is not."""
    ours = torch_conv_ext.Conv2d(4, 4, 3, 1, 1, dtype=torch.float64)
    x = randn(2, 4, 5, 6)

    def plain(x: Tensor) -> Tensor:
        result: Tensor = ours(ours(x).sin())
        return result

    def again(x: Tensor) -> Tensor:
        result: Tensor = torch.utils.checkpoint.checkpoint(plain, x, use_reentrant=False)
        return result

    expected = with_gradients(compiled(plain))(x)
    assert all(map(torch.equal, with_gradients(compiled(again))(x), expected))


# --- with inductor, which writes and compiles code: ours are the only calls left in it ----------------------


@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler for inductor")
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_inductor(dynamic: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled in one graph: outputs, and gradients of a loss, of torch.nn's model."""
    # Nothing is left over from another run, and a CI is announced: torch then turns warnings into errors.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("CI", "1")
    quick: dict[str, Any] = {"cpp_cache_precompile_headers": False, "compile_threads": 1}
    ours, theirs = sequence(torch_conv_ext), sequence(torch.nn)
    run: Any = torch.compile(ours, fullgraph=True, dynamic=dynamic, options=quick)
    for height in (9, 12) if dynamic else (9,):
        x = randn(3, 4, height, 7, seed=1)
        with torch.inference_mode():
            close(run(x), theirs(x))
        x.requires_grad_()
        results = [
            torch.autograd.grad(function(x).sin().sum(), [x, *module.parameters()])
            for function, module in ((run, ours), (theirs, theirs))
        ]
        close(*results)


# --- torch.func on models -----------------------------------------------------------------------------------


@pytest.mark.parametrize("run", [lambda f: f, compiled], ids=["eager", "compiled"])
def test_ensemble(run: Callable[[Function], Function]) -> None:
    """Three models as one, by stacked weights: outputs and gradients of each alone, on the same input."""
    models = [sequence(torch_conv_ext, seed) for seed in range(3)]
    weights, _ = stack_module_state(models)
    x = randn(2, 4, 7, 8)

    def loss(weights: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        y = functional_call(models[0], weights, (x,))
        return y.square().sum(), y

    together = run(vmap(grad(loss, has_aux=True), (0, None)))
    found, outputs = together({name: w.detach() for name, w in weights.items()}, x)
    for i in range(3):
        alone = sequence(torch.nn, i)
        y = alone(x)
        close(outputs[i], y)
        expected = torch.autograd.grad(y.square().sum(), list(alone.parameters()))
        close([found[name][i] for name, _ in alone.named_parameters()], list(expected))


@pytest.mark.parametrize("run", [lambda f: f, compiled], ids=["eager", "compiled"])
def test_per_sample_gradients(run: Callable[[Function], Function]) -> None:
    """vmap of grad over the samples of a batch = the gradients of torch.nn's model, one sample at a time."""
    ours, theirs = sequence(torch_conv_ext), sequence(torch.nn)
    x = randn(3, 4, 7, 8)

    def loss(weights: dict[str, Tensor], sample: Tensor) -> Tensor:
        y: Tensor = functional_call(ours, weights, (sample[None],))
        return y.square().sum()

    weights = {name: p.detach() for name, p in ours.named_parameters()}
    found = run(vmap(grad(loss), (None, 0)))(weights, x)
    for i, sample in enumerate(x):
        expected = torch.autograd.grad(theirs(sample[None]).square().sum(), list(theirs.parameters()))
        close([found[name][i] for name in weights], list(expected))


# --- torch.export and make_fx -------------------------------------------------------------------------------


def twin_modules(name: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Our module and torch.nn's with the same parameters."""
    modules = []
    for package in (torch_conv_ext, torch.nn):
        torch.manual_seed(0)
        modules.append(getattr(package, name)(4, 6, (3, 2), 2, 1, groups=2, dtype=torch.float64))
    return modules[0], modules[1]


@pytest.mark.parametrize("strict", [False, True], ids=["non_strict", "strict"])
@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
def test_export(name: str, strict: bool) -> None:
    """An exported module holds our operator, takes other sizes, and trains."""
    ours, theirs = twin_modules(name)
    dynamic = {"input": {0: torch.export.Dim("n"), 2: torch.export.Dim("h", min=3, max=64)}}
    program = torch.export.export(ours, (randn(2, 4, 5, 6),), strict=strict, dynamic_shapes=dynamic)
    operator = {"Conv2d": "forward", "ConvTranspose2d": "grad_input"}[name]
    assert any(
        node.target == getattr(torch.ops.torch_conv_ext, operator).default for node in program.graph.nodes
    )
    exported: Any = program.module()
    x = randn(3, 4, 9, 6, seed=1)
    y, expected = exported(x), theirs(x)
    close(y, expected)
    close(
        torch.autograd.grad(y.sin().sum(), list(exported.parameters())),
        torch.autograd.grad(expected.sin().sum(), list(theirs.parameters())),
    )


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
@pytest.mark.parametrize("name", PAIRS)
def test_make_fx(name: str, mode: Any) -> None:
    """Traced together with its gradients, into our three operators."""
    ours, theirs, tensors = PAIRS[name]
    graph = make_fx(with_gradients(ours), tracing_mode=mode)(*tensors)
    names = {node.target._opname for node in graph.graph.nodes if "torch_conv_ext" in str(node.target)}
    assert names == {"forward", "grad_input", "grad_weight"}
    close(graph(*tensors), with_gradients(theirs)(*tensors))
