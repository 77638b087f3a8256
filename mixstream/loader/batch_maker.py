"""Makes a rank's batches one after the other, from one position on. It runs in a loader's background thread.

A `BatchMaker` is used by one thread at a time. It keeps no reference to the loader, so that the thread ends when the
loader is deleted. `Running` is the thread, and what ends it.
"""

import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch

from mixstream.data.assemble import Assembler
from mixstream.data.batch import Batch
from mixstream.data.predownload import Predownloader
from mixstream.data.second_thread import Pace, has_second_core
from mixstream.loader.prefetch import BlockedError, Prefetcher
from mixstream.loader.run import Run
from mixstream.metering import LOCATE, PLAN, Meter
from mixstream.plan.skips import Skips
from mixstream.records import dataclass
from mixstream.types import Addresses, Cursor, Rows, Weights

_PLANNED_ROWS = 4096  # rows whose addresses are looked up together; at least those of one step
_PLANNED_STEPS = 64  # at most: Python's garbage collector looks at all that is planned, again and again
_TOGETHER_ROWS, _TOGETHER_BYTES, _TOGETHER = 2048, 1 << 25, 32  # rows, bytes and batches, at most, made together


@dataclass(slots=True)
class _Ahead:
    """Steps that are planned and located together, and how many of them are made.

    Args:
        steps: the rows of each, and the position after it.
        at: the addresses of this rank's rows, one step after the other.
        ends: where each step ends among them.
        done: how many steps are made.
    """

    steps: Sequence[tuple[Rows, Cursor]] = ()
    at: Addresses | None = None
    ends: Sequence[int] = ()
    done: int = 0

    @property
    def is_done(self) -> bool:
        """Whether all steps are made."""
        return self.done == len(self.steps)

    def next(self, count: int) -> tuple[Sequence[tuple[Rows, Cursor]], Addresses]:
        """Return the next steps, at most `count`, and the addresses of their rows; one, if they have other sizes."""
        assert self.at is not None
        ends, begin = self.ends[self.done : self.done + count], self.ends[self.done - 1] if self.done else 0
        if not isinstance(ends, range) and len(set(np.diff(ends, prepend=begin).tolist())) > 1:
            ends = ends[:1]
        return self.steps[self.done : self.done + len(ends)], self.at[begin : ends[-1]]


