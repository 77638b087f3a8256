"""Whether a cached file still is what its original has: asked when the file is first used in a process.

Rules. Bytes that have the hash which the index lists are right, whatever the store says. Without hashes, the store is
asked for the object that the file was fetched from (one HEAD, no bytes), unless another process has asked since this
run began. Where the index was made from the files, it says of which version each is, and the store is not asked. A file
of which nothing is known is fetched again. An object that was written after the run began is an
error, and so is one that was read after another version was put in the dataset's place. A store that cannot be asked
changes nothing: the cache is what there is then.
"""

import os
from collections.abc import Iterable
from hashlib import md5
from pathlib import Path
from typing import BinaryIO, Protocol

from mixstream.lazy import pattern
from mixstream.storage.cache.records import Record, read_record, record_name, touch_record, write_record
from mixstream.storage.mapping import map_file
from mixstream.storage.original import Original
from mixstream.storage.spec import CompressedSpec, ShardSpec
from mixstream.storage.store import ObjectInfo, Store

_MD5 = pattern(r'"[0-9a-f]{32}"')  # what S3 gives as the ETag of an object that was uploaded in one part
_FRESH = 1.0  # seconds: many files are confirmed at once
_ASKED = 3  # files that are looked at when the index was rewritten; the others follow when they are used


class Source(Protocol):
    """What is asked of the source of a cache; `ShardSource` describes it."""

    @property
    def directory(self) -> Path:
        """The cache directory."""
        ...

    @property
    def origin(self) -> Path | None:
        """The originals, if they are on local disk."""
        ...

    @property
    def store(self) -> Store | None:
        """The originals, if they are in a store."""
        ...

    @property
    def version(self) -> Original | None:
        """What is known of the originals."""
        ...

    def look(self, name: str) -> ObjectInfo | None:
        """Return what the store says of an object; None if it is not there, or cannot be asked."""
        ...

    def was_replaced(self, *, within: float = 0.0) -> bool:
        """Return whether the index is another one than when the run began; an answer counts for `within` seconds."""
        ...


def is_current(spec: ShardSpec, part: ShardSpec | CompressedSpec, file: BinaryIO, source: Source) -> bool:
    """Return whether a file of the cache is of the original that the run reads; if not, it is to be fetched again.

    Args:
        spec: of the shard.
        part: the file of it that is open: `spec`, or its compressed file.
        file: it, verified as far as the user asked for.
        source: where it was filled from.

    Raises:
        StoreChangedError: its original was written, or put in the dataset's place, after the run began.
    """
    original, directory, found = source.version, source.directory, os.fstat(file.fileno())
    record = read_record(directory, part.name, found)
    own = record is None and source.store is None and source.origin is None  # the user's own file
    if original is None or own or part.check is not None:  # or its hash was compared just now
        return True
    if (known := original.known(spec.original)) is not None:
        is_known = record is not None and record.is_of(spec.original, known)
        return is_known or _refused(original, part, file, record, directory)
    if record is not None and record.since >= original.started:
        if original.is_newer(record.info, source.store) and not _has_hash(part, file):
            raise original.rewritten(record.name, record.info)
        _refuse_replaced(original, part, file, source)
        return True
    if (asked := _ask(spec, part, record, source)) is None:
        return record is None or original.is_since(record.since) or _has_hash(part, file)
    name, info = asked
    original.warn_if_untold(part.proof, info)
    if record is not None and record.is_of(name, info):
        _refuse_replaced(original, part, file, source)
        touch_record(directory, part.name)
    elif _has_hash(part, file) or (name == part.name and _has_md5(info, file)):
        write_record(directory, part.name, found, name=name, info=info)
    elif original.is_newer(info, source.store):
        raise original.rewritten(name, info)
    elif source.was_replaced():
        raise original.replaced(name)
    else:
        return _refused(original, part, file, record, directory)
    return True


def _refuse_replaced(original: Original, part: ShardSpec | CompressedSpec, file: BinaryIO, source: Source) -> None:
    """Refuse a file that may have been fetched from another version, put in the dataset's place since the run began."""
    if source.was_replaced(within=_FRESH) and not _has_hash(part, file):
        raise original.replaced(part.name)


def _refused(
    original: Original, part: ShardSpec | CompressedSpec, file: BinaryIO, record: Record | None, directory: Path
) -> bool:
    """Return False, and tell the user why a file is fetched again; not if it was only changed since it was fetched."""
    if record is not None:
        original.warn_replaced(file.name)
    elif not (directory / record_name(part.name)).is_file():
        original.warn_unknown(file.name)
    return False


def _ask(
    spec: ShardSpec, part: ShardSpec | CompressedSpec, record: Record | None, source: Source
) -> tuple[str, ObjectInfo] | None:
    """Return the object that the file should be of, and what the store says of it; None if it cannot be asked."""
    names = [spec.original if part is spec else part.name]
    if part is spec and spec.compressed is not None:
        names = [spec.compressed.name, spec.name]
    if record is not None:
        names.sort(key=lambda name: name != record.name)
    for name in names:
        if (info := source.look(name)) is not None:
            return name, info
    return None


def _has_hash(part: ShardSpec | CompressedSpec, file: BinaryIO) -> bool:
    return part.proof is not None and part.proof(map_file(file).data)


def _has_md5(info: ObjectInfo, file: BinaryIO) -> bool:
    if info.version is None or not _MD5.fullmatch(info.version):
        return False
    return md5(map_file(file).data, usedforsecurity=False).hexdigest() == info.version[1:-1]


def warn_if_replaced(source: Source, names: Iterable[str]) -> None:
    """Warn if the first files of the cache that have records are of an earlier version; the index was rewritten."""
    asked = 0
    for name in names:
        path = source.directory / name
        try:
            record = read_record(source.directory, name, path.stat())
        except OSError:
            continue
        if record is None or source.version is None:
            continue
        if (info := source.look(record.name)) is not None and not record.is_of(record.name, info):
            source.version.warn_replaced(path)
        if (asked := asked + 1) == _ASKED:
            return
