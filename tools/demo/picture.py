"""The run as a picture: the weights, the losses that they are computed from, and the laws between the two.

Needs matplotlib, which is optional.

Shape suffixes: T steps, K domains, P points of the loss curves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mixstream.types import Float64

from .learned import Learned
from .proof import history
from .show import COLORS, WINDOW, losses_K
from .step_log import Step

_GREY = "#555555"
_AHEAD = 4.0
"""The laws are drawn up to so many times the rows of the run."""


def draw(
    names: Sequence[str],
    before: Sequence[Step],
    after: Sequence[Step],
    learned: Learned,
    *,
    processes: int,
    file: Path,
) -> Path:
    """Draw weights and losses over the steps, and losses over rows with the fitted laws; returns `file`.

    Args:
        names: the domains.
        before: the steps of the killed run.
        after: the steps of the resumed run.
        learned: weights and laws.
        processes: number of processes of the resumed run.
        file: the file to write; its suffix decides the format.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    resumed, killed, steps = after[0].step, before[-1].step + 1, after[-1].step + 1
    figure: Any = Figure(figsize=(9.5, 10.5), layout="constrained")
    weights, losses, laws = figure.subplots(3, 1, height_ratios=(1, 1.1, 1.4))
    _draw_weights(weights, names, learned)
    _draw_losses(losses, names, before, after)
    _draw_laws(laws, names, learned)
    for axes in (weights, losses):
        axes.axvspan(resumed, killed, color="black", alpha=0.08, linewidth=0)
        axes.axvline(killed, color="black", linewidth=1.2)
        axes.set_xlim(1, steps)
    for axes in (weights, losses, laws):
        axes.spines[["top", "right"]].set_visible(False)
    kill = (
        f"kill -9 after step {killed},\nresumed from step {resumed} on {processes} processes\n(dotted: what was undone)"
    )
    _note(losses, kill, (killed, losses.get_ylim()[1]))
    figure.savefig(file, dpi=150)
    return file


def _draw_weights(axes: Any, names: Sequence[str], learned: Learned) -> None:
    weights_TK = learned.weights_TK
    step_T = np.arange(1, len(weights_TK) + 1)
    for k in range(len(names)):
        axes.step(step_T, weights_TK[:, k], where="mid", color=COLORS[k % len(COLORS)], linewidth=1.8)
    axes.set_ylim(0, 1.15 * weights_TK.max())
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.set_title("Weight of each domain: what the batches are drawn by", loc="left", fontsize=11)
    _label(axes, names, _apart(weights_TK[-1], axes.get_ylim()), [f"{weight:.0%}" for weight in weights_TK[-1]])
    if (first := learned.changed_at) is None:
        _note(axes, "the domains' sizes: no law came in time to change a batch", (1, axes.get_ylim()[1]))
    else:
        axes.axvline(first + 1, color=_GREY, linewidth=0.8, linestyle="--")
        _note(axes, "from here on\nby fitted laws", (first + 1, axes.get_ylim()[1]))


def _draw_losses(axes: Any, names: Sequence[str], before: Sequence[Step], after: Sequence[Step]) -> None:
    whole = history(before, after)
    resumed, step_T = after[0].step, np.arange(1, len(whole) + 1)
    loss_TK, lost_TK = _means(whole, losses_K), _means(before, losses_K)
    for k in range(len(names)):
        axes.plot(step_T, loss_TK[:, k], color=COLORS[k % len(COLORS)], linewidth=1.8)
        axes.plot(step_T[resumed : len(before)], lost_TK[resumed:, k], color="black", linewidth=1, linestyle=":")
    axes.set_title("Loss of each domain, nats per byte", loc="left", fontsize=11)
    axes.set_xlabel(f"step (losses: means of the last {WINDOW})")
    # All losses start near ln 257 = 5.5; with that in the range, the differences would not be visible.
    axes.set_ylim(np.nanmin(loss_TK) - 0.1, np.nanquantile(loss_TK, 0.93))
    _label(axes, names, _apart(loss_TK[-1], axes.get_ylim()), [f"{loss:.2f}" for loss in loss_TK[-1]])


