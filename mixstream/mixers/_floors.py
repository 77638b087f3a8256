"""Least shares: two ways to raise weights to a floor, as ADO uses them.

Shape suffix: K domains.
"""

import numpy as np

from mixstream.types import Float64


def clip(p_K: Float64, floor_K: Float64) -> Float64:
    """Return `p_K` raised to the floor, then normalised, after which a domain can be slightly below it.

    ADO's `clip_min_probability`, as released (specs/mixing.md section 1.2).

    >>> clip(np.array([0.7, 0.3, 0.0]), np.full(3, 0.25)).round(3).tolist()  # of 0.7, 0.3, 0.25, which sum to 1.25
    [0.56, 0.24, 0.2]
    """
    total = p_K.sum()
    lack = max(floor_K.sum() - total, 0.0)
    raised_K = np.maximum(p_K * (1 - lack) / total, floor_K)
    return raised_K / raised_K.sum()


def lift(p_K: Float64, floor_K: Float64) -> Float64:
    """Return `p_K` raised to the floor exactly, with the parts above it scaled down in proportion.

    >>> lift(np.array([0.7, 0.3, 0.0]), np.full(3, 0.25)).round(3).tolist()  # 0.45 and 0.05 above it share 0.25
    [0.475, 0.275, 0.25]
    """
    above_K = np.maximum(p_K - floor_K, 0.0)
    total = above_K.sum()
    return floor_K + (1 - floor_K.sum()) * above_K / total if total > 0 else floor_K / floor_K.sum()
