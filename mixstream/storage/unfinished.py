"""Is a directory the root of a conversion, or below one, and is that finished?

`mixstream convert` writes `ROOT/.convert/run.json` before anything else, and `ROOT/domains.json` last, with the hash of
run.json as its identity. In between there may be datasets that are whole (they have an index), but not all of them. A
part is no dataset: it has the rows of some of a dataset's documents.
"""

import json
import re
from collections.abc import Iterator
from hashlib import sha256
from typing import TYPE_CHECKING

from mixstream.errors import (
    ConfigError,
    IndexNotFoundError,
    OutputExistsError,
    StoreError,
    StoreNotFoundError,
    UnfinishedError,
)
from mixstream.lazy import later, pattern
from mixstream.records import dataclass
from mixstream.storage.domain_directory import domain_directory
from mixstream.storage.store import Store, read_at_most
from mixstream.storage.url import join, redact, scheme_of

if TYPE_CHECKING:
    from mixstream.storage.open import open_store
else:
    (open_store,) = later("mixstream.storage.open", "open_store")

RUN, SUMMARY = ".convert/run.json", "domains.json"
_PART = pattern(r"part-(\d{5,}|tail)", re.ASCII)
_RECORD = pattern(r"\.convert/parts/[^/]+/\d+\.json", re.ASCII)
_SHARDS_OF_PART = pattern(r"([^/]+)/[^/]+/part-(\d{5,})/.*", re.ASCII)
_LARGEST = 256 << 20  # bytes of either file
_LEVELS = 3  # ROOT/DOMAIN/SPLIT/part-00000


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """The output of `mixstream convert`.

    Attributes:
        root: its URL, without credentials.
        below: where the directory that was asked about lies in it: "", "web", "web/train" or "web/train/part-00000".
        domains: its domains, each with the splits that have rows; none if it is not finished.
        groups: what it converts together: its domains too, unless lines of its sources name them.
        unfinished: what to say of it if it is not finished; empty if it is.
    """

    root: str
    below: str
    domains: dict[str, list[str]]
    groups: frozenset[str]
    unfinished: str

    @property
    def is_part(self) -> bool:
        """Whether the directory is a part of a dataset."""
        return is_part_name(self.below.rpartition("/")[2]) and self.below.count("/") == _LEVELS - 1


def is_part_name(directory: str) -> bool:
    """Return whether `mixstream convert` calls a part of a dataset so: `part-00003`, `part-tail`."""
    return bool(_PART.fullmatch(directory))


def find_conversion(url: str, *, timeout: float = 60.0, above: int = _LEVELS) -> Conversion | None:
    """Return the conversion of which `url` is the root, or a directory below it; None if there is none.

    Args:
        url: of a directory.
        timeout: seconds per request.
        above: how many directories above `url` are looked at.
    """
    for root, below in _roots(url, above):
        try:
            store = open_store(root, timeout=timeout)
            found = describe_conversion(store, below)
        except (ConfigError, StoreError):
            continue
        if found is not None:
            return found
    return None


def describe_conversion(store: Store, below: str = "") -> Conversion | None:
    """Return the conversion whose root is the directory of `store`; None if it is none.

    Raises:
        StoreError: the store cannot be read.
    """
    try:
        run = bytes(memoryview(read_at_most(store, RUN, _LARGEST).data))
        groups = json.loads(run)["groups"]
        counts = [group.get("parts") for group in groups.values()]
    except (StoreNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # another program's
    try:
        summary = json.loads(bytes(memoryview(read_at_most(store, SUMMARY, _LARGEST).data)))
        domains = {
            str(name): [str(split) for split, each in splits.items() if each["rows"]]
            for name, splits in summary["domains"].items()
        }
        is_finished = summary["identity"] == sha256(run).hexdigest()
    except (StoreNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        domains, is_finished = {}, False
    unfinished = ""
    if not is_finished:
        done, parts = _parts_done(store), None if None in counts else sum(counts)
        amount = f"{done} of {parts} parts" if done is not None and parts else f"{done or 'some'} parts"
        unfinished = (
            f"{store.url}: unfinished, {amount}; run convert again: the same `mixstream convert` command goes on from "
            "there"
        )
    return Conversion(root=store.url, below=below, domains=domains, groups=frozenset(groups), unfinished=unfinished)


def explain_missing(error: IndexNotFoundError, url: str, *, timeout: float = 60.0) -> IndexNotFoundError:
    """Return the error to raise for a directory without an index: what is known of the conversion that it belongs to.

    Args:
        error: what was found so far.
        url: of the directory.
        timeout: seconds per request.
    """
    found = find_conversion(url, timeout=timeout)
    if found is None or (not found.unfinished and found.below.partition("/")[0] in {*found.domains, *found.groups}):
        return error
    if found.unfinished:
        return UnfinishedError(f"no index in {redact(url)}: {found.unfinished}")
    names = sorted(found.domains)
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    split = next((split for name in names for split in found.domains[name]), "train")
    first = join(found.root, domain_directory(names[0]) if names else "DOMAIN")
    return IndexNotFoundError(
        f"{found.root} has several datasets, of the domains {shown}: give Stream(remote={first!r}, split={split!r}) "
        f"for each, or streams=mixstream.streams({found.root!r}, split={split!r}) for all"
    )


def refuse_part(url: str, *, timeout: float = 60.0) -> None:
    """Refuse to read a part of a dataset as a dataset.

    Raises:
        UnfinishedError: `url` is a part that `mixstream convert` has written.
    """
    if not is_part_name(url.partition("?")[0].rstrip("/").rpartition("/")[2]):
        return
    found = find_conversion(url, timeout=timeout)
    if found is not None and found.is_part:
        domain, split, part = found.below.split("/")
        why = found.unfinished or f"read all of it: Stream(remote={join(found.root, domain)!r}, split={split!r})"
        raise UnfinishedError(f"{redact(url)}: {part} is a part of the dataset {domain}/{split}, not a dataset; {why}")


def refuse_conversion(url: str) -> None:
    """Refuse to write a dataset over what `mixstream convert` has written.

    Raises:
        OutputExistsError: `url` is the root of a conversion, or in one of its domains.
    """
    found = find_conversion(url, above=_LEVELS - 1)  # parts are written by convert itself
    if found is not None and found.below.partition("/")[0] in {"", *found.domains, *found.groups}:
        raise OutputExistsError(
            f"{redact(url)} belongs to `mixstream convert`, which has written {found.root}: give another directory, or "
            "a new one below it, such as " + join(found.root, "NAME", "train")
        )


def _roots(url: str, above: int) -> Iterator[tuple[str, str]]:
    """Yield the directory, and those above it, each with what of `url` is below."""
    place, query = (url, "") if not scheme_of(url) else (url.partition("?")[0], url.partition("?")[2])
    place, below = place.rstrip("/") or place, ""
    for _ in range(above + 1):
        yield place + (f"?{query}" if query else ""), below
        head, slash, last = place.rpartition("/")
        if not slash or not last or head.endswith(("/", ":")):
            return
        place, below = head, f"{last}/{below}".rstrip("/")


def _parts_done(store: Store) -> int | None:
    """Return how many parts are recorded, or, at a store that has no records, are there; None if it has no listing."""
    try:
        names = store.names()
    except StoreError:
        return None
    if records := sum(1 for name in names if _RECORD.fullmatch(name)):
        return records
    return len({found.groups() for name in names if (found := _SHARDS_OF_PART.fullmatch(name))})
