"""Streams become domains: a stream's whole domain, the rows of it that a selection keeps, or one domain per bucket.

Rules. Nothing here reads a shard. A selection stays a file: domains hold how to map it. Buckets that a column of scores
defines (`split_by`) are written once, below the temporary directory, under a name made of what decides their content;
ranks and processes of a machine share them.

Shape suffixes: b buckets, K domains.
"""

from __future__ import annotations

import copy
import re
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import blake2b
from os import fspath
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from mixstream.data.domain import Domain
from mixstream.errors import ConfigError, SelectionError
from mixstream.lazy import later
from mixstream.loader.stream import CONCAT, Stream, retry_of
from mixstream.storage import is_local

if TYPE_CHECKING:
    from mixstream.loader.packed_streams import packed_domain
    from mixstream.packing.packing import Packing
    from mixstream.selection.artefact_files import open_files
    from mixstream.selection.manifest import find_artefacts
    from mixstream.selection.scores import Scores
    from mixstream.selection.selection import Selection
    from mixstream.selection.splitting import split
    from mixstream.storage.built_once import build_once
else:
    (packed_domain,) = later("mixstream.loader.packed_streams", "packed_domain")
    (Packing,) = later("mixstream.packing.packing", "Packing")
    (open_files,) = later("mixstream.selection.artefact_files", "open_files")
    (find_artefacts,) = later("mixstream.selection.manifest", "find_artefacts")
    (Scores,) = later("mixstream.selection.scores", "Scores")
    (Selection,) = later("mixstream.selection.selection", "Selection")
    (split,) = later("mixstream.selection.splitting", "split")
    (build_once,) = later("mixstream.storage.built_once", "build_once")

_LONG = 0.1  # seconds after which streams may be opened in several threads
_WAITS = 4  # times of its CPU time that a thread has taken if what it waits for is a disk, not another process
_Opened = TypeVar("_Opened")


def opened(streams: Sequence[Stream], *, allow_unsafe_types: bool) -> tuple[list[Stream], list[Domain]]:
    """Read the indexes and selections of all streams, several at once where that takes requests to a store.

    Returns:
        The streams, with one for each bucket in the place of a stream that is split, and the domain of each.

    Raises:
        ConfigError: two domains have one name, or a selection keeps nothing.
        SelectionError: a selection is damaged, or was made for other shards.
    """
    found = [pair for pairs in _each(streams, lambda stream: _opened(stream, allow_unsafe_types)) for pair in pairs]
    names = [domain.name for _, domain in found]
    if twice := sorted(name for name, times in Counter(names).items() if times > 1):
        raise ConfigError(f"buckets and streams share the names {twice}; give the streams other names")
    return [stream for stream, _ in found], [domain for _, domain in found]


def _each(streams: Sequence[Stream], open_one: Callable[[Stream], _Opened]) -> list[_Opened]:
    """Return what `open_one` returns of each stream.

    What waits is opened in threads: streams of a store, and all that follow once a disk has kept this thread waiting
    most of the time. Elsewhere threads only wait for each other: streams on a local disk took them twice the time.
    """
    found, began, cpu = list[_Opened](), time.perf_counter(), time.thread_time()
    for stream in streams:
        elapsed, busy = time.perf_counter() - began, time.thread_time() - cpu
        if elapsed > max(_LONG, _WAITS * busy) or not (stream.remote is None or is_local(stream.remote)):
            break
        found.append(open_one(stream))
    if left := streams[len(found) :]:
        with ThreadPoolExecutor(min(len(left), 16), thread_name_prefix="mixstream-open") as pool:
            found += pool.map(open_one, left)
    return found


def _opened(stream: Stream, allow_unsafe_types: bool) -> list[tuple[Stream, Domain]]:
    whole = stream.open(allow_unsafe_types=allow_unsafe_types)
    if stream.packing is not None:
        return [(stream, _packed(stream, whole))]
    if stream.split_by is not None:
        return _buckets(stream, whole)
    if stream.selection is None:
        return [(stream, whole)]
    selection = _selection_of(stream)
    _check_domain(stream, whole, selection)
    if len(selection.buckets) > 1:
        raise ConfigError(
            f"stream {stream.name!r}: {selection.path} has the buckets {list(selection.buckets)[:8]}, each of which is "
            "read as a domain: give it as split_by=... instead of selection=..."
        )
    kept = selection.view(whole.shards, on_mismatch=stream.on_selection_mismatch, unlisted=stream.unlisted_shards)
    if not kept.kept:
        raise ConfigError(
            f"stream {stream.name!r}: {kept.where} keeps none of its {kept.stored:,} samples; leave the stream out, or "
            "select others"
        )
    _warn_of_changes(stream, whole, selection)
    return [(stream, whole.keeping(kept))]


