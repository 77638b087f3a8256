"""Which rows to keep, given a score for each: from arrays to row numbers.

Rules. Pure functions: no files, no torch. The result depends on the arguments only. Rows are ordered by score, best
first; rows of equal score by their ordinal, lower first. A budget in rows is met exactly; a budget in tokens is met by
walking this order until the kept rows have at least so many tokens.

Memory beside the arguments and the result: at most 24 bytes a row, 32 with `outlier_cut`, 56 with `group_N`. Nothing is
sorted unless there are groups: the threshold is found by bisection over the scores' bits, the ties on it by ordinal.

Source: Sorscher et al., "Beyond neural scaling laws" (2022), for the floor of each group: without one, pruning by any
metric skews the classes.

Shape suffixes: N rows, E eligible rows, G groups.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mixstream.arguments import MOST, choice, real, shown, whole
from mixstream.errors import ConfigError
from mixstream.plan.permutation import permute
from mixstream.plan.rng import derive_key
from mixstream.types import Int64

Side = Literal["high", "low"]
Unit = Literal["rows", "tokens"]

_Bool = NDArray[np.bool_]


def keep(
    score_N: NDArray[Any],
    *,
    side: Side,
    rows: int | None = None,
    fraction: float | None = None,
    tokens: int | None = None,
    by: Unit = "rows",
    tokens_N: NDArray[Any] | None = None,
    outlier_cut: float | None = None,
    group_N: NDArray[Any] | None = None,
    floor: float = 0.0,
    allowed_N: _Bool | None = None,
) -> Int64:
    """Return the ordinals of the rows to keep, ascending, int64.

    Give one budget: `rows`, `tokens` or `fraction`. A fraction f of n allowed rows is ceil(f n) rows, or with
    `by="tokens"` that share of their tokens. 0.1 means one tenth exactly, so that 0.1 of 30 rows are 3. A fraction of 1
    is all that `outlier_cut` leaves.

    With `group_N`, each group g first keeps ceil(floor · f · n_g) of its best rows, where f is the share of the
    eligible rows (or tokens) that is kept of all; the best remaining rows fill the budget. Where these ceilings
    exceed the budget, they are rounded down instead. `floor=0` is the plain rule.

    >>> score_N = np.array([0.9, 0.8, 0.7, 0.6, 0.2, 0.1])
    >>> keep(score_N, side="high", rows=3).tolist()
    [0, 1, 2]
    >>> group_N = np.array([0, 0, 0, 0, 1, 1])  # the second group would lose all its rows
    >>> keep(score_N, side="high", rows=3, group_N=group_N, floor=0.5).tolist()
    [0, 1, 4]

    Args:
        score_N: [N], finite numbers.
        side: "high" keeps the largest scores, "low" the smallest.
        rows: how many rows to keep.
        fraction: the share to keep, above 0 and at most 1.
        tokens: how many tokens to keep; the row that reaches this number is kept.
        by: what `fraction` counts.
        tokens_N: [N], tokens of each row, integers >= 0; needed for a budget in tokens.
        outlier_cut: the share of the allowed rows that stays eligible, above 0 and below 1: of n allowed rows the
            ceil(n · outlier_cut) smallest scores. With 0.995 the largest 0.5 % are never kept, on either side. The
            budget still counts all allowed rows.
        group_N: [N], the group of each row, integers.
        floor: the share, from 0 to 1, of its part under uniform pruning that a group keeps at least.
        allowed_N: bool [N], rows that may be kept; default: all.

    Raises:
        ConfigError: an argument out of range, or a budget larger than what is eligible.
    """
    _check(score_N, side, tokens_N=tokens_N, group_N=group_N, allowed_N=allowed_N, floor=floor)
    index_E = np.arange(len(score_N)) if allowed_N is None else np.flatnonzero(allowed_N)
    weight_E = None if tokens_N is None else tokens_N[index_E]
    unit, budget = _budget(index_E, weight_E, rows=rows, fraction=fraction, tokens=tokens, by=by)
    key_E = ordered_bits(score_N[index_E])
    if outlier_cut is not None:
        inside_E = _inside(key_E, outlier_cut)
        index_E, key_E = index_E[inside_E], key_E[inside_E]
        weight_E = None if weight_E is None else weight_E[inside_E]
    weight_E = weight_E if unit == "tokens" else None
    there = _total(index_E, weight_E)
    if fraction == 1:
        budget = there
    if there < budget:
        cut = f" after the outlier cut of {outlier_cut:g}" if outlier_cut is not None else ""
        raise ConfigError(
            f"{budget:,} {unit} are to be kept, but only {there:,} are eligible{cut}: lower "
            f"--{unit if fraction is None else 'fraction'}"
        )
    if side == "low":
        key_E = ~key_E
    if group_N is None or not floor or not len(index_E):
        return index_E[_best(key_E, weight_E, budget)]
    kept_E = _floors(key_E, weight_E, group_N[index_E], share=Fraction(repr(float(floor))), budget=budget)
    left = budget - _weight(kept_E, weight_E)
    if left > 0:
        rest_E = np.flatnonzero(~kept_E)
        kept_E[rest_E] = _best(key_E[rest_E], None if weight_E is None else weight_E[rest_E], left)
    return index_E[kept_E]


def below_cut(score_N: NDArray[Any], *, outlier_cut: float, allowed_N: _Bool | None = None) -> _Bool:
    """Return which rows `keep` may keep under an outlier cut, bool [N]; the arguments are those of `keep`.

    >>> below_cut(np.array([0.1, 9.0, 0.3, 0.2]), outlier_cut=0.75).tolist()
    [True, False, True, True]

    Raises:
        ConfigError: an argument out of range.
    """
    _check(score_N, "high", floor=0, allowed_N=allowed_N, tokens_N=None)
    index_E = np.arange(len(score_N)) if allowed_N is None else np.flatnonzero(allowed_N)
    inside_N = np.zeros(len(score_N), dtype=bool)
    inside_N[index_E[_inside(ordered_bits(score_N[index_E]), outlier_cut)]] = True
    return inside_N


def random_rows(
    count: int,
    *,
    seed: int,
    rows: int | None = None,
    tokens: int | None = None,
    tokens_N: NDArray[Any] | None = None,
    allowed_N: _Bool | None = None,
) -> Int64:
    """Return a uniform random choice of `rows` rows, or of rows with `tokens` tokens, ascending, int64.

    This is the control that a pruned corpus is compared with. Rows are drawn without replacement, among the allowed
    ones. By tokens, the drawn rows are walked until they have at least so many.

    >>> random_rows(10, rows=4, seed=0).tolist() == random_rows(10, rows=4, seed=0).tolist()
    True
    >>> len(random_rows(10, rows=4, seed=1))
    4

    Args:
        count: the number of rows, N.
        seed: any integer; the same seed and the same allowed rows give the same choice.
        rows: how many rows to draw.
        tokens: how many tokens to draw, instead of `rows`.
        tokens_N: [N], tokens of each row.
        allowed_N: bool [N], rows that may be drawn; default: all.

    Raises:
        ConfigError: not exactly one budget, one larger than what is allowed, or numbers that are no tokens.
    """
    count, seed = whole("count", count, least=0, most=1 << 48), whole("seed", seed)  # an array has so many
    index_E = np.arange(count) if allowed_N is None else np.flatnonzero(allowed_N)
    if tokens_N is not None:
        check_tokens(tokens_N)
    weight_E = None if tokens_N is None else tokens_N[index_E]
    unit, budget = _budget(index_E, weight_E, rows=rows, fraction=None, tokens=tokens, by="rows")
    weight_E = weight_E if unit == "tokens" else None
    if (there := _total(index_E, weight_E)) < budget:
        raise ConfigError(f"{budget:,} {unit} are to be drawn, but only {there:,} are allowed: lower --{unit}")
    size = len(index_E)
    if size == 0:
        return index_E
    drawn = permute(np.arange(size if weight_E is not None else budget), size, derive_key(seed, "selection", "random"))
    if weight_E is not None:
        drawn = drawn[: _reached(weight_E[drawn], budget)]
    return index_E[np.sort(drawn)]


def other_side(side: Side) -> Side:
    """Return the opposite side, for the inverse control.

    >>> other_side("high")
    'low'
    """
    return "low" if side == "high" else "high"


def ordered_bits(value_N: NDArray[Any]) -> NDArray[Any]:
    """Return unsigned integers in the order of `value_N`, uint32 or uint64 [N]; equal values have equal integers.

    >>> ordered_bits(np.array([-1.5, -0.0, 0.0, 2.0], dtype=np.float32)).tolist()
    [1077936127, 2147483648, 2147483648, 3221225472]
    """
    value_N = np.asarray(value_N)
    if value_N.dtype == np.uint64:  # half of them are no int64
        return value_N.copy()
    if value_N.dtype.kind in "iub":
        return value_N.astype(np.int64).view(np.uint64) ^ np.uint64(1 << 63)
    wide = value_N.dtype.itemsize > 4
    signed_N = value_N.astype(np.float64 if wide else np.float32) + 0  # -0.0 becomes 0.0; both mean the same score
    bits_N = signed_N.view(np.uint64 if wide else np.uint32)
    top = bits_N.dtype.type(1 << (63 if wide else 31))
    negative_N = bits_N >= top
    bits_N ^= top
    np.bitwise_xor(bits_N, bits_N.dtype.type(int(top) - 1), out=bits_N, where=negative_N)
    return bits_N


def check_tokens(tokens_N: NDArray[Any]) -> None:
    """Check that an array can be the tokens of rows, and that their sum is a number of 63 bits.

    Raises:
        ConfigError: not integers, negative, or too many.
    """
    if tokens_N.dtype.kind not in "iu":
        raise ConfigError(f"tokens has dtype {tokens_N.dtype}; give the number of tokens of each row")
    if len(tokens_N) and (int(tokens_N.min()) < 0 or int(tokens_N.max()) * len(tokens_N) >= 1 << 63):
        raise ConfigError(
            f"the tokens of {len(tokens_N):,} rows reach from {tokens_N.min()} to {tokens_N.max()}: no row has fewer "
            "than 0, and no corpus has 2^63; correct the column of tokens, or count rows"
        )


def ceil_share(share: float, total: int) -> int:
    """Return ceil(share · total), with `share` taken as the decimal number that was typed.

    >>> ceil_share(0.07, 100), 0.07 * 100
    (7, 7.000000000000001)
    """
    return ceil(Fraction(repr(float(share))) * total)


def _check(score_N: NDArray[Any], side: Side, *, floor: float, **arrays: NDArray[Any] | None) -> None:
    if not isinstance(side, str) or side not in {"high", "low"}:
        raise ConfigError(f'side {shown(side)}: give "high" or "low"; there is no default, since either can be right')
    if not 0 <= real("floor", floor) <= 1:
        raise ConfigError(f"floor {floor:g}: give a share from 0 to 1")
    if score_N.ndim != 1:
        raise ConfigError(f"scores of shape {score_N.shape}: give one number for each row")
    for name, array in arrays.items():
        if array is not None and array.shape != score_N.shape:
            raise ConfigError(f"{name} has the shape {array.shape}, but there are {len(score_N):,} scores")
    if (tokens_N := arrays["tokens_N"]) is not None:
        check_tokens(tokens_N)
    allowed_N = arrays["allowed_N"]
    if score_N.dtype.kind == "f":
        finite_N = np.isfinite(score_N)
        if allowed_N is not None:
            finite_N |= ~allowed_N
        if not finite_N.all():
            at = int(np.argmin(finite_N))
            raise ConfigError(
                f"the score of row {at:,} is {score_N[at]}: leave rows without a score out of `allowed_N`"
            )


def _budget(
    index_E: Int64,
    weight_E: NDArray[Any] | None,
    *,
    rows: int | None,
    fraction: float | None,
    tokens: int | None,
    by: Unit,
) -> tuple[Unit, int]:
    """Return what the budget counts, and how many of it."""
    given = [
        f"{name} {shown(value)}"
        for name, value in (("rows", rows), ("fraction", fraction), ("tokens", tokens))
        if value is not None
    ]
    if len(given) != 1:
        raise ConfigError(
            f"{len(given)} budgets are given ({', '.join(given) or 'none'}): give one of rows, tokens and fraction"
        )
    if fraction is not None and not 0 < real("fraction", fraction) <= 1:
        raise ConfigError(f"fraction {fraction:g}: give a share above 0 and at most 1")
    choice("by", by, ("rows", "tokens"))
    for name, value in (("rows", rows), ("tokens", tokens)):
        if value is not None and whole(name, value, most=MOST) < 0:
            raise ConfigError(f"a budget of {shown(value)} {name}: give 0 or more")
    unit: Unit = "tokens" if tokens is not None or (fraction is not None and by == "tokens") else "rows"
    if unit == "tokens" and weight_E is None:
        raise ConfigError("a budget in tokens needs the tokens of each row: give `tokens_N`, or count rows")
    if fraction is not None:
        return unit, ceil_share(fraction, _total(index_E, weight_E if unit == "tokens" else None))
    return unit, int(tokens if unit == "tokens" else rows)  # type: ignore[arg-type]


def _inside(key_E: NDArray[Any], cut: float) -> _Bool:
    """Return the rows whose score is not cut off as an outlier, bool [E]."""
    if not 0 < real("outlier_cut", cut) < 1:
        raise ConfigError(f"outlier cut {cut:g} (`outlier_cut`): give the share of rows to stay below, such as 0.995")
    return _best(~key_E, None, ceil_share(cut, len(key_E)))


def _best(key_E: NDArray[Any], weight_E: NDArray[Any] | None, budget: int) -> _Bool:
    """Return which keys are the largest that meet `budget`, bool [E]; of equal keys the first ones are."""
    if budget <= 0 or not len(key_E):
        return np.zeros(len(key_E), dtype=bool)
    low, high = 0, int(np.iinfo(key_E.dtype).max)  # the largest t with weight(key >= t) >= budget lies in [low, high]
    while low < high:
        middle = (low + high + 1) // 2
        above_E = key_E >= key_E.dtype.type(middle)
        low, high = (middle, high) if _weight(above_E, weight_E) >= budget else (low, middle - 1)
    threshold = key_E.dtype.type(low)
    kept_E = key_E > threshold
    left = budget - _weight(kept_E, weight_E)
    ties = np.flatnonzero(key_E == threshold)
    kept_E[ties[: left if weight_E is None else _reached(weight_E[ties], left)]] = True
    return kept_E


def _floors(
    key_E: NDArray[Any], weight_E: NDArray[Any] | None, group_E: NDArray[Any], *, share: Fraction, budget: int
) -> _Bool:
    """Return the rows that the floors of their groups keep, bool [E]."""
    if group_E.dtype.kind not in "iub":
        raise ConfigError(f"groups of dtype {group_E.dtype}: give an integer for each row")
    _, code_E, size_G = np.unique(group_E, return_inverse=True, return_counts=True)
    del group_E
    order_E = np.lexsort((~key_E, code_E))  # by group, best first; stable, so ties stay by ordinal
    begin_G = np.cumsum(size_G) - size_G
    sorted_E = None if weight_E is None else weight_E[order_E].astype(np.int64)
    before_E = np.arange(len(order_E)) if sorted_E is None else np.cumsum(sorted_E) - sorted_E
    total_G = size_G if sorted_E is None else np.add.reduceat(sorted_E, begin_G)
    exact_G = [share * budget * int(total) / max(int(total_G.sum()), 1) for total in total_G]
    floor_G = np.array([ceil(exact) for exact in exact_G], dtype=np.int64)
    if sorted_E is None and floor_G.sum() > budget:
        floor_G = np.array([exact.numerator // exact.denominator for exact in exact_G], dtype=np.int64)
    kept_E = np.zeros(len(order_E), dtype=bool)
    kept_E[order_E[before_E - np.repeat(before_E[begin_G], size_G) < np.repeat(floor_G, size_G)]] = True
    return kept_E


def _total(index_E: Int64, weight_E: NDArray[Any] | None) -> int:
    return len(index_E) if weight_E is None else int(weight_E.sum(dtype=np.int64))


def _weight(mask_E: _Bool, weight_E: NDArray[Any] | None) -> int:
    return int(np.count_nonzero(mask_E) if weight_E is None else np.sum(weight_E, where=mask_E, dtype=np.int64))


def _reached(weight_E: NDArray[Any], budget: int) -> int:
    """Return how many of the first rows have at least `budget` tokens together."""
    return int(np.searchsorted(np.cumsum(weight_E, dtype=np.int64), budget)) + 1 if budget > 0 else 0
