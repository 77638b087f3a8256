"""The output of a command: its result on stdout, everything else on stderr.

Rules. Stdout has only the result: tables and text for people, or with `--json` exactly one JSON document. Notes and
progress go to stderr: a live bar on a terminal, and elsewhere (a Slurm log, a pipe) a plain line every few seconds, so
that a log stays readable and no line contains control characters. Tables may hold any text: it is escaped here.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from mixstream.units import show_bytes

from .safe_text import printable

Advance = Callable[[int], None]
_UNBOUNDED = 10_000  # characters, more than any table is wide
_NARROW = 120  # characters of a terminal on which headers fold too


class Console:
    """The output streams of one run of a command.

    Args:
        as_json: print the result as one JSON document instead of the text for people.
        interval_s: seconds between two plain progress lines.
        quiet: write no notes and no progress.
    """

    def __init__(self, *, as_json: bool = False, interval_s: float = 5.0, quiet: bool = False) -> None:
        self.as_json = as_json
        self._interval_s, self._quiet = interval_s, quiet

    def note(self, text: str) -> None:
        """Write a line for people to stderr."""
        if not self._quiet:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()

    def result(self, document: Mapping[str, Any], *parts: Table | str) -> None:
        """Write the result to stdout: `document` with `--json`, else the tables and lines of `parts`."""
        if self.as_json:
            write_json(document)
            return
        is_terminal = sys.stdout.isatty()
        terminal = RichConsole(file=sys.stdout, width=None if is_terminal else 160, highlight=False)
        for part in parts:
            if is_terminal:
                terminal.print(part, markup=False)
                continue
            with terminal.capture() as captured:
                terminal.print(part, markup=False)
            sys.stdout.writelines(f"{line.rstrip(' ')}\n" for line in captured.get().removesuffix("\n").split("\n"))

    @contextmanager
    def progress(self, label: str, *, total: int, done: int = 0, unit: str = "bytes") -> Iterator[Advance]:
        """Show how much of `total` is done while the block runs, which calls the yielded `advance(amount)`.

        Amounts are bytes, or whatever `unit` counts, such as "rows".
        """
        write, every = self.note, self._interval_s
        lines = _Lines(label=label, total=total, done=done, unit=unit, interval_s=every, write=write)
        if self._quiet or not sys.stderr.isatty():
            yield lines.advance
            return
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), _Amount(unit), TimeRemainingColumn())
        with Progress(*columns, console=RichConsole(file=sys.stderr)) as bar:
            task = bar.add_task(label, total=total, completed=done)
            yield lambda size: bar.advance(task, size)


class _Lines:
    """Progress as plain lines, at most one every `interval_s` seconds."""

    def __init__(
        self, *, label: str, total: int, done: int, unit: str, interval_s: float, write: Callable[[str], None]
    ) -> None:
        self._label, self._total, self._done, self._write = label, total, done, write
        self._unit = unit
        self._interval_s = interval_s
        self._last = time.monotonic()
        self._begun: tuple[float, int] | None = None  # when the first units were done, and how many

    def advance(self, size: int) -> None:
        self._done = min(self._done + size, self._total)  # a reader that reads ahead may report a little too much
        now = time.monotonic()
        begun = self._begun
        if begun is None:  # until here a model was loaded, or a process started: it says nothing of the rate
            self._begun = (now, self._done)
        if now - self._last < self._interval_s:
            return
        self._last = now
        line = f"{self._label}: {100 * self._done / max(self._total, 1):.0f} %, "
        if begun is None or now <= begun[0]:
            self._write(f"{line}{_progress(self._done, self._total, None, self._unit)}")
            return
        rate = (self._done - begun[1]) / (now - begun[0])
        left = max(self._total - self._done, 0) / rate if rate else float("inf")
        self._write(f"{line}{_progress(self._done, self._total, rate, self._unit)}, {show_seconds(left)} left")


class _Amount(ProgressColumn):
    """Amount done, total and rate."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        total = task.total or 0
        amounts = _progress(min(task.completed, total), total, task.speed or 0, self._unit)
        return Text(f"{task.percentage:3.0f} %  {amounts.replace(', ', '  ')}")


def _progress(done: float, total: float, rate: float | None, unit: str) -> str:
    """Amount done, total and rate, in the units of `show_bytes`, or counted: `1,200 of 5,000 rows, 350 rows/s`."""
    if unit == "bytes":
        amounts = f"{show_bytes(done)} of {show_bytes(total)}"
        return amounts if rate is None else f"{amounts}, {show_bytes(rate)}/s"
    amounts = f"{done:,.0f} of {total:,.0f} {unit}"
    return amounts if rate is None else f"{amounts}, {rate:,.{0 if rate >= 10 or not rate else 1}f} {unit}/s"


def write_json(document: Mapping[str, Any]) -> None:
    """Write one JSON document to stdout."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
    sys.stdout.flush()


class _Table(Table):
    """A plain table. Where it is too wide, text folds; on a narrow terminal, headers of numbers too, but no number."""

    def __rich_console__(self, console: RichConsole, options: ConsoleOptions) -> RenderResult:
        wide = Measurement.get(console, options.update(width=_UNBOUNDED), self).maximum
        if options.max_width < _NARROW and wide > options.max_width:
            for column in (each for each in self.columns if each.justify == "right"):
                column.header, column.no_wrap = Text(str(column.header).replace(" ", "\n")), True
        yield from super().__rich_console__(console, options)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """Return a plain table of any text; long cells fold, integers are right-aligned with a thousands separator."""
    view = _Table(box=None, pad_edge=False)
    for at, name in enumerate(columns):
        numbers = bool(rows) and all(isinstance(row[at], int) or row[at] == "-" for row in rows)
        view.add_column(Text(name), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        view.add_row(*(Text(f"{cell:,}" if isinstance(cell, int) else printable(str(cell))) for cell in row))
    return view


def text_lines(lines: Sequence[str]) -> Table:
    """Return lines of any text as a part of a result; long lines fold."""
    view = Table(box=None, pad_edge=False, show_header=False)
    view.add_column(overflow="fold")
    for line in lines:
        view.add_row(Text(printable(line)))
    return view


def show_seconds(seconds: float) -> str:
    """`4000` as `1 h 06 min`."""
    if seconds == float("inf"):
        return "unknown time"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60:02} min"
