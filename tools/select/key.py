"""`mixstream select key`: a key of each row, by which scores and selections survive new shards."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from mixstream.selection import (
    Column,
    ScoresWriter,
    ShardTable,
    merge_scores,
    provenance,
    read_keys,
)

from ..shared.console import Console, table
from ..shared.domains import NamedDataset
from ..shared.options import Json, Reading
from ..shared.outputs import Output
from ..shared.parts import PartOptions, run_parts

_PER_PART = 1_000_000  # rows
_NO_PARTS = PartOptions()
KEY = "key"


def key(
    *urls: Annotated[str, Parameter(name="URL")],
    of: str | None = None,
    reading: Reading = Reading(),  # noqa: B008  # frozen
    parts: PartOptions = _NO_PARTS,
    output: Output,
    as_json: Json = False,
) -> int:
    """Write a key of each row: 64 bits of its content.

    mixstream select key s3://corpus/web --out keys/web
    mixstream select key shards/ --out keys --workers 8
    mixstream select key shards/ --of text --out keys

    The key is xxh3_64 of a sample's stored bytes, or with --of of one column.
    When the corpus is sharded anew, `mixstream select rebase` finds each row
    again by its key, so write keys while the old shards exist. All shards are
    read, 8 bytes are written for each row. A run that was interrupted goes on.

    Exit status: 0, 1 if shards cannot be read, 2 wrong use.

    Args:
        urls: datasets, or directories above datasets, or NAME=URL.
        of: hash this column of a sample; default: all its stored bytes.
        as_json: print one JSON document, not tables.
    """
    console, datasets = Console(as_json=as_json), reading.find(urls)
    alone = len(datasets) == 1
    tables = {each.name: ShardTable.of(each.index.shards) for each in datasets}
    places = {each.name: output.root if alone else output.place(each.name) for each in datasets}
    tasks: list[_Task] = []
    total = 0
    for each in datasets:
        count = parts.count(tables[each.name].rows, per_part=_PER_PART)
        total += sum(_rows(tables[each.name], part) for part in parts.todo(count))
        whole = _Task(
            dataset=each, reading=reading.for_workers(), of=of, out=places[each.name].absolute(), part=(0, 1),
            overwrite=output.overwrite,
        )  # fmt: skip
        todo = output.parts_to_do(places[each.name], whole.made(), options=parts, count=count)
        tasks += [replace(whole, part=part) for part in todo]
    done = total - sum(_rows(tables[task.dataset.name], task.part) for task in tasks)
    if not output.dry_run:
        output.clear(places.values(), options=parts)
        for _ in run_parts(write_part, tasks, options=parts, console=console, label="keys", total=total, done=done):
            pass
    documents: list[dict[str, Any]] = []
    for each in datasets:
        merged = merge_scores(places[each.name]) if parts.single is None and not output.dry_run else None
        documents.append(
            {
                "domain": each.name,
                "rows": tables[each.name].rows,
                "path": None if merged is None else merged.path,
                "id": None if merged is None else merged.id,
            }
        )
    if parts.single is not None:
        console.note(parts.hint())
    shown = [[each["domain"], each["rows"], each["path"] or "-"] for each in documents]
    document = {"status": output.status, "domains": documents}
    console.result(document, table(["domain", "rows", "keys"], shown))
    return 0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    """One part of one domain."""

    dataset: NamedDataset
    reading: Reading
    of: str | None
    out: Path
    part: tuple[int, int]
    overwrite: bool

    def __str__(self) -> str:
        return f"part {self.part[0]}/{self.part[1]} of {self.dataset.name}"

    def made(self) -> dict[str, Any]:
        digest = ShardTable.of(self.dataset.index.shards).digest
        return provenance({"key": "xxh3_64", "of": self.of, "table": digest}, dataset=self.dataset.url)


def write_part(task: _Task, advance: Any) -> None:
    """Write the keys of one part."""
    rows = task.reading.open(task.dataset.url, name=task.dataset.name)
    with ScoresWriter(
        task.out,
        domain=task.dataset.name,
        table=rows.table,
        columns=[Column(name=KEY, dtype="<u8")],
        made=task.made(),
        part=task.part,
        overwrite=task.overwrite,
    ) as writer:
        for begin, keys in read_keys(
            rows,
            column=task.of,
            text_hash=task.of is not None,
            first=writer.first_shard,
            end=writer.end_shard,
            advance=advance,
        ):
            writer.write(begin, {KEY: keys.key_B})
        for shard, found in rows.fingerprints.items():
            writer.fingerprint(shard, found)


def _rows(shards: ShardTable, part: tuple[int, int]) -> int:
    first, end = shards.part(*part)
    return int(shards.start_S[end] - shards.start_S[first])
