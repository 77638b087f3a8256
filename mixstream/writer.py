"""Writes a dataset: samples in, shards and `index.json` out (`specs/mds.md`, `specs/streaming_api.md` section 1.9).

`mixstream.formats` encodes, `storage.destination` stores, and this file owns the threads between them. For the same
input it writes the same bytes as MDSWriter of mosaicml-streaming. Its rules:

- Every file appears whole, the index last, so a dataset with an index is complete. After an exception, or `kill -9` at
  any instant, there is no index. The shards written until then stay.
- A directory has one writer at a time; a second one is refused (those who write in parallel use `merge_index`). A
  store has no locks: there a writer leaves a mark, and fails before its next file once another has replaced it.
- A shard is never empty and never larger than 2**32 - 1 bytes, the limit of its offsets.
- Threads compress, hash and write (or upload). The number of shards that wait for them in memory is bounded. The next
  call raises their errors, unchanged.

Differences from mosaicml-streaming:

- A value that a column cannot hold (300 or 3.7 in a `uint8`, 1e6 in a `float16`) raises an error. mosaicml-streaming
  stores another number.
- A gzip header contains no time of day.
- Uploads take their bytes from memory. With `(local, remote)`, nothing is written to `local` unless `keep_local`.
- A remote that is not empty is refused too.
"""

import os
import threading
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Self

from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from mixstream.errors import ConfigError, EncodingError
from mixstream.formats.compression import compress, extension
from mixstream.formats.hashing import hash_hex, hash_names, is_hash
from mixstream.formats.mds.encodings import get_mds_encoded_size, get_mds_encodings, is_mds_encoding
from mixstream.formats.mds.index import MAX_OFFSET, FileInfo, Index, ShardInfo, dump_index
from mixstream.formats.mds.shard import encode_config, encode_sample, encode_shard
from mixstream.storage import INDEX, Destination, find_destinations, prepare_destinations
from mixstream.units import parse_bytes, show_bytes


class MDSWriter:
    """Writes samples into MDS shards and, at the end, their index.

    Use it as a context manager. Leaving the block normally writes `index.json`; leaving it by an exception does not.

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
        **kwargs: object,
    ) -> None:
        if kwargs:
            raise ConfigError(f"Invalid Writer argument(s): {sorted(kwargs)}; MDSWriter has no such argument")
        self.columns = _check_columns(columns)
        self.column_names = list(self.columns)
        self.column_encodings = list(self.columns.values())
        self.column_sizes = [get_mds_encoded_size(encoding) for encoding in self.column_encodings]
        self.compression = compression or None
        if self.compression:
            compress(self.compression, b"")  # raises for an unknown name or a missing package
        self.hashes = _check_hashes(hashes or ())
        self.size_limit = _check_size_limit(size_limit)
        self.metadata = dict(metadata or {})
        _dump(self.metadata, [])

        retry = _at_least("retry", retry, 0)
        self._workers = _at_least("max_workers", min(4, os.cpu_count() or 1) if max_workers is None else max_workers, 1)
        self.local, self.remote, self._destinations = find_destinations(out, keep_local=keep_local, retry=retry)
        prepare_destinations(self._destinations, exist_ok=exist_ok)
        weakref.finalize(self, _unlock, self._destinations)  # a writer that is neither finished nor closed

        self._lock = threading.Lock()
        self._stored_shards = self._stored_bytes = 0
        self._bar = Progress(TextColumn("{task.description}"), TimeElapsedColumn(), console=Console(stderr=True))
        if progress_bar:
            self._bar.start()
            self._bar.add_task("0 shards")
        self._pool: ThreadPoolExecutor | None = None
        self._storing: deque[Future[ShardInfo]] = deque()
        self._failed: Future[ShardInfo] | None = None
        self._shards: list[ShardInfo] = []
        self._closed = ""
        self._template = ShardInfo(
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
        self._empty_shard_bytes = 8 + len(encode_config(self.get_config()))
        self._reset()

    def write(self, sample: Mapping[str, Any]) -> None:
        """Add one sample. If it completes a shard while `max_workers` shards are being stored, wait for one of them.

        Raises:
            MissingColumnError: the sample lacks a column (also a KeyError).
            EncodingError: a column cannot hold its value, or the sample is too large for any shard.
            OSError: an earlier shard could not be written.
        """
        self._require_open()
        if self._failed is not None:
            self._collect(waiting=0)
        encoded = self.encode_sample(sample)
        cost = 4 + len(encoded)
        if self._empty_shard_bytes + cost > MAX_OFFSET:
            raise EncodingError(f"the sample has {len(encoded)} bytes, a whole shard at most {MAX_OFFSET}; split it")
        if (self.size_limit or MAX_OFFSET) < self._new_bytes + cost:
            self.flush_shard()
        self._new_samples.append(encoded)
        self._new_bytes += cost

    def finish(self) -> None:
        """Store the last shard and write the index. A second call does nothing.

        Raises:
            OSError: a file could not be written.
            ConfigError: JSON cannot hold `metadata`; correct it and call again.
        """
        if self._closed == "finished":
            return
        self._require_open()
        self.flush_shard()
        self._collect(waiting=0)
        index = _dump(self.metadata, self._shards)
        for destination in self._destinations:
            destination.write(INDEX, index)
        self._close("finished")

    def flush_shard(self) -> None:
        """Complete the current shard, if it holds a sample, and pass it to the threads that store it."""
        self._require_open()
        if not self._new_samples:
            return
        self._collect(waiting=self._workers - 1)
        position = len(self._shards) + len(self._storing)
        self._pool = self._pool or ThreadPoolExecutor(self._workers, thread_name_prefix="mixstream-writer")
        shard = self.encode_joint_shard()
        future = self._pool.submit(self._store, f"shard.{position:05}.mds", shard, len(self._new_samples))
        self._storing.append(future)
        future.add_done_callback(self._note_failure)
        self._reset()

    def cancel_future_jobs(self) -> None:
        """Stop: no further shard is stored and no index is written. An exception inside `with` does the same."""
        if not self._closed:
            self._close("cancelled")

    def encode_sample(self, sample: Mapping[str, Any]) -> bytes:
        """Return one sample as the bytes in a shard."""
        return encode_sample(sample, names=self.column_names, encodings=self.column_encodings, sizes=self.column_sizes)

    def encode_joint_shard(self) -> bytes:
        """Return the bytes of the current shard."""
        return encode_shard(self._new_samples, self.get_config())

    def get_config(self) -> dict[str, Any]:
        """Return the config that every shard of this dataset contains."""
        return self._template.config()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        try:
            if exc_type is None and not self._closed:
                self.finish()
        finally:
            self.cancel_future_jobs()

    def _reset(self) -> None:
        self._new_samples: list[bytes] = []
        self._new_bytes = self._empty_shard_bytes

    def _require_open(self) -> None:
        if self._closed:
            raise ConfigError(f"this writer is {self._closed}; open a new one to write more")

    def _collect(self, *, waiting: int) -> None:
        """Take the entries of stored shards, in order, until at most `waiting` shards are being stored."""
        try:
            while len(self._storing) > waiting or self._failed is not None:
                self._shards.append((self._failed or self._storing.popleft()).result())
        except BaseException:
            self.cancel_future_jobs()  # a dataset that lacks a shard gets no index
            raise

    def _note_failure(self, future: Future[ShardInfo]) -> None:
        if not future.cancelled() and future.exception() is not None:
            self._failed = self._failed or future

    def _store(self, basename: str, data: bytes, samples: int) -> ShardInfo:
        """Compress, hash and write one shard; runs on a thread."""
        raw, zipped = self._describe(basename, data), None
        if self.compression:
            basename, data = f"{basename}.{extension(self.compression)}", compress(self.compression, data)
            zipped = self._describe(basename, data)
        for destination in self._destinations:
            destination.write(basename, data)
        with self._lock:
            self._stored_shards, self._stored_bytes = self._stored_shards + 1, self._stored_bytes + len(data)
            for task in self._bar.task_ids:
                text = f"{self._stored_shards} shards, {show_bytes(self._stored_bytes)}"
                self._bar.update(task, description=text)
        return replace(self._template, samples=samples, raw=raw, zip=zipped)

    def _describe(self, basename: str, data: bytes) -> FileInfo:
        return FileInfo(basename=basename, bytes=len(data), hashes={name: hash_hex(name, data) for name in self.hashes})

    def _close(self, state: str) -> None:
        self._closed = state
        self._reset()
        if state == "cancelled":
            for destination in self._destinations:
                destination.stop()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._storing.clear()
        _unlock(self._destinations)
        if self._bar.task_ids:
            self._bar.stop()


def _unlock(destinations: Sequence[Destination]) -> None:
    for destination in destinations:
        destination.unlock()


def _check_columns(columns: Mapping[str, str]) -> dict[str, str]:
    if not columns or not all(isinstance(name, str) for name in columns):
        raise ConfigError(f"columns is {columns!r}; name at least one, as in columns={{'tokens': 'ndarray:int32'}}")
    for name, encoding in columns.items():
        if not is_mds_encoding(encoding):
            raise EncodingError(
                f"column {name!r} with encoding {encoding!r} is unsupported. "
                f"Supported encodings are {', '.join(sorted(get_mds_encodings()))}, also ndarray:DTYPE[:DIM,DIM,...]"
            )
    return {name: columns[name] for name in sorted(columns)}


def _check_hashes(hashes: Sequence[str]) -> list[str]:
    if list(hashes) != sorted(set(hashes)):
        raise ConfigError(f"Hashes must be unique and in sorted order, got {list(hashes)}; give {sorted(set(hashes))}")
    for name in hashes:
        if not is_hash(name):
            raise ConfigError(f"Invalid hash: {name!r}; choose among {', '.join(hash_names())}")
    return list(hashes)


def _check_size_limit(size_limit: int | str | None) -> int | None:
    number = None if size_limit is None else parse_bytes(size_limit)
    if number is not None and not 0 < number <= MAX_OFFSET:
        raise ConfigError(f"size_limit is {size_limit!r}; give 1 to {MAX_OFFSET} bytes, or None for the largest")
    return number


def _at_least(name: str, value: int, least: int) -> int:
    if value < least:
        raise ConfigError(f"{name} is {value}; give {least} or more")
    return value


def _dump(metadata: Mapping[str, object], shards: Sequence[ShardInfo]) -> bytes:
    try:
        return dump_index(Index(shards=tuple(shards), extra=metadata))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"metadata cannot be stored in index.json: {error}") from error
