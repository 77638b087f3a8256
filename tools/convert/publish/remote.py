"""A finished conversion → an object store, below `--out URL`.

    .convert/run.json                    recipe and sources; written first, which claims the URL for this conversion
    <domain>/<split>/part-…/shard.….mds  in parallel, with <domain>/<split>/documents/part-….parquet
    <domain>/<split>/card.json           and tokenizer/…, with them
    <domain>/rejects.jsonl               with them; of a group with --domain-key, rejects.jsonl
    <domain>/<split>/index.json          after all shards
    card.json, domains.json              last
    .convert/published.json              while it is missing: what it said of domains that stay

Rules. A dataset with an index is complete: the index is removed before any of its shards is replaced, and
`domains.json` before any index. An object is not uploaded again if the local record (uploads.py) has it and the store
confirms its size and version. A URL that holds other objects is refused and left unchanged; only objects that convert
writes are removed. The content of the objects is a function of the recipe and the sources, as for files.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from itertools import starmap
from pathlib import Path
from typing import Any, TypeVar

from mixstream.documents import DIRECTORY
from mixstream.errors import ConfigError, StateError, StoreFaultError, StoreNotFoundError
from mixstream.storage import INDEX, RUN, SUMMARY, ObjectInfo, Retry, Store, domain_directory, redact

from ...shared.cards import CARD, TOKENIZER
from ...shared.console import Console
from ..card.written import read_written
from ..ledger.finished import PUBLISHED, Groups, compose, dump_published, of_summary, parse_published
from ..ledger.ledger import Ledger, rejects_file
from ..ledger.run_file import Run, is_by_key, is_same
from ..ledger.uploads import Upload, Uploads
from .publish import dataset_directory, datasets, stored_files

Item = TypeVar("Item")
Result = TypeVar("Result")

PARTS = ".convert/parts/"
"""What tasks of a job array have left for the command that publishes (part_store.py)."""
_THREADS = 8
_ATTEMPTS = 5  # an upload runs unattended for hours, so retrying matters more than failing early
_OURS = re.compile(
    r"domains\.json|([^/]+/)?rejects(-\d+)?\.jsonl"
    r"|[^/]+/(train|val)/((index|card)\.json|part-(\d{5,}|tail)/shard\.\d{5,}\.mds(\.\w+)?"
    rf"|{DIRECTORY}/part-(\d{{5,}}|tail)\.parquet)",
    re.ASCII,
)
_REJECTS = re.compile(r"rejects(-\d+)?\.jsonl", re.ASCII)
"""Of a group with --domain-key."""
_TOKENIZER_FILE = re.compile(rf"{TOKENIZER}/[^/]+")


def default_work(url: str) -> Path:
    """The work directory of `--out url` if --work is not given: the same for the same URL, so a restart finds it."""
    place = redact(url).rstrip("/")
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    label = re.sub(r"[^\w.-]+", "-", place.rpartition("/")[2])[:40]
    return root / "mixstream" / "convert" / f"{label}-{hashlib.sha256(place.encode()).hexdigest()[:12]}"


def plan_uploads(ledger: Ledger, run: Run, published: Groups) -> list[Upload]:
    """Every object of the groups that were converted here, except run.json; `domains.json`, if it is there, is last.

    The copy of the tokenizer and the card come before it, if it is there.
    """
    shards: list[Upload] = []
    indexes: list[Upload] = []
    for group, entry in published.items():
        if not (records := ledger.records_of(group)):
            continue  # it was uploaded from another work directory
        for place in starmap(dataset_directory, datasets(entry)):
            index = (ledger.out / place / INDEX).read_bytes()
            for file in stored_files(index):
                part = file.name.partition("/")[0]
                stamp = records[part].identity if part in records else file.hash or run.groups[group]["identity"]
                shards.append(Upload(name=f"{place}/{file.name}", size=file.size, stamp=stamp))
            indexes.append(_stamped(f"{place}/{INDEX}", index))
            if place in entry.get("cards", {}):
                shards.append(_stamped(f"{place}/{CARD}", (ledger.out / place / CARD).read_bytes()))
        if "file" in entry["skipped"]:
            rejects = entry["skipped"]
            shards.append(Upload(name=rejects["file"], size=rejects["bytes"], stamp=entry["identity"]))
    path = ledger.out / SUMMARY
    if not path.exists():
        return [*shards, *indexes]
    card = read_written(ledger.out)
    copies = sorted(f"{TOKENIZER}/{name}" for name in card.tokenizer_files) if card is not None else []
    common = [*copies, *([CARD] if card is not None else []), SUMMARY]
    return [*shards, *indexes, *(_stamped(name, (ledger.out / name).read_bytes()) for name in common)]


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

    def read_run(self) -> Run | None:
        """The run.json of the conversion that the URL holds; None if it is free.

        Raises:
            ConfigError: the URL holds objects of another program.
        """
        old = self._read(RUN)
        if old is not None:
            return Run.parse(old, self.store.url)
        if found := self._call("listing", "", lambda: self.store.names(limit=1)):
            if (old := self._read(RUN)) is not None:  # another task of a job array has begun in between
                return Run.parse(old, self.store.url)
            raise ConfigError(
                f"--out {self.store.url}: it holds {found[0]!r}, which convert did not write. "
                "Give a URL without objects below it."
            )
        return None

    def published(self, theirs: Run) -> Groups:
        """The published groups of the conversion that the URL holds."""
        found = of_summary(self._read(SUMMARY), theirs)
        if found or not theirs.groups:
            return found
        return parse_published(self._read(PUBLISHED), theirs) or {}

    def read_card(self, domain: str, split: str) -> bytes | None:
        """The card of a dataset; None if it has none."""
        return self._read(f"{dataset_directory(domain, split)}/{CARD}")

    def is_summed_up(self, theirs: Run) -> bool:
        """Whether the conversion that the URL holds is finished."""
        return bool(of_summary(self._read(SUMMARY), theirs)) or not theirs.groups

    def refuse_foreign(self, owners: Mapping[str, str], known: Run, new: Run, theirs: Run | None) -> None:
        """Refuse to add a domain whose objects another program wrote.

        Raises:
            ConfigError: there are some.
        """
        ours = {*owners, *known.groups}
        added = {name for name in new.groups if name not in ours and not is_by_key(name)}
        if theirs is None or not added:
            return
        for name in self._call("listing", "", self.store.names):
            if name.partition("/")[0] in map(domain_directory, added) and not _TOKENIZER_FILE.fullmatch(name):
                raise ConfigError(
                    f"--out {self.store.url}: it holds {name!r}, which convert did not write. Name the domain "
                    "otherwise: NAME=PATH"
                )

    def claim(self, run: Run) -> None:
        """Write run.json, so that other conversions to this URL are refused. Old objects stay until the upload."""
        self._call("writing", RUN, lambda: self.store.write(RUN, run.dump()))

    def confirm(self, uploads: Uploads) -> None:
        """Compare the noted uploads with the store; strike out those that it does not have in that size and version."""
        noted = {upload.name: upload for upload in uploads}
        for name, found in self._each(self._info, noted):
            if found is None or (found.size, found.version) != (noted[name].size, noted[name].version):
                uploads.strike(name)

    def finished(self, theirs: Run, new: Run) -> dict[str, Any] | None:
        """The summary, if the store's conversion is finished and has every object of the groups `new`; else None."""
        if not all(is_same(theirs.groups.get(name), group) for name, group in new.groups.items()):
            return None
        groups = of_summary(self._read(SUMMARY), theirs)
        if not {*new.groups} <= {*groups}:
            return None
        try:
            wanted = {
                f"{place}/{file.name}": file.size
                for group in new.groups
                for place in starmap(dataset_directory, datasets(groups[group]))
                for file in stored_files(self._read(f"{place}/{INDEX}") or b"{}")
            }
            for group in new.groups:
                wanted |= {f"{place}/{CARD}": size for place, size in groups[group].get("cards", {}).items()}
                rejects = groups[group]["skipped"]
                wanted |= {rejects["file"]: rejects["bytes"]} if "file" in rejects else {}
            if any("cards" in group for group in groups.values()) and self._read(CARD) is None:
                return None
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        sizes = {name: found.size for name, found in self._each(self._info, wanted) if found is not None}
        return compose(theirs, groups) if sizes == wanted else None

    def upload(
        self,
        ledger: Ledger,
        uploads: Uploads,
        wanted: Sequence[Upload],
        *,
        removed: Set[str],
        run: Run,
        published: Groups,
        console: Console,
    ) -> int:
        """Upload what is missing of `wanted`, and remove what convert wrote for the same domains before.

        Returns the number of bytes sent. Domains of which nothing is wanted, and that are not removed, stay.

        Args:
            ledger: of the work directory, where the files are.
            uploads: what the store holds, confirmed.
            wanted: the objects, as `plan_uploads` lists them.
            removed: domains to remove.
            run: the conversion that the store holds in the end.
            published: its published groups.
            console: where progress is shown.

        Raises:
            StateError: another machine has changed the conversion meanwhile.
            StoreError: a request failed; what was uploaded before is noted.
        """
        todo = [item for item in wanted if not uploads.holds(item.name, item.size, item.stamp)]
        if not todo and not removed:
            return 0
        before = self._read(RUN)
        found = self._call("listing", "", self.store.names)
        rejects = {rejects_file(name) for name in published if ledger.records_of(name)}
        rejects |= {*filter(_REJECTS.fullmatch, found)} - {*map(rejects_file, run.groups)}  # of jobs that are gone
        stale = _obsolete(found, wanted, removed, rejects)
        changed = {_dataset(name) for name in [*(item.name for item in todo), *stale]} - {""}
        kept = self._kept(before, run)
        if kept:  # what is known of them has to outlive domains.json
            self._call("writing", PUBLISHED, lambda: self.store.write(PUBLISHED, dump_published(kept)))
        if before != run.dump():
            self.claim(run)

        def remove(name: str) -> None:
            uploads.strike(name)
            self._call("removing", name, lambda: self.store.remove(name))

        def put(item: Upload) -> int:
            uploads.strike(item.name)
            found = self._call("writing", item.name, lambda: self._put(item, ledger.out / item.name))
            uploads.note(replace(item, version=found.version))
            return item.size

        remove(SUMMARY)
        remove(CARD)
        list(self._each(remove, [f"{dataset}/{INDEX}" for dataset in changed]))
        late = {item.name for item in wanted if item.name in {CARD, SUMMARY} or item.name.endswith(f"/{INDEX}")}
        stages = (
            [item for item in todo if item.name not in late],
            [item for item in wanted if item.name.endswith(f"/{INDEX}") and _dataset(item.name) in changed],
            [item for item in wanted if item.name == CARD],
            [item for item in wanted if item.name == SUMMARY],
        )
        total, size = sum(item.size for item in wanted), sum(item.size for stage in stages for item in stage)
        with console.progress("upload", total=total, done=total - size) as advance:
            for at, stage in enumerate(stages):
                if at == 2:
                    list(self._each(remove, stale))
                    self._check_run(run)
                for sent in self._each(put, stage):
                    advance(sent)
        if stages[-1]:
            remove(PUBLISHED)
            list(self._each(remove, [name for name in found if name.startswith(PARTS)]))
        else:  # other groups are unfinished, and the command that finishes them has to know of these
            self._call("writing", PUBLISHED, lambda: self.store.write(PUBLISHED, dump_published(published)))
        return size

    def _kept(self, before: bytes | None, run: Run) -> Groups:
        """What the store holds of the groups of `run`, if its run.json is `before`."""
        if before is None:
            return {}
        there = self.published(Run.parse(before, self.store.url))
        return {name: group for name, group in there.items() if is_same(run.groups.get(name), group)}

    def _check_run(self, run: Run) -> None:
        """Check that no other machine has claimed the URL meanwhile; domains.json would not name its domains."""
        if self._read(RUN) != run.dump():
            raise StateError(
                f"--out {self.store.url}: another `mixstream convert`, maybe on another machine, has begun to change "
                "it. Both have uploaded their shards; run one command, then the other, and domains.json names all."
            )

    def read_tokenizer_file(self, name: str) -> bytes | None:
        """The content of a file of `OUT/tokenizer/`; None if it is not there."""
        return self._read(f"{TOKENIZER}/{name}")

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


def _obsolete(found: Iterable[str], wanted: Sequence[Upload], removed: Set[str], rejects: Set[str]) -> list[str]:
    """The objects of convert that are not wanted, of the domains of which any are, and of removed ones.

    An old copy of a tokenizer is one of them once there is a card, which names the files of the new one. `rejects` are
    the files of rejects that the groups of this machine, and those that are gone, may have left.
    """
    names = {item.name for item in wanted}
    domains = {name.partition("/")[0] for name in names if _dataset(name)} | {*map(domain_directory, removed)}
    mine = {name for name in found if _OURS.fullmatch(name) and name.partition("/")[0] in domains}
    mine |= {name for name in found if name in rejects}
    if CARD in names:
        mine |= {name for name in found if _TOKENIZER_FILE.fullmatch(name)}
    return sorted(mine - names)


def _stamped(name: str, content: bytes) -> Upload:
    return Upload(name=name, size=len(content), stamp=hashlib.sha256(content).hexdigest())


def _dataset(name: str) -> str:
    """The dataset of an object: `web/train/part-00000/shard.00000.mds` → `web/train`; empty for others."""
    return "/".join(name.split("/")[:2]) if name.count("/") > 1 else ""
