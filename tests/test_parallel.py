"""Many callers at once: threads of Python, workers of a DataLoader, processes that share a model's memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.multiprocessing
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import torch_conv_ext


def network() -> nn.Sequential:
    """Three contractions and their gradients, large enough for several threads."""
    torch.manual_seed(0)
    return nn.Sequential(
        torch_conv_ext.Conv2d(3, 16, 3, padding=1),
        nn.Tanh(),
        torch_conv_ext.Conv2d(16, 16, 3, 2, 1, groups=4),
        torch_conv_ext.ConvTranspose2d(16, 3, 2, 2),
    )


def image(seed: int) -> Tensor:
    return torch.randn(3, 33, 34, generator=torch.Generator().manual_seed(seed))


def step(model: nn.Module, seed: int) -> list[Tensor]:
    """The output, and the gradients by input and parameters."""
    x = torch.stack([image(seed), image(seed + 1)]).requires_grad_()
    y = model(x)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *model.parameters()])]


# --- threads of Python --------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2], ids=["threads1", "threads2"], indirect=True)
def test_several_callers(threads: int) -> None:
    """Forward and backward of four Python threads at once = one after the other, bit for bit."""
    model = network()
    expected = [step(model, seed) for seed in range(12)]
    start = threading.Barrier(4)

    def caller(number: int) -> list[list[Tensor]]:
        torch.set_num_threads(threads)  # a setting of each thread in OpenMP
        start.wait()
        return [step(model, seed) for seed in range(number, 12, 4)]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(caller, range(4)))
    for number, found in enumerate(results):
        for result, seed in zip(found, range(number, 12, 4), strict=True):
            assert all(map(torch.equal, result, expected[seed]))


def test_callers_with_different_numbers_of_threads() -> None:
    """Callers on 1, 2 and 3 threads at the same time get the same bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    model = network()
    expected = step(model, 0)
    start = threading.Barrier(3)

    def caller(count: int) -> list[list[Tensor]]:
        torch.set_num_threads(count)
        start.wait()
        return [step(model, 0) for _ in range(4)]

    with ThreadPoolExecutor(3) as pool:
        results = [result for found in pool.map(caller, (1, 2, 3)) for result in found]
    torch.set_num_threads(before)
    assert len(results) == 12
    assert all(all(map(torch.equal, result, expected)) for result in results)


# --- processes ----------------------------------------------------------------------------------------------


class Filtered(Dataset[Tensor]):
    """Images that have been through the network."""

    def __init__(self) -> None:
        self.model = network()

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Tensor:
        with torch.no_grad():
            result: Tensor = self.model(image(index))
        return result


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("threads", [2], indirect=True)
@pytest.mark.parametrize(("method", "workers"), [("fork", 2), ("spawn", 1)])
def test_dataloader_workers(method: str, workers: int, threads: int) -> None:
    """The dataset in workers gives the bits that it gives here, after this process has used its threads.

    The two threads of this process are not there after a fork: a child that waited for them would hang.
    """
    if method not in torch.multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this platform")
    dataset = Filtered()
    expected = torch.stack([dataset[i] for i in range(len(dataset))])
    loader = DataLoader(
        dataset, batch_size=2, num_workers=workers, multiprocessing_context=method, timeout=60
    )
    assert torch.equal(torch.cat(list(loader)), expected)


def _run_forked(target: Callable[..., None], *arguments: object) -> None:
    """The function in a forked process, which must end by itself."""
    process = torch.multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    process.join(60)
    if process.is_alive():
        process.kill()
    process.join()
    assert process.exitcode == 0


def _train(model: nn.Module) -> None:
    torch.set_num_threads(1)  # torch's own operators have no threads in a forked process
    gradients = step(model, 3)[2:]
    with torch.no_grad():
        for p, g in zip(model.parameters(), gradients, strict=True):
            p.sub_(g, alpha=0.01)


def test_training_in_shared_memory(threads: int) -> None:
    """A process that trains a shared model changes it here, by the same step as one taken here."""
    shared, here = network(), network()
    _run_forked(_train, shared.share_memory())
    assert not any(map(torch.equal, shared.parameters(), here.parameters()))
    _train(here)
    assert all(map(torch.equal, shared.parameters(), here.parameters()))
