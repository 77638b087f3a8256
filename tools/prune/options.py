"""The options that several commands of `mixstream prune` share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

Names = Annotated[tuple[str, ...], Parameter(name="--domain", negative=(), consume_multiple=True, show_default=False)]
"""Domains to look at; none: all."""

Side = Literal["hard", "easy"]
Unit = Literal["rows", "tokens"]
HardIs = Literal["high", "low"]
Variant = Literal["greedy", "official", "components"]
KMeansEngine = Literal["torch", "faiss"]
Device = Literal["auto", "cpu", "cuda"]


FEW = 1 << 17
"""Rows for which more processes would only take time to start."""


@dataclass(kw_only=True)
class Steps:
    """Counts passes over the rows of a domain, as a progress line shows them beside iterations of k-means.

    Args:
        rows: of a pass.
        seen: rows so far.
    """

    rows: int
    seen: int = 0

    def of(self, count: int) -> int:
        """Return how many passes `count` more rows complete."""
        before, self.seen = self.seen // self.rows, self.seen + count
        return self.seen // self.rows - before
