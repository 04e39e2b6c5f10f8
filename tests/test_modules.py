"""Conv2d, ConvTranspose2d and their lazy forms against torch.nn's: parameters, results, copies."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

import torch_conv_ext
from owners import owners

pytestmark = pytest.mark.usefixtures("threads")

CONV: dict[str, dict[str, Any]] = {
    "defaults": {},
    "all": {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2},
    "no_bias": {"bias": False, "padding": 1},
    "same": {"padding": "same", "dilation": 2},
    "valid": {"padding": "valid"},
    "reflect": {"padding": (1, 2), "padding_mode": "reflect"},
    "replicate": {"padding": 2, "padding_mode": "replicate", "stride": 2},
    "circular": {"padding": (2, 1), "padding_mode": "circular", "groups": 2},
    "same_circular": {"padding": "same", "padding_mode": "circular"},
}
TRANSPOSED: dict[str, dict[str, Any]] = {
    "defaults": {},
    "all": {"stride": 2, "padding": (1, 0), "output_padding": (1, 0), "dilation": (1, 2), "groups": 2},
    "no_bias": {"bias": False, "stride": 3},
}
CASES = [("Conv2d", options) for options in CONV.values()]
CASES += [("ConvTranspose2d", options) for options in TRANSPOSED.values()]
IDS = [f"Conv2d-{name}" for name in CONV] + [f"ConvTranspose2d-{name}" for name in TRANSPOSED]


def twins(name: str, options: dict[str, Any]) -> tuple[Any, Any]:
    """Our module and torch's from the same constructor call and the same seed."""
    modules = []
    for package in (torch_conv_ext, torch.nn):
        torch.manual_seed(0)
        modules.append(getattr(package, name)(4, 6, (3, 2), dtype=torch.float64, **options))
    return modules[0], modules[1]


def run(module: Any, x: Tensor, **options: Any) -> tuple[Tensor, ...]:
    """The output, and the gradients of a loss by the input and all parameters."""
    x = x.clone().requires_grad_()
    y = module(x, **options)
    return y, *torch.autograd.grad(y.square().sum(), [x, *module.parameters()])


def close(result: Any, expected: Any) -> None:
    """Sums of at most some thousand products of order one: 1e-11 is a thousand roundings of float64."""
    torch.testing.assert_close(result, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_same_as_torch_nn(name: str, options: dict[str, Any]) -> None:
    """Same repr, same parameters from the same seed, same output and gradients, batched and unbatched."""
    ours, theirs = twins(name, options)
    assert isinstance(ours, type(theirs))
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))
    x = torch.randn(2, 4, 7, 8, dtype=torch.float64)
    close(run(ours, x), run(theirs, x))
    close(run(ours, x[0]), run(theirs, x[0]))


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_state_dict_exchange(name: str, options: dict[str, Any]) -> None:
    """A state_dict loads into the other package's module, both ways."""
    ours, theirs = twins(name, options)
    x = torch.randn(1, 4, 7, 8, dtype=torch.float64)
    for source, target in ((ours, theirs), (theirs, ours)):
        with torch.no_grad():
            for parameter in source.parameters():
                parameter.normal_()
        assert not any(map(torch.equal, source.parameters(), target.parameters()))
        target.load_state_dict(source.state_dict())
        close(target(x), source(x))


# What torch's constructors refuse, and what the module's repr shows of it.
MORE: dict[str, tuple[str, dict[str, Any], str]] = {
    "same_with_stride": ("Conv2d", {"padding": "same", "stride": 2}, "padding=same"),
    "same_reflect": (
        "Conv2d",
        {"padding": "same", "stride": (1, 3), "padding_mode": "reflect"},
        "padding=same, padding_mode=reflect",
    ),
    "sides": ("Conv2d", {"padding": [[0, 1], (2, 3)]}, "padding=((0, 1), (2, 3))"),
    "transposed_same": ("ConvTranspose2d", {"padding": "same", "stride": 2}, "padding=same"),
    "transposed_valid": ("ConvTranspose2d", {"padding": "valid", "output_padding": 1, "stride": 2}, "valid"),
    "transposed_sides": ("ConvTranspose2d", {"padding": ((0, 1), (1, 0))}, "padding=((0, 1), (1, 0))"),
    "transposed_circular": (
        "ConvTranspose2d",
        {"padding": 1, "stride": 2, "padding_mode": "circular"},
        "padding=(1, 1), padding_mode=circular",
    ),
}


