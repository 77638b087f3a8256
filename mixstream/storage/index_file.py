"""Reading `index.json`: from the originals, or, while a store cannot be reached, from the copy that was kept of it."""

import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from mixstream import errors
from mixstream.lazy import later
from mixstream.storage.cache.owner import kept_index, read_original
from mixstream.storage.disk_errors import named_disk_errors
from mixstream.storage.original import Original, begins, is_timeless, without_time
from mixstream.storage.redaction import redact
from mixstream.storage.retry import Retry
from mixstream.storage.spec import INDEX, SHARD_FILE
from mixstream.storage.store import Store, look_at
from mixstream.storage.stores.local import LocalStore, info_of
from mixstream.storage.unfinished import explain_missing, refuse_part

if TYPE_CHECKING:
    from mixstream.storage.large_file import LargeFile
    from mixstream.storage.made_index import IndexMaker, made_of, make_index
    from mixstream.storage.transfer import read_object
else:
    (LargeFile,) = later("mixstream.storage.large_file", "LargeFile")
    IndexMaker, made_of, make_index = later("mixstream.storage.made_index", "IndexMaker", "made_of", "make_index")
    (read_object,) = later("mixstream.storage.transfer", "read_object")


_LARGEST = 1 << 30
_SHARDS = "; there are shards, so the writing was not finished; run the program that writes it again"


def read_index(
    store: Store | None,
    origin: Path | None,
    home: Path | None,
    *,
    retry: Retry,
    name: str = INDEX,
    identity: str = "",
    maker: IndexMaker | None = None,
    large: int | None = None,
) -> tuple[bytes | LargeFile, str, Original]:
    """Return the index of a dataset, where it was read, and of which original it is.

    Arguments are `DatasetFiles`'s; of an index on local disk of `large` bytes or more, the file is returned.

    Raises:
        IndexNotFoundError: there is none.
        UnfinishedError: there is none yet, or the directory is a part of a dataset (also an IndexNotFoundError).
        StoreError: the store cannot be read, and no index was kept from an earlier run.
    """
    place = store.url if store is not None else str(origin or home)
    try:
        if store is not None:
            found = read_remote_index(store, home=home, retry=retry, name=name, identity=identity, maker=maker)
        elif maker is not None and origin is not None:
            found = make_index(maker, LocalStore(origin), retry=retry)
        else:
            directories = (directory for directory in (origin, home) if directory is not None)
            found = read_local_index(*directories, remote=origin is not None, large=large)
    except errors.IndexNotFoundError as error:
        if maker is not None or name != INDEX:
            raise
        if (better := explain_missing(error, place, timeout=retry.timeout)) is error:
            raise
        raise better from error
    if maker is None:
        refuse_part(place, timeout=retry.timeout)
    return found


def read_local_index(
    *directories: Path, remote: bool = True, large: int | None = None
) -> tuple[bytes | LargeFile, str, Original]:
    """Return the index of the first directory that has one, its path, and of which original it is.

    Args:
        directories: where it may be.
        remote: whether one of them is the `remote` that the user gave, for errors.
        large: bytes of an index that is returned as a file; None for none.

    Raises:
        IndexNotFoundError: none has.
        IndexCorruptError: it is larger than any index that can be used.
        StoreError: the disk does not let it be read.
    """
    for directory in directories:
        if (path := directory / INDEX).is_file():
            began, info = time.time(), info_of(path.stat())
            _refuse_large(str(path), info.size)
            original = Original(place=str(directory), index=info, began=began, started=began)
            if large is not None and info.size >= large:
                return LargeFile(path), str(path), original
            with named_disk_errors(path, "read"):
                return path.read_bytes(), str(path), original
    place = directories[0]
    told = "" if remote else f"No `remote` provided, but local file {place / INDEX} does not exist: "
    if not place.is_dir():
        raise errors.IndexNotFoundError(
            f"{told}no {INDEX} in {place}: there is no such directory; check `remote`, `local`, `split`"
        )
    below = sorted(path.parent.name for path in place.glob(f"*/{INDEX}"))
    hint = f"; there is one in its sub-directories {below}: pass it as `split`" if below else ""
    if not below and (roots := sorted(path.parent.parent.name for path in place.glob(f"*/*/{INDEX}"))):
        hint = f"; there are datasets in its sub-directories {list(dict.fromkeys(roots))}: give a Stream for each"
    if shards := len({".".join(path.name.split(".")[:2]) for path in place.iterdir() if SHARD_FILE.match(path.name)}):
        raise errors.UnfinishedError(
            f"{told}no {INDEX} in {place}, but {shards} shards: unfinished, its writer did not come to its end; run "
            "the program that writes it again"
        )
    raise errors.IndexNotFoundError(
        f"{told}no {INDEX} in {place}: not an MDS dataset, or an unfinished one; check `remote`, `local`, `split`{hint}"
    )


