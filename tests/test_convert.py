"""convert and revert: the same model, computed here, and everything else about it as it was."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

import torch_conv_ext
from owners import Compiler, owners
from torch_conv_ext import convert, revert

pytestmark = [
    pytest.mark.usefixtures("threads"),
    pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm:FutureWarning"),
]


def network() -> nn.Sequential:
    """Both kinds of convolution, nested, with groups, a padding mode and normalisation, for `image`.

    No bias before the normalisation: its gradient is zero up to rounding, which Adam would magnify.
    """
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False), nn.BatchNorm2d(6), nn.ReLU())
    return nn.Sequential(
        nn.Conv2d(3, 4, (3, 2), stride=2, padding=1, padding_mode="reflect"),
        inner,
        nn.ConvTranspose2d(6, 2, 3, stride=2, bias=False),
    ).double()


def image() -> Tensor:
    return torch.randn(2, 3, 8, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
    """One step of training; returns the loss."""
    optimizer.zero_grad()
    loss: Tensor = model(image()).square().mean()
    loss.backward()
    optimizer.step()
    return loss.detach()


def close(result: Any, expected: Any) -> None:
    """A few layers, each with sums of at most some hundred products: 1e-10 is many roundings of float64."""
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-10)


def runs_here(model: nn.Module) -> bool:
    """Whether forward and backward use our convolutions and none of torch's."""
    return owners(lambda: model(image()).sum().backward()) == {"torch_conv_ext"}


# Each of them gives a module that is ready to be called with (2, 3, 8, 7).
DRESSED: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.Conv2d(3, 4, 3),
    "transposed": lambda: nn.ConvTranspose2d(3, 4, 3),
    "parametrized": lambda: parametrizations.weight_norm(nn.Conv2d(3, 4, 3)),
    "parametrized twice": lambda: parametrizations.spectral_norm(
        parametrizations.orthogonal(nn.ConvTranspose2d(3, 4, 3))
    ),
    "weight_norm": lambda: weight_norm(nn.Conv2d(3, 4, 3)),
    "spectral_norm": lambda: spectral_norm(nn.ConvTranspose2d(3, 4, 3)),
    "pruned": lambda: prune.random_unstructured(nn.Conv2d(3, 4, 3), "weight", 0.5),
}


def dressed(name: str) -> nn.Module:
    torch.manual_seed(0)
    return DRESSED[name]().double().eval()  # spectral_norm's power iteration rests in eval


def everything(model: nn.Module) -> list[Any]:
    """All that a model consists of: classes by identity, and what each module holds, two levels deep."""
    return [
        (name, id(m), type(m), [(k, id(v), inside(v)) for k, v in vars(m).items()])
        for name, m in model.named_modules(remove_duplicate=False)
    ]


def inside(value: Any) -> list[Any]:
    return [(k, id(v)) for k, v in value.items()] if isinstance(value, dict) else []


# --- what is computed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam], ids=lambda o: o.__name__)
def test_outputs_gradients_and_steps_are_those_of_torch(optimizer: Any) -> None:
    theirs, ours = network(), network()
    convert(ours)
    assert runs_here(copy.deepcopy(ours))
    models = (theirs, ours)
    close(ours(image()), theirs(image()))
    optimizers = [optimizer(m.parameters(), lr=0.1) for m in models]
    for _ in range(3):
        losses = [step(m, o) for m, o in zip(models, optimizers, strict=True)]
        close(losses[1], losses[0])
        close([p.grad for p in ours.parameters()], [p.grad for p in theirs.parameters()])
    close(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("name", DRESSED)
def test_dressed_modules_run_here_as_before(name: str) -> None:
    """Parametrizations, norms and pruning: the same output, gradients and state_dict keys."""
    theirs = dressed(name)
    ours = dressed(name)
    report = convert(ours)
    assert list(report.swapped) == [""] and not report.left and not report.on_torch
    assert runs_here(ours)
    ours.zero_grad()
    results = []
    for module in (ours, theirs):
        y = module(image())
        results.append([y, *torch.autograd.grad(y.square().sum(), list(module.parameters()))])
    close(*results)
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_training_goes_on_with_the_same_optimizer() -> None:
    """Converted after two steps and reverted after four: momentum and weights go on as before."""
    theirs, ours = network(), network()
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (theirs, ours)]
    for number in range(6):
        if number == 2:
            convert(ours)
        if number == 4:
            assert runs_here(copy.deepcopy(ours))
            revert(ours)
        losses = [step(m, o) for m, o in zip((theirs, ours), optimizers, strict=True)]
        close(losses[1], losses[0])
    close(ours.state_dict(), theirs.state_dict())


