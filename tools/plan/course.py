"""How many rows a run draws of each domain, computed from the intervals between changes of the weights.

The plan draws every domain to within 2 rows a lane of its share (DESIGN.md, law 4); this file computes the share. A
domain that reaches its limit leaves the mixture and the weights of the others are scaled up, as in `mixstream.plan`.
With weights 0.75 and 0.25, a batch of 8 and 60 rows left of the first domain, it leaves in step 10, and from there on
the second has 8 rows a step.

Shape suffixes: K domains, C changes of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mixstream.types import Float64, Int64


@dataclass(frozen=True, kw_only=True)
class Course:
    """Weights by step.

    Attributes:
        step_C: int64 [C], steps at which weights change, ascending; the last weights stay.
        weights_CK: float64 [C, K], on the simplex.
    """

    step_C: Int64
    weights_CK: Float64

    @classmethod
    def constant(cls, weights_K: Float64) -> Course:
        """Weights that never change."""
        return cls(step_C=np.zeros(1, dtype=np.int64), weights_CK=weights_K[None, :])

    def at(self, step: int) -> Float64:
        """The weights of `step`, float64 [K]; before the first change, those of the first change."""
        return self.weights_CK[max(int(np.searchsorted(self.step_C, step, side="right")) - 1, 0)]

    @property
    def known_to(self) -> int:
        """The last step with a change of the weights; later steps have the same weights."""
        return int(self.step_C[-1])


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """The rows that are drawn in a range of steps.

    Attributes:
        first: the first step.
        end: the step after the last one: as requested, or earlier if no domain remained.
        rows_K: float64 [K], rows of each domain.
        left: domain's number -> the step in which it reached its limit.
    """

    first: int
    end: int
    rows_K: Float64
    left: dict[int, int]


def look_ahead(course: Course, *, first: int, end: int, batch: int, room_K: Float64) -> Outlook:
    """Return the rows that the steps from `first` to `end - 1` draw.

    Args:
        course: the weights.
        first: the first step.
        end: the step after the last one.
        batch: rows of a step.
        room_K: float64 [K], rows that may still be drawn of each domain; inf for no limit.
    """
    inside_C = course.step_C[(course.step_C > first) & (course.step_C < end)]
    edges = np.concatenate([[first], inside_C, [max(end, first)]])
    weights_CK = np.stack([course.at(int(step)) for step in edges[:-1]])
    rows_K = (np.diff(edges) * batch).astype(np.float64) @ weights_CK
    if (rows_K < room_K).all():
        return Outlook(first=first, end=max(end, first), rows_K=rows_K, left={})
    return _with_limits(edges, weights_CK, batch, room_K)


def _with_limits(edges: Int64, weights_CK: Float64, batch: int, room_K: Float64) -> Outlook:
    """As `look_ahead`, from one change of the weights or of the remaining domains to the next."""
    rows_K, left, now = np.zeros(len(room_K)), {}, float(edges[0])
    for weights_K, until in zip(weights_CK, edges[1:].tolist()):
        while now < until:
            live_K = np.where(rows_K < room_K, weights_K, 0.0)
            if not live_K.sum():
                return Outlook(first=int(edges[0]), end=int(now), rows_K=rows_K, left=left)
            pace_K = live_K / live_K.sum() * batch
            lasts_K = np.where(live_K > 0, (room_K - rows_K) / np.maximum(pace_K, 1e-300), np.inf)
            taken = min(until - now, float(lasts_K.min()))
            full_K = (lasts_K <= taken) & (live_K > 0)
            rows_K = np.where(full_K, room_K, rows_K + pace_K * taken)
            now = now + taken if full_K.any() else float(until)
            left |= {k: int(now) for k in np.flatnonzero(full_K).tolist()}
    return Outlook(first=int(edges[0]), end=int(edges[-1]), rows_K=rows_K, left=left)