@pytest.mark.parametrize(("name", "options", "shown"), MORE.values(), ids=MORE)
def test_more_than_torch_nn(name: str, options: dict[str, Any], shown: str) -> None:
    """torch's parameters and the function's result; repr, state_dict, deepcopy, pickle and torch.save."""
    torch.manual_seed(0)
    module: Any = getattr(torch_conv_ext, name)(4, 6, (3, 2), dtype=torch.float64, **options)
    _, plain = twins(name, {})
    assert all(map(torch.equal, module.parameters(), plain.parameters()))
    assert shown in repr(module)
    x = torch.randn(2, 4, 7, 8, dtype=torch.float64)
    function: Any = {"Conv2d": torch_conv_ext.conv2d, "ConvTranspose2d": torch_conv_ext.conv_transpose2d}[
        name
    ]
    expected = function(x, module.weight, module.bias, **options)
    assert torch.equal(module(x), expected)
    assert torch.equal(module(x[0]), expected[0])
    check_copies(module, x)
    assert torch.equal(torch.fx.symbolic_trace(torch.nn.Sequential(module))(x), expected)
    plain.load_state_dict(module.state_dict())
    module.load_state_dict(plain.state_dict())


def test_refused_arguments() -> None:
    """A ValueError in the constructor, as in torch.nn, for names that do not exist."""
    for module in (torch_conv_ext.Conv2d, torch_conv_ext.ConvTranspose2d):
        with pytest.raises(ValueError, match="Invalid padding string 'full'"):
            module(1, 1, 2, padding="full")
        with pytest.raises(ValueError, match=r"padding_mode must be one of .* padding_mode='mirror'"):
            module(1, 1, 2, padding_mode="mirror")
        with pytest.raises(RuntimeError, match="negative padding is not supported"):
            module(1, 1, 2, padding=((0, 0), (0, -1)))
    with pytest.raises(ValueError, match="takes no output padding"):
        torch_conv_ext.ConvTranspose2d(1, 1, 2, 2, padding="same", output_padding=1)


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_copies(name: str, options: dict[str, Any]) -> None:
    """deepcopy, pickle and torch.save give a module of the same class with the same parameters and output."""
    check_copies(twins(name, options)[0], torch.randn(1, 4, 7, 8, dtype=torch.float64))


def check_copies(ours: Any, x: Tensor) -> None:
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    for twin in (
        copy.deepcopy(ours),
        pickle.loads(pickle.dumps(ours)),
        torch.load(file, weights_only=False),
    ):
        assert type(twin) is type(ours)
        assert repr(twin) == repr(ours)
        assert torch.equal(twin(x), ours(x))
        assert all(a is not b for a, b in zip(twin.parameters(), ours.parameters(), strict=True))


@pytest.mark.parametrize("whole", [False, True], ids=["spatial", "whole"])
def test_output_size(whole: bool) -> None:
    """Each of the stride's sizes can be asked for, as (oH, oW) or whole; others are a ValueError."""
    ours, theirs = twins("ConvTranspose2d", {"stride": (2, 3), "padding": 1})
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    smallest = theirs(x).shape[2:]
    for rows in range(2):
        for columns in range(3):
            size = [smallest[0] + rows, smallest[1] + columns]
            output_size = [2, 6, *size] if whole else size
            result = run(ours, x, output_size=output_size)
            assert list(result[0].shape[2:]) == size
            close(result, run(theirs, x, output_size=output_size))
    for too_far in (-1, 2):
        with pytest.raises(ValueError, match="requested an output size of"):
            ours(x, output_size=[smallest[0] + too_far, smallest[1]])


