"""What trainers need to know of documents in a batch: positions, document numbers, `cu_seqlens`, labels.

One loop writes all of it for a whole batch, from the borders in its rows, and releases the GIL. Rules: positions begin
at 0 at the first token of each row and of each document; padding predicts nothing and is a segment of its own, so that
the segments of a batch cover all of its tokens.

Shape suffixes: B rows, S tokens of a row, N segments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mixstream.data.row_documents import RowBorders
from mixstream.data.segments import IGNORED, Segments
from mixstream.errors import ConfigError, ShardCorruptError
from mixstream.plan.compiled import compiled
from mixstream.types import Int64

Labels = Literal["unshifted", "shifted"]
"""Labels are the tokens themselves, for models that shift them; or the next tokens."""
Alloc = Callable[[np.dtype[Any], tuple[int, ...]], NDArray[Any]]
COLUMNS = ("position_ids", "document_ids", "cu_seqlens", "max_seqlen", "labels")


def document_columns(
    tokens_BS: NDArray[Any],
    borders: RowBorders,
    *,
    counts_BS: NDArray[Any] | None = None,
    labels: Labels = "unshifted",
    alloc: Alloc = lambda dtype, shape: np.empty(shape, dtype),
) -> tuple[dict[str, Any], Segments]:
    """Return the columns of documents for rows with these borders, and their segments.

    Raises:
        ConfigError: these are no rows of integers, or more tokens than cu_seqlens can count.
        ShardCorruptError: the borders are not those of such rows.
    """
    if tokens_BS.ndim != 2 or tokens_BS.dtype.kind not in "iu":
        raise ConfigError(
            f"documents=True marks documents in rows of tokens, and these have the shape {list(tokens_BS.shape[1:])} "
            f"and dtype {tokens_BS.dtype}: name the column of token ids 'tokens' or 'input_ids', or leave out documents"
        )
    rows, segments = len(tokens_BS), len(borders.token_N)
    if tokens_BS.size >= 1 << 31:
        raise ConfigError(
            f"a batch of {tokens_BS.size:,} tokens is more than cu_seqlens (int32) counts: lower batch_size"
        )
    out = {
        "position_ids": alloc(np.dtype(np.int64), tokens_BS.shape),
        "document_ids": alloc(np.dtype(np.int32), tokens_BS.shape),
        "labels": alloc(np.dtype(np.int64), tokens_BS.shape),
    }
    room = max(1 << segments.bit_length(), 64)  # of few sizes, so that memory is used again
    ends_N1 = alloc(np.dtype(np.int32), (room,))[: segments + 1]
    counts = np.empty((0, 0), np.uint8) if counts_BS is None else (counts_BS != 0).view(np.uint8)
    if not tokens_BS.size:  # documents without tokens
        ends_N1 = np.zeros(1, dtype=np.int32)
        made = Segments(ends_D1=ends_N1, rows=rows, shifted=labels == "shifted")
        return {**{name: out.get(name) for name in COLUMNS}, "cu_seqlens": ends_N1.copy(), "max_seqlen": 0}, made
    longest = int(
        mask_documents(
            tokens_BS,
            np.ascontiguousarray(counts),
            borders.begin_B1,
            borders.token_N,
            borders.document_N,
            labels == "shifted",
            out["position_ids"],
            out["document_ids"],
            out["labels"],
            ends_N1,
        )
        if len(borders.begin_B1) == rows + 1 and int(borders.begin_B1[-1]) == segments
        else -1
    )
    if longest < 0:
        raise ShardCorruptError(
            f"the documents that are listed for {rows} rows of {tokens_BS.shape[1]} tokens do not fit them: check the "
            "dataset with `mixstream verify`"
        )
    made = Segments(ends_D1=ends_N1.copy(), rows=rows, shifted=labels == "shifted")
    return {**{name: out.get(name) for name in COLUMNS}, "cu_seqlens": ends_N1, "max_seqlen": longest}, made


def mask_documents_reference(
    tokens_BS: NDArray[Any],
    counts_BS: NDArray[np.uint8],
    begin_B1: Int64,
    token_N: NDArray[np.int32],
    document_N: Int64,
    shifted: bool,
    position_BS: Int64,
    document_BS: NDArray[np.int32],
    label_BS: Int64,
    ends_N1: NDArray[np.int32],
) -> int:
    """Write positions, document numbers, labels and ends of segments; return the tokens of the longest segment.

    Returns -1 if the borders of a row do not begin at its first token, or do not rise within it.

    A row of two documents, of which the first is two tokens, and one of padding:

    >>> tokens, no = np.array([[5, 6, 7, 8, 0]]), np.empty((0, 0), np.uint8)
    >>> out = [np.empty((1, 5), dtype) for dtype in (np.int64, np.int32, np.int64)] + [np.empty(4, np.int32)]
    >>> borders = np.array([0, 3]), np.array([0, 2, 4], np.int32), np.array([0, 1, -1])
    >>> mask_documents_reference(tokens, no, *borders, False, *out), [array.tolist() for array in out]
    (2, [[[0, 1, 0, 1, 0]], [[0, 0, 1, 1, -1]], [[-100, 6, -100, 8, -100]], [0, 2, 4, 5]])

    Args:
        tokens_BS: the rows.
        counts_BS: 0 for tokens that are not predicted; [0, 0] if all are.
        begin_B1: as of `RowBorders`, like `token_N` and `document_N`.
        token_N: where segments begin.
        document_N: below 0 for padding.
        shifted: whether labels are the next tokens.
        position_BS: receives how many tokens of its segment precede each token; int64.
        document_BS: receives the number of each token's document in its row, from 0, and -1 for padding; int32.
        label_BS: receives the labels, int64; -100 for the first token of a segment (its last, if `shifted`), for
            padding, and for tokens that are not predicted.
        ends_N1: receives `cu_seqlens`, int32.
    """
    rows, length = tokens_BS.shape
    place, longest = np.arange(length), 0
    ends_N1[-1] = rows * length
    for i in range(rows):
        token_n = token_N[begin_B1[i] : begin_B1[i + 1]].astype(np.int64)
        if not len(token_n) or token_n[0] != 0 or (np.diff(token_n) <= 0).any() or token_n[-1] >= length:
            return -1
        real_n = document_N[begin_B1[i] : begin_B1[i + 1]] >= 0
        ends_N1[begin_B1[i] : begin_B1[i + 1]] = i * length + token_n
        longest = max(longest, int(np.diff([*token_n, length]).max()))
        of_S = np.searchsorted(token_n, place, side="right") - 1
        position_BS[i] = place - token_n[of_S]
        document_BS[i] = np.where(real_n[of_S], (np.cumsum(real_n) - 1)[of_S], -1)
        label_S = np.where(real_n[of_S] & (position_BS[i] > 0), tokens_BS[i], IGNORED)
        if counts_BS.size:
            label_S[counts_BS[i] == 0] = IGNORED
        label_BS[i] = np.append(label_S[1:], IGNORED) if shifted else label_S
    return longest


@compiled(mask_documents_reference)
def mask_documents(
    tokens_BS: Any,
    counts_BS: Any,
    begin_B1: Any,
    token_N: Any,
    document_N: Any,
    shifted: bool,
    position_BS: Any,
    document_BS: Any,
    label_BS: Any,
    ends_N1: Any,
) -> int:  # pragma: no cover - compiled
    """Compiled `mask_documents_reference`."""
    rows, length = tokens_BS.shape
    longest = np.int64(0)
    ends_N1[len(ends_N1) - 1] = rows * length
    for i in range(rows):
        tokens, positions, documents, labels = tokens_BS[i], position_BS[i], document_BS[i], label_BS[i]
        begin, end, number = begin_B1[i], begin_B1[i + 1], np.int32(0)
        if end <= begin or token_N[begin] != 0:
            return -1
        for n in range(begin, end):
            first = np.int64(token_N[n])
            last = np.int64(token_N[n + 1]) if n + 1 < end else length
            if last <= first or last > length:
                return -1
            ends_N1[n] = i * length + first
            longest = max(longest, last - first)
            size = last - first
            place, of, to, row = positions[first:last], documents[first:last], labels[first:last], tokens[first:last]
            for t in range(size):  # one loop for each array: those are vectorised, and `of[:] = ...` compiles for long
                place[t] = t
            if document_N[n] < 0:
                for t in range(size):
                    of[t] = -1
                for t in range(size):
                    to[t] = IGNORED
                continue
            for t in range(size):
                of[t] = number
            number += np.int32(1)
            by = 1 if shifted else 0
            for t in range(1 - by, size - by):
                to[t] = row[t + by]
            to[size - 1 if shifted else 0] = IGNORED
        if counts_BS.shape[0]:
            counts, by = counts_BS[i], 1 if shifted else 0
            for t in range(length - by):
                if counts[t + by] == 0:
                    labels[t] = IGNORED
    return longest  # pyright: ignore[reportReturnType]
