"""Tables of measured values with the limits that they have to keep: what a bench with a verdict prints with."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from machine import machine
from numpy.typing import ArrayLike


@dataclass
class Table:
    """Prints lines as they come, and remembers them, and which limits were missed.

    Attributes:
        found: heading -> line -> its values.
    """

    seeds: range
    missed: list[str] = field(default_factory=list)
    found: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)

    def title(self, text: str) -> None:
        """Print the heading of what follows, and the seconds so far."""
        self.found[text] = {}
        print(f"\n{text}  [{time.perf_counter() - self.began:.0f} s]", flush=True)

    def line(
        self,
        what: str,
        values: ArrayLike,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        form: str = "7.3f",
    ) -> None:
        """Print the mean of `values` (one, or one per seed), their range, the limit, and whether all kept it."""
        found = np.atleast_1d(np.asarray(values, dtype=float))
        next(reversed(self.found.values()), {})[what] = found.tolist()
        spread = f"{found.min():{form}} ..{found.max():{form}}" if len(found) > 1 else ""
        limit, kept = "", True
        if at_least is not None:
            limit, kept = f">= {at_least:g}", bool((found >= at_least).all())
        if at_most is not None:
            limit, kept = f"<= {at_most:g}", bool((found <= at_most).all())
        verdict = ("PASS" if kept else "FAIL") if limit else ""
        if not kept:
            self.missed.append(what)
        print(f"  {what:<82} {found.mean():{form}}  {spread:<20} {limit:<9} {verdict}".rstrip(), flush=True)

    def close(self, path: Path | None = None) -> int:
        """Print which limits were missed; return the exit status. With `path`, write all values there as JSON."""
        if path is not None:
            path.write_text(json.dumps({"machine": machine(), "tables": self.found, "missed": self.missed}, indent=1))
        print(f"\n{time.perf_counter() - self.began:.0f} s; limits missed: {len(self.missed)}")
        for what in self.missed:
            print(f"  missed: {what}")
        return int(bool(self.missed))


def text_of(weights_K: Sequence[float] | np.ndarray) -> str:
    """Return weights as a short text."""
    return "(" + ", ".join(f"{weight:.3f}" for weight in weights_K) + ")"
