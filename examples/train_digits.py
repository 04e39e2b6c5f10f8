"""Train on real images with torch_conv_ext, beside the same networks from torch.nn.

The images are the 1797 handwritten digits of 8x8 pixels that scikit-learn ships. Two networks are trained on
them: a convolutional classifier, and an autoencoder that squeezes the 64 pixels into 24 numbers with
convolutions and draws the digit again with transposed convolutions. Each is built twice from the same code
and the same seed, once from torch_conv_ext's modules and once from torch.nn's, so that losses, accuracies and
times can be compared.

    python examples/train_digits.py --output out/digits.png

The exit status is 0 if gradcheck passes and our classifier reads at least 97 % of the held-out digits,
otherwise 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from tqdm import tqdm

import torch_conv_ext
from drawing import DigitsSheet, save_digits_sheet

SEED = 0
EPOCHS = 30
BATCH_SIZE = 32
LEARNING_RATE = 3e-3
REQUIRED_ACCURACY = 0.97
TASKS = ("classifier", "autoencoder")
# Decay keeps the classifier from learning 1437 digits by heart. The autoencoder needs none.
WEIGHT_DECAY = {"classifier": 0.3, "autoencoder": 0.0}


class Layers(NamedTuple):
    """Where a network takes its two convolution layers from."""

    name: str
    conv: type[nn.Conv2d]
    conv_transpose: type[nn.ConvTranspose2d]


OURS = Layers("torch_conv_ext", torch_conv_ext.Conv2d, torch_conv_ext.ConvTranspose2d)
TORCH = Layers("torch.nn", nn.Conv2d, nn.ConvTranspose2d)


class Digits(NamedTuple):
    """The data: images are (N, 1, 8, 8) float32 in [0, 1], labels are (N,) int64."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@dataclass
class Contender:
    """The two networks built from one library, with what their training recorded.

    losses[task] has the mean training loss of each epoch, seconds[task] the time of all training steps.
    """

    name: str
    networks: dict[str, nn.Sequential]
    optimizers: dict[str, torch.optim.Optimizer]
    schedules: dict[str, torch.optim.lr_scheduler.LRScheduler]
    losses: dict[str, list[float]] = field(default_factory=lambda: {task: [] for task in TASKS})
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(TASKS, 0.0))


def load_images(samples: int | None = None) -> Digits:
    """scikit-learn's digits, a fifth of them held out. `samples` limits how many are used (default: all)."""
    bunch = load_digits()
    images, labels = bunch.images[:samples] / 16.0, bunch.target[:samples]
    split = train_test_split(images, labels, test_size=0.2, random_state=SEED, stratify=labels)
    train_images, test_images = (torch.tensor(part, dtype=torch.float32).unsqueeze(1) for part in split[:2])
    train_labels, test_labels = (torch.tensor(part, dtype=torch.int64) for part in split[2:])
    return Digits(train_images, train_labels, test_images, test_labels)