# --- what stays ---------------------------------------------------------------------------------------------


def test_round_trip_leaves_everything_as_it_was() -> None:
    """The same objects in the same places, and the same classes, parametrize's too."""
    model = nn.ModuleDict({name.replace(" ", "_"): dressed(name) for name in DRESSED})
    model["lazy"] = nn.LazyConvTranspose2d(4, 3)
    model["again"] = nn.Sequential(model["plain"], nn.Conv1d(1, 1, 1))
    model["plain"].register_forward_hook(lambda *_: None)
    model["plain"].train()
    before = everything(model)
    there = convert(model)
    assert everything(model) != before
    back = revert(model)
    assert everything(model) == before
    assert list(there.swapped) == list(back.swapped) == [*model][:-1]


def test_only_classes_change() -> None:
    model: Any = network()
    before = everything(model)
    convert(model)
    after = everything(model)
    assert [(n, i, held) for n, i, _, held in after] == [(n, i, held) for n, i, _, held in before]
    assert [type(m) for m in (model[0], model[1][0], model[2])] == [
        torch_conv_ext.Conv2d,
        torch_conv_ext.Conv2d,
        torch_conv_ext.ConvTranspose2d,
    ]
    assert convert(model).swapped == {}  # a second time there is nothing to do
    assert everything(model) == after


def test_hooks_go_on() -> None:
    """Hooks of every kind, registered before or after, are called as often as without conversion."""
    module = nn.Conv2d(3, 4, 3).double()
    called: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda *_: called.append(name)

    module.register_forward_pre_hook(note("forward pre"))
    handle = module.register_forward_hook(note("forward"))
    module.register_full_backward_pre_hook(note("backward pre"))
    module.register_full_backward_hook(note("backward"))
    module.register_state_dict_post_hook(note("state_dict"))
    module.register_load_state_dict_post_hook(note("load_state_dict"))
    module.weight.register_hook(note("weight"))
    convert(module)
    module.register_forward_hook(note("forward, added"))

    module(image().requires_grad_()).sum().backward()
    module.load_state_dict(module.state_dict())
    expected = ["forward pre", "forward", "forward, added", "backward pre", "weight", "backward"]
    assert sorted(called) == sorted([*expected, "state_dict", "load_state_dict"])
    handle.remove()
    called.clear()
    revert(module)
    module(image())
    assert called == ["forward pre", "forward, added"]


class _Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_parametrizations_change_while_converted() -> None:
    """Registered or removed in between, they end at the class that torch would have given."""
    module: Any = nn.Conv2d(3, 4, 3).double()
    parametrize.register_parametrization(module, "weight", _Doubled())
    twin = copy.deepcopy(module)  # has the same class
    convert(module)
    assert type(twin).__bases__ == (nn.Conv2d,) and runs_here(module)
    parametrize.register_parametrization(module, "bias", _Doubled())
    revert(module)
    assert type(module).__bases__ == (nn.Conv2d,) and type(module) is not type(twin)
    close(module.bias, 2 * module.get_parameter("parametrizations.bias.original"))
    convert(module)
    assert type(copy.deepcopy(module)) is type(module)
    for name in ("weight", "bias"):
        parametrize.remove_parametrizations(module, name)
    assert type(module) is torch_conv_ext.Conv2d
    bias: Any = module.bias
    close(twin(image()), module(image()) - (bias / 2).view(-1, 1, 1))


def test_pruning_can_be_made_permanent() -> None:
    module = dressed("pruned")
    convert(module)
    expected = module(image())
    prune.remove(module, "weight")
    assert not module._forward_pre_hooks
    assert torch.equal(module(image()), expected)


