"""Which dataset a cache directory belongs to, and the default directory, used when `local` is not given.

Rules: the first process to fill a directory writes down from what, in `.mixstream-origin`, and no process fills it from
anything else: shards of two datasets could be mistaken for each other. What the URL does not say (query, user,
endpoint), and how the index was when it was read last, is in `.mixstream-original`. A directory below the temp dir is
private to this user.
"""

import os
import stat
import tempfile
import warnings
from contextlib import suppress
from dataclasses import field
from hashlib import blake2s
from pathlib import Path
from typing import TYPE_CHECKING, Self

import msgspec

from mixstream.arguments import shown
from mixstream.errors import ConfigError, MixstreamError
from mixstream.lazy import later, pattern
from mixstream.records import dataclass
from mixstream.storage.cache.fill import Partial
from mixstream.storage.cache.locks import forbidden, holder, parent_of, release, try_lock
from mixstream.storage.cache.own_files import read_any, read_own
from mixstream.storage.cache.waits import StallTimeout
from mixstream.storage.disk_errors import FORBIDDEN, FULL, disk_error
from mixstream.storage.original import Original
from mixstream.storage.spec import INDEX, PREFIX
from mixstream.storage.store import ObjectInfo
from mixstream.storage.whole_files import sync

if TYPE_CHECKING:
    from mixstream.storage.cache.contents import partial_name
else:
    (partial_name,) = later("mixstream.storage.cache.contents", "partial_name")


_NOTE = f"{PREFIX}origin"
_ORIGINAL = f"{PREFIX}original"
_LATEST = "latest"
_DIGEST = pattern("[0-9a-f]+")
_TIMEOUT = 60.0  # seconds; a process that binds a directory locks its note for some milliseconds


