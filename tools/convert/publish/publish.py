"""Parts → datasets: one index.json for each domain and split.

    DIR/<domain>/train/index.json                  the shards of all parts, then those of the joined tails
    DIR/<domain>/train/card.json                   what its documents are like (card/); written before the index
    DIR/<domain>/train/part-00000/shard.00000.mds
    DIR/<domain>/train/part-tail/shard.00000.mds
    DIR/<domain>/rejects.jsonl                     documents that cannot be read, if there are any (rejects.py)
    DIR/<domain>/train/documents/part-00000.parquet   where the documents of each part lie (sidecar/)

Rule: everything here is a function of records and tails. So after a kill the next run publishes again, with the same
bytes. `domains.json`, over all datasets, is written last (job.py).
"""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mixstream.documents import DIRECTORY, FILES, ROW_KIND, dump_files
from mixstream.formats import dump_index, parse_index
from mixstream.storage import INDEX, domain_directory, sync

from ...shared.cards import CARD, dump_card
from ..card import describe_dataset, merge, sources_of
from ..ledger.durable import make_directory, replaced_durably, write_durably
from ..ledger.finished import EXAMPLES, Group
from ..ledger.ledger import SEPARATORS, TAIL, Ledger, rejects_file
from ..ledger.records import PartRecord
from ..parts import Part
from ..recipe import Recipe
from ..sidecar.published import Place, Sidecars
from ..work.packer import Packer
from ..work.rejects import join_rejects

Done = Sequence[tuple[Part, PartRecord]]


def publish(ledger: Ledger, recipe: Recipe, named: str | None, done: Done, identity: str) -> Group:
    """Write the indexes of a group's datasets; returns the group's entry in published.json.

    Args:
        ledger: of the output directory.
        recipe: how the parts were converted.
        named: the group's domain; None with `--domain-key`.
        done: every part of the group with its record, in order.
        identity: of the group.
    """
    places: dict[tuple[str, str], list[Place]] = defaultdict(list)
    for part, record in done:
        for at, output in enumerate(record.outputs):
            places[output.domain, output.split].append((part, record, at))
    sidecars, cards = Sidecars(ledger=ledger, recipe=recipe, done=done), _Cards(ledger, recipe, done)
    counts = {
        domain: {
            split: _publish_one(sidecars, cards, (domain, split), places[domain, split]) for split in recipe.splits
        }
        for domain in sorted({*([named] if named is not None else ()), *(domain for domain, _ in places)})
    }
    faults, warnings = _judge(counts, recipe)
    warnings += [*_strange(done, recipe), *sidecars.warnings()]
    examples = [example for _, record in done for example in record.examples]
    skipped: dict[str, Any] = {
        "documents": sum(record.skipped for _, record in done),
        "examples": examples[:EXAMPLES],
        **_publish_rejects(sidecars),
    }
    summary: Group = {
        "identity": identity, "domains": counts, "skipped": skipped, "faults": faults, "warnings": warnings
    }  # fmt: skip
    if left_out := sum((Counter(record.left_out) for _, record in done), Counter[str]()):
        summary["left_out"] = dict(sorted(left_out.items()))
    summary |= {"cards": cards.written} if cards.written else {}
    if separators := _separators(done, recipe):
        summary["separators"] = sum(separators.values())
    return summary


def is_whole(ledger: Ledger, group: Group) -> bool:
    """Whether all files of a published group still exist, here or at the store."""
    try:
        rejects = group["skipped"].get("file")
        if rejects is not None and not ledger.is_there(rejects, group["skipped"]["bytes"], group["identity"]):
            return False
        for domain, split in datasets(group):
            place = dataset_directory(domain, split)
            card = group.get("cards", {}).get(place)
            if card is not None and not ledger.is_there(f"{place}/{CARD}", card, None):
                return False
            for file in stored_files((ledger.out / place / INDEX).read_bytes()):
                # The shards of a part are bound by its record; those of the joined tails depend on the whole group.
                stamp = group["identity"] if file.name.startswith(f"{TAIL}/") else file.hash
                if not ledger.is_there(f"{place}/{file.name}", file.size, stamp):
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


class StoredFile(NamedTuple):
    """A file that an index names: its name below the dataset, its size in bytes, and the hash of one of documents."""

    name: str
    size: int
    hash: str | None = None


def stored_files(index: bytes) -> Iterator[StoredFile]:
    """Yield each stored file that an index written by convert names."""
    content = json.loads(index)
    for shard in content["shards"]:
        file = shard["zip_data"] or shard["raw_data"]
        yield StoredFile(file["basename"], file["bytes"])
    for file in content["mixstream"].get(FILES, ()):  # outputs of earlier versions have none
        yield StoredFile(file["basename"], file["bytes"], file["hashes"]["xxh3_64"])


