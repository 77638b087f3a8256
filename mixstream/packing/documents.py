"""The documents of one shard, as ranges of its tokens, and such ranges as spans of what the shard stores.

The tokens of a shard are counted through, over all of its samples. A sample is a document (arrays of any length), or
documents lie across samples of one length: then the sidecar of the dataset says where they begin, or a token that ends
each of them. Documents do not cross shards: what another shard has of a document is a document of its own here.

Rule: the bytes are untrusted, and checked before a length is believed. Memory is O(samples + documents) of one shard.

Shape suffixes: C columns of the record, D documents, M samples of the shard, N pieces, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from mixstream.data.gather_spans import SpanField
from mixstream.data.packed import span_field
from mixstream.data.span_table import JOINED
from mixstream.documents import Borders
from mixstream.errors import ConfigError, ShardCorruptError
from mixstream.formats import Container, DocumentRows, FixedStride, fixed_array
from mixstream.records import dataclass
from mixstream.types import Int64, UInt8

_MOST = (1 << 32) - 1  # tokens of a shard: spans are stored as u32


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardDocuments:
    """The documents of a shard.

    Attributes:
        begin_D: int64 [D], the first token of each, counted through the shard; ascending.
        tokens_D: int64 [D], how many tokens each has.
        edge_M1: int64 [M + 1], where the samples of the shard begin and the last one ends; None where samples are
            documents of a file of bare tokens.
        bare: whether the shard is bare tokens, and one sample for `spans_of`.
        cut: documents of which another shard has a part, or that lie in the shard in two places.
    """

    begin_D: Int64
    tokens_D: Int64
    edge_M1: Int64 | None
    bare: bool = False
    cut: int = 0

    def chosen(self, number_D: Int64) -> ShardDocuments:
        """Return some of the documents, by number, ascending."""
        return replace(self, begin_D=self.begin_D[number_D], tokens_D=self.tokens_D[number_D])

    def within(self, kept_M: Int64) -> ShardDocuments:
        """Return what of the documents lies in the samples `kept_M`, int64, ascending.

        Samples 0 and 2 are kept of three with 4 tokens; the second document has a token in each of them:

        >>> whole = ShardDocuments(
        ...     begin_D=np.array([0, 3]), tokens_D=np.array([3, 6]), edge_M1=np.array([0, 4, 8, 12]))
        >>> kept = whole.within(np.array([0, 2]))
        >>> kept.begin_D.tolist(), kept.tokens_D.tolist(), kept.cut
        ([0, 3, 8], [3, 1, 1], 1)
        """
        assert self.edge_M1 is not None, "a selection of documents of bare tokens is for `chosen`"
        first_R, end_R = _runs(kept_M)
        low_R, high_R = self.edge_M1[first_R], self.edge_M1[end_R]
        end_D = self.begin_D + self.tokens_D
        # of each run, the documents that it touches
        a_R = np.searchsorted(end_D, low_R, side="right")
        b_R = np.maximum(np.searchsorted(self.begin_D, high_R, side="left"), a_R)
        of_N, run_N = _expand(a_R, b_R - a_R)
        begin_N = np.maximum(self.begin_D[of_N], low_R[run_N])
        end_N = np.minimum(end_D[of_N], high_R[run_N])
        some_N = end_N > begin_N
        of_N, begin_N, end_N = of_N[some_N], begin_N[some_N], end_N[some_N]
        kept_D = np.bincount(of_N, weights=end_N - begin_N, minlength=len(end_D)).astype(np.int64)
        cut = int(((kept_D > 0) & (kept_D < self.tokens_D)).sum())
        return replace(self, begin_D=begin_N, tokens_D=end_N - begin_N, cut=self.cut + cut)


def document_samples(
    container: Container, shard: int, data: UInt8, columns: Sequence[str], *, where: str
) -> ShardDocuments:
    """Return the documents of a shard of which each sample is one.

    Args:
        container: the dataset's.
        shard: its number.
        data: its bytes, validated.
        columns: "tokens", and others that must have as many values in each sample.
        where: names the shard in errors.

    Raises:
        ShardCorruptError: a sample's bytes contradict each other.
        ConfigError: a column has other lengths than "tokens", or the shard has too many tokens.
    """
    tokens_M = sample_tokens(data, container.shards[shard].samples, span_field(container, shard, columns[0]), where)
    for column in columns[1:]:
        other_M = sample_tokens(data, container.shards[shard].samples, span_field(container, shard, column), where)
        if (other_M != tokens_M).any():
            sample = int((other_M != tokens_M).argmax())
            raise ConfigError(
                f"{where}, sample {sample}: {columns[0]!r} has {tokens_M[sample]} values and {column!r} has "
                f"{other_M[sample]}; only columns of equal length can be packed together: leave it out with --columns"
            )
    edge_M1 = _edges(tokens_M, where)
    return ShardDocuments(begin_D=edge_M1[:-1], tokens_D=tokens_M, edge_M1=edge_M1)


def bare_documents(container: Container, shard: int, data: UInt8, *, where: str) -> ShardDocuments:
    """Return the documents of a shard of bare tokens, whose borders are stored in another file, or behind them.

    Raises:
        ConfigError: the shard has too many tokens.
    """
    rows = container.rows(shard)
    assert isinstance(rows, DocumentRows), "the caller looked at it"
    begin_D1 = rows.begins(data, container.shards[shard].samples)
    _refuse_many(int(begin_D1[-1]), where)
    return ShardDocuments(begin_D=begin_D1[:-1], tokens_D=np.diff(begin_D1), edge_M1=None, bare=True)


def sample_tokens(data: UInt8, samples: int, field: SpanField, where: str) -> Int64:
    """Return how many values a column has in each sample of a shard, int64 [M].

    Raises:
        ShardCorruptError: a sample's columns do not add up to it, or its array is not one-dimensional.
    """
    assert field.rows is not None, "samples are records"
    assert field.sizes_C is not None, "samples are records"
    at = field.rows.begins
    offset_M1 = data[at : at + 4 * (samples + 1)].view("<u4").astype(np.int64)
    begin_M, end_M = offset_M1[:-1], offset_M1[1:]
    variable = int((field.sizes_C < 0).sum())
    if (begin_M + 4 * variable > end_M).any() or (end_M > len(data)).any():
        _refuse(where, int(((begin_M + 4 * variable > end_M) | (end_M > len(data))).argmax()))
    place_M, v, first_M, size_M = begin_M + 4 * variable, 0, begin_M, begin_M
    for c, fixed in enumerate(field.sizes_C.tolist()):
        length_M: Any = np.full(samples, fixed, dtype=np.int64)
        if fixed < 0:
            length_M = _numbers(data, begin_M + 4 * v, 4)
            v += 1
        if c == field.column:
            first_M, size_M = place_M, length_M
        place_M = place_M + length_M
    if (place_M != end_M).any():
        _refuse(where, int((place_M != end_M).argmax()))
    if not field.shaped:
        return size_M // field.dtype.itemsize
    return _shaped(data, first_M, size_M, field.dtype.itemsize, where)


def _shaped(data: UInt8, first_M: Int64, size_M: Int64, itemsize: int, where: str) -> Int64:
    """Return the lengths of arrays with their shape before them: u8 (axes << 2) + log2(width of a dim), the dims."""
    if (size_M < 2).any():
        _refuse(where, int((size_M < 2).argmax()))
    head_M = data[first_M]
    width_M = np.left_shift(1, (head_M & 3).astype(np.int64))
    count_M = np.zeros(len(first_M), dtype=np.int64)
    wrong_M = (head_M >> 2 != 1) | (1 + width_M > size_M)
    for width in (1, 2, 4, 8):
        here_M = (width_M == width) & ~wrong_M
        count_M[here_M] = _numbers(data, first_M[here_M] + 1, width)
    wrong_M |= (count_M < 0) | (count_M > _MOST) | (size_M - 1 - width_M != count_M * itemsize)
    if wrong_M.any():
        _refuse(where, int(wrong_M.argmax()))
    return count_M


def _numbers(data: UInt8, at_M: Int64, width: int) -> Int64:
    """Return the little-endian numbers of `width` bytes at some places."""
    return data[at_M[:, None] + np.arange(width)].view(f"<u{width}")[:, 0].astype(np.int64)


def _refuse(where: str, sample: int) -> NoReturn:
    raise ShardCorruptError(
        f"{where}, sample {sample}: its bytes are no one-dimensional arrays of its columns; check the dataset with "
        "`mixstream verify`, or write it again"
    )


def even_samples(container: Container, shard: int, *, where: str) -> ShardDocuments:
    """Return a shard whose samples have one length as one document, where it is not known which there are."""
    samples = container.shards[shard].samples
    edge_M1 = _edges(np.full(samples, row_tokens(container, shard), dtype=np.int64), where)
    bare = isinstance(container.rows(shard), FixedStride)
    return ShardDocuments(begin_D=edge_M1[:1], tokens_D=edge_M1[-1:], edge_M1=edge_M1, bare=bare)


def row_tokens(container: Container, shard: int, column: str = "tokens") -> int:
    """Return the tokens of each sample of a shard whose samples have one length."""
    fixed = fixed_array(container.shards[shard].columns[column])
    assert fixed is not None, "the caller looked at the encoding"
    return fixed[1][0]


def documents_of_borders(whole: ShardDocuments, borders: Borders, first_row: int) -> ShardDocuments:
    """Return the documents of a shard of even samples, from the borders that its dataset keeps.

    Args:
        whole: from `even_samples`.
        borders: of the rows of the shard.
        first_row: the number of its first row in the dataset.
    """
    assert whole.edge_M1 is not None, "samples are rows"
    length, total = int(whole.edge_M1[1]) if len(whole.edge_M1) > 1 else 0, int(whole.edge_M1[-1])
    place_N = (borders.row_N - first_row) * length + borders.token_N
    tokens_N = np.diff(np.append(place_N, total))
    # a document goes on where a row begins in it
    same_N = np.zeros(len(place_N), dtype=np.bool_)
    same_N[1:] = (borders.document_N[1:] == borders.document_N[:-1]) & (
        borders.begin_N[1:] == borders.begin_N[:-1] + tokens_N[:-1]
    )
    begin_D = place_N[~same_N]
    cut = int((borders.begin_N[~same_N] > 0).sum())
    return replace(whole, begin_D=begin_D, tokens_D=np.diff(np.append(begin_D, total)), cut=cut)


def documents_of_ends(whole: ShardDocuments, end_D: Int64) -> ShardDocuments:
    """Return the documents of a shard that end at some places, ascending; what follows the last is one more.

    Documents end behind tokens 2 and 4; the shard has 7:

    >>> whole = ShardDocuments(begin_D=np.array([0]), tokens_D=np.array([7]), edge_M1=None)
    >>> found = documents_of_ends(whole, np.array([3, 5]))
    >>> found.begin_D.tolist(), found.tokens_D.tolist()
    ([0, 3, 5], [3, 2, 2])
    """
    total = int(whole.tokens_D.sum())
    edge_D = np.unique(np.concatenate(([0], end_D, [total])))
    return replace(whole, begin_D=edge_D[:-1], tokens_D=np.diff(edge_D), cut=int(not len(end_D) or end_D[-1] < total))


def ends_of_tokens(tokens_T: NDArray[np.integer], eos_id: int, first: int) -> Int64:
    """Return where documents end: behind each `eos_id` of some tokens, of which the first is number `first`."""
    return np.flatnonzero(tokens_T == eos_id).astype(np.int64) + 1 + first


def spans_of(documents: ShardDocuments, begin_N: Int64, tokens_N: Int64) -> tuple[NDArray[np.uint32], Int64]:
    """Return ranges of tokens as spans of samples, uint32 [spans, 3], and how many spans each range has, int64 [N].

    Tokens 2 to 8 of a shard with samples of 4 tokens; `JOINED` marks the spans that go on:

    >>> whole = ShardDocuments(begin_D=np.array([0]), tokens_D=np.array([12]), edge_M1=np.array([0, 4, 8, 12]))
    >>> spans, count_N = spans_of(whole, np.array([2]), np.array([7]))
    >>> (spans & (JOINED - 1)).tolist(), (spans[:, 2] >= JOINED).tolist(), count_N.tolist()
    ([[0, 2, 2], [1, 0, 4], [2, 0, 1]], [False, True, True], [3])
    """
    if documents.bare:
        return np.stack([np.zeros_like(begin_N), begin_N, tokens_N], axis=1).astype(np.uint32), np.ones_like(begin_N)
    edge_M1 = documents.edge_M1
    assert edge_M1 is not None, "samples are records"
    end_N = begin_N + tokens_N
    first_N = np.searchsorted(edge_M1, begin_N, side="right") - 1
    count_N = np.searchsorted(edge_M1, end_N - 1, side="right") - first_N
    sample, of = _expand(first_N, count_N)
    low, high = np.maximum(begin_N[of], edge_M1[sample]), np.minimum(end_N[of], edge_M1[sample + 1])
    joined = np.where(sample > first_N[of], JOINED, 0)
    spans = np.stack([sample, low - edge_M1[sample], (high - low) | joined], axis=1)
    return spans.astype(np.uint32), count_N


def _expand(first_N: Int64, count_N: Int64) -> tuple[Int64, Int64]:
    """Return the numbers first, first + 1, … of each of N runs, and the run of each number."""
    of = np.repeat(np.arange(len(first_N)), count_N)
    return first_N[of] + np.arange(len(of)) - np.repeat(np.cumsum(count_N) - count_N, count_N), of


def _runs(number_N: Int64) -> tuple[Int64, Int64]:
    """Return first and end of each run of numbers that follow each other."""
    if not len(number_N):
        return number_N, number_N
    breaks = np.flatnonzero(np.diff(number_N) != 1) + 1
    return number_N[np.concatenate(([0], breaks))], number_N[np.concatenate((breaks - 1, [-1]))] + 1


def _edges(tokens_M: Int64, where: str) -> Int64:
    edge_M1 = np.concatenate(([0], np.cumsum(tokens_M, dtype=np.int64)))
    _refuse_many(int(edge_M1[-1]), where)
    return edge_M1


def _refuse_many(tokens: int, where: str) -> None:
    if tokens > _MOST:
        raise ConfigError(f"{where}: it has {tokens:,} tokens, and a packing counts to {_MOST:,} in a shard")
