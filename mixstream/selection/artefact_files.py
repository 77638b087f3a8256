"""The files of one artefact as a reader sees them: in a directory, or fetched from a store into a cache.

Rules: a local artefact is read in place. One at a URL is fetched file by file, when a file is first needed, through the
disk cache of `mixstream.storage`: verified by the sizes and hashes in its manifest, shared by processes, safe under
`kill -9`. The version that was opened is the one that is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import IndexNotFoundError, SelectionError, ShardCorruptError, ShardNotFoundError
from mixstream.formats import hash_hex
from mixstream.records import dataclass
from mixstream.selection.manifest import FileRecord
from mixstream.selection.npy import REMEDY, hash_file, map_npy, refuse
from mixstream.selection.staging import MANIFEST, PARTS
from mixstream.storage import (
    DatasetFiles,
    Retry,
    ShardSpec,
    absolute,
    domain_directory,
    is_local,
    join,
    local_path,
    open_regular,
    redact,
)
from mixstream.types import Buffer


@dataclass(frozen=True, kw_only=True)
class ArtefactFiles:
    """Where the files of an artefact are. Picklable.

    Args:
        directory: that holds them; None if they are in a store.
        remote: fetches them from the store; None if they are in a directory.
    """

    directory: Path | None = None
    remote: DatasetFiles | None = None

    @property
    def place(self) -> str:
        """The directory or URL that a user would look at, without credentials."""
        return str(self.directory) if self.remote is None else self.remote.describe()

    def array(self, name: str, record: FileRecord, *, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """Return the array of a file, mapped and read-only.

        Raises:
            SelectionError: the file is missing, or is not what the manifest says.
            StoreError: it cannot be fetched.
        """
        where = f"{self.place}/{name}"
        with self._open(name, record, where) as file:
            size = file.seek(0, 2)
            if size != record.bytes:
                refuse(where, f"it has {size} bytes, {MANIFEST} says {record.bytes}")
            return map_npy(file, dtype=dtype, shape=shape, where=where)

    def verify(self, records: Mapping[str, FileRecord]) -> None:
        """Compare the hashes of all files.

        Raises:
            SelectionError: one differs.
            StoreError: one cannot be fetched.
        """
        for name, record in sorted(records.items()):
            where = f"{self.place}/{name}"
            with self._open(name, record, where) as file:
                _compare(record, where, hash_file(file))

    def _open(self, name: str, record: FileRecord, where: str) -> BinaryIO:
        if self.remote is None:
            assert self.directory is not None
            try:
                return open(self.directory / name, "rb", opener=open_regular)
            except OSError as error:
                refuse(where, f"it cannot be read ({error.strerror})")
        check = partial(_check, record, where)
        try:
            file = self.remote.open(ShardSpec(name=name, size=record.bytes, check=check, compressed=None))
        except (ShardCorruptError, ShardNotFoundError) as error:
            raise SelectionError(f"{where}: it is missing, or not what {MANIFEST} says ({error}); {REMEDY}") from error
        assert file is not None, "open() returns None only with wait=False"
        return file


def check_files(records: Mapping[str, FileRecord], names: Iterable[str], *, where: str) -> None:
    """Refuse a manifest that lists other files than belong to its artefact."""
    if records.keys() != (expected := set(names)):
        refuse(where, f"it lists the files {sorted(records)[:8]}, {sorted(expected)[:8]} belong to it")


def open_files(
    path: str | PathLike[str],
    *,
    domain: str | None,
    kind: str,
    local: str | None = None,
    retry: Retry = Retry(),  # noqa: B008 - frozen
) -> tuple[ArtefactFiles, bytes | None]:
    """Return the files at a path and the bytes of their manifest; None where there are only parts of scores.

    Args:
        path: of the artefact, or of a directory that has it as `domain`: a path, or the URL of a store.
        domain: name of the sub-directory.
        kind: what is expected, for errors.
        local: cache directory for the files of a store; None for one below the temp dir.
        retry: of requests to a store, also of those that are made when a file is first needed.

    Raises:
        SelectionError: there is no artefact.
        StoreError: the store cannot be read.
    """
    text = fspath(path)
    if not is_local(text):
        return _open_remote(text, domain=domain, kind=kind, local=local, retry=retry)
    top = local_path(absolute(text, "the path"))
    places = [top] if domain is None else [top, *(top / name for name in _directories(domain))]
    for place in places:
        try:
            with open(place / MANIFEST, "rb", opener=open_regular) as manifest:
                return ArtefactFiles(directory=place), manifest.read()
        except (FileNotFoundError, NotADirectoryError):
            if any((place / PARTS).glob(f"*/{MANIFEST}")):
                return ArtefactFiles(directory=place), None
        except OSError as error:
            refuse(str(place / MANIFEST), f"it cannot be read ({error.strerror})")
    below = sorted(item.parent.name for item in top.glob(f"*/{MANIFEST}"))
    hint = f"; there are artefacts of the domains {below} below it: name one" if below else ""
    looked = " or ".join(str(place / MANIFEST) for place in places)
    exists = "" if top.exists() else f"; {top} does not exist"
    made = ", or make it with `mixstream pack`" if kind == "packing" else ""
    raise SelectionError(f"no {kind}: looked for {looked}{exists}{hint}; check the path, or finish writing it{made}")


def _directories(domain: str) -> dict[str, None]:
    """Return which directories a domain's artefact may have: its name, and that name as `convert` writes it."""
    return dict.fromkeys((domain, domain_directory(domain)))


def _open_remote(
    url: str, *, domain: str | None, kind: str, local: str | None, retry: Retry
) -> tuple[ArtefactFiles, bytes]:
    places = [url] if domain is None else [url, *(join(url, name) for name in _directories(domain))]
    for place in places:
        files = replace(DatasetFiles.locate(remote=place, local=local, split=None, retry=retry), index=MANIFEST)
        try:
            data, _ = files.read_index()
        except IndexNotFoundError:
            continue
        return ArtefactFiles(remote=files), data
    looked = " or ".join(redact(join(place, MANIFEST)) for place in places)
    raise SelectionError(f"no {kind}: looked for {looked}; check the URL, or upload it ({MANIFEST} last)")


def _check(record: FileRecord, where: str, data: Buffer) -> None:
    """Raise ShardCorruptError, which makes a cache fetch a file again, if bytes do not have their hash."""
    try:
        _compare(record, where, hash_hex("xxh3_128", memoryview(data)))
    except SelectionError as error:
        raise ShardCorruptError(str(error)) from error


def _compare(record: FileRecord, where: str, found: str) -> None:
    if found != record.xxh3_128:
        refuse(where, f"xxh3_128 is {found}, {MANIFEST} says {record.xxh3_128}")
