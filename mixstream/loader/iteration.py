"""One `iter()` of a dataset in one process: which rows this process yields, and how far it has come.

A rank's rows of an epoch, step after step, are its *sequence*. A DataLoader that takes batches of n samples from W
workers in turn gets the sequence in order if worker w yields the w-th n of every W x n rows; n need not be the
dataset's batch size. The position is therefore a place in the sequence, and it may lie in the middle of a step.

Shape suffixes: B rows of this rank in one step.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from operator import length_hint
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from msgspec import UnsetType
from torch.utils.data import get_worker_info

from mixstream.errors import ConfigError, StateError
from mixstream.lazy import later
from mixstream.loader.callers import Fetching
from mixstream.loader.run import Run
from mixstream.metering import COLLATE, LOCATE, PLAN, here
from mixstream.plan.skips import Skips
from mixstream.plan.state_record import IteratorState
from mixstream.plan.walk import ExhaustionWarnings
from mixstream.records import dataclass
from mixstream.types import Cursor, Int64, Weights

if TYPE_CHECKING:
    from mixstream.loader.row_server import Portion, RowServer
else:
    (RowServer,) = later("mixstream.loader.row_server", "RowServer")


_NO_SKIPS = Skips()


@dataclass(frozen=True, kw_only=True)
class Share:
    """Which rows of its rank's sequence a DataLoader worker yields.

    >>> Share(worker=1, workers=2, batch_size=3).of_step(begin=4, rows=4).tolist()  # of the rows 4 to 7: 4 and 5
    [0, 1]

    Args:
        worker: its number.
        workers: how many there are.
        batch_size: samples that the DataLoader takes from one worker before it turns to the next.
    """

    worker: int = 0
    workers: int = 1
    batch_size: int = 1

    def of_step(self, *, begin: int, rows: int) -> Int64:
        """Return which of the `rows` rows from row `begin` of the sequence on are the worker's; int64, rising."""
        turn_B = self.turns(begin=begin, row_N=np.arange(rows, dtype=np.int64))
        return np.flatnonzero(turn_B % self.workers == self.worker)

    def turns(self, *, begin: int, row_N: Int64) -> Int64:
        """Return in whose turn rows `row_N` of a step are, which begins at row `begin` of the sequence; int64 [N]."""
        return (begin + row_N) // self.batch_size


class Iteration:
    """What one `iter()` yields in this process, from a place in an epoch to its end.

    Attributes:
        share: which rows this process yields.
        walk: the position behind the running step.
        ended: whether the epoch has been passed to its end.

    Args:
        run: the run.
        cursor: the beginning of the step in which it begins.
        claim: its number among the iterations since the run began or a state was loaded.
        epoch: the epoch that it yields; it is empty if the cursor has left this epoch.
        place: what a state says of the same place, beyond the cursor; None for the beginning of the step.
        weights: step -> weights; None for static mixing.
        skips: the steps that are left out: they are no part of the sequence.
    """

    def __init__(
        self,
        *,
        run: Run,
        cursor: Cursor,
        claim: int,
        epoch: int,
        place: IteratorState | None,
        weights: Weights | None,
        skips: Skips = _NO_SKIPS,
    ) -> None:
        info = get_worker_info()
        self.worker = info.id if info is not None else None
        workers = info.num_workers if info is not None else 1
        turning = place is not None and place.workers > 1  # else the turns of the workers begin at this place
        size, phase = (place.batch_size, place.phase) if place and turning else (run.run_plan.batch_size, 0)
        self.share = Share(worker=self.worker or 0, workers=workers, batch_size=size)
        self.run, self.claim, self._epoch, self._skips = run, claim, epoch, skips
        self.walk = run.walk(cursor, weights)
        self._before, self._from = self.walk.cursor, place.rows if place is not None else 0
        self._portion: Portion | None = None  # what is handed out; rows of the step before `_from` were passed earlier
        self._begin = phase - self._from  # of the step, in the sequence
        self._turned, self._drop_last = bool(turning and (phase or self._from or cursor.step_in_epoch)), False
        self.ended = False  # whether all of the epoch has been passed

    @property
    def is_over(self) -> bool:
        """Whether nothing is left of its epoch."""
        return self.walk.cursor.epoch != self._epoch

    def serve(self, fetching: Fetching | None) -> None:
        """Yield the rows in batches as a DataLoader takes them; called before the first row.

        Raises:
            StateError: the workers of a loaded state took turns of another size.
        """
        if fetching is None:
            return
        self._drop_last = fetching.drop_last
        if fetching.batch_size == self.share.batch_size:
            return
        if self._turned:  # also between two turns: the DataLoader may pass over batches, counted in its own size
            raise StateError(
                f"this state was saved while {self.share.workers} DataLoader workers took turns of "
                f"{self.share.batch_size} samples, and this DataLoader has batch_size={fetching.batch_size}: rows "
                f"would be read twice or never; go on with batch_size={self.share.batch_size}"
            )
        self.share = replace(self.share, batch_size=fetching.batch_size)

    def samples(
        self,
        *,
        server: RowServer,
        look_ahead: Callable[[Cursor, Weights | None], None],
        warn: bool,
    ) -> Iterator[Any]:
        """Yield the samples.

        Args:
            server: reads rows.
            look_ahead: called before each step, with the cursor and the run's weights.
            warn: whether to warn of domains that leave the mix.
        """
        run_plan, exhaustion = self.run.run_plan, ExhaustionWarnings(self.run.plan, self.walk.cursor)
        while not self.is_over:
            self._before = self.walk.cursor
            skipped = self._before.step in self._skips
            if not skipped:
                look_ahead(self._before, self.walk.weights)
            clock = here().clock
            clock.enter(PLAN)
            if (rows := self.walk.advance()) is None:
                if warn:
                    warnings.warn(exhaustion.end(self.walk.cursor), stacklevel=2)
                return
            if warn:
                exhaustion.check(self.walk.cursor)
            if skipped:
                self._before = self.walk.cursor
                continue
            mine = self.share.of_step(begin=self._begin, rows=run_plan.batch_size)
            mine = mine[mine >= self._from]
            if len(mine) and not (self._drop_last and rows.repeats):  # such a step only fills up the epoch
                clock.enter(LOCATE)
                (at,) = run_plan.addressing.locate([rows], run_plan.part)
                clock.enter(COLLATE)
                for portion in server.portions(rows, at, mine, self.share.turns(begin=self._begin, row_N=mine)):
                    self._portion = portion
                    yield from portion[1]
                    self._from, self._portion = portion[0][-1] + 1, None
            self._begin, self._from, self._before = self._begin + run_plan.batch_size, 0, self.walk.cursor
        self.ended = True

    @property
    def _passed(self) -> int:
        """How many rows of the running step were passed: up to the last one that was handed out."""
        if self._portion is None:
            return self._from
        here, samples = self._portion
        return here[handed - 1] + 1 if (handed := len(here) - length_hint(samples)) else self._from

    def document(self) -> dict[str, Any]:
        """Return the state after the rows that were handed out."""
        size = self.run.run_plan.batch_size
        whole = self._passed == size
        cursor, rows = (self.walk.cursor, 0) if whole else (self._before, self._passed)
        document = self.run.document(cursor, None, self._skips)
        if self.worker is None and not rows and (self.ended or document["epoch"] == self._epoch):
            return document  # a place between two steps, or two epochs, that every loader can begin at
        share = self.share if self.share.workers > 1 else Share(batch_size=size)  # alone, it takes no turns
        place = IteratorState(
            epoch=self._epoch,
            rows=rows,
            batch_rows=size,
            worker=share.worker,
            workers=share.workers,
            batch_size=share.batch_size,
            phase=(self._begin + self._passed) % (share.batch_size * share.workers) if share.workers > 1 else 0,
        )
        return document | {"iterator": msgspec.to_builtins(place)}


