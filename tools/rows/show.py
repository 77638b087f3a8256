"""The result of `mixstream rows` as tables; the JSON document has the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from ..shared.console import table

_DOCUMENTS = 3  # ids that are shown of a row


def show_step(document: Mapping[str, Any]) -> list[Table | str]:
    """Return the parts for people of the rows of a step."""
    rows = document["rows"]
    of = (
        f"{len(rows)} of {document['global_batch_size']}"
        if len(rows) < document["global_batch_size"]
        else str(len(rows))
    )
    parts: list[Table | str] = [f"step {document['step']:,} of {document['where']}: {of} rows"]
    if document["skipped"]:
        parts.append("the run leaves this step out (skip): its rows count as drawn, and are not trained on")
    if document["repeats"]:
        parts.append(f"{document['repeats']} rows only fill up the last batch of the epoch")
    return [*parts, "", _rows(rows, first={"row": "row", "domain": "domain", "epoch": "epoch", "draw": "draw"})]


def show_sample(document: Mapping[str, Any]) -> list[Table | str]:
    """Return the parts for people of a sample, and of the steps that it was in."""
    sample = document["sample"]
    parts: list[Table | str] = [_rows([sample], first={"domain": "domain"})]
    if document["steps"] is None:
        return parts
    first, end = document["looked"]
    among = f"of the steps {first:,} to {end - 1:,} of {document['where']}"
    if not document["steps"]:
        return [*parts, "", f"none {among} has it"]
    columns = ["step", "row", "domain", "epoch", "draw", "note"]
    cells = [[each[name] for name in columns[:-1]] + [_note(each)] for each in document["steps"]]
    return [*parts, "", f"{len(cells)} {among} have it:", table(columns, cells)]


def _rows(rows: Sequence[Mapping[str, Any]], *, first: Mapping[str, str]) -> Table:
    columns = {title: [row[key] for row in rows] for title, key in first.items()}
    for title, key in {"sample": "sample", "shard": "shard", "row in shard": "row_in_shard"}.items():
        columns[title] = [row[key] for row in rows]
    if any("documents" in row for row in rows):
        columns["documents"] = [_ids(row.get("documents", ())) for row in rows]
    if any(_note(row) for row in rows):
        columns["note"] = [_note(row) for row in rows]
    if any("text" in row for row in rows):
        columns["text"] = [row["trouble"] if row.get("trouble") else row.get("text") or "" for row in rows]
    return table([*columns], list(zip(*columns.values())))


def _ids(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _DOCUMENTS} more" if len(ids) > _DOCUMENTS else ""
    return " ".join(map(str, ids[:_DOCUMENTS])) + more


def _note(row: Mapping[str, Any]) -> str:
    notes = {"stand_in": "in the place of a sample that cannot be read", "skipped": "left out"}
    return ", ".join(words for key, words in notes.items() if row.get(key))
