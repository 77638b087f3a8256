"""What an epoch takes from each stream, as mosaicml-streaming 0.13 computes it from the streams' weights.

Shape suffixes: K streams.
"""

from collections.abc import Sequence

import numpy as np

from mixstream.plan.weights import normalise, resolve_choose
from mixstream.records import dataclass
from mixstream.types import Float64, Int64


@dataclass(frozen=True, slots=True)
class StreamShares:
    """What an epoch takes from each stream.

    Attributes:
        choose_K: int64 [K], samples.
        proportion_K: float64 [K], share of the epoch: as given, or by samples.
    """

    choose_K: Int64
    proportion_K: Float64

    @property
    def epoch_size(self) -> int:
        """Samples of an epoch."""
        return int(self.choose_K.sum())


def shares(
    *,
    samples: Sequence[int],
    proportion: Sequence[float | None],
    repeat: Sequence[float | None],
    choose: Sequence[int | None],
    epoch_size: int | None,
    seed: int,
) -> StreamShares:
    """Return what an epoch takes from each stream.

    >>> none = [None, None]
    >>> found = shares(samples=[9, 5], proportion=none, repeat=[None, 2], choose=none, epoch_size=None, seed=0)
    >>> found.choose_K.tolist(), found.epoch_size
    ([9, 10], 19)

    Args:
        samples: of each stream.
        proportion: share of the epoch, of all streams or of none.
        repeat: passes over the stream, instead of 1.
        choose: samples, instead of all.
        epoch_size: samples of an epoch, for relative weights or none.
        seed: decides which streams get the samples that rounding down leaves over.

    Raises:
        ConfigError: relative and absolute weights are mixed, or are no weights.
    """
    choose_K = resolve_choose(
        samples=samples, proportion=proportion, repeat=repeat, choose=choose, epoch_size=epoch_size, seed=seed
    )
    if all(share is not None for share in proportion):
        return StreamShares(choose_K, normalise([share or 0.0 for share in proportion], what="`proportion`"))
    return StreamShares(choose_K, normalise(np.asarray(samples) if epoch_size else choose_K, what="the streams' rows"))
