"""A merge: claim the output, copy shards or leave them where they are, then documents, then indexes, then domains.json.

Shards that lie below OUT already stay there, in their sub-directories: the index names them by their paths
(`mixstream.merge_index`). All others are copied as shard.00000.mds, shard.00001.mds, …: the bytes of a shard do not
contain its name. Each is checked by a hash of its index on the way.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import mixstream as ms
from mixstream.documents import FILES
from mixstream.errors import OutputExistsError, ShardCorruptError
from mixstream.formats import FileInfo, Index, ShardInfo, dump_index, hash_hex, parse_index
from mixstream.storage import INDEX, SUMMARY, Retry, domain_name, is_local, join, local_path, open_store

from ..shared.cards import CARD
from ..shared.carried_cards import carry_cards, stale_cards
from ..shared.console import Console
from ..shared.datasets import Dataset
from ..shared.output_job import OutputJob, inside
from ..shared.parallel import in_parallel
from ..shared.shards import read_bytes
from .agreed import counts_of, joined_about
from .documents import has_documents, join_documents
from .plan import Joined

COMMAND = "merge"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Copy:
    """A file that is copied."""

    member: Dataset
    file: FileInfo
    name: str
    """Below the output."""


@dataclass(frozen=True, kw_only=True)
class MergeJob:
    """A merge.

    Args:
        joined: the datasets that are made.
        out: directory or URL.
        retry: of requests.
        drop_documents: make no sidecar.
        overwrite: replace what is at `out`.
        workers: how many files are copied at once.
        console: where progress is shown.
    """

    joined: Sequence[Joined]
    out: str
    retry: Retry
    drop_documents: bool
    overwrite: bool
    workers: int
    console: Console

    @cached_property
    def output(self) -> OutputJob:
        """The output."""
        return OutputJob(
            command=COMMAND,
            store=open_store(self.out, timeout=self.retry.timeout),
            retry=self.retry,
            identity=self._identity(),
            about={"documents": not self.drop_documents},
        )

    def _identity(self) -> str:
        members = {
            each.name: [hashlib.sha256(dump_index(member.index)).hexdigest() for member in each.members if member.index]
            for each in self.joined
        }
        what = {"layout": 1, "members": members, "documents": not self.drop_documents}
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    def stays(self) -> bool:
        """Whether all shards lie below the output already, and one index is all that is missing."""
        if len(self.joined) != 1 or self.joined[0].name:
            return False
        root = _place(self.out)
        return all(_place(member.store.url).startswith(f"{root}/") for member in self.joined[0].members)

    def run(self) -> dict[str, Any] | None:
        """Make what is missing; returns what there is, None if nothing was missing.

        Raises:
            OutputExistsError, StateError: the output holds something else.
            ShardCorruptError: a shard does not match its index.
        """
        for each in self.joined:
            has_documents(each.members, drop=self.drop_documents)
        if self.stays():
            return self._merge_in_place(self.joined[0])
        names = [each.name for each in self.joined]
        last = INDEX if names == [""] else SUMMARY
        if not self.output.begin(names, overwrite=self.overwrite, last=last):
            self.output.clean(self.out)
            return None
        copied = self._copy()
        datasets = [self._made(each) for each in self.joined]
        cards = carry_cards(
            [(each.name, each.members, json.loads(index).get("mixstream", {})) for each, index, _ in datasets],
            self.retry,
        )
        self.output.check()
        self._remove_stale(datasets, cards)
        for name, data in cards.items():
            self.output.write(name, data)
        for each, index, _ in datasets:
            self.output.write(inside(each.name, INDEX), index)
        summary = self._summary([(each, counts) for each, _, counts in datasets])
        if summary is not None:
            self.output.write(SUMMARY, json.dumps(summary, ensure_ascii=False, indent=1).encode())
        self.output.clean(self.out)
        return {
            "copied_bytes": copied,
            "datasets": [{"name": each.name, "members": len(each.members), **counts} for each, _, counts in datasets],
        }

    def _merge_in_place(self, each: Joined) -> dict[str, Any] | None:
        """Write one index over datasets in sub-directories."""
        old = self.output.read(INDEX)
        if old is not None:
            made = parse_index(old, where=f"{self.out}/{INDEX}").extra.get(f"mixstream_{COMMAND}")
            if isinstance(made, dict) and made.get("identity") == self.output.identity:
                return None
            if not self.overwrite:
                raise OutputExistsError(
                    f"{self.out} has an index already, which may name other rows. Give --overwrite to replace it."
                )
        shards = sum(len(member.shards) for member in each.members)
        about = self._about(each, shards)
        metadata = {**({"mixstream": about} if about else {}), **self.output.made}
        ms.merge_index(
            [join(member.store.url, INDEX) for member in each.members],
            self.out,
            download_timeout=self.retry.timeout,
            metadata=metadata,
        )
        counts = counts_of(about, each.rows, shards)
        return {"copied_bytes": 0, "datasets": [{"name": "", "members": len(each.members), **counts}]}

    def _about(self, each: Joined, shards: int) -> dict[str, Any]:
        """Return the entry `mixstream` of a joined index; writes its sidecar."""
        about = joined_about(each.members, shards=shards)
        if not about or not has_documents(each.members, drop=self.drop_documents):
            return about
        store = open_store(join(self.out, each.name) if each.name else self.out, timeout=self.retry.timeout)
        with tempfile.TemporaryDirectory(prefix="mixstream-merge-") as work:
            return about | join_documents(each.members, store, Path(work) / "documents", retry=self.retry)

    def _copies(self, each: Joined) -> Iterator[tuple[ShardInfo, list[_Copy]]]:
        """Yield the new entry of each shard, with the files that are copied for it."""
        number = 0
        for member in each.members:
            for info in member.shards:
                changed: dict[str, FileInfo | None] = {}
                copies = []
                for key in ("raw", "zip", "meta", "meta_zip"):
                    file: FileInfo | None = getattr(info, key)
                    changed[key] = None if file is None else replace(file, basename=_renamed(info, file, number))
                for raw, packed in info.files:
                    stored = packed or raw
                    name = inside(each.name, _renamed(info, stored, number))
                    copies.append(_Copy(member=member, file=stored, name=name))
                yield replace(info, **changed), copies
                number += 1

    def _copy(self) -> int:
        """Copy the files that are not there yet; returns their bytes."""
        wanted = [copy for each in self.joined for _, copies in self._copies(each) for copy in copies]
        there = {*self.output.names()}
        todo = [copy for copy in wanted if copy.name not in there or self._size(copy.name) != copy.file.bytes]
        total, size = sum(copy.file.bytes for copy in wanted), sum(copy.file.bytes for copy in todo)
        with (
            self.console.progress("copy", total=total, done=total - size) as advance,
            closing(in_parallel(self._copy_one, todo, workers=self.workers)) as done,
        ):
            for copy, _ in done:
                advance(copy.file.bytes)
        return size

    def _size(self, name: str) -> int:
        store = self.output.store
        return self.retry.call(f"looking at {store.url}/{name}", lambda: store.info(name), renew=store.renew).size

    def _copy_one(self, copy: _Copy) -> None:
        store, file = copy.member.store, copy.file
        data = read_bytes(store, file.basename, file.bytes, self.retry)
        for name, expected in sorted(file.hashes.items())[:1]:
            if (found := hash_hex(name, data)) != expected:
                raise ShardCorruptError(
                    f"{store.url}/{file.basename}: its {name} is {found}, the index says {expected}. It was not "
                    "copied: fetch or write the shard again (`mixstream verify` lists all that are damaged)."
                )
        self.output.write(copy.name, data)

    def _made(self, each: Joined) -> tuple[Joined, bytes, dict[str, int]]:
        """Return the index of a joined dataset, and its counts; writes its sidecar."""
        entries = [info for info, _ in self._copies(each)]
        about = self._about(each, len(entries))
        extra = {**({"mixstream": about} if about else {}), **self.output.made}
        hashes = {name for member in each.members if member.index is not None for name in member.index.hashes}
        index = dump_index(Index(shards=tuple(entries), extra=extra), hashes=sorted(hashes))
        return each, index, counts_of(about, each.rows, len(entries))

    def _remove_stale(
        self, datasets: Sequence[tuple[Joined, bytes, Mapping[str, int]]], cards: Mapping[str, bytes]
    ) -> None:
        """Remove shards of what was there before, which the new indexes do not name, and its cards."""
        if not self.overwrite:
            return
        for name in stale_cards(self.output.names(), self.output.read, cards):
            self.output.remove(name)
        for each, index, _ in datasets:
            content = json.loads(index)
            parsed = parse_index(index, where=INDEX).shards
            wanted = {(packed or raw).basename for info in parsed for raw, packed in info.files}
            wanted |= {file["basename"] for file in content.get("mixstream", {}).get(FILES, ())}
            for name in self.output.names():
                rest = name.removeprefix(f"{each.name}/") if each.name else name
                is_ours = rest.startswith(("shard.", "documents/part-")) or rest == CARD
                if is_ours and (rest != name or not each.name) and rest not in wanted and name not in cards:
                    self.output.remove(name)

    def _summary(self, datasets: Sequence[tuple[Joined, Mapping[str, int]]]) -> dict[str, Any] | None:
        """Return what domains.json says; None where there is one dataset alone."""
        if not datasets[0][0].name:
            return None
        domains: dict[str, dict[str, Any]] = {}
        about: Mapping[str, Any] = {}
        for each, counts in datasets:
            directory, _, split = each.name.partition("/")
            own = next((member.about for member in each.members if member.about), {})
            about = about or own
            domains.setdefault(str(own.get("domain") or domain_name(directory)), {})[split or "train"] = dict(counts)
        kept = {key: about[key] for key in ("seq_len", "tokenizer") if key in about}
        return {"version": 1, "identity": self.output.identity, **kept, "domains": domains}


def _renamed(info: ShardInfo, file: FileInfo, number: int) -> str:
    """Return the new name of a file of a shard: `shard.00007.mds.zstd` for `part-00001/shard.00003.mds.zstd`."""
    stem = info.raw.basename.rpartition("/")[2]
    suffix = file.basename.rpartition("/")[2].removeprefix(stem)
    return f"shard.{number:05}.{info.format}{suffix}"


def _place(url: str) -> str:
    return str(local_path(url).resolve()) if is_local(url) else url.rstrip("/")
