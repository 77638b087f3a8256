"""A table joined with the rows of domains, and what is written of it: scores, or a selection.

Rule: nothing is written before the whole table was read without an error.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash
from numpy.typing import NDArray

from mixstream.errors import SelectionError
from mixstream.selection import (
    FAILED,
    SCORED,
    Condition,
    DomainRows,
    Locator,
    Meetings,
    RowKey,
    Scores,
    ScoresWriter,
    begins_of,
    provenance,
)

from ..shared.console import Console
from ..shared.domains import NamedDataset
from .documents import DocumentKey, Folded, Folding, Known, rows_met
from .gathered import Gathered, Spans
from .kept import Kept
from .tables import Table
from .where import kept_where, names_in

Duplicates = Literal["error", "first", "last"]
_BLOCK = 1 << 18  # rows


@dataclass(frozen=True, kw_only=True)
class Joined:
    """What the table said, row by row.

    Attributes:
        domains: the rows.
        columns: by name.
        meetings: which rows, or documents, the lines are about.
        met_N: bool [N], which rows the table is about.
    """

    domains: Sequence[DomainRows]
    columns: Mapping[str, Gathered | Folded]
    meetings: Meetings
    met_N: NDArray[np.bool_]

    def report(self, key: str) -> dict[str, Any]:
        """Return the counts as JSON values."""
        met = self.meetings
        documents = {} if met.met_N is self.met_N else {"documents_without_a_line": _count(~met.met_N)}
        return {
            "key": key,
            "lines": met.lines,
            "unmatched_lines": met.unmatched,
            "unmatched_examples": met.examples,
            "repeated": met.repeated,
            "rows_without_a_line": _count(~self.met_N),
            **documents,
            "nulls": {name: column.nulls for name, column in self.columns.items() if column.nulls},
        }


def join(
    files: Sequence[Table],
    fields: Mapping[str, str],
    key: RowKey | DocumentKey,
    domains: Sequence[DomainRows],
    console: Console,
    *,
    duplicates: Duplicates,
    spans: Spans,
    known: Known | None = None,
    folding: Folding = "mean",
) -> Joined:
    """Read the keys of the domains, then all files, and return what they say of each row.

    Args:
        files: the table.
        fields: name of a column -> path of its field.
        key: how lines name rows, or documents.
        domains: the rows.
        console: shows the progress.
        duplicates: which of two lines about one row counts.
        spans: how dolma's spans become one number.
        known: the documents that lines name; None if they name rows.
        folding: what becomes of the documents of a row.

    Raises:
        SelectionError: a file is damaged, a value does not fit, or a row has two lines.
    """
    rows = int(begins_of(domains)[-1])
    if isinstance(key, DocumentKey):
        assert known is not None
        locator, named = known, known.documents
    else:
        with console.progress("read keys", total=rows, unit="rows") as advance:
            locator, named = key.locator(domains, advance=advance), rows
    meetings = Meetings(named, duplicates=duplicates)
    columns = {name: Gathered(name, rows=named, spans=spans) for name in fields}
    _read_lines(files, fields, key, locator, console, meetings=meetings, columns=columns)
    if known is None:
        return Joined(domains=domains, columns=columns, meetings=meetings, met_N=meetings.met_N)
    met_N = rows_met(known, meetings.met_N, "max" if fields else folding)
    folded = {name: Folded(documents=column, known=known, how=folding) for name, column in columns.items()}
    return Joined(domains=domains, columns=folded, meetings=meetings, met_N=met_N)


def _read_lines(
    files: Sequence[Table],
    fields: Mapping[str, str],
    key: RowKey | DocumentKey,
    locator: Locator,
    console: Console,
    *,
    meetings: Meetings,
    columns: Mapping[str, Gathered],
) -> None:
    needed = list(dict.fromkeys([*key.columns, *fields.values()]))
    with console.progress("import", total=sum(each.size for each in files)) as advance:
        for file in files:
            before = meetings.lines
            for lines, size in file.blocks(needed):
                _require_keys(lines, key, file, meetings.lines - before)
                line_M, row_M = locator.locate(lines)
                count = len(lines[needed[0]])
                line_M, row_M = meetings.add(lines, count, line_M, row_M, key.columns)
                for name, field in fields.items():
                    columns[name].put(lines[field], line_M, row_M)
                advance(size)


@dataclass(frozen=True, kw_only=True)
class Writing:
    """Writes the scores and the selection of each domain.

    Args:
        joined: what the table said.
        datasets: the domains, in the order of `joined.domains`.
        inputs: of the table, for `made`.
        side: which end of numbers is good; None if it is not known.
        condition: of the selection; None for none.
        listed: the selection is of the rows that the table lists, or with `drop` of those that it does not.
        drop: see `listed`.
    """

    joined: Joined
    datasets: Sequence[NamedDataset]
    inputs: Mapping[str, Any]
    side: str | None
    condition: Condition | None
    listed: bool
    drop: bool

    def run(self, places: Mapping[str, Mapping[str, Path]], *, dry_run: bool, overwrite: bool) -> list[dict[str, Any]]:
        """Write to `places` ("scores" and "selection": domain -> directory); returns a report of each domain."""
        begins = begins_of(self.joined.domains).tolist()
        documents = []
        for dataset, rows, begin, end in zip(self.datasets, self.joined.domains, begins[:-1], begins[1:]):
            met = _count(self.joined.met_N[begin:end])
            document = {"domain": dataset.name, "rows": end - begin, "scored": met, "columns": [*self.joined.columns]}
            document |= {"kept_rows": None, "scores": None, "selection": None}
            with tempfile.TemporaryDirectory(prefix="mixstream-import-") as scratch:
                kept: Kept | None = None
                if self.listed:
                    kept = self._of_list(dataset, rows, begin, end)
                else:
                    lasting = None if dry_run else places["scores"].get(dataset.name)
                    scores = self._scores(lasting or Path(scratch), dataset, rows, begin, overwrite=overwrite)
                    document["scored"] = int(np.count_nonzero(scores.scored))
                    document["scores"] = scores.path if lasting else None
                    kept = self._of_condition(scores, lasting=lasting is not None)
                if kept is not None:
                    document["kept_rows"] = kept.count
                if kept is not None and not dry_run:
                    place = places["selection"][dataset.name]
                    document["selection"] = kept.write(place, overwrite=overwrite).path
            documents.append(document)
        return documents

    def _scores(self, place: Path, dataset: NamedDataset, rows: DomainRows, begin: int, *, overwrite: bool) -> Scores:
        higher = None if self.side is None else self.side == "high"
        columns = [column.column(higher) for column in self.joined.columns.values()]
        texts = {name: column.categories for name, column in self.joined.columns.items()}
        categories = {name: found for name, found in texts.items() if found is not None}
        facts = {"dataset": dataset.url, **({"categories": categories} if categories else {})}
        made = provenance({**self.inputs, "table": rows.table.digest}, **facts)
        with ScoresWriter(
            place, domain=dataset.name, table=rows.table, columns=columns, made=made, overwrite=overwrite
        ) as writer:
            for shard, found in rows.fingerprints.items():
                writer.fingerprint(shard, found)
            for at in range(0, rows.table.rows, _BLOCK):
                first, last = begin + at, begin + min(at + _BLOCK, rows.table.rows)
                missing = ~self.joined.met_N[first:last]
                for column in self.joined.columns.values():
                    missing |= column.missing(first, last)
                values = {name: column.values(first, last) for name, column in self.joined.columns.items()}
                writer.write(at, values, flags=np.where(missing, FAILED, SCORED))
        return Scores.open(place)

    def _of_condition(self, scores: Scores, *, lasting: bool) -> Kept | None:
        if self.condition is None:
            return None
        self.condition.require(names_in(scores), where="the imported columns")
        kept = kept_where(scores, self.condition)
        if lasting:
            return kept
        facts = {name: value for name, value in kept.facts.items() if name != "scores"}  # their directory is removed
        return replace(kept, rows=kept.mask, facts={**facts, "imported": dict(self.inputs)})

    def _of_list(self, dataset: NamedDataset, rows: DomainRows, begin: int, end: int) -> Kept:
        met_N = self.joined.met_N[begin:end]
        return Kept(
            domain=dataset.name,
            table=rows.table.with_fingerprints(rows.fingerprints),
            rows=~met_N if self.drop else met_N,
            rule={"kind": "drop listed" if self.drop else "keep listed", "inputs": dict(self.inputs)},
            parents={},
            facts={"dataset": dataset.url},
        )


def digest_of(file: Table) -> str:
    """Return xxh3_128 of a file, in hexadecimal."""
    digest = xxhash.xxh3_128()
    with file.path.open("rb") as source:
        while data := source.read(1 << 22):
            digest.update(data)
    return digest.hexdigest()


def _count(mask: NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(mask))


def _require_keys(lines: Mapping[str, Any], key: RowKey | DocumentKey, file: Table, before: int) -> None:
    """Refuse a line without a key."""
    for column in key.columns:
        values = lines[column]
        if not isinstance(values, np.ndarray) and None in values:
            line = before + values.index(None) + 1
            raise SelectionError(
                f"{file.path}: line {line:,} has no {column!r}, so its row is not known; correct the table"
            )