def read_remote_index(
    store: Store,
    *,
    home: Path | None,
    retry: Retry,
    name: str = INDEX,
    identity: str = "",
    maker: IndexMaker | None = None,
) -> tuple[bytes, str, Original]:
    """Return the index of a store, where it was read, and of which original it is.

    While the store cannot be reached, the copy that was kept is used, with a warning.

    Args:
        store: the dataset's directory.
        home: the directory that the user gave for its shards; None if none was given.
        retry: attempts and timeout.
        name: of the index file.
        identity: what identifies the dataset besides its URL.
        maker: makes the index, if it is no file.

    Raises:
        IndexNotFoundError: the store has none, or no files that one can be made from.
        IndexCorruptError: it is larger than any index that can be used, or has never the size that the store says.
        StoreError: the store refuses, or cannot be reached and no copy was kept.
    """
    where, origin = f"{store.url}/{name}", origin_of(store, name, maker)
    try:
        if maker is not None:
            return make_index(maker, store, retry=retry)
        data, original = _whole(store, name, where, retry)
        return data, where, original
    except errors.IndexNotFoundError as error:
        if hint := _hint(home, origin, identity):
            error.add_note(hint)
        raise
    except errors.StoreNotFoundError as error:
        hint = _hint(home, origin, identity)
        below = _below(store)
        kind = errors.UnfinishedError if below == _SHARDS else errors.IndexNotFoundError
        raise kind(
            f"no {name} in {redact(store.url)}, it was not found (No such file or directory): not an MDS dataset, or "
            f"an unfinished one; check `remote` and `split`{below}" + (f"; {hint}" if hint else "")
        ) from error
    except (errors.StoreBusyError, errors.StoreFaultError, errors.StoreChangedError) as error:
        if (kept := kept_index(home, origin, identity)) is None:
            raise
        warnings.warn(
            f"{where if maker is None else origin} could not be read ({error}); going on with the copy that was kept, "
            f"{kept[1]}: shards written since are not in it",
            RuntimeWarning,
            stacklevel=2,
        )
        noted = read_original(kept[1].parent)
        info, began = (noted.index_info, noted.began) if noted is not None else (None, time.time())
        files = {} if noted is None else {name: facts.info for name, facts in noted.files.items()}
        original = Original(place=store.url, index=info, began=began, reached=False, files=files)
        return kept[0], str(kept[1]), original


def _hint(home: Path | None, origin: str, identity: str) -> str:
    """Return what to do about an index that is not there; "" if none was kept."""
    if (kept := kept_index(home, origin, identity)) is None:
        return ""
    return f"the index read before is kept: pass remote=None, local={str(kept[1].parent)!r} to read that"


def origin_of(store: Store, name: str = INDEX, maker: IndexMaker | None = None) -> str:
    """Return what a cache of the files that an index lists is bound to: a directory may have several indexes."""
    if maker is not None:
        return made_of(maker, store.url)
    return store.url if name == INDEX else f"{store.url}/{name}"


def _whole(store: Store, name: str, where: str, retry: Retry) -> tuple[bytes, Original]:
    """Read the index; its size is requested first, since the server chooses how large a body is."""
    last, read = False, []
    while True:
        info = retry.call(f"asking for the size of {where}", lambda: look_at(store, name), renew=store.renew)
        began, size = begins(info), info.size
        _refuse_large(where, size)
        try:
            started = time.time()
            found = read_object(store, name, size=size, retry=retry, found=read.append)
        except errors.ShardCorruptError as error:  # it was rewritten in between
            if last:
                raise errors.IndexCorruptError(
                    f"{where}: the store says that it has {size} bytes, and sends another number, each time ({error}); "
                    "no part of it was used; let the program that writes it come to its end, or upload it again"
                ) from error
            last = True
        else:
            assert found is not None
            data = bytes(found)
            index = read[-1] if read else info
            # The first look was before `begins` waited. If the time has moved, the index was written in between, or the
            # server says "now" of everything.
            timeless = index.modified != info.modified and is_timeless(index, lambda: look_at(store, name))
            index = without_time(index) if timeless else index
            return data, Original(
                place=store.url, index=index, began=began, started=started, name=name, timeless=timeless
            )


def _refuse_large(where: str, size: int) -> None:
    if size > _LARGEST:
        raise errors.IndexCorruptError(
            f"{where}: {size} bytes, more than the {_LARGEST} that an index may have (millions of shards); it was not "
            "used; write larger shards, or divide the dataset into several streams"
        )


def _below(store: Store) -> str:
    """Return what to say of a store that has no index, from the names that it lists."""
    try:
        names = store.names(limit=1000)
    except errors.StoreError:
        return ""
    if found := sorted({name.removesuffix(f"/{INDEX}") for name in names if name.endswith(f"/{INDEX}")}):
        shown = ", ".join(map(repr, found[:8])) + (", …" if len(found) > 8 else "")
        return f"; there are datasets below: {shown}: give a Stream for each, or its last part as `split`"
    if any(".mds" in name or SHARD_FILE.fullmatch(name) for name in names):
        return _SHARDS
    return "" if names else "; there is nothing at all"
