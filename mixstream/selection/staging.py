"""How an artefact appears: written aside, then moved into place, its manifest last.

Rules: a directory without `manifest.json` is no artefact. Files are written to `.partial/` in the artefact's own
directory, which its writer locks (`flock`; forked children do not keep the lock); after `kill -9` at any instant the
lock is free, and the next writer clears what it finds: files that were moved before their manifest are listed by the
manifest that still lies aside. What replaces an artefact takes its manifest away first, so old and new files are never
read together; it is kept as `.replaced.json`, which lists what is to be removed, until that is done. All of that holds
after a power cut too: each step reaches the disk before the next one. Processes that have the old files mapped keep
reading them. Files that no artefact lists are never replaced or removed.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from mixstream.errors import ConfigError, MixstreamError, OutputExistsError
from mixstream.storage import FULL, ProcessLocal, disk_error, holder_of, move_whole, named_disk_errors, sync, unforked
from mixstream.threads import Owner

MANIFEST = "manifest.json"
PARTS = "parts"
_PARTIAL, _REPLACED = ".partial", ".replaced.json"
PART_NAME = re.compile(r"(\d{5,9})-of-(\d{5,9})", re.ASCII)
_OWN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=+-]*\.npy", re.ASCII)


class StagedFiles:
    """The files of one artefact while they are written; a context manager.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as place:
    ...     with StagedFiles(Path(place, "web")) as staged:
    ...         _ = (staged.directory / "rows.npy").write_bytes(b"...")
    ...         before = sorted(path.name for path in Path(place, "web").iterdir())
    ...         staged.publish({"rows.npy"}, manifest=b"{}")
    ...     before, sorted(path.name for path in Path(place, "web").iterdir())
    (['.partial'], ['manifest.json', 'rows.npy'])

    Args:
        target: directory of the artefact, created if it does not exist.
        overwrite: whether an artefact in it may be replaced.

    Raises:
        OutputExistsError: there is one, and not `overwrite`; or a manifest that another program wrote.
        ConfigError: another process or thread is writing it.
    """

    def __init__(self, target: Path, *, overwrite: bool = False) -> None:
        self.target, self.directory, self._overwrite = target, target / _PARTIAL, overwrite
        self._owner = Owner(f"the writer of {target}", remedy="let each process write another part, or another place")
        with named_disk_errors(target, "write"):
            self._check_free()
            self._lock = self._locked()
        try:
            self._check_free()  # by now another process may have finished it
            self._clear()
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """Raise ForkedError in a forked child of the process that writes the artefact."""
        self._owner.check()

    def publish(self, names: Iterable[str], *, manifest: bytes) -> None:
        """Move the files `names` into place, then the manifest; with it the artefact is there.

        Raises:
            ForkedError: as `check`.
            OutputExistsError: a file of this name is there that is not of an artefact, or an artefact of another kind.
        """
        self.check()
        kept = set(names)
        found, new = _kind(self.target / MANIFEST), json.loads(manifest).get("format", "")
        if found and found != new.partition("/")[0].removesuffix(".part"):
            raise OutputExistsError(
                f"{self.target} holds an artefact of another kind ({found}); it was not replaced; give another place"
            )
        self._check_absent(kept - _listed(self.target / MANIFEST))
        (self.directory / MANIFEST).write_bytes(manifest)
        if self._overwrite:
            _take_away(self.target)
        self._move(kept)
        _remove_replaced(self.target)

    def add(self, names: Iterable[str], *, manifest: bytes) -> None:
        """Move further files into place, then replace the manifest; until then the artefact is what it was."""
        self.check()
        names = set(names)
        self._check_absent(names)
        (self.directory / MANIFEST).write_bytes(manifest)
        self._move(names)

    def close(self) -> None:
        """Remove what was not published, and let other writers in."""
        if self._lock >= 0:
            if self._lock in _held.value:  # not in a forked child: the files are its parent's
                shutil.rmtree(self.directory, ignore_errors=True)
                _release(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if isinstance(error, OSError) and not isinstance(error, MixstreamError) and error.errno in FULL:
            raise disk_error(error, self.directory, "write") from error  # what was published before stays

    def _check_free(self) -> None:
        if not self._overwrite and (self.target / MANIFEST).exists():
            raise OutputExistsError(
                f"{self.target} holds an artefact already ({MANIFEST}); nothing was written; give another place, or "
                "overwrite=True (--overwrite) to replace it"
            )
        if _kind(self.target / MANIFEST) == "":
            raise OutputExistsError(
                f"{self.target / MANIFEST} is of another program; it was not replaced; give another place"
            )

    def _check_absent(self, names: set[str]) -> None:
        for name in sorted(names):
            if (self.target / name).exists():
                raise OutputExistsError(
                    f"{self.target / name} exists and is not of an artefact; it was not replaced; move it, or give "
                    "another place"
                )

    def _move(self, names: set[str]) -> None:
        for name in sorted({*names, MANIFEST}):
            sync(self.directory / name)
        for name in sorted(names):
            (self.directory / name).replace(self.target / name)
        sync(self.target)
        move_whole(self.directory / MANIFEST, self.target / MANIFEST)
        sync(self.target.parent)  # it may have been made for this

    def _clear(self) -> None:
        """Remove what a killed writer left, in the order that lets this be killed too."""
        _remove_replaced(self.target)
        _remove(self.target, _listed(self.directory / MANIFEST) - _listed(self.target / MANIFEST))
        for path in sorted(self.directory.iterdir(), key=lambda path: path.name == MANIFEST):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def _locked(self) -> int:
        """Return a descriptor of the aside directory, locked; it is created if it does not exist."""
        while True:
            self.directory.mkdir(parents=True, exist_ok=True)
            try:
                lock = _open(self.directory)
            except FileNotFoundError:
                continue  # its writer has just finished
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                mine, found = os.fstat(lock), self.directory.lstat()
            except BlockingIOError as error:
                holder = holder_of(os.fstat(lock)) or "another process or thread"
                _release(lock)
                raise ConfigError(
                    f"{self.target} is being written by {holder}; two writers of one part would mix "
                    "their rows; wait for it, or give another place"
                ) from error
            except FileNotFoundError:
                _release(lock)
                continue
            except OSError as error:
                _release(lock)
                raise ConfigError(
                    f"{self.target}: its file system cannot lock ({error.strerror}), so writers could mix their rows; "
                    "write to a local disk, and copy the result"
                ) from error
            if (mine.st_dev, mine.st_ino) == (found.st_dev, found.st_ino):
                return lock
            _release(lock)


def _close_inherited(locks: set[int]) -> None:
    for lock in locks:
        os.close(lock)


_held: ProcessLocal[set[int]] = ProcessLocal(set, _close_inherited)  # descriptors


def _open(directory: Path) -> int:
    with unforked():  # a child forked in between would keep the descriptor
        number = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        _held.value.add(number)
        return number


def _release(lock: int) -> None:
    fcntl.flock(lock, fcntl.LOCK_UN)
    with unforked():
        _held.value.discard(lock)
        os.close(lock)


def retire(path: Path) -> None:
    """Remove an artefact, its manifest first; its parts and other files stay."""
    _take_away(path)
    _remove_replaced(path)


def discard(path: Path) -> None:
    """Remove an artefact and the parts of one; other files stay. Nothing happens if there is none.

    Raises:
        ConfigError: a process is writing it.
    """
    if not path.is_dir():
        return
    with StagedFiles(path, overwrite=True):
        retire(path)
        discard_parts(path)
    with suppress(OSError):
        path.rmdir()


def discard_parts(path: Path) -> None:
    """Remove the parts of an artefact, each with its manifest first."""
    parts = path / PARTS
    if not parts.is_dir():
        return
    for part in sorted(parts.iterdir()):
        if PART_NAME.fullmatch(part.name) and part.is_dir() and not part.is_symlink():
            (part / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(part, ignore_errors=True)
    with suppress(OSError):
        parts.rmdir()


def _take_away(path: Path) -> None:
    with suppress(FileNotFoundError):
        (path / MANIFEST).replace(path / _REPLACED)
        sync(path)


def _remove_replaced(path: Path) -> None:
    """Remove the files of an artefact whose manifest was taken away, unless the present manifest lists them."""
    _remove(path, _listed(path / _REPLACED) - _listed(path / MANIFEST))
    (path / _REPLACED).unlink(missing_ok=True)


def _remove(path: Path, names: Iterable[str]) -> None:
    for name in names:
        (path / name).unlink(missing_ok=True)


def _kind(manifest: Path) -> str | None:
    """Return the kind of artefact that a manifest is of; "" if of none, None if there is none or it is damaged."""
    try:
        found = json.loads(manifest.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    text = str(found.get("format")) if isinstance(found, dict) else ""
    return text.partition("/")[0].removesuffix(".part") if text.startswith("mixstream.") else ""


def _listed(manifest: Path) -> set[str]:
    """Return the names of the arrays that a manifest lists; none leads out of its directory."""
    try:
        return {name for name in json.loads(manifest.read_bytes())["files"] if _OWN_NAME.fullmatch(name)}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()
