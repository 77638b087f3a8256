"""Samples or columns in, batches out.

A column whose rows all have one dtype and shape is gathered for a whole batch at once (`gather`); `batch_columns` says
which columns of a dataset are of that kind. All other samples are collated by torch's `default_collate`. Both ways give
the same batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mixstream.errors import ConfigError, MissingColumnError
from mixstream.formats import fixed_array, ndarray_dtype
from mixstream.metering import TRAINER, here
from mixstream.records import dataclass

_WIDENED = {np.dtype(np.uint16), np.dtype(np.uint32)}  # torch can hold these, but not compute with them
_REMEDY = (
    "let __getitem__ (or get_item) return for every sample a dict (column -> value), a tensor, an array, a number, a "
    "string or a tuple of these, of one shape and with no None; or give a collate_fn, which may pad. Rows are left out "
    "by a selection, and samples that cannot be read by on_bad_sample"
)


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


def row_columns(records: Sequence[Mapping[str, str]], *, widen: bool) -> dict[str, Column] | None:
    """Return the columns by which rows are gathered that are handed out one by one; as `batch_columns`.

    Returns None also if gathered values might have another type than the same values decoded and collated one by one.
    """
    columns = batch_columns(records, widen=widen)
    for name, column in (columns or {}).items():
        encodings = {record[name] for record in records}
        dtypes = {(fixed_array(each) or (ndarray_dtype(each),))[0] for each in encodings}
        if column.dtype.kind == "f" and any(dtype is None or dtype.kind != "f" for dtype in dtypes):
            return None  # of int64 and uint64, which no integer type holds
        if len(encodings) > 1 and "int" in encodings and len(dtypes) == 1:
            return None  # some numbers are Python's, and some numpy's
    return columns


def collate_samples(samples: Sequence[Any], *, widen: bool = True) -> Any:
    """Collate samples as torch does by default; uint16 and uint32 become int64 unless `widen` is False.

    Samples are dicts, or what a subclass of the dataset returns: tensors, arrays, numbers, strings, tuples of these.

    >>> collate_samples([(np.uint16([1, 2]), 0), (np.uint16([3, 4]), 1)])
    [tensor([[1, 2],
            [3, 4]]), tensor([0, 1])]

    Raises:
        MissingColumnError: the samples do not have the same columns (also a KeyError).
        ConfigError: a sample is None, or some are dicts and others are not.
        TypeError, RuntimeError: of torch, for samples that do not stack; a note says what to give.
    """
    from mixstream.data.row_blocks import BlockRow, collate_rows  # needs torch

    first = samples[0]
    if type(first) is BlockRow:
        made = collate_rows(samples)
        here().clock.enter(TRAINER)
        return made
    for sample in samples:
        if sample is None or isinstance(sample, Mapping) is not isinstance(first, Mapping):
            kinds = ", ".join(sorted({type(each).__name__ for each in samples}))
            raise ConfigError(f"the rows of one batch are of the types {kinds}, which do not stack: {_REMEDY}")
        if isinstance(sample, Mapping) and sample.keys() != first.keys():
            raise MissingColumnError(
                f"rows of one batch have the columns {sorted(first)} and {sorted(sample)}, which do not stack; "
                "give streams of the same columns, or a collate_fn"
            )
    from torch.utils.data import default_collate

    try:
        made = default_collate([_widened(sample) for sample in samples] if widen else list(samples))
    except (TypeError, RuntimeError, ValueError) as error:
        error.add_note(f"in collating {len(samples)} rows of type {type(first).__name__}: {_REMEDY}")
        raise
    here().clock.enter(TRAINER)  # in a DataLoader worker, it hands the batch over and waits for its next turn
    return made


def warn_of_none(dataset: Any) -> None:
    """Warn that a subclass of the dataset returned None, where it is not known how samples are collated."""
    warnings.warn(
        f"a sample of {type(dataset).__name__} is None, which torch's default collate refuses; a collate_fn that drops "
        f"it makes batches of fewer rows: {_REMEDY}",
        stacklevel=3,
    )


def _widened(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.astype(np.int64) if value.dtype in _WIDENED else value
    if isinstance(value, Mapping):
        return {key: _widened(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_widened(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if str(getattr(value, "dtype", "")) in ("torch.uint16", "torch.uint32"):
        return value.long()
    return value
