"""The borders between documents in packed rows, as one mapped file of integers.

The sidecar is Parquet, which is no form for a lookup in every batch. Its borders are therefore written once, 8 bytes
each, below the temporary directory, under a name made of the sidecar's hashes; ranks and processes of a machine share
the file. Rules: memory is bounded by a block of lines; the file appears whole or not at all, so that a killed process
leaves nothing that is trusted.

Shape suffixes: N segments.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mixstream.cached import cached_property
from mixstream.documents.reading import Documents
from mixstream.errors import ShardCorruptError
from mixstream.records import dataclass
from mixstream.storage import build_once, map_file, write_whole
from mixstream.types import Int64, UInt8

_HEAD = np.dtype([("magic", "S8"), ("count", "<i8")])
_MAGIC = b"mixbord1"


@dataclass(frozen=True, kw_only=True, eq=False)
class BorderPositions:
    """Where segments begin in the joined packed rows of a dataset: a `data.listed_borders.BorderFile`.

    Attributes:
        documents: the sidecar.
        data: the mapped file, uint8; it is made if it is not there.
        at: byte at which the first of the rising int64 stands.
        count: how many there are.
        unit: 1, since they count tokens: row x `seq_len` + token of the row.

    Raises (the first use of `data`):
        ShardCorruptError: segments do not touch, or do not fill the rows.
        ShardNotFoundError, StoreError: a file of the sidecar cannot be read.
        CacheFullError, StoreAccessError: there is no room in the temporary directory, or it may not be written.
    """

    documents: Documents
    unit: int = field(default=1, init=False)
    at: int = field(default=_HEAD.itemsize, init=False)

    @property
    def data(self) -> UInt8:  # noqa: D102 - above
        return self._data

    @cached_property
    def _data(self) -> UInt8:
        return build_once(
            f"borders:{self._digest}",
            "borders",
            find=_whole,
            build=self._write,
            what=f"the borders of the documents of {self.documents.store.url}",
            need="mark documents",
        )

    @property
    def count(self) -> int:  # noqa: D102 - above
        return (len(self.data) - self.at) // 8

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_data"}

    @cached_property
    def _digest(self) -> str:
        files = [(file.basename, file.bytes, file.hash, file.lines, file.rows) for file in self.documents.files]
        return blake2b(repr((_MAGIC, self.documents.seq_len, files)).encode(), digest_size=16).hexdigest()

    def _write(self, path: Path) -> None:
        with write_whole(path) as file:
            file.write(np.zeros(1, _HEAD).tobytes())
            count = _copy(self.documents, file)
            file.seek(0)
            file.write(np.array([(_MAGIC, count)], _HEAD).tobytes())


def _copy(documents: Documents, file: BinaryIO) -> int:
    """Write the positions of all segments; return how many there are."""
    length, count, end = documents.seq_len or 1, 0, 0
    for begin_N, tokens_N in _segments(documents, length):
        wrong_N = np.flatnonzero(begin_N != np.concatenate(([end], (begin_N + tokens_N)[:-1])))
        if len(wrong_N):
            row = int(begin_N[wrong_N[0]]) // length
            raise ShardCorruptError(
                f"{documents.store.url}: its documents do not follow each other in row {row}: check the dataset with "
                "`mixstream verify`"
            )
        end = int(begin_N[-1] + tokens_N[-1])
        file.write(begin_N.astype("<i8").tobytes())
        count += len(begin_N)
    if end < documents.rows * length:
        raise ShardCorruptError(
            f"{documents.store.url}: its documents have {end} tokens, and {documents.rows} rows have "
            f"{documents.rows * length}: check the dataset with `mixstream verify`"
        )
    return count


def _segments(documents: Documents, length: int) -> Iterator[tuple[Int64, Int64]]:
    """Yield where segments with tokens in rows begin, and their tokens, block by block."""
    for block in documents.blocks(["row", "token", "tokens"]):
        row_N, token_N, tokens_N = (block.column(i).fill_null(-1).to_numpy().astype(np.int64) for i in range(3))
        kept_N = (row_N >= 0) & (tokens_N > 0)
        if kept_N.any():
            yield (row_N * length + token_N)[kept_N], tokens_N[kept_N]


def _whole(path: Path) -> UInt8 | None:
    """Return the mapped file; None if there is none, or it is none of this version."""
    try:
        data = map_file(path)
    except OSError:
        return None
    if len(data) < _HEAD.itemsize:
        return None
    head = data[: _HEAD.itemsize].view(_HEAD)[0]
    return data if head["magic"] == _MAGIC and len(data) == _HEAD.itemsize + 8 * int(head["count"]) else None
