"""Scores of documents → scores of rows, by the sidecar that `mixstream convert` keeps beside the shards.

A table names documents, by their ids or by file and record. Its values are gathered document by document, as those of
rows are (gathered.py), and folded into rows when they are written: a row of `--rows documents` has the value of its
document; a packed row has the mean of its documents' values, weighted by their tokens in the row, or their maximum or
minimum. Of texts (a language), the row has the one that most of its tokens have.

Memory: 40 bytes for each document and 28 for each segment of one (mixstream/documents/schema.py).
Shape suffixes: D documents of all domains, G segments of one domain, P pieces: a document's tokens in one row, N rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mixstream.documents import Documents
from mixstream.errors import ConfigError, SelectionError
from mixstream.selection import Column, DomainRows, KeyIndex, Keys, Lines, value_keys
from mixstream.storage import Retry
from mixstream.types import Int64

from ..shared.domains import NamedDataset
from .gathered import Gathered

Folding = Literal["mean", "max", "min"]
"""How the values of a packed row's documents become the row's."""
_KEY = re.compile(r"document(?::([^=,:]+)(?:,([^=,:]+))?)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentKey:
    """Lines name documents.

    Args:
        columns: of the table: the id, or the file and the record.
    """

    columns: tuple[str, ...] = ("id",)

    @classmethod
    def parse(cls, text: str) -> DocumentKey | None:
        """Return the key of `--key document…`; None for another kind of key."""
        found = _KEY.fullmatch(text)
        if found is None:
            return None
        return cls(columns=tuple(each for each in found.groups() if each is not None) or ("id",))

    @property
    def own(self) -> tuple[str, ...]:
        """The columns of the sidecar that it is compared with."""
        return ("id",) if len(self.columns) == 1 else ("file", "record")

    def keys(self, lines: Lines, columns: Sequence[str]) -> Keys:
        """Return the keys of some lines of a table, or of a sidecar."""
        if len(columns) == 1:
            return value_keys(lines[columns[0]])
        files, records = (lines[column] for column in columns)
        return value_keys([f"{record} {file}" for file, record in zip(files, records)])


@dataclass(frozen=True, kw_only=True)
class Segments:
    """Where the documents of one domain lie in its rows. A row that is a document counts as one token.

    Attributes:
        rows: of the domain.
        seq_len: tokens of a row.
        place_G: int64 [G], the first token of each segment in the joined rows, ascending.
        document_G: int64 [G], its document among those of all domains.
    """

    rows: int
    seq_len: int
    place_G: Int64
    document_G: Int64

    def pieces(self, first: int, end: int) -> tuple[Int64, Int64, Int64]:
        """Return (start_N, document_P, tokens_P) of the rows `first` to `end - 1`: which pieces each row has."""
        low, high = first * self.seq_len, end * self.seq_len
        at = max(int(np.searchsorted(self.place_G, low, side="right")) - 1, 0)
        until = int(np.searchsorted(self.place_G, high, side="left"))
        place_G = np.maximum(self.place_G[at:until], low)
        until_G = np.append(place_G[1:], high)
        count_G = (until_G - 1) // self.seq_len - place_G // self.seq_len + 1
        of_P = np.repeat(np.arange(len(place_G)), count_G)
        step_P = np.arange(len(of_P)) - np.repeat(np.cumsum(count_G) - count_G, count_G)
        row_P = place_G[of_P] // self.seq_len + step_P
        begin_P = np.maximum(place_G[of_P], row_P * self.seq_len)
        tokens_P = np.minimum(until_G[of_P], (row_P + 1) * self.seq_len) - begin_P
        return np.searchsorted(row_P, np.arange(first, end)), self.document_G[at:until][of_P], tokens_P


@dataclass(frozen=True, kw_only=True)
class Known:
    """The documents of all domains.

    Attributes:
        key: how lines name them.
        index: their keys.
        segments: where they lie, of each domain.
        documents: how many there are.
    """

    key: DocumentKey
    index: KeyIndex
    segments: Sequence[Segments]
    documents: int

    def locate(self, lines: Lines) -> tuple[Int64, Int64]:
        """Return (line_M, document_M): which line is about which document."""
        return self.index.find(self.key.keys(lines, self.key.columns))

    @property
    def is_packed(self) -> bool:
        """Whether a row of any domain holds more than one document."""
        return any(each.seq_len > 1 for each in self.segments)


def read_known(
    key: DocumentKey, datasets: Sequence[NamedDataset], domains: Sequence[DomainRows], retry: Retry
) -> Known:
    """Read the sidecars of some datasets.

    Raises:
        ConfigError: a dataset keeps no documents.
        ShardCorruptError, ShardNotFoundError, StoreError: a sidecar cannot be read.
    """
    segments: list[Segments] = []
    keys: list[Keys] = []
    begin = 0
    for dataset, rows in zip(datasets, domains):
        documents = Documents.open(dataset.url, retry=retry)
        found, own = _read(documents, key, begin)
        if documents.rows != rows.table.rows:
            raise SelectionError(
                f"{dataset.url}: its documents are of {documents.rows:,} rows, its shards have {rows.table.rows:,}; "
                "check it with `mixstream verify`"
            )
        segments.append(found)
        keys.append(own)
        begin += len(own)
    checks = [each.check_B for each in keys if each.check_B is not None]
    whole = Keys(key_B=np.concatenate([each.key_B for each in keys]), check_B=np.concatenate(checks))
    return Known(key=key, index=KeyIndex(whole), segments=segments, documents=begin)


def _read(documents: Documents, key: DocumentKey, begin: int) -> tuple[Segments, Keys]:
    seq_len = documents.seq_len or 1
    places, numbers = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    order, found = [np.empty(0, np.int64)], [value_keys([])]
    for block in documents.blocks(["document", "row", "token", "tokens", "begin", *key.own]):
        document_B = block["document"].to_numpy()
        stored = block["row"].is_valid().to_numpy(zero_copy_only=False) & (block["tokens"].to_numpy() > 0)
        row_B, token_B = (block[name].fill_null(0).to_numpy() for name in ("row", "token"))
        places.append((row_B.astype(np.int64) * seq_len + token_B)[stored])
        numbers.append(document_B[stored] + begin)
        first = np.flatnonzero(block["begin"].to_numpy() == 0)  # a document has one such line, wherever it lies
        chosen = block.take(first)
        found.append(key.keys({name: chosen[name].to_pylist() for name in key.own}, key.own))
        order.append(document_B[first])
    order_D = np.concatenate(order)
    if not np.array_equal(np.sort(order_D), np.arange(len(order_D))):
        raise SelectionError(
            f"{documents.store.url}: its documents are not numbered from 0; check it with `mixstream verify`"
        )
    place_D = np.argsort(order_D)
    checks = [each.check_B for each in found if each.check_B is not None]
    keys = Keys(key_B=np.concatenate([each.key_B for each in found])[place_D], check_B=np.concatenate(checks)[place_D])
    segments = Segments(
        rows=documents.rows, seq_len=seq_len, place_G=np.concatenate(places), document_G=np.concatenate(numbers)
    )
    return segments, keys


@dataclass(frozen=True, kw_only=True)
class Folded:
    """One column of rows, made of one of documents; a `Gathered` to those who write it.

    Args:
        documents: the values of documents.
        known: where they lie.
        how: what becomes of several documents in a row.
    """

    documents: Gathered
    known: Known
    how: Folding

    @property
    def nulls(self) -> int:
        """How many lines had no value."""
        return self.documents.nulls

    @property
    def categories(self) -> list[str] | None:
        """The texts, sorted; None if the column holds numbers."""
        return self.documents.categories

    def column(self, higher_is_better: bool | None) -> Column:
        """Return the column; a mean of several documents is a float of 64 bits."""
        column = self.documents.column(higher_is_better)
        if self.documents.kind == "text" or self.how != "mean" or not self.known.is_packed:
            return column
        return Column(name=column.name, dtype="<f8", higher_is_better=higher_is_better)

    def values(self, begin: int, end: int) -> NDArray[Any]:
        """Return the values of some rows of all domains; 0, or -1 for texts, where there is none."""
        parts = [self._of(segments, first, last)[0] for segments, first, last in _cut(self.known, begin, end)]
        return np.concatenate(parts) if parts else np.empty(0)

    def missing(self, begin: int, end: int) -> NDArray[np.bool_]:
        """Return which rows have no number; a row without a text has the category -1, and is not missing."""
        if self.documents.kind == "text":
            return np.zeros(end - begin, dtype=np.bool_)
        parts = [~self._of(segments, first, last)[1] for segments, first, last in _cut(self.known, begin, end)]
        return np.concatenate(parts) if parts else np.empty(0, np.bool_)

    def _of(self, segments: Segments, first: int, end: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        start_N, document_P, tokens_P = segments.pieces(first, end)
        value_P, has_P = self.documents.values_at(document_P), self.documents.has_N[document_P]
        if segments.seq_len == 1:
            return value_P, has_P
        has_N = np.logical_or.reduceat(has_P, start_N)
        if self.documents.kind == "text":
            return _most(start_N, value_P, np.where(has_P, tokens_P, 0)), has_N
        if self.how == "mean":
            weight_P = np.where(has_P, tokens_P, 0)
            weight_N = np.add.reduceat(weight_P, start_N)
            sum_N = np.add.reduceat(np.where(has_P, value_P, 0).astype(np.float64) * weight_P, start_N)
            return sum_N / np.maximum(weight_N, 1), has_N
        limits = np.iinfo(value_P.dtype) if value_P.dtype.kind in "iu" else np.finfo(value_P.dtype)
        fold, worst = (np.maximum, limits.min) if self.how == "max" else (np.minimum, limits.max)
        folded_N = fold.reduceat(np.where(has_P, value_P, value_P.dtype.type(worst)), start_N)
        return np.where(has_N, folded_N, value_P.dtype.type(0)), has_N


def rows_met(known: Known, met_D: NDArray[np.bool_], how: Folding) -> NDArray[np.bool_]:
    """Return of which rows the table is about any documents ("max"), all ("min"), or at least half of the tokens."""
    found: list[NDArray[np.bool_]] = [np.empty(0, np.bool_)]
    for segments, first, last in _cut(known, 0, sum(each.rows for each in known.segments)):
        for at in range(first, last, 1 << 18):
            start_N, document_P, tokens_P = segments.pieces(at, min(at + (1 << 18), last))
            share_N = np.add.reduceat(np.where(met_D[document_P], tokens_P, 0), start_N)
            least = {"max": 1, "min": segments.seq_len, "mean": (segments.seq_len + 1) // 2}[how]
            found.append(share_N >= least)
    return np.concatenate(found)


def _cut(known: Known, begin: int, end: int) -> Iterator[tuple[Segments, int, int]]:
    """Yield the rows `begin` to `end - 1` of all domains, by domain: (segments, first row, last row + 1)."""
    before = 0
    for segments in known.segments:
        first, last = max(begin - before, 0), min(end - before, segments.rows)
        if first < last:
            yield segments, first, last
        before += segments.rows


def _most(start_N: Int64, value_P: NDArray[Any], weight_P: Int64) -> NDArray[Any]:
    """Return of each row the category that most of its tokens have, the lowest of several; -1 if none has any."""
    row_P = np.repeat(np.arange(len(start_N)), np.diff(np.append(start_N, len(value_P))))
    order_P = np.lexsort((value_P, row_P))
    row_S, value_S, weight_S = row_P[order_P], value_P[order_P], weight_P[order_P]
    begins = np.flatnonzero(np.append(True, (row_S[1:] != row_S[:-1]) | (value_S[1:] != value_S[:-1])))
    row_C, value_C, weight_C = row_S[begins], value_S[begins], np.add.reduceat(weight_S, begins)
    best_C = np.lexsort((value_C, -weight_C, row_C))
    _, first = np.unique(row_C[best_C], return_index=True)
    chosen = best_C[first]
    return np.where(weight_C[chosen] > 0, value_C[chosen], np.int32(-1)).astype(np.int32)


def refuse_other(key: str) -> None:
    """Refuse a malformed key of documents.

    Raises:
        ConfigError: it begins like one, and is none.
    """
    if key.startswith("document:"):
        raise ConfigError(f"--key {key}: give document, document:COLUMN with the id, or document:FILE,RECORD")
