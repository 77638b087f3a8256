"""Where a run goes on: the start, or a checkpoint, which is parsed once.

A `Position` does not move: loaders take their own copy of its feedback loop. Its later epochs are `Epochs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mixstream.feedback.loop import FeedbackLoop
from mixstream.loader.run import Run
from mixstream.plan.state import RunState, parse_state
from mixstream.types import Cursor
from mixstream.world import World


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A state that was loaded and parsed.

    Args:
        state: its content.
        strict: whether it has to belong to the same run.
    """

    state: RunState
    strict: bool

    @classmethod
    def parse(cls, document: Mapping[str, Any], *, strict: bool) -> Checkpoint:
        """Return the checkpoint that `document` is.

        Raises:
            StateError: it is not a state, or it is damaged.
        """
        return cls(state=parse_state(document), strict=strict)


@dataclass(frozen=True, kw_only=True)
class Position:
    """A place in a run.

    Args:
        run: the run.
        cursor: the place in its plan.
        loop: the feedback loop at that place; None where nothing learns.
    """

    run: Run
    cursor: Cursor
    loop: FeedbackLoop | None

    @classmethod
    def of(cls, run: Run, checkpoint: Checkpoint | None) -> Position:
        """Return the position of `checkpoint` in `run`; step 0 if there is no checkpoint.

        Raises:
            StateError: the checkpoint belongs to another run.
        """
        if checkpoint is None:
            return cls(run=run, cursor=run.start(), loop=run.loop())
        cursor, loop = run.restore(checkpoint.state, strict=checkpoint.strict)
        return cls(run=run, cursor=cursor, loop=loop)

    def begin_loop(self) -> FeedbackLoop | None:
        """Return a copy of the feedback loop, for the caller alone."""
        return None if self.loop is None else self.loop.copy()


class Epochs:
    """Where the epochs of a dataset begin, by claim (`workers.EpochClaims`), for the ranks that there are now.

    Args:
        world: those ranks.
        position: where the run goes on.
        start: where the epoch of claim 0 begins, if not at the position.
    """

    def __init__(self, world: World, position: Position, start: Cursor | None = None) -> None:
        self.world, self.position, self.start = world, position, start or position.cursor
        self._reached = 0, self.start

    def begin(self, claim: int) -> Cursor:
        """Return where the epoch of `claim` begins."""
        reached, cursor = self._reached
        if reached > claim:
            reached, cursor = 0, self.start
        if reached < claim:
            cursor = self.position.run.walk_to_epoch(cursor, self.start.epoch + claim)
            self.reach(claim, cursor)
        return cursor

    def reach(self, claim: int, cursor: Cursor) -> None:
        """Note that the epoch of `claim` begins at `cursor`, so that `begin` need not walk to it."""
        self._reached = claim, cursor
