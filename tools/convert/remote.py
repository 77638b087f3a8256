"""A finished conversion → an object store, below `--out URL`.

    .convert/run.json                    recipe and sources; written first, which claims the URL for this conversion
    <domain>/<split>/part-…/shard.….mds  in parallel
    <domain>/<split>/index.json          after all shards
    domains.json                         last

Rules. A dataset with an index is complete: the index is removed before any of its shards is replaced, and
`domains.json` before any index. An object is not uploaded again if the local record (uploads.py) has it and the store
confirms its size and version. A URL that holds other objects is refused and left unchanged; only objects that convert
writes are removed. The content of the objects is a function of the recipe and the sources, as for files.
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

from ..shared.console import Console
from ..shared.datasets import INDEX, SUMMARY
from .ledger import RUN, TAIL, Ledger, PartRecord, refuse_other
from .parts import Part
from .publish import datasets, stored_files
from .uploads import Upload, Uploads

Item = TypeVar("Item")
Result = TypeVar("Result")

_THREADS = 8
_ATTEMPTS = 5  # an upload runs unattended for hours, so retrying matters more than failing early
_OURS = re.compile(
    r"domains\.json|[^/]+/(train|val)/(index\.json|part-(\d{5,}|tail)/shard\.\d{5,}\.mds(\.\w+)?)", re.ASCII
)


def default_work(url: str) -> Path:
    """The work directory of `--out url` if --work is not given: the same for the same URL, so a restart finds it."""
    place = redact(url).rstrip("/")
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    label = re.sub(r"[^\w.-]+", "-", place.rpartition("/")[2])[:40]
    return root / "mixstream" / "convert" / f"{label}-{hashlib.sha256(place.encode()).hexdigest()[:12]}"


def plan_uploads(
    ledger: Ledger, summary: dict[str, Any], done: Sequence[tuple[Part, PartRecord]], identity: str
) -> list[Upload]:
    """Every object of a published conversion except run.json; `domains.json` is the last."""
    identities = {
        (output.domain, output.split, part.name): record.identity for part, record in done for output in record.outputs
    }
    shards: list[Upload] = []
    indexes: list[Upload] = []
    for domain, split in datasets(summary):
        index = (ledger.out / domain / split / INDEX).read_bytes()
        for name, size in stored_files(index):
            part = name.partition("/")[0]
            stamp = identity if part == TAIL else identities[domain, split, part]
            shards.append(Upload(name=f"{domain}/{split}/{name}", size=size, stamp=stamp))
        indexes.append(_stamped(f"{domain}/{split}/{INDEX}", index))
    return [*shards, *indexes, _stamped(SUMMARY, (ledger.out / SUMMARY).read_bytes())]


@dataclass(frozen=True, kw_only=True, slots=True)
class Remote:
    """The destination of an upload.

    Args:
        store: the store of `--out`.
        keep_work: keep the shards in the work directory after all of them were uploaded.
        retry: attempts of each request.
    """

    store: Store
    keep_work: bool = False
    retry: Retry = field(default_factory=lambda: Retry(attempts=_ATTEMPTS, knobs=("", "")))
    _stop: threading.Event = field(default_factory=threading.Event, init=False)

    def check(self, run: bytes, *, overwrite: bool) -> bool:
        """Whether the URL holds this conversion; False if it is free, or holds another one that may be replaced.

        Args:
            run: run.json of this conversion.
            overwrite: whether another conversion may be replaced.

        Raises:
            ConfigError: the URL holds objects of another program.
            StateError: it holds a conversion with other options or sources, and `overwrite` is False.
        """
        old = self._read(RUN)
        if old is None:
            found = self._call("listing", "", lambda: self.store.names(limit=1))
            if found:
                raise ConfigError(
                    f"--out {self.store.url}: it holds {found[0]!r}, which convert did not write. "
                    "Give a URL without objects below it."
                )
        elif not overwrite:
            try:
                refuse_other(self.store.url, old, run)
            except StateError:
                raise
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ConfigError(
                    f"--out {self.store.url}: its {RUN} was not written by convert ({error!r}). Give another URL, or "
                    "pass --overwrite if it holds a conversion whose run.json is damaged."
                ) from error
        return old == run

    def claim(self, run: bytes) -> None:
        """Write run.json, so that other conversions to this URL are refused. Old objects stay until the upload."""
        self._call("writing", RUN, lambda: self.store.write(RUN, run))

    def confirm(self, uploads: Uploads) -> None:
        """Compare the noted uploads with the store; strike out those that it does not have in that size and version."""
        noted = {upload.name: upload for upload in uploads}
        for name, found in self._each(self._info, noted):
            if found is None or (found.size, found.version) != (noted[name].size, noted[name].version):
                uploads.strike(name)

    def finished(self, identity: str) -> dict[str, Any] | None:
        """The summary, if the store holds every object of the conversion with this identity; else None."""
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
        """Upload what is missing of `wanted`, and remove other objects of convert; returns the number of bytes sent.

        Args:
            ledger: of the work directory, where the files are.
            uploads: what the store holds, confirmed.
            wanted: every object, as `plan_uploads` lists them.
            console: where progress is shown.

        Raises:
            StoreError: a request failed; what was uploaded before is noted.
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
        list(self._each(remove, [f"{dataset}/{INDEX}" for dataset in changed]))
        stages = (
            [item for item in todo if not item.name.endswith(".json")],
            [item for item in wanted if item.name.endswith(f"/{INDEX}") and _dataset(item.name) in changed],
            [item for item in wanted if item.name == SUMMARY],
        )
        total, size = sum(item.size for item in wanted), sum(item.size for stage in stages for item in stage)
        with console.progress("upload", total=total, done=total - size) as advance:
            for stage in stages:
                if stage is stages[-1]:
                    list(self._each(remove, stale))
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
        """Write a file to the store, then ask the store for its size and version."""
        self.store.write(item.name, path)
        found = self.store.info(item.name)
        if found.size != item.size:
            raise StoreFaultError(f"{self.store.url}/{item.name}: {item.size} bytes sent, the store has {found.size}")
        return found

    def _call(self, what: str, name: str, act: Callable[[], Result]) -> Result:
        place = f"{self.store.url.rstrip('/')}/{name}"
        return self.retry.call(f"{what} {place}", act, renew=self.store.renew, stop=self._stop)

    def _each(self, act: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield results as they complete. After the first error no call starts; it is raised when the others ended."""
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
    """The dataset of an object: `web/train/part-00000/shard.00000.mds` → `web/train`; empty for `domains.json`."""
    return "/".join(name.split("/")[:2]) if "/" in name else ""
