"""What new shards are like: their columns, and the options of their files."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace

import numpy as np

from mixstream import MDSWriter
from mixstream.errors import ConfigError
from mixstream.formats import FileInfo, ShardInfo, get_mds_encoded_size
from mixstream.units import parse_bytes

DTYPES = ("uint16", "uint32", "int32", "int64")
_KEEP = "keep"


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """The options that decide the bytes of new shards.

    Args:
        size_limit: largest size of a shard in bytes.
        compression: as for MDSWriter; None for none, `keep` for that of the old shards.
        hashes: names of hashes of each file, sorted; None for those of the old shards.
        dtype: of the tokens; None for that of the old shards.
        column: that holds the tokens.
        seed: of the order; None for the order of the old shards.
    """

    size_limit: int = 1 << 26
    compression: str | None = _KEEP
    hashes: tuple[str, ...] | None = None
    dtype: str | None = None
    column: str = "tokens"
    seed: int | None = None

    def __post_init__(self) -> None:
        """Check what does not depend on a dataset."""
        if self.dtype is not None and self.dtype not in DTYPES:
            raise ConfigError(f"--dtype {self.dtype}: give {', '.join(DTYPES)}.")
        if self.seed is not None and not 0 <= self.seed < 1 << 63:
            raise ConfigError(f"--shuffle-seed {self.seed}: give a number from 0 to 2**63 - 1.")

    def entry(self, old: ShardInfo) -> ShardInfo:
        """Return the entry of a new shard of such rows as `old` has, without samples and files.

        Raises:
            ConfigError: the dtype of a column that is not there, or not of token arrays, is to be changed; or an
                option is unknown.
        """
        encodings = dict(old.columns)
        if self.dtype is not None:
            encodings[self.column] = self._encoding(encodings)
        compression = old.compression if self.compression == _KEEP else self.compression
        hashes = old.hashes if self.hashes is None else self.hashes
        with tempfile.TemporaryDirectory() as scratch:  # raises now what is wrong
            writer = MDSWriter(
                out=scratch, columns=encodings, compression=compression, hashes=hashes, size_limit=self.size_limit
            )
            writer.cancel_future_jobs()
        return replace(
            old,
            samples=0,
            column_encodings=tuple(encodings.values()),
            column_sizes=tuple(get_mds_encoded_size(encoding) for encoding in encodings.values()),
            compression=writer.compression,
            hashes=tuple(writer.hashes),
            size_limit=writer.size_limit,
            raw=FileInfo(basename="", bytes=0, hashes={}),
            zip=None,
        )

    def _encoding(self, encodings: dict[str, str]) -> str:
        old = encodings.get(self.column)
        kind, _, rest = (old or "").partition(":")
        dtype, _, shape = rest.partition(":")
        if old is None or kind != "ndarray" or not dtype or np.dtype(dtype).kind not in "iu":
            has = f"is of {old!r}" if old is not None else f"is not there; there are {', '.join(encodings)}"
            raise ConfigError(
                f"--dtype {self.dtype}: column {self.column!r} {has}. Name a column of integer arrays of one dtype "
                "(ndarray:uint16:…) with --column, or leave --dtype out."
            )
        return f"ndarray:{self.dtype}{f':{shape}' if shape else ''}"


def parse_size_limit(text: str) -> int:
    """Return `--size-limit` in bytes."""
    return parse_bytes(text, name="--size-limit")
