"""Tables of other programs: parquet, JSONL, dolma attributes, tensors. From files to blocks of lines.

Rules. A file is read in blocks; memory is that of one block, however large the file is. Only the columns that are
asked for are decoded. A field inside another is named by a path: `metadata.score`. Nothing is unpickled. Every error
names the file, and the line or column.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, NoReturn

import msgspec
import numpy as np

from mixstream.errors import ConfigError, SelectionError
from mixstream.storage import is_local, local_path, redact

from ..shared.compressed import COMPRESSIONS, FAULTS, decompress

Lines = dict[str, Any]
"""A block: path of a field -> its values, a list or an array."""
Format = Literal["parquet", "jsonl", "dsdm-pt"]
_SUFFIXES: dict[str, Format] = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".jsonl.zst": "jsonl",
    ".json.gz": "jsonl",
    ".json.zst": "jsonl",
    ".ndjson": "jsonl",
    ".pt": "dsdm-pt",
}
_BLOCK = 1 << 14  # lines
_LONGEST = 256 << 20  # bytes of a line
ORDINAL, DOMAIN = "ordinal", "domain"
PLACE = (DOMAIN, "shard", "row", ORDINAL)
"""Columns that say where a row is, as `mixstream select export` writes them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """One file.

    Attributes:
        path: where it is.
        format: how it is read.
    """

    path: Path
    format: Format

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        return self.path.stat().st_size

    def fields(self) -> dict[str, str]:
        """Return what each field holds: `"number"`, `"text"`, `"spans"` or `"other"`; JSONL is known by its line 1."""
        if self.format == "parquet":
            return _parquet_fields(self.path)
        if self.format == "jsonl":
            first = next(_json_lines(self.path), None)
            return {} if first is None else dict(_flat(first[1]))
        return {ORDINAL: "number", **dict.fromkeys(_tensors(self.path), "number")}

    def blocks(self, fields: Sequence[str]) -> Iterator[tuple[Lines, int]]:
        """Yield blocks of lines with these fields, and how many bytes of the file each takes, about.

        A field that a line lacks is None.

        Raises:
            SelectionError: the file is damaged.
            ConfigError: a field is in no line.
        """
        if self.format == "parquet":
            yield from _parquet_blocks(self.path, fields, self.size)
        elif self.format == "jsonl":
            yield from _json_blocks(self.path, fields)
        else:
            yield from _tensor_blocks(self.path, fields)


def find_tables(paths: Sequence[str], format: Format | None) -> list[Table]:  # noqa: A002  # the option's name
    """Return the files at `paths`, each a file or a directory of files, in order.

    Raises:
        ConfigError: there is none, or its name does not say how to read it.
    """
    found = []
    for text in paths:
        if not is_local(text):
            raise ConfigError(f"{redact(text)} is not on local disk: tables are read from local files; copy it first")
        place = local_path(text)
        if place.is_dir():
            files = sorted(path for path in place.rglob("*") if path.is_file() and _format_of(path) is not None)
            if not files:
                raise ConfigError(f"{place} has no file of a known kind ({', '.join(_SUFFIXES)}); name the file")
        elif place.is_file():
            files = [place]
        else:
            raise ConfigError(f"there is no table {place}: check its spelling")
        for path in files:
            kind = format or _format_of(path)
            if kind is None:
                raise ConfigError(f"{path}: its name does not say what it is; give --format parquet, jsonl or dsdm-pt")
            found.append(Table(path=path, format=kind))
    if not found:
        raise ConfigError("no table is given: name a parquet or JSONL file, or a directory of them")
    return found


def _format_of(path: Path) -> Format | None:
    return next((kind for suffix, kind in _SUFFIXES.items() if path.name.lower().endswith(suffix)), None)


# Parquet


def _parquet_fields(path: Path) -> dict[str, str]:
    import pyarrow as pa

    def walk(schema: Any, prefix: str) -> Iterator[tuple[str, str]]:
        for field in schema:
            name, kind = prefix + field.name, field.type
            if pa.types.is_dictionary(kind):
                kind = kind.value_type
            if pa.types.is_struct(kind):
                yield from walk([kind.field(at) for at in range(kind.num_fields)], f"{name}.")
            elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
                yield name, "number"
            elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
                yield name, "text"
            else:
                yield name, "other"

    return dict(walk(_parquet(path).schema_arrow, ""))


def _parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, pa.ArrowException, OSError) as error:
        _refuse(path, f"not a parquet file ({str(error)[:200]})")


def _parquet_blocks(path: Path, fields: Sequence[str], size: int) -> Iterator[tuple[Lines, int]]:
    import pyarrow as pa

    file, known = _parquet(path), _parquet_fields(path)
    if missing := [field for field in fields if field not in known]:
        raise ConfigError(f"{path} has no column {', '.join(map(repr, missing))}; it has {', '.join(known)}")
    total = max(file.metadata.num_rows, 1)
    try:
        for batch in file.iter_batches(batch_size=_BLOCK, columns=list(fields)):
            yield {field: _values(_nested(batch, field)) for field in fields}, size * batch.num_rows // total
    except (pa.ArrowInvalid, pa.ArrowException, OSError) as error:
        _refuse(path, f"it cannot be read ({str(error)[:200]})")


