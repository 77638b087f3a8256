"""Which column of a table has the token ids, and of what type they are.

Rule: a table whose ids cannot be told without guessing is refused, and the error lists the columns that could be meant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from mixstream.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

NAMES = ("input_ids", "tokens")
"""Columns that have token ids, unless the user names another one; the first that there is."""

TARGETS = ("labels", "label_ids", "loss_mask", "label_mask", "completion_mask", "assistant_masks")
"""Columns that say which tokens are learned: the tokens alone would be another dataset."""

MASK = "attention_mask"
"""A column that says which tokens are padding."""

_DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")


class ListColumn(NamedTuple):
    """A column of lists of integers.

    Attributes:
        name: of the column.
        number: its place among the table's columns.
        dtype: of its values: `"int32"`.
        length: of every list, if the type says it; None otherwise.
        wide: whether positions of lists are of 8 bytes, and not of 4.
    """

    name: str
    number: int
    dtype: str
    length: int | None
    wide: bool


def find_column(schema: pa.Schema, column: str | None, *, where: str) -> ListColumn:
    """Return the column of token ids.

    >>> import pyarrow as pa
    >>> schema = pa.schema({"text": pa.string(), "tokens": pa.list_(pa.uint16())})
    >>> find_column(schema, None, where="a.parquet")
    ListColumn(name='tokens', number=1, dtype='uint16', length=None, wide=False)

    Args:
        schema: of the table.
        column: the name that the user gave; None for the first of `NAMES` that there is.
        where: names the file in errors.

    Raises:
        ConfigError: there is no such column, there are two, or it has no lists of integers.
    """
    names = [column] if column is not None else [name for name in NAMES if name in schema.names][:1]
    if not names or names[0] not in schema.names:
        wanted = "neither input_ids nor tokens" if column is None else f"no column {column!r}"
        raise ConfigError(f"{where}: it has {wanted}; {_candidates(schema)}")
    name = names[0]
    if schema.names.count(name) > 1:
        raise ConfigError(f"{where}: {schema.names.count(name)} columns are called {name!r}: rename all but one")
    number = schema.names.index(name)
    found = _column(name, number, schema.field(number).type)
    if found is None:
        raise ConfigError(
            f"{where}: column {name!r} is of type {schema.field(number).type}, and token ids are lists of integers, "
            f"each of one document or row, not nested or dictionary-encoded; {_candidates(schema)}"
        )
    return found


def shown(names: Sequence[str]) -> str:
    """Return names for a message, a few of them if there are many."""
    return ", ".join(map(repr, names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _column(name: str, number: int, kind: pa.DataType) -> ListColumn | None:
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    is_fixed = pa.types.is_fixed_size_list(kind)
    if not (is_fixed or pa.types.is_list(kind) or pa.types.is_large_list(kind)) or str(kind.value_type) not in _DTYPES:
        return None
    return ListColumn(
        name, number, str(kind.value_type), kind.list_size if is_fixed else None, pa.types.is_large_list(kind)
    )


def _candidates(schema: pa.Schema) -> str:
    found = [name for at, name in enumerate(schema.names) if _column(name, at, schema.field(at).type) is not None]
    if found:
        return f"name the column of token ids with column=..., one of {shown(found)}"
    return (
        f"none of its columns {shown(schema.names)} has lists of integers: if it has text, turn it into tokens with "
        "`mixstream convert`"
    )
