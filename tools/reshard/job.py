"""A resharding: datasets → borders of new shards → parts → indexes, which are written when all shards are there.

URL ─ datasets ─► borders ─ parts ─ executor(write) ─► shards, recorded ─► documents ─► OUT/<dataset>/index.json
                    ▲
   with a seed: executor(scatter) ─► rows by their keys, in the work directory
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from mixstream.documents import FILES
from mixstream.formats import Index, ShardInfo, dump_index
from mixstream.storage import INDEX, join, open_store

from ..shared.carried_cards import carry_cards, stale_cards
from ..shared.console import Console
from ..shared.output_job import inside
from ..shared.parts import PartOptions, run_parts
from .dataset import SCATTER_BYTES, Reshard, absolute_url
from .records import MADE, Records
from .rows import Conversion
from .sidecars import copy_documents, shuffle_documents
from .write import ScatterTask, ShardsTask, scatter_rows, write_shards

_SHARD_NAME = re.compile(r"shard\.\d{5,}\.mds(\.\w+)?|documents/part-(\d{5,}|tail)\.parquet|card\.json", re.ASCII)
_FEW_BYTES = 32 << 20  # for which more processes would only take time to start
_LAYOUT = 1
"""Increased whenever this program would write other bytes for the same rows and options."""


@dataclass(frozen=True, kw_only=True)
class ReshardJob:
    """All datasets of a command.

    Args:
        datasets: of the URL.
        out: URL or directory.
        work: directory for scattered rows.
        options: where the work runs.
        overwrite: replace what is at `out`.
        console: where progress is shown.
    """

    datasets: Sequence[Reshard]
    out: str
    work: Path
    options: PartOptions
    overwrite: bool
    console: Console

    @cached_property
    def records(self) -> Records:
        """The records at the output."""
        first = self.datasets[0]
        return Records(
            store=open_store(self.out, timeout=first.retry.timeout),
            retry=first.retry,
            identity=self.identity,
            about={key: value for key, value in asdict(first.target).items() if value is not None},
        )

    @cached_property
    def identity(self) -> str:
        """A hash of everything that decides the bytes of the output."""
        what = {
            "layout": _LAYOUT,
            "target": asdict(self.datasets[0].target),
            "datasets": {each.name: each.digest() for each in self.datasets},
        }
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    def run(self) -> dict[str, Any] | None:
        """Do what is left; returns what there is, per dataset, or with `--part` what this part has; None if nothing.

        Raises:
            StateError, OutputExistsError: the output holds something else.
            MixstreamError: an old shard is damaged, or a value does not fit.
        """
        for each in self.datasets:  # all options are checked before anything is written
            _ = each.entry if each.rows else None
        if not self.records.begin([each.name for each in self.datasets], overwrite=self.overwrite):
            self._clean()
            return None
        scattered = {each.name: self._scatter(each) for each in self.datasets if each.rows}
        borders = {each.name: self._borders(each, scattered.get(each.name, ())) for each in self.datasets}
        tasks, total, done = self._todo(borders, scattered)
        if done:
            self.console.note(f"going on: {100 * done // max(total, 1)} % of the rows are written")
        options = self.options.placed(tasks=len(tasks), rows=total - done, few=_FEW_BYTES)
        written = sum(
            run_parts(
                write_shards, tasks, options=options, console=self.console, label="reshard", total=total,
                done=done, unit="bytes",
            )
        )  # fmt: skip
        if self.options.single is not None:
            return {"written_bytes": written}
        return {"written_bytes": written, "datasets": [self._made(each, borders[each.name]) for each in self.datasets]}

    def _todo(
        self, borders: Mapping[str, Sequence[int]], scattered: Mapping[str, tuple[Path, ...]]
    ) -> tuple[list[ShardsTask], int, int]:
        """Return the parts that are not done; the bytes of all parts, and of those that are."""
        tasks, total, done = [], 0, 0
        for each in self.datasets:
            for number, shards in enumerate(each.parts(borders[each.name], self.options)):
                if self.options.single is not None and number != self.options.single[0]:
                    continue
                size = self._size(each, borders[each.name], shards)
                total += size
                if shards[0] == shards[1]:
                    continue
                order = self._order(each, shards)
                is_done = self.records.part(each.name, shards, borders[each.name]) is not None
                if is_done and (order is None or order.exists()):
                    done += size
                else:
                    tasks.append(self._task(each, shards, borders[each.name], scattered[each.name]))
        return tasks, total, done

    def finish(self) -> None:
        """Remove what an earlier dataset at the output and this job have left; call it when all indexes are there."""
        self._clean()

    def _clean(self) -> None:
        self.records.clean(self.out)
        shutil.rmtree(self.work, ignore_errors=True)

    def _borders(self, each: Reshard, scattered: Sequence[Path]) -> list[int]:
        if not each.rows:
            return [0]
        if Conversion.between(each.dataset.shards[0], each.entry).row_bytes is not None:
            return each.borders(scattered)
        borders = self.records.borders(each.name)
        if borders is None:
            self.console.note(f"{each.name or each.dataset.shown}: rows of different sizes; reading where they lie")
            borders = each.borders(scattered)
            self.records.keep_borders(each.name, borders)
        return borders

    def _size(self, each: Reshard, borders: Sequence[int], shards: tuple[int, int]) -> int:
        rows = borders[shards[1]] - borders[shards[0]]
        return each.bytes * rows // max(each.rows, 1)

    def _place(self, each: Reshard) -> Path:
        return self.work / self.identity[:16] / (each.name.replace("/", "%") or "%")

    def _order(self, each: Reshard, shards: tuple[int, int]) -> Path | None:
        """Return the file of the old numbers of a part's rows, if documents have to follow them."""
        if each.target.seed is None or not each.dataset.about.get(FILES):
            return None
        return self._place(each) / "order" / f"{shards[0]:08}.npy"

    def _scatter(self, each: Reshard) -> tuple[Path, ...]:
        """Scatter all rows of a dataset, if they are to be shuffled; returns the directories."""
        seed = each.target.seed
        if seed is None:
            return ()
        parts = max(-(-each.bytes // SCATTER_BYTES), 1)
        borders = [each.rows * at // parts for at in range(parts + 1)]
        tasks = [
            ScatterTask(source=each.source, rows=span, directory=self._place(each) / f"{at:05}", seed=seed)
            for at, span in enumerate(pairwise(borders))
            if span[0] < span[1]
        ]
        todo = [task for task in tasks if not task.directory.is_dir()]
        size = sum(each.bytes * (task.rows[1] - task.rows[0]) // each.rows for task in todo)
        for _ in run_parts(
            scatter_rows, todo, options=self.options, console=self.console, label="shuffle", total=each.bytes,
            done=each.bytes - size, unit="bytes",
        ):  # fmt: skip
            pass
        return tuple(task.directory for task in tasks)

    def _task(
        self, each: Reshard, shards: tuple[int, int], borders: Sequence[int], scattered: tuple[Path, ...]
    ) -> ShardsTask:
        return ShardsTask(
            source=each.source,
            out=absolute_url(self.out),
            name=each.name,
            shards=shards,
            borders=borders[shards[0] : shards[1] + 1],
            scattered=scattered,
            order=self._order(each, shards),
            identity=self.identity,
            about=self.records.about,
        )

    def _made(self, each: Reshard, borders: Sequence[int]) -> dict[str, Any]:
        """Return the index of a dataset, with what the command says of it; `write_indexes` writes them all."""
        entries: list[ShardInfo] = []
        orders: list[Path] = []
        for shards in each.parts(borders, self.options):
            if shards[0] == shards[1]:
                continue
            found = self.records.part(each.name, shards, borders)
            if found is None:
                raise FileNotFoundError(
                    f"{self.out}: shards {shards[0]} to {shards[1]} of {each.name or 'it'} were written, and their "
                    "record is gone: another program may have removed it. Run the same command again."
                )
            entries += found
            if (order := self._order(each, shards)) is not None:
                orders.append(order)
        assert each.dataset.index is not None, "unreadable datasets are refused before"
        extra = {key: value for key, value in each.dataset.index.extra.items() if key != MADE}
        about = dict(each.dataset.about)
        if about:
            about |= {"shards": len(entries)} if "shards" in about else {}
            about |= self._documents(each, about, orders)
            extra["mixstream"] = about
        extra |= self.records.made
        return {
            "name": each.name,
            "index": dump_index(Index(shards=tuple(entries), extra=extra), hashes=each.dataset.index.hashes),
            "rows": each.rows,
            "shards": (len(each.dataset.shards), len(entries)),
            "bytes": (_stored(each.dataset.shards), _stored(entries)),
            "about": about,
        }

    def _documents(self, each: Reshard, about: Mapping[str, Any], orders: Sequence[Path]) -> dict[str, Any]:
        """Write the sidecar of a dataset; returns its entry in the index."""
        if FILES not in about:
            return {}
        store = open_store(join(self.out, each.name) if each.name else self.out, timeout=each.retry.timeout)
        if each.target.seed is None:
            return copy_documents(each.dataset.store, about, store, retry=each.retry)
        return shuffle_documents(
            each.dataset.store, about, store, orders, self._place(each) / "documents", retry=each.retry
        )

    def write_indexes(self, datasets: Sequence[Mapping[str, Any]]) -> None:
        """Remove what an earlier dataset at the output has left, and then write all indexes."""
        self.records.check()
        cards = carry_cards(
            [(old.name, [old.dataset], new["about"]) for old, new in zip(self.datasets, datasets)],
            self.datasets[0].retry,
        )
        wanted = {inside(each["name"], file) for each in datasets for file in (INDEX, *_files_of(each["index"]))}
        wanted |= cards.keys()
        below = [each["name"] for each in datasets]
        names = self.records.names()
        stale = stale_cards(names, self.records.read, wanted)
        for name in stale:
            self.records.remove(name)
        for name in (name for name in names if name not in stale):
            place = max((own for own in below if not own or name.startswith(f"{own}/")), key=len, default=None)
            rest = name if not place else name[len(place) + 1 :]
            if place is not None and name not in wanted and _SHARD_NAME.fullmatch(rest):
                self.records.remove(name)
        for name, data in cards.items():
            self.records.write(name, data)
        for each in datasets:
            self.records.write(inside(each["name"], INDEX), each["index"])


def _files_of(index: bytes) -> set[str]:
    content = json.loads(index)
    files = {(shard["zip_data"] or shard["raw_data"])["basename"] for shard in content["shards"]}
    return files | {file["basename"] for file in content.get("mixstream", {}).get(FILES, ())}


def _stored(shards: Sequence[ShardInfo]) -> int:
    return sum((info.zip or info.raw).bytes for info in shards)
