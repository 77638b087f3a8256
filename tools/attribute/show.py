"""What `mixstream attribute` prints: tables for people, and the documents of `--json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from mixstream.selection import FAILED, SCORED, TOO_SHORT, Scores

from ..shared.console import show_bytes, show_seconds, table
from .targets import TargetSet

_QUANTILES = (0.0, 0.1, 0.5, 0.9, 1.0)
_BLOCK = 1 << 20


def describe_rows(scores: Scores) -> dict[str, int]:
    """Return how many rows of a domain were scored, and why others were not."""
    counts = np.zeros(256, np.int64)
    for _, block in scores.blocks("flags", size=_BLOCK):
        counts += np.bincount(block["flags"], minlength=256)
    has = [np.arange(256) & bit > 0 for bit in (SCORED, TOO_SHORT, FAILED)]
    scored, short, failed = (int(counts[mask].sum()) for mask in has)
    return {"rows": scores.rows, "scored": scored, "too_short": short, "failed": failed}


def describe_scores(scores: Scores) -> dict[str, Any]:
    """Return the counts of a domain, and the quantiles of its scores."""
    values = np.asarray(scores.column("score"))[scores.scored]
    quantiles = [round(float(each), 6) for each in np.quantile(values, _QUANTILES)] if len(values) else []
    return {**describe_rows(scores), "score_quantiles": dict(zip(map(str, _QUANTILES), quantiles))}


def describe_targets(targets: Sequence[TargetSet]) -> dict[str, Any]:
    """Return the counts of target sets."""
    return {
        target.name: {"samples": target.samples, "cut": target.cut, "left_out": target.left_out} for target in targets
    }


def show_features(domains: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return a table of the domains."""
    names = ("rows", "scored", "too_short", "failed")
    rows = [(domain, *(counts[name] for name in names)) for domain, counts in domains.items()]
    return table(("domain", "rows", "scored", "too short", "failed"), rows)


def show_scores(domains: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return a table of the domains and the quantiles of their scores."""
    rows = [
        (domain, counts["scored"], *(f"{value:+.4g}" for value in counts["score_quantiles"].values()))
        for domain, counts in domains.items()
    ]
    width = max((len(row) for row in rows), default=2)
    heads = ("domain", "scored rows", "lowest", "10 %", "median", "90 %", "highest")
    return table(heads[:width], [row for row in rows if len(row) == width])


def show_plan(document: Mapping[str, Any]) -> list[str]:
    """Return what `--dry-run` says of features."""
    parts = document["parts"]
    return [
        f"{document['rows']:,} rows of {len(document['domains'])} domains",
        f"{parts['of']} parts, {parts['to_make']} to make",
        f"{document['members']} proxies of {document['parameters']:,} parameters",
        f"{show_bytes(document['feature_bytes'])} of features would be written to {document['out']}",
    ]


def closing(out: str, seconds: float, rows: int) -> str:
    """Return the last line."""
    return f"{out}: {rows:,} rows in {show_seconds(seconds)}"
