"""One part from start to end: slices → documents → ids → rows → shards, and the part's record.

This is what a worker runs. It needs only its task, the sources and the output directory, so any executor can run it.
Memory is bounded by a batch of text, a piece of the longest document, and a shard for each domain and split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import xxhash

from mixstream.storage import domain_directory

from .files import DamagedFileError, OnBytes, SourceError
from .ledger import SEPARATORS, Ledger, Output, PartRecord, identify
from .long_texts import LongText
from .packer import Packer
from .parts import Part
from .readers import READERS, Piece, pattern_of
from .recipe import Recipe
from .run_file import DomainTakenError, is_by_key
from .tokenizer import TokenIds, Tokenizer, TokenizerSpec

_BATCH_CHARS = 1 << 20
_BATCH_PIECES = 4096
_EXAMPLES = 3
_LATIN = " (`iconv -f LATIN1 -t UTF-8 FILE`, if it is Latin-1)"


@dataclass(frozen=True, kw_only=True, slots=True)
class PartTask:
    """A part, and everything that is needed to convert it."""

    out: Path
    part: Part
    recipe: Recipe
    taken: Mapping[str, str] = field(default_factory=dict)
    """Domains that lines may not name, since they are there already; with the reason."""

    def __str__(self) -> str:
        """Its name in error messages."""
        return f"{self.part.name}{'' if is_by_key(self.part.group) else f' of domain {self.part.group!r}'}"


def convert_part(task: PartTask, on_bytes: OnBytes) -> PartRecord:
    """Convert one part and record it. An error gets a note that names the part; then nothing is recorded."""
    ledger = Ledger(task.out)
    bad = _BadDocuments(skip=task.recipe.on_bad_document == "skip")
    packers = _Packers(task)
    try:
        with ledger.working():
            seen = _Seen(task.recipe)
            for piece, ids in _encoded(seen.watch(_pieces(task, bad, on_bytes)), _load(task.recipe.tokenizer)):
                packers.packer_for(piece).add(ids, begins=piece.begins, ends=piece.ends)
            outputs, tails = packers.finish()
            record = PartRecord(
                identity=identify(task.recipe, task.part.slices),
                outputs=outputs,
                skipped=bad.count,
                examples=tuple(bad.examples),
                seen=dict(seen.counts),
            )
            ledger.record(task.part, record, tails)
            return record
    except BaseException as error:
        packers.cancel()
        error.add_note(f"while converting {task}")
        raise


def is_val(text: str, recipe: Recipe) -> bool:
    """Whether the document that begins with `text` belongs to the validation split.

    A keyed hash of the document's first piece decides (of all of it, unless it is very long). So a document is in the
    same split in every file and at every occurrence, whatever else is converted.
    """
    key = xxhash.xxh3_64_intdigest(b"mixstream convert val", recipe.seed)
    return xxhash.xxh3_64_intdigest(text.encode(), key) < int(recipe.val_fraction * 2**64)


_load: Callable[[TokenizerSpec], Tokenizer] = lru_cache(maxsize=1)(TokenizerSpec.load)


class _BadDocuments:
    """Handles bad documents as `--on-bad-document` says: raises, or counts them."""

    def __init__(self, *, skip: bool) -> None:
        self._skip = skip
        self.count = 0
        self.examples: list[str] = []

    def __call__(self, fact: str) -> None:
        if not self._skip:
            raise SourceError(
                f"{fact}. Fix it{_LATIN if 'not UTF-8' in fact else ''}, or pass --on-bad-document skip, which leaves "
                "out and counts what cannot be read."
            )
        self.count += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(fact.encode(errors="backslashreplace").decode())  # a path may hold surrogates


class _Seen:
    """Counts what the user should hear of: separators, and special tokens spelled out in text that stays text."""

    def __init__(self, recipe: Recipe) -> None:
        self._separator = recipe.fields.separator
        words = recipe.tokenizer.words if recipe.tokenizer.special_tokens == "text" else ()
        self._words = pattern_of(words) if words else None
        self.counts: Counter[str] = Counter()

    def watch(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        for piece in pieces:
            if self._separator is not None and piece.separated:
                self.counts[f"{SEPARATORS} {self._separator}"] += 1
            if self._words is not None:
                self.counts.update(found[0] for found in self._words.finditer(piece.text))
            yield piece


class _Packers:
    """A packer for each domain and split that occurs in a part."""

    def __init__(self, task: PartTask) -> None:
        self._task = task
        self._packers: dict[tuple[str, str], Packer] = {}
        self._split = "train"

    def packer_for(self, piece: Piece) -> Packer:
        if piece.begins and self._task.recipe.val_fraction:
            self._split = "val" if is_val(piece.text, self._task.recipe) else "train"
        key = piece.domain or self._task.part.group, self._split
        packer = self._packers.get(key)
        if packer is None:
            if (reason := self._task.taken.get(key[0])) is not None:
                raise DomainTakenError(reason)
            packer = self._packers[key] = Packer(recipe=self._task.recipe, out=self._directory(*key))
        return packer

    def finish(self) -> tuple[tuple[Output, ...], list[bytes]]:
        outputs: list[Output] = []
        tails: list[bytes] = []
        for (domain, split), packer in sorted(self._packers.items()):
            packed = packer.finish()
            tails.append(packed.tail)
            outputs.append(
                Output(
                    domain=domain,
                    split=split,
                    rows=packed.rows,
                    documents=packed.documents,
                    tail_bytes=len(packed.tail),
                    shards=packed.shards,
                )
            )
        return tuple(outputs), tails

    def cancel(self) -> None:
        for packer in self._packers.values():
            packer.cancel()

    def _directory(self, domain: str, split: str) -> Path:
        return self._task.out / domain_directory(domain) / split / self._task.part.name


def _pieces(task: PartTask, bad: _BadDocuments, on_bytes: OnBytes) -> Iterator[Piece]:
    for piece in task.part.slices:
        try:
            yield from READERS[piece.file.format].read(piece, task.recipe.fields, bad, on_bytes)
        except DamagedFileError as error:
            bad(f"{error}; the rest of it is lost")


def _encoded(pieces: Iterator[Piece], tokenizer: Tokenizer) -> Iterator[tuple[Piece, TokenIds]]:
    """Yield pieces with their ids, in order. Of a document of several pieces the tokenizer does not see the cuts."""
    long: LongText | None = None
    begin: Piece | None = None
    for batch in _batches(pieces, alone=not tokenizer.cuts_anywhere):
        (first, *_) = batch
        if tokenizer.cuts_anywhere or (first.begins and first.ends):
            yield from zip(batch, tokenizer.encode([piece.text for piece in batch]))
            continue
        if long is None or first.begins:
            long, begin = LongText(tokenizer.encode), first
        ids = long.add(first.text, ends=first.ends)
        if ids is not None:
            yield (first if begin is None else begin._replace(ends=first.ends)), ids
            begin = None


def _batches(pieces: Iterator[Piece], *, alone: bool) -> Iterator[list[Piece]]:
    """Group pieces into lists, large enough for a call of the tokenizer and small enough for memory.

    With `alone`, a piece that is not a whole document is a list of its own.
    """
    batch: list[Piece] = []
    chars = 0
    for piece in pieces:
        single = alone and not (piece.begins and piece.ends)
        if batch and single:
            yield batch
            batch, chars = [], 0
        batch.append(piece)
        chars += len(piece.text)
        if single or chars >= _BATCH_CHARS or len(batch) >= _BATCH_PIECES:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch
