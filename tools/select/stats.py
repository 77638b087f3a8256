"""`mixstream select stats`: what a selection keeps, and what reading it costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter
from rich.table import Table

from mixstream.formats import ShardEntry
from mixstream.selection import Scores, Selection, ShardTable, kept_mask, same_shards

from ..shared.artefacts import open_either, open_scores, partner
from ..shared.console import Console, show_bytes, table
from ..shared.numbers import Count
from ..shared.options import Json, Reading, Text, TokenReading
from ..shared.shards import stored
from .kept import share
from .texts import datasets_by_name
from .where import categories_of

_QUANTILES = (0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
_TEXTS = 20  # of a column, that are shown
_LITTLE = 0.2
"""A shard of which a smaller share is kept counts as one of which little is kept."""


def stats(
    source: Annotated[str, Parameter(name="SEL|SCORES")],
    /,
    *,
    dataset: Text = None,
    local: Text = None,
    scores: Text = None,
    shards: Count = 10,
    split: str = "train",
    tokens: TokenReading = TokenReading(),  # noqa: B008  # frozen
    as_json: Json = False,
) -> int:
    """Show what is kept, of which shards, and what has to be downloaded.

    mixstream select stats sel/top20
    mixstream select stats sel/top20 --dataset s3://corpus/web --local /cache/web
    mixstream select stats sel/top20 --scores scores/dsdm
    mixstream select stats scores/dsdm

    A stream downloads whole shards, and only those of which a row is kept. If
    little is kept of many shards, most of what it downloads is wasted: the
    table shows how much. With --dataset, sizes are those of the stored files,
    compressed if they are; else those of the raw shards. With --local, shards
    that are in the cache directory already are not counted again.

    Quantiles of all columns are shown of scores, and with --scores of what is
    kept and of all rows; of a column of texts (a language), how many rows have
    each.

    Exit status: 0, 1 if an artefact is damaged, 2 wrong use.

    Args:
        source: a selection or scores, or a directory with one for each domain.
        dataset: the dataset that the selection was made over.
        local: cache directory of a stream (of one domain).
        scores: scores of the same rows.
        shards: how many shards to show, those of which the smallest share is kept.
        split: which of the splits of a domain, where it has several.
        as_json: print one JSON document, not tables.
    """
    console, artefacts = Console(as_json=as_json), open_either(source)
    others = open_scores(scores) if scores is not None else {}
    reading = Reading(split=split, seq_len=tokens.seq_len, overlap=tokens.overlap, dtype=tokens.dtype)
    datasets = datasets_by_name(dataset, list(artefacts), reading=reading) if dataset is not None else {}
    documents = []
    for name, each in artefacts.items():
        document: dict[str, Any] = {"domain": name, "path": each.path, "id": each.id, "rows": each.table.rows}
        if isinstance(each, Selection):
            entries = datasets[name].index.shards if datasets else None
            if entries is not None:
                same_shards(each.path, each.table, str(dataset), ShardTable.of(entries))
            document |= _of_selection(each, entries, Path(local) if local is not None else None)
            if others:
                document |= _values(partner(source, name, others, str(scores)), each)
        else:
            document |= {"scored": int(np.count_nonzero(each.scored)), **_values(each, None)}
        documents.append(document)
    console.result({"status": "ok", "domains": documents}, *_show(documents, shards=shards))
    return 0


def _of_selection(selection: Selection, entries: Sequence[ShardEntry] | None, local: Path | None) -> dict[str, Any]:
    """Return counts of a selection, as JSON values."""
    kept_S = selection.counts_SK.sum(axis=1, dtype=np.int64)
    samples_S = np.diff(selection.table.start_S)
    raw_S = np.array([shard.raw_bytes for shard in selection.table.shards], dtype=np.int64)
    size_S = raw_S if entries is None else np.array([stored(entry).bytes for entry in entries], dtype=np.int64)
    share_S = kept_S / np.maximum(samples_S, 1)
    needed_S = kept_S > 0
    there_S = np.array([local is not None and (local / each.name).is_file() for each in selection.table.shards], bool)
    little_S = needed_S & (share_S < _LITTLE)
    tokens = selection.tokens
    return {
        "kept_rows": selection.kept,
        "buckets": dict(zip(selection.buckets, selection.kept_K.tolist())) if len(selection.buckets) > 1 else None,
        "tokens": None if tokens is None else tokens.before,
        "kept_tokens": None if tokens is None else tokens.after,
        "rule": dict(selection.rule),
        "shards": len(kept_S),
        "shards_needed": int(np.count_nonzero(needed_S)),
        "bytes": int(size_S.sum()),
        "bytes_needed": int(size_S[needed_S].sum()),
        "bytes_to_download": int(size_S[needed_S & ~there_S].sum()),
        "bytes_kept_about": int((size_S * share_S).sum()),
        "bytes_wasted_about": int((size_S * (1 - share_S))[needed_S].sum()),
        "shards_of_which_little_is_kept": int(np.count_nonzero(little_S)),
        "bytes_wasted_there_about": int((size_S * (1 - share_S))[little_S].sum()),
        "per_shard": [
            {"shard": shard.name, "rows": rows, "kept": kept, "bytes": size}
            for shard, rows, kept, size in zip(
                selection.table.shards, samples_S.tolist(), kept_S.tolist(), size_S.tolist()
            )
        ],
    }


def _values(scores: Scores, selection: Selection | None) -> dict[str, Any]:
    """Return the quantiles of columns of numbers, and how often each text occurs, over scored rows and kept ones."""
    rows_N = scores.scored
    masks = {"all": rows_N}
    if selection is not None:
        same_shards(selection.path, selection.table, scores.path, scores.table)
        masks["kept"] = rows_N & kept_mask(selection)
    texts = categories_of(scores)
    columns, categories = [], {}
    for name, column in scores.columns.items():
        if column.shape or column.dtype == "<u8":
            continue
        some = {rows: scores.column(name)[mask_N] for rows, mask_N in masks.items()}
        if name in texts:
            categories[name] = {rows: _counts(values, texts[name]) for rows, values in some.items()}
            continue
        for rows, numbers in some.items():
            if len(numbers):
                quantiles = np.quantile(numbers.astype(np.float64, copy=False), _QUANTILES).tolist()
                columns.append({"column": name, "rows": rows, "quantiles": dict(zip(map(str, _QUANTILES), quantiles))})
    return {"columns": columns, "categories": categories}


def _counts(code_B: np.ndarray, names: Sequence[str]) -> dict[str, int]:
    """Return how many rows have each text, the most frequent first; "" is no text."""
    counts = np.bincount(np.where((code_B >= 0) & (code_B < len(names)), code_B, len(names)), minlength=len(names) + 1)
    found = {name: rows for name, rows in zip([*names, ""], counts.tolist()) if rows}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _show(documents: Sequence[Mapping[str, Any]], *, shards: int) -> Iterator[Table | str]:
    selections = [each for each in documents if "kept_rows" in each]
    if selections:
        yield table(*_overview(selections))
        buckets = [
            [each["domain"], name, rows] for each in selections for name, rows in (each["buckets"] or {}).items()
        ]
        if buckets:
            yield ""
            yield table(["domain", "bucket", "rows"], buckets)
        yield ""
        yield table(*_costs(selections))
        if shown := _shards(selections, shards):
            yield ""
            yield table(["domain", "shard of which the least is kept", "rows", "kept", "share", "size"], shown)
    else:
        yield table(["domain", "rows", "with a score"], [[d["domain"], d["rows"], d["scored"]] for d in documents])
    if cells := [line for each in documents for line in _quantiles(each)]:
        yield ""
        yield table(["domain", "column", "rows", *(f"{100 * q:g} %" for q in _QUANTILES)], cells)
    if cells := [line for each in documents for line in _texts(each)]:
        yield ""
        yield table(["domain", "column", "text", "rows", "kept"], cells)


def _quantiles(document: Mapping[str, Any]) -> Iterator[list[object]]:
    """Yield a line for each column; columns of equal quantiles (the score of the only target) share one."""
    alike: dict[tuple[Any, ...], list[str]] = {}
    for each in document.get("columns", ()):
        alike.setdefault((each["rows"], *each["quantiles"].values()), []).append(each["column"])
    for (rows, *quantiles), names in alike.items():
        yield [document["domain"], ", ".join(names), rows, *(f"{q:.4g}" for q in quantiles)]


def _texts(document: Mapping[str, Any]) -> Iterator[list[object]]:
    for column, counts in document.get("categories", {}).items():
        kept = counts.get("kept")
        for name, rows in list(counts["all"].items())[:_TEXTS]:
            number = "-" if kept is None else kept.get(name, 0)
            yield [document["domain"], column, name or "none", rows, number]
        if (more := len(counts["all"]) - _TEXTS) > 0:
            yield [document["domain"], column, f"and {more:,} more", "-", "-"]


def _overview(selections: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[object]]]:
    rows: list[list[object]] = []
    for each in selections:
        tokens = [each["tokens"], each["kept_tokens"]]
        cells: list[object] = [each["domain"], each["rows"], each["kept_rows"], share(each["kept_rows"], each["rows"])]
        rows.append([*cells, *("-" if count is None else count for count in tokens)])
    if len(rows) > 1:
        before, after = (sum(each[key] for each in selections) for key in ("rows", "kept_rows"))
        rows.append(["all", before, after, share(after, before), "", ""])
    return ["domain", "rows", "kept", "share", "tokens", "kept tokens"], rows


def _costs(selections: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[object]]]:
    columns = ["domain", "shards", "needed", "all bytes", "needed bytes", "to download", "wasted, about"]
    columns.append(f"of it in shards of which < {100 * _LITTLE:.0f} % is kept")
    rows: list[list[object]] = [
        [
            each["domain"],
            each["shards"],
            each["shards_needed"],
            show_bytes(each["bytes"]),
            show_bytes(each["bytes_needed"]),
            show_bytes(each["bytes_to_download"]),
            show_bytes(each["bytes_wasted_about"]),
            f"{show_bytes(each['bytes_wasted_there_about'])} in {each['shards_of_which_little_is_kept']:,} shards",
        ]
        for each in selections
    ]
    return columns, rows


def _shards(selections: Sequence[Mapping[str, Any]], most: int) -> list[list[object]]:
    """Return the needed shards of which the smallest share is kept; none of which all is."""
    found = [
        (shard["kept"] / shard["rows"], each["domain"], shard)
        for each in selections
        for shard in each["per_shard"]
        if 0 < shard["kept"] < shard["rows"]
    ]
    found.sort(key=lambda item: (item[0], item[1], item[2]["shard"]))
    return [
        [name, s["shard"], s["rows"], s["kept"], share(s["kept"], s["rows"]), show_bytes(s["bytes"])]
        for _, name, s in found[:most]
    ]
