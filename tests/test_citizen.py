"""What torch.nn and torch.autograd offer around a model does with our layers what it does with torch.nn's."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch.utils.dlpack
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval, parametrize, prune
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import torch_conv_ext

pytestmark = pytest.mark.usefixtures("threads")


def model(package: Any) -> Any:
    """Two layers with a kink-free function between them; the same parameters from either package."""
    torch.manual_seed(0)
    return nn.Sequential(
        package.Conv2d(4, 6, (3, 2), 2, 1, groups=2, dtype=torch.float64),
        nn.Tanh(),
        package.ConvTranspose2d(6, 4, 3, 2, 1, output_padding=(0, 1), dtype=torch.float64),
    )


X = torch.randn(2, 4, 7, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def close(result: Any, expected: Any) -> None:
    """Sums of at most some hundred products of order one: 1e-11 is a thousand roundings of float64."""
    torch.testing.assert_close(result, expected, rtol=1e-11, atol=1e-11)


def gradients(network: Callable[[Tensor], Tensor], *parameters: Tensor) -> list[Tensor]:
    """The output, and the gradients of a loss by the input and the parameters."""
    x = X.clone().requires_grad_()
    y = network(x)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *parameters])]


# --- torch.nn.utils -----------------------------------------------------------------------------------------


class Symmetric(nn.Module):
    """A parametrization: the mean of a kernel and its mirror image."""

    def forward(self, w: Tensor) -> Tensor:
        return (w + w.flip(-1)) / 2


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "spectral_norm": spectral_norm,
    "weight_norm": weight_norm,
    "orthogonal": orthogonal,
    "parametrize": lambda layer: parametrize.register_parametrization(layer, "weight", Symmetric()),
    "prune_l1": lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5),
    "prune_channels": lambda layer: prune.ln_structured(layer, "weight", amount=0.5, n=2, dim=0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_weights(change: str) -> None:
    """Weights that are computed anew in each call: three steps of training as torch.nn's layers take them."""
    results = []
    for package in (torch_conv_ext, nn):
        network = model(package)
        for layer in (network[0], network[2]):
            torch.manual_seed(1)
            CHANGES[change](layer)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
        before = network[0].weight.detach().clone()
        for _ in range(3):
            optimizer.zero_grad()
            network(X).square().sum().backward()
            optimizer.step()
        assert not torch.equal(network[0].weight, before)
        results.append([network(X), *network.state_dict().values()])
    close(*results)
    assert isinstance(network[0], nn.Conv2d)


def test_fused_batch_norm() -> None:
    """fuse_conv_bn_eval gives one layer of our class, with the results of the two."""
    norm = nn.BatchNorm2d(6, dtype=torch.float64)
    norm(model(nn)[0](X))  # running averages away from 0 and 1
    conv = model(torch_conv_ext)[0].eval()
    fused = fuse_conv_bn_eval(conv, norm.eval())
    assert type(fused) is torch_conv_ext.Conv2d
    close(fused(X), norm(conv(X)))


def test_averaged_model() -> None:
    """A moving average of the weights is a copy of our layers with the average of their parameters."""
    network = model(torch_conv_ext)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.75))
    average.update_parameters(network)
    first = [p.detach().clone() for p in network.parameters()]
    with torch.no_grad():
        for p in network.parameters():
            p.add_(1)
    average.update_parameters(network)
    assert type(next(average.module.children())) is torch_conv_ext.Conv2d
    close([p.detach() for p in average.parameters()], [p + 0.25 for p in first])


# --- files --------------------------------------------------------------------------------------------------


