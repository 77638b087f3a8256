"""Where a run goes on: the start, or a checkpoint, which is parsed once.

A `Position` does not move: loaders take their own copy of its feedback loop. Its later epochs are `Epochs`.
"""

from dataclasses import dataclass
from functools import cached_property

from mixstream.feedback.loop import FeedbackLoop
from mixstream.loader.run import Run
from mixstream.plan.state import RunState
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


class Position:
    """A place in a run: that of a checkpoint, or step 0. What it needs of the mixer is computed when it is asked for.

    Args:
        run: the run.
        checkpoint: what was loaded; None for step 0.
    """

    def __init__(self, run: Run, checkpoint: Checkpoint | None) -> None:
        self.run, self._checkpoint = run, checkpoint

    @cached_property
    def found(self) -> tuple[Cursor, FeedbackLoop | None]:
        """The place in the run's plan, and the feedback loop there, which is not to be changed.

        Raises:
            StateError: the checkpoint belongs to another run.
        """
        if self._checkpoint is None:
            return self.run.start(), self.run.loop()
        return self.run.restore(self._checkpoint.state, strict=self._checkpoint.strict)

    @property
    def cursor(self) -> Cursor:
        """The place in the run's plan."""
        return self.found[0]

    def begin_loop(self) -> FeedbackLoop | None:
        """Return a copy of the feedback loop there, for the caller alone; None where nothing learns."""
        loop = self.found[1]
        return None if loop is None else loop.copy()


class Epochs:
    """Where the epochs of a dataset begin, by claim (`workers.EpochClaims`), for the ranks that there are now.

    Args:
        world: those ranks.
        position: where the run goes on.
        start: where the epoch of claim 0 begins, if not at the position.
    """

    def __init__(self, world: World, position: Position, start: Cursor | None = None) -> None:
        self.world, self.position = world, position
        self._start, self._reached = start, (0, start)

    @property
    def start(self) -> Cursor:
        """Where the epoch of claim 0 begins."""
        return self._start or self.position.cursor

    def begin(self, claim: int) -> Cursor:
        """Return where the epoch of `claim` begins."""
        reached, cursor = self._reached
        if reached > claim or cursor is None:
            reached, cursor = 0, self.start
        if reached < claim:
            cursor = self.position.run.walk_to_epoch(cursor, self.start.epoch + claim)
            self.reach(claim, cursor)
        return cursor

    def reach(self, claim: int, cursor: Cursor) -> None:
        """Note that the epoch of `claim` begins at `cursor`, so that `begin` need not walk to it."""
        self._reached = claim, cursor
