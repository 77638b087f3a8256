"""What `mixstream inspect` shows to people, of the document that `--json` prints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from ..shared.console import show_bytes
from ..shared.safe_text import escaped_lines, escaped_table


def show(document: Mapping[str, Any]) -> Iterator[Table | str]:
    """Yield tables and lines: of all datasets together, then columns, then samples."""
    told = document["datasets"]
    readable = [each for each in told if "shards" in each]
    if readable:
        yield escaped_table(*_overview(readable))
        yield ""
        yield escaped_lines(list(_columns(readable)))
        if any(each["tokens"] is None and each["samples"] for each in readable):
            yield ""
            yield "tokens that an index does not tell are counted with --count, where there is a column tokens"
    for each in readable:
        for sample in each["samples_shown"]:
            yield ""
            yield escaped_lines(list(_sample(each["name"], sample)))
    if troubles := [each for each in told if each["trouble"]]:
        yield ""
        yield escaped_table(
            ["dataset", "could not be read"], [(each["name"], each["trouble"]["message"]) for each in troubles]
        )


def _overview(told: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[object]]]:
    columns = ["dataset", "shards", "samples", "tokens", "raw", "packed", "shard sizes", "compression", "hashes"]
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
        for each in told
    ]
    if len(told) > 1:
        tokens = [each["tokens"] for each in told]
        packed = sum(each["packed_bytes"] or 0 for each in told)
        rows.append(
            [
                "all",
                sum(each["shards"] for each in told),
                sum(each["samples"] for each in told),
                "-" if None in tokens else sum(tokens),
                show_bytes(sum(each["raw_bytes"] for each in told)),
                show_bytes(packed) if packed else "-",
                "",
                "",
                "",
            ]
        )
    return columns, rows


def _range(least: int | None, most: int | None) -> str:
    if least is None or most is None:
        return "-"
    return show_bytes(least) if least == most else f"{show_bytes(least)} to {show_bytes(most)}"


def _columns(told: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Say which columns there are, once for all datasets that have the same, and what they were made with."""
    groups: dict[str, list[str]] = {}
    for each in told:
        for columns in each["columns"]:
            text = ", ".join(f"{name} ({encoding})" for name, encoding in columns.items())
            groups.setdefault(text, []).append(each["name"])
    for text, names in groups.items():
        whose = "" if len(groups) == 1 else f" of {', '.join(dict.fromkeys(names))}"
        yield f"columns{whose}: {text}"
    makers: dict[str, list[str]] = {}
    for each in told:
        tokenizer = each["about"].get("tokenizer")
        if isinstance(tokenizer, dict):
            text = (
                f"{tokenizer.get('name')}, {tokenizer.get('vocab_size')} ids, documents end with {tokenizer.get('eos')}"
            )
            makers.setdefault(text, []).append(each["name"])
    for text, names in makers.items():
        whose = "" if len(makers) == 1 else f" of {', '.join(names)}"
        yield f"tokenizer{whose}: {text}"


def _sample(name: str, sample: Mapping[str, Any]) -> Iterator[str]:
    size = show_bytes(sample["bytes"])
    yield f"{name}, {sample['shard']}, sample {sample['sample']:,}, {size}"
    if sample["columns"] is None:
        yield "  too long to show"
        return
    width = max(map(len, sample["columns"]), default=0)
    for column, told in sample["columns"].items():
        yield f"  {column:{width}}  {_told(told)}"
        if "text" in told:
            yield f"  {'':{width}}  {_quoted(told['text'])}"


def _told(told: Mapping[str, Any]) -> str:
    if "dtype" in told:
        shape = " x ".join(map(str, told["shape"]))
        total = 1
        for length in told["shape"]:
            total *= length
        more = " …" if total > len(told["first"]) else ""
        return f"{told['dtype']} [{shape}]  {' '.join(map(str, told['first']))}{more}"
    if "characters" in told:
        return f"{_quoted(told['value'])}  ({told['characters']:,} characters)"
    return str(told["value"])


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
