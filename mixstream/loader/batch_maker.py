"""Makes a rank's batches one after the other, from one position on. It runs in a loader's background thread.

A `BatchMaker` is used by one thread at a time. It keeps no reference to the loader, so that the thread ends when the
loader is deleted. `Running` is the thread, and what ends it.
"""

import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from mixstream.data.assemble import Assembler
from mixstream.data.predownload import Predownloader
from mixstream.loader.describe import Counters
from mixstream.loader.prefetch import BlockedError, Prefetcher
from mixstream.loader.run import Run
from mixstream.plan.skips import Skips
from mixstream.types import Addresses, Cursor, Rows, Weights

_PLANNED_ROWS = 4096  # rows whose addresses are looked up together; at least those of one step
_PLANNED_STEPS = 64  # at most, so that the first of many small batches is not delayed


class BatchMaker:
    """Makes batches from a position on.

    Args:
        run: what is drawn, and how bad samples are handled.
        cursor: the position.
        weights: step -> weights; None for static mixing.
        skips: the steps that are left out; it makes batches up to the first of them.
        assembler: makes a batch from addresses.
        deliver: copies a finished batch to the trainer's device.
        ahead: rows of this rank whose shards are fetched ahead.
        counters: the time spent is added to them.
    """

    def __init__(
        self,
        *,
        run: Run,
        cursor: Cursor,
        weights: Weights | None,
        skips: Skips,
        assembler: Assembler,
        deliver: Callable[[Any], Any],
        ahead: int,
        counters: Counters,
    ) -> None:
        self._run, self._weights, self._skips = run, weights, skips
        self._walk, self._before = run.walk(cursor, weights), cursor
        self._assembler, self._deliver, self._counters = assembler, deliver, counters
        self._reader = run.reader(assembler.domains)
        self._predownloader = Predownloader(
            run_plan=run.run_plan, domains=assembler.domains, ahead=ahead, forecast=run.forecast()
        )
        self._planned: deque[tuple[Rows, Cursor, Addresses]] = deque()

    def make(self) -> tuple[Any, Cursor, Rows]:
        """Return the next batch, the position after it, and its global batch's rows.

        Raises:
            BlockedError: its weights are not known yet.
            StopIteration: too few domains are left to fill a batch, or the next step is left out.
        """
        if not self._planned:
            self._plan_ahead()
        rows, cursor, at = self._planned.popleft()
        self._predownloader.look_ahead(self._before, self._weights)
        self._before, began = cursor, time.perf_counter()
        batch = self._reader.read(rows, slice(None), at, lambda at: self._batch(rows, at))
        self._counters.gathering += time.perf_counter() - began
        return batch, cursor, rows

    def _batch(self, rows: Rows, at: Addresses) -> Any:
        try:
            return self._deliver(self._assembler.assemble(at, step=rows.step, repeats=rows.repeats))
        except StopIteration as error:  # here it would mean the end of the run (PEP 479 does the same for generators)
            raise RuntimeError("a transform, a collate_fn or the dataset's get_item raised StopIteration") from error

    def _plan_ahead(self) -> None:
        planned: list[tuple[Rows, Cursor]] = []
        run_plan, blocked = self._run.run_plan, False
        steps = min(-(-_PLANNED_ROWS // run_plan.batch_size), _PLANNED_STEPS)
        while len(planned) < steps and self._walk.cursor.step not in self._skips:
            if blocked := not self._walk.ready():
                break
            if (rows := self._walk.advance()) is None:
                break
            planned.append((rows, self._walk.cursor))
        if not planned:
            raise BlockedError if blocked else StopIteration
        found = run_plan.addressing.locate([rows for rows, _ in planned], run_plan.part)
        self._planned.extend((rows, cursor, at) for (rows, cursor), at in zip(planned, found))

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
    def begin(cls, maker: BatchMaker, *, depth: int, owner: object) -> Self:
        """Start to keep `depth` batches ready, until `owner` is deleted."""
        prefetcher = Prefetcher(maker.make, depth=depth)
        end = weakref.finalize(owner, _end, maker, prefetcher)
        end.atexit = False  # the threads have exit handlers, which wait for fetches in flight
        return cls(prefetcher, end)


def _end(maker: BatchMaker, prefetcher: Prefetcher[Any]) -> None:
    try:
        maker.close()  # first, since the prefetcher's thread may wait for a shard
    finally:  # after Ctrl-C too
        prefetcher.close()
