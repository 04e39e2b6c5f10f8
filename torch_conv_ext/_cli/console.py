"""How output looks. The one place that knows whether rich is installed.

Results go to stdout: as tables of rich on a terminal, as plain aligned text elsewhere or without rich, as one
JSON object with --json. Progress, notes and errors go to stderr, so that a result can be piped.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

HAS_RICH = importlib.util.find_spec("rich") is not None

_STYLES = {"ok": "green", "FAILED": "bold red"}


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option that all commands share."""
    parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")


def print_error(message: str, hint: str = "") -> None:
    """An error on stderr, with the way out in a second line."""
    print(f"error: {message}" + (f"\n{hint}" if hint else ""), file=sys.stderr)


class Console:
    """Prints text, facts and tables; with `as_json` nothing but the object given to `result`."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self._rich: RichConsole | None = None
        if HAS_RICH and not as_json and (sys.stdout.isatty() or os.environ.get("FORCE_COLOR")):
            from rich.console import Console as RichConsole

            self._rich = RichConsole(highlight=False, markup=False, emoji=False)

    def text(self, text: str = "", style: str = "") -> None:
        """A line; `style` is rich's ("bold", "red", ...)."""
        if self._rich:
            self._rich.print(text, style=style or None)
        elif not self.as_json:
            print(text)

    def note(self, text: str) -> None:
        """Something that the user should know, and that is no error."""
        self.text(f"note: {text}", style="yellow")

    def result(self, result: Mapping[str, object]) -> None:
        """The object that --json prints."""
        if self.as_json:
            print(json.dumps(_strict(result), indent=2, allow_nan=False))

    def facts(self, facts: Sequence[tuple[str, str]]) -> None:
        """Names and values, one pair a line."""
        self.table((), facts)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
        """Cells, of one line or several, in columns; those in `right` are set flush right."""
        if self._rich:
            from rich import box
            from rich.table import Table
            from rich.text import Text

            table = Table(
                box=box.SIMPLE_HEAD if columns else None, show_header=bool(columns), pad_edge=bool(columns)
            )
            for at in range(len(rows[0]) if rows else len(columns)):
                justify = "right" if at in right else "left"
                header = Text(columns[at]) if columns else ""
                table.add_column(header, justify=justify, style="bold" if at == 0 else "", overflow="fold")  # type: ignore[arg-type]
            for row in rows:
                table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
            self._rich.print(table)
        elif not self.as_json:
            print(plain_table(columns, rows, right))

    @contextmanager
    def progress(self, total: int) -> Iterator[Callable[[str], None]]:
        """Gives a function to call before each of `total` steps, with the step's name."""
        if self._rich and sys.stderr.isatty():
            from rich.console import Console as RichConsole
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
            with Progress(*columns, console=RichConsole(stderr=True), transient=True) as bar:
                task = bar.add_task("", total=total, completed=-1)
                yield lambda name: bar.update(task, advance=1, description=name)
            return
        done = 0

        def step(name: str) -> None:
            nonlocal done
            done += 1
            if not self.as_json or sys.stderr.isatty():
                print(f"[{done:{len(str(total))}}/{total}] {name}", file=sys.stderr, flush=True)

        yield step


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Cells padded to equal widths, two spaces between columns, the header underlined with dashes."""
    lines: list[list[str]] = []
    for row in [columns, *rows] if columns else rows:
        cells = [cell.splitlines() or [""] for cell in row]
        height = max(map(len, cells), default=0)
        lines += [[cell[i] if i < len(cell) else "" for cell in cells] for i in range(height)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    if columns:
        lines.insert(1, ["-" * width for width in widths])
    padded = (
        [
            c.rjust(w) if at in right else c.ljust(w)
            for at, (c, w) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    )
    return "\n".join("  ".join(line).rstrip() for line in padded)


def _strict(value: object) -> object:
    """JSON has neither NaN nor infinities: null in their place."""
    if isinstance(value, Mapping):
        return {key: _strict(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
