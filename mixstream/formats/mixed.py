"""Shards of any format of mosaicml-streaming: MDS, JSON, CSV, TSV and XSV, told apart by their entries in the index.

Functions take the whole raw shard as one array; of a split shard, that are both of its files (`join_files`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.formats.container import OffsetTable, RowLayout
from mixstream.formats.entry import ShardInfo
from mixstream.formats.mds import shard as mds
from mixstream.formats.mds.index import Index
from mixstream.formats.split import layout, lines
from mixstream.formats.split.info import SplitInfo
from mixstream.records import dataclass
from mixstream.types import UInt8

_OFFSETS = OffsetTable(begins=4)


def join_files(files: Sequence[bytes]) -> bytes:
    """Return the bytes of a raw shard in memory from those of its files, in the order of `ShardEntry.files`."""
    return layout.join_files(*files) if len(files) == 2 else files[0]


def read_offsets(raw: NDArray[np.uint8] | memoryview | bytes, info: ShardInfo, *, where: str) -> NDArray[np.int64]:
    """Read and check a shard's offsets: sample i is `raw[offsets[i] : offsets[i + 1]]`.

    Args:
        raw: the whole uncompressed shard, as `join_files` joins its files.
        info: its entry in the index.
        where: names the file in errors.

    Returns:
        int64 [samples + 1], ascending, within the shard.

    Raises:
        ShardCorruptError: the shard does not match the index.
    """
    read = layout.read_offsets if isinstance(info, SplitInfo) else mds.read_offsets
    return read(raw, info, where=where)  # pyright: ignore[reportArgumentType] - chosen by the type of `info`


def decode_sample(data: bytes | memoryview, info: ShardInfo, *, where: str) -> dict[str, Any]:
    """Decode one sample into its columns, in the order of `info.column_names`.

    The result does not refer to `data`, so a mapped shard may be unmapped. `pkl` columns are unpickled, which runs any
    code in the data: check `is_mds_encoding_safe` for each column before.

    Args:
        data: the sample's bytes.
        info: the shard's entry in the index.
        where: names file and sample in errors.

    Raises:
        ShardCorruptError: the bytes are not a sample of these columns.
    """
    decode = lines.decode_line if isinstance(info, SplitInfo) else mds.decode_sample
    return decode(data, info, where=where)  # pyright: ignore[reportArgumentType] - chosen by the type of `info`


@dataclass(frozen=True, slots=True)
class Mixed:
    """The shards of a dataset of which some are not MDS. See `Container`.

    Args:
        index: the content of `index.json`.
    """

    index: Index

    @property
    def shards(self) -> Sequence[ShardInfo]:
        """All shards, in order."""
        return self.index.shards

    @property
    def extra(self) -> Mapping[str, object]:
        """See `Container.extra`."""
        return self.index.extra

    def rows(self, shard: int) -> RowLayout:
        """See `Container.rows`."""
        info = self.index.shards[shard]
        return layout.layout_of(info) if isinstance(info, SplitInfo) else _OFFSETS

    def check(self, shard: int, data: UInt8, *, where: str) -> None:
        """See `Container.check`."""
        read_offsets(data, self.index.shards[shard], where=where)

    def header(self, shard: int, data: UInt8) -> UInt8:
        """See `Container.header`: of a split shard, its whole meta file."""
        info = self.index.shards[shard]
        return data[: info.meta.bytes if info.meta is not None else int(data[4:8].view("<u4")[0])]

    def decode(self, shard: int, row: bytes, *, where: str) -> dict[str, Any]:
        """See `Container.decode`."""
        return decode_sample(row, self.index.shards[shard], where=where)
