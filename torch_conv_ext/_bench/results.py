"""Rows of figures: what is kept of each, their summary against targets, files, the comparison of two files.

A ratio is torch's time over ours: above 1.0 is a gain. Means of ratios are geometric: 2.0 and 0.5 cancel.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch_conv_ext._bench.layers import CLASSES, DENSE_DIRECT, DENSE_WINOGRAD, Layer
from torch_conv_ext._bench.machine import Machine

SCHEMA = 1
ALL = "all"


@dataclasses.dataclass
class Row:
    """One contraction of one layer, or one pass of a model, in one dtype and layout.

    Times are in seconds. `low` and `high` are the quartiles of the ratio over the rounds. `count` is how
    often the layer stands in its network. A pass of a model has no flops and no algorithm.
    """

    suite: str
    layer: str
    batch: int
    contraction: str
    dtype: str
    layout: str
    tags: list[str]
    count: int
    flops: int
    algorithm: str
    torch: float
    ours: float
    ratio: float
    low: float
    high: float
    rounds: int
    torch_error: float
    ours_error: float
    copy_share: float | None = None
    rivals: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def key(self) -> tuple[object, ...]:
        """What two files call the same row: not the suite, in which a layer happens to stand first."""
        return self.layer, self.batch, self.contraction, self.dtype, self.layout

    @property
    def title(self) -> str:
        return f"{self.layer} N{self.batch}"


@dataclasses.dataclass(frozen=True)
class Target:
    """What the rows of a tag should reach: a geometric mean, and a ratio for the worst one."""

    dtype: str
    tag: str
    mean: float
    worst: float
    contraction: str = ""  # of one contraction; else of all


TARGETS = (
    Target("float32", "dense", 1.6, 0.95, "forward"),
    Target("float32", "dense", 1.8, 0.95, "grad_input"),
    Target("float32", "dense", 1.6, 0.95, "grad_weight"),
    Target("float32", DENSE_WINOGRAD, 2.2, 1.6),
    Target("float32", DENSE_DIRECT, 1.15, 0.95),
    Target("float32", "depthwise", 2.5, 1.0, "forward"),
    Target("float32", "depthwise", 2.5, 1.0, "grad_input"),
    Target("float32", "depthwise", 5.0, 1.0, "grad_weight"),
    Target("float32", "grouped", 2.0, 1.0),
    Target("float32", "thin", 1.8, 1.0),
    Target("float32", "transposed", 2.0, 1.0),
    Target("float64", "dense", 3.0, 1.0),
    Target("float64", "depthwise", 5.0, 1.2),
    Target("float64", "grouped", 5.0, 1.2),
    Target("float64", "thin", 5.0, 1.2),
    Target("float64", "transposed", 5.0, 1.2),
    Target("float32", "model", 1.5, 1.0, "training step"),
    Target("float32", "model", 1.3, 1.0, "inference, torch compiled"),
    Target("float32", "narrow", 1.5, 1.0, "training step"),
    Target("float32", "call", 1 / 1.5, 1 / 1.5),  # at most one and a half times as long
)
TAGS = (*CLASSES[:1], DENSE_WINOGRAD, DENSE_DIRECT, *CLASSES[1:], "model", "narrow", "call")
# Depthwise 3x3 is bound by memory: its target is a share of a copy's bandwidth. 31x31: of the peak.
COPY_TARGET = 0.6
LARGE_DEPTHWISE_TARGET = 0.6


def target(dtype: str, tag: str, contraction: str) -> Target | None:
    """The target of a tag, or None."""
    for t in TARGETS:
        if (t.dtype, t.tag) == (dtype, tag) and t.contraction in ("", contraction):
            return t
    return None


def geometric_mean(values: Iterable[float]) -> float:
    """exp of the mean of the logarithms; NaN of nothing."""
    logs = [math.log(v) for v in values]
    return math.exp(math.fsum(logs) / len(logs)) if logs else math.nan


@dataclasses.dataclass(frozen=True)
class Summary:
    """The rows of one tag and one contraction."""

    tag: str
    contraction: str
    rows: int
    mean: float
    worst: Row
    wins: float  # share of the rows with a ratio of at least 1.0
    target: Target | None

    @property
    def verdict(self) -> str:
        """'ok', or what the target misses; empty without a target."""
        if self.target is None:
            return ""
        misses = [
            name
            for name, reached, wanted in (
                ("mean", self.mean, self.target.mean),
                ("worst", self.worst.ratio, self.target.worst),
            )
            if reached < wanted
        ]
        return " and ".join(misses) + " below" if misses else "ok"


def summarise(rows: Sequence[Row]) -> list[Summary]:
    """One summary for each tag and contraction that has rows. The rows are of one dtype and layout.

    The last tag, 'all', is that of all layers; networks and single calls are not in it.
    """
    summaries = []
    for tag in (*TAGS, ALL):
        own = [r for r in rows if (r.flops > 0 if tag == ALL else tag in r.tags)]
        for contraction in dict.fromkeys(row.contraction for row in own):
            part = [r for r in own if r.contraction == contraction]
            summaries.append(
                Summary(
                    tag,
                    contraction,
                    len(part),
                    geometric_mean(r.ratio for r in part),
                    min(part, key=lambda r: r.ratio),
                    sum(r.ratio >= 1.0 for r in part) / len(part),
                    target(part[0].dtype, tag, contraction),
                )
            )
    return summaries


@dataclasses.dataclass(frozen=True)
class Total:
    """All convolutions of a network, each as often as it stands there, in seconds."""

    suite: str
    contraction: str
    torch: float
    ours: float


def totals(rows: Sequence[Row], layers: Sequence[Layer], networks: Iterable[str]) -> list[Total]:
    """The networks of which every layer has a row. Rows stand once, the layers once for each network."""
    found = {(r.layer, r.batch, r.contraction): r for r in rows}
    sums = []
    for suite in networks:
        own = [layer for layer in layers if layer.suite == suite]
        for contraction in dict.fromkeys(row.contraction for row in rows):
            parts = [(found.get((layer.name, layer.n, contraction)), layer.count) for layer in own]
            complete = [(row, count) for row, count in parts if row is not None]
            if own and len(complete) == len(parts):
                of_torch = sum(row.torch * count for row, count in complete)
                sums.append(Total(suite, contraction, of_torch, sum(row.ours * n for row, n in complete)))
    return sums


# --- files --------------------------------------------------------------------------------------------------


def as_dict(machine: Machine, rows: Sequence[Row]) -> dict[str, object]:
    """The content of a file of results."""
    return {
        "schema": SCHEMA,
        "machine": dataclasses.asdict(machine),
        "rows": [dataclasses.asdict(row) for row in rows],
    }


def save(path: Path, machine: Machine, rows: Sequence[Row]) -> None:
    """Write a file of results; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(as_dict(machine, rows), indent=1) + "\n")


