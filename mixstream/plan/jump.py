"""Many rows of a lane at once: what `kernels.deal_rows` draws of each domain, without dealing row by row.

Rows are dealt by deadline (`plan.dealing`), one a slot, so what is drawn by slot n follows from when rows may be drawn
and when they are due. Row m of a domain with weight w and first credit c may be drawn from the first slot s on with
c + s w > m W, and is due at ((m + 1) W - c) / w. Rows that are due by d go before all others. As many of them are
drawn by slot n as of a queue that serves one a slot (Reich 1958):

    E_d(n) = min over 0 <= s <= n of A_d(s) + n - s,

where A_d(s) are those that may be drawn by slot s. At slot n a domain has at most one row that may be drawn and is not
due yet; all that are due were drawn. Two neighbours in the order of these deadlines tell whether the row between them
was drawn. Only slots since the oldest of them began count, so the work is that of one period of the rarest domain,
however many rows are passed.

Rule: the result is exact, or there is none: where rows may be late, where deadlines are so close that `deal_rows`
rounds them to one number, or where a domain is too rare.

Shape suffixes: C rows that are not due, K domains, N rows that may be drawn in the window, S slots of the window.
"""

import numpy as np

from mixstream.types import Int64

LEAST_JUMP = 1 << 10
"""Rows from which on it takes less time than dealing them."""
_MOST_SLOTS = 1 << 20
_CLOSE = 2.0**-48
_EXACT = 1 << 53


def drawn_after(weight_K: Int64, credit_K: Int64, rows: int) -> Int64 | None:
    """Return how many of the next `rows` rows are of each domain, int64 [K]; None if that is not known without dealing.

    No domain has a limit, and none is read in order.

    >>> drawn_after(np.array([3, 1]), np.array([0, 0]), 10**12 + 1).tolist()
    [750000000001, 250000000000]

    Args:
        weight_K: int64 [K], weights in whole parts.
        credit_K: int64 [K], the rounding carry in parts of their sum.
        rows: how many there are.
    """
    index_K = np.flatnonzero(weight_K > 0)
    weights, credits_, total = weight_K[index_K].tolist(), credit_K[index_K].tolist(), int(weight_K.sum())
    fits = rows > 0 and total <= _EXACT and sum(credits_) >= 0 and min(credits_, default=-total) > -total
    due, rest = zip(*(divmod(c + rows * w, total) for w, c in zip(weights, credits_))) if fits else ((-1,), (0,))
    if min(due) < 0:  # also of a domain that has had no credit yet
        return None
    w_K, rest_K = np.array(weights), np.array(rest)
    coming = np.flatnonzero(rest_K > 0)
    drawn = np.array(due, dtype=np.int64)
    if len(coming):
        since_C = np.minimum(-(-rest_K[coming] // w_K[coming]), rows)  # slots in which each might be drawn, to row n
        if (slots := int(since_C.max())) > _MOST_SLOTS:
            return None
        order = _by_deadline(w_K[coming], total - rest_K[coming], total)
        if order is None:
            return None
        backlog_S = _backlog(w_K, credits_, total, rows, slots)
        executed = _executed(backlog_S, since_C[order], rows - int(drawn.sum()))
        if executed is None:
            return None
        drawn[coming[order]] += executed
    elif int(drawn.sum()) != rows:
        return None
    found_K = np.zeros_like(weight_K)
    found_K[index_K] = drawn
    return found_K


def _by_deadline(w_C: Int64, left_C: Int64, total: int) -> Int64 | None:
    """Return the order of the deadlines `left_C` / `w_C`, int64 [C]; None if some are too close to each other."""
    due_C = left_C / w_C
    order = np.argsort(due_C, kind="stable")
    due_C, period_C, w, left = due_C[order], total / w_C[order], w_C[order].tolist(), left_C[order].tolist()
    if due_C[0] <= _CLOSE * (1 + period_C[0]):
        return None
    close = np.diff(due_C) <= _CLOSE * (1 + np.maximum(period_C[1:], period_C[:-1]))
    # Equal ones are drawn by number, which is the order of a stable sort; all others must be clearly apart.
    if any(left[i] * w[i + 1] != left[i + 1] * w[i] for i in np.flatnonzero(close).tolist()):
        return None
    return order


def _backlog(w_K: Int64, credits_: list[int], total: int, rows: int, slots: int) -> Int64:
    """Return how many more rows may be drawn than slots are over, at each of the last `slots` slots, int64 [S]."""
    before = rows - slots
    passed = [c + before * w for w, c in zip(w_K.tolist(), credits_)]
    free = [max(-(-x // total), 0) for x in passed] if before else [0] * len(passed)
    wait_K = np.array([f * total - x for f, x in zip(free, passed)])  # credit that the next row waits for
    last = [max(-(-(x + slots * w) // total), 0) for x, w in zip(passed, w_K.tolist())]
    count_K = np.array([end - begin for end, begin in zip(last, free)])
    k_N = np.repeat(np.arange(len(w_K)), count_K)
    i_N = np.arange(len(k_N)) - np.repeat(np.cumsum(count_K) - count_K, count_K)
    slot_N = np.maximum(_quotient(wait_K[k_N], i_N, total, w_K[k_N]), 0)
    arrived_S = np.cumsum(np.bincount(slot_N, minlength=slots)[:slots])
    return (sum(free) - before) + arrived_S - np.arange(1, slots + 1)


def _quotient(wait_N: Int64, i_N: Int64, total: int, w_N: Int64) -> Int64:
    """Return floor((wait + i total) / w), int64 [N], where i total may exceed 64 bits."""
    whole_N, part_N = np.divmod(np.int64(total), w_N)
    found_N = np.floor(wait_N / w_N + i_N * (part_N / w_N)).astype(np.int64)
    rest_N = wait_N + i_N * part_N - found_N * w_N  # modulo 2^64, and small, since what was found is off by one at most
    found_N += rest_N // w_N
    return found_N + i_N * whole_N


def _executed(backlog_S: Int64, since_C: Int64, there: int) -> Int64 | None:
    """Return which of the rows that are not due were drawn, int64 [C] of 0 and 1; None if a row is late.

    Args:
        backlog_S: int64 [S], `_backlog`.
        since_C: int64 [C], in how many of the last slots each row might have been drawn, in the order of deadlines.
        there: how many of them were drawn.
    """
    slots = len(backlog_S)
    begin_C = slots - since_C
    borders = np.unique(begin_C)
    least = np.minimum.reduceat(backlog_S, borders)  # of each run of slots in which the same rows might be drawn
    first_C = np.searchsorted(borders, begin_C)
    served = np.zeros(len(since_C) + 1, dtype=np.int64)  # of the rows due by the j-th deadline, counted from n down
    for j in range(len(since_C) - 1, -1, -1):
        least[first_C[j] :] -= 1
        served[j] = min(0, int(least.min()))
    executed = np.diff(served)
    if -int(served[0]) != there or ((executed != 0) & (executed != 1)).any():
        return None
    return executed


def credit_after(weight_K: Int64, credit_K: Int64, rows: int, drawn_K: Int64) -> Int64:
    """Return the credits, int64 [K], after `rows` rows of which `drawn_K` were drawn."""
    total = int(weight_K.sum())
    moved = zip(weight_K.tolist(), credit_K.tolist(), drawn_K.tolist())
    return np.array([c + rows * w - n * total for w, c, n in moved], dtype=np.int64)
