"""The artefacts at the URL of a store, by domain: the one that is there, or those in the directories below it.

Rule: a manifest at the URL itself needs no listing, so a store that cannot list (a web server) has artefacts of one
domain at a URL. A dataset is no artefact, and is not listed: it may have very many files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import msgspec

from mixstream.errors import SelectionError, StoreError, StoreNotFoundError
from mixstream.storage import INDEX, SUMMARY, Retry, Store, join, open_store, redact

from .parallel import in_parallel
from .shards import read_bytes

_MANIFEST = "manifest.json"
_BELOW = re.compile(rf"(?!\.)([^\x00-\x1f\x7f\\/:?#]+)/{re.escape(_MANIFEST)}")
_AT_ONCE = 8  # manifests that are read in parallel
_RETRY = Retry(knobs=("", ""))


def find_remote(url: str, kind: str) -> dict[str, str]:
    """Return the URLs of the artefacts of a kind, by domain.

    Args:
        url: of an artefact, or of a directory above several.
        kind: `"scores"` or `"selection"`.

    Raises:
        SelectionError: there is none, or two describe one domain.
        StoreError: the store cannot be read.
    """
    store = open_store(url, timeout=_RETRY.timeout)
    manifest = _read(store, _MANIFEST)
    heads = {url: _head(manifest)} if manifest is not None else dict(_below(url, store))
    found: dict[str, str] = {}
    for place, (own, domain) in heads.items():
        if own != kind:
            continue
        if domain in found:
            raise SelectionError(
                f"{redact(found[domain])} and {redact(place)} both describe the domain {domain!r}; give one of them"
            )
        found[domain] = place
    if not found:
        there = sorted({own for own, _ in heads.values() if own})
        hint = f"; there are {' and '.join(there)}" if there else ""
        raise SelectionError(
            f"no {kind} at {redact(url)} or in a directory below it{hint}; check the URL, or upload it ({_MANIFEST} "
            "last)"
        )
    return found


def _below(url: str, store: Store) -> Iterator[tuple[str, tuple[str, str]]]:
    if any(_read(store, name) is not None for name in (INDEX, SUMMARY)):
        return
    try:
        names = _RETRY.call(f"listing {store.url}", store.names, renew=store.renew)
    except StoreNotFoundError:
        return
    except StoreError as error:
        error.add_note(f"{store.url} has no {_MANIFEST}: where a store cannot list, give the URL of one domain")
        raise
    files = [name for name in names if _BELOW.fullmatch(name)]
    with closing(in_parallel(lambda name: _read(store, name), files, workers=_AT_ONCE)) as read:
        for name, data in sorted(read, key=lambda pair: pair[0]):
            if data is not None:
                yield join(url, name.removesuffix(f"/{_MANIFEST}")), _head(data)


def _read(store: Store, name: str) -> bytes | None:
    try:
        return read_bytes(store, name, None, _RETRY)
    except StoreNotFoundError:
        return None


def _head(data: bytes) -> tuple[str, str]:
    """Return the kind and the domain of a manifest; empty if it is none. All of it is checked when it is opened."""
    try:
        found: Any = msgspec.json.decode(data)
        return str(found["format"]).removeprefix("mixstream.").partition("/")[0], str(found["domain"])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
        return "", ""
