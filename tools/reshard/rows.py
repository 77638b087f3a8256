"""The rows of a dataset: stored shards, checked by their hashes, become encoded samples of the new columns.

Rule: a sample is copied as it is, and only a column whose dtype changes is decoded. So nothing is unpickled and no
image is compressed again. What a hash in the old index does not match is refused: new hashes would hide the damage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import EncodingError, ShardCorruptError
from mixstream.formats import ShardInfo, decode_sample, encode_sample, hash_hex, ndarray_dtype, read_offsets
from mixstream.storage import Retry, Store

from ..shared.shards import decompressed, leaving_out, read_bytes

Block = list[bytes]


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversion:
    """How samples of old shards become those of new ones.

    Attributes:
        old: entry of an old shard.
        new: entry of a new shard.
        column: the one whose dtype changes; None for none.
    """

    old: ShardInfo
    new: ShardInfo
    column: str | None

    @classmethod
    def between(cls, old: ShardInfo, new: ShardInfo) -> Conversion:
        """Return the conversion that the entries ask for; at most one column has another encoding."""
        changed = [name for name in old.columns if old.columns[name] != new.columns[name]]
        return cls(old=old, new=new, column=changed[0] if changed else None)

    @property
    def row_bytes(self) -> int | None:
        """Bytes of every new sample; None if they vary."""
        sizes = [size for size in self.new.column_sizes if size is not None]
        return sum(sizes) if len(sizes) == len(self.new.column_sizes) else None

    def convert(self, samples: Block, *, where: str) -> Block:
        """Return the new samples.

        Raises:
            EncodingError: a value does not fit the new dtype.
        """
        if self.column is None:
            return samples
        if len(self.old.column_names) == 1 and self.row_bytes is not None:
            dtype = _dtype(self.old, self.column)
            values = np.frombuffer(b"".join(samples), dtype).reshape(len(samples), -1)
            data, size = self._cast(values, where).tobytes(), self.row_bytes
            return [data[at : at + size] for at in range(0, len(data), size)]
        return [self._convert_one(sample, f"{where}, sample {at}") for at, sample in enumerate(samples)]

    def _convert_one(self, sample: bytes, where: str) -> bytes:
        old = leaving_out(self.old, lambda name, _: name == self.column)
        values = decode_sample(sample, old, where=where)
        values[self.column or ""] = self._cast(values[self.column or ""], where)
        new = self.new
        return encode_sample(values, names=new.column_names, encodings=new.column_encodings, sizes=new.column_sizes)

    def _cast(self, values: NDArray[np.integer], where: str) -> NDArray[np.integer]:
        dtype = _dtype(self.new, self.column or "")
        if values.size:
            bounds = np.iinfo(dtype)
            least, most = int(values.min()), int(values.max())
            if least < bounds.min or most > bounds.max:
                wrong = least if least < bounds.min else most
                raise EncodingError(
                    f"{where}: column {self.column!r} holds {wrong}, and {dtype.name} goes from {bounds.min} to "
                    f"{bounds.max}. Give a larger --dtype, or leave it out."
                )
        return values.astype(dtype)


def _dtype(info: ShardInfo, column: str) -> np.dtype[np.integer]:
    found = ndarray_dtype(info.columns[column])
    assert found is not None, "checked before (`Target.entry`)"
    return np.dtype(found).newbyteorder("<")


def read_shard(store: Store, info: ShardInfo, retry: Retry) -> tuple[bytes, NDArray[np.int64]]:
    """Return the raw bytes of a shard and the offsets of its samples, int64 [samples + 1], checked.

    Raises:
        ShardCorruptError: size, hash, compression or offsets are wrong.
        StoreError: the store does not return it.
    """
    stored = info.zip or info.raw
    where = f"{store.url}/{stored.basename}"
    data = read_bytes(store, stored.basename, stored.bytes, retry)
    for name, expected in sorted(stored.hashes.items())[:1]:
        if (found := hash_hex(name, data)) != expected:
            raise ShardCorruptError(
                f"{where}: its {name} is {found}, the index says {expected}. Nothing is made of damaged rows: fetch or "
                "write the shard again (`mixstream verify` lists all that are damaged)."
            )
    raw = decompressed(info, info.raw, data) if info.zip is not None else data
    return raw, read_offsets(raw, info, where=where)


def sizes_of(store: Store, info: ShardInfo, conversion: Conversion, retry: Retry) -> NDArray[np.int64]:
    """Return the size of each new sample of an old shard; of a raw shard only the table of offsets is read."""
    if conversion.column is None and info.zip is None:
        table = 4 + 4 * (info.samples + 1)
        where = f"{store.url}/{info.raw.basename}"
        found = retry.call(f"reading {where}", lambda: store.read(info.raw.basename, 0, table), renew=store.renew)
        words = np.frombuffer(bytes(memoryview(found.data)), "<u4")
        sizes = np.diff(words[1:].astype(np.int64))
        if words[0] != info.samples or (sizes < 0).any():
            raise ShardCorruptError(f"{where}: its table of samples does not match the index. Fetch it again.")
        return sizes
    raw, offsets = read_shard(store, info, retry)
    if conversion.column is None:
        return np.diff(offsets)
    samples = [raw[begin:end] for begin, end in pairwise(offsets.tolist())]
    return np.array([len(each) for each in conversion.convert(samples, where=info.raw.basename)], np.int64)


def blocks(  # noqa: PLR0917
    store: Store,
    shards: Sequence[ShardInfo],
    begin: int,
    end: int,
    convert: Callable[[ShardInfo, Block], Block],
    retry: Retry,
) -> Iterator[tuple[int, Block]]:
    """Yield the rows [begin, end) of a dataset in order, a block for each old shard, with the number of its first row.

    Args:
        store: of the dataset.
        shards: all of its shards.
        begin: the first row.
        end: the row after the last.
        convert: old samples of a shard to new ones.
        retry: of requests.
    """
    first = 0
    for info in shards:
        low, high = max(begin - first, 0), min(end - first, info.samples)
        if low < high:
            raw, offsets = read_shard(store, info, retry)
            spans = pairwise(offsets[low : high + 1].tolist())
            yield first + low, convert(info, [raw[start:stop] for start, stop in spans])
        first += info.samples
