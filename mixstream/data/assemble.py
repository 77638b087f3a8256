"""Addresses become a finished batch. Every class that yields batches makes them here.

Columns whose rows all have one dtype and shape are gathered; other samples are read one by one and collated. Then the
batch is tagged with its step and its rows' domains, and the batch transforms are applied. The caller copies the batch
to its device.

Shape suffixes: B rows, K domains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mixstream.arguments import shown
from mixstream.data.batch import Batch
from mixstream.data.collate import Column, collate_samples
from mixstream.data.domains import Alloc, Domains
from mixstream.data.mixable import refuse_unstackable
from mixstream.errors import ConfigError
from mixstream.lazy import later
from mixstream.metering import COLLATE, GATHER, TRANSFORM, here
from mixstream.records import dataclass
from mixstream.types import Addresses, Int64, Rows

if TYPE_CHECKING:
    from mixstream.data.document_masks import DocumentMasks, check_covered, mark
else:
    DocumentMasks, check_covered, mark = later(
        "mixstream.data.document_masks", "DocumentMasks", "check_covered", "mark"
    )


Transform = Callable[[Batch], Batch]
"""Returns another batch with the same rows in the same order."""


@dataclass(frozen=True, kw_only=True)
class Assembler:
    """Makes batches of rows.

    Args:
        domains: the domains to read.
        columns: the columns that are gathered; None if samples are read one by one.
        alloc: allocates the arrays that rows are gathered into.
        samples: returns the samples at some addresses; used for rows that are not gathered.
        collate: list of samples -> batch.
        transforms: applied to every batch, one after the other.
        documents: adds the columns of documents; None without them.
    """

    domains: Domains
    columns: Mapping[str, Column] | None
    alloc: Alloc
    samples: Callable[[Addresses], list[Any]]
    collate: Callable[[list[Any]], Any]
    transforms: tuple[Transform, ...] = ()
    documents: DocumentMasks | None = None

    def assemble(self, at: Addresses, *, step: int = -1, repeats: int = 0) -> Any:
        """Return the batch of the rows at `at`: a `Batch`, or what `collate` returns.

        Args:
            at: the rows.
            step: the step that they are for.
            repeats: rows of the global batch that only fill up the epoch's last batch.
        """
        clock = here().clock
        clock.enter(GATHER if self.columns is not None else COLLATE)
        arrays = self.domains.gather(at, self.columns, self.alloc) if self.columns is not None else None
        if arrays is not None:
            made = Batch({name: torch.from_numpy(array) for name, array in arrays.items()})
            clock.enter(TRANSFORM)
            if self.documents is not None:
                made = mark(made, self.documents, at, alloc=self.alloc)
        else:
            clock.enter(COLLATE)
            samples = self.samples(at)
            made = self._collated(samples, at)
            clock.enter(TRANSFORM)
            if self.documents is not None:
                made = mark(made, self.documents, at, samples=samples)
        domain_B = self.domains.listed_K[at.domain_B]
        return finish(made, domain_B=domain_B, step=step, repeats=repeats, transforms=self.transforms)

    def assemble_together(
        self, steps: Sequence[Rows], at: Addresses, *, two_threads: bool = False
    ) -> list[Batch] | None:
        """Return the batches of several steps, of as many rows each, in fewer operations than one by one.

        They are equal to those of `assemble`. None if each has to be made by itself (`Together`), or may take
        long, as a transform does.

        Args:
            steps: the rows of the steps.
            at: the addresses of this rank's, one step after the other.
            two_threads: whether a second thread copies half of the rows.
        """
        if self.columns is None or self.transforms or self.documents is not None:
            return None
        here().clock.enter(GATHER)
        tensors = self.domains.gather_batches(at, len(steps), self.columns, self.alloc, two_threads)
        if tensors is None:
            return None
        domain_GB = self.domains.listed_K[at.domain_B].reshape(len(steps), -1)
        if "domain" not in tensors:
            tensors["domain"] = list(map(torch.from_numpy, domain_GB.copy()))  # a copy: users may write into a column
        names, of_rows = tuple(tensors), Batch.of_rows
        return [
            of_rows(zip(names, columns), domain=domain_B, step=rows.step, repeats=rows.repeats)
            for rows, domain_B, columns in zip(steps, domain_GB, zip(*tensors.values()))
        ]

    def _collated(self, samples: list[Any], at: Addresses) -> Any:
        if getattr(self.collate, "func", self.collate) is collate_samples:  # torch would not say which domains differ
            names = [domain.name for domain in self.domains]
            refuse_unstackable(samples, [names[k] for k in at.domain_B.tolist()])
        return self.collate(samples)


def finish(made: Any, *, domain_B: Int64, step: int, repeats: int, transforms: Sequence[Transform]) -> Any:
    """Return a collated batch with a column "domain", tagged and transformed; what is not a dict, unchanged.

    >>> double = lambda batch: Batch({"x": batch["x"] * 2})
    >>> batch = finish({"x": torch.ones(2)}, domain_B=np.array([0, 1]), step=7, repeats=0, transforms=[double])
    >>> batch["x"].tolist(), batch.step, batch.domain.tolist()
    ([2.0, 2.0], 7, [0, 1])

    Args:
        made: column -> values, [B, ...] each.
        domain_B: int64 [B], each row's domain in the order of `streams`.
        step: the step that the rows are for.
        repeats: rows of the global batch that only fill up the epoch's last batch.
        transforms: applied one after the other.

    Raises:
        ConfigError: there are transforms and the batch is not a dict, or a transform returns no dict, or not all rows.
    """
    if not isinstance(made, dict):
        if transforms:
            raise ConfigError(
                f"transforms work on batches that are dicts, and this one is a {type(made).__name__}: return a dict "
                "from the collate_fn, or dicts from the dataset's __getitem__, or leave out transforms"
            )
        return made
    batch = made if isinstance(made, Batch) else Batch(made)
    batch.setdefault("domain", torch.from_numpy(domain_B.copy()))  # a copy: users may write into a column
    _tagged(batch, domain_B, step, repeats)
    for transform in transforms:  # a new Batch each time, since a transform may return one object again and again
        before, changed = batch.segments, _transformed(batch, transform)
        batch = _tagged(Batch(changed), domain_B, step, repeats)
        batch.segments = getattr(changed, "segments", None) or before
    if batch.segments is not None:
        check_covered(batch)
    return batch


def _transformed(batch: Batch, transform: Transform) -> dict[str, Any]:
    name, rows = getattr(transform, "__name__", repr(transform)), len(batch.domain)
    domain = batch["domain"].tolist() if isinstance(batch.get("domain"), torch.Tensor) else None
    sizes = {key: _size(value) for key, value in batch.items()}
    try:
        changed = transform(batch)
    except Exception as error:
        error.add_note(f"in the transform {name!r} of the batch of step {batch.step}")
        raise
    if not isinstance(changed, dict):
        raise ConfigError(
            f"the transform {name!r} returned a {type(changed).__name__}: return the batch, or a dict of its columns"
        )
    for key, value in changed.items():  # all values of all rows may lie in one: as packed sequences do
        had, (found, size) = sizes.get(key), _size(value)
        if had is not None and had[0] == rows and found != rows and size != had[1]:
            raise ConfigError(
                f"the transform {name!r} returned {found} rows of column {key!r} of a batch of {rows}, so losses would "
                "be those of other domains: keep all rows in their order"
            )
    kept = changed.get("domain")
    if domain is not None and isinstance(kept, torch.Tensor) and kept.tolist() != domain:  # of any dtype and device
        raise ConfigError(f"the transform {name!r} changed the column 'domain' or the order of rows: keep both")
    return changed


def _size(value: Any) -> tuple[int, int]:
    """Return the rows of a column and how many values it has in all; (0, 0) of what has no rows."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return (value.shape[0] if value.ndim else 0), int(np.prod(value.shape))
    return (len(value), len(value)) if isinstance(value, list | tuple) else (0, 0)


def _tagged(batch: Batch, domain_B: Int64, step: int, repeats: int) -> Batch:
    batch.domain, batch.step, batch.repeats = domain_B, step, repeats
    return batch


def checked_transforms(transforms: Sequence[Transform]) -> tuple[Transform, ...]:
    """Return `transforms` if all of them can be called.

    Raises:
        ConfigError: one cannot.
    """
    found = tuple(transforms) if isinstance(transforms, Sequence) else (transforms,)
    if wrong := [item for item in found if not callable(item)]:
        raise ConfigError(f"transforms={shown(wrong)} cannot be called: give functions from a batch to a batch")
    return found
