"""A finished conversion → an object store, below `--out URL`.

    .convert/run.json                    which recipe and sources; first of all, so that the place is taken
    <domain>/<split>/part-…/shard.….mds  side by side
    <domain>/<split>/index.json          when all shards are there
    domains.json                         last

Rules. What has an index is whole: the index of a dataset is taken down before any of its shards is replaced, and
`domains.json` before any index. Nothing is uploaded that is there already: the local record (uploads.py) says so and
the store confirms size and version. A place that holds something else is refused unchanged; only objects that convert
makes are ever removed. What the objects hold is a function of the recipe and the sources, as it is for files.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from mixstream.errors import ConfigError, StateError, StoreFaultError, StoreNotFoundError
from mixstream.storage import ObjectInfo, Retry, Store, redact

from ..console import Console  # noqa: TID252  # pyright cannot follow the name that it is installed under
from .ledger import INDEX, RUN, SUMMARY, TAIL, Ledger, PartRecord, refuse_other
from .parts import Part
from .publish import datasets, stored_files
from .uploads import Upload, Uploads

Item = TypeVar("Item")
Result = TypeVar("Result")

_THREADS = 8
_ATTEMPTS = 5  # nobody watches for hours: patience is worth more than a quick answer
_OURS = re.compile(
    r"domains\.json|[^/]+/(train|val)/(index\.json|part-(\d{5,}|tail)/shard\.\d{5,}\.mds(\.\w+)?)", re.ASCII
)


def default_work(url: str) -> Path:
    """The work directory of `--out url` where none is named: the same for the same URL, and kept over a restart."""
    place = redact(url).rstrip("/")
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    label = re.sub(r"[^\w.-]+", "-", place.rpartition("/")[2])[:40]
    return root / "mixstream" / "convert" / f"{label}-{hashlib.sha256(place.encode()).hexdigest()[:12]}"


def plan_uploads(
    ledger: Ledger, summary: dict[str, Any], done: Sequence[tuple[Part, PartRecord]], identity: str
) -> list[Upload]:
    """Every object of a published conversion apart from run.json; `domains.json` stands last."""
    made_of = {
        (output.domain, output.split, part.name): record.identity for part, record in done for output in record.outputs
    }
    shards: list[Upload] = []
    indexes: list[Upload] = []
    for domain, split in datasets(summary):
        index = (ledger.out / domain / split / INDEX).read_bytes()
        for name, size in stored_files(index):
            part = name.partition("/")[0]
            stamp = identity if part == TAIL else made_of[domain, split, part]
            shards.append(Upload(name=f"{domain}/{split}/{name}", size=size, stamp=stamp))
        indexes.append(_stamped(f"{domain}/{split}/{INDEX}", index))
    return [*shards, *indexes, _stamped(SUMMARY, (ledger.out / SUMMARY).read_bytes())]


@dataclass(frozen=True, kw_only=True, slots=True)
class Remote:
    """Where a conversion is uploaded to.

    Args:
        store: the directory of `--out`.
        keep_work: leave the shards in the work directory when all of them are at the store.
        retry: of each request.
    """

    store: Store
    keep_work: bool = False
    retry: Retry = field(default_factory=lambda: Retry(attempts=_ATTEMPTS, knobs=("", "")))
    _stop: threading.Event = field(default_factory=threading.Event, init=False)

    def check(self, run: bytes, *, overwrite: bool) -> bool:
        """Whether the place is taken, and for this very conversion; False where it may be taken.

        Args:
            run: what run.json is to say.
            overwrite: another conversion may be replaced.

        Raises:
            ConfigError: it holds something that convert did not make.
            StateError: it holds a conversion with other options or sources, and not `overwrite`.
        """
        old = self._read(RUN)
        if old is None:
            found = self._call("listing", "", lambda: self.store.names(limit=1))
            if found:
                raise ConfigError(
                    f"--out {self.store.url}: it holds {found[0]!r}, which convert did not make. "
                    "Give a URL below which nothing is."
                )
        elif not overwrite:
            try:
                refuse_other(self.store.url, old, run)
            except StateError:
                raise
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ConfigError(
                    f"--out {self.store.url}: its {RUN} is none of convert's ({error!r}). Give another URL, or "
                    "--overwrite if it was."
                ) from error
        return old == run

    def claim(self, run: bytes) -> None:
        """Take the place, so that no other conversion gets there unseen. What it holds stays until the upload."""
        self._call("writing", RUN, lambda: self.store.write(RUN, run))

    def confirm(self, uploads: Uploads) -> None:
        """Ask the store for all that is noted, and strike out what it does not have in that size and version."""
        noted = {upload.name: upload for upload in uploads}
        for name, found in self._each(self._info, noted):
            if found is None or (found.size, found.version) != (noted[name].size, noted[name].version):
                uploads.strike(name)

    def finished(self, identity: str) -> dict[str, Any] | None:
        """The summary, if the store holds all of the conversion called `identity`, whoever uploaded it."""
        try:
            summary = json.loads(self._read(SUMMARY) or b"{}")
            if summary["identity"] != identity:
                return None
            wanted = {
                f"{domain}/{split}/{name}": size
                for domain, split in datasets(summary)
                for name, size in stored_files(self._read(f"{domain}/{split}/{INDEX}") or b"{}")
            }
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        sizes = {name: found.size for name, found in self._each(self._info, wanted) if found is not None}
        return summary if sizes == wanted else None

    def upload(self, ledger: Ledger, uploads: Uploads, wanted: Sequence[Upload], console: Console) -> int:
        """Make the store hold `wanted`, and nothing else of what convert makes; returns how many bytes went there.

        Args:
            ledger: of the work directory, where the files are.
            uploads: what the store holds, confirmed.
            wanted: every object, as `plan_uploads` lists them.
            console: where progress is told.

        Raises:
            StoreError: the store does not do what it is asked; what was uploaded by then is noted.
        """
        todo = [item for item in wanted if not uploads.holds(item.name, item.size, item.stamp)]
        if not todo:
            return 0
        found = self._call("listing", "", self.store.names)
        stale = sorted({name for name in found if _OURS.fullmatch(name)} - {item.name for item in wanted})
        changed = {_dataset(name) for name in [*(item.name for item in todo), *stale]} - {""}

        def remove(name: str) -> None:
            uploads.strike(name)
            self._call("removing", name, lambda: self.store.remove(name))

        def put(item: Upload) -> int:
            uploads.strike(item.name)
            found = self._call("writing", item.name, lambda: self._put(item, ledger.out / item.name))
            uploads.note(replace(item, version=found.version))
            return item.size

        remove(SUMMARY)
        self._all(remove, [f"{dataset}/{INDEX}" for dataset in changed])
        stages = (
            [item for item in todo if not item.name.endswith(".json")],
            [item for item in wanted if item.name.endswith(f"/{INDEX}") and _dataset(item.name) in changed],
            [item for item in wanted if item.name == SUMMARY],
        )
        total, size = sum(item.size for item in wanted), sum(item.size for stage in stages for item in stage)
        with console.progress("upload", total=total, done=total - size) as advance:
            for stage in stages:
                if stage is stages[-1]:
                    self._all(remove, stale)
                for sent in self._each(put, stage):
                    advance(sent)
        return size

    def _read(self, name: str) -> bytes | None:
        try:
            return bytes(memoryview(self._call("reading", name, lambda: self.store.read(name)).data))
        except StoreNotFoundError:
            return None

    def _info(self, name: str) -> tuple[str, ObjectInfo | None]:
        try:
            return name, self._call("looking at", name, lambda: self.store.info(name))
        except StoreNotFoundError:
            return name, None

    def _put(self, item: Upload, path: Path) -> ObjectInfo:
        """Store a file, and hear from the store what it has then."""
        self.store.write(item.name, path)
        found = self.store.info(item.name)
        if found.size != item.size:
            raise StoreFaultError(f"{self.store.url}/{item.name}: of {item.size} bytes the store has {found.size}")
        return found

    def _call(self, what: str, name: str, act: Callable[[], Result]) -> Result:
        place = f"{self.store.url.rstrip('/')}/{name}"
        return self.retry.call(f"{what} {place}", act, renew=self.store.renew, stop=self._stop)

    def _all(self, act: Callable[[Item], object], items: Iterable[Item]) -> None:
        for _ in self._each(act, items):
            pass

    def _each(self, act: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield results as they come. The first error is raised when what is under way has ended; nothing is begun."""
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="mixstream-upload") as pool:
            running = [pool.submit(act, item) for item in items]
            try:
                for done in as_completed(running):
                    yield done.result()
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _stamped(name: str, content: bytes) -> Upload:
    return Upload(name=name, size=len(content), stamp=hashlib.sha256(content).hexdigest())


def _dataset(name: str) -> str:
    """`web/train` of `web/train/part-00000/shard.00000.mds`; empty for `domains.json`."""
    return "/".join(name.split("/")[:2]) if "/" in name else ""
