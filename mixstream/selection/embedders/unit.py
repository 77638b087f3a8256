"""Unit vectors: what every embedder returns, whatever its model computes.

Shape suffixes: N texts, D dimensions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mixstream.records import dataclass
from mixstream.types import Int64


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedded:
    """The embeddings of some texts.

    Attributes:
        unit_ND: float32 [N, D], norm 1, or all zero where `failed_N`.
        failed_N: bool [N], where there is no direction: an empty text, a zero vector, NaN or infinity.
        tokens_N: int64 [N], tokens of the whole text, before it was cut; None if the embedder has no tokenizer.
    """

    unit_ND: NDArray[np.float32]
    failed_N: NDArray[np.bool_]
    tokens_N: Int64 | None


def unit_rows(vectors_ND: NDArray) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return (float32 [N, D] of norm 1, bool [N] of the rows that have no direction, which are zero in the former).

    >>> unit_ND, failed_N = unit_rows(np.array([[3.0, 4.0], [0.0, 0.0], [np.nan, 1.0]]))
    >>> unit_ND.round(3).tolist(), failed_N.tolist()
    ([[0.6000000238418579, 0.800000011920929], [0.0, 0.0], [0.0, 0.0]], [False, True, True])

    Args:
        vectors_ND: any real numbers, also very large and very small ones.
    """
    wide_ND = np.asarray(vectors_ND, dtype=np.float64)
    largest_N = np.abs(wide_ND).max(axis=1, initial=0.0)
    failed_N = ~(np.isfinite(largest_N) & (largest_N > 0))  # NaN is the maximum of whatever it is in
    scaled_ND = wide_ND / np.where(failed_N, 1.0, largest_N)[:, None]  # so that squares neither overflow nor vanish
    scaled_ND[failed_N] = 0.0
    norm_N = np.sqrt(np.square(scaled_ND).sum(axis=1))
    return (scaled_ND / np.where(failed_N, 1.0, norm_N)[:, None]).astype(np.float32), failed_N
