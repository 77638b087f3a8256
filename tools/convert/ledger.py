"""Which parts are finished, on disk in `DIR/.convert/`. It makes `kill -9` at any instant safe.

    run.json                  the recipe and the sources of DIR
    parts/<group>/00000.json  the record of a finished part: what it wrote, from which recipe and sources
    parts/<group>/00000.tail  the tokens after its last whole row
    uploads.jsonl             with --out URL: which objects are uploaded (uploads.py)
    lock, workers.lock        held by the run and by each worker while they write

Rules. A record is written last and synced, after every file that it names; parts without a valid record are removed
and rebuilt. A record names its recipe and sources by a hash and its shards by size; a shard may also be at the store
that this directory is uploaded to. Only files that convert writes are removed, and only below a directory with
`.convert`.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from mixstream.errors import ConfigError, StateError, WaitTimeoutError

from ..shared.datasets import INDEX, SUMMARY
from .files import Slice
from .parts import Part
from .recipe import Recipe
from .sources import Sources
from .uploads import Uploads

TAIL = "part-tail"
RUN = ".convert/run.json"
_OURS = ".convert"
_SPLITS = ("train", "val")
_PART_NAME = re.compile(r"part-(\d{5,}|tail)", re.ASCII)
_WAIT_S = 30.0
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})  # some network file systems have no locks


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """The output of one part for one domain and split."""

    domain: str
    split: str
    rows: int
    documents: int
    tail_bytes: int
    shards: tuple[dict[str, Any], ...]
    """Entries as in the part's own index.json; their basenames are relative to the part's directory."""

    def directory(self, out: Path, part: str) -> Path:
        """The directory of the shards of the part named `part`."""
        return out / self.domain / self.split / part


@dataclass(frozen=True, kw_only=True, slots=True)
class PartRecord:
    """A finished part."""

    identity: str
    outputs: tuple[Output, ...]
    skipped: int = 0
    """Documents that could not be read."""
    examples: tuple[str, ...] = ()
    """The first few of them: place and reason."""


_RECORD = msgspec.json.Decoder(PartRecord)


def identify(recipe: Recipe, slices: Iterable[Slice]) -> str:
    """A hash of the recipe and of slices of files: names, sizes, times and bounds."""
    digest = hashlib.sha256(json.dumps(recipe.describe(), sort_keys=True).encode())
    for piece in slices:
        file = piece.file
        entry = [file.name, file.size, file.mtime_ns, file.format, file.compression, piece.start, piece.stop]
        digest.update(json.dumps(entry).encode() + b"\n")
    return digest.hexdigest()


def describe_run(recipe: Recipe, sources: Sources) -> bytes:
    """The content of run.json. Its SHA-256 is the conversion's identity."""
    groups = {
        group.name: {
            "files": len(group.files),
            "bytes": group.bytes,
            "identity": identify(recipe, (file.whole for file in group.files)),
        }
        for group in sources.groups
    }
    return json.dumps({"recipe": recipe.describe(), "groups": groups}, indent=1, sort_keys=True).encode()


def refuse_other(place: object, old: bytes, new: bytes) -> None:
    """Raise StateError if `place` holds another conversion; `old` is its run.json, `new` that of this run."""
    changes = list(_changes(json.loads(old), json.loads(new)))
    if changes:
        raise StateError(
            f"{place} was begun with other options or sources: {'; '.join(changes)}. Continue with the "
            f"old ones, choose another --out, or pass --overwrite, which rebuilds the parts that changed."
        )


