"""Where a run goes on: the start, or a checkpoint, which is parsed once.

A `Position` does not move: loaders take their own copy of its feedback loop. Its later epochs are `Epochs`.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import msgspec

from mixstream.arguments import shown
from mixstream.cached import cached_property
from mixstream.errors import ConfigError
from mixstream.lazy import later
from mixstream.loader.run import Run
from mixstream.plan.skips import Skips
from mixstream.plan.state_record import IteratorState
from mixstream.plan.walk import Walk
from mixstream.records import dataclass
from mixstream.types import Cursor
from mixstream.world import World

if TYPE_CHECKING:
    from mixstream.feedback.loop import FeedbackLoop
    from mixstream.plan.state_record import RunState
else:
    (FeedbackLoop,) = later("mixstream.feedback.loop", "FeedbackLoop")
    (RunState,) = later("mixstream.plan.state_record", "RunState")


_NO_SKIPS = Skips()


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
        checkpoint: what was loaded; None for the beginning of an epoch.
        epoch: this epoch, where there is no checkpoint.
        planned: steps that the run leaves out anyway, as it replays one that did; those before the place do not count.
    """

    def __init__(self, run: Run, checkpoint: Checkpoint | None, epoch: int = 0, *, planned: Skips = _NO_SKIPS) -> None:
        self.run, self._checkpoint, self._epoch, self._planned = run, checkpoint, epoch, planned

    @cached_property
    def found(self) -> tuple[Cursor, FeedbackLoop | None, bool]:
        """The place in the run's plan, the feedback loop there, and whether all of the checkpoint is kept.

        The loop is not to be changed. Not all is kept where the checkpoint is of another run (`strict=False`).

        Raises:
            StateError: the checkpoint belongs to another run.
        """
        if self._checkpoint is None:
            start = self.run.start()
            return self.run.walk_to_epoch(start, self._epoch) if self._epoch else start, self.run.loop(), True
        return self.run.restore(self._checkpoint.state, strict=self._checkpoint.strict)

    @property
    def cursor(self) -> Cursor:
        """The place in the run's plan."""
        return self.found[0]

    @property
    def place(self) -> IteratorState | None:
        """What the checkpoint says of the place beyond the cursor; None for one between two steps."""
        place = self._checkpoint.state.iterator if self._checkpoint is not None else None
        return place if isinstance(place, IteratorState) else None

    @cached_property
    def skips(self) -> Skips:
        """The steps that are left out: before this place, and to come.

        Warns of steps to come that a state of another run leaves out: here, they have other rows.
        """
        if self._checkpoint is None:
            return self._planned
        step, saved = self._checkpoint.state.step, self._checkpoint.state.skips
        if not self.found[2] and (dropped := saved.since(step)):
            saved = saved.before(step)
            warnings.warn(
                f"the state is of another run (strict=False), which leaves out the steps {dropped}; here these steps "
                "have other rows, and are read: call skip() again to leave them out",
                stacklevel=4,
            )
        return saved | self._planned.since(step)

    def at_epoch(self, cursor: Cursor, epoch: int) -> Cursor:
        """Return where `epoch` begins, for a loader of this run that is at `cursor`.

        Where a state of another run is kept in part, the epochs before the cursor began at this place, not at step 0.
        """
        begun, loop, whole = self.found
        if not whole and loop is None and begun.epoch <= epoch <= cursor.epoch:
            cursor = begun
        return self.run.walk_to_epoch(cursor, epoch)

    def begin_loop(self) -> FeedbackLoop | None:
        """Return a copy of the feedback loop there, for the caller alone; None where nothing learns."""
        loop = self.found[1]
        return None if loop is None else loop.copy()


