"""Where the rows of a split shard lie: in memory its two files are one array, the meta file first.

    u32 n · u32 offset[n + 1], into the data file · JSON config · zeros up to a multiple of `PART` · the data file
    data file = (CSV, TSV, XSV: a line with the column names) · one line a sample

Rules: bytes in, numbers out. A shard is untrusted: `read_offsets` checks the whole table against the index, and every
error names the file, the fact and the remedy. Reading ignores the config and the line of names; they are for people.
"""

from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ShardCorruptError
from mixstream.formats.container import PART, SplitOffsets
from mixstream.formats.split.info import SplitInfo

REMEDY = "the shard cannot be used; delete this copy and fetch it again, or write the dataset again"


def layout_of(info: SplitInfo) -> SplitOffsets:
    """Return where the rows of the shard lie."""
    assert info.meta is not None, "a split shard has a meta file"
    return SplitOffsets(data=-(-info.meta.bytes // PART) * PART)


def join_files(meta: bytes, data: bytes) -> bytes:
    """Return the bytes of a shard in memory from those of its files."""
    return b"".join((meta, bytes(-len(meta) % PART), data))


def read_offsets(raw: NDArray[np.uint8] | memoryview | bytes, info: SplitInfo, *, where: str) -> NDArray[np.int64]:
    """Read and check a shard's offsets: line i is `raw[offsets[i] : offsets[i + 1]]`.

    Args:
        raw: both files of the uncompressed shard, as `join_files` joins them.
        info: its entry in the index.
        where: names the file in errors.

    Returns:
        int64 [samples + 1], ascending, from the beginning of the data file or later to its end.

    Raises:
        ShardCorruptError: the shard does not match the index.
    """
    assert info.meta is not None, "a split shard has a meta file"
    data, count = layout_of(info).data, info.samples
    if len(raw) != data + info.raw.bytes:
        _refuse(where, f"it has {len(raw) - data} bytes, its index says {info.raw.bytes}")
    words = np.frombuffer(raw, "<u4", count=count + 2)
    if words[0] != count:
        _refuse(where, f"its meta file is of {words[0]} samples, its index says {count}")
    offsets = words[1:].astype(np.int64)
    if offsets[-1] != info.raw.bytes or (info.name == "json" and offsets[0] != 0):
        _refuse(where, f"its lines span bytes {offsets[0]} to {offsets[-1]}, the file has {info.raw.bytes}")
    steps = np.diff(offsets)
    if (wrong := steps < max(len(info.newline.encode()), 1)).any():
        at = int(np.argmax(wrong))
        _refuse(where, f"sample {at} spans {steps[at]} bytes, which are no line")
    offsets += data
    _check_ends(raw, offsets[1:] if info.name == "json" else offsets, info.newline.encode(), where)
    return offsets


def _check_ends(
    raw: NDArray[np.uint8] | memoryview | bytes, offsets: NDArray[np.int64], newline: bytes, where: str
) -> None:
    """Check that a line ends before each offset: a line that lost its beginning would be read as other values."""
    end, bytes_ = np.frombuffer(newline, np.uint8), np.frombuffer(raw, np.uint8)
    before = bytes_[offsets[:, None] + np.arange(-len(end), 0)]  # the meta file is longer than any newline
    if (wrong := (before != end).any(axis=1)).any():
        at = int(np.argmax(wrong))
        _refuse(where, f"offset {at} of its meta file is at no line's end: a sample would lose a part of its values")


def _refuse(where: str, fact: str) -> NoReturn:
    raise ShardCorruptError(f"{where}: {fact}; {REMEDY}")
