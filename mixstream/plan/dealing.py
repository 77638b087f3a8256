"""Rows dealt by a heap of deadlines: what `kernels.deal_rows` deals, in O(K + B log K) instead of O(B K).

A domain's next row is due when (W - c) / w more rows are dealt, and that moment, its *deadline*, stays where it is
until the row is drawn. So a row is the earliest deadline of the domains that have credit, and only the domain that is
drawn gets another one: W / w rows later. It has credit again once the deadline of the row that was drawn has passed.

Rule: the rows are those of `kernels.deal_rows_reference`, to the byte. It compares deadlines as float64, relative to
the present row; here they are compared exactly, as q + r / w rows with whole numbers, from the first row of the call.
The two differ only where deadlines that are not equal round to the same float64. Where two of them are that close, the
loop gives up, and the rows are dealt one by one.

Shape suffixes: B rows, K domains.
"""

from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.plan import kernels
from mixstream.plan.compiled import NotCompiledError, compile_loop
from mixstream.plan.kernels import deal_rows_loop
from mixstream.types import Int64

_FEW = 64
"""Domains up to which all are looked at for every row: it takes less time than a heap."""
_CLOSE = 2.0**-49
"""Deadlines that differ by less than this part of what is left until them may round to one float64."""
_EXACT = 2.0**53
"""Whole numbers up to this are float64 exactly."""
GAVE_UP = -1
"""What `deal_by_deadline` returns where rounding may decide between two domains."""
_TIES = 8
"""Deadlines that several domains share, and of which some were drawn, of which the heap keeps account at a time."""


def deal_rows(
    weight_K: Int64,
    credit_K: Int64,
    drawn_K: Int64,
    limit_K: Int64,
    last_K: Int64,
    in_order: bool,
    domain_B: NDArray[np.int32],
    draw_B: Int64,
) -> int:
    """Deal rows; arguments, results and rows are those of `kernels.deal_rows_reference`.

    >>> credit_K, drawn_K, never_K = np.zeros(2, np.int64), np.zeros(2, np.int64), np.full(2, 99)
    >>> domain_B, draw_B = np.zeros(6, np.int32), np.zeros(6, np.int64)
    >>> deal_rows(np.array([3, 1]), credit_K, drawn_K, never_K, never_K, False, domain_B, draw_B)
    6
    >>> domain_B.tolist(), draw_B.tolist(), credit_K.tolist()
    ([0, 0, 0, 1, 0, 0], [0, 1, 2, 0, 3, 4], [-2, 2])
    """
    arrays = weight_K, credit_K, drawn_K, limit_K, last_K
    if len(weight_K) > _FEW and not in_order:
        with suppress(NotCompiledError):
            filled = int(deal_by_deadline(*arrays, domain_B, draw_B))
            if filled != GAVE_UP:
                return filled
    return int(kernels.deal_rows(*arrays, in_order, domain_B, draw_B))


def deal_lanes(
    part_LK: Int64, cursor_LK: tuple[Int64, Int64], limit_LK: Int64, last_LK: Int64, domain_B: Any, draw_B: Any
) -> bool:
    """Deal the rows of all lanes, side by side, by one call; return whether each lane was filled.

    Args:
        part_LK: int64 [L, K], the weights of each lane in whole parts.
        cursor_LK: credits and draws, int64 [L, K] each; written to.
        limit_LK: int64 [L, K], draws at which a domain is not drawn.
        last_LK: int64 [L, K], draws after which it leaves the mix.
        domain_B: int32 [B], written to.
        draw_B: int64 [B], written to.
    """
    lanes, domains = part_LK.shape
    if lanes == 1 or domains > _FEW:
        return False
    rows_LR = domain_B.reshape(lanes, -1), draw_B.reshape(lanes, -1)
    try:
        return bool(_deal_lanes(np.ascontiguousarray(part_LK), *cursor_LK, limit_LK, last_LK, *rows_LR))
    except NotCompiledError:
        return False


@compile_loop
def _compare(r: Any, w: Any, other_r: Any, other_w: Any) -> int:
    """Return -1, 0 or 1 as r / w is less than, equal to or more than other_r / other_w; 0 <= r < w."""
    if w == other_w:
        return int(r > other_r) - int(r < other_r)
    near, far = r / w, other_r / other_w
    if abs(near - far) > 2.0**-50:
        return int(near > far) - int(near < far)
    sign = 1
    while r and other_r:  # their products may exceed 64 bits: compare the continued fractions
        whole, other_whole = w // r, other_w // other_r
        if whole != other_whole:
            return -sign if whole > other_whole else sign
        w, r, other_w, other_r, sign = r, w - whole * r, other_r, other_w - whole * other_r, -sign
    return sign * (int(r > 0) - int(other_r > 0))


@compile_loop
def _order(a: Any, b: Any, row_K: Any, rest_K: Any, weight_K: Any) -> int:
    """Return -1, 0 or 1 as the deadline of domain `a` is before, at or after that of `b`."""
    if row_K[a] != row_K[b]:
        return int(row_K[a] > row_K[b]) - int(row_K[a] < row_K[b])
    return _compare(rest_K[a], weight_K[a], rest_K[b], weight_K[b])


