"""One shard, read from its store and unpacked; and the samples in it, decoded as far as that is safe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mixstream.formats import ShardInfo, compress, decompress
from mixstream.formats import is_mds_encoding_safe as is_safe
from mixstream.storage import Retry, Store, read_object


def stored_name(info: ShardInfo) -> str:
    """Return the name of the file that a store keeps of a shard: the packed one, if there is one."""
    return (info.zip or info.raw).basename


def stored_bytes(info: ShardInfo) -> int:
    """Return the size of that file."""
    return (info.zip or info.raw).bytes


def memory_of(info: ShardInfo) -> int:
    """Return the most bytes of memory that reading and unpacking a shard takes.

    A file's parts and the whole are there together for an instant (`mixstream.storage.read_object`), and so are the
    pieces and the whole of what is unpacked (`mixstream.formats.decompress`).
    """
    stored = stored_bytes(info)
    return 2 * stored if info.zip is None else stored + max(stored, 2 * info.raw.bytes)


def read_bytes(store: Store, name: str, size: int, retry: Retry) -> bytes:
    """Return a whole file of `size` bytes. Raises as `mixstream.storage.read_object`."""
    data = read_object(store, name, size=size, retry=retry)
    assert data is not None, "without `into`, the bytes are returned"
    return data


def read_raw(store: Store, info: ShardInfo, retry: Retry) -> bytes:
    """Return the raw bytes of a shard, unpacked if need be; hashes are not looked at.

    Raises:
        StoreError: the store does not give it.
        ShardCorruptError: it has another size, or does not unpack.
    """
    data = read_bytes(store, stored_name(info), stored_bytes(info), retry)
    return unpacked(info, data)


def unpacked(info: ShardInfo, stored: bytes) -> bytes:
    """Return the raw bytes of what the store keeps of a shard.

    Raises:
        ShardCorruptError: it does not unpack to what the index says.
    """
    if info.zip is None or info.compression is None:
        return stored
    return decompress(info.compression, stored, raw_bytes=info.raw.bytes, where=info.zip.basename)


def require_codecs(shards: tuple[ShardInfo, ...]) -> None:
    """See that what the shards are packed with can be unpacked here.

    Raises:
        ConfigError: a package is missing; it says which.
    """
    for compression in {info.compression for info in shards if info.compression is not None}:
        compress(compression, b"")


def leaving_out(info: ShardInfo, keep: Callable[[str, str], bool]) -> ShardInfo:
    """Return a shard's entry by which the columns are bytes, and decoded only if `keep(name, encoding)`."""
    encodings = tuple(encoding if keep(name, encoding) else "bytes" for name, encoding in info.columns.items())
    return replace(info, column_encodings=encodings)


def without_pickles(info: ShardInfo, *, allow: bool) -> ShardInfo:
    """Return a shard's entry by which nothing is unpickled, unless `allow`: that would run code out of the shard."""
    return info if allow else leaving_out(info, lambda _, encoding: is_safe(encoding))
