"""`mixstream select import`: scores that others made become scores of a dataset, or a selection of it at once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.table import Table

from mixstream.errors import ConfigError, SelectionError
from mixstream.selection import ColumnKey, Condition, ContentKey, OrdinalKey, RowKey, ShardRowKey

from ..shared.console import Console, table
from ..shared.domains import NamedDataset
from ..shared.options import Flag, Json, Many, Reading
from ..shared.outputs import DryRun, MaybePlace, Output
from ..shared.safe_text import printable
from .documents import DocumentKey, Folding, read_known, refuse_other
from .gathered import Spans
from .imported import Duplicates, Writing, digest_of, join
from .tables import DOMAIN, ORDINAL, PLACE, Format, find_tables
from .tables import Table as TableFile


def import_scores(
    *tables: Annotated[str, Parameter(name="TABLE")],
    dataset: Many,
    key: str,
    columns: Many = (),
    out: MaybePlace = None,
    where: str | None = None,
    selection: MaybePlace = None,
    keep_listed: Flag = False,
    drop_listed: Flag = False,
    duplicates: Duplicates = "error",
    side: Annotated[Literal["high", "low"] | None, Parameter(show_default=False)] = None,
    spans: Spans = "mean",
    documents: Folding = "mean",
    format: Annotated[Format | None, Parameter(show_default=False)] = None,  # noqa: A002
    reading: Reading = Reading(),  # noqa: B008  # frozen
    overwrite: Flag = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Import scores, labels or lists of ids that other programs made.

    mixstream select import edu/*.parquet --dataset s3://corpus/web --key id \\
        --columns int_score,language --out scores/edu
    mixstream select import edu.jsonl.zst --dataset shards/web --key id \\
        --where "int_score >= 3" --selection sel/edu3
    mixstream select import to_remove.parquet --dataset shards/web --key id \\
        --drop-listed --selection sel/deduplicated
    mixstream select import metrics.pt --format dsdm-pt --dataset shards/c4 \\
        --key ordinal --side high --out scores/dsdm

    TABLE is parquet or JSONL (.gz, .zst), or a directory of such files:
    FineWeb-Edu's columns, NeMo Curator's lists of ids, dolma's attributes
    (--columns attributes.NAME), datatrove's metadata (--columns metadata.NAME),
    DsDm's tensors. Files are read in blocks, whatever their size.

    KEY says which row a line is about:
      COLUMN          the sample column of this name, such as a document's id
      COLUMN=SAMPLES  the table's COLUMN has the values of the sample column
      ordinal         stored rows, counted from 0 (COLUMN is `ordinal`)
      shard,row       columns with the shard's number or file, and the row
      content         column `key` with xxh3_64 of a sample's stored bytes
      content:text    column `key` with xxh3_64 of the sample column `text`
      document        column `id` with the id of a document, as convert kept it
      document:COLUMN the same in another column
      document:FILE,RECORD  columns with its source file and its record there
    If the table of an ordinal, or of a shard and a row, has a column `domain`
    (as `select export` writes it), a line is about a row of that domain only.

    COLUMNS are paths of fields, or NAME=PATH; default: all numbers, and what
    --where names. Texts (a language) become categories, for --where "language
    == 'en'". A row that no line is about, or whose line has no number, has no
    score.

    DOCUMENTS. A dataset of --rows documents has a row for each. A packed row has
    the mean of its documents' scores, weighted by their tokens in it, or what
    --documents says; documents without a line do not count. It is listed if at
    least half of its tokens are of listed documents (mean), any (max), or all.
    Of texts it has the one that most of its tokens have.

    A line that is about no row is counted and reported. Two lines about one
    row are refused, unless --duplicates says which one counts. A key that
    several rows have meets all of them.

    Memory: 25 bytes for each row of the dataset, and 1 byte for each column;
    the values lie in unnamed files below the temp directory. With documents as
    the key, 40 bytes for each document and 28 for each place where one lies.

    Exit status: 0, 1 if a file is damaged or no line meets a row, 2 wrong use.

    Args:
        tables: files, or directories of files.
        dataset: the dataset, or a directory above several, or NAME=URL.
        key: how lines name rows.
        columns: what to import.
        out: directory of the new scores.
        where: keep the rows for which this holds, as in `select where`; needs --selection.
        selection: directory of a new selection.
        keep_listed: select the rows that the table lists.
        drop_listed: select the rows that the table does not list.
        duplicates: of two lines about one row: error, or the first or the last counts.
        side: which end of the numbers is good, to be written down.
        spans: one number of dolma's spans: their mean by length, max, min or sum.
        documents: one number of a packed row's documents: their mean by tokens, max or min.
        format: of the files, where their names do not say it.
        overwrite: replace what is in --out and --selection.
        dry_run: read and report everything, write nothing.
        as_json: print one JSON document, not tables.
    """
    _check_options(out, selection, where, keep=keep_listed, drop=drop_listed, columns=columns)
    condition = Condition.parse(where) if where is not None else None
    console, files = Console(as_json=as_json), find_tables(tables, format)
    row_key = DocumentKey.parse(key) or with_domain(parse_key(key), files)
    datasets = reading.find(dataset)
    places = {
        "scores": _places(out, datasets, overwrite=overwrite),
        "selection": _places(selection, datasets, overwrite=overwrite),
    }
    domains = [reading.open(each.url, name=each.name) for each in datasets]
    fields = {} if keep_listed or drop_listed else _fields(columns, files[0], row_key, condition)
    known = read_known(row_key, datasets, domains, reading.retry) if isinstance(row_key, DocumentKey) else None
    joined = join(
        files, fields, row_key, domains, console, duplicates=duplicates, spans=spans, known=known, folding=documents
    )
    if joined.meetings.lines and not joined.meetings.met_N.any():
        by_domain = DOMAIN in row_key.columns
        raise SelectionError(
            f"none of {joined.meetings.lines:,} lines is about a row of {', '.join(each.name for each in datasets)}: "
            f"the first keys are {joined.meetings.examples}; nothing was written; check --key {key}"
            + (f", and name the dataset as the table's {DOMAIN!r} does: --dataset NAME=URL" if by_domain else "")
        )
    inputs = {
        "tables": [{"file": each.path.name, "xxh3_128": digest_of(each)} for each in files],
        "key": key,
        "columns": fields,
        "duplicates": duplicates,
        "spans": spans,
        **({} if known is None else {"documents": documents}),
    }
    writing = Writing(
        joined=joined,
        datasets=datasets,
        inputs=inputs,
        side=side,
        condition=condition,
        listed=keep_listed or drop_listed,
        drop=drop_listed,
    )
    written = writing.run(places, dry_run=dry_run, overwrite=overwrite)
    report = joined.report(key)
    for note in _notes(report, listed=writing.listed):
        console.note(f"note: {printable(note)}")
    document = {"status": "dry run" if dry_run else "ok", **report, "domains": written}
    console.result(document, _show(written))
    return 0


