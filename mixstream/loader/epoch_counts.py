"""How many rows an epoch takes from each stream."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from mixstream.arguments import MOST, shown
from mixstream.errors import ConfigError
from mixstream.loader.stream import Stream
from mixstream.mixers import Mixer, OpenLoop, Static
from mixstream.plan.weights import apportion, normalise, resolve_choose, whole_shares
from mixstream.records import dataclass
from mixstream.types import Int64


@dataclass(frozen=True, kw_only=True)
class EpochCounts:
    """What an epoch takes from each domain, in the order of `Domains`: exactly, or as shares.

    Attributes:
        rows: rows of an epoch.
        choose_K: int64 [K], rows of each domain; with shares, about these.
        share_K: int64 [K], shares in whole parts, which hold over epochs; None if an epoch takes exactly `choose_K`.
    """

    rows: int
    choose_K: Int64
    share_K: Int64 | None


def weighted(streams: Sequence[Stream], mixer: Any, epoch_size: int | None) -> bool:
    """Return whether the streams are weighted.

    Raises:
        ConfigError: `mixer` is none, or weights are given twice.
    """
    given = any(value is not None for s in streams for value in (s.proportion, s.repeat, s.choose))
    if mixer is not None and not isinstance(mixer, Mixer | OpenLoop | Static):
        raise ConfigError(
            f"mixer={shown(mixer)} is no mixer: give an object such as mixstream.mixers.Static({{...}}) or "
            "Schedule({...}), or one with init() and update()"
        )
    if given and isinstance(mixer, Static | OpenLoop):
        raise ConfigError("weights are given twice: leave them off the streams, or leave out the mixer")
    return given or epoch_size is not None


def epoch_counts(
    streams: Sequence[Stream],
    samples: Sequence[int],
    *,
    mixer: Any,
    epoch_size: int | None,
    seed: int,
    order_K: Int64,
) -> EpochCounts:
    """Return what an epoch takes from each stream (for a learning mixer, the prior).

    Relative weights are shares of all rows: an epoch of 50 rows owes 2.5 of them to each of 20 equal domains, and the
    next one makes up for what this one rounds. They do not depend on the order of `streams`. The rounded counts are
    written to the streams, as in mosaicml-streaming, where they do depend on it.

    Args:
        streams: the domains.
        samples: how many samples each has.
        mixer: of the dataset.
        epoch_size: rows of an epoch, if given.
        seed: decides which streams get the rows that rounding leaves over, in the counts written to them.
        order_K: int64 [K], the place in `streams` of each domain of the result.
    """
    sizes_K = np.asarray(samples, dtype=np.int64)
    if (rows := sum(_asked(stream, n) for stream, n in zip(streams, samples))) > MOST:
        raise ConfigError(f"`choose` and `repeat` of the streams ask for {rows:.3g} rows an epoch; give fewer")
    if isinstance(mixer, Static):  # a domain of weight 0 gives none
        weights = mixer.proportion_of(tuple(str(s.name) for s in streams))
        listed_K = apportion(epoch_size or int(sizes_K.sum()), weights)
    elif (weights := bucket_rows(streams, sizes_K)) is not None:
        listed_K = apportion(round(sum(weights)), weights)
    else:
        listed_K = resolve_choose(
            samples=samples,
            proportion=[s.proportion for s in streams],
            repeat=[s.repeat for s in streams],
            choose=[s.choose for s in streams],
            epoch_size=epoch_size,
            seed=seed,
        )
        relative = all(s.proportion is not None for s in streams)
        weights = [s.proportion for s in streams] if relative else sizes_K.tolist() if epoch_size else None
    rows = int(listed_K.sum())
    if not rows:
        raise ConfigError(f"an epoch of these streams has no samples at all: {list(streams)}")
    for stream, chosen, size in zip(streams, listed_K.tolist(), samples):
        if not chosen and stream.repeat and size:
            warnings.warn(
                f"stream {stream.name!r} is never read: repeat={stream.repeat:g} of its {size:,} samples is less than "
                f"one sample per epoch, and whole samples are taken; raise repeat to at least {1 / size:.3g}, or weigh "
                "all streams by `proportion`, which holds over epochs",
                stacklevel=3,
            )
        stream.show(choose=chosen, proportion=chosen / rows, repeat=chosen / size if size else 0.0)
    if weights is None:
        return EpochCounts(rows=rows, choose_K=listed_K[order_K], share_K=None)
    weights_K, sizes_K = np.asarray(weights, dtype=np.float64)[order_K], sizes_K[order_K]
    due_K = rows * normalise(weights_K, what="`proportion`")
    if rows == int(sizes_K.sum()) and np.allclose(due_K, sizes_K, rtol=1e-12, atol=1e-9):  # every sample once
        return EpochCounts(rows=rows, choose_K=sizes_K, share_K=None)
    return EpochCounts(rows=rows, choose_K=apportion(rows, weights_K), share_K=whole_shares(weights_K))


def _asked(stream: Stream, samples: int) -> float:
    """Return the rows that an epoch takes from a stream by its own settings; about these with `proportion`."""
    return stream.choose if stream.choose is not None else (1 if stream.repeat is None else stream.repeat) * samples


def bucket_rows(streams: Sequence[Stream], sizes_K: Int64) -> list[float] | None:
    """Return the rows that an epoch takes from each stream if there are parts of rows among them, else None.

    Parts of rows are of buckets, over which the `choose` or `repeat` of their stream was divided.
    """
    if all(s.choose is None or s.choose == int(s.choose) for s in streams):
        return None
    return [
        s.choose if s.choose is not None else int(s.repeat * size) if s.repeat is not None else size
        for s, size in zip(streams, sizes_K.tolist())
    ]
