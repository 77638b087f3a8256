"""A few samples of a dataset: fetched with as few bytes as can be, decoded, and told in a few words each.

Rules. Of a raw shard only the head, a few offsets and the samples themselves are asked for; a packed one comes whole.
What the shard says of itself is checked against the index before it is used, and a sample that is too long to look at
is not fetched. Values are data: whoever prints them escapes them (shown.py).
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
from mixstream.formats import ShardInfo, decode_sample, is_mds_encoding_safe, read_offsets
from mixstream.storage import Retry, Store

from .dataset_at import Dataset
from .inspect_text import ToText
from .shard_at import read_raw, without_pickles
from .shown import message_of, shortened

_LONGEST = 64 << 20  # bytes of a sample that is looked at
_NUMBERS = 12  # of an array
_TEXT = 200  # characters of a value
_TOKENS = "tokens"
_TEXT_IDS = 400  # ids that become text, of which `_TEXT` characters are shown
_REMEDY = "the shard cannot be shown; check the dataset with `mixstream verify`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One sample.

    Attributes:
        info: the shard's entry in the index.
        row: which of its samples.
        size: bytes.
        values: column to value; None if it is too long to look at.
        hidden: columns that were not decoded.
    """

    info: ShardInfo
    row: int
    size: int
    values: dict[str, Any] | None
    hidden: frozenset[str]

    def describe(self, to_text: ToText | None) -> dict[str, Any]:
        """Return what is told of it, in JSON's terms."""
        told: dict[str, Any] = {"shard": self.info.raw.basename, "sample": self.row, "bytes": self.size}
        if self.values is None:
            return {**told, "columns": None}
        columns = {}
        for name, encoding in self.info.columns.items():
            value = self.values[name]
            columns[name] = (
                {"value": f"{encoding}, {len(value):,} bytes, not decoded"}
                if name in self.hidden
                else _value(value, to_text if name == _TOKENS else None)
            )
        return {**told, "columns": columns}


def read_samples(dataset: Dataset, count: int, *, retry: Retry, allow_unsafe_types: bool) -> Sequence[Sample]:
    """Return `count` samples (or all, if there are fewer), spread over the first shard that has any.

    Raises:
        StoreError: the store does not give them.
        ShardCorruptError: they are not what the index says.
    """
    shards = dataset.index.shards if dataset.index is not None else ()
    info = next((info for info in shards if info.samples), None)
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
"""Size of a sample and its bytes; None for bytes if it is too long."""


def _records(store: Store, info: ShardInfo, rows: Sequence[int], retry: Retry) -> list[_Record]:
    """Fetch samples of a shard, by their byte ranges where that can be."""
    if info.zip is None:
        with suppress(NoRangesError):
            return _ranges(store, info, rows, retry)
    raw = read_raw(store, info, retry)
    offsets = read_offsets(raw, info, where=info.raw.basename)
    return [_record(raw[offsets[row] : offsets[row + 1]]) for row in rows]


def _ranges(store: Store, info: ShardInfo, rows: Sequence[int], retry: Retry) -> list[_Record]:
    name = info.raw.basename

    def fetch(begin: int, end: int) -> bytes:
        what = f"reading bytes {begin} to {end} of {store.url}/{name}"
        piece = retry.call(what, lambda: store.read(name, begin, end), renew=store.renew)
        if piece.info.size != info.raw.bytes:
            _refuse(name, f"it has {piece.info.size} bytes, its index says {info.raw.bytes}")
        return bytes(piece.data)

    (count,) = struct.unpack("<I", fetch(0, 4))
    if count != info.samples:
        _refuse(name, f"it holds {count} samples, its index says {info.samples}")
    records: list[_Record] = []
    for row in rows:
        begin, end = struct.unpack("<2I", fetch(4 + 4 * row, 12 + 4 * row))
        if not 4 + 4 * (count + 1) <= begin <= end <= info.raw.bytes:
            _refuse(name, f"sample {row} spans bytes {begin} to {end}, the file has {info.raw.bytes}")
        size = end - begin
        records.append((size, fetch(begin, end) if 0 < size <= _LONGEST else b"" if not size else None))
    return records


def _record(data: bytes) -> _Record:
    return len(data), data if len(data) <= _LONGEST else None


def _refuse(name: str, fact: str) -> None:
    raise ShardCorruptError(f"{name}: {fact}; {_REMEDY}")


def _value(value: Any, to_text: ToText | None) -> dict[str, Any]:
    """Return what is told of a value: in words, and of an array its beginning."""
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
    if isinstance(value, float):  # nan and inf are no numbers of JSON
        return str(value)
    if _is_image(value):
        return _image(value)
    if isinstance(value, list) and value and all(map(_is_image, value)):
        return f"{len(value)} images: {', '.join(map(_image, value[:3]))}"
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except Exception as error:  # an unpickled object, or one nested too deep: its looks are its own affair
        return f"{type(value).__name__} that cannot be shown ({message_of(error)})"


def _array(value: np.ndarray, to_text: ToText | None) -> dict[str, Any]:
    flat = value.reshape(-1)
    first = flat[:_NUMBERS].tolist()
    told: dict[str, Any] = {
        "dtype": value.dtype.name,
        "shape": list(value.shape),
        "first": [each if not isinstance(each, float) or math.isfinite(each) else str(each) for each in first],
    }
    if to_text is not None and value.dtype.kind in "iu" and value.ndim == 1:
        told["text"] = shortened(to_text(flat[:_TEXT_IDS].tolist()), _TEXT)
    return told


def _is_image(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "PIL"


def _image(image: Any) -> str:
    width, height = image.size
    return f"{width} x {height} {image.mode} image"