def test_shared_modules_stay_shared() -> None:
    shared = nn.Conv2d(3, 3, 3, padding=1)
    model: Any = nn.ModuleDict({"a": nn.Sequential(shared, shared), "b": nn.Sequential(shared)})
    assert convert(model).swapped == {"a.0": "Conv2d"}
    assert model["a"][0] is model["a"][1] is model["b"][0] is shared
    assert type(shared) is torch_conv_ext.Conv2d


def test_copies() -> None:
    """deepcopy, pickle and torch.save keep the class, and a copy can be reverted."""
    model = network().eval()
    convert(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for twin in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(file, weights_only=False),
    ):
        assert [type(m) for m in twin.modules()] == [type(m) for m in model.modules()]
        assert torch.equal(twin(image()), model(image()))
        assert len(revert(twin).swapped) == 3
        assert [type(m) for m in twin.modules()] == [type(m) for m in network().modules()]
    assert type(model[0]) is torch_conv_ext.Conv2d


def test_state_dict_has_no_trace() -> None:
    """Saved by a converted model, loaded with weights_only by one of torch.nn, and the other way."""
    theirs, ours = network(), network()
    convert(ours)
    for source, target in ((ours, theirs), (theirs, ours)):
        with torch.no_grad():
            for p in source.parameters():
                p.normal_()
        file = io.BytesIO()
        torch.save(source.state_dict(), file)
        file.seek(0)
        target.load_state_dict(torch.load(file, weights_only=True))
        close(target(image()), source(image()))


def test_shared_memory() -> None:
    model = network().share_memory()
    convert(model)
    assert all(p.is_shared() for p in model.parameters())


# --- what is left -------------------------------------------------------------------------------------------


class _Own(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 1


class _Derived(torch_conv_ext.ConvTranspose2d):
    pass


def _replaced() -> nn.Module:
    module: Any = nn.Conv2d(3, 4, 3)
    module.forward = lambda x: x
    replaced: nn.Module = module
    return replaced


def _quantised() -> nn.Module:
    from torch.ao.nn import quantized

    module: nn.Module = quantized.Conv2d(3, 4, 3)
    return module


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: _Own(3, 4, 3), "_Own is a subclass of torch.nn.Conv2d"),
        (lambda: parametrizations.weight_norm(_Own(3, 4, 3)), "_Own is a subclass of torch.nn.Conv2d"),
        (lambda: _Derived(3, 4, 3), "_Derived is a subclass of torch_conv_ext.ConvTranspose2d"),
        (lambda: torch_conv_ext.Conv2d(3, 4, 3), "it is torch_conv_ext.Conv2d already"),
        (_replaced, "its forward() was replaced on the instance"),
        (_quantised, "torch.ao.nn.quantized.modules.conv.Conv2d is quantised"),
        (lambda: torch.jit.script(nn.Conv2d(3, 4, 3)), "Conv2d compiled by torch.jit"),
        (lambda: nn.Conv1d(3, 4, 3), "Conv1d is not 2-D"),
        (lambda: nn.LazyConv3d(4, 3), "LazyConv3d is not 2-D"),
    ],
)
def test_left_as_they_are(make: Callable[[], nn.Module], reason: str) -> None:
    module = make()
    before = everything(module)
    report = convert(nn.Sequential(module, nn.Linear(1, 1)))
    assert (report.swapped, report.left, report.on_torch) == ({}, {"0": reason}, {})
    assert everything(module) == before


def test_revert_takes_all_of_ours_and_only_ours() -> None:
    """Also what was built as ours; a subclass is left, with the reason."""
    model = nn.Sequential(
        torch_conv_ext.Conv2d(3, 4, 3), _Derived(3, 4, 3), nn.Conv2d(3, 4, 3), _Own(3, 4, 3)
    )
    report = revert(model)
    assert (report.package, report.swapped) == ("torch.nn", {"0": "Conv2d"})
    assert report.left == {"1": "_Derived is a subclass of torch_conv_ext.ConvTranspose2d"}
    assert [type(m) for m in model] == [nn.Conv2d, _Derived, nn.Conv2d, _Own]


