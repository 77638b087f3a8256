"""Packed rows as a container: rows of one length, made of spans of what the shards store.

The shards are those of another container, in their files; what a row is, a packing says (`span_table`). It may be
stored beside the shards, or follow from the stored rows by arithmetic.

Shape suffixes: C columns of a record, S shards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from hashlib import blake2b
from typing import Any

import numpy as np

from mixstream.cached import cached_property
from mixstream.data.gather import ShardTable
from mixstream.data.gather_spans import SpanField, gather_spans_reference
from mixstream.data.packed_rows import PackedForm
from mixstream.data.record_kinds import TOKENS
from mixstream.data.span_table import EvenRows, RowSpans, SpanTable, collect_spans_reference
from mixstream.errors import ConfigError, ShardCorruptError
from mixstream.formats import (
    Container,
    DocumentRows,
    FixedStride,
    OffsetTable,
    ShardEntry,
    SpanRows,
    fixed_array,
    kind_of,
    ndarray_dtype,
)
from mixstream.records import dataclass
from mixstream.types import Int64, UInt8


@dataclass(frozen=True, kw_only=True, eq=False)
class Packed:
    """The shards of another container, read as packed rows. See `Container`.

    Args:
        inner: the container that stores the shards.
        id: identifies the rows; states hold it.
        seq_len: tokens of a row, L.
        columns: what a row has; "tokens" and columns of as many values.
        rows_S: int64 [S], packed rows of each shard.
        rows_of: shard -> its rows; called when the shard is opened, and checked there. Picklable.
        pad_id: what stands in "tokens" behind the last document of a row; None if no row has padding.
        padding: tokens of padding, over all rows.
        dropped: tokens of documents that are in no row.
        knows_documents: whether every span that is not joined begins a document, or a piece of one.
        header_S: the fingerprint that the header of each shard must have, None where it is not known.
        where: names the packing in errors.
    """

    inner: Container
    id: str
    seq_len: int
    columns: tuple[str, ...]
    rows_S: Int64
    rows_of: Callable[[int], RowSpans]
    pad_id: int | None = None
    padding: int = 0
    dropped: int = 0
    knows_documents: bool = True
    header_S: Sequence[str | None] | None = None
    where: str = "the packing"
    _forms: dict[SpanRows, PackedForm] = field(default_factory=dict, repr=False)

    @cached_property
    def shards(self) -> tuple[ShardEntry, ...]:
        """All shards, in order: their files as they are, and packed rows in place of what they store."""
        made: dict[tuple[tuple[str, ...], ...], tuple[str, ...]] = {}
        found = []
        for shard, rows in zip(self.inner.shards, self.rows_S.tolist()):
            layout = shard.column_names, shard.column_encodings
            if (encodings := made.get(layout)) is None:
                names = [f"ndarray:{value_dtype(shard, name).name}:{self.seq_len}" for name in self.columns]
                encodings = made[layout] = tuple(names)
            sizes = (fixed_array(encoding) for encoding in encodings)
            found.append(
                ShardEntry(
                    samples=rows,
                    column_names=self.columns,
                    column_encodings=encodings,
                    column_sizes=tuple(self.seq_len * size[0].itemsize for size in sizes if size is not None),
                    compression=shard.compression,
                    hashes=shard.hashes,
                    raw=shard.raw,
                    zip=shard.zip,
                    meta=shard.meta,
                    meta_zip=shard.meta_zip,
                    part=shard.part,
                )
            )
        return tuple(found)

    @property
    def extra(self) -> Mapping[str, object]:
        """See `Container.extra`."""
        return self.inner.extra

    def fingerprint(self, stored: str) -> str:
        """Return the fingerprint of the packed rows of shards whose own is `stored`."""
        return blake2b(repr((stored, self.id)).encode(), digest_size=16).hexdigest()

    def rows(self, shard: int) -> SpanRows:
        """See `Container.rows`."""
        stored, info = kind_of(self.inner.rows(shard)), self.inner.shards[shard]
        return SpanRows(stored=stored, columns=tuple(info.columns.items()), pad_id=self.pad_id)

    def check(self, shard: int, data: UInt8, *, where: str) -> None:
        """See `Container.check`."""
        self.inner.check(shard, data, where=where)

    def header(self, shard: int, data: UInt8) -> UInt8:
        """See `Container.header`."""
        return self.inner.header(shard, data)

    def decode(self, shard: int, row: bytes, *, where: str) -> dict[str, Any]:
        """Raise an error: a packed row has no bytes of its own; see `decode_row`."""
        raise TypeError(f"{where}: {len(row)} bytes of shard {shard} are no packed row")

    def pad(self, column: str) -> int:
        """Return what stands in a column behind the last document of a row."""
        return self.pad_id if column == TOKENS and self.pad_id is not None else 0

    def forms(self, shard: int) -> PackedForm:
        """Return how the rows of a shard lie in its samples; shards of equal `rows` have the same."""
        kind = self.rows(shard)
        if (found := self._forms.get(kind)) is None:
            fields = {column: span_field(self.inner, shard, column) for column in self.columns}
            pads = {column: self.pad(column) for column in self.columns}
            found = self._forms[kind] = PackedForm(seq_len=self.seq_len, fields=fields, pads=pads)
        return found

    def decode_row(self, shard: int, row: int, data: UInt8, *, where: str) -> dict[str, Any]:
        """Return the values of a packed row by column name, from the bytes of its shard.

        Raises:
            ShardCorruptError: a span of the row lies outside the shard.
            IndexError: there is no such row.
        """
        if not 0 <= row < int(self.rows_S[shard]):
            raise IndexError(f"row {row} of {where}, which has {int(self.rows_S[shard])} packed rows")
        spans, table = SpanTable(1), ShardTable(1)
        spans.put(0, self.rows_of(shard))
        table.put(0, data)
        here = np.zeros(1, dtype=np.int64)
        found = collect_spans_reference(spans, here, np.array([row]))
        values, form = {}, self.forms(shard)
        for column, lies in form.fields.items():
            out = np.empty((1, self.seq_len), dtype=lies.dtype)
            if isinstance(found, int) or gather_spans_reference(table, found, lies, out, here, form.pads[column]) >= 0:
                raise ShardCorruptError(
                    f"{where}: row {row} of {self.where} has spans outside of its shard: the shard or the packing is "
                    "damaged; check the dataset with `mixstream verify`, or pack it again"
                )
            values[column] = out[0]
        return values


def value_dtype(shard: ShardEntry, column: str) -> np.dtype[Any]:
    """Return the dtype of a column of one-dimensional arrays of numbers.

    Raises:
        ConfigError: it is no such column, or there is none of the name.
    """
    encoding = shard.columns.get(column, "missing")
    fixed = fixed_array(encoding)
    dtype = ndarray_dtype(encoding) if fixed is None or len(fixed[1]) == 1 else None
    if dtype is None or (column == TOKENS and dtype.kind not in "iu"):
        raise ConfigError(
            f"shard {shard.raw.basename!r}: column {column!r} is {encoding}, and rows are packed of one-dimensional "
            f"arrays of a stored dtype, as ndarray:uint16; the columns are {shard.columns}"
        )
    return dtype


def check_border_token(shards: Iterable[ShardEntry], option: str, token: int, *, domain: str) -> None:
    """Refuse a token that ends or begins documents, and that no shard can have: each row would be one document.

    Args:
        shards: of the domain.
        option: names the token in the error: "eos_id" or "bos_id".
        token: its id.
        domain: names the domain in the error.

    Raises:
        ConfigError: the dtypes of all shards are too small for it.
    """
    encodings = {shard.columns.get(column, "") for shard in shards for column in (TOKENS, "input_ids")}
    dtypes = [dtype for encoding in encodings if (dtype := ndarray_dtype(encoding)) is not None and dtype.kind in "iu"]
    if dtypes and all(token > np.iinfo(dtype).max for dtype in dtypes):
        raise ConfigError(
            f"domain {domain!r}: {option}={token} does not fit its tokens, which are {dtypes[0]}, so it is in no row: "
            f"give the token that {'ends' if option == 'eos_id' else 'begins'} each document"
        )


def span_field(container: Container, shard: int, column: str) -> SpanField:
    """Return where a column of arrays lies in the samples of a shard of `container`."""
    info = container.shards[shard]
    rows, dtype = container.rows(shard), value_dtype(info, column)
    if isinstance(rows, FixedStride | DocumentRows):  # a shard of bare tokens is one sample
        return SpanField(dtype=dtype, flat=rows.begins if isinstance(rows, FixedStride) else 0)
    if not isinstance(rows, OffsetTable):
        raise ConfigError(
            f"shard {info.raw.basename!r} has rows that cannot be packed ({type(rows).__name__}): convert the "
            "dataset with `mixstream convert --rows documents`"
        )
    at = info.column_names.index(column)
    return SpanField(
        dtype=dtype,
        rows=rows,
        column=at,
        sizes_C=np.array([-1 if size is None else size for size in info.column_sizes], dtype=np.int64),
        shaped=info.column_sizes[at] is None,
    )


@dataclass(frozen=True, kw_only=True)
class CutEvenly:
    """The rows of shards whose stored rows have one length and are cut anew: `Packed.rows_of` without a file.

    Args:
        rows_S: int64 [S], rows of each shard.
        seq_len: tokens of a row.
        stored: tokens of a stored row.
    """

    rows_S: Int64
    seq_len: int
    stored: int

    def __call__(self, shard: int) -> EvenRows:
        """Return the rows of a shard."""
        return EvenRows(rows=int(self.rows_S[shard]), seq_len=self.seq_len, stored=self.stored)
