"""One shard: read from its store, decompressed, and with its columns decoded only as far as that is safe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from mixstream.formats import FileInfo, ShardEntry, ShardInfo, compress, decompress, join_files
from mixstream.formats import is_mds_encoding_safe as is_safe
from mixstream.storage import Retry, Store, read_object


def stored(info: ShardEntry) -> FileInfo:
    """Return a shard's file in a store: the compressed file, if there is one; of two files, that with the samples."""
    return info.zip or info.raw


def stored_bytes(info: ShardInfo) -> int:
    """Return the bytes of a shard's files in a store."""
    return info.zip_bytes or info.raw_bytes


def memory_of(info: ShardInfo) -> int:
    """Return the maximum memory in bytes that reading and decompressing a shard needs.

    For an instant, memory holds both the parts and the whole of a file (`mixstream.storage.read_object`), and both the
    parts and the whole of its decompressed bytes (`mixstream.formats.decompress`).
    """
    size = stored_bytes(info)
    joined = info.raw_bytes if info.meta is not None else 0  # two files in one array, beside the files
    return joined + (2 * size if info.zip is None else size + max(size, 2 * info.raw_bytes))


def read_bytes(store: Store, name: str, size: int | None, retry: Retry) -> bytes:
    """Return a whole file, of `size` bytes if that is known. Raises as `mixstream.storage.read_object`."""
    data = read_object(store, name, size=size, retry=retry)
    assert data is not None, "without `into`, the bytes are returned"
    return bytes(data)


def read_raw(store: Store, info: ShardInfo, retry: Retry) -> bytes:
    """Return the raw bytes of a shard, decompressed if necessary, as `join_files`; hashes are not checked.

    Raises:
        StoreError: the store does not return it.
        ShardCorruptError: it has another size, or cannot be decompressed.
    """
    files = []
    for raw, packed in info.files:
        data = read_bytes(store, (packed or raw).basename, (packed or raw).bytes, retry)
        files.append(decompressed(info, raw, data) if packed is not None else data)
    return join_files(files)


def decompressed(info: ShardInfo, raw: FileInfo, data: bytes) -> bytes:
    """Return the bytes of a shard's file `raw` from those of the compressed file.

    Raises:
        ShardCorruptError: they cannot be decompressed to the size in the index.
    """
    packed = next(packed for file, packed in info.files if file is raw)
    where = packed.basename if packed is not None else raw.basename
    return decompress(info.compression, data, raw_bytes=raw.bytes, where=where)


def require_codecs(shards: Sequence[ShardInfo]) -> None:
    """Check that the packages for the shards' compression are installed.

    Raises:
        ConfigError: a package is missing; the message names it.
    """
    for compression in {info.compression for info in shards if info.compression is not None}:
        compress(compression, b"")


def leaving_out(info: ShardInfo, keep: Callable[[str, str], bool]) -> ShardInfo:
    """Return the shard's entry with `bytes` as the encoding of every column except those that `keep` accepts."""
    encodings = tuple(encoding if keep(name, encoding) else "bytes" for name, encoding in info.columns.items())
    return replace(info, column_encodings=encodings)


def without_pickles(info: ShardInfo, *, allow: bool) -> ShardInfo:
    """Return the shard's entry with pickled columns as bytes, unless `allow`: unpickling can run code."""
    return info if allow else leaving_out(info, lambda _, encoding: is_safe(encoding))
