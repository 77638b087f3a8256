"""A fixed sample of a domain: the view in which every epoch reads the same samples (`sampling_method="fixed"`).

An epoch that takes n samples of a domain usually goes on where the last one stopped. With a fixed sample, n samples
are chosen once, by the seed, and each epoch reads these, in another order if it is shuffled. An epoch that takes more
samples than the domain has reads all equally often, and those that are chosen once more. Memory is O(shards).

Shape suffixes: B rows, S shards of one domain.
"""

from typing import Any

import numpy as np

from mixstream.plan.addressing import View
from mixstream.plan.permutation import permute
from mixstream.plan.rng import derive_key
from mixstream.plan.weights import apportion
from mixstream.records import dataclass
from mixstream.types import Int64


@dataclass(frozen=True, kw_only=True)
class FixedSample:
    """The view of the samples that were chosen.

    Of two shards of 3 and 6 samples, 6 are chosen, in proportion to the shards' sizes:

    >>> from mixstream.plan.addressing import WholeShards
    >>> view = FixedSample.of(WholeShards(samples_S=np.array([3, 6])), samples=6, seed=17, name="web")
    >>> view.samples_S.tolist()
    [2, 4]
    >>> sorted(view.rows(np.array([1, 1, 1, 1]), np.array([0, 1, 2, 3])).tolist())
    [0, 1, 4, 5]

    Args:
        view: the view of all samples.
        samples_S: int64 [S], chosen samples of each shard.
        key: decides which.
        id: identifies the choice; states hold it.
    """

    view: View
    samples_S: Int64
    key: int
    id: str

    @classmethod
    def of(cls, view: View, *, samples: int, seed: int, name: str) -> "FixedSample":
        """Choose `samples` samples of a domain.

        Args:
            view: the view of all of its samples.
            samples: how many to choose; each is chosen equally often, up to once.
            seed: of the run.
            name: of the domain.
        """
        samples_S = np.asarray(apportion(samples, view.samples_S.tolist()), dtype=np.int64)
        of = f" of {within}" if (within := getattr(view, "id", None)) else ""
        return cls(
            view=view, samples_S=samples_S, key=derive_key(seed, "fixed sample", name), id=f"fixed {samples}{of}"
        )

    def rows(self, shard_B: Int64, sample_B: Int64) -> Int64:
        """See `View.rows`."""
        chosen_B = np.empty_like(sample_B)
        for shard in np.unique(shard_B).tolist():
            here = shard_B == shard
            size = int(self.view.samples_S[shard])
            whole = int(self.samples_S[shard]) // size * size  # these are all of its samples, equally often
            sample = sample_B[here]
            some = permute(np.maximum(sample - whole, 0), size, derive_key(self.key, "shard", shard))
            chosen_B[here] = np.where(sample < whole, sample % size, some)
        return self.view.rows(shard_B, chosen_B)


@dataclass(frozen=True, kw_only=True)
class SampledDomain:
    """A domain of which a fixed sample counts, as a plan knows it (`run_plan.PlannedDomain`).

    Args:
        name: the domain's name.
        fingerprint: identifies the domain's content.
        view: the sample.
    """

    name: str
    fingerprint: str
    view: View


def sampled(domain: Any, *, samples: int, seed: int) -> Any:
    """Return `domain` with a fixed sample of `samples` samples; as it is if these are all or none."""
    if samples in {0, int(domain.view.samples_S.sum())}:
        return domain
    view = FixedSample.of(domain.view, samples=samples, seed=seed, name=domain.name)
    return SampledDomain(name=domain.name, fingerprint=domain.fingerprint, view=view)
