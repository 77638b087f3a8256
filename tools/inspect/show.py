"""The tables and lines that `mixstream inspect` prints, from the document of `--json`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from ..shared.console import show_bytes, table, text_lines


def show(document: Mapping[str, Any]) -> Iterator[Table | str]:
    """Yield tables and lines: all datasets, then their columns, then their samples."""
    datasets = document["datasets"]
    readable = [each for each in datasets if "shards" in each]
    if readable:
        yield table(*_overview(readable))
        yield ""
        yield text_lines(list(_columns(readable)))
        if any(each["tokens"] is None and each["samples"] for each in readable):
            yield ""
            yield "if an index does not have the number of tokens, --count counts the column tokens"
    for each in readable:
        for sample in each["samples_shown"]:
            yield ""
            yield text_lines(list(_sample(each["name"], sample)))
    if troubles := [each for each in datasets if each["trouble"]]:
        yield ""
        yield table(["dataset", "could not be read"], [(each["name"], each["trouble"]["message"]) for each in troubles])


def _overview(datasets: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[object]]]:
    columns = ["dataset", "shards", "samples", "tokens", "raw", "compressed", "shard sizes", "compression", "hashes"]
    rows: list[list[object]] = [
        [
            each["name"],
            each["shards"],
            each["samples"],
            "-" if each["tokens"] is None else each["tokens"],
            show_bytes(each["raw_bytes"]),
            "-" if each["packed_bytes"] is None else show_bytes(each["packed_bytes"]),
            _range(each["smallest_shard"], each["largest_shard"]),
            ", ".join(each["compression"]) or "-",
            ", ".join(each["hashes"]) or "none",
        ]
        for each in datasets
    ]
    if len(datasets) > 1:
        shards, samples, raw = (sum(each[key] for each in datasets) for key in ("shards", "samples", "raw_bytes"))
        tokens = [each["tokens"] for each in datasets]
        compressed = sum(each["packed_bytes"] or 0 for each in datasets)
        total = "-" if None in tokens else sum(tokens)
        sizes = [show_bytes(raw), show_bytes(compressed) if compressed else "-"]
        rows.append(["all", shards, samples, total, *sizes, "", "", ""])
    return columns, rows


def _range(least: int | None, most: int | None) -> str:
    if least is None or most is None:
        return "-"
    return show_bytes(least) if least == most else f"{show_bytes(least)} to {show_bytes(most)}"


def _columns(datasets: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the columns, and the tokenizers of convert; datasets with the same are named together."""
    columns: dict[str, list[str]] = {}
    tokenizers: dict[str, list[str]] = {}
    for each in datasets:
        for layout in each["columns"]:
            text = ", ".join(f"{name} ({encoding})" for name, encoding in layout.items())
            columns.setdefault(text, []).append(each["name"])
        if isinstance(made := each["about"].get("tokenizer"), dict):
            text = f"{made.get('name')}, {made.get('vocab_size')} ids, documents end with {made.get('eos')}"
            tokenizers.setdefault(text, []).append(each["name"])
    for what, groups in (("columns", columns), ("tokenizer", tokenizers)):
        for text, names in groups.items():
            whose = "" if len(groups) == 1 else f" of {', '.join(dict.fromkeys(names))}"
            yield f"{what}{whose}: {text}"


def _sample(name: str, sample: Mapping[str, Any]) -> Iterator[str]:
    size = show_bytes(sample["bytes"])
    yield f"{name}, {sample['shard']}, sample {sample['sample']:,}, {size}"
    if sample["columns"] is None:
        yield "  too long to show"
        return
    width = max(map(len, sample["columns"]), default=0)
    for column, value in sample["columns"].items():
        yield f"  {column:{width}}  {_value(value)}"
        if "text" in value:
            yield f"  {'':{width}}  {_quoted(value['text'])}"


def _value(value: Mapping[str, Any]) -> str:
    if "dtype" in value:
        shape = " x ".join(map(str, value["shape"]))
        more = " …" if math.prod(value["shape"]) > len(value["first"]) else ""
        return f"{value['dtype']} [{shape}]  {' '.join(map(str, value['first']))}{more}"
    if "characters" in value:
        return f"{_quoted(value['value'])}  ({value['characters']:,} characters)"
    return str(value["value"])


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
