"""A run in the order of mosaicml-streaming, step by step: the counterpart of `plan.Plan` and `walk.Walk`.

Loaders use both alike. A step here takes the next batch of every rank; at the end of an epoch batches may be short, and
a rank may have fewer batches than others ("device_per_stream"): it goes on to the next epoch then. The samples of the
running epoch are a table in memory, since that order has no formula.

Shape suffixes: Q steps of an epoch, R ranks, B samples of a rank's batch, G samples of a global batch, K domains.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np

from mixstream.cached import cached_property
from mixstream.errors import ConfigError
from mixstream.plan.addressing import View
from mixstream.plan.mosaic.epoch_plan import EpochPlan
from mixstream.plan.mosaic.topology import Topology
from mixstream.records import dataclass
from mixstream.types import Addresses, Cursor, Int64, Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class MosaicCursor(Cursor):
    """A position in `MosaicPlan`.

    Attributes:
        begun: samples of the running epoch, over all ranks, that were read before this process began with it.
        taken: steps of it since then.
    """

    begun: int = 0
    taken: int = 0


@dataclass(frozen=True, kw_only=True)
class SampleNumbers:
    """Where the samples lie that an epoch's numbers stand for: they are counted domain after domain, shard after shard.

    Args:
        views: which samples of its shards count, of each domain.
        first_shard_K: int64 [K], the number of each domain's first shard, as addresses count shards.
    """

    views: Sequence[View]
    first_shard_K: Int64

    @cached_property
    def samples_per_shard(self) -> Int64:
        """Samples of all shards, int64 [S]."""
        return np.concatenate([view.samples_S for view in self.views]).astype(np.int64)

    @property
    def shards_per_domain(self) -> tuple[int, ...]:
        """Shards of each domain."""
        return tuple(len(view.samples_S) for view in self.views)

    @cached_property
    def _end_S(self) -> Int64:
        return np.cumsum(self.samples_per_shard)

    @cached_property
    def _domain_S(self) -> Int64:
        return np.repeat(np.arange(len(self.views)), self.shards_per_domain)

    @cached_property
    def _number_S(self) -> Int64:
        shards_K = np.array(self.shards_per_domain)
        within_S = np.arange(len(self._domain_S)) - np.repeat(np.cumsum(shards_K) - shards_K, shards_K)
        return self.first_shard_K[self._domain_S] + within_S

    def domains(self, ids: Int64) -> Int64:
        """Return the domain of each sample, int64, of the same shape."""
        return self._domain_S[np.searchsorted(self._end_S, ids, side="right")]

    def shards(self, ids: Int64) -> Int64:
        """Return the shard of each sample, as addresses count shards; int64, of the same shape."""
        return self._number_S[np.searchsorted(self._end_S, ids, side="right")]

    def addresses(self, ids_B: Int64) -> Addresses:
        """Return where the samples lie."""
        shard_B = np.searchsorted(self._end_S, ids_B, side="right")
        sample_B = ids_B - (self._end_S - self.samples_per_shard)[shard_B]
        domain_B, number_B, row_B = self._domain_S[shard_B], self._number_S[shard_B], np.empty_like(ids_B)
        for k in np.unique(domain_B).tolist():
            here = domain_B == k
            row_B[here] = self.views[k].rows(number_B[here] - self.first_shard_K[k], sample_B[here])
        return Addresses(domain_B=domain_B, shard_B=number_B, row_B=row_B)

    def locate(self, batches: Sequence[Rows], part: slice | None = None) -> list[Addresses]:
        """Return the addresses of this rank's rows of each batch; `Addressing.locate` of these plans."""
        del part  # batches differ
        return [self.addresses(rows.draw_B[rows.part or slice(None)]) for rows in batches]

    def locate_together(self, batches: Sequence[Rows], part: slice | None = None) -> tuple[Addresses, Sequence[int]]:
        """Return these addresses in one record, and where each batch ends; as `Addressing.locate_together`."""
        found = self.locate(batches, part)
        return Addresses.joined(found), [*accumulate(map(len, found))]


