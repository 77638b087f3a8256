"""`mixstream select rebase`: scores or a selection move to a dataset that was sharded anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter

from mixstream.errors import ConfigError, SelectionError
from mixstream.selection import (
    FAILED,
    DomainRows,
    Scores,
    ScoresWriter,
    Selection,
    index_keys,
    kept_mask,
    match_keys,
    match_shards,
    moved_buckets,
    provenance,
    read_keys,
    same_shards,
    write_buckets,
)
from mixstream.storage import redact
from mixstream.types import Int64

from ..shared.artefacts import is_alone, lineage, open_either, open_scores, partner
from ..shared.console import Console, table
from ..shared.domains import NamedDataset
from ..shared.numbers import real
from ..shared.options import Flag, Json, Many, Reading
from ..shared.outputs import Output
from .key import KEY

_BLOCK = 1 << 16  # rows


def rebase(
    source: Annotated[str, Parameter(name="SCORES|SEL")],
    /,
    *,
    to: Many,
    keys: str | None = None,
    drop_missing: Flag = False,
    min_found: Annotated[float, real(least=0, most=1)] = 0.5,
    reading: Reading = Reading(),  # noqa: B008  # frozen
    output: Output,
    as_json: Json = False,
) -> int:
    """Move scores or a selection to new shards of the same texts.

    mixstream select rebase sel/top20 --to s3://corpus/web-v2 \\
        --keys keys/web --out sel/top20-v2
    mixstream select rebase scores/dsdm --to shards/renamed --out scores/moved

    Rows are found by their keys (`mixstream select key`, over the old shards;
    or a column `key` of the scores themselves). Of rows of equal content, the
    k-th old one is the k-th new one. Without keys, whole shards are found: those
    that were only renamed, reordered or dropped.

    A kept (or scored) row that the new dataset lacks is an error that names
    some; --drop-missing goes on without them, if --min-found of the rows are
    found. New rows that no old row is are not selected, and have no score.

    EDITED DOCUMENTS. A row is found only if it has the same content. Rows of
    whole documents survive that others are edited, added or removed. Packed
    rows (`mixstream convert --seq-len`) do not: one edit moves all tokens that
    follow, and so changes every row behind it. Make scores and selections of
    packed rows anew.

    Exit status: 0, 1 if rows are missing or something cannot be read, 2 wrong
    use.

    Args:
        source: scores or a selection, or a directory with one for each domain.
        to: the new dataset, or a directory above several, or NAME=URL.
        keys: scores with the keys of the old rows.
        drop_missing: go on without rows that the new dataset lacks.
        min_found: the share of the rows of a domain that has to be found, with --drop-missing too; from 0 to 1.
        as_json: print one JSON document, not tables.
    """
    if not 0 <= min_found <= 1:
        raise ConfigError(f"--min-found {min_found:g}: give a share from 0 to 1")
    console, artefacts = Console(as_json=as_json), open_either(source)
    datasets = {each.name: each for each in reading.find(to)}
    if len(artefacts) == len(datasets) == 1:
        datasets = dict(zip(artefacts, datasets.values()))
    if lacking := sorted(set(artefacts) - set(datasets)):
        raise ConfigError(f"--to has no domain {', '.join(lacking)}; it has {', '.join(datasets)}: give NAME=URL")
    places = output.places(artefacts, alone=is_alone(source, artefacts))
    old_keys = open_scores(keys) if keys is not None else {}
    moves = []
    for name, each in artefacts.items():
        own = each if isinstance(each, Scores) and KEY in each.columns else None
        found = partner(source, name, old_keys, str(keys)) if keys is not None else own
        rows = reading.open(datasets[name].url, name=datasets[name].name)
        moves.append(_Move.find(each, datasets[name], rows, found, console))
    for move in moves:
        move.require(drop_missing=drop_missing, min_found=min_found)
    documents = []
    for move in moves:
        place = places[move.artefact.domain]
        path = None if output.dry_run else move.write(place, overwrite=output.overwrite)
        documents.append({**move.describe(), "path": path})
    rows = [[d["domain"], d["rows"], d["found"], d["missing"], d["new_rows"], d["path"] or "-"] for d in documents]
    document = {"status": output.status, "domains": documents}
    columns = ["domain", "rows to move", "found", "missing", "rows of the new dataset", "written"]
    console.result(document, table(columns, rows))
    return 0


@dataclass(frozen=True, kw_only=True)
class _Move:
    """Where the rows of one artefact are in the new dataset."""

    artefact: Scores | Selection
    dataset: NamedDataset
    rows: DomainRows
    new_of_N: Int64
    by_key: bool
    wanted: int
    missing: int
    examples: Sequence[str]

    @classmethod
    def find(
        cls,
        artefact: Scores | Selection,
        dataset: NamedDataset,
        rows: DomainRows,
        keys: Scores | None,
        console: Console,
    ) -> _Move:
        if keys is None:
            match = artefact.table.match(dataset.index.shards)
            new_of_N = match_shards(artefact.table, rows.table, match.of_S)
        else:
            new_of_N = _by_keys(artefact, keys, rows, console)
        wanted_N = artefact.scored if isinstance(artefact, Scores) else kept_mask(artefact)
        lost = np.flatnonzero(wanted_N & (new_of_N < 0))
        shard_B, row_B = artefact.table.home(lost[:4])
        examples = [f"{artefact.table.shards[s].name} row {r}" for s, r in zip(shard_B.tolist(), row_B.tolist())]
        return cls(
            artefact=artefact,
            dataset=dataset,
            rows=rows,
            new_of_N=new_of_N,
            by_key=keys is not None,
            wanted=int(np.count_nonzero(wanted_N)),
            missing=len(lost),
            examples=examples,
        )

    def require(self, *, drop_missing: bool, min_found: float) -> None:
        """Refuse a move that loses rows, or more of them than is plausible.

        Raises:
            SelectionError: it does.
        """
        few = self.wanted - self.missing < min_found * self.wanted
        if not self.missing or (drop_missing and not few):
            return
        fact = (
            f"{self.missing:,} of {self.wanted:,} rows of {self.artefact.path} are not in {redact(self.dataset.url)}, "
            f"such as {', '.join(self.examples)}; nothing was written; "
        )
        if not self.by_key:
            fact += "give --keys, to find rows and not whole shards; "
        if not few:
            raise SelectionError(f"{fact}--drop-missing goes on without them")
        raise SelectionError(
            f"{fact}with so few found, these are other texts, or packed rows after an edit, which changes every row "
            "behind it: make scores and selection anew over these shards; --drop-missing --min-found 0 goes on with "
            "the rest"
        )

    def describe(self) -> dict[str, Any]:
        return {
            "domain": self.artefact.domain,
            "rows": self.wanted,
            "found": self.wanted - self.missing,
            "missing": self.missing,
            "missing_examples": list(self.examples),
            "new_rows": self.rows.table.rows,
            "by": "key" if self.by_key else "shard",
        }

    def write(self, place: Path, *, overwrite: bool) -> str:
        """Write the artefact over the new shards; returns its path."""
        old = self.artefact
        table_of = self.rows.table.with_fingerprints(self.rows.fingerprints)
        inputs = {"rebased": old.id, "to": self.rows.table.digest, "by": "key" if self.by_key else "shard"}
        facts = {**lineage(old), "dataset": self.dataset.url, "made_before": dict(old.made)}
        facts.pop("scores", None)  # they describe the old shards
        made = provenance(inputs, **facts)
        if isinstance(old, Selection):
            bucket_M = moved_buckets(old, self.new_of_N, self.rows.table.rows)
            return write_buckets(
                place,
                domain=old.domain,
                table=table_of,
                bucket=bucket_M,
                names=old.buckets,
                rule={"kind": "rebased", "rule": dict(old.rule)},
                parents={"rebased": old.id},
                made=made,
                overwrite=overwrite,
            ).path
        old_of_M = np.full(self.rows.table.rows, -1, dtype=np.int64)
        found = np.flatnonzero(self.new_of_N >= 0)
        old_of_M[self.new_of_N[found]] = found
        with ScoresWriter(
            place,
            domain=old.domain,
            table=table_of,
            columns=list(old.columns.values()),
            made=made,
            overwrite=overwrite,
        ) as writer:
            for begin in range(0, len(old_of_M), _BLOCK):
                of_B = old_of_M[begin : begin + _BLOCK]
                from_B = np.maximum(of_B, 0)
                flags = np.where(of_B >= 0, old.flags[from_B], FAILED)
                writer.write(begin, {name: old.column(name)[from_B] for name in old.columns}, flags=flags)
        return str(place)


def _by_keys(artefact: Scores | Selection, keys: Scores, rows: DomainRows, console: Console) -> Int64:
    if KEY not in keys.columns:
        raise ConfigError(
            f"{keys.path} has no column {KEY!r}: write keys of the old shards with `mixstream select key`"
        )
    same_shards(keys.path, keys.table, artefact.path, artefact.table)
    of = keys.made["inputs"].get("of") if isinstance(keys.made.get("inputs"), dict) else None
    with console.progress("read keys", total=rows.table.rows, unit="rows") as advance:
        blocks = read_keys(rows, column=of, text_hash=of is not None, advance=advance)
        new = index_keys(blocks, rows.table.rows)
    new_of_N = match_keys(np.asarray(keys.column(KEY)), new.key_B)
    new_of_N[~keys.scored] = -1
    return new_of_N
