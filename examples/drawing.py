"""The pictures of train_digits.py and convolution_by_hand.py. Only matplotlib, no convolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt

matplotlib.use("Agg")  # files only: no display is needed
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpecFromSubplotSpec, SubplotSpec
from matplotlib.ticker import MaxNLocator, NullFormatter

Array = npt.NDArray[Any]

INK, SOFT, OURS, THEIRS = "#1d2733", "#7a8794", "#d1495b", "#2e6f95"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
    "savefig.facecolor": "white",
}


@dataclass
class DigitsSheet:
    """What the picture of train_digits.py shows. Pairs are (ours, torch.nn).

    losses and seconds are by task, filters is (C, 5, 5), each of rows is ten images of 8x8 under its name.
    """

    caption: str
    names: tuple[str, str]
    losses: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    seconds: Mapping[str, tuple[float, float]]
    filters: Array
    rows: Mapping[str, Array]


def save_digits_sheet(sheet: DigitsSheet, path: Path) -> None:
    """Draw the sheet and write it as a PNG; folders are made as needed."""
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(15, 10))
        grid = figure.add_gridspec(
            2,
            12,
            left=0.045,
            right=0.975,
            top=0.85,
            bottom=0.03,
            hspace=0.28,
            wspace=2.2,
            height_ratios=(1, 1.2),
        )
        figure.text(0.045, 0.945, "Learning to read and to draw digits", fontsize=20, fontweight="bold")
        figure.text(0.045, 0.915, sheet.caption, fontsize=11, color=SOFT)
        for (task, curves), place in zip(sheet.losses.items(), (grid[0, :5], grid[0, 5:10]), strict=True):
            _draw_losses(figure.add_subplot(place), task, curves, sheet.names)
        _draw_seconds(figure.add_subplot(grid[0, 10:]), sheet.seconds, sheet.names)
        _draw_filters(figure, grid[1, :5], sheet.filters)
        _draw_digits(figure, grid[1, 5:], sheet.rows)
        _save(figure, path)


def _draw_losses(
    axes: Axes, task: str, curves: tuple[Sequence[float], Sequence[float]], names: Sequence[str]
) -> None:
    # the reference is a broad band, ours a thin line on it: equal curves stay visible
    ours, theirs = curves
    epochs = range(1, len(ours) + 1)
    axes.semilogy(
        epochs, theirs, color=THEIRS, linewidth=7, alpha=0.3, label=names[1], solid_capstyle="round"
    )
    axes.semilogy(epochs, ours, color=OURS, linewidth=1.8, marker="o", markersize=3.5, label=names[0])
    gaps = [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
    axes.set_title(f"Training loss of the {task}")
    note = f"difference of the two curves:\n{gaps[0]:.0e} in the first epoch, at most {max(gaps):.0e}"
    axes.text(0.98, 0.76, note, transform=axes.transAxes, ha="right", va="top", color=SOFT, linespacing=1.4)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", which="major", color="#e6eaee")
    axes.legend(loc="upper right")


def _draw_seconds(axes: Axes, seconds: Mapping[str, tuple[float, float]], names: Sequence[str]) -> None:
    for index, pair in enumerate(seconds.values()):
        for offset, value, colour in zip((-0.2, 0.2), pair, (OURS, THEIRS), strict=True):
            axes.bar(index + offset, value, width=0.36, color=colour, alpha=1 if colour == OURS else 0.45)
            axes.text(index + offset, value, f"{value:.1f}", ha="center", va="bottom", fontsize=9)
    axes.set_xticks(range(len(seconds)), list(seconds), fontsize=8.5)
    axes.set_title("Seconds")
    axes.spines["left"].set_visible(False)
    axes.set_yticks([])


def _draw_filters(figure: Figure, place: SubplotSpec, filters: Array) -> None:
    columns = 6
    rows = -(-len(filters) // columns)
    inner = GridSpecFromSubplotSpec(rows, columns, place, hspace=0.1, wspace=0.1)
    limit = float(np.abs(filters).max())
    for index, weights in enumerate(filters):
        axes = figure.add_subplot(inner[index])
        axes.imshow(weights, cmap="RdBu_r", vmin=-limit, vmax=limit)
        _frame(axes)
        if index == 0:
            title = f"The {len(filters)} filters of the classifier's first layer, red > 0 > blue"
            axes.set_title(title, pad=9)


def _draw_digits(figure: Figure, place: SubplotSpec, rows: Mapping[str, Array]) -> None:
    count = len(next(iter(rows.values())))
    inner = GridSpecFromSubplotSpec(len(rows), count, place, hspace=0.3, wspace=0.08)
    for row, (name, images) in enumerate(rows.items()):
        for column, image in enumerate(images):
            axes = figure.add_subplot(inner[row, column])
            axes.imshow(image, cmap="magma", vmin=0, vmax=1, interpolation="nearest")
            _frame(axes)
            if column == 0:
                axes.set_title(name, fontsize=10, pad=5, fontweight="bold" if row == 0 else "normal")


def _frame(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


CELL = 0.46  # inches, of a matrix small enough to have its numbers drawn
LARGE = 16  # more rows than this are drawn as an image without numbers


def save_matrices(title: str, text: str, matrices: Mapping[str, Array], path: Path) -> None:
    """Draw matrices in one row under a title and a text, and write a PNG; folders are made as needed.

    A name with bars, "a|b", gives the headings of the columns. Matrices of more than 16 rows are drawn
    without numbers.
    """
    gap, margin = 0.45, 0.4  # inches, like all lengths here
    top = 1.4 + 0.215 * text.count("\n")
    cells = {name: _cell_size(name, values) for name, values in matrices.items()}
    sizes = {
        name: (values.shape[1] * cells[name][0], values.shape[0] * cells[name][1])
        for name, values in matrices.items()
    }
    spans = {name: max(sizes[name][0], 0 if "|" in name else 0.098 * len(name)) for name in matrices}
    width = max(sum(spans.values()) + gap * (len(spans) - 1) + 2 * margin, 9.8)
    height = max(h for _, h in sizes.values()) + top + 0.4
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(width, height))
        figure.text(margin / width, 1 - 0.5 / height, title, fontsize=15, fontweight="bold", va="center")
        figure.text(
            margin / width, 1 - 0.8 / height, text, fontsize=9.5, va="top", color=SOFT, linespacing=1.45
        )
        left = margin
        for name, values in matrices.items():
            w, h = sizes[name]
            axes = figure.add_axes((left / width, 1 - (top + h) / height, w / width, h / height))
            _draw_matrix(axes, name, values)
            left += spans[name] + gap
        _save(figure, path)


def _cell_size(name: str, values: Array) -> tuple[float, float]:
    """Width and height of a cell. Headings of columns may need wide ones."""
    if values.shape[0] > LARGE:
        return CELL / 3, CELL / 3
    return max(CELL, 0.1 * max(map(len, name.split("|"))) if "|" in name else 0), CELL


def _draw_matrix(axes: Axes, name: str, values: Array) -> None:
    limit = float(np.abs(values).max()) or 1.0
    numbers = values.shape[0] <= LARGE
    # a table of sizes has no magnitudes to show
    shade = np.full(values.shape, 0.05 * limit) if "formula" in name else values
    edges = "white" if numbers else "none"
    axes.pcolormesh(shade, cmap="Blues", vmin=0, vmax=1.5 * limit, edgecolors=edges, linewidth=1.5)
    axes.invert_yaxis()
    if numbers:
        for (row, column), value in np.ndenumerate(values):
            axes.text(column + 0.5, row + 0.5, f"{value:g}", ha="center", va="center", fontsize=10)
    if "|" in name:
        for column, heading in enumerate(name.split("|")):
            axes.text(column + 0.5, -0.15, heading, ha="center", va="bottom", fontsize=9.5, fontweight="bold")
    else:
        axes.set_title(name, fontsize=10.5, pad=6)
    _frame(axes)
