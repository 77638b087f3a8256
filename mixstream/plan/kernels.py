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

from mixstream.plan.compiled import beside, compile_loop, compiled
from mixstream.plan.distinct import distinct
from mixstream.types import Int64

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_ROUNDS = 8
_FEW = 1 << 22  # entries that numpy permutes in less time than importing numba takes
_FEW_DOMAINS = 64
_CACHED = 1 << 15  # values that numpy permutes together: what is between stays in the processor's cache
_MIN_BITS = 6  # fewer bits reach too few of the permutations; small sizes walk more often instead


# --- permute: a keyed bijection of [0, size), one index at a time, in no memory ---------------------------------------


def _mix_reference(x: Any) -> Any:  # one number or an array; compiled as `_mix`
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_MIX_1)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_MIX_2)
    return x ^ (x >> np.uint64(31))


def permute_reference(index_B: Int64, size: int, key: int) -> Int64:
    """Return the images of `index_B` under the permutation of [0, size) that the 64-bit `key` selects; int64 [B].

    An unbalanced Feistel network of eight rounds (splitmix64's finaliser as round function) over the next power of two,
    applied again until the value lies in [0, size). It is a bijection because each round is one. It is not a secure
    cipher. Source: Black and Rogaway, "Ciphers with arbitrary finite domains" (2002), cycle walking.

    >>> permute_reference(np.arange(8), size=8, key=5).tolist()
    [0, 3, 2, 1, 5, 7, 6, 4]
    """
    if len(index_B) > _CACHED:
        return np.concatenate(
            [permute_reference(index_B[at : at + _CACHED], size, key) for at in range(0, len(index_B), _CACHED)]
        )
    bits = max(int(size - 1).bit_length(), _MIN_BITS)
    low_bits = np.uint64(bits - bits // 2)
    low_mask, high_mask = np.uint64((1 << int(low_bits)) - 1), np.uint64((1 << (bits // 2)) - 1)

    def applied(value_B: NDArray[np.uint64]) -> NDArray[np.uint64]:
        low, high = value_B & low_mask, value_B >> low_bits
        for r in range(0, _ROUNDS, 2):
            high ^= _mix_reference(low ^ np.uint64((key + (r + 1) * _GOLDEN) & (2**64 - 1))) & high_mask
            low ^= _mix_reference(high ^ np.uint64((key + (r + 2) * _GOLDEN) & (2**64 - 1))) & low_mask
        return (high << low_bits) | low

    out, table = np.asarray(index_B, dtype=np.uint64).copy(), None
    if 1 << bits <= max(2 * len(out), 1 << _MIN_BITS):  # the images of all values, looked up: it walks quicker
        table = applied(np.arange(1 << bits, dtype=np.uint64))
    walking = np.arange(len(out))
    while len(walking):
        out[walking] = applied(out[walking]) if table is None else table[out[walking]]
        walking = walking[out[walking] >= np.uint64(size)]
    return out.astype(np.int64)


def _bits_scalar(size: Any) -> Any:
    bits = _MIN_BITS
    while (size - 1) >> bits:
        bits += 1
    return bits


def _permute_scalar(index: Any, size: Any, bits: Any, key: Any) -> Any:
    low_bits = np.uint64(bits - bits // 2)
    low_mask = (np.uint64(1) << low_bits) - np.uint64(1)
    high_mask = (np.uint64(1) << np.uint64(bits // 2)) - np.uint64(1)
    value = np.uint64(index)
    while True:
        low, high = value & low_mask, value >> low_bits
        for r in range(0, _ROUNDS, 2):
            high ^= _mix(low ^ (key + np.uint64(r + 1) * np.uint64(_GOLDEN))) & high_mask
            low ^= _mix(high ^ (key + np.uint64(r + 2) * np.uint64(_GOLDEN))) & low_mask
        value = (high << low_bits) | low
        if value < np.uint64(size):
            return np.int64(value)


_mix = compile_loop(_mix_reference)
bits_of = compile_loop(_bits_scalar)
permute_one = compile_loop(_permute_scalar)


@compiled(
    lambda index_B, size, key: permute_reference(index_B, size, int(key)),
    small=lambda index_B, size, key: len(index_B) <= _FEW,
)
def _permute(index_B: Any, size: int, key: Any) -> Any:
    out, bits = np.empty(len(index_B), dtype=np.int64), bits_of(size)
    for i in range(len(index_B)):
        out[i] = permute_one(index_B[i], size, bits, key)
    return out


def permute(index_B: Int64, size: int, key: int) -> Int64:
    """Compiled `permute_reference`."""
    if size == 1:  # domains of one shard
        return np.zeros(len(index_B), dtype=np.int64)
    return _permute(index_B, size, np.uint64(key))


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


@compiled(locate_reference)
def locate(
    position_B: Any,
    window_start_W: Any,
    window_key_W: Any,
    piece_start_P: Any,
    piece_shard_P: Any,
    piece_row_P: Any,
    shuffle: bool,
) -> Any:
    """Compiled `locate_reference`."""
    shard_B = np.empty(len(position_B), dtype=np.int64)
    row_B = np.empty(len(position_B), dtype=np.int64)
    w, start, end, bits = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    for i in range(len(position_B)):
        position = position_B[i]
        if shuffle:
            if position < start or position >= end:  # neighbours have one window nearly always
                w = np.searchsorted(window_start_W, position, side="right") - 1
                start, end = window_start_W[w], window_start_W[w + 1]
                bits = bits_of(end - start)
            position = start + permute_one(position - start, end - start, bits, window_key_W[w])
        p = np.searchsorted(piece_start_P, position, side="right") - 1
        shard_B[i] = piece_shard_P[p]
        row_B[i] = piece_row_P[p] + position - piece_start_P[p]
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
