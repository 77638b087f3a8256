"""Columns of Arrow → Python values as JSON has them. Parquet, Arrow files and streams use it.

    text, bytes       str; bytes that are no UTF-8 are surrogates, as in json_values.py, so that one value is bad and
                      no other
    decimals          by their type: int without a scale, float up to 15 digits, else str
    bytes of one size str, hexadecimal: a UUID, a hash
    dates, times      str, as in ISO 8601; durations are a whole number in the column's unit
    lists, structs    list, dict; a map is a dict too
    dictionaries, runs, extensions    the values that they stand for
    any other         str, as Python shows it

Rule: memory is bounded by `STEP_BYTES` or one row. A dictionary is never spread out over all rows of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

STEP_BYTES = 4 << 20
"""About so many bytes of a batch become Python values at a time."""
_STEP_ROWS = 1024
_FLOAT_DIGITS = 15
"""So many decimal digits, a float keeps."""


def rows_of(batch: pa.RecordBatch, on_step: Callable[[], None] | None = None) -> Iterator[dict[str, object]]:
    """Yield the rows of a batch, name to value; `on_step` is called whenever about STEP_BYTES were read."""
    names = batch.schema.names
    for step in _steps(batch):
        columns = [values_of(column) for column in step.columns]
        if columns:
            for values in zip(*columns):
                yield dict(zip(names, values))
        else:
            yield from ({} for _ in range(step.num_rows))
        if on_step is not None:
            on_step()


def bytes_type(kind: pa.DataType) -> pa.DataType:
    """The same type with bytes for text: checking it leaves alone what is no UTF-8."""
    import pyarrow as pa

    def field(each: pa.Field) -> pa.Field:
        return each.with_type(bytes_type(each.type))

    t = pa.types
    made = {
        t.is_struct: lambda: pa.struct([field(kind.field(at)) for at in range(kind.num_fields)]),
        t.is_map: lambda: pa.map_(field(kind.key_field), field(kind.item_field), keys_sorted=kind.keys_sorted),
        t.is_fixed_size_list: lambda: pa.list_(field(kind.value_field), kind.list_size),
        t.is_list: lambda: pa.list_(field(kind.value_field)),
        t.is_large_list: lambda: pa.large_list(field(kind.value_field)),
        t.is_list_view: lambda: pa.list_view(field(kind.value_field)),
        t.is_large_list_view: lambda: pa.large_list_view(field(kind.value_field)),
        t.is_dictionary: lambda: pa.dictionary(kind.index_type, bytes_type(kind.value_type), kind.ordered),
    }
    make = next((make for check, make in made.items() if check(kind)), None)
    return _bytes_of(kind) or kind if make is None else make()


def _bytes_of(kind: pa.DataType) -> pa.DataType | None:
    import pyarrow as pa

    pairs = ((pa.string(), pa.binary()), (pa.large_string(), pa.large_binary()), (pa.string_view(), pa.binary_view()))
    return next((data for text, data in pairs if kind in {text, data}), None)


def _steps(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Cut a batch into some that fit into memory as Python values."""
    left = [batch]
    while left:
        step = left.pop()
        if step.num_rows > 1 and (step.num_rows > _STEP_ROWS or sum(map(_size, step.columns)) > STEP_BYTES):
            half = step.num_rows // 2
            left += [step.slice(half), step.slice(0, half)]
        elif step.num_rows:
            yield step


def _size(column: pa.Array) -> int:
    """The most bytes that a column may have as values."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        return len(column) * column.dictionary.nbytes
    if pa.types.is_run_end_encoded(column.type):
        return len(column) * column.values.nbytes
    return column.nbytes


def values_of(column: pa.Array) -> list[Any]:
    """The values of a column, None for null.

    >>> import pyarrow as pa
    >>> values_of(pa.array([{"day": 19000}, None], pa.struct([("day", pa.date32())])))
    [{'day': '2022-01-08'}, None]
    """
    kind = column.type
    return next(make for checks, make in _table() if any(check(kind) for check in checks))(column)


@cache
def _table() -> tuple[tuple[tuple[Callable[[pa.DataType], bool], ...], Callable[[pa.Array], list[Any]]], ...]:
    """What types become; the first that fits counts."""
    import pyarrow as pa
    import pyarrow.compute as pc

    t = pa.types
    numbers = (t.is_boolean, t.is_integer, t.is_floating, t.is_null)
    times = (t.is_timestamp, t.is_date, t.is_time)
    lists = (t.is_list, t.is_large_list, t.is_fixed_size_list, t.is_list_view, t.is_large_list_view)
    return (
        ((lambda kind: isinstance(kind, pa.BaseExtensionType),), lambda column: values_of(column.storage)),
        ((lambda kind: _bytes_of(kind) is not None,), lambda column: _texts(column.view(_bytes_of(column.type)))),
        ((t.is_binary, t.is_large_binary, t.is_binary_view), _texts),
        ((t.is_fixed_size_binary,), lambda column: _each(bytes.hex, column)),
        (numbers, lambda column: column.to_pylist()),
        ((t.is_decimal,), _decimals),
        ((t.is_duration,), lambda column: column.cast(pa.int64()).to_pylist()),
        (times, lambda column: _each(lambda time: time.replace(" ", "T"), column.cast(pa.string()))),
        ((t.is_struct,), _structs),
        ((t.is_map,), _maps),
        (lists, _lists),
        ((t.is_dictionary,), _looked_up),
        ((t.is_run_end_encoded,), lambda column: values_of(pc.run_end_decode(column))),  # pyright: ignore  # at run time
        ((lambda kind: True,), lambda column: _each(str, column)),
    )


def _each(make: Callable[[Any], Any], column: pa.Array) -> list[Any]:
    return [None if each is None else make(each) for each in column.to_pylist()]


def _texts(column: pa.Array) -> list[str | None]:
    return _each(lambda data: data.decode(errors="surrogateescape"), column)


def _decimals(column: pa.Array) -> list[Any]:
    kind = column.type
    return _each(int if kind.scale <= 0 else float if kind.precision <= _FLOAT_DIGITS else str, column)


def _structs(column: pa.Array) -> list[Any]:
    names = [column.type.field(at).name for at in range(column.type.num_fields)]
    fields = [values_of(field) for field in column.flatten()]
    rows = zip(*fields) if fields else ((),) * len(column)
    return [dict(zip(names, row)) if valid else None for valid, row in zip(column.is_valid().to_pylist(), rows)]


def _lists(column: pa.Array) -> list[Any]:
    import pyarrow.compute as pc

    lengths = pc.list_value_length(column).to_pylist()  # pyright: ignore  # made at run time
    values = iter(values_of(column.flatten()))
    return [None if length is None else list(islice(values, length)) for length in lengths]


def _maps(column: pa.Array) -> list[Any]:
    import pyarrow as pa

    pair = pa.struct([column.type.key_field, column.type.item_field])
    lists = _lists(column.view(pa.list_(pa.field("pairs", pair, nullable=False))))
    return [None if pairs is None else {str(key): item for key, item in map(dict.values, pairs)} for pairs in lists]


def _looked_up(column: pa.Array) -> list[Any]:
    import pyarrow as pa

    indices = column.indices.to_pylist()
    used = sorted({at for at in indices if at is not None})
    values = dict(zip(used, values_of(column.dictionary.take(pa.array(used, pa.int64())))))
    return [values.get(at) for at in indices]
