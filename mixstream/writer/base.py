"""`Writer`: what writers of all formats do. Samples become shards, threads store them, and the index comes last."""

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

from mixstream.arguments import flag, shown
from mixstream.errors import ConfigError, EncodingError
from mixstream.formats import FileInfo, ShardInfo, compress, extension, hash_hex
from mixstream.formats.entry import MAX_OFFSET
from mixstream.storage import Destination, find_destinations, prepare_destinations
from mixstream.threads import Owner
from mixstream.units import show_bytes
from mixstream.writer.options import at_least, compression_name, dump, hash_list, limit_bytes

_MORE = {"progress_bar", "max_workers", "retry", "exist_ok", "metadata"}


class Writer:
    """What writers of all formats have in common. Use one of these: `MDSWriter` describes the arguments.

    A subclass calls `_begin` at the end of its constructor.
    """

    def __init__(
        self,
        *,
        out: str | os.PathLike[str] | tuple[str | os.PathLike[str], str | os.PathLike[str]],
        keep_local: bool = False,
        compression: str | None = None,
        hashes: Sequence[str] | None = None,
        size_limit: int | str | None = 1 << 26,
        **kwargs: Any,
    ) -> None:
        if unknown := sorted(kwargs.keys() - _MORE):
            raise ConfigError(f"Invalid Writer argument(s): {unknown}; {type(self).__name__} has no such argument")
        self.keep_local = flag("keep_local", keep_local)
        self.compression = compression_name(compression)
        self.hashes = hash_list(hashes)
        self.size_limit = limit_bytes(size_limit)
        self.metadata: dict[str, object] = dict(_metadata(kwargs.get("metadata")))
        dump(self.metadata, [])
        self._out, self._more = out, kwargs

    def _begin(self, template: ShardInfo, *, empty: int, hidden: int, each: int) -> None:
        """Lock the output, and be ready for the first sample.

        Args:
            template: the entry of a shard of this dataset, without samples and files.
            empty: bytes of a shard without samples that count for `size_limit`.
            hidden: those that do not count for it, but for the range of offsets.
            each: bytes that a sample takes besides its own.
        """
        more = self._more
        retry, workers = at_least("retry", more.get("retry", 2), 0), more.get("max_workers")
        self._workers = at_least("max_workers", min(4, os.cpu_count() or 1) if workers is None else workers, 1)
        self.local, self.remote, self._destinations = find_destinations(
            self._out, keep_local=self.keep_local, retry=retry
        )
        prepare_destinations(self._destinations, exist_ok=flag("exist_ok", more.get("exist_ok", False)))
        weakref.finalize(self, _unlock, self._destinations)  # a writer that is neither finished nor closed

        place = self.remote or self.local
        self._owner = Owner(f"the writer of {place}", remedy="give each process a writer and a directory of its own")
        self._lock = threading.Lock()
        self._stored_shards = self._stored_bytes = 0
        self._bar = Progress(TextColumn("{task.description}"), TimeElapsedColumn(), console=Console(stderr=True))
        if flag("progress_bar", more.get("progress_bar", False)):
            self._bar.start()
            self._bar.add_task("0 shards")
        self._pool: ThreadPoolExecutor | None = None
        self._storing: deque[Future[ShardInfo]] = deque()
        self._failed: Future[ShardInfo] | None = None
        self._shards: list[ShardInfo] = []
        self._closed = ""
        self._template = template
        self._empty_shard_bytes, self._each = empty, each
        self._most = MAX_OFFSET - hidden
        self._reset()

    def write(self, sample: Mapping[str, Any]) -> None:
        """Add one sample. If it completes a shard while `max_workers` shards are being stored, wait for one of them.

        Args:
            sample: column → value. Values without a column are not written, as mosaicml-streaming does not.

        Raises:
            MissingColumnError: the sample lacks a column (also a KeyError).
            EncodingError: a column cannot hold its value, or the sample is too large for any shard.
            OSError: an earlier shard could not be written.
        """
        self._require_open()
        if not isinstance(sample, Mapping):
            raise EncodingError(f"a sample is a dict of column → value, got {shown(sample)}")
        if self._failed is not None:
            self._collect(waiting=0)
        encoded = self.encode_sample(sample)
        cost = self._each + len(encoded)
        if self._empty_shard_bytes + cost > self._most:
            raise EncodingError(f"the sample has {len(encoded)} bytes, a whole shard at most {self._most}; split it")
        if min(self.size_limit or self._most, self._most) < self._new_bytes + cost:
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
        index = dump(self.metadata, self._shards)
        for destination in self._destinations:
            destination.complete(index)
        self._close("finished")

    def flush_shard(self) -> None:
        """Complete the current shard, if it holds a sample, and pass it to the threads that store it."""
        self._require_open()
        if not self._new_samples:
            return
        self._collect(waiting=self._workers - 1)
        position = len(self._shards) + len(self._storing)
        self._pool = self._pool or ThreadPoolExecutor(self._workers, thread_name_prefix="mixstream-writer")
        files = self._encode_files()
        basename = f"shard.{position:05}.{self._template.format}"
        future = self._pool.submit(self._store, basename, files, len(self._new_samples))
        self._storing.append(future)
        future.add_done_callback(self.exception_callback)
        self._reset()

    def cancel_future_jobs(self) -> None:
        """Stop: no further shard is stored and no index is written. An exception inside `with` does the same.

        Does nothing in a forked child, since the output is its parent's.
        """
        if not self._closed and self._owner.here:
            self._close("cancelled")

    def exception_callback(self, future: Future[Any]) -> None:
        """Note the error of a future, if it has one: the next call raises it. Every shard's future calls this."""
        if not future.cancelled() and future.exception() is not None:
            self._failed = self._failed or future

    def encode_sample(self, sample: Mapping[str, Any]) -> bytes:
        """Return one sample as the bytes in a shard."""
        raise NotImplementedError

    def _encode_files(self) -> tuple[bytes, ...]:
        """Return the raw files of the current shard: that of the samples, and where there is one, the meta file."""
        raise NotImplementedError

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
        self._owner.check()
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

    def _store(self, basename: str, files: Sequence[bytes], samples: int) -> ShardInfo:
        """Compress, hash and write one shard; runs on a thread."""
        stored: list[tuple[FileInfo, FileInfo | None]] = []
        for data, name in zip(files, (basename, f"{basename}.meta")):
            stored.append(self._store_file(name, data))
        with self._lock:
            self._stored_shards += 1
            self._stored_bytes += sum((packed or raw).bytes for raw, packed in stored)
            for task in self._bar.task_ids:
                text = f"{self._stored_shards} shards, {show_bytes(self._stored_bytes)}"
                self._bar.update(task, description=text)
        (raw, packed), (meta, meta_packed) = stored[0], stored[1] if len(stored) > 1 else (None, None)
        return replace(self._template, samples=samples, raw=raw, zip=packed, meta=meta, meta_zip=meta_packed)

    def _store_file(self, basename: str, data: bytes) -> tuple[FileInfo, FileInfo | None]:
        raw, packed = self._describe(basename, data), None
        if self.compression:
            basename, data = f"{basename}.{extension(self.compression)}", compress(self.compression, data)
            packed = self._describe(basename, data)
        for destination in self._destinations:
            destination.write(basename, data)
        return raw, packed

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


def _metadata(metadata: Any) -> Mapping[str, object]:
    if metadata is not None and not isinstance(metadata, Mapping):
        raise ConfigError(f"`metadata` is a dict, got {shown(metadata)}")
    return metadata or {}
