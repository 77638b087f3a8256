"""Documents into rows of one length: which tokens of which document stand in which row. Integers only, one shard.

Three ways, of which each is a pure function of its arguments, whatever the machine and the version of numpy:

    concat      documents one after the other, cut every `seq_len` tokens; the tokens that fill no row are dropped
    best-fit    longest first, into the row with the least room that is enough (of equal room: the longest unchanged)
    first-fit   longest first, into the first row with room that is enough

Best-fit and first-fit cut a document that is longer than a row into rows, and pack what is left of it like a document
(Ding et al., "Fewer Truncations Improve Language Modeling", arXiv 2404.10830). Best-fit takes O(N log L) time: rows
stand in a queue for each number of free tokens, and a segment tree over these numbers finds the queue.

Rules. Rows are in the order of the document that each was opened for, which is its longest; documents of a row are in
the order that was given. So neither the order of rows nor that in a row follows from lengths: trained in order, the
rows are no curriculum of lengths.

Shape suffixes: D documents, I items (a document, or a cut of a long one), L tokens of a row, N pieces in rows, R rows.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from mixstream.arguments import choice, shown, whole
from mixstream.errors import ConfigError
from mixstream.packing.fit import best_fit, first_fit
from mixstream.records import dataclass
from mixstream.types import Int64

Algorithm = Literal["concat", "best-fit", "first-fit"]
_FITS = {"best-fit": best_fit, "first-fit": first_fit}
"""Tokens of items, longest first, and of a row -> the row of each item, numbered as they are opened."""

LongDocuments = Literal["cut", "truncate", "drop"]
"""What becomes of a document that is longer than a row: all of it, its first `seq_len` tokens, or nothing counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """The rows of one shard.

    Attributes:
        begin_R1: int64 [R + 1], where the pieces of each row begin; the last entry is N.
        document_N: int64 [N], the document of each piece, as given.
        begin_N: int64 [N], the first token of the piece in its document.
        tokens_N: int64 [N], tokens of the piece, at least 1.
        documents: documents with at least one token.
        cut: those of them that are in rows, but not whole in one row.
        dropped: tokens of documents that are in no row.
    """

    begin_R1: Int64
    document_N: Int64
    begin_N: Int64
    tokens_N: Int64
    documents: int
    cut: int
    dropped: int

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.begin_R1) - 1


def pack_documents(
    tokens_D: Int64,
    *,
    seq_len: int,
    algorithm: Algorithm,
    long_documents: LongDocuments = "cut",
    order_D: Int64 | None = None,
) -> Pieces:
    """Return the rows that documents of these lengths make.

    Documents of 14, 7, 5, 2 and 3 tokens in rows of 8: the first is cut into 8 and 6.

    >>> made = pack_documents(np.array([14, 7, 5, 2, 3]), seq_len=8, algorithm="best-fit")
    >>> [made.tokens_N[a:b].tolist() for a, b in zip(made.begin_R1, made.begin_R1[1:])]
    [[8], [6, 2], [7], [5, 3]]
    >>> made.cut, made.dropped
    (1, 0)

    Args:
        tokens_D: int64 [D], tokens of each document; those without tokens are in no row.
        seq_len: tokens of a row.
        algorithm: how documents become rows.
        long_documents: what becomes of documents that are longer than a row; "cut" with concat.
        order_D: int64 [D], the documents in the order that counts; that of `tokens_D` if not given.

    Raises:
        ConfigError: an argument is none of those.
    """
    choice("algorithm", algorithm, get_args(Algorithm))
    choice("long_documents", long_documents, get_args(LongDocuments))
    seq_len = whole("seq_len", seq_len)
    if not 1 <= seq_len < 1 << 31:
        raise ConfigError(f"seq_len={shown(seq_len)}: a row has 1 to {(1 << 31) - 1} tokens")
    for name, array in (("tokens_D", tokens_D), ("order_D", order_D)):
        if array is not None and not (isinstance(array, np.ndarray) and array.ndim == 1 and array.dtype.kind in "iu"):
            raise ConfigError(f"`{name}` is an array of whole numbers [D], got {shown(array)}")
    if order_D is not None and len(order_D) and not 0 <= order_D.min() <= order_D.max() < len(tokens_D):
        raise ConfigError(f"`order_D` names documents 0 to {len(tokens_D) - 1}, got {order_D.min()} to {order_D.max()}")
    order_D = np.arange(len(tokens_D)) if order_D is None else order_D
    order_D = order_D[tokens_D[order_D] > 0]
    if algorithm != "concat":
        return _fit(tokens_D, order_D, seq_len, algorithm, long_documents)
    if long_documents != "cut":
        raise ConfigError(
            f"long_documents={long_documents!r} with concat, which joins all documents: leave it out, or take best-fit"
        )
    return _concatenate(tokens_D, order_D, seq_len)


