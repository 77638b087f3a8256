"""The index of a dataset becomes a container; one of many shards by way of its compact form, which is kept.

A large index takes seconds to read. What it says is kept below the temporary directory (`formats.dump_shard_list`), so
that the next start takes a tenth of that: it hashes the index, and believes the compact form of these very bytes. So is
the domain's fingerprint, once it was computed. Small indexes leave nothing behind.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import xxhash

from mixstream.errors import ConfigError, IndexCorruptError
from mixstream.formats import (
    ARRIVAL,
    MANY,
    Container,
    Index,
    check_index_hash,
    is_index_of_many,
    kinds_of,
    open_container,
)
from mixstream.lazy import later
from mixstream.storage import DatasetFiles, index_hash

if TYPE_CHECKING:
    from mixstream.data.fingerprint import KeptFingerprint
    from mixstream.formats.mds.container import MDS
    from mixstream.formats.mds.large_index import read_blocks
    from mixstream.formats.shard_list_file import dump_shard_list, load_shard_list
    from mixstream.storage.kept_file import KeptFile
else:
    (KeptFingerprint,) = later("mixstream.data.fingerprint", "KeptFingerprint")
    (MDS,) = later("mixstream.formats.mds.container", "MDS")
    (read_blocks,) = later("mixstream.formats.mds.large_index", "read_blocks")
    dump_shard_list, load_shard_list = later("mixstream.formats.shard_list_file", "dump_shard_list", "load_shard_list")
    (KeptFile,) = later("mixstream.storage.kept_file", "KeptFile")

_BEGIN = 256  # bytes of an index that say what kind it is
_BLOCK = 1 << 18


class Opened(NamedTuple):
    """A container, where its index was read, and where its fingerprint is kept; None if it is not worth that."""

    container: Container
    where: str
    kept: KeptFingerprint | None = None


class _Many(NamedTuple):
    """An index of many shards, the digest by which cache directories know it, and where its fingerprint is kept."""

    entries: Index
    digest: str
    kept: KeptFingerprint


def read_container(files: DatasetFiles, validate_hash: str | None) -> Opened:
    """Return the container that the index of a dataset describes, and where the index was read.

    Args:
        files: of the dataset.
        validate_hash: as of `Domain`.

    Raises:
        IndexNotFoundError: there is none.
        IndexCorruptError: its content is not valid.
        ConfigError: its files have no index with hashes.
    """
    if validate_hash not in (None, ARRIVAL) and files.maker is not None:
        where, given = files.describe(), f"validate_hash={validate_hash!r}"
        raise ConfigError(f"{where}: {given}, but its files have no index with hashes; pass validate_hash=None")
    arrives = validate_hash if validate_hash != ARRIVAL or files.store is not None else None
    try:
        return _read(files, arrives)
    except IndexCorruptError:  # it may have been damaged in transfer
        return _read(files, arrives)


def _read(files: DatasetFiles, arrives: str | None) -> Opened:
    data, where = files.open_index(large=MANY)
    if isinstance(data, bytes):
        if is_index_of_many(data[:_BEGIN], len(data)):
            check_index_hash(data, arrives, where=where)
            if (
                found := _many(files, lambda: (data[at : at + _BLOCK] for at in range(0, len(data), _BLOCK)))
            ) is not None:
                return Opened(MDS(found.entries), where, found.kept)
        return Opened(open_container(data, where=where, validate_hash=arrives), where)
    with data:
        if arrives is None and (found := _many(files, data.blocks)) is not None:
            files.identify(found.digest)
            return Opened(MDS(found.entries), where, found.kept)
        whole = data.read()
    files.identify(index_hash(whole).hexdigest())
    return Opened(open_container(whole, where=where, validate_hash=arrives), where)


def _many(files: DatasetFiles, blocks: Callable[[], Iterator[bytes]]) -> _Many | None:
    """Return the index of many shards that `blocks` yields; None if it has to be read as a whole.

    Where shards are unpacked, the digest is the one that cache directories have; elsewhere any digest does.

    Args:
        files: of the dataset.
        blocks: yields its bytes anew in each call.
    """
    key = " ".join(("entries", *files.original, files.index))
    kept, text = KeptFile(key, "entries"), xxhash.xxh3_128()
    if (data := kept.read()) is not None:
        for _ in _hashed(blocks(), text):
            pass
        if (found := load_shard_list(data, text=text.hexdigest())) is not None:
            return _Many(*found, KeptFingerprint(key, text.hexdigest()))
        text.reset()  # it is that of the bytes that are read now
    if (index := read_blocks(_hashed(blocks(), text))) is None:
        return None
    digest = text
    if any(kind.zip is not None for kind in kinds_of(index.shards)):  # a cache directory is named after it
        digest, again = index_hash(), xxhash.xxh3_128()
        for _ in _hashed(_hashed(blocks(), digest), again):
            pass
        if again.digest() != text.digest():  # it was written to meanwhile
            return None
    if (made := dump_shard_list(index, text=text.hexdigest(), digest=digest.hexdigest())) is not None:
        kept.write(made)
    return _Many(index, digest.hexdigest(), KeptFingerprint(key, text.hexdigest()))


def _hashed(blocks: Iterable[bytes], whole: Any) -> Iterator[bytes]:
    """Yield `blocks`, and add them to the hash `whole`."""
    for block in blocks:
        whole.update(block)
        yield block
