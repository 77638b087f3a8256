"""What a run in the order of mosaicml-streaming draws, and which part is this rank's: the counterpart of `RunPlan`."""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b

import numpy as np

from mixstream.cached import cached_property
from mixstream.errors import StateError
from mixstream.plan.addressing import shard_offsets
from mixstream.plan.mosaic.epoch_plan import EpochPlan
from mixstream.plan.mosaic.state import MosaicState
from mixstream.plan.mosaic.steps import MosaicPlan, SampleNumbers
from mixstream.plan.mosaic.topology import Topology
from mixstream.plan.run_plan import PlannedDomain
from mixstream.plan.selection import KeptRows
from mixstream.plan.weights import normalise
from mixstream.records import dataclass
from mixstream.types import Float64, Int64
from mixstream.world import World

_FACTS = {
    "mixstream_streams": "the streams, their samples or weights (a number that stands for them)",
    "mixstream_epoch_size": "epoch_size",
    "mixstream_order": "shuffle, shuffle_algo, shuffle_block_size, sampling_method, sampling_granularity, "
    "partition_algo or batching_method (a number that stands for them)",
    "mixstream_global_batch_size": "the global batch size",
}
"""Key in a state -> what it is."""
_NODES, _RANKS = "mixstream_nodes", "mixstream_ranks"
_BY_RANKS = {"per_stream", "device_per_stream"}
"""Methods that drop and repeat other samples on other ranks, to fill batches of one stream."""


