"""One part from start to end: slices → documents → ids → rows → shards, and the part's record.

This is what a worker runs. It needs only its task, the sources and the output directory, so any executor can run it.
Memory is bounded by a batch of text, a piece of the longest document, and a shard for each domain and split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import xxhash

from mixstream.storage import domain_directory

from ...shared.tokenizers import encoding_threads
from ..card import PartStatistics, TextFacts
from ..documents.words import pattern_of
from ..files.source_files import DamagedFileError, OnBytes
from ..ledger.identity import identify
from ..ledger.ledger import SEPARATORS, Ledger
from ..ledger.records import Output, PartRecord, SidecarRecord
from ..ledger.run_file import DomainTakenError, is_by_key
from ..parts import Part
from ..readers import READERS, Piece, read_documents
from ..recipe import Recipe
from ..sidecar.noted import Facts, SidecarWriter, Watch
from ..tokens.chat_tokens import encode_chats
from ..tokens.long_texts import LongText, encode_texts
from ..tokens.tokenizer import TokenIds, Tokenizer, TokenizerSpec
from .packer import DocumentRows, Packer, TooLongError, rows_of
from .rejects import MaxRejects, Rejects

_BATCH_CHARS = 1 << 20
_BATCH_PIECES = 4096
_MOST_BATCHES = 4  # of _BATCH_CHARS, in one call for many threads; a batch in work takes 40 MB or so


@dataclass(frozen=True, kw_only=True, slots=True)
class PartTask:
    """A part, and everything that is needed to convert it."""

    out: Path
    part: Part
    recipe: Recipe
    taken: Mapping[str, str] = field(default_factory=dict)
    """Domains that lines may not name, since they are there already; with the reason."""
    max_rejects: MaxRejects | None = None
    locks: tuple[str, ...] = ()
    """Further locks that a worker holds (`Ledger.working`)."""

    def __str__(self) -> str:
        """Its name in error messages."""
        return f"{self.part.name}{'' if is_by_key(self.part.group) else f' of domain {self.part.group!r}'}"


def convert_part(task: PartTask, on_bytes: OnBytes) -> PartRecord:
    """Convert one part and record it. An error gets a note that names the part; then nothing is recorded."""
    ledger = Ledger(task.out)
    skip = task.recipe.on_bad_document == "skip"
    bad = Rejects(ledger.rejects_path(task.part), skip=skip, most=task.max_rejects)
    packers = _Packers(task)
    try:
        with ledger.working(task.locks):
            source = _Source(task, bad, on_bytes)
            seen = _Seen(task.recipe, source)
            path = ledger.documents_path(task.part)
            with closing(SidecarWriter(path, kept=len(task.recipe.fields.keep))) as sidecar:
                for piece, ids in _encoded(seen.watch(source.pieces()), task.recipe.tokenizer):
                    packer, place = packers.packer_for(piece)
                    try:
                        tokens = packer.add(ids, begins=piece.begins, ends=piece.ends)
                    except TooLongError as error:
                        source.refuse(error)
                        continue
                    if piece.ends:
                        facts = source.watch.done.popleft()
                        sidecar.add(place, facts, tokens)
                        source.statistics.add(place, source.text_facts(facts), tokens)
                noted = sidecar.finish()
            outputs, tails = packers.finish(noted)
            statistics = source.statistics.dump()
            record = PartRecord(
                identity=identify(task.recipe, task.part.slices),
                outputs=outputs,
                skipped=bad.count,
                examples=tuple(bad.examples),
                seen=dict(seen.counts),
                reasons=dict(sorted(bad.reasons.items())),
                rejects_bytes=bad.close(),
                left_out=dict(sorted(bad.left_out.items())),
                sidecar=SidecarRecord(
                    bytes=path.stat().st_size,
                    records=tuple(source.records),
                    kinds=tuple(tuple(sorted(kinds)) for kinds in source.watch.kinds),
                ),
                statistics=len(statistics),
            )
            return ledger.record(task.part, record, tails, statistics)
    except BaseException as error:
        bad.close()
        packers.cancel()
        error.add_note(f"while converting {task}")
        raise


def read_part(part: Part, recipe: Recipe) -> Iterator[Piece]:
    """Yield the documents of a part, in pieces, as `convert_part` reads them.

    Raises:
        SourceError: a document or a file cannot be read, and the recipe does not say `skip`.
    """
    bad = Rejects(None, skip=recipe.on_bad_document == "skip")
    for source in part.slices:
        try:
            fields = source.file.fields or recipe.fields
            yield from read_documents(READERS[source.file.format], source, fields, bad, lambda _: None)
        except DamagedFileError as error:
            bad(f"{error}; the rest of it is lost", reason="damaged")


def is_val(text: str, recipe: Recipe) -> bool:
    """Whether the document that begins with `text` belongs to the validation split.

    A keyed hash of the document's first piece decides (of all of it, unless it is very long). So a document is in the
    same split in every file and at every occurrence, whatever else is converted.
    """
    key = xxhash.xxh3_64_intdigest(b"mixstream convert val", recipe.seed)
    return xxhash.xxh3_64_intdigest(text.encode(), key) < int(recipe.val_fraction * 2**64)


_load: Callable[[TokenizerSpec], Tokenizer] = lru_cache(maxsize=1)(TokenizerSpec.load)


class _Seen:
    """Counts what the user should hear of: separators, and special tokens spelled out in text that stays text."""

    def __init__(self, recipe: Recipe, source: _Source) -> None:
        self._source = source
        words = recipe.tokenizer.words if recipe.tokenizer.special_tokens == "text" else ()
        self._words = pattern_of(words) if words else None
        self.counts: Counter[str] = Counter()

    def watch(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        for piece in pieces:
            if (separator := self._source.separator) is not None:
                self.counts[f"{SEPARATORS} {separator}"] += piece.separated  # none is a count too
            if self._words is not None and piece.learned is None:  # the template of a chat writes them
                self.counts.update(found[0] for found in self._words.finditer(piece.text))
            yield piece


class _Source:
    """The documents of a part's slices, and what is noted of each.

    Attributes:
        watch: what the documents are.
        records: how many records each slice has that was read to its end.
        separator: what stands between the documents of the file that is read, if it is a text file.
        statistics: of the documents, for the data card.
    """

    def __init__(self, task: PartTask, bad: Rejects, on_bytes: OnBytes) -> None:
        self._task, self._bad, self._on_bytes = task, bad, on_bytes
        self.watch = Watch(keep=task.recipe.fields.kept)
        self.records: list[int] = []
        self.separator: str | None = None
        self.statistics = PartStatistics()

    def pieces(self) -> Iterator[Piece]:
        for number, source in enumerate(self._task.part.slices):
            records = 0
            self._bad.begin(number, source.file)
            try:
                fields = source.file.fields or self._task.recipe.fields
                reader = READERS[source.file.format]
                self.separator = fields.separator if reader.separable else None
                read = read_documents(reader, source, fields, self._bad, self._on_bytes, left_out=self._bad.left_out)
                records = yield from self.watch.look(number, fields, read)
            except DamagedFileError as error:
                self._bad(f"{error}; the rest of it is lost", reason="damaged")
            self.records.append(records)

    def text_facts(self, facts: Facts) -> TextFacts:
        """What the data card takes of a document."""
        source = self._task.part.slices[facts.slice]
        numbered = source.start == 0 or READERS[source.file.format].numbered_by == "file"
        return TextFacts(
            hash=facts.hash,
            bytes=facts.bytes,
            characters=facts.characters,
            head=facts.head,
            file=source.file.name.encode(errors="backslashreplace").decode(),
            record=facts.record if numbered else None,
            id=facts.id,
        )

    def refuse(self, error: TooLongError) -> None:
        """Handle the document that ends here as a bad one."""
        facts = self.watch.done.popleft()
        file = self._task.part.slices[facts.slice].file
        self._bad.begin(facts.slice, file)
        fact = f"{file.path}, record {facts.record}: {error}"
        self._bad(fact, record=facts.record, reason="too-long", excerpt=facts.head)
        slices = self._task.part.slices
        reading = min(len(self.records), len(slices) - 1)  # the reader is ahead of the packer
        self._bad.begin(reading, slices[reading].file)


class _Packers:
    """A packer for each domain and split that occurs in a part."""

    def __init__(self, task: PartTask) -> None:
        self._task = task
        self._packers: dict[tuple[str, str], Packer | DocumentRows] = {}
        self._split = "train"

    def packer_for(self, piece: Piece) -> tuple[Packer | DocumentRows, tuple[str, str]]:
        """The packer of a piece, and its domain and split."""
        if piece.begins and self._task.recipe.val_fraction:
            self._split = "val" if is_val(piece.text, self._task.recipe) else "train"
        key = piece.domain or self._task.part.group, self._split
        packer = self._packers.get(key)
        if packer is None:
            if (reason := self._task.taken.get(key[0])) is not None:
                raise DomainTakenError(reason)
            packer = self._packers[key] = rows_of(self._task.recipe, self._directory(*key))
        return packer, key

    def finish(self, noted: Mapping[tuple[str, str], tuple[int, ...]]) -> tuple[tuple[Output, ...], list[bytes]]:
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
                    tokens=packed.tokens,
                    noted=noted.get((domain, split), ()),
                )
            )
        return tuple(outputs), tails

    def cancel(self) -> None:
        for packer in self._packers.values():
            packer.cancel()

    def _directory(self, domain: str, split: str) -> Path:
        return self._task.out / domain_directory(domain) / split / self._task.part.name


def _encoded(pieces: Iterator[Piece], spec: TokenizerSpec) -> Iterator[tuple[Piece, TokenIds]]:
    """Yield pieces with their ids, in order. Of a document of several pieces the tokenizer does not see the cuts.

    Chats come with which of their tokens count, and with the tokens around them (chat_tokens.py).
    """
    threads, tokenizer = encoding_threads(), _load(spec)
    batches = _batches(pieces, alone=not tokenizer.cuts_anywhere, chars=_BATCH_CHARS * min(threads, _MOST_BATCHES))
    encode = _Encoding(tokenizer, spec)
    if tokenizer.cuts_anywhere or threads == 1:
        for batch in batches:
            yield from encode(batch)
        return
    # The tokenizer's threads are busy with the next batch while this one packs the rows of the last.
    with ThreadPoolExecutor(1, thread_name_prefix="mixstream-encode") as ahead:
        running = None
        for batch in batches:
            following = ahead.submit(encode, batch)
            if running is not None:
                yield from running.result()
            running = following
        if running is not None:
            yield from running.result()


class _Encoding:
    """Encodes batch after batch."""

    def __init__(self, tokenizer: Tokenizer, spec: TokenizerSpec) -> None:
        self._tokenizer, self._spec = tokenizer, spec
        self._long: LongText | None = None
        self._begin: Piece | None = None

    def __call__(self, batch: Sequence[Piece]) -> Sequence[tuple[Piece, TokenIds]]:
        """Return the pieces with their ids; those of a document of several pieces may come with a later piece."""
        first, encode = batch[0], self._tokenizer.encode
        if first.learned is not None:
            learned = [piece.learned or () for piece in batch]
            return list(zip(batch, encode_chats(self._spec, [piece.text for piece in batch], learned)))
        if self._tokenizer.cuts_anywhere:
            return list(zip(batch, encode([piece.text for piece in batch])))
        if first.begins and first.ends:
            return list(zip(batch, encode_texts(encode, [piece.text for piece in batch])))
        if self._long is None or first.begins:
            self._long, self._begin = LongText(encode), first
        ids = self._long.add(first.text, ends=first.ends)
        if ids is None:
            return []
        begin, self._begin = self._begin, None
        return [(first if begin is None else begin._replace(ends=first.ends), ids)]


def _batches(pieces: Iterator[Piece], *, alone: bool, chars: int) -> Iterator[list[Piece]]:
    """Group pieces into lists of about `chars` characters: enough for a call of the tokenizer, and little in memory.

    With `alone`, a piece that is not a whole document is a list of its own. Chats and texts are in lists apart.
    """
    batch: list[Piece] = []
    held = 0
    for piece in pieces:
        single = alone and not (piece.begins and piece.ends)
        if batch and (single or (batch[-1].learned is None) != (piece.learned is None)):
            yield batch
            batch, held = [], 0
        batch.append(piece)
        held += len(piece.text)
        if single or held >= chars or len(batch) >= _BATCH_PIECES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch
