"""`StreamingDataLoader`: a torch DataLoader that keeps its position, so that it can be saved and take reports."""

import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from mixstream.argument_kinds import checked
from mixstream.arguments import MOST, flag, shown, whole
from mixstream.data.assemble import Transform, checked_transforms, finish
from mixstream.data.collate import collate_samples
from mixstream.distributed import detect_world
from mixstream.errors import ClosedError, ConfigError
from mixstream.loader import composer_calls
from mixstream.loader.dataset import StreamingDataset, check_iterates_as_planned
from mixstream.loader.document_collate import marking_documents
from mixstream.loader.document_options import checked_labels, warn_of_padding
from mixstream.loader.place import Place
from mixstream.loader.reports import LossReports
from mixstream.loader.run import Run
from mixstream.loader.sharing import LoaderLock, SharedIterator
from mixstream.loader.skipping import SkipsSteps
from mixstream.loader.torch_options import torch_options
from mixstream.loader.worker_stats import CountsWorkers
from mixstream.loader.workers import WeightRing, watched
from mixstream.metering import IDLE, PLAN, TRANSFORM
from mixstream.plan.walk import Walk
from mixstream.storage import absolute
from mixstream.types import Rows


class StreamingDataLoader(SkipsSteps, LossReports, CountsWorkers, DataLoader[Any]):
    """A torch DataLoader over a `StreamingDataset`, with its arguments.

    The position counts batches handed out, not batches that workers have made ahead. Each `iter()` begins an epoch: the
    next one if the last `iter()` handed out a batch, the same one otherwise. It ends earlier iterators of this loader,
    which raise `ClosedError`; threads may share one iterator. Batches that are dicts have a column `domain` (int64 [B],
    in the order of `streams`) and the attributes `step`, `domain` and `repeats` of `Batch`.

    Args:
        dataset: the dataset to read. Its `batch_size` must be this loader's; either is taken from the other if not
            given.
        args: as for torch's DataLoader.
        log: directory for a log of weights and losses by step, as JSONL and, where it is installed, for TensorBoard.
            Give it on every rank; rank 0 writes.
        transforms: functions from a batch to a batch with the same rows, applied one after the other in this process.
        documents: mark documents, as for `Loader`; workers do it. A `collate_fn` may pad rows on the right.
        labels: as for `Loader`.
        kwargs: as for torch's DataLoader. `collate_fn` defaults to torch's, with uint16 and uint32 widened to int64.
    """

    @checked
    def __init__(
        self,
        dataset: StreamingDataset,
        *args: Any,
        log: str | Path | None = None,
        transforms: Sequence[Transform] = (),
        documents: bool = False,
        labels: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.documents, self.labels = flag("documents", documents), labels
        checked_labels(labels, documents=self.documents)
        if not (isinstance(dataset, IterableDataset) or hasattr(type(dataset), "__getitem__")):
            raise ConfigError(f"`dataset` is a StreamingDataset or another dataset of torch, got {shown(dataset)}")
        kwargs |= torch_options(kwargs)
        if args and args[0] is not None:
            args = (whole("batch_size", args[0], least=1, most=MOST), *args[1:])
        if isinstance(dataset, StreamingDataset) and kwargs.get("collate_fn") is None and len(args) < 6:
            kwargs["collate_fn"] = collate_samples
        if self.documents:
            args, kwargs = marking_documents(dataset, args, kwargs, labels)
        elif isinstance(dataset, StreamingDataset):
            warn_of_padding(dataset.domains)
        if isinstance(dataset, StreamingDataset) and not args and dataset.batch_size is not None:
            kwargs.setdefault("batch_size", dataset.batch_size)
        super().__init__(dataset, *args, **kwargs)
        self.num_samples_yielded, self.transforms = 0, checked_transforms(transforms)
        self._source = dataset if isinstance(dataset, StreamingDataset) else None
        self._device, self._log = None, Path(absolute(log, "log")) if log is not None else None
        self._place: Place | None = None  # as over another kind of dataset
        self._ring: WeightRing | None = None
        self._lock = LoaderLock()
        self._handed = False  # whether the last iter() has handed out a batch
        self._crossed: int | None = None  # samples of the last iter()'s epoch, if it ended since the rest is left out
        self._begin_counting()
        if self._source is None:
            return
        self._check_agreed(dataset)
        if self.drop_last and not dataset.drop_last:
            dataset.drop_last = True
            dataset.forget_run()
        self._begin(dataset)

    def _check_agreed(self, dataset: StreamingDataset) -> None:
        """Check that this loader hands out the batches of the dataset's plan, in their order.

        Raises:
            ConfigError: it does not.
        """
        check_iterates_as_planned(dataset, "mixstream.StreamingDataLoader")
        if self.num_workers and not getattr(self, "in_order", True):  # torch has it from 2.6 on
            raise ConfigError(
                "in_order=False hands out the batches of quick workers first, and the plan says by their order which "
                "step and domains they are: reports and states would be of other rows; leave in_order=True"
            )
        if dataset.batch_size is None:
            dataset.batch_size = self.batch_size
        if dataset.batch_size != self.batch_size:
            raise ConfigError(
                f"batch_size={self.batch_size} here and {dataset.batch_size} on the dataset: the plan consists of "
                "global batches, so give both the same"
            )

    @property
    def _is_accelerate_prepared(self) -> bool:
        """Whether accelerate passes the loader through `prepare`: its dataset divides rows among all processes."""
        if self._source is None:
            return False
        world = self._source.run.run_plan.world
        return world.size * world.replicas == detect_world().size

    @_is_accelerate_prepared.setter
    def _is_accelerate_prepared(self, prepared: bool) -> None:
        """Accelerate sets it where it has prepared the loader, which changes nothing."""

    def _begin(self, dataset: StreamingDataset) -> Place:
        """Begin at the dataset's position: the start, or a state that was loaded."""
        self._handed, self._crossed, self._iterator = False, None, None
        dataset.saver = weakref.ref(self)
        loop = dataset.position.found[1]
        self._ring = self._weight_ring(dataset, loop.lag) if loop is not None else None
        publish = self._ring.put if self._ring is not None else lambda step, weights_K: None
        name = "mixstream.StreamingDataLoader"
        place = self._place = Place(dataset, loader=name, publish=publish, log=self._log, previous=self._place)
        return place

    def _weight_ring(self, dataset: StreamingDataset, lag: int) -> WeightRing | None:
        """Return a ring by which workers receive the weights of later steps; None if there are no workers.

        Raises:
            ConfigError: workers would make batches before their weights are known.
        """
        ahead = self.num_workers * (self.prefetch_factor or 0)
        if ahead > lag:
            raise ConfigError(
                f"{self.num_workers} workers x prefetch_factor {self.prefetch_factor} fetch {ahead} batches ahead, "
                f"more than the lag of {lag} steps between losses and the batches that they shape: lower "
                f"them, or give the dataset lag={ahead} (it changes the run)"
            )
        return WeightRing(domains=len(dataset.streams), lag=lag) if self.num_workers else None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Begin an epoch."""
        return super().__iter__() if self._source is None else SharedIterator(self._batches(), self._lock, alone=True)

    def _batches(self) -> Iterator[Any]:
        assert self._source is not None
        place = self._current()
        assert place is not None
        try:
            walk, batches = self._begin_epoch(self._source, place), None
        except StopIteration:  # within steps that are left out
            warnings.warn(place.end(), stacklevel=3)
            return
        epoch = walk.cursor.epoch
        while walk.cursor.epoch == epoch:
            self._check_in_use(self._source, place)
            if place.is_at_skip:
                batches = None
                try:
                    following = self._pass_skipped(self._source, place, epoch)
                except StopIteration:
                    break
                if following is None:
                    return
                walk = following
            with self._waiting(is_first=batches is None) as enter:
                place.await_weights(walk)
                enter(IDLE)  # unless batches are made in this thread, which turns the clock then
                try:
                    if batches is None:  # not before, since its workers would wait for these weights
                        self._source.worker_meters = self._worker_meters  # for these workers, and no other loader's
                        try:
                            batches = watched(super().__iter__())
                        finally:
                            self._source.worker_meters = None
                    batch = next(batches)
                except StopIteration:
                    break
                enter(PLAN)
                if (rows := walk.advance()) is None:
                    break
                enter(TRANSFORM)
                tagged = self._tagged(batch, place.run, rows)  # before it counts: a transform may raise
                if self.documents:
                    composer_calls.check_not_cut(tagged)
            place.exhaustion.check(walk.cursor)
            place.hand_out(rows, walk.cursor)
            self._handed = True
            mine = rows.part or place.run.run_plan.part
            self.num_samples_yielded += mine.stop - mine.start
            self._work.take(mine.stop - mine.start)
            yield tagged
        else:
            return
        warnings.warn(place.end(), stacklevel=3)

    def _check_in_use(self, dataset: StreamingDataset, place: Place) -> None:
        """Check that an iterator from `place` on is not ended by a state that was loaded.

        Raises:
            ClosedError: it is.
        """
        if place is not self._place or place.is_outdated(dataset):
            raise ClosedError(
                "a state was loaded while this iterator of the StreamingDataLoader was in use, and its batches are "
                "those before it: call iter() again after load_state_dict"
            )

    def _current(self) -> Place | None:
        """Return the place, from the dataset's position on if that has changed; None over another dataset."""
        dataset, place = self._source, self._place
        if dataset is None or place is None or not place.is_outdated(dataset):
            return place
        with self._lock:
            return self._begin(dataset) if place is self._place else self._place

    def _begin_epoch(self, dataset: StreamingDataset, place: Place) -> Walk:
        """Return the walk of the next epoch, and let the dataset, also in its workers, begin at the same place."""
        place.check_not_ended()
        abandoned, following = self._following(place)
        composer_calls.check_epoch(following, again=abandoned)
        if abandoned:
            place.cursor = place.run.walk_to_epoch(place.cursor, place.cursor.epoch + 1)
            self._iterator = None
        if place.is_at_skip:
            place.pass_skipped()
            self._iterator = None
        self._handed, self._crossed, self.num_samples_yielded = False, None, 0
        return self._begin_at(dataset, place)

    def _following(self, place: Place) -> tuple[bool, int]:
        """Return whether the last `iter()` has left its epoch in the middle, and the epoch that the next one begins."""
        settled = place.run.plan.settle(place.cursor)
        abandoned = self._handed and self._crossed is None and bool(settled.step_in_epoch)
        return abandoned, settled.epoch + 1 if abandoned else place.epoch

    def _pass_skipped(self, dataset: StreamingDataset, place: Place, epoch: int) -> Walk | None:
        """Pass steps that are left out, and begin behind them as `_begin_at`; None if the `epoch` is over there."""
        samples = self._handed_out(place)
        place.pass_skipped()
        self._iterator = None  # workers have made batches of these steps
        if place.run.plan.settle(place.cursor).epoch == epoch:
            return self._begin_at(dataset, place)
        self._crossed = samples
        return None

    def _handed_out(self, place: Place) -> int:
        """Return the samples of the running epoch that were handed out, over all ranks."""
        cursor = place.cursor
        left_out = place.skips.count(cursor.step - cursor.step_in_epoch, cursor.step)
        return (cursor.step_in_epoch - left_out) * place.run.run_plan.plan.global_batch_size

    def _begin_at(self, dataset: StreamingDataset, place: Place) -> Walk:
        """Let the dataset, also in its workers, begin at `place`; return the walk from there."""
        run, loop = place.run, place.loop
        dataset.first_step = place.skips.after(0)
        if self._iterator is None:  # persistent workers are at this place already, at the end of their epoch
            dataset.begin_at(place.cursor)
        if loop is not None:  # at every epoch, since the dataset may have another loader
            dataset.weights_source = loop.weights if self._ring is None else self._ring.get
        if self._ring is not None and loop is not None:
            for step in range(place.cursor.step, loop.known):
                if (weight_K := loop.weights(step)) is not None:
                    self._ring.put(step, weight_K)
        return run.walk(place.cursor, run.weights(loop))

    def _tagged(self, batch: Any, run: Run, rows: Rows) -> Any:
        run.quarantine.publish()
        domain_B = run.domains.listed_K[rows.domain_B[run.run_plan.part if rows.part is None else rows.part]]
        return finish(batch, domain_B=domain_B, step=rows.step, repeats=rows.repeats, transforms=self.transforms)

    def _get_batch_size(self, batch: Any) -> int:
        """Return how many samples a batch has: of a mapping, those of its first value.

        Raises:
            ConfigError: a mapping without values.
        """
        if isinstance(batch, Mapping):  # transformers' BatchEncoding and BatchFeature are mappings too
            for value in batch.values():
                return len(value)
            raise ConfigError("Batch is empty: it has no columns, so its samples cannot be counted")
        return len(batch) if isinstance(batch, Tensor) else len(batch[0])

    def set_epoch(self, epoch: int) -> None:
        """Let the next `iter()` begin at the beginning of `epoch`; do nothing if it goes on in it anyway.

        Raises:
            ConfigError: `epoch` is not a whole number of at least 0.
        """
        epoch = whole("epoch", epoch, least=0, most=MOST)
        with self._lock:
            if (place := self._current()) is not None and epoch != self._following(place)[1]:
                place.begin_epoch(epoch)
                self._handed, self._crossed, self._iterator = False, None, None

    def state_dict(self) -> dict[str, Any] | None:
        """Return the run's state after the batches handed out; None over another kind of dataset."""
        place = self._current()
        return None if place is None else place.document()

    def state_after(self, num_samples: int, *, begun: bool) -> dict[str, Any] | None:
        """Return the state if `num_samples` is what was handed out of the running epoch, over all ranks; else None.

        Between two epochs, that is all of the last one or 0: Composer, which asks the dataset, means the end by 0.

        Args:
            num_samples: as for `StreamingDataset.state_dict`.
            begun: whether the dataset was iterated; if not by this loader, it does not know.
        """
        if (place := self._current()) is None or (begun and not self._handed):
            return None
        if self._crossed is not None:
            return place.document() if num_samples in (0, self._crossed) else None
        step, steps = place.cursor.step_in_epoch, place.run.plan.steps_per_epoch
        handed_out = {self._handed_out(place)}
        if self._handed and step in (0, steps):
            left_out = place.skips.count(place.cursor.step - steps, place.cursor.step)
            handed_out |= {0, (steps - left_out) * place.run.run_plan.plan.global_batch_size}
        return place.document() if num_samples in handed_out else None

    def load_state_dict(self, obj: Mapping[str, Any], strict: bool = True) -> None:
        """Go on from a state; as `StreamingDataset.load_state_dict`."""
        if self._source is not None:
            self._source.check_between_steps(obj, "mixstream.StreamingDataLoader")
            with self._lock:
                self._source.load_state_dict(obj, strict=strict)
                self._begin(self._source)
