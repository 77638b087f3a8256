"""Parts → datasets: one index.json for each domain and split, and `domains.json` over all of them.

    DIR/<domain>/train/index.json                  the shards of all parts, then those of the joined tails
    DIR/<domain>/train/part-00000/shard.00000.mds
    DIR/<domain>/train/part-tail/shard.00000.mds
    DIR/domains.json                               counts of all datasets, and skipped documents; written last

Rule: everything here is a function of records and tails. So after a kill the next run publishes again, with the same
bytes.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from mixstream.formats import dump_index, parse_index

from ..shared.datasets import INDEX, SUMMARY
from .ledger import TAIL, Ledger, PartRecord, write_durably
from .packer import Packer
from .parts import Part
from .recipe import Recipe
from .work import shards_in

_EXAMPLES = 5

Done = Sequence[tuple[Part, PartRecord]]
_Place = tuple[Part, PartRecord, int]
"""A part, its record, and the number of one of the record's outputs."""


def publish(ledger: Ledger, recipe: Recipe, domains: Sequence[str], done: Done, identity: str) -> dict[str, Any]:
    """Write the indexes and the summary; returns the summary.

    Args:
        ledger: of the output directory.
        recipe: how the parts were converted.
        domains: the domains that the command line names, in its order; empty with `--domain-key`.
        done: every part with its record, in order.
        identity: of the recipe and all sources; the summary contains it.
    """
    places: dict[tuple[str, str], list[_Place]] = defaultdict(list)
    for part, record in done:
        for at, output in enumerate(record.outputs):
            places[output.domain, output.split].append((part, record, at))
    others = sorted({domain for domain, _ in places} - set(domains))
    counts = {
        domain: {split: _publish_one(ledger, recipe, domain, split, places[domain, split]) for split in recipe.splits}
        for domain in [*domains, *others]
    }
    faults, warnings = _judge(counts, recipe)
    skipped = sum(record.skipped for _, record in done)
    examples = [example for _, record in done for example in record.examples]
    summary = {
        "version": 1,
        "identity": identity,
        "seq_len": recipe.seq_len,
        "tokenizer": recipe.tokenizer.describe(),
        "domains": counts,
        "skipped": {"documents": skipped, "examples": examples[:_EXAMPLES]},
        "faults": faults,
        "warnings": warnings,
    }
    write_durably(ledger.out / SUMMARY, json.dumps(summary, ensure_ascii=False, indent=1).encode())
    return summary


def published(ledger: Ledger, identity: str) -> dict[str, Any] | None:
    """The summary, if this identity was published and all its files still exist, here or at the store; else None."""
    try:
        summary = json.loads((ledger.out / SUMMARY).read_bytes())
        if summary["identity"] != identity:
            return None
        for domain, split in datasets(summary):
            for name, size in stored_files((ledger.out / domain / split / INDEX).read_bytes()):
                # The shards of a part are bound by its record; those of the joined tails depend on the whole run.
                stamp = identity if name.startswith(f"{TAIL}/") else None
                if not ledger.is_there(f"{domain}/{split}/{name}", size, stamp):
                    return None
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return summary


def datasets(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Domain and split of every dataset that has rows, and therefore an index."""
    return [
        (domain, split) for domain, splits in summary["domains"].items() for split in splits if splits[split]["rows"]
    ]


def stored_files(index: bytes) -> Iterator[tuple[str, int]]:
    """Name and size in bytes of each stored file that an index written by convert names."""
    for shard in json.loads(index)["shards"]:
        file = shard["zip_data"] or shard["raw_data"]
        yield file["basename"], file["bytes"]


def _publish_one(ledger: Ledger, recipe: Recipe, domain: str, split: str, places: Sequence[_Place]) -> dict[str, Any]:
    """Cut the joined tails into rows and write the index; returns the counts for the summary."""
    directory = ledger.out / domain / split
    if (directory / TAIL).exists():
        shutil.rmtree(directory / TAIL)
    packer = Packer(recipe=recipe, out=directory / TAIL)
    shards: list[dict[str, Any]] = []
    for part, record, at in places:
        shards += [_placed(shard, part.name) for shard in record.outputs[at].shards]
        packer.add_tail(ledger.tail(part, record, at))
    packed = packer.finish()
    shards += [_placed(shard, TAIL) for shard in shards_in(directory / TAIL)]
    rows = packed.rows + sum(record.outputs[at].rows for _, record, at in places)
    counts = {
        "documents": sum(record.outputs[at].documents for _, record, at in places),
        "rows": rows,
        "tokens": rows * recipe.seq_len,
        "shards": len(shards),
        "dropped_tokens": packer.count(packed.tail),
    }
    if rows:
        about = {"domain": domain, "split": split, "seq_len": recipe.seq_len, **counts}
        extra = {"mixstream": {**about, "tokenizer": recipe.tokenizer.describe()}}
        index = json.dumps({**extra, "shards": shards, "version": 2}).encode()
        checked = parse_index(index, where=str(directory / INDEX))
        directory.mkdir(parents=True, exist_ok=True)  # missing if all of its shards are uploaded and removed
        write_durably(directory / INDEX, dump_index(checked, hashes=recipe.hashes))
    return counts


def _placed(shard: dict[str, Any], directory: str) -> dict[str, Any]:
    """A shard's entry with its file names relative to the directory above the shard's own."""
    moved = dict(shard)
    for file in ("raw_data", "zip_data"):
        if moved[file] is not None:
            moved[file] = {**moved[file], "basename": f"{directory}/{moved[file]['basename']}"}
    return moved


def _judge(domains: dict[str, dict[str, Any]], recipe: Recipe) -> tuple[list[str], list[str]]:
    """The faults of the result, and the warnings."""
    faults: list[str] = []
    warnings: list[str] = []
    for domain, splits in domains.items():
        for split, counts in splits.items():
            if counts["rows"]:
                continue
            where = f"domain {domain!r}{f', split {split!r}' if recipe.val_fraction else ''}"
            fact = f"{counts['documents']} documents, {counts['dropped_tokens']} tokens, no row of {recipe.seq_len}"
            if split == "train":
                remedy = "lower --seq-len" + (" or --val-fraction" if recipe.val_fraction else "") + ", or leave it out"
                faults.append(f"{where} is empty: {fact}. Give it more text, {remedy}.")
            else:
                warnings.append(f"{where} is empty: {fact}. A document is never divided between splits.")
    return faults, warnings