@dataclass(frozen=True, kw_only=True)
class MosaicRunPlan:
    """What the ranks draw; the attributes that `RunPlan` has too mean the same.

    Args:
        domains: in the order of `streams`.
        epochs: what the epochs take, in which order.
        world: the ranks after replication.
        topology: the same, as the order counts them.
        drop_last: whether steps are left out in which a rank has less than a batch.
        source_K: the source of each domain.
    """

    domains: tuple[PlannedDomain, ...]
    epochs: EpochPlan
    world: World
    topology: Topology
    drop_last: bool
    source_K: tuple[int, ...] | None

    lag = stretch = None
    mixer = "static"
    lanes = 1
    in_order = False

    @property
    def names(self) -> tuple[str, ...]:
        """The domains' names."""
        return tuple(domain.name for domain in self.domains)

    @property
    def batch_size(self) -> int:
        """Rows per rank and step."""
        return self.epochs.batch_size

    @property
    def shuffle(self) -> bool:
        """Whether samples are shuffled."""
        return self.epochs.shuffle

    @property
    def block_size(self) -> int:
        """Samples within which they are."""
        return self.epochs.shuffle_block_size

    @property
    def part(self) -> slice:
        """This rank's rows of a full global batch."""
        return slice(self.world.rank * self.batch_size, (self.world.rank + 1) * self.batch_size)

    @cached_property
    def prior_K(self) -> Float64:
        """Share of each domain of an epoch, float64 [K]."""
        return normalise(self.epochs.shares.choose_K)

    @cached_property
    def addressing(self) -> SampleNumbers:
        """Sample numbers to addresses."""
        views = [domain.view for domain in self.domains]
        offset_K = shard_offsets([len(view.samples_S) for view in views], self.source_K)
        return SampleNumbers(views=views, first_shard_K=offset_K[:-1])

    @cached_property
    def plan(self) -> MosaicPlan:
        """What the run draws, step by step."""
        return MosaicPlan(
            names=self.names,
            epochs=self.epochs,
            world=self.topology,
            drop_last=self.drop_last,
            numbers=self.addressing,
        )

    @cached_property
    def facts(self) -> dict[str, int]:
        """What the run reads, as a state has it; numbers, since the state of that package consists of numbers."""
        kept = [domain.view.id if isinstance(domain.view, KeptRows) else None for domain in self.domains]
        streams = repr((self.epochs.shares_digest, [domain.fingerprint for domain in self.domains], kept))
        return {
            "mixstream_streams": int.from_bytes(blake2b(streams.encode(), digest_size=6).digest()),
            "mixstream_epoch_size": self.epochs.epoch_size,
            "mixstream_order": self.epochs.order_digest,
            "mixstream_global_batch_size": self.plan.global_batch_size,
            _NODES: self.topology.num_nodes,
            _RANKS: self.topology.num_ranks,
        }

    def at(self, state: MosaicState) -> tuple[int, int, list[str]]:
        """Return where a state lies, as (epoch, samples of it that were read), and what is to be warned of.

        Raises:
            StateError: going on from it would read other samples than are left of its epoch.
        """
        epoch, read, news = state.epoch, state.sample_in_epoch, []
        if epoch < 0:  # before the first epoch
            if read:
                raise StateError(f"the state is damaged: {read} samples were read before the first epoch began")
            return 0, 0, news
        if not read:
            return epoch, 0, [doubt] if (doubt := state.doubt) is not None else []
        self._check_facts(state)
        together = self.plan.global_batch_size
        if self.epochs.batching_method in _BY_RANKS:
            self._check_ranks(state, read - read % together)
        most = replace(self.plan, drop_last=False).steps_per_epoch
        if read > most * together:
            raise StateError(
                f"the state lies after {read} samples of epoch {epoch}, and an epoch has {self.epochs.epoch_size} in "
                f"{most} global batches of {together}: the streams, their weights or epoch_size are other ones than in "
                "the run that saved it; give them as they were"
            )
        grain = self.topology.num_nodes if self.epochs.batching_method == "random" else together
        if again := read % grain:
            what = "the nodes" if self.epochs.batching_method == "random" else "global batches"
            news.append(
                f"the state lies after {read} samples of epoch {epoch}, which {what} ({grain}) do not divide, so the "
                f"last {again} of them are read again; save states between steps, and go on with the same batch size"
            )
        return epoch, read - again, news

    def _check_ranks(self, state: MosaicState, read: int) -> None:
        """Check that these ranks have the same samples left of an epoch as those that saved the state."""
        nodes, ranks = (state.facts.get(key, 0) for key in (_NODES, _RANKS))
        if not nodes or not ranks or (nodes, ranks) == (self.topology.num_nodes, self.topology.num_ranks):
            return  # a state of that package does not say on which it was saved
        if ranks % nodes or self.plan.global_batch_size % ranks:
            raise StateError(
                f"the state is damaged: {ranks} ranks on {nodes} nodes cannot share a global batch of "
                f"{self.plan.global_batch_size} samples; load an older checkpoint"
            )
        here = replace(self.plan, drop_last=False)
        epochs = replace(self.epochs, batch_size=here.global_batch_size // ranks)
        there = replace(here, epochs=epochs, world=Topology(num_nodes=nodes, ranks_per_node=ranks // nodes))
        left, now = (_samples(plan.table(state.epoch, read)) for plan in (there, here))
        size = max(len(left), len(now))
        surplus = np.pad(now, (0, size - len(now))) - np.pad(left, (0, size - len(left)))
        if surplus.any():
            raise StateError(
                f"the state lies within epoch {state.epoch}, which {ranks} ranks on {nodes} nodes read with batching_"
                f"method={self.epochs.batching_method!r}. Here are {self.topology.num_ranks} ranks on "
                f"{self.topology.num_nodes} nodes, which fill other batches: of the samples that are left "
                f"{-surplus[surplus < 0].sum()} would never be read, and {surplus[surplus > 0].sum()} others once "
                "more. Go on with those ranks and nodes to the end of the epoch; or begin the next one here "
                f"(dataset.next_epoch = {state.epoch + 1} in place of loading the state)"
            )

    def _check_facts(self, state: MosaicState) -> None:
        for key, what in _FACTS.items():
            if key == "mixstream_global_batch_size" and self.epochs.batching_method == "random":
                continue  # batches are consecutive samples of one order, however many they take
            was, now = state.facts.get(key), self.facts[key]
            if was is not None and was != now:
                raise StateError(
                    f"the state lies within epoch {state.epoch}, and {what} of the run that saved it was {was}, now "
                    f"{now}: samples would be read twice or never; give the arguments of that run, or begin an epoch "
                    f"with the new ones (dataset.next_epoch = {state.epoch + 1} in place of loading the state)"
                )


def _samples(table: Int64) -> Int64:
    """Return how often a table has each sample, by number."""
    return np.bincount(table[table >= 0])
