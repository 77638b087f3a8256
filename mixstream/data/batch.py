"""Samples or columns in, batches out.

A column whose rows all have one dtype and shape is gathered for a whole batch at once (`gather`); `batch_columns` says
which columns of a dataset are of that kind. All other samples are collated by torch's `default_collate`. Both ways give
the same batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from mixstream.errors import ConfigError, MissingColumnError
from mixstream.formats import fixed_array, ndarray_dtype

_WIDENED = {np.dtype(np.uint16), np.dtype(np.uint32)}  # torch can hold these, but not compute with them


class Batch(dict[str, Any]):
    """One rank's rows of one global batch: column -> tensor (or list, where values do not stack).

    Attributes:
        step: the step that this batch is for; `Loader.report` reads it.
        repeats: rows of the *global* batch that only fill up the epoch's last batch.
        domain: int64 [B], each row's domain, in the order of `streams`.
        rows: which of the rank's rows of this step these are; all of them, unless the batch was split.
    """

    step: int = -1
    repeats: int = 0
    domain: Any = None
    rows: slice = slice(None)

    def split(self, parts: int) -> list[Batch]:
        """Return the batch as `parts` micro-batches of equal size, up to rounding. Their tensors are views.

        Use it where the rows of a step do not fit on the device at once: train on each part, and report its losses.

        >>> batch = Batch({"x": np.arange(5)})
        >>> [(part["x"].tolist(), part.rows) for part in batch.split(2)]
        [([0, 1], slice(0, 2, None)), ([2, 3, 4], slice(2, 5, None))]

        Raises:
            ConfigError: there are fewer rows than parts.
        """
        size = len(self.domain) if self.domain is not None else len(next(iter(self.values()), ()))
        if not 1 <= parts <= max(size, 1):
            raise ConfigError(f"a batch of {size} rows cannot be split into {parts} parts; give 1 to {size}")
        offset = self.rows.start or 0
        bounds = [size * at // parts for at in range(parts + 1)]
        return [self._part(slice(start, end), offset) for start, end in pairwise(bounds)]

    def _part(self, rows: slice, offset: int) -> Batch:
        part = Batch({name: value[rows] for name, value in self.items()})
        part.step, part.repeats = self.step, self.repeats
        part.domain = None if self.domain is None else self.domain[rows]
        part.rows = slice(offset + rows.start, offset + rows.stop)
        return part


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column that can be gathered.

    Attributes:
        dtype: dtype in the batch.
        varies: whether the shape is not part of the encoding, and has to be read from a row.
    """

    dtype: np.dtype[Any]
    varies: bool


def widened(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype in which a batch carries values stored as `dtype`: int64 for uint16 and uint32."""
    return np.dtype(np.int64) if dtype in _WIDENED else dtype


def batch_columns(records: Sequence[Mapping[str, str]], *, widen: bool) -> dict[str, Column] | None:
    """Return the columns of a batch over records of these encodings (column -> encoding, one mapping per kind).

    Returns None if a column cannot be gathered, or the records have different columns: then samples are collated one by
    one.
    """
    if not records or any(set(record) != set(records[0]) for record in records):
        return None
    columns = {}
    for name in records[0]:
        dtypes, varies = [], False
        for record in records:
            if (fixed := fixed_array(record[name])) is not None:
                dtypes.append(fixed[0])
            elif (dtype := ndarray_dtype(record[name])) is not None:
                dtypes.append(dtype)
                varies = True
            else:
                return None
        if len({dtype.kind in "iu" for dtype in dtypes}) > 1:
            return None  # integers and floats: torch promotes them by other rules than numpy
        together = np.result_type(*[widened(d) if widen else d for d in dtypes])
        columns[name] = Column(dtype=together, varies=varies)
    return columns


def collate_samples(samples: Sequence[Mapping[str, Any]], *, widen: bool = True) -> Any:
    """Collate decoded samples as torch does by default; uint16 and uint32 become int64 unless `widen` is False.

    Raises:
        MissingColumnError: the samples do not have the same columns (also a KeyError).
    """
    for sample in samples:
        if isinstance(sample, Mapping) and sample.keys() != samples[0].keys():
            raise MissingColumnError(
                f"rows of one batch have the columns {sorted(samples[0])} and {sorted(sample)}, which do not stack; "
                "give streams of the same columns, or a collate_fn"
            )
    from torch.utils.data import default_collate

    return default_collate([{k: _widen(v) for k, v in s.items()} for s in samples] if widen else list(samples))


def _widen(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic) and value.dtype in _WIDENED:
        return value.astype(np.int64)
    return value
