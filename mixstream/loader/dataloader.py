"""`StreamingDataLoader`: a torch DataLoader that keeps the position, so that it can be saved and fed with losses."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from mixstream.data.batch import Batch, collate_samples
from mixstream.errors import ConfigError, ExhaustedError
from mixstream.feedback.loop import FeedbackLoop
from mixstream.loader.dataset import StreamingDataset
from mixstream.loader.reports import LossReports
from mixstream.loader.workers import WeightRing
from mixstream.plan.walk import ExhaustionWarnings, Walk
from mixstream.types import Rows


class StreamingDataLoader(LossReports, DataLoader[Any]):
    """A torch DataLoader over a `StreamingDataset`, with its arguments.

    Counts batches handed out, whatever its workers have fetched ahead. Each `iter()` begins an epoch: the next one, if
    the last `iter()` handed out any batch, else the same position again. Batches that are dicts carry `step`, `domain`
    (int64 [B], in the order of `streams`) and `repeats` as attributes.

    Args:
        dataset: what to read; its `batch_size` must be this loader's, and each is taken from the other if not given.
        args: as for torch's DataLoader.
        log: directory for a log of weights and losses by step, as JSONL and, where it is installed, for TensorBoard.
            Give it on every rank; rank 0 writes.
        kwargs: as for torch's. `collate_fn` defaults to torch's, with uint16 and uint32 widened to int64.
    """

    def __init__(self, dataset: StreamingDataset, *args: Any, log: str | Path | None = None, **kwargs: Any) -> None:
        if isinstance(dataset, StreamingDataset) and kwargs.get("collate_fn") is None and len(args) < 6:
            kwargs["collate_fn"] = collate_samples
        if isinstance(dataset, StreamingDataset) and not args and dataset.batch_size is not None:
            kwargs.setdefault("batch_size", dataset.batch_size)
        super().__init__(dataset, *args, **kwargs)
        self.num_samples_yielded = 0
        self._source = self._streaming = dataset if isinstance(dataset, StreamingDataset) else None
        self._device, self._feedback, self._log = None, None, Path(log) if log is not None else None
        self._loop: FeedbackLoop | None = None
        self._ring: WeightRing | None = None
        if self._streaming is None:
            return
        if dataset.batch_size is None:
            dataset.batch_size = self.batch_size
        if dataset.batch_size != self.batch_size:
            raise ConfigError(
                f"batch_size={self.batch_size} here and {dataset.batch_size} on the dataset: the plan is made of "
                "global batches, so give both the same"
            )
        if self.drop_last and not dataset.drop_last:
            dataset.drop_last = True
            dataset.forget_run()
        self._adopt(dataset)

    def _adopt(self, dataset: StreamingDataset) -> None:
        """Take up the dataset's position: the start, or a loaded state."""
        self._run, self._loads = dataset.run, dataset.loads
        self._cursor, self._loop = dataset.position()
        self._handed, self._ended, self._iterator = False, False, None
        self._departures = ExhaustionWarnings(self._run.plan, self._cursor)
        self._ring = None
        if self._loop is not None:
            self._look_ahead(dataset, self._loop)
        publish = self._ring.put if self._ring is not None else lambda step, weights_K: None
        self._feedback = self._begin_feedback(self._run, self._loop, self._log, publish)

    def _look_ahead(self, dataset: StreamingDataset, loop: FeedbackLoop) -> None:
        """Let the dataset, in this process or its workers, know the weights of the steps to come."""
        ahead = self.num_workers * (self.prefetch_factor or 0)
        if ahead > loop.lag:
            raise ConfigError(
                f"{self.num_workers} workers x prefetch_factor {self.prefetch_factor} fetch {ahead} batches ahead, "
                f"more than the lag of {loop.lag} steps between losses and the batches that they shape: lower "
                f"them, or give the dataset lag={ahead} (it changes the run)"
            )
        if self.num_workers:
            self._ring = WeightRing(domains=len(dataset.streams), lag=loop.lag)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Begin an epoch."""
        if self._streaming is None:
            yield from super().__iter__()
            return
        walk, batches = self._begin(self._streaming), None
        for _ in range(walk.steps_left):
            if self._feedback is not None and not walk.ready():
                self._feedback.collector.await_weights(walk.cursor.step)
            try:
                if batches is None:
                    batches = super().__iter__()  # not before: its workers would wait for these weights
                batch = next(batches)
            except StopIteration:
                break
            if (rows := walk.advance()) is None:
                break
            self._departures.check(walk.cursor)
            self._cursor, self._handed = walk.cursor, True
            self.num_samples_yielded += self._run.run_plan.batch_size
            if self._feedback is not None:
                self._feedback.collector.drew(rows)
            yield self._tagged(batch, rows)
        else:
            return
        warnings.warn(self._departures.end(self._cursor), stacklevel=2)
        self._ended = True

    def _follow(self) -> None:
        """Notice a state that was loaded into the dataset, or ranks that came to be, since we looked last."""
        dataset = self._streaming
        if dataset is not None and (
            dataset.loads != self._loads or (not self._cursor.step and dataset.run is not self._run)
        ):
            self._adopt(dataset)

    def _begin(self, dataset: StreamingDataset) -> Walk:
        """Return the walk of the epoch that begins now, with the dataset's workers at the same place."""
        self._follow()
        if self._ended:
            raise ExhaustedError(self._departures.end(self._cursor))
        if self._handed and self._cursor.step_in_epoch:  # the last iter() was abandoned
            self._cursor = self._run.walk_to_epoch(self._cursor, self._cursor.epoch + 1)
            self._iterator = None
        self._handed, self.num_samples_yielded = False, 0
        if self._iterator is None:  # else persistent workers stand where we do, at the end of their epoch
            dataset.begin_at(self._cursor)
        if self._loop is not None:  # now, since another loader over the dataset may have been made
            dataset.weights_source = self._loop.weights if self._ring is None else self._ring.get
        if self._ring is not None and self._loop is not None:
            for step in range(self._cursor.step, self._loop.reported + self._loop.lag + 1):
                if (weight_K := self._loop.weights(step)) is not None:
                    self._ring.put(step, weight_K)
        return self._run.walk(self._cursor, self._run.weights(self._loop))

    def _tagged(self, batch: Any, rows: Rows) -> Any:
        self._run.quarantine.publish()
        if not isinstance(batch, dict):
            return batch
        tagged = batch if isinstance(batch, Batch) else Batch(batch)
        tagged.step, tagged.repeats = rows.step, rows.repeats
        tagged.domain = self._run.domains.listed_K[rows.domain_B[self._run.run_plan.part]]
        return tagged

    def state_dict(self) -> dict[str, Any] | None:
        """Return the run's state after the batches handed out; None over another kind of dataset."""
        self._follow()
        if self._feedback is not None:
            self._feedback.collector.drain()
        return None if self._streaming is None else self._run.document(self._cursor, self._loop)

    def load_state_dict(self, obj: Mapping[str, Any], strict: bool = True) -> None:
        """Go on from a state; as `StreamingDataset.load_state_dict`."""
        if self._streaming is not None:
            self._streaming.load_state_dict(obj, strict=strict)
            self._adopt(self._streaming)