def _draw_laws(axes: Any, names: Sequence[str], learned: Learned) -> None:
    """Draw points and laws over n; a domain without a law has only its points, if any."""
    from matplotlib.ticker import LogLocator

    whose = "of the domain" if learned.own_rows else "of all domains"
    axes.set_title("Scaling laws: the losses that they are fitted to, and beyond", loc="left", fontsize=11)
    axes.set_xlabel(f"n, rows trained on ({whose}); log scale")
    axes.set_ylabel("nats per byte, smoothed", fontsize=9.5)
    if not np.isfinite(learned.loss_PK).any():
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "the run was too short for points of a law", ha="center", color=_GREY, fontsize=11)
        return
    axes.set_xscale("log", subs=[])
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda n, _: f"{n:,.0f}")
    seen_PK = np.where(np.isfinite(learned.loss_PK), learned.n_PK, np.nan)
    end, end_K, labels = _AHEAD * np.nanmax(seen_PK), np.empty(len(names)), []
    for k in range(len(names)):
        color, here_P = COLORS[k % len(COLORS)], np.isfinite(seen_PK[:, k])
        n_P, loss_P = seen_PK[here_P, k], learned.loss_PK[here_P, k]
        axes.plot(n_P, loss_P, ".", color=color, markersize=4, alpha=0.45, markeredgewidth=0)
        law = learned.law(k)
        end_K[k] = loss_P[-1] if law is None and n_P.size else np.nan
        if law is None:
            labels.append("no law")
            continue
        for line, (low, high) in {"-": (n_P[0], n_P[-1]), "--": (n_P[-1], end)}.items():
            n_X = np.geomspace(low, high, 100)
            axes.plot(n_X, learned.loss_at(k, n_X), line, color=color, linewidth=1.8)
        end_K[k] = learned.loss_at(k, np.array(end))
        labels.append(rf"$\alpha$ {law.alpha:.2f}, $\varepsilon$ {'≤ ' if law.bounded else ''}{law.eps:.2f}")
    axes.set_xlim(np.nanmin(seen_PK), end)
    if not learned.own_rows:
        axes.axvline(np.nanmax(seen_PK), color="black", linewidth=1.2)
        _note(axes, "end of the run", (np.nanmax(seen_PK), axes.get_ylim()[1]))
    end_K = np.where(np.isnan(end_K), np.nanmin(learned.loss_PK), end_K)
    _label(axes, names, _apart(end_K, axes.get_ylim()), labels)
    law = r"$\varepsilon + \beta\, n^{-\alpha}$"
    legend = f"lines: {law}, fitted to the points; dashed beyond them"
    axes.text(0.02, 0.06, legend, transform=axes.transAxes, fontsize=10, color=_GREY)


def _means(steps: Sequence[Step], of: Callable[[Sequence[Step]], Float64]) -> Float64:
    """`of` the last `WINDOW` steps, at each step; float64 [T, K]."""
    return np.array([of(steps[max(0, at + 1 - WINDOW) : at + 1]) for at in range(len(steps))])


def _apart(at_K: Float64, limits: tuple[float, float]) -> Float64:
    """`at_K`, moved apart so that a line of text fits at each."""
    room = (limits[1] - limits[0]) * 0.07
    order = np.argsort(at_K)
    apart_K = at_K.copy()
    for low, high in pairwise(order):
        apart_K[high] = max(apart_K[high], apart_K[low] + room)
    return apart_K


def _note(axes: Any, text: str, at: tuple[float, float]) -> None:
    """Write a note to the right of a point and below it."""
    axes.annotate(text, at, xytext=(8, -4), textcoords="offset points", va="top", fontsize=9, color=_GREY)


def _label(axes: Any, names: Sequence[str], at_K: Float64, values: Sequence[str]) -> None:
    """Write each domain's name and last value at the right end of its line."""
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