class Ledger:
    """The records of one output directory."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self._ours = out / _OURS
        self._uploads: Uploads | None = None

    # -- the run ---------------------------------------------------------------------------------------------------

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the directory for this run while the block runs; creates it if it does not exist.

        Raises:
            ConfigError: it holds files of another program, or another run is writing to it.
            WaitTimeoutError: a worker of a killed run does not exit.
        """
        if self.out.exists() and not self.out.is_dir():
            raise ConfigError(f"--out {self.out}: it is a file. Give a directory, new or empty.")
        if not self._ours.is_dir() and self.out.is_dir() and (foreign := next(self.out.iterdir(), None)):
            raise ConfigError(
                f"--out {self.out}: it holds {foreign.name!r}, which convert did not write. "
                "Give a directory, new or empty."
            )
        self._ours.mkdir(parents=True, exist_ok=True)
        busy = ConfigError(f"--out {self.out}: another `mixstream convert` is writing to it. Wait until it has ended.")
        with _locked(self._ours / "lock", fcntl.LOCK_EX, wait_s=0, else_raise=busy):
            with _locked(self._ours / "workers.lock", fcntl.LOCK_EX, wait_s=_WAIT_S, else_raise=self._worker_runs()):
                pass
            yield

    def begin(self, run: bytes, *, overwrite: bool) -> None:
        """Write run.json (`describe_run`). Raises StateError if the directory holds another conversion."""
        path = self.out / RUN
        if path.exists() and not overwrite:
            refuse_other(self.out, path.read_bytes(), run)
        write_durably(path, run)

    @contextmanager
    def bound(self, url: str | None) -> Iterator[Uploads | None]:
        """Make this the work directory of `--out url` while the block runs: uploaded files count as existing here.

        None means that the directory is itself the output. The two kinds are kept apart, because shards are removed
        from a work directory.

        Raises:
            ConfigError: the directory is of the other kind, or belongs to another URL.
        """
        path = self._ours / "uploads.jsonl"
        if url is None:
            if path.exists():
                raise ConfigError(f"--out {self.out}: it is the work directory of an upload. Give another directory.")
            yield None
            return
        if (self.out / RUN).exists() and not path.exists():
            raise ConfigError(f"--work {self.out}: it is the --out of a conversion. Give another directory.")
        with closing(Uploads(path, url)) as self._uploads:
            yield self._uploads

    def _worker_runs(self) -> Exception:
        return WaitTimeoutError(
            f"{self.out}: a worker of an earlier run is still writing here, {_WAIT_S:.0f} s after that run ended. "
            f"Find it (`fuser {self._ours / 'workers.lock'}`), stop it, and run the same command again."
        )

    # -- parts -----------------------------------------------------------------------------------------------------

    @contextmanager
    def working(self) -> Iterator[None]:
        """Held by each worker that writes a part; the next run waits until no worker holds it."""
        with _locked(self._ours / "workers.lock", fcntl.LOCK_SH, wait_s=_WAIT_S, else_raise=self._worker_runs()):
            parent = multiprocessing.parent_process()
            if parent is not None and not parent.is_alive():
                raise StateError(f"{self.out}: the run of this worker has ended.")
            yield

    def record(self, part: Part, record: PartRecord, tails: Iterable[bytes]) -> None:
        """Record a finished part. Its shards and tails are synced to disk before the record is."""
        for output in record.outputs:
            for path, _ in _shard_files(output, self.out, part.name):
                _sync(path)
        path = self._record_path(part)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path.with_suffix(".tail"), b"".join(tails))
        write_durably(path, msgspec.json.encode(record))

    def load(self, part: Part, recipe: Recipe) -> PartRecord | None:
        """The record of a part, if its recipe and sources are these and every file that it names exists; else None."""
        path = self._record_path(part)
        try:
            record = _RECORD.decode(path.read_bytes())
            sound = (
                record.identity == identify(recipe, part.slices)
                and path.with_suffix(".tail").stat().st_size == sum(output.tail_bytes for output in record.outputs)
                and all(
                    self.is_there(file.relative_to(self.out).as_posix(), size, record.identity)
                    for output in record.outputs
                    for file, size in _shard_files(output, self.out, part.name)
                )
            )
        except (FileNotFoundError, NotADirectoryError, msgspec.MsgspecError):
            return None
        return record if sound else None

    def is_there(self, name: str, size: int, stamp: str | None) -> bool:
        """Whether a file exists here in this size, or is uploaded in this size and with this stamp (None: any)."""
        with suppress(FileNotFoundError, NotADirectoryError):
            if (self.out / name).stat().st_size == size:
                return True
        return self._uploads is not None and self._uploads.holds(name, size, stamp)

    def tail(self, part: Part, record: PartRecord, at: int) -> bytes:
        """The tail of a part's output number `at`."""
        with self._record_path(part).with_suffix(".tail").open("rb") as file:
            file.seek(sum(output.tail_bytes for output in record.outputs[:at]))
            return file.read(record.outputs[at].tail_bytes)

    def clear(self, done: Sequence[tuple[Part, PartRecord]]) -> None:
        """Remove every shard, index and record that does not belong to `done`. Files of other programs stay."""
        (self.out / SUMMARY).unlink(missing_ok=True)
        kept_records = {self._record_path(part) for part, _ in done}
        for path in sorted(self._ours.glob("parts/*/*")):
            if path.with_suffix(".json") not in kept_records:
                path.unlink()
        kept = {output.directory(self.out, part.name) for part, record in done for output in record.outputs}
        for split in _SPLITS:
            for directory in filter(Path.is_dir, sorted(self.out.glob(f"*/{split}"))):
                # The index is removed first: a dataset with an index is complete.
                (directory / INDEX).unlink(missing_ok=True)
                for part in sorted(directory.iterdir()):
                    if _PART_NAME.fullmatch(part.name) and part not in kept:
                        shutil.rmtree(part)
                _remove_if_empty(directory)
                _remove_if_empty(directory.parent)

    def drop_shards(self) -> None:
        """Remove the shards, after all of them were uploaded; records and indexes stay."""
        for split in _SPLITS:
            for part in sorted(self.out.glob(f"*/{split}/part-*")):
                if _PART_NAME.fullmatch(part.name):
                    shutil.rmtree(part)

    def _record_path(self, part: Part) -> Path:
        return self._ours / "parts" / part.group / f"{part.number:05}.json"