@pytest.mark.parametrize("kernel", [(1, 2), (3, 4), (5, 7)], ids=str)
@pytest.mark.parametrize("stride", [(1, 1), (2, 3)], ids=str)
def test_output_size_of_same(kernel: tuple[int, int], stride: tuple[int, int]) -> None:
    """With 'same' each size that conv2d's 'same' maps to the input's can be asked for, and is its adjoint:
    <conv2d(x, w), y> = <x, conv_transpose2d(y, w)>."""
    module = torch_conv_ext.ConvTranspose2d(
        4, 6, kernel, stride, padding="same", bias=False, dtype=torch.float64
    )
    y = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    sizes = [(h, w) for h in range(1, 20) for w in range(1, 20)]
    possible = [
        (h, w) for h, w in sizes if (-(-h // stride[0]), -(-w // stride[1])) == (y.shape[2], y.shape[3])
    ]
    assert len(possible) == stride[0] * stride[1]
    for size in possible:
        result = module(y, output_size=size)
        x = torch.randn(2, 6, *size, dtype=torch.float64)
        forward = torch_conv_ext.conv2d(x, module.weight, stride=stride, padding="same")
        assert result.shape == x.shape
        close((forward * y).sum(), (x * result).sum())
    assert torch.equal(module(y, output_size=possible[-1]), module(y))
    for size in set(sizes) - set(possible):
        with pytest.raises(ValueError, match="requested an output size of"):
            module(y, output_size=size)


def test_output_size_with_a_padding_for_each_side() -> None:
    """Cut off both sides together, a padding of 2 leaves the same sizes as 1 on each side."""
    symmetric, _ = twins("ConvTranspose2d", {"stride": (2, 3), "padding": 1})
    sides, _ = twins("ConvTranspose2d", {"stride": (2, 3), "padding": ((1, 1), (0, 2))})
    y = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    for size in ((9, 15), (10, 17)):
        expected = symmetric(y, output_size=size)
        result = sides(y, output_size=size)
        assert result.shape == expected.shape
        close(result[..., 1:], expected[..., :-1])
    with pytest.raises(ValueError, match=r"valid sizes range from \[9, 15\] to \[10, 17\]"):
        sides(y, output_size=(9, 18))


def test_channels_last() -> None:
    """A module converted to channels_last gives channels_last results and parameter gradients."""
    module: Any = torch_conv_ext.Conv2d(4, 6, 3, padding=1)
    module.to(memory_format=torch.channels_last)
    y, dx, dw, _ = run(module, torch.randn(2, 4, 7, 8).contiguous(memory_format=torch.channels_last))
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in (y, dx, dw))


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_symbolic_trace(name: str, options: dict[str, Any]) -> None:
    """torch.fx records our function, also in a copy and in what it prints as code."""
    ours, _ = twins(name, options)
    traced = torch.fx.symbolic_trace(torch.nn.Sequential(ours))
    x = torch.randn(1, 4, 7, 8, dtype=torch.float64)
    assert owners(lambda: traced(x).sum().backward()) == {"torch_conv_ext"}
    assert torch.equal(traced(x), ours(x))
    assert torch.equal(pickle.loads(pickle.dumps(traced))(x), ours(x))


# --- lazy ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_lazy_modules(name: str, options: dict[str, Any]) -> None:
    """The first call, computed here, gives torch's parameters and results; then it is a module like any."""
    modules: list[Any] = []
    for package in (torch_conv_ext, torch.nn):
        torch.manual_seed(0)
        modules.append(getattr(package, f"Lazy{name}")(6, (3, 2), dtype=torch.float64, **options))
    ours, theirs = modules
    assert isinstance(ours, type(theirs)) and repr(ours) == repr(theirs)
    assert ours.has_uninitialized_params()
    x = torch.randn(2, 4, 7, 8, dtype=torch.float64)
    results: list[Tensor] = []
    for module in modules:
        torch.manual_seed(0)
        owner = "torch_conv_ext" if module is ours else "aten"
        assert owners(lambda m: results.append(m(x)), module) == {owner}
    close(*results)
    assert type(ours) is getattr(torch_conv_ext, name)
    assert repr(ours) == repr(theirs) and not ours._forward_pre_hooks
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))
    close(run(ours, x), run(theirs, x))


@pytest.mark.parametrize(("name", "options", "shown"), MORE.values(), ids=MORE)
def test_lazy_modules_with_more_than_torch_nn(name: str, options: dict[str, Any], shown: str) -> None:
    """The same module as one that was told the number of channels."""
    lazy: Any = getattr(torch_conv_ext, f"Lazy{name}")(6, (3, 2), dtype=torch.float64, **options)
    full: Any = getattr(torch_conv_ext, name)(4, 6, (3, 2), dtype=torch.float64, **options)
    assert shown in repr(lazy)
    x = torch.randn(2, 4, 7, 8, dtype=torch.float64)
    y = lazy(x)
    full.load_state_dict(lazy.state_dict())
    assert torch.equal(y, full(x))
    assert type(lazy) is type(full) and repr(lazy) == repr(full)


@pytest.mark.parametrize("name", ["LazyConv2d", "LazyConvTranspose2d"])
def test_lazy_modules_are_initialised_by_a_state_dict(name: str) -> None:
    """A state_dict with parameters initialises. One without loads into torch.nn's lazy module too."""
    lazy: Any = getattr(torch_conv_ext, name)(6, 3)
    full: Any = getattr(torch_conv_ext, name.removeprefix("Lazy"))(4, 6, 3)
    copied = pickle.loads(pickle.dumps(copy.deepcopy(lazy)))
    assert type(copied) is type(lazy) and copied.has_uninitialized_params()
    getattr(torch.nn, name)(6, 3).load_state_dict(lazy.state_dict())
    lazy.load_state_dict(full.state_dict())
    x = torch.randn(1, 4, 5, 5)
    assert torch.equal(lazy(x), full(x))
    assert type(lazy) is type(full)
