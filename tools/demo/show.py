"""The view of the running training: a live table on a terminal, plain lines elsewhere; both on stderr.

Shares and losses are means over the last steps, because a rare domain has only two of 32 rows.

Shape suffix: K domains.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from rich.console import Console as RichConsole
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mixstream.types import Float64

from .step_log import Step

WINDOW = 20
"""Number of steps in the mean of a share or a loss."""
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00")
"""One for each domain, distinguishable for colour-blind people (Okabe and Ito)."""
_BAR, _CURVE, _PLAIN_LINES = 24, 32, 10
_BLOCKS = "▁▂▃▄▅▆▇█"


def shares_K(steps: Sequence[Step]) -> Float64:
    """The share of each domain in the rows of `steps`."""
    rows_K = np.sum([step.rows_K for step in steps], axis=0, dtype=np.float64)
    return rows_K / rows_K.sum()


def losses_K(steps: Sequence[Step]) -> Float64:
    """The mean loss of each domain over `steps`, in nats per byte; nan if it has no row."""
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
        steps: number of steps of the whole run.
        last: number of finished steps when this part ends.
        earlier: the steps before this part.
    """

    def __init__(self, *, names: Sequence[str], steps: int, last: int, earlier: Sequence[Step] = ()) -> None:
        self._names, self._steps, self._last = list(names), steps, last
        self._all = list(earlier)
        self._own: list[Step] = []
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
        """Add a step."""
        self._all.append(step)
        self._own.append(step)
        if self._live is not None:
            self._live.update(self._table())
        elif (step.step + 1) % self._every == 0 or step.step + 1 == self._last:
            sys.stderr.write(self._line() + "\n")
            sys.stderr.flush()

    def _line(self) -> str:
        recent = self._all[-WINDOW:]
        domains = " | ".join(
            f"{name} {share:.0%} {loss:.2f}"
            for name, share, loss in zip(self._names, shares_K(recent), losses_K(recent))
        )
        head = f"     step {len(self._all):{len(str(self._steps))}} of {self._steps} | {domains} | "
        return f"{head}{_speed(self._own)}waited {self._own[-1].waited:.2f} s"

    def _table(self) -> Padding:
        done = len(self._all)
        head = Table.grid(padding=(0, 2, 0, 0))
        head.add_row(
            ProgressBar(total=self._steps, completed=done, width=_BAR, complete_style="bold"),
            f"step {done} of {self._steps}",
        )
        whole = Table.grid()
        whole.add_row(head)
        if self._all:
            whole.add_row(self._domains())
        whole.add_row(Text(self._waiting(), style="dim"))
        return Padding(whole, (0, 0, 0, 5))

    def _waiting(self) -> str:
        """Speed and waiting time; the first batch is listed apart, because shards are opened before it."""
        if not self._own:
            return "Python and torch are starting"
        first, all_ = self._own[0].waited, self._own[-1].waited
        return f"{_speed(self._own)}waited for data {all_ - first:.2f} s (and {first:.2f} s for the first batch)"

    def _domains(self) -> Table:
        view = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for name in ("domain", "share", "of the rows", "loss", "in nats per byte, so far"):
            view.add_column(name, justify="right" if name in {"share", "loss"} else "left", no_wrap=True)
        recent = self._all[-WINDOW:]
        curves = _curves(self._all, len(self._names))
        rows = zip(self._names, shares_K(recent), losses_K(recent), curves)
        for at, (name, share, loss, curve) in enumerate(rows):
            color = COLORS[at % len(COLORS)]
            bar = Text("█" * round(share * _BAR), style=color)
            view.add_row(Text(name, style=color), f"{share:.0%}", bar, f"{loss:.2f}", Text(curve, style=color))
        return view


def _speed(steps: Sequence[Step]) -> str:
    per_second = rate(steps[-WINDOW:])
    return "" if np.isnan(per_second) else f"{per_second / 1000:.1f}k tokens/s, "


def _curves(steps: Sequence[Step], domains: int) -> list[str]:
    """The losses so far as a line of blocks for each domain, with one scale for all."""
    cuts = np.array_split(np.arange(len(steps)), min(_CURVE, len(steps)))
    loss_TK = np.array([losses_K([steps[at] for at in cut]) for cut in cuts])
    # The first losses are so high that with them in the scale all other differences would vanish.
    low, high = np.nanmin(loss_TK), np.nanquantile(loss_TK, 0.9)
    scaled_TK = np.clip((loss_TK - low) / max(high - low, 1e-9), 0, 1) * (len(_BLOCKS) - 1)
    return [
        "".join(" " if np.isnan(value) else _BLOCKS[round(value)] for value in scaled_TK[:, k]) for k in range(domains)
    ]
