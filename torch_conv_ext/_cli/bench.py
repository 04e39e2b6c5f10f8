"""Time convolution layers and networks beside torch's.

Each row is one contraction of one layer, torch's and ours in turns in one process: medians, GF/s, share of
the measured peak, and the ratio of the times (above 1 is a gain) with its quartiles. Every result is checked
against float64 before it is timed. Rows slower than torch come first, the summary last.

malloc is set so that fresh outputs cost no page faults, which takes a restart of this command;
--default-malloc leaves it alone. For both libraries on AVX2 set ATEN_CPU_CAPABILITY=avx2 and
ONEDNN_MAX_CPU_ISA=AVX2, and give --isa avx2.

Examples:

    python -m torch_conv_ext bench
    python -m torch_conv_ext bench --suite resnet50 unet --layout both --save out/a.json --plot out/a.png
    python -m torch_conv_ext bench --suite all --contraction grad_weight --filter 'dw' --min-ratio 1
    python -m torch_conv_ext bench --suite models --torch-compile --filter 'ResNet|U-Net'
    python -m torch_conv_ext bench --compare out/a.json
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from torch_conv_ext import _C
from torch_conv_ext._bench import machine as machines
from torch_conv_ext._bench import models, plot, report, results, rivals
from torch_conv_ext._bench.families import family_suites
from torch_conv_ext._bench.layers import CONTRACTIONS, Layer, Suite, merged, without_repeats
from torch_conv_ext._bench.measure import Session
from torch_conv_ext._bench.networks import network_suites
from torch_conv_ext._bench.results import Row
from torch_conv_ext._bench.zoo import MODELS
from torch_conv_ext._cli import UsageError
from torch_conv_ext._cli.console import Console, add_json

_DTYPES = ("float32", "float64")
_LAYOUTS = ("nchw", "channels_last")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--suite",
        nargs="+",
        default=["quick"],
        metavar="NAME",
        help="suites (see --list), or all; default quick",
    )
    parser.add_argument(
        "--list", action="store_true", help="list the suites with their sources; time nothing"
    )
    parser.add_argument(
        "--filter", metavar="REGEX", help="only layers and models whose 'SUITE NAME' it is found in"
    )
    parser.add_argument(
        "--contraction", nargs="+", choices=CONTRACTIONS, default=CONTRACTIONS, help="default all three"
    )
    parser.add_argument("--dtype", choices=(*_DTYPES, "both"), default="float32", help="default float32")
    parser.add_argument("--layout", choices=(*_LAYOUTS, "both"), default="nchw", help="default nchw")
    parser.add_argument("--threads", type=_positive(int), metavar="N", help="default: torch's number")
    parser.add_argument("--batch", type=_positive(int), metavar="N", help="instead of each layer's own batch")
    parser.add_argument(
        "--time", type=_positive(float), default=0.5, metavar="SECONDS", help="for each row; default 0.5"
    )
    parser.add_argument("--isa", metavar="NAME", help="instruction set of our kernels; default the fastest")
    parser.add_argument("--default-malloc", action="store_true", help="leave malloc as glibc sets it up")
    parser.add_argument("--no-rivals", action="store_true", help="leave out onnxruntime and openvino")
    parser.add_argument(
        "--torch-compile",
        action="store_true",
        help="inference of models beside torch.compile too; takes a C++ compiler, and minutes",
    )
    parser.add_argument("--min-ratio", type=float, metavar="R", help="list only rows with a ratio below R")
    parser.add_argument("--save", type=Path, metavar="JSON", help="write the results to a file")
    parser.add_argument("--compare", type=Path, metavar="JSON", help="show what has changed since --save")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the ratios (needs matplotlib)")
    add_json(parser)


def _positive(kind: type[int] | type[float]) -> Callable[[str], int | float]:
    def parse(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not value > 0:
            raise argparse.ArgumentTypeError(f"expected a positive number, but got {text!r}")
        return value

    return parse


def run(args: argparse.Namespace) -> int:
    """Exit status 0, or 1 where one of our results was wrong."""
    suites = merged(network_suites(), family_suites())
    console = Console(args.json)
    if args.list:
        return _list(console, suites)
    layers = _layers(args, suites)
    passes = _passes(args)
    if not layers and not passes:
        raise UsageError(
            f"--filter: no layer or model of the suites {' '.join(args.suite)} matches {args.filter!r}"
        )
    old = _load(args.compare) if args.compare else None
    if args.plot and not plot.AVAILABLE:
        raise UsageError("--plot: matplotlib is not installed; run `python -m pip install matplotlib`")
    if args.isa and args.isa not in _C.supported_isas():
        raise UsageError(f"--isa: expected one of {', '.join(_C.supported_isas())}, but got {args.isa!r}")
    if not args.default_malloc:
        machines.pin_malloc()

    if args.threads:
        torch.set_num_threads(args.threads)
    if args.isa:
        _C.set_isa(args.isa)
    machine = machines.examine(_dtypes(args), min(args.time, 0.15))
    report.show_machine(console, machine)
    _note_absent(args, console)
    session, finished = _measure(args, console, without_repeats(layers), passes)
    rows = session.rows
    if args.save:
        results.save(args.save, machine, rows)
    _show(args, console, machine, session, layers)
    if old:
        report.show_changes(console, results.compare(old[1], rows), results.differences(old[0], machine))
    if args.plot and rows:
        plot.save_plot(args.plot, machine, rows)
    if not finished:
        raise KeyboardInterrupt
    return 1 if session.wrong else 0


def _list(console: Console, suites: Mapping[str, Suite]) -> int:
    table = [(s.name, str(len(s.layers)), s.source) for s in suites.values()]
    table += [(name, "", source) for name, source in models.SOURCES.items()]
    console.table(("suite", "layers", "source"), table, right=(1,))
    console.result({name: {"layers": count, "source": source} for name, count, source in table})
    return 0


def _layers(args: argparse.Namespace, suites: Mapping[str, Suite]) -> list[Layer]:
    """The layers that were asked for, with equal ones of several suites."""
    known = [*suites, *models.SOURCES, "all"]
    for name in args.suite:
        if name not in known:
            raise UsageError(f"--suite: expected some of {', '.join(known)}, but got {name!r}")
    names = [name for name in suites if name in args.suite or ("all" in args.suite and name != "quick")]
    layers = [layer for name in names for layer in suites[name].layers]
    if args.batch:
        layers = [dataclasses.replace(layer, n=args.batch) for layer in layers]
    wanted = _filter(args)
    return [layer for layer in layers if wanted.search(f"{layer.suite} {layer.name}")]


def _passes(args: argparse.Namespace) -> list[models.Pass]:
    """The passes of models, and the calls, that were asked for."""
    wanted = _filter(args)
    return [
        p
        for dtype, layout in _settings(args)
        for suite in models.SOURCES
        if suite in args.suite or "all" in args.suite
        for p in models.passes(suite, dtype, layout, args.batch, args.torch_compile)
        if wanted.search(f"{p.suite} {p.name}")
    ]


def _filter(args: argparse.Namespace) -> re.Pattern[str]:
    try:
        return re.compile(args.filter or "")
    except re.error as error:
        raise UsageError(f"--filter: {args.filter!r} is not a regular expression: {error}") from error


def _note_absent(args: argparse.Namespace, console: Console) -> None:
    """Say which models are left out because a package is not installed."""
    absent = [
        model
        for suite, members in MODELS.items()
        if suite in args.suite or "all" in args.suite
        for model in members
        if not model.available and _filter(args).search(f"{suite} {model.name}")
    ]
    if absent:
        names, packages = ", ".join(m.name for m in absent), " ".join(sorted({m.package for m in absent}))
        console.note(f"left out: {names}; for these run `python -m pip install {packages}`")


def _load(path: Path) -> tuple[machines.Machine, list[Row]]:
    try:
        return results.load(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"--compare: {error}") from error


def _measure(
    args: argparse.Namespace, console: Console, layers: Sequence[Layer], passes: Sequence[models.Pass]
) -> tuple[Session, bool]:
    """The rows that could be measured, and whether these are all: Ctrl-C ends it early."""
    session = Session(args.contraction, args.time, [] if args.no_rivals else rivals.installed())
    settings = _settings(args)
    total = len(settings) * len(layers) * len(args.contraction) + len(passes)
    try:
        with console.progress(total) as step:
            for dtype, layout in settings:
                for layer in layers:
                    session.measure_layer(layer, dtype, layout, step)
            for p in passes:
                session.measure_pass(p, step)
    except KeyboardInterrupt:
        return session, False
    return session, True


def _settings(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Dtypes and layouts."""
    return list(itertools.product(_dtypes(args), _LAYOUTS if args.layout == "both" else (args.layout,)))


def _dtypes(args: argparse.Namespace) -> tuple[str, ...]:
    return _DTYPES if args.dtype == "both" else (args.dtype,)


def _show(
    args: argparse.Namespace,
    console: Console,
    machine: machines.Machine,
    session: Session,
    layers: Sequence[Layer],
) -> None:
    parts = report.by_setting(session.rows).values()
    for part in parts:
        report.show_rows(console, machine, part, args.min_ratio)
    networks = [s.name for s in network_suites()]
    for part in parts:
        report.show_summary(console, machine, part)
        report.show_totals(console, results.totals(part, layers, networks))
    for text in session.wrong:
        console.text(f"WRONG, not timed: {text}", style="bold red")
    console.result(results.as_dict(machine, session.rows) | {"wrong": session.wrong})