@compile_loop
def _sink(heap_K: Any, size: Any, at: Any, row_K: Any, rest_K: Any, weight_K: Any) -> None:
    """Move the domain at place `at` of the heap down to where it belongs: by deadline, then by number."""
    k = heap_K[at]
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size:
            order = _order(heap_K[child + 1], heap_K[child], row_K, rest_K, weight_K)
            if order < 0 or (order == 0 and heap_K[child + 1] < heap_K[child]):
                child += 1
        order = _order(k, heap_K[child], row_K, rest_K, weight_K)
        if order < 0 or (order == 0 and k < heap_K[child]):
            break
        heap_K[at], at = heap_K[child], child
    heap_K[at] = k


@compile_loop
def _rise(heap_K: Any, at: Any, row_K: Any, rest_K: Any, weight_K: Any) -> None:
    """Move the domain at place `at` of the heap up to where it belongs."""
    k = heap_K[at]
    while at > 0:
        parent = (at - 1) // 2
        order = _order(k, heap_K[parent], row_K, rest_K, weight_K)
        if order > 0 or (order == 0 and k > heap_K[parent]):
            break
        heap_K[at], at = heap_K[parent], parent
    heap_K[at] = k


@compile_loop
def _are_close(row: Any, rest: Any, weight: Any, other_row: Any, other_rest: Any, other_weight: Any, rows: Any) -> bool:
    """Return whether two deadlines that differ may round to one float64 within the next `rows` rows."""
    gap = (other_row - row) + (other_rest / other_weight - rest / weight)
    return abs(gap) <= _CLOSE * (1.0 + abs(float(row)) + rows)


@compile_loop
def _soonest(heap_K: Any, size: Any, row_K: Any, due_B: Any) -> int:
    """Keep the domains of which some may be drawn in B rows, and those within a row of them; return how many."""
    B, before, most = len(due_B), 0, len(due_B) - 1
    for row in range(B - 1):
        before += due_B[row]
        if before >= B:
            most = row
            break
    if most == B - 1:
        return size
    kept = 0
    for at in range(size):
        if row_K[heap_K[at]] <= most + 1:
            heap_K[kept] = heap_K[at]
            kept += 1
    return kept


@compile_loop
def _first_due(row: Any, row_K: Any, rest_K: Any, weight_K: Any, open_K: Any) -> int:
    """Return the open domain that is due first, where none has credit; -1 if none is open."""
    best, best_due = -1, np.inf
    for k in range(len(weight_K)):
        if open_K[k]:
            due = ((row_K[k] - row) * weight_K[k] + rest_K[k]) / weight_K[k]
            if best < 0 or due < best_due:
                best, best_due = k, due
    return best


@compile_loop
def _are_hidden(heap_K: Any, ties: Any, row_K: Any, rest_K: Any, weight_K: Any, rows: Any) -> bool:
    """Return whether a deadline is close to one of `ties`, [3, T], which several domains have, and is not the same."""
    for t in range(ties.shape[1]):
        for k in heap_K:
            if row_K[k] == ties[0, t] and _compare(rest_K[k], weight_K[k], ties[1, t], ties[2, t]) == 0:
                continue
            if _are_close(ties[0, t], ties[1, t], ties[2, t], row_K[k], rest_K[k], weight_K[k], rows):
                return True
    return False


@compile_loop
def _set_deadline(k: Any, left: Any, row_K: Any, rest_K: Any, weight_K: Any) -> None:
    """Set the deadline of domain `k` to `left` / weight rows."""
    w = weight_K[k]
    row_K[k] = np.int64(left / w)  # to the next whole number or so: dividing whole numbers takes much longer
    rest_K[k] = left - row_K[k] * w
    while rest_K[k] < 0:
        rest_K[k] += w
        row_K[k] -= 1
    while rest_K[k] >= w:
        rest_K[k] -= w
        row_K[k] += 1


@compile_loop
def _take_out(k: Any, first_B: Any, next_K: Any, opens_K: Any) -> None:
    """Take domain `k` out of the list of those that have credit at a later row."""
    if first_B[opens_K[k]] == k:
        first_B[opens_K[k]] = next_K[k]
        return
    at = first_B[opens_K[k]]
    while next_K[at] != k:
        at = next_K[at]
    next_K[at] = next_K[k]


