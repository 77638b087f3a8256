"""A loader's place in a run, and the feedback session that runs from there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from mixstream.errors import ExhaustedError
from mixstream.feedback.session import FeedbackSession
from mixstream.loader.callers import under_checkpoint
from mixstream.loader.dataset import StreamingDataset
from mixstream.loader.iteration import check_between_steps
from mixstream.loader.rank_check import RankCheck
from mixstream.plan.state import packed
from mixstream.plan.walk import ExhaustionWarnings
from mixstream.types import Cursor, Int64, Rows


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
        position = dataset.position
        check_between_steps(position.place, loader)
        dataset.loader = loader
        run, cursor, loop = position.run, position.cursor, position.begin_loop()
        self.run, self.cursor, self.loop = run, cursor, loop
        self.exhaustion = ExhaustionWarnings(run.plan, cursor)
        self._loads, self._origin, self._ended = dataset.loads, cursor, False
        self._begin_check, self._handed = dataset.begin_check, 0
        self._check: RankCheck | None = None
        self.session = FeedbackSession.begin(
            run.run_plan,
            listed_K=run.domains.listed_K,
            loop=loop,
            weights=run.weights(loop) or run.fixed,
            facts=lambda: run.facts(cursor, loop),
            publish=publish,
            log=log,
            header={"step": cursor.step, **run.log_header(carried=not position.found[2])},
            previous=previous.session if previous is not None else None,
        )

    def is_outdated(self, dataset: StreamingDataset) -> bool:
        """Return whether a state was loaded into the dataset, or its ranks changed before the first batch."""
        unmoved = self.cursor is self._origin  # once batches were handed out, the position does not change with ranks
        return dataset.loads != self._loads or (unmoved and dataset.run is not self.run)

    def hand_out(self, rows: Rows, cursor: Cursor) -> None:
        """Note that the batch of `rows` is handed out; `cursor` is the position after it.

        Raises:
            RanksDisagreeError: other ranks read another run (`rank_check`).
        """
        if self._handed == 0 and self.loop is None:  # else their losses show it
            first = self.cursor
            self._check = self._begin_check(self.run, lambda: self.run.facts(first, None))
        if self._check is not None and self._check.taken(self._handed):
            self._check = None
        self._handed += 1
        if self.session is not None:
            self.session.collector.drew(rows)
        self.cursor = cursor  # last, so that a state saved by another thread has all that came before its position

    def document(self) -> dict[str, Any]:
        """Return the run's state at this place, once every report has led to weights.

        For `torch.distributed.checkpoint` it is in one value of bytes, {"state": …}: a state is loaded there into one
        that was saved at the start, and only entries that both have.
        """
        with self.session.collector.drained() if self.session is not None else nullcontext():
            document = self.run.document(self.cursor, self.loop)
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
