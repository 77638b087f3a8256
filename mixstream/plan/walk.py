"""A walk along the plan: the one place where a cursor moves.

`Loader`, DataLoader workers and `state_dict` in the main process all draw their rows through a `Walk`, and therefore
agree on them.
"""

import warnings
from typing import TYPE_CHECKING

import numpy as np

from mixstream.lazy import later
from mixstream.plan.plan import Plan
from mixstream.records import dataclass
from mixstream.types import Cursor, Rows, Weights

if TYPE_CHECKING:
    from mixstream.plan.passing import pass_steps
else:
    (pass_steps,) = later("mixstream.plan.passing", "pass_steps")


@dataclass(kw_only=True)
class Walk:
    """A position in a plan that moves.

    >>> plan = Plan(names=("code", "web"), samples_K=np.array([3, 9]), choose_K=np.array([3, 9]), epoch_size=12,
    ...             global_batch_size=4)
    >>> walk = Walk(plan=plan, cursor=plan.start())
    >>> while walk.cursor.epoch == 0:
    ...     rows = walk.advance()
    ...     print(rows.step, rows.domain_B.tolist(), rows.draw_B.tolist(), walk.steps_left)
    0 [1, 1, 0, 1] [0, 1, 0, 2] 2
    1 [1, 1, 0, 1] [3, 4, 1, 5] 1
    2 [1, 1, 0, 1] [6, 7, 2, 8] 3

    Args:
        plan: the plan to walk along.
        cursor: the position to begin at.
        weights: step -> weights in whole parts, int64 [K], or None while they are not known. With static mixing, None.
    """

    plan: Plan
    cursor: Cursor
    weights: Weights | None = None

    def __post_init__(self) -> None:
        self.cursor = self.plan.settle(self.cursor)

    @property
    def steps_left(self) -> int:
        """Steps until the running epoch ends."""
        return self.plan.steps_per_epoch - self.cursor.step_in_epoch

    def ready(self) -> bool:
        """Return whether the weights of the next step are known."""
        return self.weights is None or self.weights(self.cursor.step) is not None

    def advance(self) -> Rows | None:
        """Return the next step's rows and move past them; None if the remaining domains cannot fill a batch."""
        moved = self.plan.advance(self.cursor, self.weights(self.cursor.step) if self.weights else None)
        if moved is None:
            return None
        self.cursor, rows = self.plan.settle(moved[0]), moved[1]
        return rows

    def pass_steps(self, steps: int) -> int:
        """Move past `steps` steps, as `advance` that often; return how many, which are fewer if the run ends.

        Steps under the same weights are passed at once, if `weights` has a method `until` that says how long they stay.
        """
        passed = 0
        while passed < steps:
            step, left = self.cursor.step, steps - passed
            if self.weights is not None:  # how long do they stay?
                left = min(left, getattr(self.weights, "until", lambda step: step + 1)(step) - step)
            if left > 1:
                weight_K = self.weights(step) if self.weights is not None else None
                cursor, count = pass_steps(self.plan, self.cursor, weight_K, left)
                self.cursor, passed = self.plan.settle(cursor), passed + count
                if count:
                    continue
            if self.advance() is None:
                break
            passed += 1
        return passed

    def advance_steps(self, most: int) -> list[tuple[Rows, Cursor]]:
        """Return the rows of up to `most` next steps, with the position after each, and move past them.

        Stops before a step whose weights are not known. Empty if that is the next one, or if the remaining domains
        cannot fill a batch. Under constant weights, many steps take about as long as one.
        """
        if self.weights is None and (found := self.plan.advance_steps(self.cursor, most)):
            self.cursor = self.plan.settle(found[-1][1])
            return [*found[:-1], (found[-1][0], self.cursor)]
        found = []
        while len(found) < most and self.ready() and (rows := self.advance()) is not None:
            found.append((rows, self.cursor))
        return found


class ExhaustionWarnings:
    """Warns once for each domain that leaves the mix. The loader checks it with the cursor of each batch it returns."""

    def __init__(self, plan: Plan, cursor: Cursor) -> None:
        self._plan = plan
        self._gone: set[str] = self._left(cursor) if cursor.step else set()

    def check(self, cursor: Cursor) -> None:
        """Warn about the domains that have left the mix since the last call."""
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
        """Return the message for a run that ends at `cursor`."""
        if (said := getattr(self._plan, "end", None)) is not None:
            return said
        return (
            f"the run ends at step {cursor.step}: the domains {sorted(self._gone)} have been read max_epochs times, "
            "and the others have no weight or cannot fill a batch; raise max_epochs, or train for fewer steps"
        )

    def _left(self, cursor: Cursor) -> set[str]:
        return {self._plan.names[k] for k in np.flatnonzero(self._plan.left_LK(cursor).all(axis=0)).tolist()}