def _concatenate(tokens_D: Int64, order_D: Int64, seq_len: int) -> Pieces:
    edge_D = np.concatenate(([0], np.cumsum(tokens_D[order_D])))  # of the joined documents
    rows = int(edge_D[-1]) // seq_len
    end = rows * seq_len
    edge_N = np.concatenate((edge_D[edge_D < end], np.arange(rows + 1) * seq_len))
    edge_N.sort(kind="stable")  # merges the two runs
    edge_N = edge_N[np.diff(edge_N, prepend=-1) > 0]
    at_N = edge_N[:-1]
    of_N = np.searchsorted(edge_D, at_N, side="right") - 1
    whole = int((edge_D[1:] <= end).sum())
    whole -= int((edge_D[:-1] // seq_len < (edge_D[1:] - 1) // seq_len)[:whole].sum())  # those that lie in two rows
    begun = int((edge_D[:-1] < end).sum())
    return Pieces(
        begin_R1=np.searchsorted(at_N, np.arange(rows + 1) * seq_len).astype(np.int64),
        document_N=order_D[of_N],
        begin_N=at_N - edge_D[of_N],
        tokens_N=np.diff(edge_N),
        documents=len(order_D),
        cut=begun - whole,
        dropped=int(edge_D[-1]) - end,
    )


def _fit(tokens_D: Int64, order_D: Int64, seq_len: int, algorithm: str, long_documents: LongDocuments) -> Pieces:
    length_D = tokens_D[order_D]
    items_D = -(-length_D // seq_len)
    if long_documents != "cut":
        items_D = np.where(length_D <= seq_len, 1, 1 if long_documents == "truncate" else 0)
    of_I = np.repeat(np.arange(len(order_D)), items_D)
    begin_I = (np.arange(len(of_I)) - np.repeat(np.cumsum(items_D) - items_D, items_D)) * seq_len
    tokens_I = np.minimum(length_D[of_I] - begin_I, seq_len)
    room_I = seq_len - tokens_I
    room_I = room_I.astype(np.uint16) if seq_len <= 1 << 16 else room_I  # sorted by radix, in O(I)
    longest_I = np.argsort(room_I, kind="stable")  # equal lengths stay in order
    row_I = _FITS[algorithm](tokens_I[longest_I], seq_len)
    opener_R = longest_I[np.unique(row_I, return_index=True)[1]]  # rows are numbered as they are opened
    rank_R = np.empty(len(opener_R), dtype=np.int64)
    rank_R[np.argsort(opener_R, kind="stable")] = np.arange(len(opener_R))
    rank_I = np.empty(len(row_I), dtype=np.int64)
    rank_I[longest_I] = rank_R[row_I]
    order_I = np.argsort(rank_I, kind="stable")
    return Pieces(
        begin_R1=np.searchsorted(rank_I[order_I], np.arange(len(opener_R) + 1)).astype(np.int64),
        document_N=order_D[of_I[order_I]],
        begin_N=begin_I[order_I],
        tokens_N=tokens_I[order_I],
        documents=len(order_D),
        cut=int(((length_D > seq_len) & (items_D > 0)).sum()),
        dropped=int(length_D.sum() - tokens_I.sum()),
    )
