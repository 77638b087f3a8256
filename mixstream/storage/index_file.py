"""Reading `index.json`: from the originals, or, while a store cannot be reached, from the copy that was kept of it."""

import warnings
from pathlib import Path

from mixstream import errors
from mixstream.storage.cache.owner import kept_index
from mixstream.storage.retry import Retry
from mixstream.storage.spec import INDEX
from mixstream.storage.store import Store
from mixstream.storage.transfer import read_object

_LARGEST = 1 << 30


def read_local_index(*directories: Path) -> tuple[bytes, str]:
    """Return the index of the first directory that has one, and its path.

    Raises:
        IndexNotFoundError: none has.
    """
    for directory in directories:
        if (path := directory / INDEX).is_file():
            return path.read_bytes(), str(path)
    place = directories[0]
    if not place.is_dir():
        raise errors.IndexNotFoundError(
            f"no {INDEX} in {place}: there is no such directory; check `remote`, `local`, `split`"
        )
    below = sorted(path.parent.name for path in place.glob(f"*/{INDEX}"))
    hint = f"; there is one in its sub-directories {below}: pass it as `split`" if below else ""
    raise errors.IndexNotFoundError(
        f"no {INDEX} in {place}: not an MDS dataset, or an unfinished one; check `remote`, `local`, `split`{hint}"
    )


def read_remote_index(store: Store, *, home: Path | None, retry: Retry, name: str = INDEX) -> tuple[bytes, str]:
    """Return the index of a store, and where it was read.

    While the store cannot be reached, the copy that was kept is used, with a warning.

    Args:
        store: the dataset's directory.
        home: the directory that the user gave for its shards; None if none was given.
        retry: attempts and timeout.
        name: of the index file.

    Raises:
        IndexNotFoundError: the store has none.
        IndexCorruptError: it is larger than any index that can be used.
        StoreError: the store refuses, or cannot be reached and no copy was kept.
    """
    where, origin = f"{store.url}/{name}", origin_of(store, name)
    try:
        return _whole(store, name, where, retry), where
    except errors.StoreNotFoundError as error:
        hint = ""
        if (kept := kept_index(home, origin)) is not None:
            hint = f"; the index read before is kept: pass remote=None, local={str(kept[1].parent)!r} to read that"
        raise errors.IndexNotFoundError(
            f"no {name} in {store.url}: not an MDS dataset, or an unfinished one; check `remote` and `split`"
            f"{_below(store)}{hint}"
        ) from error
    except (errors.StoreBusyError, errors.StoreFaultError, errors.StoreChangedError) as error:
        if (kept := kept_index(home, origin)) is None:
            raise
        warnings.warn(
            f"{where} could not be read ({error}); going on with the copy that was kept, {kept[1]}: shards written "
            "since are not in it",
            RuntimeWarning,
            stacklevel=2,
        )
        return kept[0], str(kept[1])


def origin_of(store: Store, name: str = INDEX) -> str:
    """Return what a cache of the files that an index lists is bound to: a directory may have several indexes."""
    return store.url if name == INDEX else f"{store.url}/{name}"


def _whole(store: Store, name: str, where: str, retry: Retry) -> bytes:
    """Read the index; its size is requested first, since the server chooses how large a body is."""
    last = False
    while True:
        size = retry.call(f"asking for the size of {where}", lambda: _size(store, name), renew=store.renew)
        if size > _LARGEST:
            raise errors.IndexCorruptError(
                f"{where}: {size} bytes, more than the {_LARGEST} that an index may have (millions of shards); it "
                "was not used; write larger shards, or divide the dataset into several streams"
            )
        try:
            data = read_object(store, name, size=size, retry=retry)
        except errors.ShardCorruptError:  # it was rewritten in between
            if last:
                raise
            last = True
        else:
            assert data is not None
            return data


def _size(store: Store, name: str) -> int:
    """Return the size of the index, by reading one byte where ranges can be read: a refusal of a read says why."""
    try:
        return store.read(name, 0, 1).info.size
    except errors.NoRangesError:
        return store.info(name).size


def _below(store: Store) -> str:
    """Return what to say of a store that has no index, from the names that it lists."""
    try:
        names = store.names(limit=1000)
    except errors.StoreError:
        return ""
    if found := sorted({name.removesuffix(f"/{INDEX}") for name in names if name.endswith(f"/{INDEX}")}):
        shown = ", ".join(map(repr, found[:8])) + (", …" if len(found) > 8 else "")
        return f"; there are datasets below: {shown}: give a Stream for each, or its last part as `split`"
    if any(".mds" in name for name in names):
        return "; there are shards, so the writing was not finished"
    return "" if names else "; there is nothing at all"