@dataclass(frozen=True, kw_only=True)
class MosaicPlan:
    """The steps of all epochs, for one rank.

    Args:
        names: of the domains.
        epochs: what the epochs take, in which order.
        world: the ranks, each without DataLoader workers; their number does not change what a rank reads when.
        drop_last: whether steps are left out in which a rank has less than a batch.
        numbers: where samples lie.
    """

    names: tuple[str, ...]
    epochs: EpochPlan
    world: Topology
    drop_last: bool
    numbers: SampleNumbers

    in_order = False
    max_epochs_K = part_LK = share_K = None
    lanes = 1

    @property
    def global_batch_size(self) -> int:
        """Samples of a full step, over all ranks."""
        return self.epochs.batch_size * self.world.num_ranks

    @property
    def epoch_size(self) -> int:
        """Samples that an epoch takes, before some are repeated or dropped to make batches."""
        return self.epochs.epoch_size

    @property
    def choose_K(self) -> Int64:
        """Samples that an epoch takes of each domain, int64 [K]."""
        return self.epochs.shares.choose_K

    @cached_property
    def samples_K(self) -> Int64:
        """Samples of each domain, int64 [K]."""
        return np.array([int(view.samples_S.sum()) for view in self.numbers.views], dtype=np.int64)

    @property
    def owned_LK(self) -> Int64:
        """Samples of each domain, int64 [1, K]."""
        return self.samples_K[None]

    @cached_property
    def _sizes(self) -> tuple[int, int]:
        """Steps of an epoch that is read from its beginning, and samples in them over all ranks."""
        unshuffled = replace(self.epochs, shuffle=False)  # as many, and sooner known
        table = self._steps(unshuffled.work(self.world, epoch=0))
        return len(table), int(np.count_nonzero(table >= 0))

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch that is read from its beginning."""
        return self._sizes[0]

    def is_over(self, begun: int) -> bool:
        """Return whether nothing is left of an epoch after `begun` samples; that package may fail there."""
        return bool(begun) and begun >= self._sizes[1]

    @cached_property
    def _tables(self) -> dict[tuple[int, int], Int64]:
        return {}

    def table(self, epoch: int, begun: int = 0) -> Int64:
        """Return the samples of an epoch by step and rank, int64 [Q, R, B]; -1 behind those of a short batch.

        The newest two are kept.

        Args:
            epoch: its number.
            begun: samples of all ranks that are left out at its beginning.
        """
        tables = self._tables
        if (found := tables.get((epoch, begun))) is None:
            for key in list(tables)[:-1]:  # several threads ask, so another may have removed it
                tables.pop(key, None)
            if self.is_over(begun):
                found = np.empty((0, self.world.num_ranks, self.epochs.batch_size), dtype=np.int64)
            else:
                found = self._steps(self.epochs.work(self.world, epoch=epoch, sample_in_epoch=begun))
            tables[epoch, begun] = found
        return found

    def _steps(self, ids: Int64) -> Int64:
        """Return the steps of an epoch's work that have samples, or with `drop_last` the full ones."""
        table_QRB = ids[:, :, 0].transpose(2, 0, 1, 3).reshape(-1, self.world.num_ranks, self.epochs.batch_size)
        there_QRB = table_QRB >= 0
        there_QR = np.asarray(there_QRB.all(axis=2) if self.drop_last else there_QRB.any(axis=2))
        if (np.diff(there_QR.astype(np.int8), axis=0) > 0).any():  # nodes have different numbers of batches
            warnings.warn(
                "some ranks have no batch in one of the last steps of an epoch and have one later: a state that is "
                "saved there lets some batches be read twice or never, as in mosaicml-streaming; give each node the "
                "same number of samples of each stream, or save at other steps",
                stacklevel=4,
            )
            by_rank = np.argsort(~there_QR, axis=0, kind="stable")
            table_QRB = np.take_along_axis(table_QRB, by_rank[:, :, None], axis=0)
            there_QR = np.take_along_axis(there_QR, by_rank, axis=0)
        ranks_Q, ranks = np.count_nonzero(there_QR, axis=1), self.world.num_ranks
        kept_Q = ranks_Q == ranks if self.drop_last and self._even else ranks_Q > 0
        return np.ascontiguousarray(np.where(there_QR[:, :, None], table_QRB, -1)[kept_Q])

    @property
    def _even(self) -> bool:
        """Whether ranks have the same number of batches: a step that is short on one is dropped on all."""
        return self.epochs.batching_method != "device_per_stream"

    def start(self) -> MosaicCursor:
        """Return the position of step 0."""
        return self.at(0)

    def at(self, epoch: int, begun: int = 0) -> MosaicCursor:
        """Return the position in `epoch` after `begun` samples of all ranks."""
        zeros_LK = np.zeros((1, len(self.names)), dtype=np.int64)
        passed = begun // self.global_batch_size
        drawn_LK = epoch * self.choose_K[None]
        if begun:
            left = self.table(epoch, begun)
            left_K = np.bincount(self.numbers.domains(left[left >= 0]), minlength=len(self.names))
            drawn_LK = drawn_LK + np.maximum(self.choose_K - left_K, 0)
        return MosaicCursor(
            step=epoch * self.steps_per_epoch + passed,
            epoch=epoch,
            step_in_epoch=passed,
            drawn_LK=drawn_LK,
            base_LK=zeros_LK,
            credit_LK=zeros_LK,
            total_L=np.ones(1, dtype=np.int64),
            begun=begun,
        )

    def steps_left(self, cursor: MosaicCursor) -> int:
        """Return the steps until the running epoch ends."""
        mine_QB = self.table(cursor.epoch, cursor.begun)[:, self.world.rank]
        return int(np.count_nonzero((mine_QB >= 0).any(axis=1))) - cursor.taken

    def settle(self, cursor: MosaicCursor) -> MosaicCursor:
        """Return the same position, at the beginning of the next epoch if it is the end of one."""
        if self.steps_left(cursor) > 0:
            return cursor
        following = self.at(cursor.epoch + 1)
        self.check_not_empty(self.steps_left(following))
        return following

    def check_not_empty(self, batches: int) -> None:
        """Check that this rank has batches in an epoch that is read from its beginning.

        Raises:
            ConfigError: it has none.
        """
        if not batches:
            raise ConfigError(
                f"an epoch of {self.epoch_size} samples has no batch for rank {self.world.rank}: with batching_method="
                f"{self.epochs.batching_method!r}, {self.world.num_ranks} ranks and batch_size="
                f"{self.epochs.batch_size}, a stream has too few samples for its part of one; lower batch_size, raise "
                "epoch_size, or leave the stream out"
            )

    def at_epoch(self, cursor: MosaicCursor, epoch: int) -> MosaicCursor:
        """Return the beginning of `epoch`, or `cursor` if it lies there."""
        return cursor if cursor.epoch == epoch and not cursor.begun + cursor.taken else self.at(epoch)

    def samples_read(self, cursor: MosaicCursor) -> int:
        """Return the samples of the running epoch that all ranks have read."""
        if not cursor.taken or self.epochs.batching_method != "random":  # in others, batches are full
            return cursor.begun + cursor.taken * self.global_batch_size
        return cursor.begun + int(np.count_nonzero(self.table(cursor.epoch, cursor.begun)[: cursor.taken] >= 0))

    def advance(self, cursor: MosaicCursor, weights_K: Int64 | None = None) -> tuple[MosaicCursor, Rows]:
        """Return the position after the next step of the running epoch, and its rows: `draw_B` is their samples."""
        del weights_K
        ids_RB = self.table(cursor.epoch, cursor.begun)[cursor.taken]
        stop_R = np.cumsum(np.count_nonzero(ids_RB >= 0, axis=1)).tolist()
        ids_G, rank = ids_RB[ids_RB >= 0], self.world.rank
        domain_G = self.numbers.domains(ids_G)
        rows = Rows(
            step=cursor.step,
            domain_B=domain_G.astype(np.int32),
            draw_B=ids_G,
            part=slice(stop_R[rank - 1] if rank else 0, stop_R[rank]),
        )
        drawn_LK = cursor.drawn_LK + np.bincount(domain_G, minlength=len(self.names))
        moved = replace(
            cursor,
            step=cursor.step + 1,
            step_in_epoch=cursor.step_in_epoch + 1,
            taken=cursor.taken + 1,
            drawn_LK=drawn_LK,
        )
        return moved, rows

    def left_LK(self, cursor: Cursor) -> np.ndarray:
        """Return which domains have left the mix, bool [1, K]: none does."""
        return np.zeros_like(cursor.drawn_LK, dtype=bool)

    def drawn_by(self, cursor: Cursor, weights_K: Int64) -> None:
        """Return the weights without domains that have left the mix: None, since none does."""
        del cursor, weights_K


@dataclass(kw_only=True)
class MosaicWalk:
    """A position in a `MosaicPlan` that moves; `Walk` of these plans.

    Args:
        plan: the plan.
        cursor: the position.
    """

    plan: MosaicPlan
    cursor: MosaicCursor
    weights: None = None

    def __post_init__(self) -> None:
        self.cursor = self.plan.settle(self.cursor)

    @property
    def steps_left(self) -> int:
        """Steps until the running epoch ends."""
        return self.plan.steps_left(self.cursor)

    def ready(self) -> bool:
        """Return True: no weights are waited for."""
        return True

    def advance(self) -> Rows:
        """Return the next step's rows and move past them."""
        cursor, rows = self.plan.advance(self.cursor)
        self.cursor = self.plan.settle(cursor)
        return rows

    def advance_steps(self, most: int) -> list[tuple[Rows, MosaicCursor]]:
        """Return the rows of the `most` next steps, with the position after each, and move past them."""
        return [(self.advance(), self.cursor) for _ in range(most)]
