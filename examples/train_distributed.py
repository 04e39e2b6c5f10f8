"""Train on several processes, beside the same network from torch.nn.

Each process computes its own part of every batch. DistributedDataParallel keeps a copy of the network in each
process and averages the gradients; fully_shard also cuts up the parameters and spreads them. The network is
built from the same code and the same seed, from torch_conv_ext's modules and from torch.nn's. In float64 the
runs then differ by rounding alone.

    torchrun --standalone --nproc-per-node 2 examples/train_distributed.py

Without torchrun it trains in one process. The exit status is 0 if after the last step all weights agree with
those of torch.nn, otherwise 1.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import torch_conv_ext

SEED = 0
BATCH_SIZE = 32  # of all processes together
STEPS = 20
LEARNING_RATE = 0.3
# 20 steps of sums of some hundred products of order one: 1e-10 is ten thousand roundings of float64.
LIMIT = 1e-10


def make_network(package: ModuleType) -> nn.Sequential:
    """From torch_conv_ext or torch.nn: down by a convolution, up by a transposed one, eight logits."""
    torch.manual_seed(SEED)
    return nn.Sequential(
        package.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.Tanh(),
        package.ConvTranspose2d(8, 8, 4, stride=2, padding=1),
        nn.Tanh(),
        package.Conv2d(8, 8, 3, padding="same", groups=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(8 * 8 * 8, 8),
    ).double()


def make_batch(step: int) -> tuple[Tensor, Tensor]:
    """Noisy images (N, 1, 8, 8) with one brighter row, and which row that is."""
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(BATCH_SIZE, 1, 8, 8, generator=generator, dtype=torch.float64)
    rows = torch.randint(8, (BATCH_SIZE,), generator=generator)
    images[torch.arange(BATCH_SIZE), 0, rows] += 1
    return images, rows


def shard(network: nn.Sequential) -> nn.Module:
    """The parameters of each layer spread over the processes."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in network:
        if any(True for _ in layer.parameters()):
            fully_shard(layer, mesh=mesh)
    fully_shard(network, mesh=mesh)
    return network


def train(model: nn.Module, steps: int) -> list[float]:
    """So many steps of SGD on this process's part of the batches; the loss of each step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9)
    losses = []
    for step in range(steps):
        images, rows = (t[dist.get_rank() :: dist.get_world_size()] for t in make_batch(step))
        loss = F.cross_entropy(model(images), rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def weights(network: nn.Module) -> list[Tensor]:
    """All parameters, each put together from its parts on all processes."""
    parameters = [p.detach() for p in network.parameters()]
    return [p.full_tensor() if isinstance(p, DTensor) else p for p in parameters]


def run(steps: int) -> bool:
    """Train, tell what came out on the first process, and say whether all weights agree."""
    theirs = make_network(nn)
    train(DistributedDataParallel(theirs), steps)
    ways: dict[str, Callable[[nn.Sequential], nn.Module]] = {
        "DistributedDataParallel": DistributedDataParallel,
        "fully_shard": shard,
    }
    agree = True
    for name, distribute in ways.items():
        ours = make_network(torch_conv_ext)
        losses = train(distribute(ours), steps)
        pairs = zip(weights(ours), weights(theirs), strict=True)
        difference = max((a - b).abs().max().item() for a, b in pairs)
        agree = agree and difference <= LIMIT
        if dist.get_rank() == 0:
            print(f"{name}, {dist.get_world_size()} processes, {steps} steps")
            print(f"  loss {losses[0]:.3f} -> {losses[-1]:.3f}")
            print(f"  weights differ from torch.nn's by {difference:.1e} at most, {LIMIT:.0e} allowed")
    return agree


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps (default: %(default)s)")
    options = parser.parse_args(arguments)
    if "RANK" in os.environ:  # set by torchrun
        dist.init_process_group("gloo")
    else:
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        return 0 if run(options.steps) else 1
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
