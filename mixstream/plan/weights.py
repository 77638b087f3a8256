"""Algebra on the simplex: from float weights to whole rows, without losing a row.

What decides which row comes next is integer arithmetic, so that a plan is the same on every machine:

- Float weights are quantised once, to int64 parts of `WEIGHT_UNIT` (`quantise`).
- An amount is split into whole numbers by largest remainder (`apportion`).
- The *credit* of a domain is the fraction of a row that it is owed, in units of 1 / sum(weights) row. Every row of a
  lane adds each domain's weight to its credit; drawing a row subtracts the sum of the weights. The credits of a lane
  sum to zero (`kernels.deal_rows_reference`).

Shape suffixes: K domains, L lanes.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixstream.errors import ConfigError
from mixstream.lazy import later
from mixstream.types import Float64, Int64

if TYPE_CHECKING:
    from fractions import Fraction
else:
    (Fraction,) = later("fractions", "Fraction")

WEIGHT_UNIT = 1 << 32
"""Mixers return weights as floats; the plan takes them as whole parts of this unit."""

SHARE_UNIT = 1 << 52
"""Shares that are fixed for a run are whole parts of this finer unit, so that one of 1e-15 is not lost."""


def normalise(weights_K: ArrayLike, *, what: str = "weights") -> Float64:
    """Return `weights_K` as float64 [K] that sums to 1; `what` names them in errors.

    Raises:
        ConfigError: a weight is negative, infinite, NaN or no number, all are zero, or their sum overflows.
    """
    try:
        weights = np.asarray(weights_K, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # of a torch tensor, RuntimeError
        raise ConfigError(f"{what} must be numbers >= 0, one per domain; got {weights_K!r}") from error
    if weights.ndim != 1 or not len(weights) or not np.isfinite(weights).all() or (weights < 0).any():
        raise ConfigError(f"{what} must be finite numbers >= 0, one per domain; got {weights.tolist()}")
    with np.errstate(over="ignore"):
        total = weights.sum()
    if not np.isfinite(total):
        raise ConfigError(
            f"{what} add up to more than a float64 can hold; got {weights.tolist()}: only their ratios count, so give "
            "smaller numbers"
        )
    if total <= 0:
        raise ConfigError(f"{what} are all zero: no domain could be drawn; give at least one a positive weight")
    return weights / total


def apportion(amount: int, weights_K: ArrayLike) -> Int64:
    """Split `amount` into int64 [K] whole parts by largest remainder; ties go to the lower index.

    Each part differs from `amount * weight` by less than one. A domain of weight zero gets nothing.

    >>> apportion(7, [0.5, 0.3, 0.2]).tolist()  # 3.5, 2.1 and 1.4 rows: the largest remainder gets the seventh row
    [4, 2, 1]
    """
    weights = normalise(weights_K)
    ideal = weights * amount
    parts = np.floor(ideal).astype(np.int64)
    short = int(amount - parts.sum())
    remainder = np.where(weights > 0, ideal - parts, -np.inf)
    parts[np.argsort(-remainder, kind="stable")[: max(short, 0)]] += 1
    if (excess := int(parts.sum() - amount)) > 0:  # float64 rounding of amounts above 2**53
        parts[int(np.argmax(parts))] -= excess
    return parts


def quantise(weights_K: ArrayLike) -> Int64:
    """Return weights as int64 [K] parts of `WEIGHT_UNIT`, summing to it exactly.

    >>> quantise([2, 1]).tolist(), sum(quantise([2, 1]).tolist()) == WEIGHT_UNIT
    ([2863311531, 1431655765], True)
    """
    return apportion(WEIGHT_UNIT, weights_K)


def whole_shares(weights_K: ArrayLike) -> Int64:
    """Return fixed shares in whole parts, int64 [K]: the smallest that are exact, or those of `SHARE_UNIT`.

    >>> whole_shares([40, 24, 16]).tolist(), whole_shares([0.7, 0.3]).tolist()
    ([5, 3, 2], [7, 3])
    >>> whole_shares([2**0.5, 1]).tolist()
    [659536895553805, 466363011288819]

    Args:
        weights_K: float64 [K], of any positive scale.
    """
    weights = np.asarray(weights_K, dtype=np.float64)
    shares = normalise(weights)
    if weights.sum() <= SHARE_UNIT and (weights == np.rint(weights)).all():
        parts = weights.astype(np.int64)
    elif (found := _common_parts(shares)) is not None:
        parts = found
    else:
        parts = apportion(SHARE_UNIT, shares)
    return parts // np.gcd.reduce(parts)


def _common_parts(shares_K: Float64) -> Int64 | None:
    """Return shares in parts of their common denominator, int64 [K]; None if it is large."""
    fractions, unit = [], 1
    for share in shares_K.tolist():
        fractions.append(Fraction(share).limit_denominator(1 << 20))
        unit = math.lcm(unit, fractions[-1].denominator)
        if unit > 1 << 40 or abs(share - fractions[-1]) > 1e-14 * share:
            return None
    parts = [int(fraction * unit) for fraction in fractions]
    return np.array(parts, dtype=np.int64) if sum(parts) == unit else None


def deal(counts_K: ArrayLike, lanes: int) -> Int64:
    """Deal whole counts out to lanes: int64 [L, K] whose columns sum to `counts_K`.

    Every lane gets the floor or the ceiling of `count / lanes` of each domain. The remainder of a domain goes to the
    lanes that follow the last one which received a remainder, so the lanes' totals differ by at most one too.

    >>> deal([10, 3, 1], lanes=4).tolist()
    [[3, 1, 0], [3, 0, 1], [2, 1, 0], [2, 1, 0]]
    """
    counts = np.asarray(counts_K, dtype=np.int64)
    share, left = np.divmod(counts, lanes)
    first = (np.cumsum(left) - left) % lanes
    behind = (np.arange(lanes)[:, None] - first[None, :]) % lanes
    return share[None, :] + (behind < left[None, :])


def deal_beside(counts_K: Int64, dealt_LK: Int64, *, fixed_K: NDArray[np.bool_], owed_LK: Int64 | None = None) -> Int64:
    """Deal whole counts out to lanes beside others that were dealt already, int64 [L, K], as evenly as those allow.

    As in `deal`, every lane gets the floor or the ceiling of `count / lanes`. The remainder of a domain goes to the
    lanes that have the fewest rows so far, and among these to those that are owed the most.

    Here lane 0 has the odd rows of domains 0 and 2, so lane 1 gets the one of domain 1:

    >>> dealt_LK = np.array([[21, 0, 21], [20, 0, 20]])
    >>> deal_beside(np.array([41, 7, 41]), dealt_LK, fixed_K=np.array([True, False, True])).tolist()
    [[21, 3, 21], [20, 4, 20]]

    Args:
        counts_K: int64 [K], what is dealt.
        dealt_LK: int64 [L, K], what the lanes have of the fixed domains.
        fixed_K: bool [K], the fixed domains.
        owed_LK: int64 [L, K], what the lanes are owed from before, in any unit.
    """
    lanes = len(dealt_LK)
    share_K, left_K = np.divmod(counts_K, lanes)
    found_LK = np.where(fixed_K, dealt_LK, share_K)
    odd_L, first = (found_LK - share_K).sum(axis=1), 0
    owed_LK = np.zeros_like(dealt_LK) if owed_LK is None else owed_LK
    open_K = np.flatnonzero(~fixed_K & (left_K > 0))
    unequal_K = np.ptp(owed_LK[:, open_K], axis=0)  # the first domains to be dealt have the most choice
    for k in open_K[np.argsort(-unequal_K, kind="stable")].tolist():
        behind_L = (np.arange(lanes) - first) % lanes
        chosen = np.lexsort((behind_L, -owed_LK[:, k], odd_L))[: int(left_K[k])]
        found_LK[chosen, k] += 1
        odd_L[chosen] += 1
        first = int(chosen[-1] + 1) % lanes
    return found_LK


def stagger(weight_LK: Int64) -> Int64:
    """Return the initial credits of the lanes, int64 [L, K], by which the rows of a rare domain interleave over them.

    Lane `l` begins as if each domain were `l / lanes` of the way to its next row. The credit of the domain with the
    largest weight is chosen so that all credits sum to whole rows. These rows count as served: the domains that are due
    first lose one each. From this state no domain is ever a whole row late or early (Hall's condition holds for the
    rows' windows). The credits of a lane sum to zero, and depend on its own weights alone.

    >>> stagger(np.array([[3, 1]] * 4)).tolist()  # each lane draws domain 1 one row earlier than the lane before
    [[0, 0], [-1, 1], [-2, 2], [-3, 3]]

    Args:
        weight_LK: int64 [L, K], the weights of each lane in whole parts.
    """
    lanes = len(weight_LK)
    credit_LK = np.zeros_like(weight_LK)
    for lane in range(1, lanes):
        weight_K = weight_LK[lane]
        total, largest = int(weight_K.sum()), int(np.argmax(weight_K))
        owed_K = np.where(weight_K > 0, total * lane // lanes, 0)
        owed_K[largest] = 0
        owed_K[largest] = -int(owed_K.sum()) % total
        due_K = np.where(weight_K > 0, (total - owed_K) / np.maximum(weight_K, 1), np.finfo(np.float64).max)
        due_K[owed_K == 0] = np.inf
        served = np.argsort(due_K, kind="stable")[: int(owed_K.sum()) // total]
        owed_K[served] -= total
        credit_LK[lane] = owed_K
    return credit_LK


def rescale(credit_K: Int64, old_total: int, weight_K: Int64) -> Int64:
    """Return credits for the weights `weight_K`, in units of 1 / sum(weight_K) row, that sum to zero again.

    The credit of a domain that has left the mix is shared by the others in proportion to their weights.
    """
    total = int(weight_K.sum())
    scaled = np.where(weight_K > 0, np.rint(credit_K * (total / old_total)), 0).astype(np.int64)
    scaled -= np.rint(int(scaled.sum()) * (weight_K / total)).astype(np.int64)
    scaled[int(np.argmax(weight_K))] -= int(scaled.sum())
    return scaled


def resolve_choose(
    *,
    samples: Sequence[int],
    proportion: Sequence[float | None],
    repeat: Sequence[float | None],
    choose: Sequence[int | None],
    epoch_size: int | None,
    seed: int,
) -> Int64:
    """Return how many samples an epoch takes from each stream, int64 [K], by the rules of mosaicml-streaming.

    Relative weights (`proportion`, or none at all with `epoch_size`) are shares of the epoch, rounded down; the
    remaining samples go to streams that `numpy.random.default_rng(seed)` picks. Absolute weights are
    `int(repeat * samples)`, `choose`, or all samples. Source: specs/streaming_api.md section 1.4 (bit-exact recipe).

    >>> none = [None, None]
    >>> resolve_choose(samples=[9, 5], proportion=[0.7, 0.3], repeat=none, choose=none, epoch_size=20, seed=0).tolist()
    [14, 6]

    Raises:
        ConfigError: relative and absolute weights are mixed, or `proportion` is invalid.
    """
    sizes = np.asarray(samples, dtype=np.int64)
    relative = [p is not None for p in proportion]
    if any(relative) and not all(relative):
        raise ConfigError("give `proportion` to every stream or to none: relative and absolute weights do not mix")
    absolute = any(r is not None for r in repeat) or any(c is not None for c in choose)
    if absolute and epoch_size:
        raise ConfigError("Only provide `choose` when weighting streams relatively (`epoch_size` needs `proportion`)")
    if not any(relative) and not epoch_size:
        wanted = [
            int(r * n) if r is not None else n if c is None else c for r, c, n in zip(repeat, choose, sizes.tolist())
        ]
        return np.asarray(wanted, dtype=np.int64)
    shares = normalise([p or 0.0 for p in proportion] if any(relative) else sizes, what="`proportion`")
    size = epoch_size or int(sizes.sum())
    counts = (size * shares).astype(np.int64)
    short = size - int(counts.sum())
    if short:  # else numpy.random, which takes 10 ms to import, is not needed
        counts[np.random.default_rng(seed).choice(len(shares), short, replace=False)] += 1
    return counts
