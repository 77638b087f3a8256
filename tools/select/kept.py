"""What a command that writes selections reports: rows and tokens that are kept, by domain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from mixstream.selection import Selection, ShardTable, provenance, write_selection

from ..shared.console import Console, table
from ..shared.outputs import Output

Rows = NDArray[np.int64] | NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The rows that are kept of one domain, before they are written.

    Attributes:
        domain: its name.
        table: its shards.
        rows: kept ordinals, int64 [n], or a mask, bool [N].
        rule: what decided.
        parents: name -> id of what was read.
        facts: more for `made`.
        tokens_N: tokens of each row; None if they are not known.
    """

    domain: str
    table: ShardTable
    rows: Rows
    rule: Mapping[str, Any]
    parents: Mapping[str, str]
    facts: Mapping[str, Any]
    tokens_N: NDArray[Any] | None = None

    @property
    def count(self) -> int:
        """Number of kept rows."""
        return int(np.count_nonzero(self.rows)) if self.rows.dtype == np.bool_ else len(self.rows)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Which rows are kept, bool [N]."""
        if self.rows.dtype == np.bool_:
            return self.rows  # type: ignore[return-value]
        made = np.zeros(self.table.rows, dtype=np.bool_)
        made[self.rows] = True
        return made

    def write(self, place: Path, *, overwrite: bool) -> Selection:
        """Write the selection."""
        made = provenance({"rule": self.rule, "parents": self.parents, "table": self.table.digest}, **self.facts)
        return write_selection(
            place,
            domain=self.domain,
            table=self.table,
            kept=self.rows,
            rule=self.rule,
            parents=self.parents,
            made=made,
            tokens=self.tokens_N,
            overwrite=overwrite,
        )

    def describe(self) -> dict[str, Any]:
        """Return it as JSON values."""
        tokens = self.tokens_N
        return {
            "domain": self.domain,
            "rows": self.table.rows,
            "kept_rows": self.count,
            "tokens": None if tokens is None else int(tokens.sum(dtype=np.int64)),
            "kept_tokens": None if tokens is None else int(tokens[self.rows].sum(dtype=np.int64)),
            "rule": dict(self.rule),
            "path": None,
            "id": None,
        }


def finish(
    kept: Sequence[Kept],
    places: Mapping[str, Path],
    *,
    output: Output,
    console: Console,
    controls: Sequence[tuple[Sequence[Kept], Mapping[str, Path]]] = (),
) -> int:
    """Write the selections and their controls, unless it is a dry run, and report them; returns the exit status."""
    documents = [
        [_written(each, places, output=output) for each in kept] for kept, places in [(kept, places), *controls]
    ]
    report(documents[0], output=output, console=console, controls=[each for some in documents[1:] for each in some])
    return 0


def _written(kept: Kept, places: Mapping[str, Path], *, output: Output) -> dict[str, Any]:
    document = kept.describe()
    if not output.dry_run:
        selection = kept.write(places[kept.domain], overwrite=output.overwrite)
        document |= {"path": selection.path, "id": selection.id}
    return document


def report(
    documents: Sequence[Mapping[str, Any]],
    *,
    output: Output,
    console: Console,
    controls: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Print what was kept, of documents as `Kept.describe` makes them; controls follow in the table."""
    document: dict[str, Any] = {"status": output.status, "domains": list(documents)}
    if controls:
        document["controls"] = list(controls)
    console.result(document, *_show(documents, controls, dry_run=output.dry_run))


def describe_selection(selection: Selection) -> dict[str, Any]:
    """Return a written selection as `Kept.describe` does."""
    tokens = selection.tokens
    return {
        "domain": selection.domain,
        "rows": selection.table.rows,
        "kept_rows": selection.kept,
        "tokens": None if tokens is None else tokens.before,
        "kept_tokens": None if tokens is None else tokens.after,
        "rule": dict(selection.rule),
        "path": selection.path,
        "id": selection.id,
    }


def share(part: int, whole: int) -> str:
    """Return a share in percent, such as `30.0 %`."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _show(
    documents: Sequence[Mapping[str, Any]], controls: Sequence[Mapping[str, Any]], *, dry_run: bool
) -> Iterator[Table | str]:
    with_tokens = any(each["tokens"] is not None for each in documents)
    columns = ["domain", "rows", "kept", "share", *(["tokens", "kept tokens"] if with_tokens else []), "selection"]
    rows = []
    for each in [*documents, *controls]:
        unwritten = f"not written ({control})" if (control := each["rule"].get("control")) else "not written"
        rows.append([*_cells(each, with_tokens), unwritten if dry_run else str(each["path"])])
    yield table(columns, rows)
    if len(documents) > 1:
        rows, kept = (sum(each[key] for each in documents) for key in ("rows", "kept_rows"))
        yield f"all: {kept:,} of {rows:,} rows, {share(kept, rows)}"


def _cells(each: Mapping[str, Any], with_tokens: bool) -> list[object]:
    cells: list[object] = [each["domain"], each["rows"], each["kept_rows"], share(each["kept_rows"], each["rows"])]
    if with_tokens:
        cells += ["-" if each[key] is None else each[key] for key in ("tokens", "kept_tokens")]
    return cells
