"""`LocalDataset`: the samples of a dataset on local disk by number, for evaluation, notebooks and torch's samplers.

Rules: nothing is downloaded, no epoch and no order is kept. Compressed shards are decompressed beside their files when
they are first read, as by `StreamingDataset(local=...)`; a directory that cannot be written is an error that says so.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from mixstream.argument_kinds import checked
from mixstream.arguments import flag, shown, whole
from mixstream.cached import cached_property
from mixstream.data.domain import Domain
from mixstream.data.domains import Domains
from mixstream.data.predownload import limited
from mixstream.errors import ConfigError
from mixstream.formats import ARRIVAL, ShardEntry, samples_of
from mixstream.storage import DatasetFiles
from mixstream.types import Int64


class LocalDataset(Dataset):
    """A dataset on local disk, as a torch Dataset: `len`, and samples by number.

    Picklable, and usable in workers of a DataLoader.

    >>> import mixstream as ms
    >>> with ms.MDSWriter(columns={"id": "int"}, out="corpus") as writer:
    ...     for i in range(5):
    ...         writer.write({"id": i})
    >>> dataset = LocalDataset("corpus")
    >>> len(dataset), dataset[1], [sample["id"] for sample in dataset[-2:]]
    (5, {'id': 1}, [3, 4])

    Args:
        local: directory of the dataset.
        split: sub-directory; None for none.
        allow_unsafe_types: read pickled columns, which runs code from the shards.

    Attributes:
        shards: the entries of its shards, in order.
        num_samples: how many samples there are.

    Raises:
        IndexNotFoundError: there is no dataset.
        IndexCorruptError: its index is not valid.
        UnsafeEncodingError: a column is pickled, and `allow_unsafe_types` is False.
    """

    @checked
    def __init__(
        self, local: str | os.PathLike[str], split: str | None = None, *, allow_unsafe_types: bool = False
    ) -> None:
        self.local, self.split = os.fspath(local), split or ""
        files = DatasetFiles.locate(remote=None, local=self.local, split=split)
        domain = Domain.open(
            name=self.split or "local",
            files=files,
            validate_hash=ARRIVAL,
            allow_unsafe_types=flag("allow_unsafe_types", allow_unsafe_types),
        )
        self._domains = limited(Domains.of([domain], as_listed=True), None)

    @property
    def shards(self) -> Sequence[ShardEntry]:
        """The entries of its shards, in order."""
        return self._domains[0].shards

    @property
    def num_samples(self) -> int:
        """How many samples there are."""
        return int(self._end_S[-1]) if len(self._end_S) else 0

    @property
    def size(self) -> int:
        """How many samples there are."""
        return self.num_samples

    @cached_property
    def _end_S(self) -> Int64:
        """Number of the sample after each shard's last one, int64 [S]."""
        return np.cumsum(samples_of(self.shards))

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, at: int | slice | Sequence[int] | np.ndarray) -> Any:
        """Return sample number `at`; a list of samples for a slice, a list (of lists) or an array of numbers.

        Raises:
            IndexError: there is no such sample.
            ConfigError: `at` is none of these.
        """
        if isinstance(at, np.ndarray) and at.ndim == 0:
            at = at[()]
        if isinstance(at, int | np.integer):
            number, total = int(at), self.num_samples
            if not -total <= number < total:
                raise IndexError(f"sample {shown(number)} of a dataset that has {total}")
            return self.get_item(number % total)
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(self.num_samples))]
        if isinstance(at, list | tuple | np.ndarray):
            return [self[i] for i in at]
        raise ConfigError(f"a sample's number is an int, a slice, a list or an array of ints; got {type(at).__name__}")

    def get_item(self, sample_id: int) -> dict[str, Any]:
        """Return the decoded sample number `sample_id`, from 0: column -> value. Subclasses may override this.

        Raises:
            IndexError: there is no such sample.
            ShardNotFoundError, ShardCorruptError: its shard is not there, or not what the index says.
        """
        sample_id = whole("sample_id", sample_id)
        if not 0 <= sample_id < self.num_samples:
            raise IndexError(f"sample {shown(sample_id)} of a dataset that has {self.num_samples}")
        shard = int(np.searchsorted(self._end_S, sample_id, side="right"))
        return self._domains.sample(shard, sample_id - int(self._end_S[shard]) + self.shards[shard].samples)