def _packed(stream: Stream, whole: Domain) -> Domain:
    packing = None
    if stream.packing != CONCAT:
        packing = Packing.open(fspath(stream.packing or ""), domain=stream.name, retry=retry_of(stream))
        _check_domain(stream, whole, packing)
    return packed_domain(stream, whole, packing)


def _warn_of_changes(stream: Stream, whole: Domain, made: Selection) -> None:
    """Warn of shards that are others than when the selection was made: the options decide about their rows."""
    if stream.on_selection_mismatch == stream.unlisted_shards == "error":
        return  # such shards were refused; matching 100,000 of them again would take half a second
    match = made.match(whole.shards)
    changed = {number for number, _, _ in match.changed}
    named = {
        "changed": [whole.shards[number].raw.basename for number in sorted(changed)],
        "added": [
            whole.shards[number].raw.basename
            for number in np.flatnonzero(match.of_S < 0).tolist()
            if number not in changed
        ],
        "removed": [made.table.shards[number].name for number in match.missing if made.counts_SK[number].any()],
    }
    if facts := [f"{len(names)} shards were {what}, first {names[0]!r}" for what, names in named.items() if names]:
        warnings.warn(
            f"stream {stream.name!r}: since its selection was made, {'; '.join(facts)}; their rows follow "
            f"on_selection_mismatch={stream.on_selection_mismatch!r} and unlisted_shards={stream.unlisted_shards!r}",
            stacklevel=2,
        )


def _selection_of(stream: Stream) -> Selection:
    assert stream.selection is not None
    return Selection.open(stream.selection, domain=stream.name, retry=retry_of(stream))


def _check_domain(stream: Stream, whole: Domain, made: Selection | Packing) -> None:
    """Refuse a selection or packing of another domain: shards of two domains may have equal names, sizes and rows.

    Raises:
        SelectionError: it was made for a domain of another name, and no hashes show that its shards are these.
    """
    if made.domain in (stream.name, stream.directory_name):
        return
    of_S = made.match(whole.shards).of_S
    listed = [made.table.shards[number].hashes if number >= 0 else {} for number in of_S.tolist()]
    if all(hashes.keys() & shard.raw.hashes.keys() for hashes, shard in zip(listed, whole.shards)):
        return
    raise SelectionError(
        f"{made.path} was made for the domain {made.domain!r} ({made.table.rows:,} rows in {len(made.table.shards)} "
        f"shards), and stream {stream.name!r} is {stream.location} ({sum(s.samples for s in whole.shards):,} rows in "
        f"{len(whole.shards)} shards): give the one of this domain; if the dataset was renamed, pass "
        f"Stream(name={made.domain!r})"
    )


# --- buckets --------------------------------------------------------------------------------------------------------


def _buckets(stream: Stream, whole: Domain) -> list[tuple[Stream, Domain]]:
    """Return a stream and a domain for each bucket of `stream` that has rows."""
    selection = _split(stream)
    named = f"split_by={fspath(stream.split_by)!r}"  # type: ignore[arg-type] - as in `_split`
    try:
        _check_domain(stream, whole, selection)
        views = selection.views(whole.shards, on_mismatch=stream.on_selection_mismatch, unlisted=stream.unlisted_shards)
    except SelectionError as error:
        error.add_note(f"stream {stream.name!r}, {named}")
        raise
    views = [replace(kept, where=named) for kept in views]  # the path may be one that no user wrote
    found = [whole.bucket(label, kept) for label, kept in zip(selection.buckets, views) if kept.kept]
    if not found:
        raise ConfigError(
            f"stream {stream.name!r}: the buckets of {named} have no samples; leave the stream out, or split others"
        )
    _warn_of_changes(stream, whole, selection)
    return list(zip(_divided(stream, found), found))


