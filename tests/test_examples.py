"""The examples: every number of convolution_by_hand.py, short runs of the others."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

import convert_a_model
import convolution_by_hand as by_hand
import train_digits
from torch_conv_ext import Conv2dFunction, conv2d


def rows(values: Tensor) -> list[list[float]]:
    """The first image's first channel as nested lists."""
    return by_hand.first_plane(values).tolist()


def check_png(path: Path) -> None:
    """The file is a PNG of at least 500 x 150 pixels."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    assert width >= 500 and height >= 150


# --- convolution by hand: the expected numbers were worked out on paper, not copied from a run ---


def test_filter_a_4x4_image() -> None:
    shown = by_hand.filter_a_4x4_image()
    # the cross adds the pixel in its middle and the four at its corners; row 0, column 0: 1 + 1 + 1 + 0 + 1
    assert rows(shown["Y"]) == [[4, 3], [2, 4]]
    padded = [[2, 2, 3, 1], [1, 4, 3, 3], [2, 2, 4, 3], [0, 2, 2, 1]]
    assert rows(shown["Y, padding 1"]) == padded
    assert rows(shown["Y, padding 1, stride 2"]) == [[2, 3], [2, 4]]
    assert rows(shown["Y, stride 2"]) == [[4]]
    # the result without padding is the middle of the padded one
    assert [row[1:3] for row in padded[1:3]] == rows(shown["Y"])


def test_filter_ten_colour_images() -> None:
    shown = by_hand.filter_ten_colour_images()
    y = shown["Y of each image"]
    assert y.shape == (10, 1, 32, 32)
    # of the five filter rows so many lie inside the image; the same along the columns; three colours
    inside = [3, 4] + [5] * 28 + [4, 3]
    assert all(rows(image[None]) == [[3 * a * b for b in inside] for a in inside] for image in y)
    assert rows(shown["its upper left corner"])[:3] == [
        [27, 36, 45, 45, 45, 45],
        [36, 48, 60, 60, 60, 60],
        [45, 60, 75, 75, 75, 75],
    ]


def test_compare_output_sizes() -> None:
    conv, transposed = by_hand.compare_output_sizes().values()
    assert rows(conv) == [
        [4, 3, 1, 0, 2, 2],
        [4, 3, 1, 1, 4, 4],
        [4, 3, 2, 1, 2, 2],  # (4 - 3 + 2)/2 + 1 = 2.5
        [7, 3, 2, 0, 3, 3],
        [32, 5, 1, 2, 32, 32],
        [224, 7, 2, 3, 112, 112],  # (224 - 7 + 6)/2 + 1 = 112.5
    ]
    assert rows(transposed) == [
        [2, 3, 2, 0, 5, 5],
        [2, 3, 2, 1, 3, 3],
        [2, 2, 2, 0, 4, 4],
        [4, 3, 1, 1, 4, 4],
        [32, 5, 1, 2, 32, 32],
        [112, 4, 2, 1, 224, 224],
    ]


def test_go_backward() -> None:
    shown = by_hand.go_backward()
    # dX[0, 1] = 1 * W[0, 1] + 2 * W[0, 0] = 2, dX[1, 1] = W[1, 1] + 2 W[1, 0] + 3 W[0, 1] + 4 W[0, 0] = 5
    assert rows(shown["dX"]) == [[1, 2, 1, 2], [3, 5, 5, 4], [1, 5, 5, 2], [3, 4, 3, 4]]
    # dW[0, 0] = 1 * X[0, 0] + 2 * X[0, 1] + 3 * X[1, 0] + 4 * X[1, 1] = 7
    assert rows(shown["dW"]) == [[7, 10, 8], [2, 7, 10], [4, 9, 6]]
    assert rows(shown["db"]) == [[10]]


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (1, 1), (2, 1)])
def test_the_loops_agree_with_autograd(stride: int, padding: int) -> None:
    """The baseline is right too, also where the race does not go: integers, so both sums are exact."""
    generator = torch.Generator().manual_seed(1)

    def integers(*shape: int) -> Tensor:
        return torch.randint(-4, 5, shape, generator=generator).double().requires_grad_()

    x, w, b = integers(2, 3, 5, 5), integers(4, 3, 3, 3), integers(4)
    y = conv2d(x, w, b, stride=stride, padding=padding)
    dy = integers(*y.shape).detach()
    gradients = torch.autograd.grad(y, (x, w, b), dy)
    expected = by_hand.backward_by_loops(x.detach().numpy(), w.detach().numpy(), dy.numpy(), stride, padding)
    for gradient, from_loops in zip(gradients, expected, strict=True):
        assert torch.equal(gradient, torch.from_numpy(from_loops))


def test_race_backward() -> None:
    race = by_hand.race_backward(images=1)
    # sums of up to 1024 products of order 1 in float64
    assert race.difference < 1e-11
    assert race.ours < race.loops


def test_turn_the_gradient_into_a_convolution() -> None:
    shown = by_hand.turn_the_gradient_into_a_convolution()
    assert rows(shown["W flipped"]) == [[9, 8, 7], [6, 5, 4], [3, 2, 1]]
    # row 1, column 1: W[1, 1] + 2 W[1, 0] + 3 W[0, 1] + 4 W[0, 0] = 5 + 8 + 6 + 4
    expected = [[1, 4, 7, 6], [7, 23, 33, 24], [19, 53, 63, 42], [21, 52, 59, 36]]
    assert rows(shown["dX by conv2d"]) == expected
    assert rows(shown["dX by conv2d_input"]) == expected


def test_transpose_in_one_dimension() -> None:
    a, b, x, y, z = 2, 3, 5, 7, 11
    shown = by_hand.transpose_in_one_dimension()
    assert rows(shown["a|b"]) == [[a, b]]
    assert rows(shown["x|y|z"]) == [[x, y, z]]
    assert rows(shown["ax|ay|az+bx|by|bz"]) == [[a * x, a * y, a * z + b * x, b * y, b * z]]


def test_write_convolution_as_a_matrix() -> None:
    shown = by_hand.write_convolution_as_a_matrix()
    assert rows(shown["C"]) == [
        [1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9, 0, 0, 0, 0, 0],
        [0, 1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9, 0],
        [0, 0, 0, 0, 0, 1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9],
    ]
    # row 0, column 0: 1 + 2 + 3 + 5 + 6 + 9
    assert rows(shown["C vec(X)"]) == rows(shown["conv2d(X, W)"]) == [[26, 35], [28, 32]]
    transposed = [[1, 4, 7, 6], [7, 23, 33, 24], [19, 53, 63, 42], [21, 52, 59, 36]]
    assert rows(shown["C^T vec(dY)"]) == rows(shown["conv_transpose2d(dY, W)"]) == transposed


def test_upsample_2x2_to_4x4() -> None:
    shown = by_hand.upsample_2x2_to_4x4()
    assert rows(shown["Y"]) == [[1, 1.5, 2], [2, 2.5, 3], [3, 3.5, 4]]
    larger = rows(shown["Y, output_padding 1"])
    assert larger == [[1, 1.5, 2, 1], [2, 2.5, 3, 1.5], [3, 3.5, 4, 2], [1.5, 1.75, 2, 1]]


def test_convolution_by_hand_prints_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert by_hand.main(["--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    pictures = sorted(tmp_path.iterdir())
    assert len(pictures) == len(by_hand.EXAMPLES) == 8
    for picture, example in zip(pictures, by_hand.EXAMPLES, strict=True):
        check_png(picture)
        title, text = by_hand.explanation(example)
        assert title in printed and text in printed
    assert "times faster" in printed
    assert "10  14     37  21  33" in printed


# --- train_digits ---


def test_both_libraries_start_from_the_same_parameters() -> None:
    ours, theirs = (train_digits.make_contender(each) for each in (train_digits.OURS, train_digits.TORCH))
    for task in train_digits.TASKS:
        mine, reference = ours.networks[task].state_dict(), theirs.networks[task].state_dict()
        assert list(mine) == list(reference)
        assert all(torch.equal(mine[name], reference[name]) for name in mine)
    layers = list(ours.networks["autoencoder"].modules())
    assert sum(type(layer) is train_digits.OURS.conv for layer in layers) == 3
    assert sum(type(layer) is train_digits.OURS.conv_transpose for layer in layers) == 3


def test_images_are_split_without_overlap() -> None:
    digits = train_digits.load_images()
    assert digits.train_images.shape == (1437, 1, 8, 8) and digits.test_images.shape == (360, 1, 8, 8)
    assert digits.train_images.min() == 0 and digits.train_images.max() == 1
    assert set(digits.test_labels.tolist()) == set(range(10))


def test_shifts_move_by_at_most_one_pixel() -> None:
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, 4, 4] = 1
    torch.manual_seed(0)
    seen = {tuple(train_digits.shift_at_random(image)[0, 0].nonzero()[0].tolist()) for _ in range(200)}
    assert seen == {(h, w) for h in (3, 4, 5) for w in (3, 4, 5)}


def test_gradcheck_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(train_digits.check_gradients().values()) == {"passed"}

    def detached(*arguments: object) -> Tensor:
        # gradients of x * x instead of conv2d's: gradcheck must notice
        x = arguments[0]
        assert isinstance(x, Tensor)
        return x.detach() * x

    monkeypatch.setattr(Conv2dFunction, "apply", detached)
    verdicts = train_digits.check_gradients()
    assert verdicts["Conv2dFunction"].startswith("FAILED")
    assert verdicts["ConvTranspose2dFunction"] == "passed"


def test_two_epochs(tmp_path: Path, capsys: pytest.CaptureFixture[str], threads: int) -> None:
    """Few images and epochs: everything is printed and drawn, and the accuracy is too low."""
    picture = tmp_path / "made" / "digits.png"
    assert train_digits.main(["--output", str(picture), "--epochs", "2", "--samples", "300"]) == 1
    check_png(picture)
    captured = capsys.readouterr()
    for word in (
        "gradcheck",
        "accuracy, held out",
        "classifier, time",
        "autoencoder, time",
        "loss curves differ by",
    ):
        assert word in captured.out
    assert "is under the required 97%" in captured.err


def test_losses_fall_and_agree() -> None:
    """In float64, as training lets float32's differences of rounding grow (see train_digits.differences)."""
    digits = train_digits.load_images(300)
    digits = digits._replace(train_images=digits.train_images.double())
    both = [train_digits.make_contender(each, 3) for each in (train_digits.OURS, train_digits.TORCH)]
    for contender in both:
        for network in contender.networks.values():
            network.double()
    train_digits.train(both, digits, epochs=3)
    ours, theirs = both
    for task in train_digits.TASKS:
        assert ours.losses[task][-1] < ours.losses[task][0]
        # 24 steps; 4e-16 was seen, and a single ReLU that flips costs orders of magnitude
        assert max(train_digits.differences(ours.losses[task], theirs.losses[task])) < 1e-9
        assert ours.seconds[task] > 0
        first, second = (list(each.networks[task].parameters()) for each in both)
        # not the same bits: ours did not come from torch's operators
        assert any(not torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_accuracy_counts_the_right_ones() -> None:
    identity = nn.Identity()
    logits = torch.eye(4)
    assert train_digits.accuracy(identity, logits, torch.tensor([0, 1, 2, 0])) == 0.75


# --- convert_a_model ---


def test_conversion_changes_no_loss() -> None:
    """In float64: every loss, before and after the conversion, is that of the twin."""
    digits = train_digits.load_images(200)
    images, runs = digits.train_images.double(), []
    for convert_at in (5, None):
        network = convert_a_model.make_network().double()
        runs.append(convert_a_model.train(network, images, digits.train_labels, 10, convert_at))
    ours, theirs = runs
    assert theirs.report is None and ours.report is not None
    assert list(ours.report.swapped) == ["2", "4", "6"] and list(ours.report.left) == ["0"]
    assert max(train_digits.differences(ours.losses, theirs.losses)) < 1e-9
    assert ours.losses[-1] < ours.losses[0]


def test_conversion_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert convert_a_model.main(["--steps", "40"]) == 0
    shown = capsys.readouterr().out
    assert "  Centred is a subclass of torch.nn.Conv2d (1): 0" in shown.splitlines()
    assert float(shown.split("it reads ")[1].split("%")[0]) > 80
