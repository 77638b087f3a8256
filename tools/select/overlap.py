"""`mixstream select overlap`: candidates that contain text of a target set, or equal one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from cyclopts import Parameter

from mixstream.errors import ConfigError
from mixstream.selection import (
    DEFAULT_NGRAM,
    Hit,
    Selection,
    ShardTable,
    Targets,
    Words,
    kept_mask,
    same_shards,
    tokens_as_units,
)
from mixstream.storage import is_local, local_path

from ..shared.artefacts import dataset_of, is_kind, lineage, open_selections
from ..shared.console import Console, table
from ..shared.domains import NamedDataset
from ..shared.numbers import Positive
from ..shared.options import Flag, Json, Reading, Text
from ..shared.outputs import MaybePlace, Output
from ..shared.safe_text import shortened
from .kept import Kept
from .tables import find_tables
from .texts import TextRows, datasets_by_name

Unit = Literal["words", "tokens"]
ToUnits = Callable[[Any], np.ndarray]
_SHOWN = 20  # rows
_TEXT = 160  # characters
_FILES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".ndjson", ".json.gz", ".json.zst", ".parquet")


def overlap(
    source: Annotated[str, Parameter(name="SEL|URL")],
    /,
    *,
    target: str,
    dataset: Text = None,
    ngram: Positive = DEFAULT_NGRAM,
    unit: Annotated[Unit | None, Parameter(show_default=False)] = None,
    column: Text = None,
    text_key: str = "text",
    tokenizer: Text = None,
    reading: Reading = Reading(),  # noqa: B008  # frozen
    out: MaybePlace = None,
    overwrite: Flag = False,
    as_json: Json = False,
) -> int:
    """Find candidates that overlap with a target set.

    mixstream select overlap sel/top20 --target lambada.jsonl
    mixstream select overlap shards/web --target shards/holdout --ngram 8
    mixstream select overlap sel/top20 --target lambada.jsonl --out sel/clean

    Scores that were made for a target favour documents that contain it, and a
    result on a hold-out set that was trained on proves nothing. A candidate
    overlaps if it equals a target, or if both share N consecutive words
    (--ngram; case and punctuation do not count). A target of fewer words is
    only compared whole.

    If candidates and targets are both datasets of tokens, token ids are
    compared; otherwise tokens are decoded first, with the tokenizer that the
    dataset names, or --tokenizer. --unit decides otherwise.

    --out writes a selection without the rows that overlap: of a selection,
    its other rows; of a dataset, all other rows.

    Memory: 24 bytes for each word of the targets. The candidates are streamed.

    Exit status: 0 no overlap, 1 overlap (or a fault), 2 wrong use.

    Args:
        source: a selection (its rows are the candidates), or a dataset.
        target: JSONL or parquet with a text in each line, or a dataset.
        dataset: of a selection, the dataset that it was made for, if that is not where it was.
        ngram: how many consecutive words or tokens count.
        unit: compare words or tokens.
        column: column of the candidates with their text or tokens.
        text_key: field of the target file with the text.
        tokenizer: `bytes` or a tokenizer.json, for datasets of tokens.
        out: directory of a new selection without the overlap.
        overwrite: replace what is in --out.
        as_json: print one JSON document, not tables.
    """
    console = Console(as_json=as_json)
    candidates = _candidates(source, dataset, reading=reading)
    alone = len(candidates) == 1
    writer = Output(out=out, overwrite=overwrite) if out is not None else None
    places = writer.places(candidates, alone=alone) if writer is not None else {}
    texts = {
        name: TextRows.open(each.dataset, reading=reading, column=column, tokenizer=tokenizer, required=False)
        for name, each in candidates.items()
    }
    goal = _Goal.open(target, text_key=text_key, tokenizer=tokenizer, reading=reading)
    chosen = unit or ("tokens" if goal.is_tokens and all(each.is_tokens for each in texts.values()) else "words")
    targets = Targets(goal.units(chosen), ngram=ngram)
    documents = []
    total = sum(each.count for each in candidates.values())
    with console.progress("overlap", total=total, unit="rows") as advance:
        for name, each in candidates.items():
            search = _Search(each, texts[name], targets, _to_units(texts[name], chosen, name))
            hits = search.run(advance)
            document = {"domain": name, "candidates": each.count, **_counts(hits), "rows": search.shown(hits)}
            kept = each.without(np.fromiter(hits, dtype=np.int64, count=len(hits)), target, ngram=ngram, unit=chosen)
            written = kept.write(Path(places[name]), overwrite=overwrite).path if writer is not None else None
            documents.append({**document, "selection": written})
    found = sum(each["overlapping"] for each in documents)
    facts = {"targets": targets.count, "ngram": ngram, "unit": chosen}
    document = {"status": "faults" if found else "ok", **facts, "domains": documents}
    rows = [[d["domain"], d["candidates"], d["overlapping"], d["equal"], d["selection"] or "-"] for d in documents]
    lines = [
        [d["domain"], row["shard"], row["row"], row["target"], "equal" if row["equal"] else row["shared"]]
        for d in documents
        for row in d["rows"]
    ]
    columns = ["domain", "candidates", "overlapping", "equal to a target", "written"]
    shown = [table(columns, rows)]
    if lines:
        shown += [table(["domain", "shard", "row", "target", f"shared {chosen}"], lines)]
    console.result(document, *shown)
    return 1 if found else 0


@dataclass(frozen=True, kw_only=True)
class _Candidates:
    """The rows of one domain that are looked at."""

    dataset: NamedDataset
    table: ShardTable
    selection: Selection | None

    @property
    def count(self) -> int:
        return self.table.rows if self.selection is None else self.selection.kept

    @property
    def mask(self) -> np.ndarray:
        return np.ones(self.table.rows, dtype=bool) if self.selection is None else kept_mask(self.selection)

    def without(self, overlapping: np.ndarray, target: str, *, ngram: int, unit: Unit) -> Kept:
        mask = self.mask
        mask[overlapping] = False
        facts = lineage(self.selection) if self.selection is not None else {}
        return Kept(
            domain=self.dataset.name if self.selection is None else self.selection.domain,
            table=self.table,
            rows=mask,
            rule={"kind": "without overlap", "ngram": ngram, "unit": unit},
            parents={"of": self.selection.id} if self.selection is not None else {},
            facts={**facts, "dataset": self.dataset.url, "target": target},
        )


def _candidates(source: str, dataset: str | None, *, reading: Reading) -> dict[str, _Candidates]:
    if not is_kind(source, "selection"):
        if dataset is not None:
            raise ConfigError(f"--dataset is for selections, and {source} is a dataset itself: leave it out")
        return {
            each.name: _Candidates(dataset=each, table=ShardTable.of(each.index.shards), selection=None)
            for each in reading.find([source])
        }
    found = {}
    for name, selection in open_selections(source).items():
        url = dataset or dataset_of(selection)
        if url is None:
            raise ConfigError(f"{selection.path} does not say over which dataset it was made: give --dataset URL")
        named = datasets_by_name(url, [name], reading=reading)[name]
        shards = ShardTable.of(named.index.shards)
        same_shards(selection.path, selection.table, url, shards)
        found[name] = _Candidates(dataset=named, table=selection.table, selection=selection)
    return found


class _Search:
    """Looks at the candidates of one domain."""

    def __init__(self, candidates: _Candidates, texts: TextRows, targets: Targets, to_units: ToUnits) -> None:
        self._candidates, self._texts, self._targets, self._to_units = candidates, texts, targets, to_units
        self._shared: dict[int, str] = {}

    def run(self, advance: Callable[[int], None]) -> dict[int, Hit]:
        """Return the hits by ordinal."""
        selection = self._candidates.selection

        def wanted(shard: int) -> Any:
            assert selection is not None
            rows = [selection.rows_of(shard, bucket) for bucket in range(len(selection.buckets))]
            return np.sort(np.concatenate(rows)).astype(np.int64)

        hits = {}
        for block in self._texts.blocks(wanted if selection is not None else None):
            for ordinal, value in zip(block.ordinal_N.tolist(), block.values):
                hit = self._targets.search(self._to_units(value))
                if hit is not None:
                    hits[ordinal] = hit
                    if len(self._shared) < _SHOWN:
                        self._shared[ordinal] = self._text_of(value, hit)
            advance(len(block.values))
        return hits

    def shown(self, hits: dict[int, Hit]) -> list[dict[str, Any]]:
        """Return the first hits as JSON values."""
        found = []
        for ordinal, text in self._shared.items():
            shard, row = (int(each[0]) for each in self._candidates.table.home(np.array([ordinal])))
            hit = hits[ordinal]
            place = {"shard": self._candidates.table.shards[shard].name, "row": row, "ordinal": ordinal}
            found.append({**place, "target": hit.target, "equal": hit.exact, "shared": text})
        return found

    def _text_of(self, value: Any, hit: Hit) -> str:
        if not self._texts.is_tokens:
            words = list(_words(str(value)))
            return shortened(" ".join(words[hit.at : hit.at + hit.length]), _TEXT)
        tokens = np.asarray(value)[hit.at : hit.at + hit.length]
        return shortened(" ".join(map(str, tokens.tolist())), _TEXT)


@dataclass(frozen=True, kw_only=True)
class _Goal:
    """The target set: lines of a file, or rows of datasets."""

    files: Sequence[Any]
    text_key: str
    datasets: Sequence[TextRows]

    @classmethod
    def open(cls, target: str, *, text_key: str, tokenizer: str | None, reading: Reading) -> _Goal:
        if is_local(target) and (local_path(target).is_file() or target.lower().endswith(_FILES)):
            return cls(files=find_tables([target], None), text_key=text_key, datasets=())
        datasets = [
            TextRows.open(each, reading=reading, column=None, tokenizer=tokenizer, required=False)
            for each in reading.find([target])
        ]
        return cls(files=(), text_key=text_key, datasets=datasets)

    @property
    def is_tokens(self) -> bool:
        return bool(self.datasets) and all(each.is_tokens for each in self.datasets)

    def units(self, unit: Unit) -> Iterator[np.ndarray]:
        if self.files and unit == "tokens":
            raise ConfigError("--unit tokens: the target file holds text; give a dataset of tokens, or compare words")
        words = Words()
        for file in self.files:
            for lines, _ in file.blocks([self.text_key]):
                for text in lines[self.text_key]:
                    yield words(text) if isinstance(text, str) else np.empty(0, np.uint64)
        for texts in self.datasets:
            to_units = _to_units(texts, unit, texts.rows.domain.name)
            for block in texts.blocks():
                yield from map(to_units, block.values)


def _to_units(texts: TextRows, unit: Unit, domain: str) -> ToUnits:
    if unit == "tokens":
        if not texts.is_tokens:
            raise ConfigError(f"--unit tokens: the column {texts.column!r} of {domain!r} holds text; compare words")
        return tokens_as_units
    to_text, words = texts.to_text, Words()
    if to_text is None:
        raise ConfigError(
            f"domain {domain!r} holds tokens, and the targets are text: give the tokenizer.json that made its tokens "
            "with --tokenizer, to compare words"
        )
    return lambda value: words(to_text(value))


def _words(text: str) -> Iterator[str]:
    import re

    return iter(re.findall(r"\w+", text.lower()))


def _counts(hits: dict[int, Hit]) -> dict[str, int]:
    return {"overlapping": len(hits), "equal": sum(hit.exact for hit in hits.values())}
