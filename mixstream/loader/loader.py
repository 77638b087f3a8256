"""`Loader`: finished batches, made by threads in the trainer's process.

It owns the background thread, the buffers and the copies to the GPU, and wires the rest. It is deliberately not a torch
DataLoader: trainers pass it through as it is.
"""

from __future__ import annotations

import contextlib
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import torch

from mixstream.data.batch import Batch, collate_samples
from mixstream.data.predownload import Predownloader
from mixstream.errors import ConfigError, ExhaustedError, FeedbackError
from mixstream.loader.dataset import StreamingDataset
from mixstream.loader.describe import Counters, describe
from mixstream.loader.device import BufferPool, DeviceCopy
from mixstream.loader.prefetch import BlockedError, Prefetcher
from mixstream.loader.reports import LossReports
from mixstream.plan.walk import ExhaustionWarnings, Walk
from mixstream.threads import weak_callback
from mixstream.types import Addresses, Cursor, Int64, Rows

_PLANNED_ROWS = 4096  # rows, at least a step's, whose addresses are looked up together
_PLANNED_STEPS = 64  # and no more steps than this, so that small batches do not put off the first


class Loader(LossReports):
    """Iterates over this rank's batches: column -> tensor, plus `"domain"`, and `batch.step`.

    A loader is a position in the run. `for batch in loader` goes on from there to the end of the epoch; the next such
    loop begins the next epoch, or, after a `break`, goes on where the last one stopped. The position counts batches
    handed out, not batches made ahead.

    Args:
        dataset: what to read. A subclass that overrides `__getitem__` or `get_item` is honoured, sample by sample.
        device: where tensors are delivered ("cuda", "cuda:1", …); the CPU if not given.
        prefetch: batches that are kept ready; 0 makes each one when it is asked for.
        collate_fn: list of samples -> batch, for samples that do not stack; slower than gathering.
        widen: deliver uint16 and uint32 columns as int64, which embeddings take; False delivers them as stored.
        log: directory for a log of weights and losses by step, as JSONL and, where it is installed, for TensorBoard.
            Give it on every rank; rank 0 writes.
    """

    sampler = None
    batch_sampler = None

    def __init__(
        self,
        dataset: StreamingDataset,
        *,
        device: str | torch.device | None = None,
        prefetch: int = 4,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        widen: bool = True,
        log: str | Path | None = None,
    ) -> None:
        if prefetch < 0:
            raise ConfigError(f"prefetch must be at least 0 batches, got {prefetch}")
        self.dataset, self.prefetch, self.collate_fn, self.widen = dataset, prefetch, collate_fn, widen
        self.device = torch.device(device or "cpu")
        self.counters = Counters()
        self._source, self._device, self._log = dataset, self.device, Path(log) if log is not None else None
        self._feedback = None
        self._prefetcher: Prefetcher[tuple[Any, Cursor, Rows]] | None = None
        self._adopt()
        self.batch_size, self.drop_last = self.run.run_plan.batch_size, dataset.drop_last
        if self._loop is not None and prefetch > self._loop.lag:
            raise ConfigError(
                f"prefetch={prefetch} batches cannot be ready before the losses that they depend on: the dataset's lag "
                f"is {self._loop.lag} steps; lower prefetch, or give the dataset lag={prefetch} (it changes the run)"
            )
        overridden = any(
            getattr(type(dataset), name) is not getattr(StreamingDataset, name) for name in ("__getitem__", "get_item")
        )
        self._domains = dataset.domains.reopened()
        self._columns = None if overridden or collate_fn else self._domains.columns(widen=widen)
        self._pool = BufferPool(
            pinned=self.device.type == "cuda", kept=(prefetch + 4) * max(len(self._columns or ()), 1)
        )
        self._copy = DeviceCopy(self.device) if self.device.type == "cuda" else None
        self._planned: deque[tuple[Rows, Cursor, Addresses]] = deque()
        self._walk: Walk | None = None

    def _adopt(self) -> None:
        """Take up the dataset's position: the start, or a loaded state."""
        self._stop()
        self.run, self._loads = self.dataset.run, self.dataset.loads
        self._cursor, self._loop = self.dataset.position()
        self._origin = self._cursor
        self._departures, self._ended = ExhaustionWarnings(self.run.plan, self._cursor), False
        self._feedback = self._begin_feedback(self.run, self._loop, self._log, weak_callback(self._wake, None))

    def _follow(self) -> None:
        """Notice a state that was loaded into the dataset, or ranks that came to be, since we looked last."""
        unmoved = self._cursor is self._origin  # once batches were handed out, the position is ours
        if self.dataset.loads != self._loads or (unmoved and self.dataset.run is not self.run):
            self._adopt()

    # --- iteration ------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Return the steps of an epoch."""
        return self.run.plan.steps_per_epoch

    def __iter__(self) -> Iterator[Any]:
        """Yield batches from the loader's position to the end of the running epoch."""
        self._follow()
        if self._ended:
            raise ExhaustedError(self._departures.end(self._cursor))
        epoch = self.run.plan.settle(self._cursor).epoch
        while self.run.plan.settle(self._cursor).epoch == epoch:
            try:
                batch = self._next()
            except StopIteration:
                warnings.warn(self._departures.end(self._cursor), stacklevel=2)
                self._ended = True
                return
            self._departures.check(self._cursor)
            yield batch

    def _next(self) -> Any:
        if self._prefetcher is None:
            self._planned.clear()
            self._walk, self._before = self.run.walk(self._cursor, self.run.weights(self._loop)), self._cursor
            self._reader = self.run.reader(self._domains)
            self._predownloader = Predownloader(
                run_plan=self.run.run_plan, domains=self._domains, ahead=self.dataset.predownload
            )
            self._prefetcher = Prefetcher(weak_callback(self._make, StopIteration()), depth=self.prefetch)
            self._finalizer = weakref.finalize(self, self._prefetcher.close)
        asked = time.perf_counter()
        try:
            batch, self._cursor, rows = self._get(self._prefetcher)
        except FeedbackError:
            raise  # the trainer can make up for it
        except BaseException:
            self._stop()
            raise
        self.run.quarantine.publish()
        if self._feedback is not None:
            self._feedback.collector.drew(rows)
        self.counters.waited += time.perf_counter() - asked
        if self._copy is not None and isinstance(batch, dict):
            self._copy.receive(batch)
        self.counters.batches += 1
        self.counters.rows += self.batch_size
        return batch

    def _get(self, prefetcher: Prefetcher[tuple[Any, Cursor, Rows]]) -> tuple[Any, Cursor, Rows]:
        """Return the next batch, waiting for its weights if they are being worked on."""
        while True:
            with contextlib.suppress(BlockedError):
                return prefetcher.get()
            assert self._feedback is not None
            self._feedback.collector.await_weights(self._cursor.step)
            prefetcher.wake()

    def _wake(self, step: int, weights_K: Int64) -> None:
        """Let the background thread go on, which may have waited for these weights."""
        del step, weights_K
        if (prefetcher := self._prefetcher) is not None:
            prefetcher.wake()

    def _make(self) -> tuple[Any, Cursor, Rows]:
        """Make the next batch; runs in the background thread."""
        if not self._planned:
            self._plan_ahead()
        rows, cursor, at = self._planned.popleft()
        assert self._walk is not None
        self._predownloader.look_ahead(self._before, self._walk.weights)
        self._before, began = cursor, time.perf_counter()
        batch = self._reader.read(rows, slice(None), at, lambda at: self._assemble(rows, at))
        self.counters.gathering += time.perf_counter() - began
        return batch, cursor, rows

    def _plan_ahead(self) -> None:
        assert self._walk is not None
        planned: list[tuple[Rows, Cursor]] = []
        steps = min(-(-_PLANNED_ROWS // self.batch_size), _PLANNED_STEPS)
        blocked = False
        while len(planned) < steps:
            if blocked := not self._walk.ready():
                break
            if (rows := self._walk.advance()) is None:
                break
            planned.append((rows, self._walk.cursor))
        if not planned:
            raise BlockedError if blocked else StopIteration
        run_plan = self.run.run_plan
        found = run_plan.addressing.locate([rows for rows, _ in planned], run_plan.part)
        self._planned.extend((rows, cursor, at) for (rows, cursor), at in zip(planned, found))

    def _assemble(self, rows: Rows, at: Addresses) -> Any:
        batch: Any = None
        if self._columns is not None:
            arrays = self._domains.gather(at, self._columns, self._pool.empty)
            if arrays is not None:
                batch = Batch({name: torch.from_numpy(array) for name, array in arrays.items()})
        if batch is None:
            samples = [self.dataset[number] for number in self.dataset.number(at).tolist()]
            batch = self.collate_fn(samples) if self.collate_fn else collate_samples(samples, widen=self.widen)
        if not isinstance(batch, dict):
            return batch
        batch = batch if isinstance(batch, Batch) else Batch(batch)
        batch.domain = self._domains.listed_K[at.domain_B]
        batch.setdefault("domain", torch.from_numpy(batch.domain))
        batch.step, batch.repeats = rows.step, rows.repeats
        if self._copy is not None:
            batch.update(self._copy.send(batch))
        elif self.device.type != "cpu":
            batch.update({k: v.to(self.device) for k, v in batch.items() if isinstance(v, torch.Tensor)})
        return batch

    # --- position -------------------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Steps handed out since the run began."""
        self._follow()
        return self._cursor.step

    @property
    def epoch(self) -> int:
        """The epoch that the next batch belongs to."""
        self._follow()
        return self.run.plan.settle(self._cursor).epoch

    def set_epoch(self, epoch: int) -> None:
        """Move to the beginning of `epoch`; nothing happens if the next batch belongs to it anyway."""
        if epoch != self.epoch:
            self._stop()
            self._cursor = self.run.walk_to_epoch(self.run.plan.settle(self._cursor), epoch)

    def state_dict(self, num_samples: int | None = None, from_beginning: bool = True) -> dict[str, Any]:
        """Return the run's state after the batches handed out: a small JSON-able dict, the same on every rank.

        The arguments are mosaicml-streaming's and are not used: a loader knows its position.
        """
        del num_samples, from_beginning
        self._follow()
        if self._feedback is not None:
            self._feedback.collector.drain()
        return self.run.document(self._cursor, self._loop)

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Go on from `state`, saved by any rank of a run with any number of ranks, workers or prefetched batches.

        Args:
            state: from `state_dict`.
            strict: refuse a state of another run; False keeps the positions of the domains that are still there.

        Raises:
            StateError: the state does not fit; the message says in what.
        """
        self.dataset.load_state_dict(state, strict=strict)
        self._adopt()

    save_state = state_dict
    restore_state = load_state_dict

    # --- life -----------------------------------------------------------------------------------------------------

    def describe(self) -> str:
        """Return a picture of the run, with numbers: domains, shares, position, waiting."""
        return describe(self.run, self._cursor, self.counters, self.weights)

    def close(self) -> None:
        """End the background threads, after what was reported, and let go of the shards.

        The loader can be iterated again. Close it before `torch.distributed.destroy_process_group()`. Raises what a
        report led to, if nobody was told yet.
        """
        self._stop()
        self._domains.opened.close()
        if self._feedback is not None:
            self._feedback.collector.close()

    def _stop(self) -> None:
        if (prefetcher := self._prefetcher) is None:
            return
        self._prefetcher = None
        with contextlib.ExitStack() as stack:  # Ctrl-C in one of the waits leaves out none of the others
            stack.callback(self._part_from, prefetcher)
            stack.callback(self._finalizer)
            self._predownloader.close()  # first: the prefetcher's thread may be waiting for a shard

    def _part_from(self, prefetcher: Prefetcher[Any]) -> None:
        if prefetcher.alive:  # in a download that stalls: what it has mapped is not ours any more
            self._domains = self._domains.reopened()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is not None and self._feedback is not None:
            self._feedback.end()  # one error is enough
        self.close()

    def __repr__(self) -> str:
        names = ", ".join(self.dataset.domain_names[:4]) + ("…" if len(self.dataset.streams) > 4 else "")
        return f"Loader([{names}], batch_size={self.batch_size}, step={self.step}, device={self.device})"
