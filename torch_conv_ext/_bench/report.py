"""Results for people: rows with the losses first, a summary against the targets, a comparison of files."""

from __future__ import annotations

from collections.abc import Sequence

from torch_conv_ext._bench.machine import Machine, facts
from torch_conv_ext._bench.results import (
    COPY_TARGET,
    LARGE_DEPTHWISE_TARGET,
    Change,
    Row,
    Summary,
    Total,
    geometric_mean,
    summarise,
)
from torch_conv_ext._cli.console import Console

_BUSY = 0.7  # threads that run elsewhere; a machine at rest has less
_NOTABLE = 0.03  # a change of a ratio by less is not listed


def show_machine(console: Console, machine: Machine) -> None:
    """What the figures depend on."""
    console.facts(facts(machine))
    if machine.load > _BUSY:
        console.note(
            f"the machine was busy in the last minute (load {machine.load:.1f} on {machine.cores} cores): "
            "other programs make figures low and ratios uncertain"
        )


def by_setting(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """The rows of each dtype and layout."""
    parts: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        parts.setdefault((row.dtype, row.layout), []).append(row)
    return parts


def show_rows(console: Console, machine: Machine, rows: Sequence[Row], below: float | None = None) -> None:
    """Rows of one dtype and layout, the smallest ratio first; with `below` only those under this ratio."""
    shown = sorted((r for r in rows if below is None or r.ratio < below), key=lambda r: r.ratio)
    losses = sum(r.ratio < 1.0 for r in rows)
    console.text()
    console.text(
        f"{rows[0].dtype}, {rows[0].layout}: {len(rows)} rows, {losses} of them slower than torch"
        + ("" if below is None else f"; the {len(shown)} below {below:g}"),
        style="bold",
    )
    layers = [r for r in shown if r.flops]
    if layers:
        rivals = list(dict.fromkeys(name for r in layers for name in r.rivals))
        columns = ("suite", "layer", "contraction", "algorithm", "torch GF/s", "ours GF/s", "of peak")
        console.table(
            (*columns, "ratio", "quartiles", *(f"/ {name}" for name in rivals), ""),
            [_layer_cells(machine, row, rivals) for row in layers],
            right=range(4, 9 + len(rivals)),
        )
    passes = [r for r in shown if not r.flops]
    if passes:
        console.table(
            ("suite", "model", "pass", "torch ms", "ours ms", "ratio", "quartiles", ""),
            [
                (r.suite, r.title, r.contraction, _ms(r.torch), _ms(r.ours), *_ratio_cells(r), _mark(r))
                for r in passes
            ],
            right=range(3, 7),
        )


def _layer_cells(machine: Machine, row: Row, rivals: Sequence[str]) -> tuple[str, ...]:
    rate = row.flops / row.ours / 1e9
    return (
        row.suite,
        row.title,
        row.contraction,
        row.algorithm,
        _rate(row.flops / row.torch / 1e9),
        _rate(rate),
        f"{rate / machine.peak[row.dtype]:.0%}",
        *_ratio_cells(row),
        *(f"{row.rivals[name] / row.ours:.2f}" if name in row.rivals else "" for name in rivals),
        _mark(row),
    )


def _ratio_cells(row: Row) -> tuple[str, str]:
    return f"{row.ratio:.2f}", f"{row.low:.2f}-{row.high:.2f}"


def _mark(row: Row) -> str:
    return "slower" if row.ratio < 1.0 else ""


def _rate(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 20 else f"{rate:.1f}" if rate >= 0.1 else f"{rate:.2g}"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.4g}"


# --- summary ------------------------------------------------------------------------------------------------


def show_summary(console: Console, machine: Machine, rows: Sequence[Row]) -> None:
    """Means, worst rows and targets of the rows of one dtype and layout."""
    console.text()
    console.text(f"Summary, {rows[0].dtype}, {rows[0].layout}", style="bold")
    columns = ("class", "contraction", "rows", "mean", "target", "worst", "target", ">= 1.0")
    console.table(
        (*columns, "verdict", "worst row"), [_summary_cells(s) for s in summarise(rows)], right=range(2, 8)
    )
    for name, wanted, shares in (
        (
            "depthwise 3x3, outputs and input gradients: share of the bandwidth of a copy",
            COPY_TARGET,
            [(r.copy_share, r) for r in rows if r.copy_share is not None],
        ),
        (
            "depthwise 31x31: share of the peak",
            LARGE_DEPTHWISE_TARGET,
            [
                (r.flops / r.ours / 1e9 / machine.peak[r.dtype], r)
                for r in rows
                if "depthwise" in r.tags and "31x31" in r.layer
            ],
        ),
    ):
        if shares:
            mean = geometric_mean(share for share, _ in shares)
            lowest, row = min(shares, key=lambda pair: pair[0])
            verdict = "ok" if mean >= wanted else "below"
            console.text(
                f"{name}: mean {mean:.0%} of {len(shares)} rows (target {wanted:.0%}: {verdict}), "
                f"lowest {lowest:.0%}, {row.title} {row.contraction}"
            )


def _summary_cells(s: Summary) -> tuple[str, ...]:
    return (
        s.tag,
        s.contraction,
        str(s.rows),
        f"{s.mean:.2f}",
        f"{s.target.mean:.3g}" if s.target else "",
        f"{s.worst.ratio:.2f}",
        f"{s.target.worst:.3g}" if s.target else "",
        f"{s.wins:.0%}",
        s.verdict,
        s.worst.title,
    )


def show_totals(console: Console, totals: Sequence[Total]) -> None:
    """Times of all convolutions of a network."""
    if totals:
        console.text()
        console.text("All convolutions of a network, each as often as it stands there", style="bold")
        console.table(
            ("network", "contraction", "torch ms", "ours ms", "ratio"),
            [(t.suite, t.contraction, _ms(t.torch), _ms(t.ours), f"{t.torch / t.ours:.2f}") for t in totals],
            right=range(2, 5),
        )


# --- comparison ---------------------------------------------------------------------------------------------


def show_changes(console: Console, changes: Sequence[Change], differences: Sequence[str]) -> None:
    """What has changed since another file was saved, the losses first.

    A row is listed where the quartiles of its ratio, then and now, do not overlap.
    """
    console.text()
    console.text(f"Compared with the file: {len(changes)} rows in both", style="bold")
    for difference in differences:
        console.note(difference)
    if not changes:
        return
    listed = [c for c in changes if c.certain and abs(c.factor - 1.0) > _NOTABLE]
    console.table(
        ("layer", "contraction", "dtype", "layout", "ratio then", "now", "change"),
        [
            (
                c.new.title,
                c.new.contraction,
                c.new.dtype,
                c.new.layout,
                f"{c.old.ratio:.2f}",
                f"{c.new.ratio:.2f}",
                f"x{c.factor:.2f}",
            )
            for c in listed
        ],
        right=range(4, 7),
    )
    for contraction in dict.fromkeys(c.new.contraction for c in changes):
        part = [c for c in changes if c.new.contraction == contraction]
        slower = sum(c.new.contraction == contraction and c.factor < 1.0 for c in listed)
        quicker = sum(c.new.contraction == contraction and c.factor > 1.0 for c in listed)
        mean = geometric_mean(c.factor for c in part)
        console.text(
            f"{contraction}: mean change x{mean:.2f}, {quicker} quicker, {slower} slower of {len(part)}"
        )
