"""A few samples of a dataset: fetched with as few bytes as possible, decoded, and described briefly.

Rules. Of a raw shard only the header, a few offsets and the samples are requested; a compressed shard is fetched whole.
The header is checked against the index before it is used, and a sample that is too long to show is not fetched. Values
are data: `shared/console.py` escapes them when they are printed.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixstream.errors import NoRangesError, ShardCorruptError
from mixstream.formats import FileInfo, ShardEntry, ShardInfo, decode_sample, is_mds_encoding_safe, read_offsets
from mixstream.storage import Retry, Store

from ..shared.datasets import Dataset
from ..shared.safe_text import message_of, shortened
from ..shared.shards import read_raw, without_pickles
from ..shared.texts import ToText

LONGEST = 64 << 20  # bytes of the longest sample that is fetched
_NUMBERS = 12  # numbers shown of an array
_TEXT = 200  # characters shown of a value
_TOKENS = "tokens"
_TEXT_IDS = 400  # ids that are turned into text, of which `_TEXT` characters are shown
_REMEDY = "the shard cannot be shown; check the dataset with `mixstream verify`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One sample.

    Attributes:
        info: the shard's entry in the index.
        row: the sample's number in the shard.
        size: in bytes.
        values: column to value; None if the sample is too long.
        hidden: columns that were not decoded.
    """

    info: ShardEntry
    row: int
    size: int
    values: dict[str, Any] | None
    hidden: frozenset[str]

    def describe(self, to_text: ToText | None) -> dict[str, Any]:
        """Return the sample as a JSON document."""
        document: dict[str, Any] = {"shard": self.info.raw.basename, "sample": self.row, "bytes": self.size}
        if self.values is None:
            return {**document, "columns": None}
        columns = {}
        for name, encoding in self.info.columns.items():
            value = self.values[name]
            columns[name] = (
                {"value": f"{encoding}, {len(value):,} bytes, not decoded"}
                if name in self.hidden
                else _value(value, to_text if name == _TOKENS else None)
            )
        return {**document, "columns": columns}


def read_samples(dataset: Dataset, count: int, *, retry: Retry, allow_unsafe_types: bool) -> Sequence[Sample]:
    """Return `count` samples (or all, if there are fewer), spread over the first shard that has any.

    Raises:
        StoreError: the store does not return them.
        ShardCorruptError: they do not match the index.
    """
    info = next((info for info in dataset.shards if info.samples), None)
    if info is None:
        return ()
    count = min(count, info.samples)
    rows = [at * info.samples // count for at in range(count)]
    records = _records(dataset.store, info, rows, retry)
    safe = without_pickles(info, allow=allow_unsafe_types)
    hidden = (
        frozenset() if safe is info else frozenset(n for n, e in info.columns.items() if not is_mds_encoding_safe(e))
    )
    samples = []
    for row, (size, data) in zip(rows, records):
        where = f"{info.raw.basename}, sample {row}"
        values = None if data is None else decode_sample(data, safe, where=where)
        samples.append(Sample(info=info, row=row, size=size, values=values, hidden=hidden))
    return samples


_Record = tuple[int, bytes | None]
"""Size of a sample, and its bytes; None instead of bytes if it is too long."""


def _records(store: Store, info: ShardInfo, rows: Sequence[int], retry: Retry) -> list[_Record]:
    """Fetch samples of a shard, by their byte ranges if the shard is raw and the store supports ranges."""
    if info.zip is None:
        with suppress(NoRangesError):
            return _ranges(store, info, rows, retry)
    raw = read_raw(store, info, retry)
    offsets = read_offsets(raw, info, where=info.raw.basename)
    spans = (raw[offsets[row] : offsets[row + 1]] for row in rows)
    return [(len(data), data if len(data) <= LONGEST else None) for data in spans]


def _ranges(store: Store, info: ShardInfo, rows: Sequence[int], retry: Retry) -> list[_Record]:
    name, table = info.raw.basename, info.meta or info.raw  # the file with the offsets

    def fetch(file: FileInfo, begin: int, end: int) -> bytes:
        what = f"reading bytes {begin} to {end} of {store.url}/{file.basename}"
        piece = retry.call(what, lambda: store.read(file.basename, begin, end), renew=store.renew)
        if piece.info.size != file.bytes:
            _refuse(file.basename, f"it has {piece.info.size} bytes, its index says {file.bytes}")
        return bytes(piece.data)

    (count,) = struct.unpack("<I", fetch(table, 0, 4))
    if count != info.samples:
        _refuse(table.basename, f"it holds {count} samples, its index says {info.samples}")
    least = 4 + 4 * (count + 1) if table is info.raw else 0
    records: list[_Record] = []
    for row in rows:
        begin, end = struct.unpack("<2I", fetch(table, 4 + 4 * row, 12 + 4 * row))
        if not least <= begin <= end <= info.raw.bytes:
            _refuse(name, f"sample {row} spans bytes {begin} to {end}, the file has {info.raw.bytes}")
        size = end - begin
        records.append((size, fetch(info.raw, begin, end) if 0 < size <= LONGEST else b"" if not size else None))
    return records


def _refuse(name: str, fact: str) -> None:
    raise ShardCorruptError(f"{name}: {fact}; {_REMEDY}")


def _value(value: Any, to_text: ToText | None) -> dict[str, Any]:
    """Return the description of a value; of an array, its first numbers."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return _array(value, to_text)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        return {"value": shortened(value, _TEXT), "characters": len(value)}
    if isinstance(value, bool | int) or value is None or (isinstance(value, float) and math.isfinite(value)):
        return {"value": value}
    return {"value": shortened(_words(value), _TEXT)}


def _words(value: Any) -> str:
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    if isinstance(value, float):  # JSON has no nan and inf
        return str(value)
    if _is_image(value):
        return _image(value)
    if isinstance(value, list) and value and all(map(_is_image, value)):
        return f"{len(value)} images: {', '.join(map(_image, value[:3]))}"
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except Exception as error:  # an unpickled object may raise anything, and JSON may be nested too deeply
        return f"{type(value).__name__} that cannot be shown ({message_of(error)})"


def _array(value: np.ndarray, to_text: ToText | None) -> dict[str, Any]:
    flat = value.reshape(-1)
    first = flat[:_NUMBERS].tolist()
    document: dict[str, Any] = {
        "dtype": value.dtype.name,
        "shape": list(value.shape),
        "first": [each if not isinstance(each, float) or math.isfinite(each) else str(each) for each in first],
    }
    if to_text is not None and value.dtype.kind in "iu" and value.ndim == 1:
        document["text"] = shortened(to_text(flat[:_TEXT_IDS].tolist()), _TEXT)
    return document


def _is_image(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "PIL"


def _image(image: Any) -> str:
    width, height = image.size
    return f"{width} x {height} {image.mode} image"
