"""The `order.Order` of mosaicml-streaming: which epochs have begun, here and in workers, and their samples.

Rules. An `iter()` begins the next epoch, as there, also if the last one was abandoned; a loaded state is where the
first `iter()` after it begins. The settings in a state (canonical nodes, seed, nodes at the beginning) hold for all
later epochs. Each DataLoader worker yields its own part of its rank's samples, in batches of the `batch_size` of the
dataset, whatever that of the DataLoader is.

Shape suffixes: Q batches of this worker, B samples of a batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from torch.utils.data import get_worker_info

from mixstream.arguments import MOST, whole
from mixstream.data.bad_samples import Quarantine
from mixstream.data.predownload import Predownloader
from mixstream.errors import ConfigError
from mixstream.inherited_file import InheritedFile
from mixstream.loader import composer_calls
from mixstream.loader.callers import check_place_in_lightning, fetching
from mixstream.loader.mosaic_order.origin import Origin
from mixstream.loader.mosaic_order.run import MosaicPosition, MosaicRun, shards_of
from mixstream.loader.mosaic_order.setup import run_plan_of
from mixstream.loader.mosaic_order.shared_epoch import SharedEpoch
from mixstream.loader.row_server import RowServer
from mixstream.loader.workers import EpochClaims
from mixstream.plan.mosaic.forecast import EpochForecast
from mixstream.plan.mosaic.state import MosaicState
from mixstream.plan.mosaic.steps import MosaicCursor
from mixstream.plan.mosaic.weights import StreamShares
from mixstream.records import dataclass
from mixstream.types import Cursor, Int64, Rows
from mixstream.world import World

_SURE_BATCHES = 256
"""A worker that comes to the end of more batches than torch prefetches shows that some of them were taken."""


@dataclass(frozen=True, slots=True)
class _Begun:
    """An epoch that has begun in this process.

    Attributes:
        run: the run.
        claim: its number among the epochs since the run began or a state was loaded.
        epoch: its number.
        read: samples of it, over all ranks, that were read before.
    """

    run: MosaicRun
    claim: int
    epoch: int
    read: int


class MosaicOrder:
    """The `order.Order` of a `StreamingDataset(order="mosaic")`.

    Args:
        dataset: the dataset; it is not kept.
        shares: what an epoch takes from each stream.
    """

    def __init__(self, dataset: Any, shares: StreamShares) -> None:
        self._shares = shares
        self._canonical_nodes, self._seed = dataset.num_canonical_nodes, dataset.shuffle_seed
        self._origin = Origin()
        self._state: MosaicState | None = None  # the newest that was loaded
        self._untouched = False  # whether nothing has begun since it was loaded
        self._claims, self._shared, self._ends = EpochClaims(), SharedEpoch(), InheritedFile(16)
        self._quarantine = Quarantine(dataset.domains)  # stays empty
        self._world: World | None = None
        self._position: MosaicPosition | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_position": None}  # its tables are O(samples), and a worker needs its own part only

    # --- the run --------------------------------------------------------------------------------------------------

    def world(self, dataset: Any) -> World:
        """Return the ranks that there are now; a worker has those that its parent knew of."""
        if self._world is None or get_worker_info() is None:
            world = dataset.ranks()
            if world != self._world:
                self._world, self._position = world, None
        assert self._world is not None
        return self._world

    def position(self, dataset: Any) -> MosaicPosition:
        """Return where the run goes on, for these ranks."""
        world = self.world(dataset)
        if self._position is None:
            self._position = self._position_of(dataset, world, self._origin, self._state)
            epochs = self._position.run.run_plan.epochs
            dataset.num_canonical_nodes, dataset.shuffle_seed = epochs.num_canonical_nodes, epochs.shuffle_seed
        return self._position

    def forget_run(self) -> None:
        """Let the run be assembled again, because an option that it depends on has changed."""
        self._position = None

    def _position_of(self, dataset: Any, world: World, origin: Origin, state: MosaicState | None) -> MosaicPosition:
        nodes, seed = self._canonical_nodes, self._seed
        run = MosaicRun(
            run_plan=run_plan_of(
                dataset, self._shares, world, num_canonical_nodes=nodes, shuffle_seed=seed, state=state
            ),
            domains=dataset.domains,
            on_bad_sample=dataset.on_bad_sample,
            quarantine=self._quarantine,
        )
        return MosaicPosition(run, lambda: run.plan.at(*origin.find(run.run_plan)))

    # --- iteration ------------------------------------------------------------------------------------------------

    def check_begins(self, dataset: Any) -> None:
        """Return; a plain DataLoader can read this order, since nothing learns in it."""

    def begin(self, dataset: Any) -> _Begun:
        """Begin the next epoch in this process."""
        claim, self._untouched = self._claims.claim(), False
        run = self.position(dataset).run
        first, read = self._origin.find(run.run_plan)
        composer_calls.check_claim(claim, first + claim, begun_here=self._claims.begun)
        if claim == 1 and read and not dataset.loader and not self._ended(0):
            _warn_of_abandoned(first)
        return _Begun(run, claim, first + claim, 0 if claim else read)

    def samples(self, dataset: Any, begun: _Begun | None) -> Iterator[Any]:
        """Yield this worker's samples of an epoch that has begun; None begins the next one at the first sample."""
        here = begun or self.begin(dataset)
        run, info = here.run, get_worker_info()
        at_start = not (dataset.loads or here.epoch or here.read)
        check_place_in_lightning(at_start=at_start, at_end=run.plan.is_over(here.read))
        check = None
        if not dataset.loader and not here.claim and (info is None or not info.id):
            check = dataset.begin_check(run, lambda: run.facts_at(here.epoch, here.read))
        ids_QB, how = self._part(here, drop_last=dataset.drop_last), fetching()
        forecast = EpochForecast(_Coming(run, ids_QB))
        with closing(
            Predownloader(run_plan=run.run_plan, domains=dataset.domains, ahead=dataset.predownload, forecast=forecast)
        ) as predownloader:
            samples = _read(dataset, here, ids_QB, predownloader, dataset.serving(run, how))
            yield from samples if check is None else check.watch(samples, rows=run.run_plan.batch_size)
        self._note_end(here.claim, len(ids_QB))

    def _part(self, here: _Begun, *, drop_last: bool) -> Int64:
        """Return this worker's samples of an epoch, int64 [Q, B]; -1 behind those of a short batch."""
        info, run_plan, plan = get_worker_info(), here.run.run_plan, here.run.plan
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        if plan.is_over(here.read):
            return np.empty((0, run_plan.batch_size), dtype=np.int64)

        def of_rank() -> Int64:
            world = replace(run_plan.topology, workers_per_rank=workers)
            work = run_plan.epochs.work(world, epoch=here.epoch, sample_in_epoch=here.read)
            return work[world.node, world.rank_of_node]

        key = here.epoch, here.read, workers
        ids_QB = of_rank()[0] if info is None else self._shared.part(key, worker, of_rank)
        there_QB = ids_QB >= 0
        ids_QB = ids_QB[there_QB.all(axis=1) if drop_last else there_QB.any(axis=1)]
        if not here.read and not worker:
            plan.check_not_empty(len(ids_QB))
        return ids_QB

    def _note_end(self, claim: int, batches: int) -> None:
        """Note that this process has yielded all samples of the epoch of `claim`."""
        data = np.array([claim + 1], dtype=np.int64).tobytes()
        self._ends.write(data)
        if get_worker_info() is None or batches >= _SURE_BATCHES:
            self._ends.write(data, 8)

    def _ended(self, claim: int, *, sure: bool = False) -> bool:
        """Return whether the epoch of `claim` has ended; `sure`: not only in what workers have fetched ahead."""
        return int.from_bytes(self._ends.read(8, 8 if sure else 0), "little") == claim + 1

    def begin_at(self, dataset: Any, cursor: MosaicCursor) -> None:
        """Let the next `iter()` begin at `cursor`; workers of earlier iterators go on with theirs."""
        self._move(Origin(cursor.epoch, self.position(dataset).run.plan.samples_read(cursor)))

    def _move(self, origin: Origin) -> None:
        self._origin, self._untouched = origin, False
        self._claims = EpochClaims()
        self._ends.write(bytes(16))

    def next_epoch(self, dataset: Any) -> int:
        """Return the epoch that the next `iter()` begins."""
        del dataset
        return self._origin.epoch + self._claims.count

    def begin_epoch(self, dataset: Any, epoch: int) -> None:
        """Let the next `iter()` begin `epoch`, from its beginning; loaders take it for a state that was loaded."""
        self._claims.end()
        self._move(Origin(epoch))
        self._position = None
        dataset.note_load()

    # --- state ----------------------------------------------------------------------------------------------------

    def state_dict(self, dataset: Any, num_samples: int | None, *, from_beginning: bool) -> dict[str, Any]:
        """Return the state after `num_samples` samples of the running epoch, over all ranks.

        Before the first `iter()`, its epoch is -1, or that of the state that was loaded.

        Raises:
            ConfigError: the samples are not given, or a `Loader` counts them.
        """
        dataset.check_keeps_position()
        if num_samples is None or get_worker_info() is not None:
            raise ConfigError(
                'a dataset with order="mosaic" does not know which of its samples have reached the trainer: pass '
                "num_samples=, the samples of this epoch over all ranks; or save state_dict() of mixstream.Loader or "
                "mixstream.StreamingDataLoader (torchdata's StatefulDataLoader cannot save this order)"
            )
        read = whole("num_samples", num_samples, least=0, most=MOST, of="samples")
        run, claims = self.position(dataset).run, self._claims.count
        if self._untouched and not claims and (state := self._state) is not None:
            nodes = state.initial_physical_nodes or run.run_plan.topology.num_nodes
            read += 0 if from_beginning else state.sample_in_epoch
            return replace(state, sample_in_epoch=read, initial_physical_nodes=nodes).document()
        first, begun = self._origin.find(run.run_plan)
        epoch = first + claims - 1
        over = composer_calls.between_epochs() or self._ended(claims - 1, sure=True) if claims else False
        if from_beginning and not read and over:
            epoch += 1  # the trainer counts from 0 again: this epoch is over (Composer saves so at an epoch's end)
        read += begun if claims == 1 and not from_beginning else 0
        return run.state(epoch, read).document()

    def load_state_dict(self, dataset: Any, state: Mapping[str, Any], *, strict: bool) -> None:
        """Go on from a state, saved here or by mosaicml-streaming.

        Under a loader, it is checked here; else by the next `iter()`, since only then the ranks are known.

        Raises:
            StateError: it has another form, or does not fit.
            ConfigError: this is a DataLoader worker.
        """
        parsed = MosaicState.parse(state)
        if get_worker_info() is not None:
            raise ConfigError(
                'order="mosaic" has no state of a single DataLoader worker: load the state in the main process, into '
                "the dataset or a mixstream loader"
            )
        origin = Origin(state=parsed, strict=strict)
        position = None
        if dataset.loader:
            position = self._position_of(dataset, self.world(dataset), origin, parsed)
            _ = position.cursor  # refuses the state before anything has changed
        self._claims.end()
        self._move(origin)
        self._state, self._untouched, self._position = parsed, True, position
        dataset.note_load()

    def check_between_steps(self, state: Mapping[str, Any], loader: str) -> None:
        """Return; these states lie between steps."""

    # --- epochs in numbers ----------------------------------------------------------------------------------------

    def samples_per_rank(self, dataset: Any, *, filled: bool) -> int:
        """Return the samples of an epoch for each rank; batches may need a few more, or drop some, as there."""
        del filled
        return -(-self._shares.epoch_size // self.position(dataset).run.run_plan.topology.num_ranks)

    def resample_streams(self, dataset: Any, epoch: int, stream_id: int | None) -> tuple[Int64, Int64]:
        """Return the shuffle units of an epoch, and the samples in them; `EpochPlan.resample_streams`."""
        return self.position(dataset).run.run_plan.epochs.resample_streams(epoch, stream_id)

    @property
    def initial_physical_nodes(self) -> int | None:
        """The nodes on which a run began that was resumed; None for one that has begun here."""
        state = self._state
        return state.initial_physical_nodes if state is not None and state.epoch >= 0 else None


class _Coming:
    """The shards of the batches that one worker reads; computed when they are first asked for."""

    def __init__(self, run: MosaicRun, ids_QB: Int64) -> None:
        self._compute = partial(shards_of, run.plan, ids_QB)
        self._shard_QB: Int64 | None = None

    def __call__(self, cursor: Cursor) -> tuple[Int64, int]:
        if self._shard_QB is None:
            self._shard_QB = self._compute()
        return self._shard_QB, cursor.step


def _read(dataset: Any, here: _Begun, ids_QB: Int64, predownloader: Predownloader, server: RowServer) -> Iterator[Any]:
    """Yield the samples of batches that one worker reads."""
    run_plan = here.run.run_plan
    zeros_LK = np.zeros((1, len(dataset.domains)), dtype=np.int64)
    place = Cursor(
        step=0, epoch=here.epoch, step_in_epoch=0, drawn_LK=zeros_LK, base_LK=zeros_LK, credit_LK=zeros_LK,
        total_L=np.ones(1, dtype=np.int64),
    )  # fmt: skip
    for q, ids_B in enumerate(ids_QB):
        predownloader.look_ahead(replace(place, step=q), None)
        at = run_plan.addressing.addresses(there_B := ids_B[ids_B >= 0])
        rows = Rows(step=q, domain_B=at.domain_B.astype(np.int32), draw_B=there_B, part=slice(None))
        mine_B = np.arange(len(at), dtype=np.int64)
        for _, samples in server.portions(rows, at, mine_B, np.zeros_like(mine_B)):
            yield from samples


def _warn_of_abandoned(epoch: int) -> None:
    info = get_worker_info()
    if info is None or not info.id:
        warnings.warn(
            f"the state that was loaded lies within epoch {epoch}, and this is the second iter() after it: the "
            f"rest of epoch {epoch} is given up, and epoch {epoch + 1} begins, as in mosaicml-streaming; take all "
            "of its batches from one iterator, or load the state again before each iter()",
            stacklevel=3,
        )