class _Cards:
    """Writes the cards of a group's datasets, if all of its parts have statistics: those of earlier versions do not."""

    def __init__(self, ledger: Ledger, recipe: Recipe, done: Done) -> None:
        self._ledger, self._options = ledger, recipe.describe()
        self._sources = sources_of(piece.file for part, _ in done for piece in part.slices)
        known = all(record.statistics for _, record in done)
        self._statistics = merge(ledger.statistics(part) for part, _ in done) if known else {}
        self.written: dict[str, int] = {}
        """Directory of a dataset to the bytes of its card."""

    def write(self, about: Mapping[str, Any]) -> None:
        """Write the card of the dataset with this entry in its index."""
        place = dataset_directory(about["domain"], about["split"])
        path = self._ledger.out / place / CARD
        statistics = self._statistics.get((about["domain"], about["split"]))
        if statistics is None:
            return
        data = dump_card(describe_dataset(about, statistics, options=self._options, sources=self._sources))
        write_durably(path, data)
        self.written[place] = len(data)


def _publish_one(
    sidecars: Sidecars, cards: _Cards, dataset: tuple[str, str], places: Sequence[Place]
) -> dict[str, Any]:
    """Cut the joined tails into rows, write the sidecar, the card and the index; returns the counts for the summary."""
    domain, split = dataset
    ledger, recipe = sidecars.ledger, sidecars.recipe
    directory = ledger.out / dataset_directory(domain, split)
    (directory / INDEX).unlink(missing_ok=True)  # it may be of another group, and name the tails that are replaced
    (directory / CARD).unlink(missing_ok=True)
    if directory.is_dir():
        sync(directory)
    for old in (TAIL, DIRECTORY):
        if (directory / old).exists():
            shutil.rmtree(directory / old)
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
        "tokens": packed.tokens + sum(_tokens(record, at, recipe) for _, record, at in places),
        "shards": len(shards),
        "dropped_tokens": packer.count(packed.tail),
    }
    if rows:
        make_directory(directory)  # missing if all of its shards are uploaded and removed
        files = dump_files(sidecars.write(directory, places, packed.rows))
        rows_of = {ROW_KIND: recipe.rows} | ({"seq_len": recipe.seq_len} if recipe.rows == "packed" else {})
        about = {"domain": domain, "split": split, **rows_of, **counts, "tokenizer": recipe.tokenizer.describe()}
        index = json.dumps({"mixstream": {**about, FILES: files}, "shards": shards, "version": 2}).encode()
        checked = parse_index(index, where=str(directory / INDEX))
        cards.write(about)
        write_durably(directory / INDEX, dump_index(checked, hashes=recipe.hashes))
    return counts


def _publish_rejects(sidecars: Sidecars) -> dict[str, Any]:
    """Join the rejects of all parts in one file; returns what the summary says of it, nothing if there are none."""
    ledger, done = sidecars.ledger, sidecars.done
    name = rejects_file(done[0][0].group)
    path = ledger.out / name
    path.unlink(missing_ok=True)
    parts = [(ledger.rejects_path(part), sidecars.slices_of(part)) for part, record in done if record.rejects_bytes]
    if not parts:
        return {}
    make_directory(path.parent)
    with replaced_durably(path) as file:
        join_rejects(parts, file)
    reasons = sum((Counter(record.reasons) for _, record in done), Counter[str]())
    return {"reasons": dict(sorted(reasons.items())), "file": name, "bytes": path.stat().st_size}


def _tokens(record: PartRecord, at: int, recipe: Recipe) -> int:
    """How many tokens the rows of an output have."""
    output = record.outputs[at]
    return output.rows * recipe.seq_len if recipe.rows == "packed" else output.tokens


def _placed(shard: dict[str, Any], directory: str) -> dict[str, Any]:
    """A shard's entry with its file names relative to the directory above the shard's own."""
    moved = dict(shard)
    for file in ("raw_data", "zip_data"):
        if moved[file] is not None:
            moved[file] = {**moved[file], "basename": f"{directory}/{moved[file]['basename']}"}
    return moved


def _separators(done: Done, recipe: Recipe) -> dict[str, int]:
    """Every `--document-separator` of the command or of a source that has text files, and how many were found."""
    counts: Counter[str] = Counter()
    for _, record in done:
        for label, count in record.seen.items():
            kind, _, separator = label.partition(" ")
            if kind == SEPARATORS and separator:
                counts[separator] += count
    return dict(counts) or ({} if recipe.fields.separator is None else {recipe.fields.separator: 0})


def _strange(done: Done, recipe: Recipe) -> list[str]:
    """Warnings of what is probably not as the user thinks."""
    warnings: list[str] = []
    seen = sum((Counter(record.seen) for _, record in done), Counter[str]())
    for separator, count in _separators(done, recipe).items():
        if not seen.pop(f"{SEPARATORS} {separator}", count):
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
