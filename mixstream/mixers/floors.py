"""Least shares: weights that leave no domain out for good.

Floors are float64 [K], one per domain, adding up to at most 1; 0 for a domain that may have nothing.

Shape suffix: K domains.
"""

from __future__ import annotations

import numpy as np

from mixstream.types import Float64


def clip(p_K: Float64, floor_K: Float64) -> Float64:
    """Return `p_K` raised to the floor, then normalised, so that a domain can end slightly below it.

    ADO's `clip_min_probability`, as released (specs/mixing.md section 1.2).
    """
    total = p_K.sum()
    lack = max(floor_K.sum() - total, 0.0)
    raised_K = np.maximum(p_K * (1 - lack) / total, floor_K)
    return raised_K / raised_K.sum()


def lift(p_K: Float64, floor_K: Float64) -> Float64:
    """Return `p_K` with the floor held exactly: what is above it shrinks in proportion."""
    above_K = np.maximum(p_K - floor_K, 0.0)
    total = above_K.sum()
    return floor_K + (1 - floor_K.sum()) * above_K / total if total > 0 else floor_K / floor_K.sum()
