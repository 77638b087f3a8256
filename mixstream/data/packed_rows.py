"""Packed rows of a batch, gathered from the shards that are open: their spans, then each column of them.

Shape suffixes: B rows, L tokens of a row.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.data.collate import Column
from mixstream.data.gather import ShardTable
from mixstream.data.gather_spans import SpanField, gather_spans
from mixstream.data.span_table import RowSpans, Spans, SpanTable, collect_spans
from mixstream.records import dataclass
from mixstream.types import Addresses, Int64


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedForm:
    """How packed rows of one kind lie in their shards.

    Attributes:
        seq_len: tokens of a row, L.
        fields: column -> where it lies in the stored samples.
        pads: column -> what stands behind the last document of a row.
    """

    seq_len: int
    fields: Mapping[str, SpanField]
    pads: Mapping[str, int]


class PackedRows:
    """The packed rows of the shards that are open. Picklable, without them.

    Args:
        shards: how many shards there are.
    """

    def __init__(self, shards: int) -> None:
        self._table = SpanTable(shards)
        self._forms: dict[int, PackedForm] = {}

    def put(self, shard: int, rows: RowSpans) -> None:
        """Add the rows of a shard, which is open."""
        self._table.put(shard, rows)

    def form(self, kind: int, make: Callable[[], PackedForm]) -> PackedForm:
        """Return how the rows of a kind lie; it is made once."""
        if (found := self._forms.get(kind)) is None:
            found = self._forms[kind] = make()
        return found

    def spans(self, at: Addresses) -> Spans | int:
        """Return the spans of the rows at `at`, or the position of the first that is no row of an open shard."""
        return collect_spans(self._table, at.shard_B, at.row_B)

    def gather(
        self,
        table: ShardTable,
        at: Addresses,
        to_B: Int64,
        form: PackedForm,
        columns: Mapping[str, Column],
        alloc: Callable[[np.dtype[Any], tuple[int, ...]], NDArray[Any]],
        out: dict[str, NDArray[Any]],
    ) -> bool:
        """Write the rows `to_B` of a batch, all of one form, to `out`; return False if one cannot be read.

        Args:
            table: the shards that are mapped.
            at: the addresses of all rows of the batch.
            to_B: int64 [*], which of these are written.
            form: how they lie.
            columns: of the batch.
            alloc: allocates columns that are not in `out` yet.
            out: column -> [B, L].
        """
        spans = collect_spans(self._table, at.shard_B[to_B], at.row_B[to_B])
        if isinstance(spans, int):
            return False
        for name, column in columns.items():
            if name not in out:
                out[name] = alloc(column.dtype, (len(at), form.seq_len))
            if out[name].shape[1:] != (form.seq_len,):
                return False
            if gather_spans(table, spans, form.fields[name], out[name], to_B, form.pads[name]) >= 0:
                return False
        return True
