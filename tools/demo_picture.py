"""The run as a picture: what was read, and what was learnt from it, step by step. Needs the extra `report`.

Shape suffixes: T steps, K domains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from .demo_journal import Step
from .demo_show import COLORS, WINDOW, Float64, losses_K, shares_K

_GREY = "#555555"


def draw(names: Sequence[str], before: Sequence[Step], after: Sequence[Step], *, processes: int, file: Path) -> Path:
    """Draw shares and losses of both parts of the run over the steps; returns `file`, whose suffix is its format.

    Args:
        names: the domains.
        before: the steps of the run that was killed.
        after: those of the run that went on.
        processes: how many it went on with.
        file: where to write.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    resumed, killed = after[0].step, before[-1].step + 1
    whole = [*before[:resumed], *after]
    step_T = np.arange(1, len(whole) + 1)
    share_TK, loss_TK, lost_TK = _means(whole, shares_K), _means(whole, losses_K), _means(before, losses_K)

    figure: Any = Figure(figsize=(9, 6.4), layout="constrained")
    shares, losses = figure.subplots(2, 1, sharex=True)
    shares.stackplot(step_T, share_TK.T, colors=COLORS, alpha=0.9, linewidth=0)
    shares.set_ylim(0, 1)
    shares.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    shares.set_title("Share of each domain in the batches", loc="left", fontsize=11)
    middle_K = np.cumsum(share_TK[-1]) - share_TK[-1] / 2
    _label(shares, names, middle_K, [f"{share:.0%}" for share in share_TK[-1]])

    for k in range(len(names)):
        losses.plot(step_T, loss_TK[:, k], color=COLORS[k % len(COLORS)], linewidth=1.8)
        losses.plot(step_T[resumed:killed], lost_TK[resumed:, k], color="black", linewidth=1, linestyle=":")
    losses.set_title("Loss of each domain, nats per byte", loc="left", fontsize=11)
    losses.set_xlabel(f"step (means of the last {WINDOW})")
    # Everything starts near ln 257 = 5.5, which would leave no room for what differs.
    losses.set_ylim(np.nanmin(loss_TK) - 0.1, np.nanquantile(loss_TK, 0.93))
    _label(losses, names, _apart(loss_TK[-1], losses.get_ylim()), [f"{loss:.2f}" for loss in loss_TK[-1]])

    for axes in (shares, losses):
        axes.axvspan(
            resumed, killed, color="white" if axes is shares else "black", alpha=0.35 if axes is shares else 0.08
        )
        axes.axvline(killed, color="black", linewidth=1.2)
        axes.set_xlim(1, len(whole))
        axes.spines[["top", "right"]].set_visible(False)
    kill = (
        f"kill -9 after step {killed},\nresumed from step {resumed} on {processes} processes\n(dotted: what was undone)"
    )
    at, offset = (killed, losses.get_ylim()[1]), (8, -4)
    losses.annotate(kill, at, xytext=offset, textcoords="offset points", va="top", fontsize=9, color=_GREY)
    figure.savefig(file, dpi=150)
    return file


def _means(steps: Sequence[Step], of: Callable[[Sequence[Step]], Float64]) -> Float64:
    """`of` the last steps, at each step; float64 [T, K]."""
    return np.array([of(steps[max(0, at + 1 - WINDOW) : at + 1]) for at in range(len(steps))])


def _apart(at_K: Float64, limits: tuple[float, float]) -> Float64:
    """`at_K`, moved so far apart that a line of text fits at each."""
    room = (limits[1] - limits[0]) * 0.07
    order = np.argsort(at_K)
    apart_K = at_K.copy()
    for low, high in pairwise(order):
        apart_K[high] = max(apart_K[high], apart_K[low] + room)
    return apart_K


def _label(axes: Any, names: Sequence[str], at_K: Float64, values: Sequence[str]) -> None:
    """Write each domain's name and last value at the right end of its line or band."""
    for k, name in enumerate(names):
        axes.annotate(
            f"{name} {values[k]}",
            (1, at_K[k]),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9.5,
            color=COLORS[k % len(COLORS)],
            annotation_clip=False,
        )
