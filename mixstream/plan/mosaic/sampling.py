"""Which samples of its shards an epoch takes, as mosaicml-streaming 0.13 chooses them.

Shape suffixes: S shards, G picks of `granularity` samples, U shuffle units, N samples of the epoch.
"""

from collections.abc import Iterable

import numpy as np

from mixstream.errors import ConfigError
from mixstream.types import Int64


def get_sampling(
    samples_per_shard: Int64, choose: int, granularity: int, seed: int, epoch: int, use_epoch: bool
) -> Int64:
    """Return how many samples an epoch takes from each shard of a stream, int64 [S].

    >>> get_sampling(np.array([4, 4]), 10, 2, seed=7, epoch=0, use_epoch=True).tolist()  # each once, then 2 samples
    [6, 4]

    Args:
        samples_per_shard: int64 [S], samples that each shard has.
        choose: samples of all.
        granularity: samples that are taken from a shard at a time, beyond whole passes.
        seed: of the run.
        epoch: number of the epoch.
        use_epoch: whether other shards are taken in another epoch.

    Raises:
        ConfigError: a number is below its least.
    """
    for name, value in (("choose", choose), ("seed", seed), ("epoch", epoch)):
        if value < 0:
            raise ConfigError(f"`{name}` must be a non-negative integer, but got: {value}.")
    if granularity <= 0:
        raise ConfigError(f"`granularity` must be a positive integer, but got: {granularity}.")
    samples_S = np.asarray(samples_per_shard, dtype=np.int64)
    if choose and not samples_S.any():
        raise ConfigError(f"{choose} samples are asked of a stream that has none: leave the stream out")
    passes, rest = divmod(int(choose), max(int(samples_S.sum()), 1))
    if not rest:
        return samples_S * passes
    picks_S = -(-samples_S // granularity)
    size_G = np.full(int(picks_S.sum()), granularity, dtype=np.int64)
    # A shard without samples has no last pick: the pick before it gets the size meant for it, as in the package.
    size_G[np.cumsum(picks_S) - 1] = samples_S - (picks_S - 1) * granularity
    order_G = np.random.default_rng(seed + epoch if use_epoch else seed).permutation(len(size_G))
    taken_G = np.diff(np.minimum(np.cumsum(size_G[order_G]), rest), prepend=0)
    shard_G = np.repeat(np.arange(len(samples_S)), picks_S)
    return samples_S * passes + np.bincount(shard_G[order_G], taken_G, len(samples_S)).astype(np.int64)


def resample(streams: Iterable[tuple[Int64, Int64, Int64]], rng: np.random.Generator) -> tuple[Int64, Int64]:
    """Return the shuffle units of an epoch and the samples in them: int64 [U], int64 [N].

    A shard of which more is taken than it has gives all its samples several times, and some of them once more.

    >>> units, samples = resample([(np.array([10, 14]), np.array([4, 2]), np.array([5, 1]))], np.random.default_rng(1))
    >>> units.tolist(), samples.tolist()
    ([4, 1, 1], [10, 11, 12, 13, 11, 15])

    Args:
        streams: for each stream, three arrays int64 [S]: the number of each shard's first sample, how many it has, and
            how many the epoch takes.
        rng: chooses the samples of a part of a shard.
    """
    units, parts = [], [np.empty(0, dtype=np.int64)]
    for begin_S, samples_S, choose_S in streams:
        for begin, samples, choose in zip(begin_S.tolist(), samples_S.tolist(), choose_S.tolist()):
            passes, rest = divmod(choose, samples) if samples else (0, 0)
            units += [samples] * passes
            if passes:
                parts += [np.arange(begin, begin + samples)] * passes
            if rest:
                units.append(rest)
                parts.append(begin + np.sort(rng.choice(samples, rest, replace=False)))
    return np.array(units, dtype=np.int64), np.concatenate(parts)