def test_safe_files() -> None:
    """A state_dict is read with weights_only, and into tensors that had no memory before."""
    ours = model(torch_conv_ext)
    file = io.BytesIO()
    torch.save(ours.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    with torch.device("meta"):
        empty = model(torch_conv_ext)
    empty.load_state_dict(state, assign=True)
    assert torch.equal(empty(X), ours(X))


def test_whole_model_with_weights_only() -> None:
    """torch.save of a whole model is read with weights_only where our classes are declared safe."""
    ours = model(torch_conv_ext)[0]
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    with torch.serialization.safe_globals([torch_conv_ext.Conv2d, set]):
        read = torch.load(file, weights_only=True)
    assert type(read) is torch_conv_ext.Conv2d
    assert torch.equal(read(X), ours(X))


# --- hooks --------------------------------------------------------------------------------------------------


def test_hooks() -> None:
    """Each kind of hook runs once for each layer, sees torch.nn's tensors, and what it returns is taken."""
    seen: list[list[tuple[str, Tensor]]] = []
    results = []
    for package in (torch_conv_ext, nn):
        network = model(package)
        calls: list[tuple[str, Tensor]] = []

        def note(name: str, t: Tensor, calls: list[tuple[str, Tensor]] = calls) -> None:
            calls.append((name, t.detach().clone()))

        for layer in (network[0], network[2]):
            layer.register_forward_pre_hook(lambda _, x, note=note: (note("pre", x[0]), (2 * x[0],))[1])
            layer.register_forward_hook(lambda _, x, y, note=note: (note("forward", y), y + 1)[1])
            layer.register_full_backward_pre_hook(
                lambda _, g, note=note: (note("back_pre", g[0]), (g[0] / 2,))[1]
            )
            layer.register_full_backward_hook(
                lambda _, dx, dy, note=note: (note("back", dx[0]), (3 * dx[0],))[1]
            )
            layer.weight.register_hook(lambda g, note=note: (note("weight", g), 2 * g)[1])
            layer.weight.register_post_accumulate_grad_hook(lambda p, note=note: note("accumulated", p.grad))
        x = X.clone().requires_grad_()
        y = network(x)
        y.register_hook(lambda g, note=note: (note("output", g), g + 1)[1])
        y.square().sum().backward()
        seen.append(calls)
        results.append([y, x.grad, *(p.grad for p in network.parameters())])
    assert [name for name, _ in seen[0]] == [name for name, _ in seen[1]]
    assert len(seen[0]) == 13
    close([t for _, t in seen[0]], [t for _, t in seen[1]])
    close(*results)


@pytest.mark.parametrize("trained", [["0.weight"], ["2.bias"], ["0.bias", "2.weight"], []], ids=str)
def test_frozen_parameters(trained: list[str]) -> None:
    """Parameters that need no gradient get none; the others' is the same as when all are trained."""
    full = model(torch_conv_ext)
    full(X).square().sum().backward()
    network = model(torch_conv_ext)
    for name, p in network.named_parameters():
        p.requires_grad_(name in trained)
    y = network(X)
    assert y.requires_grad == bool(trained)
    if trained:
        y.square().sum().backward()
    for (name, p), q in zip(network.named_parameters(), full.parameters(), strict=True):
        if name in trained:
            assert p.grad is not None and q.grad is not None
            assert torch.equal(p.grad, q.grad)
        else:
            assert p.grad is None


# --- the graph ----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Anomaly Detection", "ignore:Error detected in")
@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
def test_anomaly_mode(name: str) -> None:
    """A NaN in backward is an error that names our node; without one the gradients keep their bits."""
    plain = model(torch_conv_ext)
    expected = gradients(plain, *plain.parameters())
    with torch.autograd.detect_anomaly():
        assert all(map(torch.equal, gradients(plain, *plain.parameters()), expected))
        layer = getattr(torch_conv_ext, name)(1, 1, 1)
        x = torch.zeros(1, 1, 2, 2, requires_grad=True)
        y = layer(x)
        with pytest.raises(RuntimeError, match=f"'{name}FunctionBackward' returned nan"):
            y.backward(torch.full_like(y, torch.nan))


def test_saved_tensors() -> None:
    """save_on_cpu and hooks that pack and unpack leave the gradients their bits."""
    network = model(torch_conv_ext)
    expected = gradients(network, *network.parameters())
    packed = []

    def pack(t: Tensor) -> np.ndarray[Any, Any]:
        packed.append(t.shape)
        array: np.ndarray[Any, Any] = t.detach().numpy().copy()
        return array

    for context in (
        torch.autograd.graph.save_on_cpu(),
        torch.autograd.graph.saved_tensors_hooks(pack, torch.from_numpy),
    ):
        with context:
            result = gradients(network, *network.parameters())
        assert all(map(torch.equal, result, expected))
    assert network[0].weight.shape in packed


def test_errors_of_the_graph() -> None:
    """A graph is used once, and what it has saved may not be written to: torch's errors."""
    network = model(torch_conv_ext)
    y = network(X).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        y.backward()
    y = network(X.clone().requires_grad_()).sum()
    with torch.no_grad():
        network[2].weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


@pytest.mark.parametrize("use_reentrant", [False, True], ids=["not_reentrant", "reentrant"])
def test_activation_checkpoints(use_reentrant: bool) -> None:
    """Activations computed once more in backward: the same bits of all gradients."""
    network = model(torch_conv_ext)
    expected = gradients(network, *network.parameters())
    x = X.clone().requires_grad_()
    runs: list[Callable[[], Tensor]] = [
        lambda: checkpoint(network, x, use_reentrant=use_reentrant),
        lambda: checkpoint_sequential(network, 2, x, use_reentrant=use_reentrant),
    ]
    for run in runs:
        network.zero_grad()
        x.grad = None
        y = run()
        y.square().sum().backward()
        result = [y.detach(), x.grad, *(p.grad for p in network.parameters())]
        assert all(map(torch.equal, result, expected))


def test_deterministic_algorithms() -> None:
    """The kernels are deterministic: nothing is refused, and the bits are the same."""
    network = model(torch_conv_ext)
    expected = gradients(network, *network.parameters())
    torch.use_deterministic_algorithms(True)
    try:
        result = gradients(network, *network.parameters())
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(map(torch.equal, result, expected))


def test_inference_mode() -> None:
    """Inference tensors with the usual bits; autograd refuses them as from torch's operator."""
    network = model(torch_conv_ext)
    with torch.inference_mode():
        y = network(X)
        inside = X.clone()
    assert y.is_inference()
    assert torch.equal(y, network(X))
    for layer in (network[0], model(nn)[0]):
        with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
            layer(inside)
        layer.requires_grad_(False)
        close(layer(inside), network[0](X))


# --- tensors from elsewhere ---------------------------------------------------------------------------------


def test_numpy_and_dlpack() -> None:
    """Inputs that share memory with numpy or come through DLPack, and outputs that go back."""
    conv = model(torch_conv_ext)[0].requires_grad_(False)
    array = X.numpy()
    y = conv(torch.from_numpy(array))
    assert torch.equal(conv(torch.utils.dlpack.from_dlpack(array)), y)
    strided = np.asfortranarray(array)
    close(conv(torch.from_numpy(strided)), y)
    assert np.array_equal(np.from_dlpack(y), y.numpy())
    assert np.shares_memory(np.from_dlpack(y), y.numpy())


def test_lazy_negation_and_zeros() -> None:
    """Views whose sign changes on reading, and zeros without memory, as operands and cotangent."""
    generator = torch.Generator().manual_seed(0)

    def negated(*shape: int) -> Tensor:
        t = (
            torch.view_as_complex(torch.randn(*shape, 2, generator=generator, dtype=torch.float64))
            .conj()
            .imag
        )
        assert t.is_neg()
        return t

    x, w, b, dy = negated(2, 4, 5, 6), negated(6, 4, 3, 3), negated(6), negated(2, 6, 3, 4)
    results = []
    functions: list[Callable[..., Tensor]] = [torch_conv_ext.conv2d, F.conv2d]
    for function in functions:
        leaves = [t.detach().requires_grad_() for t in (x, w, b)]
        y = function(*leaves)
        results.append([y, *torch.autograd.grad(y, leaves, dy)])
    close(*results)
    zeros = torch._efficientzerotensor((2, 4, 5, 6), dtype=torch.float64)
    close(torch_conv_ext.conv2d(zeros, w, b), b.resolve_neg()[:, None, None].expand(2, 6, 3, 4))


def test_scalars_are_no_images() -> None:
    """A tensor without dimensions in any place is a RuntimeError that shows its size."""
    tensors: dict[str, Any] = {"input": X.float(), "weight": torch.zeros(2, 4, 3, 3), "bias": torch.zeros(2)}
    for name in tensors:
        with pytest.raises(RuntimeError, match=r"\[\]"):
            torch_conv_ext.conv2d(**{**tensors, name: torch.tensor(1.0)})
