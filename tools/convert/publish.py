"""Parts → datasets: one index.json for each domain and split.

    DIR/<domain>/train/index.json                  the shards of all parts, then those of the joined tails
    DIR/<domain>/train/part-00000/shard.00000.mds
    DIR/<domain>/train/part-tail/shard.00000.mds

Rule: everything here is a function of records and tails. So after a kill the next run publishes again, with the same
bytes. `domains.json`, over all datasets, is written last (job.py).
"""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mixstream.formats import dump_index, parse_index
from mixstream.storage import INDEX, domain_directory

from .durable import write_durably
from .finished import EXAMPLES, Group
from .ledger import SEPARATORS, TAIL, Ledger, PartRecord
from .packer import Packer
from .parts import Part
from .recipe import Recipe

Done = Sequence[tuple[Part, PartRecord]]
_Place = tuple[Part, PartRecord, int]
"""A part, its record, and the number of one of the record's outputs."""


def publish(ledger: Ledger, recipe: Recipe, named: str | None, done: Done, identity: str) -> Group:
    """Write the indexes of a group's datasets; returns the group's entry in published.json.

    Args:
        ledger: of the output directory.
        recipe: how the parts were converted.
        named: the group's domain; None with `--domain-key`.
        done: every part of the group with its record, in order.
        identity: of the group.
    """
    places: dict[tuple[str, str], list[_Place]] = defaultdict(list)
    for part, record in done:
        for at, output in enumerate(record.outputs):
            places[output.domain, output.split].append((part, record, at))
    counts = {
        domain: {split: _publish_one(ledger, recipe, domain, split, places[domain, split]) for split in recipe.splits}
        for domain in sorted({*([named] if named is not None else ()), *(domain for domain, _ in places)})
    }
    faults, warnings = _judge(counts, recipe)
    warnings += _strange(done, recipe)
    examples = [example for _, record in done for example in record.examples]
    skipped = {"documents": sum(record.skipped for _, record in done), "examples": examples[:EXAMPLES]}
    summary = {"identity": identity, "domains": counts, "skipped": skipped, "faults": faults, "warnings": warnings}
    if separator := recipe.fields.separator:
        summary["separators"] = sum(record.seen.get(f"{SEPARATORS} {separator}", 0) for _, record in done)
    return summary


def is_whole(ledger: Ledger, group: Group) -> bool:
    """Whether all files of a published group still exist, here or at the store."""
    try:
        for domain, split in datasets(group):
            place = dataset_directory(domain, split)
            for name, size in stored_files((ledger.out / place / INDEX).read_bytes()):
                # The shards of a part are bound by its record; those of the joined tails depend on the whole group.
                stamp = group["identity"] if name.startswith(f"{TAIL}/") else None
                if not ledger.is_there(f"{place}/{name}", size, stamp):
                    return False
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return True


def datasets(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Domain and split of every dataset that has rows, and therefore an index."""
    return [
        (domain, split) for domain, splits in summary["domains"].items() for split in splits if splits[split]["rows"]
    ]


def dataset_directory(domain: str, split: str) -> str:
    """The directory of a dataset below the output directory or URL, with `/`."""
    return f"{domain_directory(domain)}/{split}"


def stored_files(index: bytes) -> Iterator[tuple[str, int]]:
    """Name and size in bytes of each stored file that an index written by convert names."""
    for shard in json.loads(index)["shards"]:
        file = shard["zip_data"] or shard["raw_data"]
        yield file["basename"], file["bytes"]


def _publish_one(ledger: Ledger, recipe: Recipe, domain: str, split: str, places: Sequence[_Place]) -> dict[str, Any]:
    """Cut the joined tails into rows and write the index; returns the counts for the summary."""
    directory = ledger.out / dataset_directory(domain, split)
    (directory / INDEX).unlink(missing_ok=True)  # it may be of another group, and name the tails that are replaced
    if (directory / TAIL).exists():
        shutil.rmtree(directory / TAIL)
    packer = Packer(recipe=recipe, out=directory / TAIL)
    shards: list[dict[str, Any]] = []
    for part, record, at in places:
        shards += [_placed(shard, part.name) for shard in record.outputs[at].shards]
        packer.add_tail(ledger.tail(part, record, at))
    packed = packer.finish()
    shards += [_placed(shard, TAIL) for shard in packed.shards]
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


def _strange(done: Done, recipe: Recipe) -> list[str]:
    """Warnings of what is probably not as the user thinks."""
    warnings: list[str] = []
    seen = sum((Counter(record.seen) for _, record in done), Counter[str]())
    separator = recipe.fields.separator
    if separator is not None and not seen.pop(f"{SEPARATORS} {separator}", 0):
        warnings.append(f"--document-separator {separator!r} stands in no text file: each of them is one document.")
    if seen:
        parse = "" if recipe.tokenizer.path is None else " --special-tokens parse makes them tokens."
        found = ", ".join(f"{word!r} {count:,} times" for word, count in seen.most_common(EXAMPLES))
        warnings.append(
            f"the documents spell out special tokens: {found}. They were tokenised as plain text (--special-tokens "
            f"text). If they stand between documents of text files, give them as --document-separator.{parse} "
            "--special-tokens error refuses such documents."
        )
    names: dict[str, set[str]] = defaultdict(set)
    for name in {output.domain for _, record in done for output in record.outputs}:
        names[domain_directory(name).casefold()].add(name)
    if twins := sorted(sorted(each) for each in names.values() if len(each) > 1):
        warnings.append(
            f"the directories of {' and '.join(map(repr, twins[0]))} differ in case only ({len(twins):,} such cases): "
            "a copy to a file system where case is ignored, as on macOS and Windows, would mix them."
        )
    return warnings


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
