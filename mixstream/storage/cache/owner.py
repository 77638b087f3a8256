"""Which dataset a cache directory belongs to, and where caches lie that nobody gave a place.

Rules: the first to fill a directory writes down what with, in `.mixstream-origin`, and nobody fills it with anything
else: shards of two datasets could be taken for each other. A directory below the temp dir is this user's alone.
"""

from __future__ import annotations

import os
import stat
import tempfile
from hashlib import blake2s
from pathlib import Path

from mixstream.errors import ConfigError
from mixstream.storage.cache.contents import INDEX, partial_name
from mixstream.storage.cache.directory import Partial
from mixstream.storage.cache.locks import FORBIDDEN, FULL, PREFIX, Patience, forbidden, parent_of, release, try_lock

_NOTE = f"{PREFIX}origin"
_LATEST = "latest"
_PATIENCE = 60.0  # seconds; whoever binds a directory holds its note for some milliseconds


def digest_of(index: bytes) -> str:
    """Return what identifies an index: hexadecimal of 128 bits."""
    return blake2s(index, digest_size=16).hexdigest()


def private_directory(origin: str) -> Path:
    """Return the directory below the temp dir for all versions of the dataset at `origin`; nothing is created."""
    base = Path(os.path.realpath(tempfile.gettempdir())) / f"mixstream-{os.getuid()}"
    return base / digest_of(origin.encode())


def make_private(directory: Path, *, what: str) -> None:
    """Create a `private_directory`, and see that it is nobody else's.

    Args:
        directory: from `private_directory`.
        what: it is needed for, as in "read s3://bucket/web".

    Raises:
        ConfigError: somebody else has put something in its place.
        StoreAccessError: it may not be written.
    """
    base = directory.parent
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = base.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
            raise ConfigError(
                f"{base}: not a directory of this user's alone, and others could change shards in it; remove it, or "
                "pass `local`"
            )
        directory.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        if error.errno not in FORBIDDEN:
            raise
        raise forbidden(error, directory, what) from error


def bind(directory: Path, *, origin: str | None, digest: str, index: bytes | None = None) -> None:
    """Bind a directory to the dataset that it is filled from, or see that it is bound to it already.

    A directory that may not be written is left as it is.

    Args:
        directory: of raw shards; created if need be.
        origin: where the dataset is, as people may see it; None if it is in this very directory.
        digest: of its index.
        index: to be kept there, so that the directory can be read without its origin.

    Raises:
        ConfigError: it is bound to another dataset, or to another version of this one.
    """
    try:
        with parent_of(directory, _NOTE, create=True) as (parent, leaf):
            patience = Patience(_PATIENCE, f"{directory / _NOTE}; end the process that holds it (`fuser` names it)")
            while (lock := try_lock(parent, leaf)) is None:
                patience.pause(None)
            try:
                _bind(directory, lock, origin, digest)
                if index is not None and _read(directory / INDEX) != index:
                    _put(directory, INDEX, index)
            finally:
                release(lock)
    except OSError as error:
        if error.errno not in (*FORBIDDEN, *FULL):  # on a full disk, it is the shard that makes room, or says so
            raise
        _compare(directory, _read(directory / _NOTE) or b"", origin, digest)


def remember(directory: Path, digest: str) -> None:
    """Note which version of the dataset of a `private_directory` was read last."""
    if _read(directory / _LATEST) != digest.encode():
        _put(directory, _LATEST, digest.encode())


def kept_index(home: Path | None, origin: str) -> tuple[bytes, Path] | None:
    """Return the index that was kept when a dataset could be read last, and its path; None if none was.

    Args:
        home: the directory that the user gave for shards, if he did.
        origin: where the dataset is.
    """
    if home is not None:
        path, note = home / INDEX, _read(home / _NOTE)
        data = _read(path)
        bound = note is None or note.decode(errors="replace").rpartition(" ")[0] == origin
        return (data, path) if data is not None and bound else None
    digest = (_read(private_directory(origin) / _LATEST) or b"").decode(errors="replace")
    path = private_directory(origin) / digest / INDEX
    data = _read(path) if digest.isalnum() else None
    return (data, path) if data is not None and digest_of(data) == digest else None


def _bind(directory: Path, note: int, origin: str | None, digest: str) -> None:
    text = os.pread(note, 1 << 16, 0)
    if text:
        _compare(directory, text, origin, digest)
        return
    before = _read(directory / INDEX)
    if before is not None and digest_of(before) != digest:
        raise _reused(directory, f"another index ({directory / INDEX})", origin or str(directory))
    os.pwrite(note, f"{origin or directory} {digest}".encode(), 0)


def _compare(directory: Path, text: bytes, origin: str | None, digest: str) -> None:
    """Compare with what the note says; where a dataset is read without its origin, its index alone decides."""
    place, _, noted = text.decode(errors="replace").rpartition(" ")
    if text and (noted != digest or (origin is not None and place != origin)):
        raise _reused(directory, place, origin or str(directory))


def _reused(directory: Path, found: str, wanted: str) -> ConfigError:
    if found == wanted:
        fact = f"{directory} holds shards of an earlier version of {wanted}, which has been written anew since"
    else:
        fact = f"{directory} holds shards of {found} vs {wanted}"
    return ConfigError(f"Reused local directory: {fact}. Provide a different one, or remove it")


def _put(directory: Path, name: str, data: bytes) -> None:
    """Write a small file whole. A full or read-only disk goes without it: what is in it only helps offline."""
    with parent_of(directory, name) as (parent, leaf):
        lock = try_lock(parent, partial_name(leaf))
        if lock is None:
            return  # somebody else writes the same
        partial = Partial(parent, leaf, lock)
        try:
            partial.write(data)
            file = partial.publish(directory / name)
            if file is not None:
                file.close()
        except OSError as error:
            if error.errno not in (*FORBIDDEN, *FULL):
                raise
        finally:
            partial.close()


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes() if path.is_file() else None
    except OSError:
        return None