def make_classifier(layers: Layers) -> nn.Sequential:
    """Three convolutions, 8x8 -> 4x4 -> 2x2 by pooling, and a linear layer: (N, 10) logits."""
    return nn.Sequential(
        layers.conv(1, 24, 5, padding=2),
        nn.ReLU(),
        layers.conv(24, 48, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        layers.conv(48, 96, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(96 * 2 * 2, 10),
    )


def make_autoencoder(layers: Layers) -> nn.Sequential:
    """Encoder (N, 1, 8, 8) -> (N, 6, 2, 2), decoder back to (N, 1, 8, 8): children 0 and 1 of the result.

    A transposed convolution with kernel 3, stride 2 and padding 1 makes 3x3 out of 2x2. output_padding=1
    makes it 4x4: (2 - 1) * 2 + 3 - 2 * 1 + 1.
    """
    encoder = nn.Sequential(
        layers.conv(1, 24, 3, stride=2, padding=1),
        nn.ReLU(),
        layers.conv(24, 48, 3, stride=2, padding=1),
        nn.ReLU(),
        layers.conv(48, 6, 1),
    )
    decoder = nn.Sequential(
        layers.conv_transpose(6, 48, 3, padding=1),
        nn.ReLU(),
        layers.conv_transpose(48, 24, 3, stride=2, padding=1, output_padding=1),
        nn.ReLU(),
        layers.conv_transpose(24, 1, 3, stride=2, padding=1, output_padding=1),
        nn.Sigmoid(),
    )
    return nn.Sequential(encoder, decoder)


def make_contender(layers: Layers, epochs: int = EPOCHS) -> Contender:
    """Both networks from `layers` with the parameters that SEED gives, and optimisers for so many epochs."""
    torch.manual_seed(SEED)
    networks = {"classifier": make_classifier(layers), "autoencoder": make_autoencoder(layers)}
    optimizers: dict[str, torch.optim.Optimizer] = {
        task: torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY[task])
        for task, network in networks.items()
    }
    schedules: dict[str, torch.optim.lr_scheduler.LRScheduler] = {
        task: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        for task, optimizer in optimizers.items()
    }
    return Contender(layers.name, networks, optimizers, schedules)


def check_gradients() -> dict[str, str]:
    """gradcheck of both autograd Functions in float64: "passed", or the first line of its complaint, by name.

    gradcheck compares each analytic derivative with a central difference of the forward pass.
    """
    torch.manual_seed(SEED)

    def values(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    # stride 2, padding 1 and two groups of two channels; the sizes divide unevenly on purpose
    conv = (values(2, 4, 6, 5), values(6, 2, 3, 3), values(6), 2, 1, 1, 2)
    transposed = (values(2, 4, 3, 4), values(4, 3, 3, 3), values(6), 2, 1, 1, 2)
    cases: dict[str, tuple[Callable[..., Tensor], tuple[Any, ...]]] = {
        "Conv2dFunction": (torch_conv_ext.Conv2dFunction.apply, conv),
        "ConvTranspose2dFunction": (torch_conv_ext.ConvTranspose2dFunction.apply, transposed),
    }
    verdicts = {}
    for name, (function, arguments) in cases.items():
        try:
            torch.autograd.gradcheck(function, arguments)
            verdicts[name] = "passed"
        except RuntimeError as error:
            verdicts[name] = f"FAILED: {str(error).splitlines()[0]}"
    return verdicts


def shift_at_random(images: Tensor) -> Tensor:
    """The batch moved by up to one pixel in each direction, black where nothing comes in. Same shape."""
    top, left = torch.randint(0, 3, (2,)).tolist()
    height, width = images.shape[-2:]
    return nn.functional.pad(images, (1, 1, 1, 1))[..., top : top + height, left : left + width]


def loss_of(task: str, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """A scalar: the classifier's cross entropy on shifted images, or the autoencoder's mean squared error."""
    if task == "classifier":
        return nn.functional.cross_entropy(network(shift_at_random(images)), labels)
    return nn.functional.mse_loss(network(images), images)


def train_epoch(contender: Contender, task: str, digits: Digits, epoch: int) -> None:
    """One pass over the training images. Order, shifts and dropout are random but fixed by the epoch."""
    network, optimizer = contender.networks[task], contender.optimizers[task]
    torch.manual_seed(SEED + 1 + epoch)
    batches = torch.randperm(len(digits.train_images)).split(BATCH_SIZE)
    network.train()
    total = 0.0
    start = time.perf_counter()
    for batch in batches:
        loss = loss_of(task, network, digits.train_images[batch], digits.train_labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(batch)
    contender.seconds[task] += time.perf_counter() - start
    contender.schedules[task].step()
    contender.losses[task].append(total / len(digits.train_images))


def train(contenders: Sequence[Contender], digits: Digits, epochs: int) -> None:
    """Train all networks, epoch by epoch. Who goes first alternates, so that times compare fairly."""
    total = epochs * len(contenders) * len(TASKS)
    # in a log file each refresh is a line of its own, so there are fewer of them
    interval = 0.1 if sys.stderr.isatty() else 5.0
    with tqdm(total=total, unit="epoch", dynamic_ncols=True, mininterval=interval) as bar:
        for epoch in range(epochs):
            for task in TASKS:
                for contender in contenders[:: 1 if epoch % 2 == 0 else -1]:
                    bar.set_description(f"{task:11s} {contender.name:14s}", refresh=False)
                    train_epoch(contender, task, digits, epoch)
                    bar.set_postfix(loss=f"{contender.losses[task][-1]:.4f}", refresh=False)
                    bar.update()


@torch.no_grad()
def accuracy(classifier: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The fraction of the images whose largest logit is at their label."""
    classifier.eval()
    return float((classifier(images).argmax(dim=1) == labels).double().mean())


def differences(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """The distance between two loss curves at each epoch.

    The two libraries round float32 sums differently, and each training step carries a difference on and lets
    it grow: a pixel changes sides at a ReLU or in a maximum. torch.nn drifts away from itself in the same way
    if its initial weights are changed by one part in ten million. In float64 the curves stay together.
    """
    return [abs(a - b) for a, b in zip(first, second, strict=True)]


@torch.no_grad()
def make_sheet(ours: Contender, theirs: Contender, digits: Digits, caption: str) -> DigitsSheet:
    """Gather what the picture shows, as arrays."""
    first_of_each = [int((digits.test_labels == label).nonzero()[0]) for label in range(10)]
    originals = digits.test_images[first_of_each]
    autoencoder = ours.networks["autoencoder"].eval()
    encoder, decoder = autoencoder[0], autoencoder[1]
    # a straight line between the codes of two digits, drawn by the transposed convolutions
    codes = encoder(originals)
    steps = torch.linspace(0, 1, 10).reshape(-1, 1, 1, 1)
    walk = decoder(codes[1] + steps * (codes[8] - codes[1]))
    weight = ours.networks["classifier"][0].weight
    assert isinstance(weight, Tensor)
    return DigitsSheet(
        caption=caption,
        names=(ours.name, theirs.name),
        losses={task: (ours.losses[task], theirs.losses[task]) for task in TASKS},
        seconds={task: (ours.seconds[task], theirs.seconds[task]) for task in TASKS},
        filters=weight[:, 0].numpy(),
        rows={
            "held-out digit": originals[:, 0].numpy(),
            "through 24 numbers": autoencoder(originals)[:, 0].numpy(),
            "same, by torch.nn": theirs.networks["autoencoder"].eval()(originals)[:, 0].numpy(),
            "walk from 1 to 8": walk[:, 0].numpy(),
        },
    )


def run(output: Path, epochs: int = EPOCHS, samples: int | None = None) -> bool:
    """Check, train, compare, print and draw. Returns whether gradcheck passed and our accuracy suffices."""
    verdicts = check_gradients()
    for name, verdict in verdicts.items():
        print(f"gradcheck  {name:24s} {verdict}")

    digits = load_images(samples)
    print(
        f"digits     {len(digits.train_images)} to train on, {len(digits.test_images)} held out", flush=True
    )
    ours, theirs = make_contender(OURS, epochs), make_contender(TORCH, epochs)
    train((ours, theirs), digits, epochs)

    scores = [
        accuracy(each.networks["classifier"], digits.test_images, digits.test_labels)
        for each in (ours, theirs)
    ]
    print(f"{'':24s} {ours.name:>14s} {theirs.name:>14s}")
    print(f"{'accuracy, held out':24s} {scores[0]:14.2%} {scores[1]:14.2%}")
    for task in TASKS:
        print(f"{task + ', last loss':24s} {ours.losses[task][-1]:14.5f} {theirs.losses[task][-1]:14.5f}")
    for task in TASKS:
        print(f"{task + ', time':24s} {ours.seconds[task]:12.2f} s {theirs.seconds[task]:12.2f} s")
    print(f"{'loss curves differ by':24s} {'first epoch':>14s} {'at most':>14s}")
    for task in TASKS:
        gaps = differences(ours.losses[task], theirs.losses[task])
        print(f"{task:24s} {gaps[0]:14.1e} {max(gaps):14.1e}")

    caption = (
        f"{len(digits.train_images)} digits, {epochs} epochs, {torch.get_num_threads()} threads, float32. "
        f"Accuracy on {len(digits.test_images)} held-out digits: {scores[0]:.2%} ({ours.name}), "
        f"{scores[1]:.2%} ({theirs.name})."
    )
    save_digits_sheet(make_sheet(ours, theirs, digits, caption), output)
    print(f"picture    {output}")

    passed = all(verdict == "passed" for verdict in verdicts.values())
    if not passed:
        print("gradcheck failed", file=sys.stderr)
    if scores[0] < REQUIRED_ACCURACY:
        print(f"accuracy {scores[0]:.2%} is under the required {REQUIRED_ACCURACY:.0%}", file=sys.stderr)
    return passed and scores[0] >= REQUIRED_ACCURACY


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(description="Train on digits with torch_conv_ext, beside torch.nn.")
    parser.add_argument("--output", type=Path, default=Path("out/digits.png"), help="the picture's file")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="passes over the training images")
    parser.add_argument("--samples", type=int, default=None, help="use only the first so many images")
    options = parser.parse_args(arguments)
    return 0 if run(options.output, options.epochs, options.samples) else 1


if __name__ == "__main__":
    sys.exit(main())
