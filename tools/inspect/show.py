"""The tables and lines that `mixstream inspect` prints, from the document of `--json`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from ..shared.console import show_bytes, table, text_lines
from .documents import lines_of


def show(document: Mapping[str, Any]) -> Iterator[Table | str]:
    """Yield tables and lines: all datasets, then their columns, then their samples."""
    datasets = document["datasets"]
    readable = [each for each in datasets if "shards" in each]
    if readable:
        yield table(*_overview(readable))
        yield ""
        yield text_lines([*_shards(readable), *_columns(readable), *_tails(readable), *_documents(readable)])
        if any(each["tokens"] is None and each["samples"] for each in readable):
            yield ""
            yield "if an index does not have the number of tokens, --count counts the column tokens"
    if carded := [each for each in readable if each.get("card")]:
        yield ""
        yield table(*_cards(carded))
        if document.get("rejects", {}).get("documents"):
            yield ""
            yield f"left out: {document['rejects']['documents']:,} documents that could not be read"
    without = [each["name"] for each in readable if each["about"] and not each.get("card")]
    if without:
        yield ""
        yield text_lines(
            [f"without a data card (an earlier version wrote them, or another command): {', '.join(without)}"]
        )
    for each in readable:
        for sample in each["samples_shown"]:
            yield ""
            yield text_lines(list(_sample(each["name"], sample)))
    if troubles := [each for each in datasets if each["trouble"]]:
        yield ""
        yield table(["dataset", "could not be read"], [(each["name"], each["trouble"]["message"]) for each in troubles])


def _overview(datasets: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[object]]]:
    """Counts and sizes; a column that would say the same of all datasets is left out."""
    columns = ["dataset", "shards", "samples", "tokens", "raw"]
    shards, samples, raw = (sum(each[key] for each in datasets) for key in ("shards", "samples", "raw_bytes"))
    tokens = [each["tokens"] for each in datasets]
    rows: list[list[object]] = [
        [
            each["name"],
            each["shards"],
            each["samples"],
            "-" if each["tokens"] is None else each["tokens"],
            show_bytes(each["raw_bytes"]),
        ]
        for each in datasets
    ]
    rows.append(["all", shards, samples, "-" if None in tokens else sum(tokens), show_bytes(raw)])
    packed = [each["packed_bytes"] for each in datasets]
    further = {
        "compressed": ["-" if size is None else show_bytes(size) for size in packed]
        + [show_bytes(sum(size or 0 for size in packed))],
        "shard sizes": [_range(each["smallest_shard"], each["largest_shard"]) for each in datasets] + [""],
        "compression": [_compression(each) for each in datasets] + [""],
        "hashes": [_hashes(each) for each in datasets] + [""],
    }
    wanted = {
        "compressed": any(packed),
        "shard sizes": any(each["shards"] > 1 for each in datasets),
        "compression": len(set(further["compression"])) > 2,
        "hashes": len(set(further["hashes"])) > 2,
    }
    for name in (name for name, is_wanted in wanted.items() if is_wanted):
        columns.append(name)
        for row, cell in zip(rows, further[name]):
            row.append(cell)
    return columns, rows if len(datasets) > 1 else rows[:1]


def _shards(datasets: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what is the same for the shards of all datasets, and no column."""
    same = {f"compression {_compression(each)}" for each in datasets}, {f"hashes {_hashes(each)}" for each in datasets}
    if said := [text for texts in same if len(texts) == 1 for text in texts]:
        yield f"shards: {', '.join(said)}"


def _compression(dataset: Mapping[str, Any]) -> str:
    return ", ".join(dataset["compression"]) or "-"


def _hashes(dataset: Mapping[str, Any]) -> str:
    return ", ".join(dataset["hashes"]) or "none"


def _cards(datasets: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[object]]]:
    """What the data cards say of the documents of datasets."""
    columns = ["dataset", "documents", "text", "mean tokens", "median", "longest", "copies", "dropped tokens"]
    rows: list[list[object]] = []
    for each in datasets:
        card = each["card"]
        lengths, duplicates, documents = card["lengths"], card["duplicates"], card["documents"]
        row: list[object] = [each["name"], documents, show_bytes(card["text_bytes"])]
        if lengths is None or duplicates is None:
            rows.append([*row, "-", "-", "-", "-", card["dropped_tokens"]])
            continue
        rows.append(
            [
                *row,
                round(sum(lengths["tokens"]) / max(documents, 1)),
                _median(each),
                lengths["most"],
                duplicates["copies"] if duplicates["exact"] else f"about {duplicates['copies']:,}",
                card["dropped_tokens"],
            ]
        )
    return columns, rows


def _median(dataset: Mapping[str, Any]) -> int | str:
    """The median length of the documents: exact if the sidecar was read whole, else as the card knows it."""
    found = dataset.get("documents")
    if found is not None and found["lengths_of"] == found["documents"] and "median" in found["lengths"]:
        return round(found["lengths"]["median"])
    low, high = dataset["card"]["lengths"]["quantiles_between"].get("0.5", (0, 0))
    return low if high <= low + 1 else f"{low:,} to {high - 1:,}"


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


def _tails(datasets: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what is not read of token files."""
    for each in datasets:
        if dropped := each.get("dropped_tokens"):
            files = f"its {each['files']:,} files" if each["files"] > 1 else "its file"
            yield f"tails of {each['name']}: {dropped:,} tokens at the end of {files} are in no row"


def _documents(datasets: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield how many documents the datasets have, and how long they are."""
    for each in datasets:
        if (found := each.get("documents")) is None:
            continue
        sizes = ", ".join(f"{name} {value:,.0f}" for name, value in found["lengths"].items())
        first = "" if found["lengths_of"] == found["documents"] else f" (of the first {found['lengths_of']:,})"
        kept = f"; kept: {', '.join(found['kept'])}" if found["kept"] else ""
        kind = "one in a sample" if found["row_kind"] == "documents" else "packed"
        yield f"documents of {each['name']}: {found['documents']:,}, {kind}; tokens: {sizes}{first}{kept}"


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
    yield from lines_of(sample.get("documents", ()))


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
