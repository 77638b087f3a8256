"""The documents that `mixstream convert` kept: how many, how long, and which lie in the samples that are shown.

Rule: the first million lengths are read at most, and of the samples the lines of their rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from mixstream.documents import COLUMNS, Documents

from ..shared.safe_text import shortened
from ..shared.texts import ToText
from .samples import Sample

_QUANTILES = {"min": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9, "max": 1.0}
_LENGTHS = 1 << 20  # lengths that are read of all files together
_SHOWN = 6  # documents of a sample
_TEXT, _TEXT_IDS = 100, 200
_TOKENS = "tokens"


def describe_documents(documents: Documents, count: object) -> dict[str, Any]:
    """Return a JSON document: the kind of rows, how many documents there are, quantiles of their lengths in tokens.

    Args:
        documents: the sidecar.
        count: of the documents, as the index says.
    """
    found: list[Any] = []
    lines = 0
    for block in documents.blocks(["begin", "length"]):
        whole = block["begin"].to_numpy() == 0  # a document's first line
        found.append(block["length"].to_numpy()[whole])
        lines += block.num_rows
        if lines >= _LENGTHS:
            break
    lengths = np.concatenate(found) if found else np.empty(0, np.int64)
    return {
        "row_kind": documents.row_kind,
        "documents": count,
        "lengths_of": len(lengths),
        "lengths": {name: round(float(np.quantile(lengths, at)), 1) for name, at in _QUANTILES.items()}
        if len(lengths)
        else {},
        "kept": {name: str(kind) for name, kind in documents.columns.items() if name not in COLUMNS},
    }


def documents_in(documents: Documents, sample: Sample, to_text: ToText | None) -> list[dict[str, Any]]:
    """Return what lies in a sample, in order: of each document its place there, id, source, and the text of its tokens.

    Args:
        documents: the sidecar.
        sample: of the first shard that has samples, so that its number is that of the row.
        to_text: shows tokens as text; None if the tokenizer is not known.
    """
    table = documents.lines(sample.row, sample.row + 1)
    seq_len = documents.seq_len
    tokens = None if sample.values is None else sample.values.get(_TOKENS)
    found = []
    for line in table.slice(0, _SHOWN).to_pylist():
        before = (sample.row - line["row"]) * (seq_len or 0)  # tokens from the segment's first row to this one
        first = max(line["token"] - before, 0)
        end = line["token"] - before + line["tokens"]
        end = end if seq_len is None else min(end, seq_len)
        begin = line["begin"] + max(before - line["token"], 0)
        entry = {name: line[name] for name in ("document", "id", "file", "record", "length")}
        entry |= {"token": first, "tokens": end - first, "begin": begin}
        if isinstance(tokens, np.ndarray) and to_text is not None and tokens.ndim == 1:
            entry["text"] = shortened(to_text(tokens[first:end][:_TEXT_IDS].tolist()), _TEXT)
        entry["kept"] = {name: line[name] for name in table.schema.names if name not in COLUMNS}
        found.append(entry)
    if (more := table.num_rows - len(found)) > 0:
        found.append({"more": more})
    return found


def lines_of(entries: Sequence[dict[str, Any]]) -> list[str]:
    """Return lines for the terminal about the documents of a sample."""
    lines = []
    for each in entries:
        if "more" in each:
            lines.append(f"  and {each['more']:,} more documents")
            continue
        last = each["begin"] + each["tokens"]
        whole = not each["begin"] and last == each["length"]
        part = (
            f"all of its {last:,} tokens"
            if whole
            else f"tokens {each['begin']:,} to {last - 1:,} of {each['length']:,}"
        )
        lines.append(
            f"  token {each['token']:,}: document {each['document']:,}, {part}; "
            f"{each['file']} record {each['record']:,}, id {each['id']}"
        )
        if "text" in each:
            lines.append(f"    {json.dumps(each['text'], ensure_ascii=False)}")
    return lines
