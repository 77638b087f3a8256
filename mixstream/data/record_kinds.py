"""The kinds of records that shards have, and how a column of one kind is gathered.

Records are of one kind if they have the same columns, and lie in their shards in the same way (`formats.kind_of`).

Shape suffixes: S shards.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from mixstream.data.gather import Field, field_span
from mixstream.errors import ShardCorruptError
from mixstream.formats import (
    Container,
    GatheredRows,
    RowLayout,
    ShardEntry,
    first_of_kinds,
    fixed_array,
    kind_of,
    mds_decode,
    of_kinds,
)
from mixstream.types import Int64, UInt8

TOKENS = "tokens"
"""The column of packed rows, and of rows of token files."""


def record_kinds(containers: Iterable[Container]) -> tuple[list[ShardEntry], Int64]:
    """Return one shard of each kind of records, and the kind of every shard: int64 [S], over all containers."""
    kinds: dict[tuple[Any, ...], int] = {}
    examples, kind_S = [], []
    for container in containers:
        found_N = []
        for number, shard in first_of_kinds(container.shards):
            layout = (shard.column_names, shard.column_encodings, kind_of(container.rows(number)))
            found_N.append(kinds.setdefault(layout, len(kinds)))
            if len(examples) < len(kinds):
                examples.append(shard)
        kind_S.append(of_kinds(container.shards, found_N))
    return examples, np.concatenate([np.empty(0, dtype=np.int64), *kind_S])


def field_of(
    info: ShardEntry, name: str, rows: RowLayout, record: Callable[[], UInt8]
) -> tuple[Field, tuple[int, ...]] | None:
    """Return how to gather a column, and the shape of a row of it; None if rows have to be decoded one by one.

    Args:
        info: a shard with records of the kind.
        name: of the column.
        rows: where records lie in the shard.
        record: returns the bytes of one; its shape is taken where the encoding does not say it.
    """
    if not isinstance(rows, GatheredRows):
        return None
    column = info.column_names.index(name)
    encoding = info.column_encodings[column]
    place = {
        "rows": rows,
        "column": column,
        "sizes_C": np.array([-1 if size is None else size for size in info.column_sizes], dtype=np.int64),
    }
    if (fixed := fixed_array(encoding)) is not None:
        dtype, shape = fixed
        return Field(**place, dtype=dtype, elements=int(np.prod(shape, dtype=np.int64))), shape
    found = record()
    if (span := field_span(found, Field(**place, dtype=np.dtype(np.uint8), elements=0))) is None:
        return None
    payload = found[span[0] : span[1]].tobytes()
    try:
        value = mds_decode(encoding, payload)
    except ShardCorruptError:  # reading the rows one by one will find the bad one
        return None
    header = payload[: len(payload) - value.nbytes]
    return Field(**place, dtype=value.dtype, elements=value.size, header=header), value.shape