def _divided(stream: Stream, domains: Sequence[Domain]) -> list[Stream]:
    """Return a stream for each bucket; together they weigh what `stream` weighs, each by its rows."""
    rows_b = np.array([domain.samples for domain in domains], dtype=np.int64)
    share_b = rows_b / rows_b.sum()
    total: int | None = None
    if stream.choose is not None or stream.repeat is not None:
        total = stream.choose if stream.choose is not None else int((stream.repeat or 0.0) * int(rows_b.sum()))
    copies = []
    for b, domain in enumerate(domains):
        part = copy.copy(stream)
        part.name, part.repeat = domain.name, None
        # Not rounded: a bucket that is due less than one row per epoch is read in some of them.
        part.choose = None if total is None else total * int(rows_b[b]) / int(rows_b.sum())  # type: ignore[assignment]
        part.proportion = None if stream.proportion is None else stream.proportion * float(share_b[b])
        copies.append(part)
    return copies


def _split(stream: Stream) -> Selection:
    """Return the buckets of a stream: those that were written, or those of a column of scores."""
    text = fspath(stream.split_by)  # type: ignore[arg-type] - the caller has checked that it is not None
    found = re.fullmatch(r"(.+?)(?::(\d+))?", text, re.DOTALL)
    if found is None:
        raise ConfigError(
            f"stream {stream.name!r}: split_by={text!r} names nothing; write split_by='scores/quality:20'"
        )
    place, count = found[1].rstrip("/") or found[1], int(found[2]) if found[2] else None
    if count is None and (written := _written(place, stream)) is not None:
        return written
    if count is None and (others := _domains_of(place)):
        raise ConfigError(
            f"stream {stream.name!r}: split_by={text!r} has no buckets of this domain, it has those of "
            f"{', '.join(others)}: split it too, pass Stream(name=...) with one of these names, or leave out split_by"
        )
    above, _, column = place.rpartition("/")
    if not above:
        raise ConfigError(
            f"stream {stream.name!r}: split_by={text!r}: no buckets were written there, and it has no directory of "
            "scores: write 'DIRECTORY/COLUMN:COUNT' (scores), 'DIRECTORY/COLUMN' (integers), or the directory of "
            "buckets"
        )
    scores = Scores.open(above, domain=stream.name, retry=retry_of(stream))
    within = _selection_of(stream) if stream.selection is not None else None
    made = _kept_buckets(stream, scores, column, count, within)
    if left := (scores.rows if within is None else within.kept) - made.kept:
        warnings.warn(
            f"stream {stream.name!r}: {left:,} samples have no value of {column!r} in {scores.path}, so they "
            "are in no bucket and are not read; score them, or leave out split_by",
            stacklevel=2,
        )
    return made


def _domains_of(place: str) -> list[str]:
    """Return the domains of which there are selections below `place`."""
    if not is_local(place):
        return []
    try:
        return sorted(find_artefacts(place, "selection"))
    except SelectionError:
        return []


def _written(place: str, stream: Stream) -> Selection | None:
    """Return the selection at `place`; None if there is no artefact."""
    try:
        open_files(place, domain=stream.name, kind="selection", retry=retry_of(stream))
    except SelectionError:
        return None
    if stream.selection is not None:
        raise ConfigError(
            f"stream {stream.name!r}: split_by={place!r} names buckets that were written, which keep what they keep: "
            "leave out selection, or give split_by='DIRECTORY/COLUMN:COUNT'"
        )
    return Selection.open(place, domain=stream.name, retry=retry_of(stream))


def _kept_buckets(
    stream: Stream, scores: Scores, column: str, count: int | None, within: Selection | None
) -> Selection:
    """Return the buckets of a column; they are written once, under a name made of all that decides their content."""
    categories = scores.made.get("categories")
    named = categories.get(column) if isinstance(categories, dict) and count is None else None
    prints = [[shard.fingerprint for shard in made.table.shards] for made in (scores, within) if made is not None]
    facts = ("split/2", scores.domain, scores.id, column, count, named, within and within.id, prints)
    key = f"split:{blake2b(repr(facts).encode(), digest_size=16).hexdigest()}"

    def build(place: Path) -> None:
        shutil.rmtree(place, ignore_errors=True)  # a cleaner of the temporary directory may have left files
        split(scores, column, buckets=count, within=within, out=place)

    return build_once(
        key,
        "buckets",
        find=_kept,
        build=build,
        what=f"the buckets of stream {stream.name!r}",
        need=f"split stream {stream.name!r}",
        remedy=", or write the buckets once with `mixstream select split` and pass split_by=DIRECTORY",
    )


def _kept(place: Path) -> Selection | None:
    """Return the buckets at `place`; None if there are none, or files of them are damaged or lost."""
    try:
        made = Selection.open(place)
        made.rows_of(0)  # maps the rows: `open` does not look at them
    except SelectionError:
        return None
    return made