@dataclass(kw_only=True, eq=False)
class CacheOwner:
    """The dataset that a cache directory is filled from.

    Args:
        directory: of raw shards.
        origin: where the dataset is, without credentials; None if it is in this very directory.
        digest: of its index.
        index: to be kept in the directory, so that it can be read without its origin; None if it is not to be kept.
        private: what the directory is needed for ("read s3://bucket/web"), if it is a `private_directory`; else "".
        identity: what identifies the dataset besides `origin` (`identity.identity_of`).
        version: what the store said of the dataset when the run began; None if it is not known.
        durable: whether what is in the directory survives a power cut, or is not there then.
    """

    directory: Path
    origin: str | None
    digest: str
    index: bytes | None = field(default=None, repr=False)
    private: str = ""
    identity: str = ""
    version: Original | None = field(default=None, repr=False)
    durable: bool = False
    changed: bool = field(default=False, init=False)
    _bound: bool = field(default=False, init=False)

    def bind(self) -> None:
        """Bind the directory to the dataset, or check that it is bound to it already; once per process.

        The directory is created if it does not exist. One that may not be written is left as it is.

        Raises:
            ConfigError: it is bound to another dataset, or to another version of this one.
        """
        if self._bound:
            return
        self.make_private()
        index = self.index
        try:
            self._bind(index)
        except OSError as error:
            if error.errno not in (*FORBIDDEN, *FULL):  # on a full disk, filling makes room, or raises
                raise
            self._compare(read_any(self.directory / _NOTE) or b"")
            self._compare_identity(read_original(self.directory, linked=True))
            if error.errno in FULL:
                return  # asked again, once there is room for the note
        latest = self.directory.parent / _LATEST  # the version of the dataset that was read last
        if self.private and index is not None and read_own(latest.parent, _LATEST) != self.digest.encode():
            self.put(latest.parent, _LATEST, self.digest.encode())
        self._bound, self.index = True, None

    def make_private(self) -> None:
        """Create the parent of a `private_directory`, and check that it is owned and writable by this user only.

        Raises:
            ConfigError: another user or program has put something in its place.
            StoreAccessError: it may not be written.
        """
        if not self.private:
            return
        directory = self.directory.parent
        base = directory.parent
        try:
            base.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = base.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
                raise ConfigError(
                    f"{base}: not a directory owned and writable by this user only, and others could change shards in "
                    "it; remove it, or pass `local`"
                )
            directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            if isinstance(error, MixstreamError):
                raise
            if error.errno not in FORBIDDEN:
                raise disk_error(error, directory, "create") from error
            raise forbidden(error, directory, self.private) from error

    def _bind(self, index: bytes | None) -> None:
        linked = read_any(self.directory / _NOTE) or b""  # behind a link, it is replaced when it is locked
        with parent_of(self.directory, _NOTE, create=True) as (parent, leaf):
            what = "; end the process that holds it (`fuser` names it)"
            stall = StallTimeout(_TIMEOUT, str(self.directory / _NOTE), what, holder=lambda: holder(parent, leaf))
            while (lock := try_lock(parent, leaf)) is None:
                stall.pause(None)
            try:
                self._compare(linked)
                self._note(lock)
                self._note_original()
                if index is not None and read_own(self.directory, INDEX) != index:
                    self.put(self.directory, INDEX, index)
            finally:
                release(lock)

    def _note(self, note: int) -> None:
        text = os.pread(note, 1 << 16, 0)
        if text:
            self._compare(text)
            return
        before = read_any(self.directory / INDEX)  # behind a link it is not believed, and yet shows whose this is
        if before is not None and digest_of(before) != self.digest:
            raise self._reused(f"another index ({self.directory / INDEX})")
        os.pwrite(note, f"{self.origin or self.directory} {self.digest}".encode(), 0)
        if self.durable:
            sync(note, self.directory / _NOTE)

    def _note_original(self) -> None:
        """Write down which original the directory is filled from, beyond its URL, and how its index is now."""
        if self.origin is None:
            return
        self._compare_identity(read_original(self.directory, linked=True))
        before = read_original(self.directory)
        index = self.version.index if self.version is not None and self.version.reached else None
        files = {} if self.version is None else {name: _Facts.of(info) for name, info in self.version.files.items()}
        if before is not None and (index is None or (before.index == _Facts.of(index) and before.files == files)):
            return
        self.changed = before is not None and before.index is not None
        began = self.version.began if self.version is not None else 0.0
        noted = OriginalNote(self.identity, _Facts.of(index) if index is not None else None, began, files)
        self.put(self.directory, _ORIGINAL, msgspec.json.encode(noted))

    def put(self, directory: Path, name: str, data: bytes) -> None:
        """Write a file whole. On a full or read-only disk it is left out: it only helps while a store is away."""
        with parent_of(directory, name) as (parent, leaf):
            lock = try_lock(parent, partial_name(leaf))
            if lock is None:
                return  # another thread or process writes the same
            partial = Partial(parent, leaf, lock)
            try:
                partial.write(data)
                with suppress(FileNotFoundError):
                    partial.publish(directory, name, durable=self.durable).close()
            except OSError as error:
                if error.errno not in (*FORBIDDEN, *FULL):
                    raise
            finally:
                partial.close()

    def _compare_identity(self, before: "OriginalNote | None") -> None:
        if before is None or self.origin is None or before.identity == self.identity:
            return
        raise ConfigError(
            f"Reused local directory: {self.directory} holds shards of {self.origin} with another query, user, account "
            "or endpoint, which may be another dataset. Provide a different one, or remove it"
        )

    def _compare(self, text: bytes) -> None:
        """Compare with the text of the note; where a dataset is read without its origin, its index alone decides."""
        place, _, noted = text.decode(errors="replace").rpartition(" ")
        if text and (not place or not _DIGEST.fullmatch(noted)):
            raise ConfigError(
                f"{self.directory / _NOTE} is damaged: it should say from which dataset {self.directory} was filled, "
                f"and has {shown(text)}. Provide another local directory, or remove this one with its shards"
            )
        if text and (noted != self.digest or (self.origin is not None and place != self.origin)):
            raise self._reused(place)

    def _reused(self, found: str) -> ConfigError:
        wanted = self.origin or str(self.directory)
        fact = f"{self.directory} holds shards of {found} vs {wanted}"
        if found == wanted:
            fact = f"{self.directory} holds shards of an earlier version of {wanted}, which has since been rewritten"
        return ConfigError(f"Reused local directory: {fact}. Provide a different one, or remove it")