class Epochs:
    """Where the epochs of a dataset begin, by claim (`workers.EpochClaims`), for the ranks that there are now.

    Args:
        world: those ranks.
        position: where the run goes on.
        start: where the first epoch begins, if not at the position.
        claim: the claim of the first epoch.
        skips: the steps that are left out of them; those of the position if not given.
    """

    def __init__(
        self,
        world: World,
        position: Position,
        start: Cursor | None = None,
        claim: int = 0,
        *,
        skips: Skips | None = None,
    ) -> None:
        self.world, self.position, self._skips = world, position, skips
        self._start, self._claim, self._reached = start, claim, (claim, start)

    @property
    def skips(self) -> Skips:
        """The steps that are left out."""
        return self.position.skips if self._skips is None else self._skips

    @property
    def start(self) -> Cursor:
        """Where the first epoch begins."""
        return self._start or self.position.cursor

    def is_first(self, claim: int) -> bool:
        """Return whether the epoch of `claim` is the first."""
        return claim == self._claim

    def place(self, claim: int) -> IteratorState | None:
        """Return what is known of where the epoch of `claim` begins, beyond the cursor."""
        return self.position.place if claim == self._claim and self._start is None else None

    def number(self, claim: int) -> int:
        """Return the number of the epoch of `claim`.

        That of the first lies before its start if a state says that all of it was handed out.
        """
        place = self.place(self._claim)
        return (place.epoch if place is not None else self.start.epoch) + claim - self._claim

    def begin(self, claim: int) -> Cursor:
        """Return where the epoch of `claim` begins."""
        reached, cursor = self._reached
        if reached > claim or cursor is None:
            reached, cursor = self._claim, self.start
        if reached < claim:
            cursor = self.position.run.walk_to_epoch(cursor, self.number(claim))
            self.reach(claim, cursor)
        return cursor

    def reach(self, claim: int, cursor: Cursor) -> None:
        """Note that the epoch of `claim` begins at `cursor`, so that `begin` need not walk to it."""
        self._reached = claim, cursor

    def document(self) -> dict[str, Any]:
        """Return the state at the start of the first epoch."""
        document, place = self.position.run.document(self.start, None, self.skips), self.place(self._claim)
        return document | ({"iterator": msgspec.to_builtins(place)} if place is not None else {})


def counted(
    run: Run,
    cursor: Cursor,
    place: IteratorState | None,
    num_samples: int,
    *,
    from_beginning: bool,
    skips: Skips = _NO_SKIPS,
) -> dict[str, Any]:
    """Return the state after `num_samples` samples of an epoch.

    Args:
        run: the run.
        cursor: where the iteration of this epoch began.
        place: what is known of this beginning beyond the cursor.
        num_samples: the samples, over all ranks.
        from_beginning: whether they count from the epoch's beginning, not from `cursor`.
        skips: the steps that are left out, of which no samples are counted.

    Raises:
        ConfigError: the ranks would have different numbers of samples, or the iteration began behind that place.
    """
    rows, ranks = run.run_plan.batch_size, run.run_plan.world.size
    each, odd = divmod(num_samples, ranks)
    if odd:
        raise ConfigError(
            f"{num_samples} samples over {ranks} ranks are not the same number on each: num_samples counts the samples "
            "of all ranks; take states between batches"
        )
    passed = cursor.step_in_epoch - skips.count(cursor.step - cursor.step_in_epoch, cursor.step)
    begun = passed * rows + (place.rows if place is not None else 0)
    each -= begun if from_beginning else 0
    if each < 0:
        raise ConfigError(
            f"{num_samples} samples from the epoch's beginning lie before the state that this run goes on from "
            f"({begun * ranks} samples): count all of the epoch's samples"
        )
    steps, within = divmod(each + (place.rows if place is not None else 0), rows)
    walk = run.walk(cursor, run.weights(None))
    if (step := _passed(walk, steps, skips)) < steps:
        raise ConfigError(
            f"num_samples={shown(num_samples)} is more than epoch {cursor.epoch} has, which ends {step} steps of "
            f"{rows * ranks} samples later: count the samples of this epoch alone"
        )
    while within and walk.cursor.step in skips and walk.advance() is not None:
        pass
    document = run.document(walk.cursor, None, skips)
    if not within:
        return document
    here = IteratorState(
        epoch=walk.cursor.epoch, rows=within, batch_rows=rows, worker=0, workers=1, batch_size=rows, phase=0
    )
    return document | {"iterator": msgspec.to_builtins(here)}


def _passed(walk: Walk, steps: int, skips: Skips) -> int:
    """Move past `steps` steps of the epoch, beside those left out; return how many, fewer if it ends before."""
    step, epoch = 0, walk.cursor.epoch
    while step < steps and walk.cursor.epoch == epoch:
        at = walk.cursor.step
        if plain := skips.first(at, at + min(steps - step, walk.steps_left)) - at:
            passed = walk.pass_steps(plain)
            step += passed
            if passed < plain:
                break
            continue
        while walk.cursor.step in skips and walk.advance() is not None:
            pass
        if walk.advance() is None:
            break
        step += 1
    return step