def check_between_steps(place: IteratorState | UnsetType | None, loader: str) -> None:
    """Check that `loader`, which hands out whole batches of all workers, can begin at a state's place.

    Raises:
        StateError: it cannot.
    """
    if not isinstance(place, IteratorState):
        return
    if place.workers > 1:
        raise StateError(
            f"this is the state of worker {place.worker} of {place.workers} of a DataLoader, and {loader} goes on for "
            "all of them: load the whole state of that DataLoader into a DataLoader with as many workers"
        )
    if place.rows:
        raise StateError(
            f"this state lies within a step ({place.rows} of {place.batch_rows} rows of each rank are handed out), and "
            f"{loader} hands out whole steps: save between two batches, or go on with a DataLoader over the dataset"
        )


def check_place(place: IteratorState | UnsetType | None, *, batch_rows: int) -> None:
    """Check that this process can go on from the place in a state.

    Args:
        place: from the state.
        batch_rows: rows of this rank in a step.

    Raises:
        StateError: it is the place of another DataLoader worker, or of ranks with other rows.
    """
    info = get_worker_info()
    if not isinstance(place, IteratorState):
        if info is None:
            return
        raise StateError(
            f"worker {info.id} of {info.num_workers} of a DataLoader loads a state that does not say what this worker "
            "has handed out (an earlier version of mixstream saved it, or another loader): load it into the dataset "
            "in the main process, before the DataLoader is iterated"
        )
    here = (info.id, info.num_workers) if info is not None else (0, 1)
    if (place.worker, place.workers) != here:
        raise StateError(
            f"this is the state of worker {place.worker} of {place.workers} of a DataLoader, and this is worker "
            f"{here[0]} of {here[1]}: load the whole state of that DataLoader, with num_workers={place.workers}"
        )
    if place.batch_rows != batch_rows and (place.rows or place.workers > 1):
        raise StateError(
            f"this state lies within a step, or a turn of DataLoader workers, of ranks with {place.batch_rows} rows a "
            f"step each, and this rank has {batch_rows}: go on with as many ranks, or save between two steps"
        )


def check_counted_here(iteration: Iteration | None, claims: int) -> None:
    """Check that no other process reads samples of the running epoch.

    Args:
        iteration: the newest in this process.
        claims: how many epochs were begun, in all processes.

    Raises:
        ConfigError: DataLoader workers do, and this is not one of them.
    """
    if get_worker_info() is not None or claims <= (iteration.claim + 1 if iteration is not None else 0):
        return
    raise ConfigError(
        "DataLoader workers read this dataset, and how many of the batches that they have made ahead reached the "
        "trainer is not known here: pass num_samples=, the samples of this epoch over all ranks; or save state_dict() "
        "of mixstream.StreamingDataLoader, or of torchdata's StatefulDataLoader in place of torch's DataLoader"
    )


def raising(error: Exception) -> Iterator[Any]:
    """Return an iterator that raises `error` when it is asked for a sample."""
    raise error
    yield