def write_durably(path: Path, content: bytes) -> None:
    """Write a file atomically: under another name, synced, then renamed."""
    aside = path.with_name(f"{path.name}.tmp")
    aside.write_bytes(content)
    _sync(aside)
    aside.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_if_empty(directory: Path) -> None:
    if not any(directory.iterdir()):
        directory.rmdir()


def _shard_files(output: Output, out: Path, part: str) -> Iterator[tuple[Path, int]]:
    for shard in output.shards:
        stored = shard["zip_data"] or shard["raw_data"]
        yield output.directory(out, part) / stored["basename"], stored["bytes"]


def _changes(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """The differences of two run.json, in words."""
    for key in [*new["recipe"], *(key for key in old["recipe"] if key not in new["recipe"])]:
        was, now = old["recipe"].get(key), new["recipe"].get(key)
        if was != now:
            yield f"--{key} was {json.dumps(was)}, is {json.dumps(now)}"
    if old["recipe"] != new["recipe"]:
        return  # then the identity of every group differs as well
    for name in [*new["groups"], *(name for name in old["groups"] if name not in new["groups"])]:
        was, now = old["groups"].get(name), new["groups"].get(name)
        label = "the sources" if name.startswith(".") else f"domain {name!r}"
        if was is None or now is None:
            yield f"{label} is {'new' if was is None else 'gone'}"
        elif was != now:
            counts = [f"{group['files']} files of {group['bytes']} bytes" for group in (was, now)]
            yield f"{label}: {counts[0]}, now {counts[1]}{' with other names or times' * (counts[0] == counts[1])}"


@contextmanager
def _locked(path: Path, kind: int, *, wait_s: float, else_raise: Exception) -> Iterator[None]:
    """Hold a lock on a file; the system releases it when the process ends, even by SIGKILL."""
    until = time.monotonic() + wait_s
    with path.open("ab") as file:
        while True:
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    break
                if error.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
                    raise
                if time.monotonic() >= until:
                    raise else_raise from None
                time.sleep(0.05)
        yield