def _nested(batch: Any, field: str) -> Any:
    if field in batch.schema.names:
        return batch.column(field)
    top, *below = field.split(".")
    column = batch.column(top)
    for name in below:
        column = column.flatten()[column.type.get_field_index(name)]  # null where the struct itself is
    return column


def _values(column: Any) -> Any:
    """Return a column as an array of numbers, or as a list with None where there is no value."""
    import pyarrow as pa

    numeric = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    if numeric and not column.null_count:
        return column.to_numpy(zero_copy_only=False)
    return column.to_pylist()


# JSONL


def _json_blocks(path: Path, fields: Sequence[str]) -> Iterator[tuple[Lines, int]]:
    lines: Lines = {field: [] for field in fields}
    count = taken = 0
    seen: set[str] = set()
    for size, record in _json_lines(path):
        for field in fields:
            value = _field(record, field)
            if value is not None:
                seen.add(field)
            lines[field].append(value)
        count, taken = count + 1, taken + size
        if count % _BLOCK == 0:
            yield lines, taken
            lines, taken = {field: [] for field in fields}, 0
    if count and (missing := [field for field in fields if field not in seen]):
        raise ConfigError(f"{path}: no line has {', '.join(map(repr, missing))}; a field in another is a path, as a.b")
    if count % _BLOCK:
        yield lines, taken


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the size in the file, about, and the content of each line."""
    decoder = msgspec.json.Decoder()
    number, place = 0, 0
    with path.open("rb", buffering=0) as raw:
        try:
            with _unpacked(path, raw) as file:
                while line := file.readline(_LONGEST):
                    number += 1
                    if len(line) == _LONGEST:
                        _refuse(path, f"line {number:,} has more than {_LONGEST:,} bytes")
                    if not line.strip():
                        continue
                    record = decoder.decode(line)
                    if not isinstance(record, dict):
                        _refuse(path, f"line {number:,} is no object: {line[:60]!r}")
                    before, place = place, raw.tell()
                    yield place - before, record
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            _refuse(path, f"line {number:,} is no JSON ({error})")
        except FAULTS as error:
            _refuse(path, f"it cannot be read after line {number:,} ({str(error)[:200]})")


def _unpacked(path: Path, raw: io.RawIOBase) -> IO[bytes]:
    return decompress(raw, COMPRESSIONS.get(path.suffix[1:].lower(), ""))


def _field(record: dict[str, Any], path: str) -> Any:
    if path in record:
        return record[path]
    value: Any = record
    rest = path
    while rest:
        if not isinstance(value, dict):
            return None
        if rest in value:
            return value[rest]
        head, _, rest = rest.partition(".")
        value = value.get(head)
    return value


def _flat(record: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, bool | int | float):
            yield prefix + name, "number"
        elif isinstance(value, str):
            yield prefix + name, "text"
        else:
            yield prefix + name, "spans" if is_spans(value) else "other"


def is_spans(value: Any) -> bool:
    """Return whether a value is a list of dolma's spans: [begin, end, score] each."""
    return isinstance(value, list) and all(
        isinstance(span, list) and len(span) == 3 and all(isinstance(each, bool | int | float) for each in span)
        for span in value
    )


# Tensors


def _tensors(path: Path) -> dict[str, Any]:
    import torch

    try:
        try:
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # files of older versions of torch cannot be mapped
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what its unpickler happens to raise
        _refuse(path, f"torch.load(weights_only=True) refuses it ({str(error).splitlines()[0][:200]})")
    tensors = found if isinstance(found, dict) else {"score": found}
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor) or tensor.ndim != 1:
            _refuse(path, f"{str(name)[:60]!r} is no vector of numbers: one score for each row is needed")
    if len({len(tensor) for tensor in tensors.values()}) != 1:
        _refuse(path, "its tensors have different lengths, or there is none")
    return {str(name): tensor for name, tensor in tensors.items()}


def _tensor_blocks(path: Path, fields: Sequence[str]) -> Iterator[tuple[Lines, int]]:
    tensors = _tensors(path)
    if missing := [field for field in fields if field not in tensors and field != ORDINAL]:
        raise ConfigError(f"{path} has no tensor {', '.join(map(repr, missing))}; it has {', '.join(tensors)}")
    count = len(next(iter(tensors.values())))
    for begin in range(0, count, _BLOCK):
        end = min(begin + _BLOCK, count)
        block: Lines = {ORDINAL: np.arange(begin, end)}
        for field in fields:
            if field != ORDINAL:
                block[field] = tensors[field][begin:end].float().numpy()
        yield block, path.stat().st_size * (end - begin) // count


def _refuse(path: Path, fact: str) -> NoReturn:
    raise SelectionError(f"{path}: {fact}; nothing was imported; correct the file, or leave it out")
