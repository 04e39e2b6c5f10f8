"""Convert a network of torch.nn in the middle of its training, beside a twin that stays as it was.

The network reads scikit-learn's 8x8 digits. After half of the steps `convert` swaps its convolutions; the
optimizer goes on with its state, and so the losses go on as the twin's do. One layer is of a class of its
own, which `convert` leaves alone and reports; `override` would route its call too.

    python examples/convert_a_model.py --steps 60
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import torch_conv_ext
from train_digits import load_images

BATCH_SIZE = 64


class Centred(nn.Conv2d):
    """A convolution whose kernels have the mean 0: a subclass, which may compute anything."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        y: Tensor = self._conv_forward(input, weight, self.bias)
        return y


def make_network() -> nn.Sequential:
    """Four convolutions of torch.nn, one of them parametrized, for images (N, 1, 8, 8): (N, 10) logits."""
    torch.manual_seed(0)
    return nn.Sequential(
        Centred(1, 16, 3, padding=1),
        nn.ReLU(),
        weight_norm(nn.Conv2d(16, 32, 3, padding=1)),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, groups=4),
        nn.ReLU(),
        nn.ConvTranspose2d(32, 16, 2, stride=2),
        nn.AvgPool2d(4),
        nn.Flatten(),
        nn.Linear(16 * 4 * 4, 10),
    )


class Run(NamedTuple):
    """What a training recorded: the loss of each step, and what convert said, if it was called."""

    losses: list[float]
    report: torch_conv_ext.ConversionReport | None


def train(network: nn.Module, images: Tensor, labels: Tensor, steps: int, convert_at: int | None) -> Run:
    """Adam; before the step `convert_at` the network is converted."""
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    losses, report = [], None
    for step in range(steps):
        if step == convert_at:
            report = torch_conv_ext.convert(network)
        chosen = torch.randint(len(images), (BATCH_SIZE,), generator=generator)
        loss = nn.functional.cross_entropy(network(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return Run(losses, report)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(description="Convert a network in the middle of its training.")
    parser.add_argument("--steps", type=int, default=60, help="training steps")
    steps: int = parser.parse_args(arguments).steps

    digits = load_images()
    network = make_network()
    twin = copy.deepcopy(network)
    start = time.perf_counter()
    ours = train(network, digits.train_images, digits.train_labels, steps, convert_at=steps // 2)
    theirs = train(twin, digits.train_images, digits.train_labels, steps, convert_at=None)
    print(f"Two networks, {steps} steps each, {time.perf_counter() - start:.1f} s. In the middle:\n")
    print(ours.report)
    print(f"\n{'step':>6s} {'converted':>12s} {'never':>12s}")
    for step in sorted({0, steps // 2 - 1, steps // 2, steps - 1}):
        print(f"{step:6d} {ours.losses[step]:12.6f} {theirs.losses[step]:12.6f}")
    torch_conv_ext.revert(network)
    with torch.no_grad():
        right = network(digits.test_images).argmax(1) == digits.test_labels
    print(f"\nReverted, it reads {right.float().mean():.1%} of {len(right)} held-out digits.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
