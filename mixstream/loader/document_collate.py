"""Marks documents where samples are collated, as in the workers of a DataLoader.

A stored row that a dataset yields is a plain dict, and does not say which row it is; with `StreamingDataset.addressed`
it is a `StoredRow`, which does. So the borders are those of the rows that were really read, also where a bad sample was
replaced by another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mixstream.argument_kinds import checked
from mixstream.data.batch import Batch
from mixstream.data.collate import collate_samples
from mixstream.data.document_masks import DocumentMasks, mark
from mixstream.data.row_blocks import BlockRow, addresses_of, collate_rows
from mixstream.errors import ConfigError
from mixstream.loader.callers import check_not_dealt
from mixstream.loader.composer_calls import check_not_cut
from mixstream.loader.dataset import StoredRow, StreamingDataset, check_is_dataset, overrides
from mixstream.loader.document_setup import document_masks
from mixstream.loader.row_server import widens
from mixstream.metering import TRAINER, TRANSFORM, here
from mixstream.types import Addresses

_COLLATE_FN = 5  # its place among the arguments of torch's DataLoader behind the dataset


class DocumentCollate:
    """A `collate_fn` for a DataLoader over a dataset: batches have the columns of documents, as with `documents=True`.

    >>> import tempfile
    >>> from mixstream import MDSWriter, Stream
    >>> from torch.utils.data import DataLoader
    >>> with MDSWriter(columns={"tokens": "ndarray:uint16:5"}, out=(out := tempfile.mkdtemp())) as writer:
    ...     for row in ([5, 6, 0, 7, 8], [0, 9, 9, 9, 0]):
    ...         writer.write({"tokens": np.array(row, np.uint16)})
    >>> dataset = StreamingDataset(streams=[Stream(local=out, eos_id=0)], batch_size=2)
    >>> collate = DocumentCollate(dataset)
    >>> batch = next(iter(DataLoader(dataset, batch_size=2, collate_fn=collate)))
    >>> batch["position_ids"].tolist(), batch["cu_seqlens"].tolist(), batch["max_seqlen"]
    ([[0, 1, 2, 0, 1], [0, 0, 1, 2, 3]], [0, 3, 5, 6, 10], 4)

    Args:
        dataset: whose samples are collated. From now on, its samples say which rows they are.
        labels: as of `Loader`.
        collate_fn: list of samples -> dict, which may pad rows on the right; `StreamingDataLoader`'s if not given.

    Raises:
        ConfigError: nothing is known of the documents of a domain, or a subclass makes samples of its own.
    """

    asks_for_addresses = True

    @checked
    def __init__(
        self,
        dataset: StreamingDataset,
        *,
        labels: str | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        check_is_dataset(dataset)
        check_stored_rows(dataset)
        self.masks: DocumentMasks = document_masks(dataset.domains, labels=labels)
        self.collate_fn = collate_samples if collate_fn is None else collate_fn
        self.widens = widens(self.collate_fn)  # None where it cannot take rows in blocks
        self.is_last = True  # False where transforms follow, as in a `StreamingDataLoader`
        dataset.addressed = True

    def __call__(self, samples: Sequence[Any]) -> Batch:
        """Return the batch of some samples.

        Raises:
            ConfigError: samples do not say their rows; or Composer or accelerate cut batches by rows.
        """
        check_not_dealt()
        if type(samples[0]) is BlockRow:
            batch = mark(collate_rows(samples), self.masks, addresses_of(samples))
            if self.is_last:
                check_not_cut(batch)
            return batch
        if not all(isinstance(sample, StoredRow) for sample in samples):
            raise ConfigError(
                "DocumentCollate knows documents by the row that each sample is, and a sample does not say its row: "
                "collate the samples of the dataset themselves"
            )
        parts = zip(*((at.domain_B, at.shard_B, at.row_B) for at in (sample.at for sample in samples)))
        domain_B, shard_B, row_B = (np.concatenate(part) for part in parts)
        at = Addresses(domain_B=domain_B, shard_B=shard_B, row_B=row_B)
        plain = [dict(sample) for sample in samples]
        made, clock = self.collate_fn(plain), here().clock
        clock.enter(TRANSFORM)
        batch = mark(made, self.masks, at, samples=plain)
        if self.is_last:
            check_not_cut(batch)
        clock.enter(TRAINER)
        return batch


def check_stored_rows(dataset: StreamingDataset) -> None:
    """Check that the samples of a dataset are its stored rows.

    Raises:
        ConfigError: a subclass makes samples of its own.
    """
    if own := overrides(dataset):
        raise ConfigError(
            f"documents=True knows where documents begin in stored rows, and {type(dataset).__name__} overrides "
            f"{own[0]}, which may return other tokens: change batches by transforms= instead, or leave out documents"
        )


def marking_documents(
    dataset: Any, args: tuple[Any, ...], kwargs: dict[str, Any], labels: str | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a DataLoader with a `collate_fn` that marks documents."""
    if not isinstance(dataset, StreamingDataset):
        raise ConfigError(f"documents=True needs a StreamingDataset, which knows its rows, and this is {dataset!r}")
    given = args[_COLLATE_FN] if len(args) > _COLLATE_FN else kwargs.get("collate_fn")
    collate = DocumentCollate(dataset, labels=labels, collate_fn=given)
    collate.is_last = False
    if len(args) > _COLLATE_FN:
        return (*args[:_COLLATE_FN], collate, *args[_COLLATE_FN + 1 :]), kwargs
    return args, kwargs | {"collate_fn": collate}
