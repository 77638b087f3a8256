"""The compiled loops (numba), each beside the numpy reference that it must equal.

Rule: a kernel holds no state and takes arrays. References are named `*_reference`. They run until numba is loaded
(`compiled`), and on platforms for which it has no wheel; tests assert that both give equal results. Nothing here
allocates per row.

Shape suffixes: B rows, K domains, P pieces, W windows.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.plan.compiled import beside, compile_loop
from mixstream.plan.distinct import distinct
from mixstream.plan.permutation import permute_reference, permute_rows
from mixstream.types import Int64

_FEW_DOMAINS = 64

# --- locate: position in an epoch -> (shard, row), through windows of shuffled pieces ---------------------------------


def locate_reference(
    position_B: Int64,
    window_start_W: Int64,
    window_key_W: NDArray[np.uint64],
    piece_start_P: Int64,
    piece_shard_P: Int64,
    piece_row_P: Int64,
    shuffle: bool,
) -> tuple[Int64, Int64]:
    """Return (shard_B, row_B), int64 [B], of the samples at `position_B` of one lane's epoch.

    A piece is a run of rows of one shard. With `shuffle`, the positions inside a window are permuted under its key.
    `window_start_W` and `piece_start_P` have one entry more than there are windows and pieces: the end.
    """
    position_B = np.asarray(position_B, dtype=np.int64).copy()
    if shuffle:
        window_B = np.searchsorted(window_start_W, position_B, side="right") - 1
        for window in distinct(window_B):
            here = window_B == window
            start = window_start_W[window]
            size = int(window_start_W[window + 1] - start)
            position_B[here] = start + permute_reference(position_B[here] - start, size, int(window_key_W[window]))
    piece_B = np.searchsorted(piece_start_P, position_B, side="right") - 1
    return piece_shard_P[piece_B], piece_row_P[piece_B] + position_B - piece_start_P[piece_B]


@compile_loop
def last_not_above(start_N: Any, value: Any) -> Any:
    """Return the place of the last of rising `start_N` that is not above `value`; the first is not."""
    at, left = np.int64(0), len(start_N)
    while left > 1:  # without branches: which way it goes cannot be predicted
        half = left // 2
        at = at + half if start_N[at + half] <= value else at
        left -= half
    return at


@compile_loop
def _windows(
    position_B: Any, window_start_W: Any, window_key_W: Any, place_B: Any, start_B: Any, size_B: Any, key_B: Any
) -> None:
    """Set the place of each position in its window, and where that begins, its size and its key."""
    w, start, end = np.int64(0), np.int64(0), np.int64(0)
    for i in range(len(position_B)):
        position = position_B[i]
        if position < start or position >= end:  # neighbours have one window nearly always
            w = last_not_above(window_start_W, position)
            start, end = window_start_W[w], window_start_W[w + 1]
        place_B[i], start_B[i], size_B[i], key_B[i] = position - start, start, end - start, window_key_W[w]


@compile_loop
def _pieces(
    position_B: Any, piece_start_P: Any, piece_shard_P: Any, piece_row_P: Any, shard_B: Any, row_B: Any
) -> None:
    """Set the shard and the row of each position."""
    for i in range(len(position_B)):
        position = position_B[i]
        p = last_not_above(piece_start_P, position)
        shard_B[i] = piece_shard_P[p]
        row_B[i] = piece_row_P[p] + position - piece_start_P[p]


@beside(locate_reference)
def locate(
    position_B: Int64,
    window_start_W: Int64,
    window_key_W: NDArray[np.uint64],
    piece_start_P: Int64,
    piece_shard_P: Int64,
    piece_row_P: Int64,
    shuffle: bool,
) -> tuple[Int64, Int64]:
    """Compiled `locate_reference`."""
    if shuffle:
        place_B, start_B, size_B = np.empty((3, len(position_B)), dtype=np.int64)
        key_B = np.empty(len(position_B), dtype=np.uint64)
        _windows(position_B, window_start_W, window_key_W, place_B, start_B, size_B, key_B)
        permute_rows(place_B, size_B, key_B, place_B)
        position_B = start_B + place_B
    shard_B, row_B = np.empty((2, len(position_B)), dtype=np.int64)
    _pieces(position_B, piece_start_P, piece_shard_P, piece_row_P, shard_B, row_B)
    return shard_B, row_B


# --- deal_rows: weights -> which domain each row of a lane comes from -------------------------------------------------


def deal_rows_reference(
    weight_K: Int64,
    credit_K: Int64,
    drawn_K: Int64,
    limit_K: Int64,
    last_K: Int64,
    in_order: bool,
    domain_B: NDArray[np.int32],
    draw_B: Int64,
) -> int:
    """Fill a lane's rows with (domain, draw), in place; return how many were filled.

    With weights w_k (`weight_K`), their sum W, credit c_k (`credit_K`, in units of 1/W row) and draws n_k (`drawn_K`),
    the recurrence for each row is

        c_k <- c_k + w_k                               for every k
        d    = argmin_k (W - c_k) / w_k                the rows until k's next row is due; over k with c_k > 0
        row  = (d, n_d);  c_d <- c_d - W;  n_d <- n_d + 1

    Ties go to the lowest index. This is earliest deadline first on the windows [i W / w_k, (i + 1) W / w_k): under
    constant weights no domain is ever a whole row off its ideal (Liu and Layland 1973; as the "chairman assignment",
    Tijdeman 1980). A domain with n_k = `limit_K[k]` is not drawn. If no domain below its limit has credit, the argmin
    is taken over all domains below their limit. With `in_order`, the first domain below its limit is drawn.

    Filling stops after a row that brings a domain to its `last_K` (its final draw: the caller renormalises the
    weights), and when every domain of positive weight is at its limit.

    >>> credit_K, drawn_K, never_K = np.zeros(2, np.int64), np.zeros(2, np.int64), np.full(2, 99)
    >>> domain_B, draw_B = np.zeros(6, np.int32), np.zeros(6, np.int64)
    >>> deal_rows_reference(np.array([3, 1]), credit_K, drawn_K, never_K, never_K, False, domain_B, draw_B)
    6
    >>> domain_B.tolist(), draw_B.tolist(), credit_K.tolist()  # 4.5 and 1.5 rows were owed, 5 and 1 drawn
    ([0, 0, 0, 1, 0, 0], [0, 1, 2, 0, 3, 4], [-2, 2])
    """
    total = int(weight_K.sum())
    for i in range(len(domain_B)):
        open_K = (weight_K > 0) & (drawn_K < limit_K)
        if not open_K.any():
            return i
        credit_K += weight_K
        if in_order:
            best = int(np.argmax(open_K))
        else:
            due_K = np.where(open_K, (total - credit_K) / np.maximum(weight_K, 1), np.inf)
            owed_K = open_K & (credit_K > 0)
            best = int(np.argmin(np.where(owed_K, due_K, np.inf) if owed_K.any() else due_K))
        credit_K[best] -= total
        domain_B[i], draw_B[i] = best, drawn_K[best]
        drawn_K[best] += 1
        if drawn_K[best] == last_K[best]:
            return i + 1
    return len(domain_B)


def deal_rows_of_few(
    weight_K: Int64,
    credit_K: Int64,
    drawn_K: Int64,
    limit_K: Int64,
    last_K: Int64,
    in_order: bool,
    domain_B: NDArray[np.int32],
    draw_B: Int64,
) -> int:
    """Do what `deal_rows_reference` does, in lists; for few domains that takes a tenth of the time."""
    if len(weight_K) > _FEW_DOMAINS:
        return deal_rows_reference(weight_K, credit_K, drawn_K, limit_K, last_K, in_order, domain_B, draw_B)
    weights, credit, drawn, limits, lasts = (
        array_K.tolist() for array_K in (weight_K, credit_K, drawn_K, limit_K, last_K)
    )
    total, dealt = sum(weights), []
    while len(dealt) < len(domain_B):
        best, best_due, best_owed = -1, 0.0, False
        for k, weight in enumerate(weights):
            credit[k] += weight
            if weight <= 0 or drawn[k] >= limits[k] or (in_order and best >= 0):
                continue
            due, owed = float(total - credit[k]) / weight, credit[k] > 0
            if best < 0 or (owed and not best_owed) or (owed == best_owed and due < best_due):
                best, best_due, best_owed = k, due, owed
        if best < 0:
            credit = [was - weight for was, weight in zip(credit, weights)]  # no row was dealt
            break
        credit[best] -= total
        dealt.append((best, drawn[best]))
        drawn[best] += 1
        if drawn[best] == lasts[best]:
            break
    credit_K[:], drawn_K[:] = credit, drawn
    if dealt:
        domain_B[: len(dealt)], draw_B[: len(dealt)] = zip(*dealt)
    return len(dealt)


@compile_loop
def deal_rows_loop(
    weight_K: Any,
    credit_K: Any,
    drawn_K: Any,
    limit_K: Any,
    last_K: Any,
    in_order: bool,
    domain_B: Any,
    draw_B: Any,
) -> int:
    """Compiled `deal_rows_reference`."""
    total = np.int64(0)
    for k in range(len(weight_K)):
        total += weight_K[k]
    for i in range(len(domain_B)):
        best, best_due, best_owed = -1, np.inf, False
        for k in range(len(weight_K)):
            if weight_K[k] <= 0 or drawn_K[k] >= limit_K[k]:
                continue
            if in_order:
                if best < 0:
                    best = k
                continue
            credit = credit_K[k] + weight_K[k]
            owed = credit > 0
            due = (total - credit) / weight_K[k]
            if best < 0 or (owed and not best_owed) or (owed == best_owed and due < best_due):
                best, best_due, best_owed = k, due, owed
        if best < 0:
            return i
        for k in range(len(weight_K)):
            credit_K[k] += weight_K[k]
        credit_K[best] -= total
        domain_B[i] = best
        draw_B[i] = drawn_K[best]
        drawn_K[best] += 1
        if drawn_K[best] == last_K[best]:
            return i + 1
    return len(domain_B)


deal_rows: Callable[..., int] = beside(deal_rows_of_few)(deal_rows_loop)
"""Compiled `deal_rows_reference`; `deal_rows_loop` is its loop, for other loops."""