def parse_key(text: str) -> RowKey:
    """Return the key of `--key`. See `import_scores`.

    Raises:
        ConfigError: it is malformed.
    """
    refuse_other(text)
    if text == ORDINAL:
        return OrdinalKey()
    if text == "shard,row":
        return ShardRowKey()
    if found := re.fullmatch(r"content(?::([^=,:]+))?", text):
        return ContentKey(of=found[1])
    column, _, of = text.partition("=")
    if not column or "," in text or (not of and "=" in text):
        raise ConfigError(
            f"--key {text}: give COLUMN, COLUMN=SAMPLES, ordinal, shard,row, content, content:COLUMN or document"
        )
    return ColumnKey(column=column, of=of or column)


def with_domain(key: RowKey, files: Sequence[TableFile]) -> RowKey:
    """Return a key that also compares the domain, if a table says it: shards of several domains have equal names."""
    if isinstance(key, OrdinalKey | ShardRowKey) and any(DOMAIN in each.fields() for each in files):
        return replace(key, domain=DOMAIN)
    return key


def _show(documents: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for each in documents:
        kept = "-" if each["kept_rows"] is None else each["kept_rows"]
        rows.append([each["domain"], each["rows"], each["scored"], kept, ", ".join(each["columns"]) or "-"])
    return table(["domain", "rows", "with a score", "kept", "columns"], rows)


def _fields(
    columns: Sequence[str], first: TableFile, key: RowKey | DocumentKey, condition: Condition | None
) -> dict[str, str]:
    """Return name of a column -> path of the field; what a condition names is imported too."""
    given = [part for text in columns for part in text.split(",") if part]
    known = first.fields() if condition is not None or not given else {}
    if not given:
        places = {*key.columns, *(PLACE if isinstance(key, OrdinalKey | ShardRowKey) else ())}
        given = [name for name, kind in known.items() if kind in {"number", "spans"} and name not in places]
        if not given:
            raise ConfigError(f"{first.path} has no numbers to import; name --columns of {', '.join(known) or 'none'}")
    found: dict[str, str] = {}
    for text in given:
        name, _, path = text.rpartition("=")
        name = name or re.sub(r"[^A-Za-z0-9_]", "_", path.rpartition(".")[2])
        if name in found:
            raise ConfigError(f"{found[name]} and {path} would both be called {name!r}; rename one: NAME={path}")
        found[name] = path
    if condition is not None:
        found |= {name: name for name in sorted(condition.columns - found.keys() - {ORDINAL}) if name in known}
        condition.require([*found, ORDINAL], where=f"the columns of {first.path} that are imported (--columns)")
    return found


def _check_options(
    out: str | None, selection: str | None, where: str | None, *, keep: bool, drop: bool, columns: Sequence[str]
) -> None:
    if keep and drop:
        raise ConfigError("--keep-listed and --drop-listed exclude each other: give one")
    if (keep or drop) and (where is not None or columns or out is not None):
        raise ConfigError("a list of ids has no columns: leave out --columns, --where and --out, or the list option")
    if (where is not None or keep or drop) != (selection is not None):
        raise ConfigError("--where, --keep-listed and --drop-listed choose the rows of --selection: give both")
    if out is None and selection is None:
        raise ConfigError("nothing would be written: give --out for scores, or --where and --selection")


def _places(path: str | None, datasets: Sequence[NamedDataset], *, overwrite: bool) -> dict[str, Path]:
    if path is None:
        return {}
    names = [each.name for each in datasets]
    return Output(out=path, overwrite=overwrite).places(names, alone=len(names) == 1)


def _notes(report: Mapping[str, Any], *, listed: bool) -> list[str]:
    notes = []
    if report["unmatched_lines"]:
        shown = ", ".join(map(repr, report["unmatched_examples"]))
        counts = f"{report['unmatched_lines']:,} of {report['lines']:,}"
        what = "document" if "documents_without_a_line" in report else "row"
        notes.append(f"{counts} lines are about no {what} of the dataset, such as {shown}")
    if report["rows_without_a_line"] and not listed:  # a list leaves out rows on purpose
        notes.append(f"{report['rows_without_a_line']:,} rows have no line in the table")
    if report.get("documents_without_a_line") and not listed:
        notes.append(f"{report['documents_without_a_line']:,} documents have no line in the table")
    if report["repeated"]:
        notes.append(f"{report['repeated']:,} lines are about a row that another line is about too")
    notes += [f"column {name}: {count:,} values are null" for name, count in report["nulls"].items()]
    return notes