class BatchMaker:
    """Makes batches from a position on.

    Args:
        run: what is drawn, and how bad samples are handled.
        cursor: the position.
        weights: step -> weights; None for static mixing.
        skips: the steps that are left out; it makes batches up to the first of them.
        assembler: makes a batch from addresses.
        deliver: copies a finished batch to the trainer's device; None where that is the CPU.
        ahead: rows of this rank whose shards are fetched ahead.
        meter: of the thread that makes batches.
        joins: whether several small batches may be made together, of which the first is handed out later than alone.
    """

    def __init__(
        self,
        *,
        run: Run,
        cursor: Cursor,
        weights: Weights | None,
        skips: Skips,
        assembler: Assembler,
        deliver: Callable[[Any], Any] | None,
        ahead: int,
        meter: Meter,
        joins: bool = True,
    ) -> None:
        self._run, self._weights, self._skips = run, weights, skips
        self._walk, self._before = run.walk(cursor, weights), cursor
        self._assembler, self._deliver, self._clock = assembler, deliver, meter.clock
        self._reader = run.reader(assembler.domains)
        self._predownloader = Predownloader(
            run_plan=run.run_plan,
            domains=assembler.domains,
            ahead=ahead,
            forecast=run.forecast(),
            traffic=meter.traffic,
        )
        self._ahead = _Ahead()
        self._joins, self._together = joins, 1
        self._pace = Pace()
        self.trainer_waits: Callable[[], bool] = lambda: False
        self._fetches = any(source.files.fetches for source in assembler.domains.sources)
        self._steps = 1  # to plan together the next time: the first batch waits for its own rows only

    def make(self) -> list[tuple[Any, Cursor, Rows]]:
        """Return the next batches, each with the position after it and its global batch's rows.

        Small batches are made together, where that takes no longer than one: their shards are mapped already.

        Raises:
            BlockedError: the weights of the next are not known yet.
            StopIteration: too few domains are left to fill a batch, or the next step is left out.
        """
        self._clock.enter(PLAN)
        if self._ahead.is_done:
            self._plan_ahead()
        return self._make_together() or [self._make_one()]

    def _move(self, cursor: Cursor) -> None:
        """Fetch what the next step needs, and some more; `cursor` is the position after it."""
        self._predownloader.look_ahead(self._before, self._weights)
        self._before = cursor

    def _make_one(self) -> tuple[Any, Cursor, Rows]:
        (step,), at = self._ahead.next(1)
        rows, cursor = step
        self._ahead.done += 1
        self._move(cursor)
        batch = self._reader.read(rows, slice(None), at, lambda at: self._batch(rows, at))
        if self._joins and isinstance(batch, Batch):
            size = sum(value.nbytes for value in batch.values() if isinstance(value, torch.Tensor))
            most = min(_TOGETHER_ROWS // len(at), _TOGETHER_BYTES // max(size, 1), _TOGETHER)
            self._together = max(most, 1)
        return batch, cursor, rows

    def _make_together(self) -> list[tuple[Any, Cursor, Rows]] | None:
        if self._reader.quarantine.entries:
            return None
        steps, at = self._ahead.next(self._together)
        waits, began = self.trainer_waits(), time.perf_counter()
        two = waits and self._pace.takes_two()
        batches: list[Any] | None = self._assembler.assemble_together([rows for rows, _ in steps], at, two_threads=two)
        if batches is None:
            return None
        if waits:  # else the trainer is at work, and may take this core too
            self._pace.took((time.perf_counter() - began) / len(at), two=two)
        self._ahead.done += len(steps)
        if self._fetches:
            for _, cursor in steps:
                self._move(cursor)
        if self._deliver is not None:
            batches = [self._deliver(batch) for batch in batches]
        return [(batch, cursor, rows) for batch, (rows, cursor) in zip(batches, steps)]

    def _batch(self, rows: Rows, at: Addresses) -> Any:
        try:
            batch = self._assembler.assemble(at, step=rows.step, repeats=rows.repeats)
            return batch if self._deliver is None else self._deliver(batch)
        except StopIteration as error:  # here it would mean the end of the run (PEP 479 does the same for generators)
            raise RuntimeError("a transform, a collate_fn or the dataset's get_item raised StopIteration") from error

    def _plan_ahead(self) -> None:
        run_plan, walk = self._run.run_plan, self._walk
        steps = min(-(-_PLANNED_ROWS // run_plan.batch_size), _PLANNED_STEPS)
        self._steps, steps = min(2 * self._steps, steps), min(self._steps, steps)
        if (before_skip := self._skips.until(walk.cursor.step)) is not None:
            steps = min(steps, before_skip)
        planned: list[tuple[Rows, Cursor]] = []
        while len(planned) < steps and (found := walk.advance_steps(steps - len(planned))):
            planned.extend(found)
        if not planned:
            raise BlockedError if steps and not walk.ready() else StopIteration
        self._clock.enter(LOCATE)
        at, ends = run_plan.addressing.locate_together([rows for rows, _ in planned], run_plan.part)
        self._ahead = _Ahead(planned, at, ends)
        self._clock.enter(PLAN)

    def close(self) -> None:
        """Stop fetching shards ahead. A batch that is being made is finished, even if it waits for a shard."""
        self._predownloader.close()


@dataclass(frozen=True, slots=True)
class Running:
    """The threads that make a loader's batches from one position on.

    Attributes:
        prefetcher: keeps finished batches ready.
        end: ends the threads; called at the latest when the loader is deleted.
    """

    prefetcher: Prefetcher[tuple[Any, Cursor, Rows]]
    end: Callable[[], Any]

    @classmethod
    def begin(cls, maker: BatchMaker, *, depth: int, meter: Meter, owner: object) -> Self:
        """Start to keep `depth` batches ready, until `owner` is deleted."""
        prefetcher = Prefetcher(maker.make, depth=depth, meter=meter)
        if depth and has_second_core():
            maker.trainer_waits = lambda: not prefetcher.ready
        end = weakref.finalize(owner, _end, maker, prefetcher)
        end.atexit = False  # the threads have exit handlers, which wait for fetches in flight
        return cls(prefetcher, end)


def _end(maker: BatchMaker, prefetcher: Prefetcher[Any]) -> None:
    try:
        maker.close()  # first, since the prefetcher's thread may wait for a shard
    finally:  # after Ctrl-C too
        prefetcher.close()
