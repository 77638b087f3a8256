"""The pruned domains as a picture: how far rows are from their prototypes, and what became of them.

Needs matplotlib, which is optional.

Shape suffixes: N rows of a domain, R rows of one kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mixstream.types import Float64

from .judged import DUPLICATE, FATES, KEPT, OUTLIER, TYPICAL, Domain
from .planted import TEXT

_COLORS = {DUPLICATE: "#e69f00", TYPICAL: "#56b4e9", OUTLIER: "#d55e00", KEPT: "#009e73"}
"""Distinguishable for colour-blind people (Okabe and Ito)."""
_SAID = {
    DUPLICATE: "dropped: near-duplicate",
    TYPICAL: "dropped: most typical",
    OUTLIER: "dropped: outlier",
    KEPT: "kept",
}
_GREY = "#555555"
_LEAST = 1e-4
"""Distances are drawn on a log scale, from here on."""


def draw(domains: Mapping[str, Domain], *, file: Path) -> Path:
    """Draw the distances of all rows, and the share of each kind that was kept or dropped; returns `file`.

    Args:
        domains: the pruned domains.
        file: the file to write; its suffix decides the format.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    kinds = [(name, domain, kind) for name, domain in sorted(domains.items()) for kind in domain.kinds()]
    figure: Any = Figure(figsize=(12, 1.6 + 0.62 * len(kinds)), layout="constrained")
    distances, shares = figure.subplots(1, 2, sharey=True, width_ratios=(1.5, 1))
    rng = np.random.default_rng(0)
    for at, (_, domain, kind) in enumerate(kinds):
        _draw_distances(distances, -at, domain, kind, rng)
        _draw_shares(shares, -at, domain.kinds()[kind])
    distances.set_yticks([-at for at in range(len(kinds))], [_label(*each) for each in kinds])
    for label, (_, _, kind) in zip(distances.get_yticklabels(), kinds):
        label.set(color="black" if kind != TEXT else _GREY, fontweight="bold" if kind != TEXT else "normal")
    distances.set_xscale("log")
    distances.set_xlabel("distance to the nearest prototype, 1 - cosine; log scale")
    distances.set_title("Each row: typical on the left, unlike everything on the right", loc="left", fontsize=11)
    shares.set_xlim(0, 1)
    shares.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    shares.set_title("What became of them (bold: planted)", loc="left", fontsize=11)
    for axes in (distances, shares):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    marks = [shares.barh(0, 0, color=_COLORS[fate], label=_SAID[fate]) for fate in FATES]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(FATES), frameon=False)
    figure.savefig(file, dpi=150)
    return file


def _draw_distances(axes: Any, at: float, domain: Domain, kind: str, rng: np.random.Generator) -> None:
    here_N = domain.kind_N == kind
    distance_R: Float64 = np.maximum(domain.distance_N[here_N].astype(np.float64), _LEAST)
    fate_R, height_R = domain.fate_N[here_N], at + rng.uniform(-0.32, 0.32, len(distance_R))
    for fate in FATES:
        some_R = fate_R == fate
        axes.plot(
            distance_R[some_R], height_R[some_R], ".", color=_COLORS[fate], markersize=4, alpha=0.6, markeredgewidth=0
        )


def _draw_shares(axes: Any, at: float, count: Mapping[str, int]) -> None:
    left = 0.0
    for fate in (KEPT, TYPICAL, DUPLICATE, OUTLIER):
        share = count[fate] / count["rows"]
        axes.barh(at, share, left=left, height=0.64, color=_COLORS[fate])
        if share >= 0.07:
            axes.text(left + share / 2, at, f"{share:.0%}", ha="center", va="center", fontsize=9, color="white")
        left += share


def _label(name: str, domain: Domain, kind: str) -> str:
    return f"{name}: {kind}\n{domain.kinds()[kind]['rows']:,} rows"
