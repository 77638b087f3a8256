"""sample -> bytes: a domain's shards, opened when they are needed and mapped, never read whole.

Rules: sizes are checked against the index before a byte is believed; a shard is validated once, when it is mapped;
memory is O(shards), plus the page cache. What a row decodes to is `formats`' business, where a file is `storage`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError, IndexCorruptError, ShardCorruptError, UnsafeEncodingError
from mixstream.formats import Index, ShardInfo, decode_sample, decompress, hash_hex, parse_index, read_offsets
from mixstream.formats import is_mds_encoding_safe as is_safe
from mixstream.storage import DatasetFiles, map_file


@dataclass(frozen=True, kw_only=True)
class Domain:
    """A named corpus: its shards, and how to read them.

    Args:
        name: what weights, metrics and errors call it.
        index: its shards.
        files: where they are.
        validate_hash: name of the hash that shards are checked against when they are first mapped; None for none.
    """

    name: str
    index: Index
    files: DatasetFiles
    validate_hash: str | None = None

    @classmethod
    def open(
        cls, *, name: str, files: DatasetFiles, validate_hash: str | None = None, allow_unsafe_types: bool = False
    ) -> Domain:
        """Read and check the index of a dataset.

        Raises:
            IndexNotFoundError: there is none.
            IndexCorruptError: it says what cannot be.
            UnsafeEncodingError: a column is pickled, and that was not allowed.
        """
        data, where = files.read_index()
        domain = cls(name=name, index=parse_index(data, where=where), files=files, validate_hash=validate_hash)
        for columns in {shard.column_encodings: shard.columns for shard in domain.index.shards}.values():
            for column, encoding in columns.items():
                if not allow_unsafe_types and not is_safe(encoding):
                    raise UnsafeEncodingError(
                        f"{where}: Column {column} contains an unsafe type: {encoding}. Decoding it runs code from the "
                        "shard; if you trust its origin, pass allow_unsafe_types=True"
                    )
        if validate_hash is not None:
            for shard in domain.index.shards:
                if validate_hash not in shard.hashes:
                    raise ConfigError(
                        f"{where}: validate_hash={validate_hash!r}, but shard {shard.raw.basename} carries the hashes "
                        f"{list(shard.hashes)}; choose one of these, or None"
                    )
        return domain

    @cached_property
    def samples_S(self) -> NDArray[np.int64]:
        """Samples per shard, int64 [S]."""
        return np.fromiter((s.samples for s in self.index.shards), dtype=np.int64, count=len(self.index.shards))

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the content, as far as the index tells it: hex of 128 bits, equal wherever the files lie."""
        digest = blake2b(digest_size=16)
        for shard in self.index.shards:
            facts = (
                shard.raw.basename,
                shard.samples,
                shard.raw.bytes,
                shard.column_names,
                shard.column_encodings,
                sorted(shard.raw.hashes.items()),
            )
            digest.update(repr(facts).encode())
        return digest.hexdigest()

    def map(self, number: int) -> NDArray[np.uint8]:
        """Return shard `number`, mapped and validated: uint8 [bytes], read-only, mapped as long as the array lives.

        Raises:
            ShardNotFoundError: no file of the shard is there.
            ShardCorruptError: it is not what the index says.
        """
        try:
            return self._map(self.index.shards[number])
        except Exception as error:
            error.add_note(f"domain {self.name!r}, shard {number} of {len(self.index.shards)}")
            raise

    def record(self, number: int, row: int, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the stored bytes of one sample of shard `number`, whose bytes are `data`."""
        info = self.index.shards[number]
        if not 0 <= row < info.samples:
            raise IndexError(f"row {row} of shard {info.raw.basename}, which has {info.samples} samples")
        begin, end = data[4 + 4 * row : 12 + 4 * row].view("<u4").tolist()
        return data[begin:end]

    def decode(self, number: int, row: int, data: NDArray[np.uint8]) -> dict[str, Any]:
        """Return one sample of shard `number`, decoded: column -> value, columns sorted by name."""
        info = self.index.shards[number]
        where = f"{info.raw.basename}, sample {row}"
        try:
            return decode_sample(self.record(number, row, data).tobytes(), info, where=where)
        except Exception as error:
            error.add_note(f"domain {self.name!r}, shard {info.raw.basename} in {self.files.describe()}, sample {row}")
            raise

    def _map(self, info: ShardInfo) -> NDArray[np.uint8]:
        path = self._raw_file(info)
        data = map_file(path)
        read_offsets(data, info, where=str(path))
        if self.validate_hash is not None:
            self._check(data, info.raw.hashes, str(path))
        return data

    def _raw_file(self, info: ShardInfo) -> Path:
        if (path := self.files.find(info.raw.basename, info.raw.bytes)) is not None:
            return path
        if info.zip is None or info.compression is None:
            raise self.files.missing(info.raw.basename)
        packed = self.files.find(info.zip.basename, info.zip.bytes)
        if packed is None:
            raise self.files.missing(info.raw.basename, info.zip.basename)
        return self.files.write(info.raw.basename, info.raw.bytes, lambda: self._unpack(info, packed))

    def _unpack(self, info: ShardInfo, packed: Path) -> bytes:
        assert info.zip is not None and info.compression is not None  # noqa: PT018 - one fact about one shard
        data = packed.read_bytes()
        if self.validate_hash is not None:
            self._check(data, info.zip.hashes, str(packed))
        return decompress(info.compression, data, raw_bytes=info.raw.bytes, where=str(packed))

    def _check(self, data: Any, hashes: Any, where: str) -> None:
        assert self.validate_hash is not None
        if (expected := hashes.get(self.validate_hash)) is None:
            raise IndexCorruptError(
                f"{where}: the index names the hash {self.validate_hash} and does not give it; write the dataset "
                "again, or pass validate_hash=None"
            )
        if (found := hash_hex(self.validate_hash, data)) != expected:
            raise ShardCorruptError(
                f"Checksum failure: {where}: {self.validate_hash} is {found}, the index says {expected}; "
                "the file is damaged or belongs to another index: copy it again from its origin"
            )
