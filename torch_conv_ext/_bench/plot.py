"""The ratios as a picture: a bar for each row, losses in another colour. Needs matplotlib."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from torch_conv_ext._bench.layers import CONTRACTIONS
from torch_conv_ext._bench.machine import Machine
from torch_conv_ext._bench.results import TAGS, Row, geometric_mean

AVAILABLE = importlib.util.find_spec("matplotlib") is not None

_GAIN, _LOSS = "#2a78b5", "#d1382f"
_NAMED = 32  # so many bars have room for the names of their layers
_TOP = 32.0  # higher bars are cut


def save_plot(path: Path, machine: Machine, rows: Sequence[Row]) -> None:
    """One panel for each dtype, layout and contraction, and one for networks and calls.

    Bars rise from 1.0 on a logarithmic scale.
    Bars are grouped by class, and within a class sorted by ratio. `path` ends in what matplotlib can write.
    """
    from matplotlib.figure import Figure

    panels: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        kind = row.contraction if row.contraction in CONTRACTIONS else "networks and calls"
        panels.setdefault((row.dtype, row.layout, kind), []).append(row)
    named = max(map(len, panels.values())) <= _NAMED
    # One scale for all panels, with room for the names of the classes.
    top = 1.5 * min(_TOP, max(r.ratio for r in rows))
    bottom = min(0.8, *(0.9 * r.ratio for r in rows))
    height = 2.6 + (1.6 if named else 0.0)
    figure = Figure(figsize=(12, 0.7 + height * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    figure.suptitle(
        f"Time of torch {machine.torch} over time of torch_conv_ext {machine.torch_conv_ext} "
        f"({machine.cpu}, {machine.threads} threads, {machine.isa})",
        fontsize=11,
    )
    for ax, ((dtype, layout, contraction), part) in zip(axes, panels.items(), strict=True):
        groups: dict[str, list[Row]] = {}
        for row in sorted(part, key=lambda r: TAGS.index(r.tags[0])):
            groups.setdefault(row.tags[0], []).append(row)
        ordered = [r for group in groups.values() for r in sorted(group, key=lambda r: r.ratio)]
        colours = [_GAIN if r.ratio >= 1.0 else _LOSS for r in ordered]
        spread = [
            [r.ratio - min(r.low, r.ratio) for r in ordered],
            [max(r.high, r.ratio) - r.ratio for r in ordered],
        ]
        ax.bar(
            range(len(ordered)),
            [r.ratio - 1.0 for r in ordered],
            bottom=1.0,
            color=colours,
            yerr=spread,
            error_kw={"elinewidth": 0.6, "ecolor": "#555555"},
        )
        ax.axhline(1.0, color="black", linewidth=0.8)
        ax.set_yscale("log", base=2)
        ax.set_ylim(bottom, top)
        for at, row in enumerate(ordered):
            if named and row.ratio > top:
                ax.text(at, top / 1.1, f"{row.ratio:.0f}x", rotation=90, ha="center", va="top", fontsize=6)
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}x")
        ax.grid(axis="y", linewidth=0.3)
        ax.set_axisbelow(True)
        ax.margins(x=0.01)
        losses = sum(r.ratio < 1.0 for r in ordered)
        mean = geometric_mean(r.ratio for r in ordered)
        ax.set_title(
            f"{contraction}, {dtype}, {layout}: geometric mean {mean:.2f}x, "
            f"{losses} of {len(ordered)} rows slower",
            fontsize=10,
            loc="left",
        )
        if named:
            ax.set_xticks(
                range(len(ordered)), [r.title for r in ordered], rotation=60, ha="right", fontsize=7
            )
        else:
            ax.set_xticks([])
        edge = 0
        for name, group in groups.items():
            if edge:
                ax.axvline(edge - 0.5, color="#999999", linewidth=0.6, linestyle=":")
            ax.annotate(
                name,
                (edge - 0.4, 0.98),
                xycoords=("data", "axes fraction"),
                fontsize=8,
                va="top",
                color="#333333",
            )
            edge += len(group)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
