"""Which parts are finished, on disk in `DIR/.convert/`. It makes `kill -9` at any instant safe.

    run.json                  the recipe and the groups of sources of DIR (run_file.py)
    published.json            what of it is published (finished.py)
    parts/<group>/00000.json  the record of a finished part: what it wrote, from which recipe and sources
    parts/<group>/00000.tail  the tokens after its last whole row
    parts/<group>/00000.rejects  its documents that cannot be read, if there are any (work/rejects.py)
    parts/<group>/00000.documents  what it notes of each document (sidecar/noted.py)
    parts/<group>/00000.stats what the data card will say of its documents (card/)
    stdin/                    the copy of standard input, until it is published (sources/stdin.py)
    uploads.jsonl             with --out URL: which objects are uploaded (uploads.py)
    lock, workers.lock        held by the run and by each worker while they write
    tasks/                    locks of the tasks of a job array (array/locks.py)

Rules. A record is written last and synced, after every file that it names; parts without a valid record are removed
and rebuilt. A record names its recipe and sources by a hash, its shards by size, and by size and hash what is read
again later: the four files beside it. A shard may also be at the store that this directory is uploaded to.
Only files that convert writes are removed, and only below a directory with `.convert`.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import shutil
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import msgspec

from mixstream.documents import DIRECTORY
from mixstream.errors import ConfigError, StateError, WaitTimeoutError
from mixstream.formats import hash_hex
from mixstream.storage import INDEX, RUN, domain_directory, is_part_name, sync

from ...shared.cards import CARD
from ..parts import Part
from ..recipe import Recipe
from ..sources.sources import BY_KEY
from .durable import HASH, aside_of, hash_of, hold, make_directory, note_holder, write_durably
from .finished import PUBLISHED, Groups, dump_published
from .identity import identify
from .output_directory import OURS, busy, create_output
from .records import Output, PartRecord
from .run_file import Run, is_by_key
from .uploads import Uploads

TAIL = "part-tail"
SEPARATORS = "separator"
WORKERS = "workers.lock"
PARTS = f"{OURS}/parts"
SPLITS = ("train", "val")
_WAIT_S = 30.0
_TAIL, _STATS, _REJECTS, _DOCUMENTS = ".tail", ".stats", ".rejects", ".documents"
_HASHED = {_TAIL, _STATS, _REJECTS, _DOCUMENTS}
_LATER = {"seen", "reasons", "rejects_bytes", "left_out", "hashes"}
"""Entries of a record that are left out where they are empty: earlier versions did not have them."""


_RECORD = msgspec.json.Decoder(PartRecord)


class Ledger:
    """The records of one output directory; of a task of a job array, with what it has uploaded."""

    def __init__(self, out: Path, uploads: Uploads | None = None) -> None:
        self.out = out
        self._ours = out / OURS
        self._uploads = uploads

    @property
    def stdin(self) -> Path:
        """The directory of the copy of standard input."""
        return self._ours / "stdin"

    # -- the run ---------------------------------------------------------------------------------------------------

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the directory for this run while the block runs; creates it if it does not exist.

        Raises:
            ConfigError: it holds files of another program, or another run is writing to it.
            WaitTimeoutError: a worker of a killed run does not exit.
        """
        create_output(self.out)
        path = self._ours / "lock"
        with hold(path, fcntl.LOCK_EX, wait_s=0, else_raise=busy(self.out)):
            note_holder(path)
            self.wait_for_workers(WORKERS)
            yield

    def wait_for_workers(self, lock: str) -> None:
        """Wait until no worker of an earlier run holds its lock (a path below `.convert`)."""
        with hold(self._ours / lock, fcntl.LOCK_EX, wait_s=_WAIT_S, else_raise=self._worker_runs()):
            pass

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
    def working(self, locks: Iterable[str] = ()) -> Iterator[None]:
        """Held by each worker that writes a part; the next run waits until no worker holds it.

        Args:
            locks: further ones, below `.convert`: the task of a job array waits only for its own workers.
        """
        with ExitStack() as held:
            for lock in (WORKERS, *locks):
                path = self._ours / lock
                held.enter_context(hold(path, fcntl.LOCK_SH, wait_s=_WAIT_S, else_raise=self._worker_runs()))
            parent = multiprocessing.parent_process()
            if parent is not None and not parent.is_alive():
                raise StateError(f"{self.out}: the run of this worker has ended.")
            yield

    def record(self, part: Part, record: PartRecord, tails: Iterable[bytes], statistics: bytes = b"") -> PartRecord:
        """Record a finished part, whose shards, tails and statistics are synced to disk before the record is.

        Returns:
            The record, with the hashes of these files.
        """
        shards = [path for output in record.outputs for path, _ in _shard_files(output, self.out, part.name)]
        for path in shards:
            sync(path)
        # Their names too; and the writers' indexes beside them are gone for good.
        for directory in sorted({above for path in shards for above in path.parents if above.is_relative_to(self.out)}):
            sync(directory)
        path = self._record_path(part)
        make_directory(path.parent)
        sync(path.parent.parent)
        files = {_TAIL: b"".join(tails)} | ({_STATS: statistics} if statistics else {})
        for suffix, data in files.items():
            write_durably(path.with_suffix(suffix), data)
        hashes = {suffix: hash_hex(HASH, data) for suffix, data in files.items()}
        for suffix, there in ((_REJECTS, record.rejects_bytes > 0), (_DOCUMENTS, record.sidecar is not None)):
            if there:
                sync(path.with_suffix(suffix))
                hashes[suffix] = hash_of(path.with_suffix(suffix))
        record = replace(record, hashes=hashes)
        fields = msgspec.to_builtins(record)
        write_durably(
            path, msgspec.json.encode({key: value for key, value in fields.items() if value or key not in _LATER})
        )
        return record

    def load(self, part: Part, recipe: Recipe) -> PartRecord | None:
        """The record of a part, if its recipe and sources are these and every file that it names exists; else None."""
        path = self._record_path(part)
        try:
            record = _RECORD.decode(path.read_bytes())
            sound = (
                record.identity == identify(recipe, part.slices)
                and path.with_suffix(_TAIL).stat().st_size == sum(output.tail_bytes for output in record.outputs)
                and record.rejects_bytes in {0, _size(path.with_suffix(_REJECTS))}
                and (record.sidecar is None or self.documents_path(part).stat().st_size == record.sidecar.bytes)
                and (not record.statistics or path.with_suffix(_STATS).stat().st_size == record.statistics)
                and all(
                    hash_of(path.with_suffix(suffix)) == record.hashes[suffix] for suffix in _HASHED & {*record.hashes}
                )
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
        with self._record_path(part).with_suffix(_TAIL).open("rb") as file:
            file.seek(sum(output.tail_bytes for output in record.outputs[:at]))
            return file.read(record.outputs[at].tail_bytes)

    def rejects_path(self, part: Part) -> Path:
        """The file of a part's documents that cannot be read."""
        return self._record_path(part).with_suffix(_REJECTS)

    def documents_path(self, part: Part) -> Path:
        """The file of what a part notes of its documents."""
        return self._record_path(part).with_suffix(_DOCUMENTS)

    def statistics(self, part: Part) -> bytes:
        """The statistics of a part's documents, if its record has any."""
        return self._record_path(part).with_suffix(_STATS).read_bytes()

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
        self.drop_rejects(group)

    def drop_rejects(self, group: str) -> None:
        """Remove the published rejects of a group."""
        rejects = self.out / rejects_file(group)
        _unlink(rejects)
        if rejects.parent != self.out and rejects.parent.is_dir():
            _remove_if_empty(rejects.parent)

    def drop_strays(self, run: Run) -> None:
        """Remove records of groups that are no longer in a run: their removal was interrupted."""
        kept = {self._records(group) for group in run.groups}
        for path in sorted({*(self._ours / "parts").glob("*")} - kept):
            shutil.rmtree(path)

    def drop_parts(self, place: str, drop: Callable[[str], bool], *, keep_index: bool = False) -> None:
        """Remove parts in the directory of a domain by their names (`part-00003`). Files of other programs stay.

        An index is removed before any part beside it, unless `keep_index`: a dataset with an index is complete.
        """
        for split in SPLITS:
            directory = self.out / place / split
            if not directory.is_dir():
                continue
            parts = [path for path in sorted(directory.iterdir()) if is_part_name(path.name) and drop(path.name)]
            if not keep_index:
                _unlink(directory / INDEX)
                _unlink(directory / CARD)
                sync(directory)  # else a power cut may bring it back beside other parts
            _drop_sidecar(directory / DIRECTORY, drop)  # before the parts: while one is there, the removal goes on
            for part in parts:
                shutil.rmtree(part)
            _remove_if_empty(directory)
        if (self.out / place).is_dir():
            _remove_if_empty(self.out / place)

    def has_index(self, place: str) -> bool:
        """Whether the directory of a domain has a dataset with an index."""
        return any((self.out / place / split / INDEX).exists() for split in SPLITS)

    def has_parts(self, place: str, names: Container[str] | None = None) -> bool:
        """Whether the directory of a domain has a part, of one of these names if there are any."""
        return any(names is None or path.name in names for path in (self.out / place).glob("*/part-*"))

    def places(self) -> list[str]:
        """The directories that may be those of domains."""
        return sorted({path.parent.name for split in SPLITS for path in self.out.glob(f"*/{split}") if path.is_dir()})

    def drop_shards(self) -> None:
        """Remove the shards and what lies beside them, after all of it was uploaded; records and indexes stay."""
        for split in SPLITS:
            for directory in sorted(self.out.glob(f"*/{split}/{DIRECTORY}")):
                _drop_sidecar(directory, lambda part: True)
            for part in sorted(self.out.glob(f"*/{split}/part-*")):
                if is_part_name(part.name):
                    shutil.rmtree(part)

    def _record_path(self, part: Part) -> Path:
        return self._records(part.group) / f"{part.number:05}.json"

    def _records(self, group: str) -> Path:
        return self._ours / "parts" / (group if is_by_key(group) else domain_directory(group))


def rejects_file(group: str) -> str:
    """The published file of a group's rejects, below the output directory."""
    return (
        f"rejects{group.removeprefix(BY_KEY)}.jsonl" if is_by_key(group) else f"{domain_directory(group)}/rejects.jsonl"
    )


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.exists() else None


def _drop_sidecar(directory: Path, drop: Callable[[str], bool]) -> None:
    """Remove the files of documents of some parts, by the parts' names."""
    for path in sorted(directory.glob("part-*.parquet")):
        if is_part_name(path.stem) and drop(path.stem):
            path.unlink()
    if directory.is_dir():
        _remove_if_empty(directory)


def _unlink(path: Path) -> None:
    """Remove a file, and what `write_durably` leaves of it after a kill."""
    for each in (path, aside_of(path)):
        each.unlink(missing_ok=True)


def _remove_if_empty(directory: Path) -> None:
    if not any(directory.iterdir()):
        directory.rmdir()


def _shard_files(output: Output, out: Path, part: str) -> Iterator[tuple[Path, int]]:
    for shard in output.shards:
        stored = shard["zip_data"] or shard["raw_data"]
        yield output.directory(out, part) / stored["basename"], stored["bytes"]