def test_revert_leaves_what_torch_nn_has_not() -> None:
    """Each padding beyond torch.nn's, with the reason; padding modes and 'same' are torch.nn's too."""
    ours, transposed = torch_conv_ext.Conv2d, torch_conv_ext.ConvTranspose2d
    lazy = torch_conv_ext.LazyConvTranspose2d(4, 3, padding_mode="circular")
    sides = ((0, 1), (1, 0))
    left = {
        "torch.nn has no padding='same' with a stride": ours(3, 4, 3, (1, 2), padding="same"),
        "torch.nn has no padding for each side": ours(3, 4, 3, padding=sides, padding_mode="reflect"),
        "torch.nn has no padding='same' of a transposed convolution": transposed(3, 4, 3, padding="same"),
        "torch.nn has no padding='valid' of a transposed convolution": transposed(3, 4, 3, padding="valid"),
        "torch.nn has no padding_mode='circular' of a transposed convolution": lazy,
    }
    model = nn.Sequential(*left.values(), transposed(3, 4, 3, padding=sides))
    before = [type(m) for m in model]
    report = revert(model)
    assert report.swapped == {} and [type(m) for m in model] == before
    reasons = [*left, "torch.nn has no padding for each side"]
    assert report.left == {str(i): reason for i, reason in enumerate(reasons)}

    model = nn.Sequential(
        ours(3, 3, 3, padding="same", padding_mode="circular"), ours(3, 3, 3, 2, padding="valid")
    ).double()
    expected = model(image())
    assert revert(model).left == {}
    assert [type(m) for m in model] == [nn.Conv2d, nn.Conv2d]
    close(model(image()), expected)


def test_report_tells_what_torch_computes() -> None:
    """A swapped module in bfloat16 or on another device runs torch's operator, and here once it is moved."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3, dtype=torch.bfloat16), nn.Conv2d(3, 4, 3, device="meta"))
    report = convert(model)
    assert report.on_torch == {"0": "parameters of dtype torch.bfloat16", "1": "parameters on meta"}
    assert runs_here(model[0].double())


def test_report_reads_well() -> None:
    model = nn.Sequential(
        network(), *(nn.Conv2d(3, 3, 1) for _ in range(6)), _Own(1, 1, 1), nn.Conv3d(1, 1, 1)
    )
    model.append(nn.Conv2d(3, 3, 1).half())
    report = convert(model)
    assert str(report) == repr(report)
    assert str(report).splitlines() == [
        "swapped for torch_conv_ext's: 10",
        "  Conv2d (9): 0.0, 0.1.0, 1, 2, 3, 4 and 3 more",
        "  ConvTranspose2d (1): 0.2",
        "left as they were: 2",
        "  _Own is a subclass of torch.nn.Conv2d (1): 7",
        "  Conv3d is not 2-D (1): 8",
        "swapped, but on torch's operator for now: 1",
        "  parameters of dtype torch.float16 (1): 9",
    ]
    assert str(revert(nn.Conv2d(1, 1, 1))) == "swapped for torch.nn's: 0"
    assert str(convert(nn.Conv2d(1, 1, 1))).splitlines()[1] == "  Conv2d (1): (the model itself)"


@pytest.mark.parametrize("function", [convert, revert], ids=lambda f: f.__name__)
def test_only_modules(function: Any) -> None:
    said = rf"{function.__name__}\(\): expected a torch.nn.Module, but got a list"
    with pytest.raises(TypeError, match=said):
        function([nn.Conv2d(1, 1, 1)])


# --- with torch.compile -------------------------------------------------------------------------------------


def test_compiled_before_and_converted_after() -> None:
    """The compiled model notices the new classes, and the old ones after revert."""
    model = network()
    compiler = Compiler()
    compiled: Any = torch.compile(model, backend=compiler.backend, fullgraph=True)
    results = []
    for change in (lambda m: None, convert, revert):
        change(compiled)
        y = compiled(image())
        results.append([y, *torch.autograd.grad(y.square().sum(), list(model.parameters()))])
    assert compiler.owners[:4] == [{"aten"}] * 2 + [{"torch_conv_ext"}] * 2
    assert len(compiler.owners) == 4  # the code for torch.nn's classes is there still
    close(results[1], results[0])
    torch.testing.assert_close(results[2], results[0], rtol=0, atol=0)
    torch._dynamo.reset()
