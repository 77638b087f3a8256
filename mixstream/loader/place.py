"""A loader's place in a run, and the feedback session that runs from there."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixstream.errors import ExhaustedError
from mixstream.feedback.session import FeedbackSession
from mixstream.lazy import later
from mixstream.loader.callers import under_checkpoint
from mixstream.loader.dataset import StreamingDataset
from mixstream.loader.iteration import check_between_steps
from mixstream.plan.skips import Skips
from mixstream.plan.walk import ExhaustionWarnings, Walk
from mixstream.threads import Owner
from mixstream.types import Cursor, Int64, Rows

if TYPE_CHECKING:
    from mixstream.loader.rank_check import RankCheck
    from mixstream.loader.skipping import SkipNotes, asked_range, check_can_skip
    from mixstream.plan.state import packed
else:
    (RankCheck,) = later("mixstream.loader.rank_check", "RankCheck")
    SkipNotes, asked_range, check_can_skip = later(
        "mixstream.loader.skipping", "SkipNotes", "asked_range", "check_can_skip"
    )
    (packed,) = later("mixstream.plan.state", "packed")


class Place:
    """A loader's place in a run.

    Args:
        dataset: whose position it begins at: step 0, or a state that was loaded.
        loader: the class of the loader.
        publish: called with (step, weights) as soon as weights are known.
        log: directory of the mixing log; None for none.
        previous: the loader's place before, whose session ends.

    Attributes:
        run: the run.
        cursor: the place in its plan after the last batch that was handed out.
        loop: the loader's own feedback loop; None where nothing learns.
        session: takes what the trainer reports; None where nothing learns and nothing is logged.
        exhaustion: warns when a domain leaves the mix.
        skips: the steps that are left out, before this place and to come.
    """

    def __init__(
        self,
        dataset: StreamingDataset,
        *,
        loader: str,
        publish: Callable[[int, Int64], None],
        log: Path | None,
        previous: Place | None,
    ) -> None:
        position = self._position = dataset.position
        check_between_steps(position.place, loader)
        dataset.loader = loader
        run, cursor, loop = position.run, position.cursor, position.begin_loop()
        self.run, self.cursor, self.loop = run, cursor, loop
        self._saved_skips = self.skips = position.skips
        self._asked = Skips()  # those of them that `leave_out` added
        self.exhaustion = ExhaustionWarnings(run.plan, cursor)
        self._loads, self._origin, self._ended = dataset.loads, cursor, False
        self._begin_check, self._handed = dataset.begin_check, 0
        self._owner = Owner("this loader", remedy="make one in the child")
        self._check: RankCheck | None = None
        self.session = FeedbackSession.begin(
            run.run_plan,
            listed_K=run.domains.listed_K,
            loop=loop,
            weights=run.weights(loop) or run.fixed,
            facts=lambda: run.facts(cursor, loop, position.skips),
            publish=publish,
            log=log,
            header={"step": cursor.step, **run.log_header(carried=not position.found[2])},
            previous=previous.session if previous is not None else None,
            skips=self.skips,
            durable=dataset.durable,
        )
        dataset.places_begun += 1
        origin = {"load": dataset.loads, "place": dataset.places_begun}
        rank = dataset.job_rank(run) if run.can_skip else None
        self._skip_notes = None if rank is None else SkipNotes.of_job(rank, run.facts(cursor, loop) | origin)
        if previous is not None:
            self._take_over(previous)

    # --- steps that are left out ----------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The epoch of the next batch."""
        cursor = self.run.plan.settle(self.cursor)
        if not self.skips.ranges or not (ahead := self.skips.after(cursor.step) - cursor.step):
            return cursor.epoch
        return cursor.epoch + (cursor.step_in_epoch + ahead) // self.run.plan.steps_per_epoch

    def leave_out(self, steps: Any) -> range:
        """Leave `steps` out, as `Loader.skip` takes them; return them as a range.

        Raises:
            ConfigError: they were handed out, or are no steps.
        """
        check_can_skip(self.run)
        found = asked_range(steps, position=self.cursor.step, skips=self.skips)
        if found and self._skip_notes is not None:
            self._skip_notes.post(found)
        self._add(Skips.of([(found.start, found.stop)]))
        return found

    def _add(self, asked: Skips) -> None:
        self._asked, self.skips = self._asked | asked, self.skips | asked
        if self.session is not None:
            self.session.consensus.skips = self.skips

    def _take_over(self, previous: Place) -> None:
        """Leave out what was asked for at the `previous` place and is still to come; warn of what is not."""
        asked, step = previous._asked.since(previous.cursor.step), self.cursor.step
        lost = [pair for pair in asked.before(step).ranges if self.skips.count(*pair) < pair[1] - pair[0]]
        if lost:
            warnings.warn(
                f"the steps {Skips.of(lost)} were to be left out, and the state that is loaded has passed them, at "
                f"step {step}: call skip() after load_state_dict, or with a range of steps to come",
                stacklevel=5,
            )
        if asked := asked.since(step):
            check_can_skip(self.run)
            self._add(asked)
            if (notes := self._skip_notes) is not None:
                for first, end in asked.ranges:
                    notes.post(range(first, end))

    @property
    def is_at_start(self) -> bool:
        """Whether no step lies before it but those that are left out at the start of the run."""
        return self.cursor.step in (0, self.skips.after(0))

    @property
    def is_at_skip(self) -> bool:
        """Whether the next step is left out."""
        return self.cursor.step in self.skips

    def pass_skipped(self) -> None:
        """Move past steps that are left out, to the next that is not.

        Raises:
            FeedbackError: weights of these steps depend on reports that are missing.
            StopIteration: too few domains are left to fill a step.
        """
        walk = self.run.walk(self.cursor, self.run.weights(self.loop))
        while walk.cursor.step in self.skips:
            self.await_weights(walk)
            if (rows := walk.advance()) is None:
                raise StopIteration
            if self.session is not None:
                self.session.collector.skip(rows)
            self.cursor = walk.cursor
            self.exhaustion.check(self.cursor)

    def await_weights(self, walk: Walk) -> None:
        """Wait until the weights of the next step of `walk` are known.

        Raises:
            FeedbackError: they depend on a report or an evaluation that the trainer has not made.
        """
        if self.session is not None and not walk.ready():
            self.session.collector.await_weights(walk.cursor.step)

    def begin_epoch(self, epoch: int) -> None:
        """Go on at the beginning of `epoch`."""
        cursor = self._position.at_epoch(self.run.plan.settle(self.cursor), epoch)
        if self._skip_notes is not None and cursor.step < self.cursor.step:
            self._skip_notes.turn_back()
        self.cursor = cursor

    # --- batches --------------------------------------------------------------------------------------------------

    def is_outdated(self, dataset: StreamingDataset) -> bool:
        """Return whether a state was loaded into the dataset; before the first batch, also if the ranks changed."""
        unmoved = self.cursor is self._origin  # once batches were handed out, the position does not change with ranks
        return dataset.loads != self._loads or (unmoved and (dataset.run is not self.run or not self._owner.here))

    def hand_out(self, rows: Rows, cursor: Cursor) -> None:
        """Note that the batch of `rows` is handed out; `cursor` is the position after it.

        Raises:
            RanksDisagreeError: other ranks read another run (`rank_check`).
        """
        if self._handed == 0 and self.loop is None:  # else their losses show it
            first = self.cursor
            self._check = self._begin_check(self.run, lambda: self.run.facts(first, None, self._saved_skips))
        if self._check is not None and self._check.taken(self._handed):
            self._check = None
        self._handed += 1
        if self._skip_notes is not None:
            self._skip_notes.hand_out(rows.step)
        if self.session is not None:
            self.session.collector.drew(rows)
        self.cursor = cursor  # last, so that a state saved by another thread has all that came before its position

    def document(self) -> dict[str, Any]:
        """Return the run's state at this place, once every report has led to weights.

        For `torch.distributed.checkpoint` it is in one value of bytes, {"state": …}: a state is loaded there into one
        that was saved at the start, and only entries that both have.
        """
        with self.session.collector.drained() if self.session is not None else nullcontext():
            if self._skip_notes is not None:
                self._owner.check()  # a state has what other ranks found, and a forked child cannot ask them
                self._skip_notes.check()
            document = self.run.document(self.cursor, self.loop, self.skips)
        return packed(document) if under_checkpoint() else document

    def end(self) -> str:
        """Note that too few domains are left to fill a batch; return the message."""
        self._ended = True
        return self.exhaustion.end(self.cursor)

    def check_not_ended(self) -> None:
        """Check that there may be another batch.

        Raises:
            ExhaustedError: `end` was called.
        """
        if self._ended:
            raise ExhaustedError(self.exhaustion.end(self.cursor))
