"""Reading what a shard is filled from in a store: a whole object, a range of one, or what is computed from one.

Rules: of a larger file, only ranges that are needed are read, all of the version that the index was made from. Where
the server has no ranges, a file of moderate size is read whole. `materialize` verifies what comes.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

from mixstream.errors import NoRangesError, StoreChangedError
from mixstream.lazy import later
from mixstream.storage.cache.confirm import Source
from mixstream.storage.cache.fill import Partial
from mixstream.storage.retry import Retry
from mixstream.storage.spec import CompressedSpec, ShardSpec
from mixstream.storage.store import ObjectInfo, Store, needs_ranges
from mixstream.storage.stores.local import LocalStore
from mixstream.types import Buffer

if TYPE_CHECKING:
    from mixstream.storage.stored_file import StoredFile
    from mixstream.storage.transfer import read_object
else:
    (StoredFile,) = later("mixstream.storage.stored_file", "StoredFile")
    (read_object,) = later("mixstream.storage.transfer", "read_object")


T = TypeVar("T")

_WHOLE = 256 << 20  # bytes of an object that is read whole for a range of it, from a server without ranges


class ReadSource(Source, Protocol):
    """What is asked of a source that is read; `ShardSource` describes it."""

    @property
    def retry(self) -> Retry:
        """Attempts and timeout of requests to the store."""
        ...


def read_file(
    source: ReadSource, store: Store, part: ShardSpec | CompressedSpec, file: Partial, into: int | None
) -> bytearray | None:
    """Read one file of a shard, or the range that it is of a larger one: to `into`, or return it, as `read_object`.

    The partial `file` gets the heartbeats, and notes of which object its content is. Errors are those of `read_object`.
    """
    name, size, span = original_of(part), part.size, None
    if isinstance(part, ShardSpec) and part.part is not None and part.part.begin is not None:
        size, span = part.part.size, (part.part.begin, part.part.begin + part.size)

    def read(span: tuple[int, int] | None, into: int | None, known: ObjectInfo | None) -> bytearray | None:
        return read_object(
            store,
            name,
            size=size,
            retry=source.retry,
            into=into,
            heartbeat=file.heartbeat,
            found=lambda info: _note(source, file, name, info),
            span=span,
            known=known,
        )

    def read_span(known: ObjectInfo | None) -> bytearray | None:
        try:
            return read(span, into, known)
        except NoRangesError as error:
            if span is None or size > _WHOLE:
                error.add_note(needs_ranges(f"{store.url}/{name}", size))
                raise
        whole = memoryview(read(None, None, known) or b"")
        file.write(whole[slice(*span)])
        return None

    return _pinned(source, name, read_span)


def compute(source: ReadSource, spec: ShardSpec, file: Partial) -> Buffer:
    """Return the raw bytes of a shard that is computed from its original, which `file` notes.

    Raises:
        ShardCorruptError, StoreError: as `StoredFile`, and whatever computes the shard.
    """
    assert spec.part is not None
    assert spec.part.make is not None
    make, name, size = spec.part.make, spec.part.name, spec.part.size
    store = source.store or LocalStore(source.origin or source.directory)

    def check(info: ObjectInfo) -> None:
        """Check each read: the whole is not of one version just because the last one is."""
        _note(source, file, name, info)
        if source.version is not None and source.version.is_other(name, info, lambda: source.look(name)):
            raise source.version.changed(name)

    def read(known: ObjectInfo | None) -> Buffer:
        stored = StoredFile(
            store,
            name,
            size,
            retry=source.retry,
            known=known,
            heartbeat=file.heartbeat,
            found=check,
        )
        return make(stored)  # pyright: ignore[reportArgumentType] - a RawIOBase that reads bytes

    return _pinned(source, name, read)


def original_of(part: ShardSpec | CompressedSpec) -> str:
    """Return the name of the object that a file of a shard is, or is a part of."""
    return part.original if isinstance(part, ShardSpec) else part.name


def _pinned(source: ReadSource, name: str, read: Callable[[ObjectInfo | None], T]) -> T:
    """Return what `read` returns for the version of an object that is to be read; for None where any may be.

    Raises:
        StoreChangedError: the object is of another version.
    """
    version = source.version
    known = version.known(name) if version is not None and not version.timeless else None
    if version is None or known is None:
        return read(None)
    try:
        return read(known)
    except StoreChangedError as error:
        if (info := source.look(name)) is None or version.is_other(name, info, lambda: source.look(name)):
            raise version.changed(name) from error
    return read(None)  # another server of the same URL told another version: what was read is compared afterwards


def _note(source: ReadSource, file: Partial, name: str, info: ObjectInfo) -> None:
    """Note of which object the content of a file is."""
    file.source = name, info if source.version is None else source.version.told(info)