def load(path: Path) -> tuple[Machine, list[Row]]:
    """Read a file of results. ValueError if it is none, OSError if it cannot be read."""
    try:
        content: Any = json.loads(path.read_text())
        if content["schema"] != SCHEMA:
            raise ValueError(f"{path}: expected results of schema {SCHEMA}, but got {content['schema']!r}")
        return Machine(**content["machine"]), [Row(**row) for row in content["rows"]]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a file that `bench --save` wrote ({error})") from error


# --- comparison ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Change:
    """The same row in two files."""

    old: Row
    new: Row

    @property
    def factor(self) -> float:
        """New ratio over old ratio: above 1.0 we are quicker than before, measured in times of torch."""
        return self.new.ratio / self.old.ratio

    @property
    def certain(self) -> bool:
        """Whether the middle halves of the two rows' ratios lie apart."""
        return self.new.low > self.old.high or self.new.high < self.old.low


def compare(old: Sequence[Row], new: Sequence[Row]) -> list[Change]:
    """The rows that both have, the largest loss first."""
    before = {row.key: row for row in old}
    changes = [Change(before[row.key], row) for row in new if row.key in before]
    return sorted(changes, key=lambda change: change.factor)


def differences(old: Machine, new: Machine) -> list[str]:
    """What makes figures of two files incomparable, one sentence each."""
    names = ("cpu", "threads", "torch", "torch_isa", "onednn_isa", "isa")
    pairs = [(name, getattr(old, name), getattr(new, name)) for name in names]
    pairs.append(("malloc", old.malloc.partition(",")[0], new.malloc.partition(",")[0]))
    return [f"{name}: {a!r} then, {b!r} now" for name, a, b in pairs if a != b]
