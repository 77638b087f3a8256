"""A walk along the plan: the one place where a cursor moves.

Every face of the library (`Loader`, DataLoader workers, `state_dict` in the main process) draws its rows through a
`Walk`, so none can disagree with another.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mixstream.plan.plan import Plan
from mixstream.types import Cursor, Int64, Rows


@dataclass(kw_only=True)
class Walk:
    """A position in a plan that moves.

    Args:
        plan: where to walk.
        cursor: where to begin.
        weights: step -> weights in whole parts, int64 [K], or None while they are not known; None for static mixing.
    """

    plan: Plan
    cursor: Cursor
    weights: Callable[[int], Int64 | None] | None = None

    def __post_init__(self) -> None:
        self.cursor = self.plan.settle(self.cursor)

    @property
    def steps_left(self) -> int:
        """Steps until the running epoch ends."""
        return self.plan.steps_per_epoch - self.cursor.step_in_epoch

    def ready(self) -> bool:
        """Tell whether the next step's weights are known."""
        return self.weights is None or self.weights(self.cursor.step) is not None

    def advance(self) -> Rows | None:
        """Return the next step's rows and move on; None when too few domains are left to fill a batch."""
        moved = self.plan.advance(self.cursor, self.weights(self.cursor.step) if self.weights else None)
        if moved is None:
            return None
        self.cursor, rows = self.plan.settle(moved[0]), moved[1]
        return rows


class ExhaustionWarnings:
    """Tells, once, when a domain has left the mix: for whoever hands batches out, at the step that it hands out."""

    def __init__(self, plan: Plan, cursor: Cursor) -> None:
        self._plan = plan
        self._gone: set[str] = self._left(cursor) if cursor.step else set()

    def check(self, cursor: Cursor) -> None:
        """Warn of the domains that have left since the last call."""
        if self._plan.max_epochs_K is None:
            return
        now = self._left(cursor)
        news, self._gone = sorted(now - self._gone), now
        for name in news:
            epochs = self._plan.max_epochs_K[self._plan.names.index(name)]
            warnings.warn(
                f"domain {name!r} has been read {epochs:g} times (max_epochs) and leaves the mix after step "
                f"{cursor.step - 1}; the other domains' weights are scaled up",
                stacklevel=4,
            )

    def end(self, cursor: Cursor) -> str:
        """Return the words for a run that ends here."""
        return (
            f"the run ends at step {cursor.step}: the domains {sorted(self._gone)} have been read max_epochs times, "
            "and what is left has no weight or fills no batch; raise max_epochs, or train for fewer steps"
        )

    def _left(self, cursor: Cursor) -> set[str]:
        return {self._plan.names[k] for k in np.flatnonzero(self._plan.left_LK(cursor).all(axis=0)).tolist()}
