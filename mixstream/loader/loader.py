"""`Loader`: finished batches, made by threads in the trainer's process.

It owns the background thread, the buffers and the copies to the GPU, and connects the other parts. It is deliberately
not a torch DataLoader, so trainers use it as it is and do not wrap it.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from mixstream.argument_kinds import checked
from mixstream.arguments import MOST, flag, whole
from mixstream.data.assemble import Assembler, Transform, checked_transforms
from mixstream.data.batch import as_device
from mixstream.data.collate import collate_samples
from mixstream.errors import ConfigError, FeedbackError
from mixstream.lazy import later
from mixstream.loader import composer_calls
from mixstream.loader.batch_maker import BatchMaker, Running
from mixstream.loader.callers import check_place_in_lightning
from mixstream.loader.dataset import StreamingDataset, check_is_dataset, check_iterates_as_planned, overrides
from mixstream.loader.device import IN_FLIGHT, BufferPool, DeviceCopy, delivery, stored_columns
from mixstream.loader.document_options import checked_labels, warn_of_padding
from mixstream.loader.place import Place
from mixstream.loader.prefetch import BlockedError, Prefetcher
from mixstream.loader.reports import LossReports
from mixstream.loader.run import Run
from mixstream.loader.sharing import LoaderLock, SharedIterator
from mixstream.loader.skipping import SkipsSteps
from mixstream.loader.stats import LoaderStats, Work
from mixstream.storage import absolute
from mixstream.threads import weak_callback
from mixstream.types import Cursor, Int64, Rows

if TYPE_CHECKING:
    from mixstream.loader.describe import describe
    from mixstream.loader.document_collate import check_stored_rows
    from mixstream.loader.document_setup import document_masks
    from mixstream.loader.starving import Options
else:
    (describe,) = later("mixstream.loader.describe", "describe")
    (check_stored_rows,) = later("mixstream.loader.document_collate", "check_stored_rows")
    (document_masks,) = later("mixstream.loader.document_setup", "document_masks")
    (Options,) = later("mixstream.loader.starving", "Options")


_CLOSE_TIMEOUT = 10.0  # seconds that `close` waits for another thread that is taking a batch


class Loader(SkipsSteps, LossReports):
    """Iterates over this rank's batches: column -> tensor, plus `"domain"`, and `batch.step`.

    A loader has a position in the run. `for batch in loader` goes on from there to the end of the epoch; the next such
    loop begins the next epoch, or, after a `break`, goes on where the last one stopped. The position counts batches
    handed out, not batches made ahead. Threads and iterators share the position: each batch is handed out once.

    Args:
        dataset: the dataset to read. Overrides of `__getitem__` and `get_item` are called, sample by sample.
        device: the device of the tensors ("cuda", "cuda:1", …); the CPU if not given.
        prefetch: batches that are kept ready; with 0, each is made when it is requested.
        collate_fn: list of samples -> batch, for samples that do not stack; slower than gathering.
        widen: return uint16 and uint32 columns as int64, which embeddings accept; False returns them as stored.
        transforms: functions from a batch to a batch with the same rows, applied one after the other in the background
            thread, before the batch is copied to the device.
        log: directory for a log of weights and losses by step, as JSONL and, where it is installed, for TensorBoard.
            Give it on every rank; rank 0 writes.
        documents: mark documents: batches have the columns `position_ids` (int64 [B, S], from 0 in each row and each
            document), `document_ids` (int32 [B, S], numbers within the row, -1 for padding), `cu_seqlens` (int32, the
            ends of all segments of the joined rows), `max_seqlen` (int) and `labels` (int64 [B, S]).
        labels: "unshifted" (the tokens, -100 for the first of each document; the model shifts them) or "shifted" (the
            next tokens, -100 for the last of each document). Padding and tokens whose `loss_mask` is 0 are -100 too.
    """

    sampler = None
    batch_sampler = None

    @checked
    def __init__(
        self,
        dataset: StreamingDataset,
        *,
        device: str | torch.device | None = None,
        prefetch: int = 4,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        widen: bool = True,
        log: str | Path | None = None,
        transforms: Sequence[Transform] = (),
        documents: bool = False,
        labels: str | None = None,
    ) -> None:
        check_is_dataset(dataset)
        check_iterates_as_planned(dataset, "mixstream.Loader")
        prefetch, widen = whole("prefetch", prefetch, least=0, of="batches"), flag("widen", widen)
        self.dataset, self.prefetch, self.collate_fn, self.widen = dataset, prefetch, collate_fn, widen
        self.device = self._device = as_device("device", "cpu" if device is None else device)
        self._work, self.transforms = Work(depth=prefetch), checked_transforms(transforms)
        self.documents, self.labels = flag("documents", documents), labels
        checked_labels(labels, documents=self.documents)
        self._source = dataset
        self._log = Path(absolute(log, "log")) if log is not None else None
        self._running: Running | None = None
        self._lock, self._moves = LoaderLock(), 0  # how often the position was set
        self._place = self._begin(None)
        self.batch_size, self.drop_last = self.run.run_plan.batch_size, dataset.drop_last
        if (loop := self._place.loop) is not None and prefetch > loop.lag:
            raise ConfigError(
                f"prefetch={prefetch} batches cannot be ready before the losses that they depend on: the dataset's lag "
                f"is {loop.lag} steps; lower prefetch, or give the dataset lag={prefetch} (it changes the run)"
            )
        self._domains = dataset.domains.reopened()
        if self.documents:
            check_stored_rows(dataset)
        else:
            warn_of_padding(self._domains)
        self._masks = document_masks(self._domains, labels=labels) if self.documents else None
        self._columns = None if overrides(dataset) or collate_fn else self._domains.columns(widen=widen)
        self._pool = BufferPool(
            pinned=self.device.type == "cuda",
            kept=(prefetch + 4) * max(len(self._columns or ()) + 4 * self.documents, 1),
        )
        self._copy = self._device_copy() if self.device.type == "cuda" else None

    def _device_copy(self) -> DeviceCopy:
        unseen = self._columns is not None and not self.transforms  # by other code, before they are on the device
        widens = unseen and self.widen and not self.documents
        self._columns = stored_columns(self._domains) if widens else self._columns
        return DeviceCopy(self.device, widen=widens, in_flight=IN_FLIGHT if unseen else 0)

    def _begin(self, previous: Place | None) -> Place:
        """Return the place of the dataset's position: the start, or a state that was loaded."""
        self._stop()
        self._moves += 1
        wake = weak_callback(self._wake, None)
        return Place(self.dataset, loader="mixstream.Loader", publish=wake, log=self._log, previous=previous)

    def _drop_ahead(self) -> None:
        """Drop the batches that are made ahead, of which some may be left out."""
        self._stop()
        self._moves += 1

    def _current(self) -> Place:
        """Return the place, from the dataset's position on if that has changed."""
        if self._place.is_outdated(self.dataset):
            with self._lock:
                if self._place.is_outdated(self.dataset):
                    self._place = self._begin(self._place)
        return self._place

    @property
    def run(self) -> Run:
        """The run whose batches are handed out."""
        return self._place.run

    # --- iteration ------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Return the steps of an epoch."""
        return self.run.plan.steps_per_epoch

    def __iter__(self) -> Iterator[Any]:
        """Yield batches from the loader's position to the end of the running epoch.

        Raises:
            ConfigError: Composer looks for its place in the data, without `mixstream.integrations.composer.MixState`.
        """
        composer_calls.check_not_spun()
        return SharedIterator(self._batches(self.epoch, self._moves), self._lock)

    def _batches(self, epoch: int, moves: int) -> Iterator[Any]:
        self._current().check_not_ended()
        if self._moves != moves:  # between iter() and the first batch
            epoch = self.epoch
        while self.epoch == epoch:
            try:
                batch = self._next()
            except StopIteration:
                warnings.warn(self._place.end(), stacklevel=3)
                return
            self._place.exhaustion.check(self._place.cursor)
            if self.documents:
                composer_calls.check_not_cut(batch)
            yield batch

    def _next(self) -> Any:
        asked = time.perf_counter()
        if self._place.is_at_skip:
            self._stop()  # it has no batches beyond
            self._place.pass_skipped()
        running = self._running or self._start()
        self._work.ask(asked, running.prefetcher.ready)
        try:
            batch, cursor, rows = self._get(running.prefetcher)
            batch = batch if self._copy is None else self._copy.receive(batch)
        except FeedbackError:
            raise  # the trainer may report what is missing, and go on
        except BaseException:
            self._stop()
            raise
        self.run.quarantine.publish()
        self._place.hand_out(rows, cursor)
        self._work.take(self.batch_size if rows.part is None else rows.part.stop - rows.part.start)
        return batch

    def _start(self) -> Running:
        """Start to make batches from the loader's position on."""
        check_place_in_lightning(at_start=not self.dataset.loads and self._place.is_at_start)
        dataset, collate = self.dataset, self.collate_fn or partial(collate_samples, widen=self.widen)
        dataset.read_by, meter = "mixstream.Loader", self._work.begin()
        maker = BatchMaker(
            run=self.run,
            cursor=self._place.cursor,
            weights=self.run.weights(self._place.loop),
            skips=self._place.skips,
            assembler=Assembler(
                domains=self._domains,
                columns=self._columns,
                alloc=self._pool.empty,
                samples=dataset.samples_at,
                collate=collate,
                transforms=self.transforms,
                documents=self._masks,
            ),
            deliver=delivery(self.device, self._copy),
            ahead=dataset.predownload,
            meter=meter,
            joins=self.prefetch > 0,
        )
        running = self._running = Running.begin(maker, depth=self.prefetch, meter=meter, owner=self)
        return running

    def _get(self, prefetcher: Prefetcher[tuple[Any, Cursor, Rows]]) -> tuple[Any, Cursor, Rows]:
        """Return the next batch; wait for its weights if they are being computed."""
        while True:
            try:
                return prefetcher.get()
            except BlockedError:
                pass  # what is raised below is not raised "during the handling" of it
            assert self._place.session is not None
            self._place.session.collector.await_weights(self._place.cursor.step)
            prefetcher.wake()

    def _wake(self, step: int, weights_K: Int64) -> None:
        """Wake the background thread, which may wait for these weights."""
        del step, weights_K
        if (running := self._running) is not None:
            running.prefetcher.wake()

    # --- position -------------------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Steps handed out since the run began, and those that were passed since they are left out."""
        return self._current().cursor.step

    @property
    def epoch(self) -> int:
        """The epoch that the next batch belongs to."""
        return self._current().epoch

    def set_epoch(self, epoch: int) -> None:
        """Move to the beginning of `epoch`; do nothing if the next batch belongs to it.

        Raises:
            ConfigError: `epoch` is not a whole number of at least 0.
        """
        epoch = whole("epoch", epoch, least=0, most=MOST)
        with self._lock:
            if epoch != self.epoch:
                self._stop()
                self._moves += 1
                self._place.begin_epoch(epoch)

    def state_dict(self, num_samples: int | None = None, from_beginning: bool = True) -> dict[str, Any]:
        """Return the run's state after the batches handed out: a small JSON-able dict, the same on every rank.

        The arguments are those of mosaicml-streaming. They are ignored, since a loader knows its position.
        """
        del num_samples, from_beginning
        return self._current().document()

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Go on from `state`, saved by any rank of a run with any number of ranks, workers or prefetched batches.

        Args:
            state: from `state_dict`.
            strict: refuse a state of another run; False keeps the positions of the domains that are still there.

        Raises:
            StateError: the state does not fit; the message says why.
        """
        self.dataset.check_between_steps(state, "mixstream.Loader")
        with self._lock:
            self.dataset.load_state_dict(state, strict=strict)
            self._place = self._begin(self._place)

    save_state, restore_state = state_dict, load_state_dict

    # --- life -----------------------------------------------------------------------------------------------------

    def stats(self) -> LoaderStats:
        """Return what the loader has done so far, and where its time went; the difference of two is a window."""
        running = self._running
        return self._work.stats(ready=running.prefetcher.ready if running is not None else 0)

    def describe(self) -> str:
        """Return a picture of the run, with numbers: domains, shares, position, and which stage starves the trainer."""
        options = Options.of(self.dataset, collate_fn=self.collate_fn, widen=self.widen, lag=self.run.run_plan.lag)
        return describe(self.run, self._place.cursor, self.stats(), self.weights, self._place.skips, options=options)

    def close(self) -> None:
        """End the background threads, after all reports are processed, and unmap the shards.

        The loader can be iterated again. Close it before `torch.distributed.destroy_process_group()`. Raises the error
        of a report, if it was not raised yet. Another thread that waits for a batch receives a `ClosedError`.
        """
        if not self._lock.here:
            return  # in a forked child: the threads and the log are its parent's
        self._stop()  # a thread that waits for a batch releases the lock
        with self._lock.within(_CLOSE_TIMEOUT) as held:
            self._stop()
            if held:
                self._domains.opened.close()
            else:  # another thread is in a stalled download: leave it the shards that it has mapped
                self._domains = self._domains.reopened()
        if self._place.session is not None:
            self._place.session.collector.close()

    def _stop(self) -> None:
        if (running := self._running) is None:
            return
        self._running = None
        try:
            running.end()
        finally:
            self._work.end()
            if running.prefetcher.alive:  # in a stalled download: leave it the shards that it has mapped
                self._domains = self._domains.reopened()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is not None and self._place.session is not None:
            self._place.session.end()  # without a second error
        self.close()

    def __repr__(self) -> str:
        names = ", ".join(self.dataset.domain_names[:4]) + ("…" if len(self.dataset.streams) > 4 else "")
        return f"Loader([{names}], batch_size={self.batch_size}, step={self.step}, device={self.device})"
