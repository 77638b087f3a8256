"""URL of a SRC → the objects that it names: one object, all below a directory, or those that match a pattern.

Rules. A directory in a store is walked like one on disk, in the same order, and the same files around the data are
skipped (listing.py). Patterns mean what they mean there. A web server has no listing, so its files are named one by
one. Nothing that is shown holds credentials.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from urllib.parse import unquote

from mixstream.errors import (
    ConfigError,
    StoreAccessError,
    StoreBusyError,
    StoreError,
    StoreFaultError,
    StoreNotFoundError,
)
from mixstream.storage import Store, join, open_store, place_of, redact, split_url

from ..files.source_files import SourceFile, StoredObject, split_name
from ..files.stored_bytes import RETRY, look_at
from .listing import Skipped, is_around_data, why_around
from .places import Entry, Place

_WEB = ("http", "https")
_WILD = re.compile(r"[*?\[]")
_WILD_WEB = re.compile(r"[*\[]")  # a question mark begins the query


@dataclass(frozen=True, kw_only=True)
class ObjectPlace:
    """An object; `matched` if a pattern found it."""

    directory: str = field(repr=False)
    object: str
    matched: bool = False
    is_folder: bool = False

    @property
    def shown(self) -> str:
        """The URL without credentials."""
        return _shown(self.directory, self.object)

    @property
    def name(self) -> str:
        """The last part of its name, without suffixes."""
        return split_name(self.object)[0]

    def folders(self) -> Sequence[Place]:
        """None: it is a file."""
        return []

    def entries(self, skipped: Skipped) -> Iterator[Entry]:
        """Yield the object."""
        name = self.object.rpartition("/")[2]
        yield Entry(_describe(self.directory, self.object, name), named=not self.matched)


@dataclass(frozen=True, kw_only=True)
class FolderPlace:
    """A directory of a store.

    Args:
        url: as `open_store` takes it.
        names: of the objects below it.
    """

    url: str = field(repr=False)
    names: Sequence[str] = field(repr=False)
    is_folder: bool = True

    @property
    def shown(self) -> str:
        """The URL without credentials."""
        return place_of(self.url).rstrip("/")

    @property
    def name(self) -> str:
        """The last part of the URL: a directory, or a bucket."""
        return _last(self.url)

    def folders(self) -> Sequence[FolderPlace]:
        """The directories in it, if it holds nothing else but hidden files; else none."""
        children: dict[str, list[str]] = {}
        for name in self.names:
            head, slash, rest = name.partition("/")
            if head.startswith("."):
                continue
            if not slash:
                return []
            children.setdefault(head, []).append(rest)
        return [FolderPlace(url=join(self.url, head), names=children[head]) for head in sorted(children)]

    def child(self, name: str) -> FolderPlace:
        """A directory in it."""
        below = [each.removeprefix(f"{name}/") for each in self.names if each.startswith(f"{name}/")]
        return FolderPlace(url=join(self.url, name), names=below)

    def entries(self, skipped: Skipped) -> Iterator[Entry]:
        """Yield its objects, in the order in which files on disk are walked."""
        passed: set[tuple[str, ...]] = set()
        for parts in sorted(tuple(name.split("/")) for name in self.names):
            found = next(((at, why) for at, part in enumerate(parts) if (why := why_around(part))), None)
            if found is None:
                name = "/".join(parts)
                yield Entry(_describe(self.url, name, name), named=False)
            elif (head := parts[: found[0] + 1]) not in passed:  # a directory counts once, as on disk
                passed.add(head)
                skipped[found[1], ""] += 1


def find_stored(url: str) -> list[Place]:
    """Return what a URL, or a pattern of URLs, names.

    Raises:
        ConfigError: there is nothing, or an object and a directory have the same name.
        StoreError: the store cannot be read.
    """
    if _scheme(url) in _WEB:
        return _find_on_web(url)
    if _WILD.search(url.partition("://")[2]):
        return _matching(url)
    refused: StoreError | None = None
    if (place := _object_at(url)) is not None:
        try:
            info = look_at(StoredObject(directory=place.directory, name=place.object), place.shown)
        except (StoreFaultError, StoreBusyError):
            raise
        except StoreError as error:  # also where the URL is one that names no file
            refused = error
        else:
            return [_object_or_folder(place, url, info.size)]
    try:
        names = _names(url)
    except StoreError as error:
        raise (refused if isinstance(refused, StoreAccessError) else error) from None
    if not names:
        raise _not_found(url, refused)
    return [FolderPlace(url=url, names=names)]


def _find_on_web(url: str) -> list[Place]:
    """What a URL of a web server names. WebDAV, and servers of its kind, can list."""
    place = _object_at(url)
    if place is not None and not _WILD_WEB.search(place.object):
        try:
            look_at(StoredObject(directory=place.directory, name=place.object), place.shown)
        except StoreNotFoundError as error:
            raise _not_found(url, error) from None
        return [place]
    try:
        if place is not None:
            return _matching(url)
        names = _names(url)
    except StoreError as error:
        raise ConfigError(
            f"SRC {redact(url)}: this server cannot list a directory. Name each file with a SRC of its own."
        ) from error
    if not names:
        raise _not_found(url, None)
    return [FolderPlace(url=url, names=names)]


def _object_or_folder(place: ObjectPlace, url: str, size: int) -> Place:
    """The object; or the directory, where the object is its empty mark."""
    try:
        below = _names(url, limit=1)
    except StoreError:  # an account that may read an object may lack the right to list
        return place
    if not below:
        return place
    if not size:
        return FolderPlace(url=url, names=_names(url))
    raise ConfigError(
        f"SRC {place.shown}: there is an object of this name and there are others below it. End the URL with / for "
        f"those below, or write {place.shown[:-1]}[{place.shown[-1]}] for both."
    )


def _matching(url: str) -> list[Place]:
    """What of a store matches a pattern."""
    scheme, _, rest = url.partition("://")
    parts = [part for part in rest.split("/") if part]
    plain = next((at for at, part in enumerate(parts) if _WILD.search(part)), len(parts))
    if not plain:
        raise ConfigError(f"SRC {redact(url)}: a pattern cannot stand for a bucket or host. Name it.")
    base, wild = f"{scheme}://{'/'.join(parts[:plain])}", parts[plain:]
    asked = any(part.startswith(".") for part in wild)
    found: dict[tuple[str, ...], list[str]] = {}
    for name in _names(base):
        split = tuple(name.split("/"))
        end = next((end for end in range(len(split) + 1) if _match(split[:end], wild)), None)
        if end is not None and (asked or not is_around_data(split[:end])):
            found.setdefault(split[:end], []).append("/".join(split[end:]))
    if not found:
        raise ConfigError(f"SRC {redact(url)}: no object below {redact(base)} matches this pattern.")
    places: list[Place] = []
    for head in sorted(found):
        if "" in found[head]:
            places.append(ObjectPlace(directory=base, object="/".join(head), matched=True))
        if below := [name for name in found[head] if name]:
            places.append(FolderPlace(url=join(base, *head), names=below))
    return places


def _match(parts: Sequence[str], wild: Sequence[str]) -> bool:
    """Whether the parts of a name match those of a pattern; `**` stands for any number of them."""
    if not wild:
        return not parts
    if wild[0] == "**":
        return any(_match(parts[at:], wild[1:]) for at in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], wild[0]) and _match(parts[1:], wild[1:])


def _object_at(url: str) -> ObjectPlace | None:
    """The object that a URL may name; None if it can only be a directory."""
    scheme = _scheme(url)
    if scheme in _WEB:
        split = split_url(url)
        head, _, last = split.path.rpartition("/")
        directory, name = split._replace(path=head).geturl(), unquote(last)
    else:
        directory, _, name = url.rpartition("/")
        if directory.endswith((":/", ":")):  # a bucket
            return None
    if not name:
        return None
    try:
        open_store(directory, timeout=RETRY.timeout)
    except ConfigError:  # what stands before the name is no directory of a store: the whole is a bucket
        return None
    return ObjectPlace(directory=directory, object=name)


def _names(url: str, limit: int | None = None) -> list[str]:
    store: Store = open_store(url, timeout=RETRY.timeout)
    try:
        names = RETRY.call(f"listing {store.url}", lambda: store.names(limit=limit), renew=store.renew)
    except StoreNotFoundError:
        return []
    return [name for name in names if name and not name.endswith("/")]


def _describe(directory: str, stored: str, name: str) -> SourceFile:
    path = _shown(directory, stored)
    return SourceFile(
        path=path,
        name=name,
        size=0,
        mtime_ns=0,
        format="",
        compression=split_name(path)[2],
        version="",
        stored=StoredObject(directory=directory, name=stored),
    )


def _shown(directory: str, name: str) -> str:
    return f"{redact(directory).rstrip('/')}/{name}"


def _last(url: str) -> str:
    if _scheme(url) in _WEB:
        split = split_url(url)
        return unquote(split.path.rstrip("/").rpartition("/")[2]) or split.hostname or "web"
    return url.partition("://")[2].rstrip("/").rpartition("/")[2]


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower()


def _not_found(url: str, refused: StoreError | None) -> StoreError | ConfigError:
    if refused is not None and not isinstance(refused, StoreNotFoundError):
        return refused
    return ConfigError(
        f"SRC {redact(url)}: there is no object of this name, and none below it. Check the URL, and which account and "
        "endpoint the environment names."
    )
