"""`stats()` and `describe()` of a loader whose batches torch makes: in its workers, or in the trainer's thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from mixstream.data.collate import collate_samples
from mixstream.loader.dataset import StreamingDataset
from mixstream.loader.describe import describe
from mixstream.loader.document_collate import DocumentCollate
from mixstream.loader.starving import Options
from mixstream.loader.stats import LoaderStats, Work
from mixstream.loader.worker_meters import WorkerMeters
from mixstream.metering import IDLE, WEIGHTS, metered


class CountsWorkers:
    """The methods that say what a loader has done. The loader sets the attributes, and calls `_begin_counting`."""

    num_workers: int
    prefetch_factor: int | None
    collate_fn: Any
    weights: Any
    _source: StreamingDataset | None
    _place: Any  # a Place; None over another kind of dataset

    def _begin_counting(self) -> None:
        self._work = Work(depth=self.num_workers * (self.prefetch_factor or 0))
        self._worker_meters = WorkerMeters(workers=self.num_workers) if self.num_workers else None

    @contextmanager
    def _waiting(self, *, is_first: bool) -> Iterator[Callable[[int], int]]:
        """Count the block, in which the trainer waits for a batch; yield what turns the clock.

        Args:
            is_first: whether nothing can be ready, since the iterator begins.
        """
        meter = self._work.samples
        enter = meter.clock.enter
        self._work.ask(time.perf_counter(), 0, is_first=is_first)
        with metered(meter):
            enter(WEIGHTS)
            try:
                yield enter
            finally:
                enter(IDLE)

    def stats(self) -> LoaderStats:
        """Return what the loader has done so far, and where its time went; the difference of two is a window.

        Of workers, it is the sum of what each wrote at its last step. None: how many batches were ready, CPU seconds,
        and with workers and a `collate_fn` of your own, what they took to collate, and waited for the trainer. Over
        another kind of dataset, all is 0 or None.
        """
        if self._source is None:
            return LoaderStats()
        stats = replace(self._work.stats(), ready=None, ready_seen=None, empty=None, cpu=None)
        if (meters := self._worker_meters) is None:
            return replace(stats, trainer=None)
        others = meters.stages() | meters.traffic()
        others = {name: getattr(stats, name) + value for name, value in others.items()}
        others |= {name: int(value) for name, value in others.items() if isinstance(getattr(stats, name), int)}
        if not self._is_told_when_collated:
            others |= {"collate": None, "trainer": None}
        return replace(stats, **others)

    @property
    def _is_told_when_collated(self) -> bool:
        collate = self.collate_fn
        return isinstance(collate, DocumentCollate) or collate is collate_samples

    def describe(self) -> str:
        """Return a picture of the run, with numbers: domains, shares, position, and which stage starves the trainer."""
        if (source := self._source) is None:
            return repr(self)
        given = None if self._is_told_when_collated else self.collate_fn
        place, workers = self._place, self.num_workers
        lag = place.run.run_plan.lag
        options = Options.of(source, collate_fn=given, widen=False, lag=lag, workers=workers)
        return describe(place.run, place.cursor, self.stats(), self.weights, place.skips, options=options)
