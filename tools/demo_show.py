"""The training as one sees it: a live table on a terminal, a plain line now and then elsewhere; both on stderr.

Shares and losses are means over the last steps, for of 32 rows a rare domain has two.

Shape suffix: K domains.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from rich.console import Console as RichConsole
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .demo_journal import Step

WINDOW = 20
"""Steps that a share or a loss is the mean of."""
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00")
"""One for each domain, which people who are colour-blind can tell apart (Okabe and Ito)."""
_BAR, _CURVE, _PLAIN_LINES = 24, 32, 10
_BLOCKS = "▁▂▃▄▅▆▇█"

Float64 = NDArray[np.float64]


def shares_K(steps: Sequence[Step]) -> Float64:
    """The share of each domain in the rows of `steps`."""
    rows_K = np.sum([step.rows_K for step in steps], axis=0, dtype=np.float64)
    return rows_K / rows_K.sum()


def losses_K(steps: Sequence[Step]) -> Float64:
    """The mean loss of each domain over `steps`, in nats per byte; nan where it has no row."""
    sums_K = np.sum([step.loss_sum_K for step in steps], axis=0, dtype=np.float64)
    counts_K = np.sum([step.count_K for step in steps], axis=0, dtype=np.float64)
    return np.where(counts_K > 0, sums_K / np.maximum(counts_K, 1), np.nan)


def rate(steps: Sequence[Step]) -> float:
    """Bytes trained on per second, over `steps`."""
    if len(steps) < 2 or steps[-1].at <= steps[0].at:
        return float("nan")
    return sum(sum(step.count_K) for step in steps[1:]) / (steps[-1].at - steps[0].at)


class View:
    """Shows one part of the run while it grows.

    Args:
        names: the domains.
        steps: of the whole run.
        last: the step at which this part ends.
    """

    def __init__(self, *, names: Sequence[str], steps: int, last: int) -> None:
        self._names, self._steps, self._last = list(names), steps, last
        self._seen: list[Step] = []
        self._live: Live | None = None
        self._every = max(1, steps // _PLAIN_LINES)

    @contextmanager
    def shown(self) -> Iterator[View]:
        """Show while the block runs."""
        if not sys.stderr.isatty():
            yield self
            return
        with Live(self._table(), console=RichConsole(file=sys.stderr), refresh_per_second=4) as self._live:
            yield self

    def add(self, step: Step) -> None:
        """Take in one more step."""
        self._seen.append(step)
        if self._live is not None:
            self._live.update(self._table())
        elif (step.step + 1) % self._every == 0 or step.step + 1 == self._last:
            sys.stderr.write(self._line() + "\n")
            sys.stderr.flush()

    def _line(self) -> str:
        recent = self._seen[-WINDOW:]
        told = " | ".join(
            f"{name} {share:.0%} {loss:.2f}"
            for name, share, loss in zip(self._names, shares_K(recent), losses_K(recent))
        )
        return (
            f"     step {recent[-1].step + 1:{len(str(self._steps))}} of {self._steps}  {told} | {_speed(self._seen)}"
        )

    def _table(self) -> Table:
        done = self._seen[-1].step + 1 if self._seen else 0
        whole = Table.grid(padding=(0, 2, 0, 0))
        whole.add_column()
        head = Table.grid(padding=(0, 2, 0, 0))
        told = f"step {done} of {self._steps}  {_speed(self._seen)}" if self._seen else "Python and torch are starting"
        head.add_row("    ", ProgressBar(total=self._steps, completed=done, width=_BAR), Text(told))
        whole.add_row(head)
        whole.add_row(self._domains())
        return whole

    def _domains(self) -> Table:
        view = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for name in ("    ", "domain", "share", "", "loss", ""):
            view.add_column(name, justify="right" if name in {"share", "loss"} else "left", no_wrap=True)
        if not self._seen:
            return view
        recent = self._seen[-WINDOW:]
        curves = _curves(self._seen, len(self._names))
        rows = zip(self._names, shares_K(recent), losses_K(recent), curves)
        for at, (name, share, loss, curve) in enumerate(rows):
            color = COLORS[at % len(COLORS)]
            bar = Text("█" * round(share * _BAR), style=color)
            view.add_row("", Text(name, style=color), f"{share:.0%}", bar, f"{loss:.2f}", Text(curve, style=color))
        return view


def _speed(steps: Sequence[Step]) -> str:
    """What a second gets done, and what was waited for; the first batch, which opens everything, by itself."""
    recent, first = rate(steps[-WINDOW:]), steps[0].waited
    speed = "" if np.isnan(recent) else f"{recent / 1000:.1f}k tokens/s, "
    return f"{speed}waited for data {first:.2f} s + {steps[-1].waited - first:.2f} s"


def _curves(steps: Sequence[Step], domains: int) -> list[str]:
    """The losses so far, as a line of blocks for each domain, all to one scale."""
    cuts = np.array_split(np.arange(len(steps)), min(_CURVE, len(steps)))
    loss_TK = np.array([losses_K([steps[at] for at in cut]) for cut in cuts])
    low, high = np.nanmin(loss_TK), np.nanmax(loss_TK)
    scaled_TK = (loss_TK - low) / max(high - low, 1e-9) * (len(_BLOCKS) - 1)
    return [
        "".join(" " if np.isnan(value) else _BLOCKS[round(value)] for value in scaled_TK[:, k]) for k in range(domains)
    ]
