"""Which parts are finished, on disk in `DIR/.convert/`. It makes `kill -9` at any instant safe.

    run.json                  the recipe and the groups of sources of DIR (run_file.py)
    published.json            what of it is published (finished.py)
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

import fcntl
import hashlib
import json
import multiprocessing
import os
import platform
import shutil
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from mixstream.errors import ConfigError, StateError, WaitTimeoutError
from mixstream.storage import INDEX, RUN, domain_directory, is_part_name

from .durable import hold, sync, write_durably
from .files import Slice
from .finished import PUBLISHED, Groups, dump_published
from .parts import Part
from .recipe import Recipe
from .run_file import Run, is_by_key
from .sources import Sources
from .uploads import Uploads

TAIL = "part-tail"
SEPARATORS = "separator"
_OURS = ".convert"
_SPLITS = ("train", "val")
_WAIT_S = 30.0


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
        return out / domain_directory(self.domain) / self.split / part


@dataclass(frozen=True, kw_only=True, slots=True)
class PartRecord:
    """A finished part."""

    identity: str
    outputs: tuple[Output, ...]
    skipped: int = 0
    """Documents that could not be read."""
    examples: tuple[str, ...] = ()
    """The first few of them: place and reason."""
    seen: dict[str, int] = field(default_factory=dict)
    """How often separators (`SEPARATORS`, then the text) and special tokens were spelled out in the documents."""


_RECORD = msgspec.json.Decoder(PartRecord)


def identify(recipe: Recipe, slices: Iterable[Slice]) -> str:
    """A hash of the recipe and of slices of files: names, sizes, times and bounds."""
    digest = hashlib.sha256(json.dumps(recipe.identity(), sort_keys=True).encode())
    for piece in slices:
        file = piece.file
        entry = [file.name, file.size, file.mtime_ns, file.format, file.compression, piece.start, piece.stop]
        digest.update(json.dumps(entry).encode() + b"\n")
    return digest.hexdigest()


def describe_run(recipe: Recipe, sources: Sources, planned: Mapping[str, Sequence[Part]]) -> Run:
    """What run.json says of a command: its recipe, and its groups with the parts that were planned for each."""
    groups = {
        group.name: {
            "files": len(group.files),
            "bytes": group.bytes,
            "identity": identify(recipe, (file.whole for file in group.files)),
            "parts": len(planned[group.name]),
        }
        for group in sources.groups
    }
    return Run.parse(Run(recipe=recipe.describe(), groups=groups).dump(), "")  # keys in the order of the file


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
        path = self._ours / "lock"
        holder = path.read_text(errors="replace")[:200] if path.exists() else ""
        busy = ConfigError(
            f"--out {self.out}: another `mixstream convert` is writing to it{f' ({holder})' if holder else ''}. Wait "
            "until it has ended."
        )
        with hold(path, fcntl.LOCK_EX, wait_s=0, else_raise=busy):
            path.write_text(f"process {os.getpid()} on {platform.node()}, since {time.ctime()}")
            with hold(self._ours / "workers.lock", fcntl.LOCK_EX, wait_s=_WAIT_S, else_raise=self._worker_runs()):
                pass
            yield

    def read_run(self) -> Run | None:
        """What run.json says; None if there is none."""
        path = self.out / RUN
        return Run.parse(path.read_bytes(), self.out) if path.exists() else None

    def write_run(self, run: Run, published: Groups) -> None:
        """Write which groups there are, and which of them are published; what is rebuilt is not, before it is begun."""
        for name, data in ((PUBLISHED, dump_published(published)), (RUN, run.dump())):
            path = self.out / name
            if not path.exists() or path.read_bytes() != data:
                write_durably(path, data)

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
        with hold(self._ours / "workers.lock", fcntl.LOCK_SH, wait_s=_WAIT_S, else_raise=self._worker_runs()):
            parent = multiprocessing.parent_process()
            if parent is not None and not parent.is_alive():
                raise StateError(f"{self.out}: the run of this worker has ended.")
            yield

    def record(self, part: Part, record: PartRecord, tails: Iterable[bytes]) -> None:
        """Record a finished part. Its shards and tails are synced to disk before the record is."""
        for output in record.outputs:
            for path, _ in _shard_files(output, self.out, part.name):
                sync(path)
        path = self._record_path(part)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path.with_suffix(".tail"), b"".join(tails))
        fields = msgspec.to_builtins(record)
        if not record.seen:
            del fields["seen"]
        write_durably(path, msgspec.json.encode(fields))

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

    def records_of(self, group: str) -> dict[str, PartRecord]:
        """Part to record, of all finished parts of a group, whatever their recipe and sources."""
        found: dict[str, PartRecord] = {}
        for path in sorted(self._records(group).glob("*.json")):
            with suppress(msgspec.MsgspecError):
                found[f"part-{path.stem}"] = _RECORD.decode(path.read_bytes())
        return found

    def drop_records(self, group: str, keep: Iterable[Part] = ()) -> None:
        """Remove the records of a group except those of some parts."""
        kept = {self._record_path(part) for part in keep}
        for path in sorted(self._records(group).glob("*")):
            if path.with_suffix(".json") not in kept:
                path.unlink()

    def drop_strays(self, run: Run) -> None:
        """Remove records of groups that are no longer in a run: their removal was interrupted."""
        kept = {self._records(group) for group in run.groups}
        for path in sorted({*(self._ours / "parts").glob("*")} - kept):
            shutil.rmtree(path)

    def drop_parts(self, place: str, drop: Callable[[str], bool], *, keep_index: bool = False) -> None:
        """Remove parts in the directory of a domain by their names (`part-00003`). Files of other programs stay.

        An index is removed before any part beside it, unless `keep_index`: a dataset with an index is complete.
        """
        for split in _SPLITS:
            directory = self.out / place / split
            if not directory.is_dir():
                continue
            parts = [path for path in sorted(directory.iterdir()) if is_part_name(path.name) and drop(path.name)]
            if not keep_index:
                (directory / INDEX).unlink(missing_ok=True)
            for part in parts:
                shutil.rmtree(part)
            _remove_if_empty(directory)
        if (self.out / place).is_dir():
            _remove_if_empty(self.out / place)

    def has_index(self, place: str) -> bool:
        """Whether the directory of a domain has a dataset with an index."""
        return any((self.out / place / split / INDEX).exists() for split in _SPLITS)

    def has_parts(self, place: str, names: Container[str] | None = None) -> bool:
        """Whether the directory of a domain has a part, of one of these names if there are any."""
        return any(names is None or path.name in names for path in (self.out / place).glob("*/part-*"))

    def places(self) -> list[str]:
        """The directories that may be those of domains."""
        return sorted({path.parent.name for split in _SPLITS for path in self.out.glob(f"*/{split}") if path.is_dir()})

    def drop_shards(self) -> None:
        """Remove the shards, after all of them were uploaded; records and indexes stay."""
        for split in _SPLITS:
            for part in sorted(self.out.glob(f"*/{split}/part-*")):
                if is_part_name(part.name):
                    shutil.rmtree(part)

    def _record_path(self, part: Part) -> Path:
        return self._records(part.group) / f"{part.number:05}.json"

    def _records(self, group: str) -> Path:
        return self._ours / "parts" / (group if is_by_key(group) else domain_directory(group))


def _remove_if_empty(directory: Path) -> None:
    if not any(directory.iterdir()):
        directory.rmdir()


def _shard_files(output: Output, out: Path, part: str) -> Iterator[tuple[Path, int]]:
    for shard in output.shards:
        stored = shard["zip_data"] or shard["raw_data"]
        yield output.directory(out, part) / stored["basename"], stored["bytes"]
