"""What datasets must have in common to be one, and what the joined index says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mixstream.documents import FILES, ROW_KIND
from mixstream.errors import ConfigError

from ..shared.datasets import Dataset

COUNTS = ("documents", "rows", "tokens", "shards", "dropped_tokens")
_SAME = ("tokenizer", "seq_len", ROW_KIND)


def check_agreement(datasets: Sequence[Dataset], *, of: str) -> list[str]:
    """Refuse datasets whose rows do not belong together; returns notes on what is not known.

    Args:
        datasets: in order.
        of: what they would be together, for messages: "one dataset" or "one output".

    Raises:
        ConfigError: columns, tokenizer, seq_len or the kind of rows differ.
    """
    first, unknown = datasets[0], []
    for dataset in datasets:
        for info in dataset.shards:
            if info.columns != first.shards[0].columns:
                raise ConfigError(
                    f"{dataset.store.url} has the columns {info.columns}, and {first.store.url} has "
                    f"{first.shards[0].columns}: they cannot be {of}. `mixstream reshard --dtype` changes a dtype; "
                    "another length of the rows needs `mixstream convert` with one --seq-len."
                )
        if not dataset.about:
            unknown.append(dataset.shown)
    known = [dataset for dataset in datasets if dataset.about]
    for key in _SAME:
        for dataset in known[1:]:
            one, other = _compared(known[0].about, key), _compared(dataset.about, key)
            if one != other:
                raise ConfigError(
                    f"{dataset.store.url} has the {key} {other!r}, and {known[0].store.url} has {one!r}: they cannot "
                    f"be {of}. Convert one of them again with the options of the other."
                )
    if unknown and known:
        return [f"{', '.join(unknown)}: the index says nothing of a tokenizer, so it is not compared"]
    return []


def _compared(about: Mapping[str, Any], key: str) -> Any:
    """An entry as it is compared: a tokenizer without its name, which is that of its file."""
    value = about.get(key)
    if key == ROW_KIND:  # earlier versions wrote packed rows only
        return value or "packed"
    if key == "tokenizer" and isinstance(value, dict):
        return {name: each for name, each in value.items() if name != "name"}
    return value


def joined_about(datasets: Sequence[Dataset], *, shards: int) -> dict[str, Any]:
    """Return the entry `mixstream` of the joined index: what all members say, and the sums of what they count.

    It is empty if any of them has none. The files of documents are not in it.
    """
    abouts = [dataset.about for dataset in datasets]
    if not all(abouts):
        return {}
    first = abouts[0]
    same = {
        key: value
        for key, value in first.items()
        if all(_compared(about, key) == _compared(first, key) for about in abouts[1:])
    }
    counts = {key: sum(about.get(key, 0) for about in abouts) for key in COUNTS if key in first}
    return {**{key: value for key, value in same.items() if key != FILES}, **counts, "shards": shards}


def counts_of(about: Mapping[str, Any], rows: int, shards: int) -> dict[str, int]:
    """Return the counts of a dataset as `domains.json` has them."""
    known = {key: about[key] for key in COUNTS if key in about}
    return {**known, "rows": rows, "shards": shards}
