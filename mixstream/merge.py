"""One index over datasets that were written in parallel, each into a sub-directory (`specs/streaming_api.md`, 1.11).

Rules. Shards stay where they are; the index names them by their path below it. Everything is read and checked before
the index is written: what would be lost, read twice or not stack is refused by name.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mixstream.argument_kinds import is_path
from mixstream.arguments import real, shown
from mixstream.errors import ConfigError, IndexCorruptError, OutputExistsError, ShardNotFoundError, UnfinishedError
from mixstream.formats import FileInfo, Index, ShardInfo, dump_index, parse_index
from mixstream.storage import (
    INDEX,
    LOCK,
    LONGEST_TIMEOUT,
    Retry,
    Store,
    absolute,
    check_writable,
    find_destinations,
    is_local,
    local_path,
    open_store,
    read_object,
    redact,
    refuse_conversion,
)

_Out = str | os.PathLike[str] | tuple[str | os.PathLike[str], str | os.PathLike[str]]


def merge_index(*args: Any, **kwargs: Any) -> None:
    """Write one index over the datasets below `out`. Shards are not moved.

    `merge_index(out, keep_local=True, download_timeout=60, metadata=None)` takes all datasets below `out`, and
    `merge_index(index_file_urls, out, keep_local=True, download_timeout=60, metadata=None)` those whose indexes are
    named.

    Two processes write a dataset together, each into its own directory:

    >>> import tempfile
    >>> import mixstream as ms
    >>> with tempfile.TemporaryDirectory() as out:
    ...     for part in range(2):
    ...         with ms.MDSWriter(columns={"x": "int"}, out=f"{out}/{part}") as writer:
    ...             writer.write({"x": part})
    ...     ms.merge_index(out)
    ...     dataset = ms.StreamingDataset(remote=out, batch_size=1)
    ...     [sample["x"] for sample in dataset]
    [0, 1]

    Args:
        index_file_urls: paths or URLs of the `index.json` of the datasets, in order; or pairs (local, remote).
        out: the directory above them: a path, a URL, or a pair (local, remote).
        keep_local: with a pair, whether the local directory gets the index too.
        download_timeout: seconds per request.
        metadata: further top-level keys for the index, as for `MDSWriter`; what the merged indexes say is not kept.

    Raises:
        ConfigError: an argument is invalid, an index is given twice, columns differ, or no index can hold
            the files: one is named twice, or a name is not portable.
        IndexCorruptError: an index is damaged.
        OutputExistsError: `out` has shards of its own, which the index would no longer name.
        ShardNotFoundError: an index names a shard that is not there.
        UnfinishedError: there are shards without an index, or there is no dataset.
        StoreError: a store cannot be read or written.
    """
    is_list = bool(args) and isinstance(args[0], list)
    names = ("index_file_urls", "out") if is_list or "index_file_urls" in kwargs else ("out",)
    known = (*names, "keep_local", "download_timeout", "metadata")
    given = dict(zip(known, args)) | kwargs
    unknown = given.keys() - {*known}
    if unknown or "out" not in given or len(args) > len(known):
        raise ConfigError(
            f"merge_index takes (out) or (index_file_urls, out), keep_local, download_timeout and metadata; got "
            f"{sorted(given)}"
        )
    urls, keep_local = given.get("index_file_urls"), given.get("keep_local", True)
    if not isinstance(keep_local, bool):
        raise ConfigError(
            f"merge_index: keep_local is {redact(shown(keep_local))}, not True or False; with index_file_urls before "
            "`out`, these are a list"
        )
    if urls is not None and not isinstance(urls, list | tuple):
        raise ConfigError(f"index_file_urls is {redact(shown(urls))}: give a list of paths or URLs")
    if urls is not None and not urls:
        raise ConfigError("index_file_urls is empty: name the index.json of at least one dataset")
    _merge(
        urls,
        given["out"],
        keep_local=keep_local,
        timeout=real(
            "download_timeout",
            given.get("download_timeout", 60),
            above=0,
            of="seconds",
            advice=f"give at most {LONGEST_TIMEOUT}",
        ),
        metadata={} if given.get("metadata") is None else given["metadata"],
    )


def _merge(
    urls: Sequence[Any] | None, out: _Out, *, keep_local: bool, timeout: float, metadata: Mapping[str, Any]
) -> None:
    pair = isinstance(out, tuple | list)
    if pair and len(out) != 2:
        raise ConfigError(f"out is {redact(shown(out))}; give a directory, a URL, or a tuple (local, remote)")
    places = [absolute(place, "out") for place in (out if pair else (out,))]
    retry = Retry(attempts=3, timeout=timeout, knobs=("", "download_timeout"))
    source = places[-1]  # of a pair, the remote one has all of it
    if not is_local(source):
        check_writable(source)
    refuse_conversion(source)
    store = open_store(source, timeout=timeout)
    names = retry.call(f"listing {store.url}", store.names, renew=store.renew)
    parts = _listed(names, store) if urls is None else [_below(url, places) for url in urls]
    if twice := [part for part, count in Counter(parts).items() if count > 1]:
        raise ConfigError(f"{redact(source)}: the index of {twice[0]!r} is given twice, so its rows would count twice")
    _check_root(store, names, retry)
    shards = _shards(store, parts, {*names}, retry)
    try:
        data = dump_index(Index(shards=tuple(shards), extra=metadata))
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"merge_index: metadata: {error}") from error
    try:
        parse_index(data, where=f"{store.url}/{INDEX}")
    except IndexCorruptError as error:  # a dataset and a merged one around it; names that only case keeps apart
        raise ConfigError(
            f"{redact(source)}: nothing was written, since no reader would take such an index: "
            f"{str(error).partition('; no part')[0]}. Name each dataset once, or rename its directory"
        ) from None
    _, _, destinations = find_destinations(
        tuple(places) if len(places) == 2 else source, keep_local=keep_local, retry=2
    )
    for destination in destinations:
        destination.check_free()
        destination.lock()
    try:
        for destination in destinations:
            stored = ((packed or raw).basename for shard in shards for raw, packed in shard.files)
            destination.complete(data, below=stored)
    finally:
        for destination in destinations:
            destination.unlock()


def _listed(names: Sequence[str], store: Store) -> list[str]:
    """Return the directories below that have an index; those inside another one belong to it."""
    found: list[str] = []
    for name in sorted(name.removesuffix(f"/{INDEX}") for name in names if name.endswith(f"/{INDEX}")):
        if not any(name.startswith(f"{other}/") for other in found) and not name.startswith("."):
            found.append(name)
    for name in names:
        directory, _, file = name.rpartition("/")
        begun = file.startswith("shard.") or file == LOCK
        if directory and begun and not any(f"{directory}/".startswith(f"{at}/") for at in found):
            raise UnfinishedError(
                f"{store.url}/{directory}: unfinished, it has {file} but no {INDEX}: wait until its writer has come to "
                "its end, run it again, or remove it"
            )
    if not found:
        raise UnfinishedError(
            f"{store.url}: there is no dataset below it: give the directory above those of the writers"
        )
    return sorted(found, key=_natural)


def _natural(name: str) -> tuple[tuple[int, str], ...]:
    """Order directories that are numbers by these: 2 before 10."""
    return tuple((int(part), "") if part.isdecimal() else (1 << 62, part) for part in name.split("/"))


def _below(url: Any, places: Sequence[str]) -> str:
    """Return the directory of an index, relative to `out`; of a pair, either place may be below one of `out`."""
    for each in url if isinstance(url, tuple | list) else (url,):
        if not (isinstance(each, str) or is_path(each)):
            raise ConfigError(f"index_file_urls names {redact(shown(each))}, which is neither a path nor a URL")
        text = os.fspath(each)
        directory = text.rpartition("/")[0] if text.endswith(f"/{INDEX}") else text.rstrip("/")
        for place in places:
            above, here = (
                (str(local_path(absolute(p, "index_file_urls"))) if is_local(p) else p.rstrip("/"))
                for p in (place, directory or INDEX)
            )
            if here.startswith(f"{above}/"):
                return here[len(above) + 1 :]
    raise ConfigError(
        f"{redact(str(url))} does not lie below {redact(places[-1])}, so an index there cannot name its shards: give "
        "indexes below `out`"
    )


def _check_root(store: Store, names: Sequence[str], retry: Retry) -> None:
    """Check that an index at `out`, if there is one, is a merged one."""
    if own := [name for name in names if "/" not in name and name.startswith("shard.")]:
        raise OutputExistsError(
            f"{store.url}: it holds {own[0]}, a shard of its own, which the merged index would not name: move the "
            "dataset into a sub-directory"
        )
    if INDEX in names:
        parse_index(_read(store, INDEX, retry), where=f"{store.url}/{INDEX}")


def _shards(store: Store, parts: Sequence[str], names: set[str], retry: Retry) -> list[ShardInfo]:
    """Return the shards of all parts, with their paths below `out`."""
    found: list[ShardInfo] = []
    first: tuple[str, dict[str, str]] | None = None
    for part in parts:
        where = f"{store.url}/{part}/{INDEX}"
        if f"{part}/{INDEX}" not in names:
            raise UnfinishedError(f"{where}: it is not there: wait until its writer has come to its end")
        for shard in parse_index(_read(store, f"{part}/{INDEX}", retry), where=where).shards:
            first = first or (part, shard.columns)
            if shard.columns != first[1]:
                raise ConfigError(
                    f"{store.url}: {part} has the columns {shard.columns}, and {first[0]} has {first[1]}: rows of one "
                    "dataset have the same columns; write them alike, or read them as several streams"
                )
            for raw, packed in shard.files:
                if (stored := f"{part}/{(packed or raw).basename}") not in names:
                    raise ShardNotFoundError(
                        f"{store.url}/{stored}: the index of {part} names it, and it is not there: copy or write it "
                        "again"
                    )
            files = ("raw", "zip", "meta", "meta_zip")
            found.append(replace(shard, **{name: _inside(part, getattr(shard, name)) for name in files}))
    return found


def _inside(part: str, file: FileInfo | None) -> FileInfo | None:
    return None if file is None else replace(file, basename=f"{part}/{file.basename}")


def _read(store: Store, name: str, retry: Retry) -> bytes:
    data = read_object(store, name, size=None, retry=retry)
    assert data is not None, "without `into`, the bytes are returned"
    return bytes(data)
