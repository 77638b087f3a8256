"""All epochs of a run in the order of mosaicml-streaming 0.13: its arguments, resolved, and the rows that follow.

Shape suffixes: S shards over all streams, K streams, N samples, Q batches, B samples of a batch.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

from mixstream.cached import cached_property
from mixstream.plan.mosaic.batching import Ranks, generate_work
from mixstream.plan.mosaic.sampling import get_sampling, resample
from mixstream.plan.mosaic.weights import StreamShares
from mixstream.records import dataclass
from mixstream.types import Int64


@dataclass(frozen=True, slots=True)
class StreamShare:
    """A stream, as batching knows it.

    Attributes:
        choose: samples that an epoch takes from it.
        proportion: its share of the epoch.
    """

    choose: int
    proportion: float


@dataclass(frozen=True, kw_only=True)
class EpochPlan:
    """What the epochs of a run take, and in which order. The arguments are those of the dataset, all resolved.

    Two streams of two shards each, one rank without workers:

    >>> from mixstream.plan.mosaic import Topology
    >>> plan = EpochPlan(
    ...     samples_per_shard=np.array([3, 2, 4, 1]), shards_per_stream=(2, 2), batch_size=4, num_canonical_nodes=1,
    ...     shares=StreamShares(np.array([5, 5]), np.array([0.5, 0.5])), shuffle=False, shuffle_algo="py1e",
    ...     shuffle_seed=9176, shuffle_block_size=1 << 18, sampling_method="balanced", sampling_granularity=1,
    ...     partition_algo="relaxed", batching_method="random", initial_physical_nodes=None,
    ... )
    >>> plan.work(Topology(), epoch=0)[0, 0, 0].tolist()  # the batches of the only worker
    [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, -1, -1]]

    Args:
        samples_per_shard: int64 [S], stream after stream.
        shards_per_stream: shards of each stream.
        shares: what an epoch takes from each stream.
        batch_size: samples per rank and step.
        num_canonical_nodes: parts of an epoch that keep to their shards.
        shuffle: whether samples are shuffled.
        shuffle_algo: how.
        shuffle_seed: the seed of everything random.
        shuffle_block_size: how far samples move, for some algorithms.
        sampling_method: "balanced" chooses parts of a stream anew in each epoch, "fixed" always the same.
        sampling_granularity: samples that are taken from a shard at a time, beyond whole passes.
        partition_algo: "orig" or "relaxed".
        batching_method: of what a batch consists.
        initial_physical_nodes: nodes on which a resumed run began; None for a run that begins.
    """

    samples_per_shard: Int64
    shards_per_stream: tuple[int, ...]
    shares: StreamShares
    batch_size: int
    num_canonical_nodes: int
    shuffle: bool
    shuffle_algo: str
    shuffle_seed: int
    shuffle_block_size: int
    sampling_method: str
    sampling_granularity: int
    partition_algo: str
    batching_method: str
    initial_physical_nodes: int | None

    @property
    def epoch_size(self) -> int:
        """Samples of an epoch, over all ranks."""
        return self.shares.epoch_size

    @property
    def epoch_seed_change(self) -> bool:
        """Whether other shards give the parts of a stream in another epoch."""
        return self.shuffle and self.sampling_method == "balanced"

    @cached_property
    def streams(self) -> tuple[StreamShare, ...]:
        """The streams."""
        return tuple(map(StreamShare, self.shares.choose_K.tolist(), self.shares.proportion_K.tolist()))

    @cached_property
    def order_digest(self) -> int:
        """A number below 2**48 that tells apart settings under which the same samples come in another order."""
        names = ("shuffle", "shuffle_algo", "shuffle_block_size", "sampling_method", "sampling_granularity")
        settings = [getattr(self, name) for name in (*names, "partition_algo", "batching_method")]
        return _digest(repr(settings))

    @cached_property
    def shares_digest(self) -> int:
        """A number below 2**48 that tells apart other streams, shards or weights."""
        shards = (self.samples_per_shard.tolist(), self.shards_per_stream, self.shares.choose_K.tolist())
        return _digest(repr((*shards, self.shares.proportion_K.tolist())))

    def resample_streams(self, epoch: int, stream_id: int | None = None) -> tuple[Int64, Int64]:
        """Return the shuffle units of an epoch, and the samples in them: int64 [U], int64 [N].

        Args:
            epoch: its number.
            stream_id: the stream of which; None for all streams, one behind the other.
        """
        bound_S = np.cumsum(np.append(0, self.samples_per_shard))
        bound_K = np.cumsum((0, *self.shards_per_stream))
        parts = []
        for k in range(len(self.streams)) if stream_id is None else (stream_id,):
            part = slice(bound_K[k], bound_K[k + 1])
            samples_S = self.samples_per_shard[part]
            choose_S = get_sampling(
                samples_S,
                self.streams[k].choose,
                self.sampling_granularity,
                self.shuffle_seed,
                epoch,
                self.epoch_seed_change,
            )
            parts.append((bound_S[part], samples_S, choose_S))
        varied = epoch if self.sampling_method == "balanced" else 0
        return resample(parts, np.random.default_rng(self.shuffle_seed + varied))

    def work(self, world: Ranks, *, epoch: int, sample_in_epoch: int = 0) -> Int64:
        """Return the samples of an epoch by node, rank, worker and batch, int64 [P, R, W, Q, B]; -1 for none.

        Args:
            world: among whom the epoch is dealt out.
            epoch: its number.
            sample_in_epoch: samples that all ranks together have read of it.
        """
        return generate_work(self.batching_method, self, world, epoch, sample_in_epoch)


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=6).digest())
