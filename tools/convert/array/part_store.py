"""Parts that tasks on other machines have converted, at the store of `--out URL`: what a merge fetches of them.

    .convert/parts/<group>/00003.tail     the files of the ledger that belong to a part, as they lie in a work directory
    .convert/parts/<group>/00003.json     its record
    .convert/parts/<group>/00003.objects  written last: what the part consists of at the store, by size and version

Rules. A part counts only if its `.objects` names this recipe and these sources, and the store still has every object
that it names in that version. So a task that was killed, a second one that wrote over it and one of other options leave
parts that are missing, and never a wrong one. All of these objects are removed once everything is published.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Self

from mixstream.storage import INDEX, SUMMARY, domain_directory

from ...shared.console import Console
from ..groups import Known
from ..ledger.durable import make_directory, write_durably
from ..ledger.finished import PUBLISHED, dump_published
from ..ledger.identity import identify
from ..ledger.ledger import Ledger
from ..ledger.part_files import drop_part, files_of, place_of, shards_of
from ..ledger.records import PartRecord
from ..ledger.run_file import Run, is_same
from ..ledger.uploads import Upload, Uploads
from ..parts import Part
from ..publish.remote import Remote
from ..recipe import Recipe

_NAME = re.compile(r"\d{5,}\.[a-z0-9]+(\.[a-z0-9]+)*", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class PartStore(Remote):
    """A store that gets parts before they are published."""

    @classmethod
    def of(cls, remote: Remote) -> Self:
        """Return the same store as one of parts."""
        return cls(store=remote.store, keep_work=remote.keep_work, retry=remote.retry)

    def begin(self, theirs: Run | None, known: Known, now: Known, new: Run) -> None:
        """Let the store say that these groups are being made; what they replace loses its index first.

        Args:
            theirs: the run that the store holds; None if it is free.
            known: what was there.
            now: what is there when the tasks have begun.
            new: the groups of the command.
        """
        if theirs is None:
            self.claim(now.run)
            return
        if theirs.dump() == now.run.dump():
            return
        data = dump_published(now.published)
        self._call("writing", PUBLISHED, lambda: self.store.write(PUBLISHED, data))
        self.claim(now.run)
        self._remove(SUMMARY)
        replaced = [name for name, group in new.groups.items() if not is_same(theirs.groups.get(name), group)]
        places = {domain_directory(domain) for domain, group in known.owners.items() if group in replaced}
        for name in self._call("listing", "", self.store.names):
            place, _, rest = name.partition("/")
            if place in places and rest.partition("/")[2] == INDEX:
                self._remove(name)

    def send(
        self, ledger: Ledger, uploads: Uploads, done: Sequence[tuple[Part, PartRecord]], *, console: Console
    ) -> int:
        """Upload parts with all that a merge needs of them; returns the bytes sent."""
        held = {(each.name, each.stamp) for each in uploads}
        left = [pair for pair in done if (f"{place_of(ledger, pair[0])}.objects", pair[1].identity) not in held]
        each_has = [(part, record, *_objects_of(ledger, part, record)) for part, record in left]
        wanted = [item for _, _, shards, files in each_has for item in (*shards, *files)]
        todo = [item for item in wanted if (item.name, item.stamp) not in held]
        total, size = sum(item.size for item in wanted), sum(item.size for item in todo)
        with console.progress("upload", total=total, done=total - size) as advance:
            for sent in self._each(lambda item: self._send(ledger, uploads, item), todo):
                advance(sent)
        noted = {each.name: each for each in uploads}
        for part, record, shards, files in each_has:
            found = {"shards": shards, "files": files}
            manifest = {kind: [asdict(noted[item.name]) for item in items] for kind, items in found.items()}
            data = json.dumps({"identity": record.identity, **manifest}).encode()
            name = f"{place_of(ledger, part)}.objects"
            self._call("writing", name, lambda name=name, data=data: self.store.write(name, data))
            uploads.note(Upload(name=name, size=len(data), stamp=record.identity, version=self._version(name)))
            size += len(data)
        return size

    def fetch(self, ledger: Ledger, uploads: Uploads, recipe: Recipe, parts: Sequence[Part]) -> int:
        """Take over the parts that the store holds, and this directory or its uploads lack; returns how many."""
        lacking = [part for part in parts if not self._has(ledger, uploads, recipe, part)]
        if not lacking:
            return 0
        there = {*self._call("listing", "", self.store.names)}
        mine = [part for part in lacking if f"{place_of(ledger, part)}.objects" in there]
        return sum(self._each(lambda part: self._take(ledger, uploads, recipe, part), mine))

    def is_published(self, run: Run, groups: Iterable[str]) -> bool:
        """Whether the store has published these groups meanwhile."""
        theirs = self._read(".convert/run.json")
        there = self.published(Run.parse(theirs, self.store.url)) if theirs is not None else {}
        return all(name in there and is_same(there[name], run.groups[name]) for name in groups)

    def check_run(self, run: Run) -> None:
        """Check that no other machine has claimed the URL meanwhile."""
        self._check_run(run)

    @staticmethod
    def _has(ledger: Ledger, uploads: Uploads, recipe: Recipe, part: Part) -> bool:
        """Whether a part is here, and its shards are known to be at the store."""
        record = ledger.load(part, recipe)
        return record is not None and all(
            uploads.holds(path.relative_to(ledger.out).as_posix(), size, record.identity)
            for path, size in shards_of(ledger, part, record)
        )

    def _send(self, ledger: Ledger, uploads: Uploads, item: Upload) -> int:
        uploads.strike(item.name)
        found = self._call("writing", item.name, lambda: self._put(item, ledger.out / item.name))
        uploads.note(Upload(name=item.name, size=item.size, stamp=item.stamp, version=found.version))
        return item.size

    def _take(self, ledger: Ledger, uploads: Uploads, recipe: Recipe, part: Part) -> bool:
        """Take over one part; False if the store does not hold all of it, as this recipe and sources make it."""
        manifest = _parse(self._read(f"{place_of(ledger, part)}.objects"))
        if manifest is None or manifest[0] != identify(recipe, part.slices):
            return False
        _, shards, files = manifest
        directory = place_of(ledger, part).rpartition("/")[0]
        if any(name.rpartition("/")[0] != directory or not _NAME.fullmatch(name.rpartition("/")[2]) for name in files):
            return False
        for each in (*shards.values(), *files.values()):
            _, found = self._info(each.name)
            if found is None or (found.size, found.version) != (each.size, each.version):
                return False
        for each in shards.values():
            uploads.note(each)
        if ledger.load(part, recipe) is not None:  # here too, as with --keep-work
            return True
        drop_part(ledger, part)
        make_directory(ledger.out / directory)
        for name in files:  # the record is the last of them
            data = self._read(name)
            if data is None or len(data) != files[name].size:
                return False
            write_durably(ledger.out / name, data)
        uploads.note(Upload(name=f"{place_of(ledger, part)}.objects", size=0, stamp=manifest[0]))
        return ledger.load(part, recipe) is not None

    def _remove(self, name: str) -> None:
        self._call("removing", name, lambda: self.store.remove(name))

    def _version(self, name: str) -> str | None:
        found = self._info(name)[1]
        return None if found is None else found.version


def _objects_of(ledger: Ledger, part: Part, record: PartRecord) -> tuple[list[Upload], list[Upload]]:
    """Return the objects of a part: its shards, and its files in the ledger, the record last."""
    sized = [(path, path.stat().st_size) for path in files_of(ledger, part)]
    shards, files = (
        [Upload(name=path.relative_to(ledger.out).as_posix(), size=size, stamp=record.identity) for path, size in found]
        for found in (shards_of(ledger, part, record), sized)
    )
    return shards, files


def _parse(data: bytes | None) -> tuple[str, dict[str, Upload], dict[str, Upload]] | None:
    """Return the identity, the shards and the files of a `.objects`; None if it is damaged."""
    names = {field.name for field in fields(Upload)}
    try:
        found = json.loads(data or b"")
        shards, files = (
            {each["name"]: Upload(**{key: each[key] for key in names}) for each in found[kind]}
            for kind in ("shards", "files")
        )
        return str(found["identity"]), shards, files
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