@compile_loop
def _begin(
    weight_K: Any, credit_K: Any, total: Any, row_K: Any, rest_K: Any, open_K: Any, heap_K: Any, lists: Any
) -> int:
    """Set the deadlines, and which domains have credit at which row; return how many have now, or `GAVE_UP`."""
    first_B, next_K, opens_K = lists
    B, size = len(first_B), 0
    due_B = np.zeros(B, np.int64)
    for k in range(len(weight_K)):
        w = weight_K[k]
        if w <= 0:
            open_K[k] = False
            continue
        if abs(float(total - credit_K[k])) > _EXACT:
            return GAVE_UP
        _set_deadline(k, total - credit_K[k], row_K, rest_K, weight_K)
        if not open_K[k]:
            continue
        opens = 0 if credit_K[k] > -w else -credit_K[k] // w
        if opens <= 0:
            heap_K[size] = k
            size += 1
            due_B[min(max(row_K[k], 0), B - 1)] += 1
        elif opens < B:
            next_K[k], first_B[opens], opens_K[k] = first_B[opens], k, opens
    size = _soonest(heap_K, size, row_K, due_B)
    for at in range(size // 2 - 1, -1, -1):
        _sink(heap_K, size, at, row_K, rest_K, weight_K)
    return size


@compile_loop
def deal_by_deadline(
    weight_K: Any, credit_K: Any, drawn_K: Any, limit_K: Any, last_K: Any, domain_B: Any, draw_B: Any
) -> int:
    """Deal rows as `deal_rows`, not in order; or return `GAVE_UP`, with credits and draws as before.

    Deadlines are `row_K` + `rest_K` / `weight_K` rows after the first. `heap_K` has the open domains with credit, and
    a list of each later row, `first_B` and `next_K`, those that have it from then on.
    """
    K, B = len(weight_K), len(domain_B)
    total = np.int64(0)
    for k in range(K):
        total += weight_K[k]
    row_K, rest_K, heap_K = np.zeros(K, np.int64), np.zeros(K, np.int64), np.empty(K, np.int64)
    open_K, now_K = drawn_K < limit_K, drawn_K.copy()
    first_B, next_K, opens_K = np.full(B, -1, np.int64), np.full(K, -1, np.int64), np.full(K, -1, np.int64)
    size = _begin(weight_K, credit_K, total, row_K, rest_K, open_K, heap_K, (first_B, next_K, opens_K))
    if size == GAVE_UP:
        return GAVE_UP
    ties, tied, filled = np.zeros((3, _TIES), np.int64), 0, B
    for i in range(B):
        k = first_B[i]
        while k >= 0:
            heap_K[size] = k
            size += 1
            _rise(heap_K, size - 1, row_K, rest_K, weight_K)
            k = next_K[k]
        owed = size > 0
        best = heap_K[0] if owed else _first_due(i + 1, row_K, rest_K, weight_K, open_K)
        if best < 0:
            filled = i
            break
        w, row, rest = weight_K[best], row_K[best], rest_K[best]
        domain_B[i], draw_B[i] = best, now_K[best]
        now_K[best] += 1
        row_K[best], rest_K[best] = row + total // w, rest + total % w
        if rest_K[best] >= w:
            row_K[best], rest_K[best] = row_K[best] + 1, rest_K[best] - w
        if float(row_K[best] - i - 2) * w + rest_K[best] > _EXACT:
            return GAVE_UP
        open_K[best] = now_K[best] < limit_K[best]
        opens = max(row, i + 1)  # the row at which it has credit again
        if opens_K[best] > i:
            _take_out(best, first_B, next_K, opens_K)
        if owed and not (open_K[best] and opens == i + 1):
            size -= 1
            heap_K[0] = heap_K[size]
        opens_K[best] = -1
        if open_K[best] and opens < B and (opens > i + 1 or not owed):
            next_K[best], first_B[opens], opens_K[best] = first_B[opens], best, opens
        if owed and size:
            _sink(heap_K, size, 0, row_K, rest_K, weight_K)
            k = heap_K[0]
            same = row_K[k] == row and _compare(rest_K[k], weight_K[k], rest, w) == 0
            if not same and _are_close(row, rest, w, row_K[k], rest_K[k], weight_K[k], B):
                return GAVE_UP
            known = tied > 0 and ties[0, tied - 1] == row
            known = known and _compare(ties[1, tied - 1], ties[2, tied - 1], rest, w) == 0
            if same and not known:
                if tied == _TIES:
                    return GAVE_UP
                ties[0, tied], ties[1, tied], ties[2, tied] = row, rest, w
                tied += 1
            elif known and not same:
                tied -= 1
        if now_K[best] == last_K[best]:
            filled = i + 1
            break
    # What follows a deadline that several domains have was looked at only if all of them were drawn.
    if _are_hidden(heap_K[:size], ties[:, :tied], row_K, rest_K, weight_K, B):
        return GAVE_UP
    for k in range(K):
        if weight_K[k] > 0:
            credit_K[k] = total - ((row_K[k] - filled) * weight_K[k] + rest_K[k])
            drawn_K[k] = now_K[k]
    return filled


@compile_loop
def _deal_lanes(
    part_LK: Any, credit_LK: Any, drawn_LK: Any, limit_LK: Any, last_LK: Any, domain_LR: Any, draw_LR: Any
) -> bool:
    for lane in range(len(part_LK)):
        arrays = part_LK[lane], credit_LK[lane], drawn_LK[lane], limit_LK[lane], last_LK[lane]
        if deal_rows_loop(*arrays, False, domain_LR[lane], draw_LR[lane]) != domain_LR.shape[1]:
            return False
    return True
