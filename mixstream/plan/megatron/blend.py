"""Which dataset each sample of Megatron-LM's `BlendedDataset` is of, and which of its samples it is.

Rules. A copy of the published algorithm: `build_blending_indices` and `build_exhaustive_blending_indices` of
megatron/core/datasets/helpers.cpp, and the sizes of blended_megatron_dataset_builder.py. Errors are float64 and are not
fused (as on x86; compilers for ARM may round a tie otherwise). The order in which datasets are listed counts.

Sample i is of the dataset that is furthest behind its weight, and is the next one of it. So what was taken of each
dataset says all about the place in a blend, and no index of it is stored.

Shape suffixes: B samples, K datasets.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError
from mixstream.plan.compiled import compiled
from mixstream.plan.megatron.splits import normalised
from mixstream.records import dataclass
from mixstream.types import Float64, Int64

_SURPLUS = 0.005  # `mid_level_dataset_surplus`
_NEVER = np.int64(1) << 62
_PIECE = 1 << 20  # samples


def samples_needed(num_samples: int, weights: Sequence[float]) -> list[int]:
    """Return how many samples each dataset of a blend is built for.

    >>> samples_needed(1000, [0.3, 0.7])
    [302, 704]

    Args:
        num_samples: of the blend.
        weights: of the datasets, of any sum.
    """
    return [ceil(ceil(num_samples * weight) * (1 + _SURPLUS)) for weight in normalised(list(weights))]


@dataclass(frozen=True, kw_only=True)
class Blend:
    """A blend of datasets.

    Seven samples under weights of 0.3 and 0.7:

    >>> blend = Blend.of(weights=[3, 7])
    >>> taken_K, dataset_B, sample_B = np.zeros(2, np.int64), np.empty(7, np.int32), np.empty(7, np.int64)
    >>> blend.deal(taken_K, dataset_B, sample_B)
    >>> dataset_B.tolist(), sample_B.tolist(), taken_K.tolist()
    ([1, 0, 1, 1, 0, 1, 1], [0, 0, 1, 2, 1, 3, 4], [2, 5])

    Args:
        weight_K: float64 [K], of sum 1, each above 0.
        most_K: int64 [K], samples that may be taken of each dataset, which then drops out.
    """

    weight_K: Float64
    most_K: Int64

    @classmethod
    def of(cls, *, weights: Sequence[float]) -> Blend:
        """Return the blend of datasets of these weights, of any sum.

        Raises:
            ConfigError: a weight is not above 0, which Megatron refuses.
        """
        if not all(weight > 0 for weight in weights):
            raise ConfigError(
                f"the weights of a blend are {list(weights)}, and Megatron refuses those that are not above 0: leave "
                "the stream out"
            )
        # Megatron normalises given weights twice, and each time may change a last bit.
        weight_K = np.array(normalised(normalised(list(weights))), dtype=np.float64)
        return cls(weight_K=weight_K, most_K=np.full(len(weight_K), _NEVER))

    @classmethod
    def by_size(cls, *, samples: Sequence[int], exhaustive: bool) -> Blend:
        """Return the blend of datasets of so many samples, weighted by them; `exhaustive` takes each of them once."""
        most_K = np.array(samples, dtype=np.int64)
        if exhaustive:
            return cls(weight_K=most_K / float(most_K.sum()), most_K=most_K)
        weight_K = np.array(normalised(most_K.tolist()), dtype=np.float64)
        return cls(weight_K=weight_K, most_K=np.full(len(most_K), _NEVER))

    def deal(self, taken_K: Int64, dataset_B: NDArray[np.int32], sample_B: Int64) -> None:
        """Fill in the next samples; `taken_K`, int64 [K], is what was taken before, and is moved on."""
        deal(self.weight_K, self.most_K, taken_K, dataset_B, sample_B)

    def taken(self, samples: int) -> Int64:
        """Return what is taken of each dataset by the first `samples` samples, int64 [K]; takes O(samples) time."""
        taken_K = np.zeros(len(self.weight_K), dtype=np.int64)
        if len(taken_K) == 1:
            return np.array([samples], dtype=np.int64)
        dataset_B, sample_B = np.empty(min(samples, _PIECE), np.int32), np.empty(min(samples, _PIECE), np.int64)
        for begin in range(0, samples, _PIECE):
            count = min(samples - begin, _PIECE)
            self.deal(taken_K, dataset_B[:count], sample_B[:count])
        return taken_K

    def check_enough(self, samples: int, there_K: Sequence[int], names: Sequence[str]) -> None:
        """Check that `samples` samples take no more of any dataset than there are of it, `there_K`.

        Raises:
            ConfigError: they do.
        """
        # A dataset is taken from when it is not ahead of its weight, so it is never a whole sample ahead.
        if (self.weight_K * samples + 1.5 <= np.array(there_K)).all():
            return
        for name, taken, there in zip(names, self.taken(samples).tolist(), there_K):
            if taken > there:
                raise ConfigError(
                    f"the blend takes {taken:,} samples of {name!r}, which has {there:,}; Megatron refuses that too: "
                    "give the streams `proportion`, so that they are read as often as it takes, or lower epoch_size"
                )


# --- one sample after the other -------------------------------------------------------------------------------------


def deal_reference(
    weight_K: Float64, most_K: Int64, taken_K: Int64, dataset_B: NDArray[np.int32], sample_B: Int64
) -> None:
    """Fill in dataset and sample, in place, and count them in `taken_K`.

    Sample i is of the dataset d with the greatest w_d * max(i, 1) - n_d, the first of equals, and is its sample n_d.
    """
    first = int(taken_K.sum())
    for b in range(len(dataset_B)):
        error_K = weight_K * float(max(first + b, 1)) - taken_K.astype(np.float64)
        best = int(np.argmax(np.where(taken_K < most_K, error_K, -np.inf)))
        dataset_B[b], sample_B[b] = best, taken_K[best]
        taken_K[best] += 1


@compiled(deal_reference)
def deal(weight_K, most_K, taken_K, dataset_B, sample_B):  # type: ignore[no-untyped-def]
    """Compiled `deal_reference`."""
    at = np.int64(0)
    for k in range(len(taken_K)):
        at += taken_K[k]
    for b in range(len(dataset_B)):
        best, most = 0, -np.inf
        for k in range(len(taken_K)):
            error = weight_K[k] * np.float64(max(at, 1)) - np.float64(taken_K[k])
            if error > most and taken_K[k] < most_K[k]:
                best, most = k, error
        dataset_B[b] = best
        sample_B[b] = taken_K[best]
        taken_K[best] += 1
        at += 1
