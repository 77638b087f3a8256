"""A walk along the plan: the one place where a cursor moves.

Every face of the library (`Loader`, DataLoader workers, `state_dict` in the main process) draws its rows through a
`Walk`, so none can disagree with another.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from mixstream.plan import Plan
from mixstream.types import Cursor, Int64, Rows


@dataclass(kw_only=True)
class Walk:
    """A position in a plan that moves.

    Args:
        plan: where to walk.
        cursor: where to begin.
        weights: step -> weights in whole parts, int64 [K], or None while they are not known; None for static mixing.
        announce: whether to warn when a domain leaves the mix.
    """

    plan: Plan
    cursor: Cursor
    weights: Callable[[int], Int64 | None] | None = None
    announce: bool = True
    _left: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self.cursor = self.plan.settle(self.cursor)
        self._left = self._left_now()

    @classmethod
    def begin(cls, plan: Plan, weights: Callable[[int], Int64 | None] | None = None, *, announce: bool = True) -> Walk:
        """Return a walk at step 0."""
        return cls(plan=plan, cursor=plan.start(weights(0) if weights else None), weights=weights, announce=announce)

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
        if self.announce and self.plan.max_epochs_K is not None:
            self._announce()
        return rows

    def to_epoch(self, epoch: int) -> None:
        """Move to the start of `epoch`, unless that is the running one already."""
        if epoch != self.cursor.epoch:
            self.cursor = self.plan.at_epoch(self.cursor, epoch)

    def _left_now(self) -> set[str]:
        gone_K = np.flatnonzero(self.plan.left_LK(self.cursor).all(axis=0))
        return {self.plan.names[k] for k in gone_K.tolist()}

    def _announce(self) -> None:
        now = self._left_now()
        for name in sorted(now - self._left):
            epochs = (self.plan.max_epochs_K or ())[self.plan.names.index(name)]
            warnings.warn(
                f"domain {name!r} has been read {epochs:g} times (max_epochs) and leaves the mix after step "
                f"{self.cursor.step - 1}; the other domains' weights are scaled up",
                stacklevel=4,
            )
        self._left = now