class _Facts(msgspec.Struct, frozen=True):
    """What a store said of an index."""

    size: int
    version: str | None
    modified: float | None

    @classmethod
    def of(cls, info: ObjectInfo) -> Self:
        return cls(info.size, info.version, info.modified)

    @property
    def info(self) -> ObjectInfo:
        return ObjectInfo(size=self.size, version=self.version, modified=self.modified)


class OriginalNote(msgspec.Struct, frozen=True, omit_defaults=True):
    """The content of `.mixstream-original`: which original a directory is filled from.

    Attributes:
        identity: as of `CacheOwner`.
        index: what the store said of the index when the run began that read it last; None if it said nothing.
        began: when that run began, in seconds since 1970 by its machine's clock.
        files: what the store said of each file that the index was made from; left out if the index is a file.
    """

    identity: str
    index: _Facts | None
    began: float
    files: dict[str, _Facts] = {}

    @property
    def index_info(self) -> ObjectInfo | None:
        """What the store said of the index."""
        return None if self.index is None else self.index.info


_decode = msgspec.json.Decoder(
    OriginalNote
).decode  # made here: threads that are the first to decode one type can crash


def read_original(directory: Path, *, linked: bool = False) -> OriginalNote | None:
    """Return from which original a directory is filled; None if an earlier version of mixstream filled it.

    Args:
        directory: of the cache.
        linked: read the note behind a link too: enough to refuse the directory, not to believe it.
    """
    try:
        data = read_any(directory / _ORIGINAL) if linked else read_own(directory, _ORIGINAL)
        return _decode(data or b"")
    except msgspec.MsgspecError:
        return None


def digest_of(index: bytes) -> str:
    """Return what identifies an index: hexadecimal of 128 bits."""
    return index_hash(index).hexdigest()


def index_hash(begin: bytes = b"") -> blake2s:
    """Return the hash that `digest_of` an index is, of the bytes that it begins with; the others are to be added.

    >>> found = index_hash(b"{")
    >>> found.update(b"}")
    >>> found.hexdigest() == digest_of(b"{}")
    True
    """
    return blake2s(begin, digest_size=16)


def private_directory(origin: str) -> Path:
    """Return the directory below the temp dir for all versions of the dataset at `origin`; nothing is created."""
    base = Path(os.path.realpath(tempfile.gettempdir())) / f"mixstream-{os.getuid()}"
    return base / digest_of(origin.encode())


def private_origin(origin: str, identity: str) -> str:
    """Return what the private directory of a dataset is named after; its URL alone, as ever, if that says all."""
    return f"{origin}#{identity}" if identity else origin


def warn_of_earlier(owner: CacheOwner, place: str) -> None:
    """Warn of a private directory that earlier versions of mixstream filled, if this one uses another for the dataset.

    They named it after the URL alone, so it may have files of several datasets. Not once there is a directory of ours.
    """
    origin = owner.origin or ""
    before, now = private_directory(origin) / owner.digest, owner.directory
    if before == now or now.is_dir() or not before.is_dir() or read_original(before) is not None:
        return
    warnings.warn(
        f"{before} was filled from {place} by an earlier version of mixstream, which took no notice of the query, "
        "user, account or endpoint: it may have shards of another dataset, so it is not used, and shards are fetched "
        "again; it can be removed",
        RuntimeWarning,
        stacklevel=3,
    )


def kept_index(home: Path | None, origin: str, identity: str = "") -> tuple[bytes, Path] | None:
    """Return the index that was kept when a dataset could be read last, and its path; None if none was, or not whole.

    Args:
        home: the directory that the user gave for shards; None if none was given.
        origin: where the dataset is.
        identity: as of `CacheOwner`.
    """
    if home is not None:
        path, note = home / INDEX, read_any(home / _NOTE)
        if (data := read_own(home, INDEX)) is None:
            return None
        bound = note is None or note.decode(errors="replace") == f"{origin} {digest_of(data)}"
        bound = bound and ((noted := read_original(home, linked=True)) is None or noted.identity == identity)
        return (data, path) if bound else None
    directory = private_directory(private_origin(origin, identity))
    digest = (read_own(directory, _LATEST) or b"").decode(errors="replace")
    path = directory / digest / INDEX
    data = read_own(path.parent, INDEX) if digest.isalnum() else None
    return (data, path) if data is not None and digest_of(data) == digest else None
