"""Which tokens of a dataset are a document: what its sidecar says, or what ends with the end-of-document token.

With a sidecar (mixstream/documents), each document comes whole, with its id, source file, record and kept columns; its
number is that of the document. Without one, tokens of rows that follow each other are one stream, and its documents are
cut behind each end-of-document token; a document's number is the place of its first token in the dataset. (Rows have to
be in the order in which they were cut.) A stream is the shards of one directory: parts of a conversion, or what several
writers wrote. What is no whole document is left out and counted:

    the end of each stream     where the last document goes on elsewhere, or its end was dropped
    the joined tails           of a conversion in several parts without a sidecar: their beginnings are elsewhere

A slice has the documents whose first token lies in its samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.documents import Documents
from mixstream.errors import ConfigError, ShardCorruptError
from mixstream.formats import decode_sample

from ...shared.shards import leaving_out
from .mds_dataset import MdsDataset
from .reader import MAX_RECORD, Columns, OnBad

TOKENS = "tokens"
_MAX_TOKENS = MAX_RECORD // 4
_TAIL = "part-tail"
_SEGMENT = ("document", "row", "token", "tokens", "begin", "length")
_CUT = "ends of token streams without an end-of-document token"
_TAILS = "rows of joined tails, whose documents begin elsewhere"
_DROPPED = "documents whose last tokens were dropped"
Ids = NDArray[np.int64]
Span = tuple[int, int]
"""Rows, from the first to before the second."""


def by_sidecar(
    dataset: MdsDataset, sidecar: Documents, own: Span, columns: Columns, on_bad: OnBad
) -> Iterator[tuple[int, Ids, dict[str, Any]]]:
    """Yield each document of which the sidecar says that it begins in the rows `own`: number, tokens, columns."""
    more = [
        name for name in sidecar.columns if name not in {*_SEGMENT, "hash"} and (columns is None or name in columns)
    ]
    later = _later_segments(sidecar)
    for batch in sidecar.blocks([*_SEGMENT, *more]):
        for line in batch.filter(_begins_in(batch, own)).to_pylist():
            segments = [(line["row"], line["token"], line["tokens"]), *later.get(line["document"], ())]
            if any(row is None for row, _, _ in segments):
                on_bad("", record=line["document"], left_out=_DROPPED)
                continue
            if line["length"] > _MAX_TOKENS:
                on_bad(
                    f"{dataset.file.path}, document {line['document']}: it is longer than {_MAX_TOKENS:,} tokens",
                    record=line["document"],
                )
                continue
            try:
                ids = np.concatenate([_tokens(dataset, *segment) for segment in segments])
            except ShardCorruptError as error:
                on_bad(f"{dataset.file.path}, document {line['document']}: {error}", record=line["document"])
                continue
            yield line["document"], ids, {name: line[name] for name in more}


def _begins_in(batch: Any, own: Span) -> Any:
    pc: Any = import_module("pyarrow.compute")
    row_N = batch["row"]
    inside = pc.and_(pc.greater_equal(row_N, own[0]), pc.less(row_N, own[1]))
    # A document without a row was dropped as a whole; the slice with the dataset's first row says so.
    dropped = pc.and_(pc.is_null(row_N), own[0] == 0)
    return pc.and_(pc.equal(batch["begin"], 0), pc.if_else(pc.is_null(row_N), dropped, inside))


def _later_segments(sidecar: Documents) -> dict[int, list[tuple[int | None, int, int]]]:
    """The further segments of the documents that have some: few, since only ends of parts do."""
    pc: Any = import_module("pyarrow.compute")
    found: dict[int, list[tuple[int | None, int, int]]] = {}
    for batch in sidecar.blocks(_SEGMENT):
        for line in batch.filter(pc.greater(batch["begin"], 0)).to_pylist():
            found.setdefault(line["document"], []).append((line["row"], line["token"], line["tokens"]))
    return found


def _tokens(dataset: MdsDataset, row: int, token: int, count: int) -> Ids:
    """So many tokens, from one of a row on."""
    parts: list[Ids] = []

    def fail(fact: str, **about: object) -> None:
        raise ShardCorruptError(fact)

    for _, ids in rows_of(dataset, row, dataset.samples, fail):
        part = ids[token : token + count]
        parts.append(part)
        count -= len(part)
        token = 0
        if not count:
            return np.concatenate(parts)
    raise ShardCorruptError(f"the rows end before the document does; {count} tokens are missing")


def rows_of(dataset: MdsDataset, first: int, end: int, on_bad: OnBad) -> Iterator[tuple[int, Ids]]:
    """Yield the tokens of rows `first` to `end - 1`, with their numbers."""
    for number, start, low, high in dataset.parts(first, end):
        info = leaving_out(dataset.shards[number], lambda name, encoding: name == TOKENS)
        for row, data in dataset.rows(number, low, high, on_bad):
            value = decode_sample(data, info, where=f"{info.raw.basename}, sample {row}")[TOKENS]
            if not isinstance(value, np.ndarray) or value.ndim != 1 or value.dtype.kind not in "iu":
                raise ConfigError(
                    f"{dataset.file.path}: column {TOKENS!r} of encoding {info.columns[TOKENS]!r} is no row of token "
                    "ids. Datasets with a column of text are read by --text-key."
                )
            yield start + row, value.astype(np.int64)


def by_end(dataset: MdsDataset, eos: int, own: Span, on_bad: OnBad) -> Iterator[tuple[int, Ids]]:
    """Yield each document that begins in the rows `own`, by the end-of-document token: number and tokens."""
    if eos < 0:
        raise ConfigError(
            f"{dataset.file.path} does not say which token ends a document: give the tokenizer with --from-tokenizer."
        )
    start = 0
    streams = _streams(dataset)
    for name, rows in streams:
        stop = start + rows
        low, high = max(own[0], start), min(own[1], stop)
        if low < high and name == _TAIL and len(streams) > 1:
            for _ in range(low, high):
                on_bad("", left_out=_TAILS)
        elif low < high:
            yield from _cut(dataset, _Cutter(dataset, eos, (low, high), on_bad), (start, stop), on_bad)
        start = stop


def _streams(dataset: MdsDataset) -> list[tuple[str, int]]:
    """Directory and rows of each stream, in order. The tails of a conversion in one part go on with its rows."""
    found: list[tuple[str, int]] = []
    for shard in dataset.shards:
        name = shard.raw.basename.rpartition("/")[0]
        if found and found[-1][0] == name:
            found[-1] = name, found[-1][1] + shard.samples
        else:
            found.append((name, shard.samples))
    if len(found) == 2 and found[1][0] == _TAIL:
        return [(found[0][0], found[0][1] + found[1][1])]
    return found


def _cut(dataset: MdsDataset, cutter: _Cutter, stream: Span, on_bad: OnBad) -> Iterator[tuple[int, Ids]]:
    """Feed the rows of a stream to a cutter, as far as it needs them."""
    due = cutter.own[0]
    cutter.inside = due == stream[0]
    if not cutter.inside:
        before = rows_of(dataset, due - 1, due, lambda fact, **about: None)  # the slice before reports what is bad
        cutter.inside = any(len(ids) > 0 and ids[-1] == cutter.eos for _, ids in before)
    for row, ids in rows_of(dataset, due, stream[1], on_bad):
        if row != due:  # rows between were reported as lost
            cutter.lose()
        due = row + 1
        yield from cutter.feed(row, ids)
        if cutter.done:
            return
    cutter.close()


class _Cutter:
    """Rows of a stream → the documents that begin in the rows `own`."""

    def __init__(self, dataset: MdsDataset, eos: int, own: Span, on_bad: OnBad) -> None:
        self.eos, self.own = eos, own
        self.inside = False
        """Whether the next token is one of a document whose beginning is known."""
        self.done = False
        self._path, self._on_bad = dataset.file.path, on_bad
        self._held: list[Ids] = []
        self._size = self._begin = 0

    def feed(self, row: int, ids: Ids) -> Iterator[tuple[int, Ids]]:
        """Take the next row, and yield the documents that end in it."""
        at = 0
        for stop in (np.flatnonzero(ids == self.eos) + 1).tolist():
            self._hold(row, ids, at, stop)
            if self.done:
                return
            if self._held and self._size <= _MAX_TOKENS:
                yield self._begin, np.concatenate(self._held)
            elif self._held:
                fact = f"{self._path}, the document at token {self._begin}: it is longer than {_MAX_TOKENS:,} tokens"
                self._on_bad(fact, record=self._begin)
            self.lose()
            self.inside, at = True, stop
        if at < len(ids):
            self._hold(row, ids, at, len(ids))
        self.done = self.done or (row >= self.own[1] - 1 and not self._held)

    def lose(self) -> None:
        """Forget the document that has begun, and what follows up to the next border."""
        self._held, self._size, self.inside = [], 0, False

    def close(self) -> None:
        """Report a document that has no end."""
        if self._held:
            self._on_bad("", record=self._begin, left_out=_CUT)

    def _hold(self, row: int, ids: Ids, at: int, stop: int) -> None:
        if not self.inside:
            return
        if not self._held:
            self.done = row >= self.own[1]
            self._begin = row * len(ids) + at  # rows without a sidecar have one length
        self._size += stop - at
        self._held.append(ids[at:stop] if self._size <= _MAX_TOKENS else ids[:0])
