"""Writes a dataset: samples in, shards and `index.json` out (`specs/mds.md`, `specs/streaming_api.md` section 1.9).

The shell around `mixstream.formats`, which encodes, and `storage.destination`, which stores. It owns the threads
between them. For the same input it writes what MDSWriter of mosaicml-streaming writes, byte for byte. Its own laws:

- Every file appears whole, the index last. What has an index is complete; after an exception, or `kill -9` at any
  instant, there is none. Shards written by then stay, for a look or a rescue.
- A shard never passes 2**32 - 1 bytes, which its offsets cannot address, and is never empty.
- Compressing, hashing and writing (or uploading) run on threads; how many shards wait for them, in memory, is bounded.
  What goes wrong there is raised by the next call, as it was.

Differences from that package: what a column cannot hold is refused (300 or 3.7 in a `uint8`, 1e6 in a `float16`), not
stored as another number; a gzip header holds no time of day; an upload takes its bytes from memory, so with
`(local, remote)` nothing is written to `local` unless `keep_local`; a remote that holds anything is refused too.
"""

import os
import threading
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
from mixstream.storage import INDEX, find_destinations, prepare_destinations
from mixstream.units import parse_bytes


class MDSWriter:
    """Writes samples into MDS shards and, at the end, their index.

    Use it as a context manager: leaving the block normally finishes the dataset, leaving it by an exception does not,
    and then there is no `index.json`.

    Args:
        columns: encoding of each column, by name. A sample's further keys are ignored.
        out: where to: a directory (path or `file://` URL, made if need be), the URL of a directory of an object store
            (`s3://`, `gs://`, `az://`, or one that fsspec knows), or `(local, remote)`, a directory and either.
        keep_local: with `(local, remote)`: write to both. Otherwise to `remote` alone.
        compression: `zstd[:1-22]`, `gz[:0-9]`, `bz2[:1-9]`, `br[:0-11]`, `snappy` or None; then only that is stored.
        hashes: names of hashes to note for each file, sorted (`mixstream.formats.hash_names`).
        size_limit: largest size of a shard file in bytes, as a number or a text (`"64mb"`, of 1024s); None for the
            largest that the format can address. A sample that alone is larger gets a shard to itself.
        progress_bar: show on the terminal how many shards and bytes are written, at a remote: uploaded.
        max_workers: threads that compress, hash and write; as many finished shards at most wait for them, in memory.
            None for four, or the number of cores if that is smaller.
        retry: how often writing a file is tried again after an OSError, with a growing pause; at a store only after
            what may pass (no answer, 5xx), while 429 and 503 are waited out and refused rights are final.
        exist_ok: remove the index and then the shards that the place holds, and start anew; other files stay. Without
            it, a place that holds anything is refused.
        metadata: further top-level keys for `index.json`, values as JSON holds them (token counts, provenance).
            Can be changed until `finish`, as the attribute `metadata`. Readers that do not know a key ignore it.

    Raises:
        ConfigError: an argument that cannot be.
        EncodingError: a column's encoding is not known.
        OutputExistsError: the place is not empty (also a FileExistsError).
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
        self.compression = _check_compression(compression)
        self.hashes = _check_hashes(hashes or ())
        self.size_limit = _check_size_limit(size_limit)
        self.metadata = dict(metadata or {})
        _dump(self.metadata, [])

        retry = _at_least("retry", retry, 0)
        self._workers = _at_least("max_workers", min(4, os.cpu_count() or 1) if max_workers is None else max_workers, 1)
        self.local, self.remote, self._destinations = find_destinations(out, keep_local=keep_local, retry=retry)
        prepare_destinations(self._destinations, exist_ok=exist_ok)

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
        """Add one sample. It may complete a shard, and then waits if `max_workers` shards are still being stored.

        Raises:
            MissingColumnError: the sample lacks a column (also a KeyError).
            EncodingError: a value that its column cannot hold, or a sample too large for any shard.
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
        """Store what is left and write the index. The second call does nothing.

        Raises:
            OSError: a file could not be written.
            ConfigError: `metadata` holds what JSON cannot; correct it and call again.
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
        """Complete the current shard, if it holds a sample, and hand it to the threads that store it."""
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
        """Give up: no further shard is stored and no index written. What the exception path of `with` does."""
        if not self._closed:
            self._close("cancelled")

    def encode_sample(self, sample: Mapping[str, Any]) -> bytes:
        """Encode one sample as it will stand in a shard."""
        return encode_sample(sample, names=self.column_names, encodings=self.column_encodings, sizes=self.column_sizes)

    def encode_joint_shard(self) -> bytes:
        """Encode the samples of the current shard as the file's bytes."""
        return encode_shard(self._new_samples, self.get_config())

    def get_config(self) -> dict[str, Any]:
        """Return what every shard of this dataset says of itself."""
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
        """Take the entries of stored shards, in order, until at most `waiting` are left behind."""
        try:
            while len(self._storing) > waiting or self._failed is not None:
                self._shards.append((self._failed or self._storing.popleft()).result())
        except BaseException:
            self.cancel_future_jobs()  # a dataset that lacks a shard must get no index
            raise

    def _note_failure(self, future: Future[ShardInfo]) -> None:
        if not future.cancelled() and future.exception() is not None:
            self._failed = self._failed or future

    def _store(self, basename: str, data: bytes, samples: int) -> ShardInfo:
        """Compress, hash and write one shard; runs on a thread and touches nothing that another one does."""
        raw, zipped = self._describe(basename, data), None
        if self.compression:
            basename, data = f"{basename}.{extension(self.compression)}", compress(self.compression, data)
            zipped = self._describe(basename, data)
        for destination in self._destinations:
            destination.write(basename, data)
        with self._lock:
            self._stored_shards, self._stored_bytes = self._stored_shards + 1, self._stored_bytes + len(data)
            for task in self._bar.task_ids:
                told = f"{self._stored_shards} shards, {self._stored_bytes / 1e6:.1f} MB"
                self._bar.update(task, description=told)
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
        if self._bar.task_ids:
            self._bar.stop()


def _check_columns(columns: Mapping[str, str]) -> dict[str, str]:
    if not columns or not all(isinstance(name, str) for name in columns):
        raise ConfigError(f"columns is {columns!r}; name at least one, as in columns={{'tokens': 'ndarray:int32'}}")
    for name, encoding in columns.items():
        if not is_mds_encoding(encoding):
            raise EncodingError(
                f"MDSWriter passed column {name!r} with encoding {encoding!r} is unsupported. "
                f"Supported encodings are {', '.join(sorted(get_mds_encodings()))}, also ndarray:DTYPE[:DIM,DIM,...]"
            )
    return {name: columns[name] for name in sorted(columns)}


def _check_compression(compression: str | None) -> str | None:
    if compression:
        compress(compression, b"")  # an unknown name or a missing package shows now, not after hours
    return compression or None


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
        raise ConfigError(f"metadata cannot stand in index.json: {error}") from error
