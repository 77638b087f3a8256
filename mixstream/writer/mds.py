"""`MDSWriter`: samples in, MDS shards and their index out."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from mixstream.formats import FileInfo, ShardInfo, encode_sample, encode_shard, get_mds_encoded_size
from mixstream.formats.mds.shard import encode_config
from mixstream.writer.base import Writer
from mixstream.writer.options import mds_columns


class MDSWriter(Writer):
    """Writes samples into MDS shards and, at the end, their index.

    Use it as a context manager. Leaving the block normally writes `index.json`; leaving it by an exception does not.

    >>> import os
    >>> import numpy as np
    >>> with MDSWriter(out="corpus", columns={"tokens": "ndarray:uint16:3"}, size_limit="1kb") as writer:
    ...     for i in range(100):  # a sample takes 4 + 6 bytes, and a header about 200
    ...         writer.write({"tokens": np.array([i, i + 1, i + 2], dtype=np.uint16)})
    >>> sorted(os.listdir("corpus"))
    ['index.json', 'shard.00000.mds', 'shard.00001.mds']

    Args:
        columns: encoding of each column, by name. Further keys of a sample are ignored.
        out: the output: a directory (path or `file://` URL, created if missing), the URL of a directory in an object
            store (`s3://`, `gs://`, `az://`, or one of fsspec's), or a pair `(local, remote)` of both.
        keep_local: with `(local, remote)`: True writes to both, False to `remote` only.
        compression: `zstd[:1-22]`, `gz[:0-9]`, `bz2[:1-9]`, `br[:0-11]`, `snappy` or None. With one, only compressed
            files are stored.
        hashes: names of hashes to store for each file, sorted (`mixstream.formats.hash_names`).
        size_limit: largest size of a shard file in bytes, as a number or a text (`"64mb"`, units of 1024); None for the
            limit of the format. A single sample that is larger gets a shard of its own.
        progress_bar: show the number of written (or uploaded) shards and bytes on the terminal.
        max_workers: threads that compress, hash and write, and the largest number of finished shards that wait for them
            in memory. None for four, or the number of cores if that is smaller.
        retry: how often writing a file is repeated after an OSError, with growing pauses. For a store, only transient
            errors (no answer, 5xx) count; 429 and 503 are waited out, and missing rights are final.
        exist_ok: True removes the index, and then the shards, in the output before writing; other files stay. False
            refuses an output that is not empty.
        metadata: further top-level keys for `index.json`, with values that JSON can hold (token counts, provenance).
            The attribute `metadata` can be changed until `finish`. Readers ignore unknown keys.

    Raises:
        ConfigError: an argument is invalid.
        EncodingError: the encoding of a column is unknown.
        OutputExistsError: the output is not empty, another writer is at work there, or it belongs to `mixstream
            convert` (also a FileExistsError).
        StoreError: the remote cannot be listed (also an OSError).
    """

    def __init__(
        self,
        *,
        columns: Mapping[str, str],
        out: str | os.PathLike[str] | tuple[str | os.PathLike[str], str | os.PathLike[str]],
        keep_local: bool = False,
        compression: str | None = None,
        hashes: Sequence[str] | None = None,
        size_limit: int | str | None = 1 << 26,
        progress_bar: bool = False,
        max_workers: int | None = None,
        retry: int = 2,
        exist_ok: bool = False,
        metadata: Mapping[str, object] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            out=out,
            keep_local=keep_local,
            compression=compression,
            hashes=hashes,
            size_limit=size_limit,
            progress_bar=progress_bar,
            max_workers=max_workers,
            retry=retry,
            exist_ok=exist_ok,
            metadata=metadata,
            **kwargs,
        )
        self.columns = mds_columns(columns)
        self.column_names = list(self.columns)
        self.column_encodings = list(self.columns.values())
        self.column_sizes = [get_mds_encoded_size(encoding) for encoding in self.column_encodings]
        template = ShardInfo(
            samples=0,
            column_names=tuple(self.column_names),
            column_encodings=tuple(self.column_encodings),
            column_sizes=tuple(self.column_sizes),
            compression=self.compression,
            hashes=tuple(self.hashes),
            size_limit=self.size_limit,
            raw=FileInfo(basename="", bytes=0, hashes={}),
            zip=None,
        )
        self._begin(template, empty=8 + len(encode_config(template.config())), hidden=0, each=4)

    def encode_sample(self, sample: Mapping[str, Any]) -> bytes:
        """Return one sample as the bytes in a shard."""
        return encode_sample(sample, names=self.column_names, encodings=self.column_encodings, sizes=self.column_sizes)

    def encode_joint_shard(self) -> bytes:
        """Return the bytes of the current shard."""
        return encode_shard(self._new_samples, self.get_config())

    def _encode_files(self) -> tuple[bytes, ...]:
        return (self.encode_joint_shard(),)
