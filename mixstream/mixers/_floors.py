"""Least shares, so that no domain is left out for good.

Floors are float64 [K] and add up to at most 1; 0 for a domain that may get nothing.

Shape suffix: K domains.
"""

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError
from mixstream.types import Float64


def delta_min(enabled_K: NDArray[np.bool_], p_min: float | None) -> Float64:
    """Return ADO's floor, float64 [K]: `p_min` for each enabled domain, or min(0.01, 0.25 / enabled domains) if None.

    Raises:
        ConfigError: it adds up to more than 1.
    """
    domains = int(enabled_K.sum())
    if p_min is not None and domains * p_min > 1:
        raise ConfigError(
            f"ADO p_min={p_min} for each of {domains} domains adds up to more than 1, so nothing is left to mix;"
            f" give at most {1 / domains:.3g}, or p_min=None for {0.25 / domains:.3g}"
        )
    return np.where(enabled_K, min(0.01, 0.25 / domains) if p_min is None else p_min, 0.0)


def clip(p_K: Float64, floor_K: Float64) -> Float64:
    """Return `p_K` raised to the floor, then normalised, after which a domain can be slightly below it.

    ADO's `clip_min_probability`, as released (specs/mixing.md section 1.2).
    """
    total = p_K.sum()
    lack = max(floor_K.sum() - total, 0.0)
    raised_K = np.maximum(p_K * (1 - lack) / total, floor_K)
    return raised_K / raised_K.sum()


def lift(p_K: Float64, floor_K: Float64) -> Float64:
    """Return `p_K` raised to the floor exactly, with the parts above it scaled down in proportion."""
    above_K = np.maximum(p_K - floor_K, 0.0)
    total = above_K.sum()
    return floor_K + (1 - floor_K.sum()) * above_K / total if total > 0 else floor_K / floor_K.sum()
