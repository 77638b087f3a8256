"""One shard on local disk by its entry in an index: `reader_from_json`, and a class for each format.

For programs that open shards themselves, by the names of mosaicml-streaming. Datasets do not use this: they read
through a cache, and check what they read against it. Rules: nothing is downloaded and nothing is written; a shard of
which only compressed files are there is decompressed in memory.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from mixstream.errors import ConfigError, ShardNotFoundError, UnsafeEncodingError
from mixstream.formats import (
    FileInfo,
    ShardInfo,
    SplitInfo,
    decode_sample,
    decompress,
    is_mds_encoding_safe,
    join_files,
    parse_index,
    read_offsets,
)
from mixstream.types import Int64


class ShardReader:
    """The samples of one shard, by number: `len`, `reader[number]`, slices, lists, and iteration.

    >>> import mixstream as ms
    >>> with ms.JSONWriter(columns={"id": "int"}, out="corpus") as writer:
    ...     for i in range(3):
    ...         writer.write({"id": i})
    >>> entry = json.loads(Path("corpus/index.json").read_text())["shards"][0]
    >>> reader = reader_from_json("corpus", None, entry)
    >>> type(reader).__name__, len(reader), reader[1], reader.column_names
    ('JSONReader', 3, {'id': 1}, ['id'])

    Args:
        dirname: directory of the dataset.
        split: sub-directory; None for none.
        info: the shard's entry.

    Attributes:
        samples: how many samples there are.
        column_names: sorted.
        column_encodings: aligned with the names.
        raw_data, zip_data: its files, uncompressed and compressed (or None); `raw_meta` and `zip_meta` of JSON, CSV,
            TSV and XSV shards.
        file_pairs: all of them, as (uncompressed, compressed).
    """

    format: ClassVar[str] = ""

    def __init__(self, dirname: str | os.PathLike[str], split: str | None, info: ShardInfo) -> None:
        self.dirname, self.split = os.fspath(dirname), split or ""
        self.info, self.samples, self.size_limit = info, info.samples, info.size_limit
        self.compression, self.hashes = info.compression, list(info.hashes)
        self.column_names, self.column_encodings = list(info.column_names), list(info.written_columns.values())
        self.column_sizes = list(info.column_sizes)
        self.raw_data, self.zip_data, self.raw_meta, self.zip_meta = info.raw, info.zip, info.meta, info.meta_zip
        self.file_pairs = list(info.files)
        if isinstance(info, SplitInfo):
            self.newline, self.separator = info.newline, info.separator
        self._allowed = False
        self._content: tuple[bytes, Int64] | None = None

    @classmethod
    def from_json(cls, dirname: str | os.PathLike[str], split: str | None, obj: Mapping[str, Any]) -> Self:
        """Return the reader of an entry of an index.

        Raises:
            ConfigError: it is of another format than the class.
            IndexCorruptError: it is not valid.
        """
        if cls.format and obj.get("format") != cls.format:
            raise ConfigError(f"Unsupported data format: {obj.get('format')}. Expected to be `{cls.format}`.")
        index = json.dumps({"version": 2, "shards": [dict(obj)]}).encode()
        return cls(dirname, split, parse_index(index, where=f"the entry of a shard in {os.fspath(dirname)}").shards[0])

    @property
    def size(self) -> int:
        """How many samples there are."""
        return self.samples

    def __len__(self) -> int:
        return self.samples

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(self.get_item, range(self.samples))

    def __getitem__(self, at: int | slice | Sequence[int] | np.ndarray) -> Any:
        """Return sample number `at`; a list of samples for a slice, a list or an array of numbers."""
        if isinstance(at, int | np.integer):
            if not -self.samples <= at < self.samples:
                raise IndexError(f"sample {at} of a shard that has {self.samples}")
            return self.get_item(int(at) % self.samples)
        numbers = range(*at.indices(self.samples)) if isinstance(at, slice) else at
        return [self[number] for number in numbers]

    def get_item(self, idx: int) -> dict[str, Any]:
        """Return the decoded sample number `idx`, from 0: column -> value.

        Raises:
            UnsafeEncodingError: a column is pickled, and `validate` did not allow that.
            ShardNotFoundError, ShardCorruptError: a file is not there, or not what the entry says.
        """
        return self.decode_sample(self.get_sample_data(idx))

    def get_sample_data(self, idx: int) -> bytes:
        """Return the stored bytes of a sample."""
        if not 0 <= idx < self.samples:
            raise IndexError(f"sample {idx} of a shard that has {self.samples}")
        self._content = self._content or self._read()
        data, offsets = self._content
        return data[int(offsets[idx]) : int(offsets[idx + 1])]

    def decode_sample(self, data: bytes) -> dict[str, Any]:
        """Return the values of a sample from its bytes."""
        if not self._allowed:
            self.validate(allow_unsafe_types=False)
        return decode_sample(data, self.info, where=self.raw_data.basename)

    def validate(self, allow_unsafe_types: bool) -> None:
        """Allow pickled columns, which run code from the shard when they are read; or raise if there are any.

        Raises:
            UnsafeEncodingError: there are, and `allow_unsafe_types` is False.
        """
        for name, encoding in self.info.columns.items():
            if not allow_unsafe_types and not is_mds_encoding_safe(encoding):
                raise UnsafeEncodingError(
                    f"{self.raw_data.basename}: Column {name} contains an unsafe type: {encoding}. Decoding it runs "
                    "code from the shard; if you trust its origin, call validate(allow_unsafe_types=True)"
                )
        self._allowed = allow_unsafe_types

    def get_raw_size(self) -> int:
        """Return the bytes of its uncompressed files."""
        return self.info.raw_bytes

    def get_zip_size(self) -> int | None:
        """Return the bytes of its compressed files; None without compression."""
        return self.info.zip_bytes if self.zip_data is not None else None

    def _read(self) -> tuple[bytes, Int64]:
        data = join_files([self._file(raw, packed) for raw, packed in self.info.files])
        return data, read_offsets(data, self.info, where=self.raw_data.basename)

    def _file(self, raw: FileInfo, packed: FileInfo | None) -> bytes:
        place = Path(self.dirname, self.split)
        if packed is None or (place / raw.basename).exists():
            packed = None
        try:
            data = (place / (packed or raw).basename).read_bytes()
        except FileNotFoundError as error:
            raise ShardNotFoundError(f"{error.filename}: the index names it, and it is not there") from error
        return (
            data if packed is None else decompress(self.compression, data, raw_bytes=raw.bytes, where=packed.basename)
        )


class MDSReader(ShardReader):
    """The samples of an MDS shard."""

    format = "mds"


class JSONReader(ShardReader):
    """The samples of a JSON shard."""

    format = "json"


class XSVReader(ShardReader):
    """The samples of an XSV shard."""

    format = "xsv"


class CSVReader(XSVReader):
    """The samples of a CSV shard."""

    format = "csv"


class TSVReader(XSVReader):
    """The samples of a TSV shard."""

    format = "tsv"


_READERS = {reader.format: reader for reader in (MDSReader, JSONReader, XSVReader, CSVReader, TSVReader)}


def reader_from_json(dirname: str | os.PathLike[str], split: str | None, obj: Mapping[str, Any]) -> ShardReader:
    """Return the reader of an entry of an index, of the class of its format.

    Raises:
        IndexCorruptError: the entry is not valid.
    """
    return _READERS.get(obj.get("format", ""), ShardReader).from_json(dirname, split, obj)
