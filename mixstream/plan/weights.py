"""Algebra on the simplex: from float weights to whole rows, without losing a row.

Everything that decides which row comes next is integer arithmetic, so that a plan is the same on every machine:

- float weights are quantised once, to int64 parts of `WEIGHT_UNIT` (`quantise`);
- an amount is split into whole numbers by largest remainder (`apportion`);
- what a domain is owed is its *credit*, in units of 1/total row: every row adds the domain's weight to it, every row
  drawn takes `total` away. Credits of a lane add up to a whole number of rows, zero (`kernels.deal_rows`).

Shape suffixes: K domains, L lanes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixstream.errors import ConfigError

WEIGHT_UNIT = 1 << 32
"""Weights leave a mixer as floats and enter the plan as whole parts of this."""

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]


def normalise(weights_K: ArrayLike, *, what: str = "weights") -> Float64:
    """Return `weights_K` as float64 [K] that sums to 1.

    Raises:
        ConfigError: a weight is negative, infinite or not a number, or all are zero.
    """
    weights = np.asarray(weights_K, dtype=np.float64)
    if weights.ndim != 1 or not len(weights) or not np.isfinite(weights).all() or (weights < 0).any():
        raise ConfigError(f"{what} must be finite numbers >= 0, one per domain; got {weights.tolist()}")
    if (total := weights.sum()) <= 0:
        raise ConfigError(f"{what} are all zero: no domain could be drawn; give at least one a positive weight")
    return weights / total


def apportion(amount: int, weights_K: ArrayLike) -> Int64:
    """Split `amount` into int64 [K] whole parts by largest remainder; ties go to the lower index.

    Each part differs from `amount * weight` by less than one, and a domain of weight zero gets nothing.
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
    """Return weights as int64 [K] parts of `WEIGHT_UNIT`, summing to it exactly."""
    return apportion(WEIGHT_UNIT, weights_K)


def deal(counts_K: ArrayLike, lanes: int) -> Int64:
    """Deal whole counts out to lanes: int64 [L, K] whose columns sum to `counts_K`.

    Every lane gets floor or ceil of `count / lanes` of each domain. The ones left over are dealt on from the lane where
    the previous domain's ended, so that also the lanes' totals differ by at most one.
    """
    counts = np.asarray(counts_K, dtype=np.int64)
    share, left = np.divmod(counts, lanes)
    first = (np.cumsum(left) - left) % lanes
    behind = (np.arange(lanes)[:, None] - first[None, :]) % lanes
    return share[None, :] + (behind < left[None, :])


def stagger(weight_K: Int64, lanes: int) -> Int64:
    """Return the credits int64 [L, K] with which the lanes begin, so that a rare domain's turns interleave over them.

    Lane `l` begins as if each domain were `l / lanes` of the way to its next row; the domain with the largest weight
    takes up what makes that a whole number of rows, and those rows count as served already, to the domains with the
    earliest deadlines. From such a state no domain is ever a row late or early (Hall's condition holds for the rows'
    windows: domains that count as served were due first). Rows sum to zero.
    """
    total = int(weight_K.sum())
    credit_LK = np.zeros((lanes, len(weight_K)), dtype=np.int64)
    largest = int(np.argmax(weight_K))
    for lane in range(1, lanes):
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
    """Return credits for the weights `weight_K`, in units of 1 / sum(weight_K) row, summing to zero again.

    What a domain that has left the mix was still owed, or had in advance, is shared by the others in proportion.
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

    Relative (`proportion`, or nothing at all with `epoch_size`): shares of the epoch, rounded down; what is left goes
    to streams picked by `numpy.random.default_rng(seed)`. Absolute: `int(repeat * samples)`, `choose`, or all samples.
    Source: specs/streaming_api.md section 1.4 (bit-exact recipe).
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
    counts[np.random.default_rng(seed).choice(len(shares), short, replace=False)] += 1
    return counts
