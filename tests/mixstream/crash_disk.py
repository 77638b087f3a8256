"""A disk that forgets what was not synced: what a power cut may leave after each operation of a program.

It records fsync, rename, unlink and mkdir of this process. The model is as bad as a file system may be: bytes are on
the disk once their file was synced, a name is there or gone for sure once its directory was synced, and until then each
name may be what it was or what it became, independently of others.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(eq=False)
class File:
    """A file, and its bytes on the disk; None while it was never synced."""

    synced: bytes | None = None


class CrashDisk:
    """Records the operations of this process below `root`, until the test ends.

    Args:
        patch: of the test.
        root: a directory that is there.
        check: called with this object after each operation.
    """

    def __init__(self, patch: pytest.MonkeyPatch, root: Path, check: Callable[[CrashDisk], None] | None = None) -> None:
        self.root, self._check = root, check
        self.may_be: dict[Path, set[File | None]] = {}
        """What each name may be after a power cut; None: it is not there."""
        self.operations: list[tuple[str, str]] = []
        self._files: dict[int, File] = {}
        for name in ("fsync", "rename", "replace", "unlink", "remove", "mkdir", "rmdir"):
            patch.setattr(os, name, self._recorded(name, getattr(os, name)))

    def surely(self, path: Path) -> bytes:
        """Return the bytes that a file has after a power cut; fail if it may have others, or may not be there."""
        found = self.may_be.get(path, {None})
        assert len(found) == 1, f"{path} may be there or not, or be another"
        (file,) = found
        assert file is not None, f"{path} is not there"
        assert file.synced is not None, f"{path} has lost its bytes"
        return file.synced

    def _recorded(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(*args: Any, **kw: Any) -> Any:
            keys = ("src_dir_fd", "dst_dir_fd") if name in ("rename", "replace") else ("dir_fd",)
            paths = [_path(place, kw.get(key)) for place, key in zip(args, keys)]
            number = None
            with suppress(FileNotFoundError):
                number = os.stat(paths[0]).st_ino  # noqa: PTH116 - patched neither
            result = call(*args, **kw)
            if any(path.is_relative_to(self.root) for path in paths):
                getattr(self, f"_{name}", self._unlink)(*paths[:2], number)
                self.operations.append((name, paths[-1].relative_to(self.root).as_posix()))
                if self._check is not None:
                    self._check(self)
            return result

        return recorded

    def _fsync(self, path: Path, number: int) -> None:
        if not path.is_dir():
            self._files.setdefault(number, File()).synced = path.read_bytes()
            return
        for name in {name for name in self.may_be if name.parent == path} | {*path.iterdir()}:
            there = name.exists() and os.stat(name).st_ino  # noqa: PTH116
            self.may_be[name] = {self._files.setdefault(there, File()) if there else None}

    def _rename(self, path: Path, target: Path, number: int) -> None:
        self.may_be.setdefault(path, {None}).add(None)
        self.may_be.setdefault(target, {None}).add(self._files.setdefault(number, File()))

    _replace = _rename

    def _unlink(self, path: Path, number: int) -> None:
        self.may_be.setdefault(path, {None}).add(None)
        self._files.pop(number, None)  # another file may get its number

    def _mkdir(self, path: Path, number: int | None) -> None:
        del number
        self.may_be.setdefault(path, {None}).add(self._files.setdefault(os.stat(path).st_ino, File(b"")))  # noqa: PTH116


def names_whole_shards(index: Path) -> Callable[[CrashDisk], None]:
    """Return a check: an index that may be there after a power cut names only shards that are whole for sure."""

    def check(disk: CrashDisk) -> None:
        for file in disk.may_be.get(index, set()) - {None}:
            assert file is not None
            assert file.synced is not None, f"{index} may be there without its bytes"
            for shard in json.loads(file.synced)["shards"]:
                for what in ("data", "meta"):
                    stored = shard.get(f"zip_{what}") or shard.get(f"raw_{what}")
                    if stored is not None:
                        assert len(disk.surely(index.parent / stored["basename"])) == stored["bytes"]

    return check


def _path(place: Any, directory: int | None) -> Path:
    if isinstance(place, int):
        return Path(f"/proc/self/fd/{place}").readlink()
    above = Path(f"/proc/self/fd/{directory}").readlink() if directory is not None else Path()
    return (above / os.fsdecode(place)).absolute()
