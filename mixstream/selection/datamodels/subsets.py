"""How good scores are: the linear datamodeling score (LDS), from models trained on random subsets.

Rules. A linear datamodel predicts the outcome of training on a subset by the sum of its rows' scores. The LDS is
Spearman's rank correlation between predicted and measured outcomes over the subsets; 1 is perfect, 0 is chance.
Outcomes are oriented as scores are, higher is better: give minus the loss. Subsets depend on the seed alone.

The number of subsets limits what an LDS can tell: when the true value is .9, one in a hundred measurements falls below
.75 with 40 subsets, .65 with 20 and .51 with 12. For single targets .1 to .5 is usual in the literature.

A mixture of domains makes a high LDS cheap: the number of a subset's rows from the right domain may predict as well.
Report `lds` of that count beside it.

Source: Ilyas et al. 2022, "Datamodels", arXiv 2202.00622; Park et al. 2023, "TRAK", arXiv 2303.14186, definition 2.3.

Shape suffixes: N rows, S subsets, K targets.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError
from mixstream.plan.rng import derive_key
from mixstream.types import Float64

_FEWEST = 3  # subsets: with two, a rank correlation is 1 or -1


def random_subsets(rows: int, subsets: int, *, seed: int, fraction: float = 0.5) -> NDArray[np.bool_]:
    """Return which rows each random subset has, bool [S, N]; every subset has round(fraction * rows) of them.

    The first subsets are the same for any number of subsets.

    Raises:
        ConfigError: a subset would have no row, or all.

    >>> random_subsets(6, 3, seed=1).astype(int)
    array([[0, 0, 1, 0, 1, 1],
           [0, 1, 1, 1, 0, 0],
           [1, 0, 0, 1, 0, 1]])
    """
    size = round(fraction * rows)
    if not 0 < size < rows or subsets < 1:
        raise ConfigError(
            f"{subsets} subsets of {size:,} of {rows:,} rows: give 1 or more subsets, and a fraction that leaves rows "
            "in and out"
        )
    chosen_SN = np.zeros((subsets, rows), np.bool_)
    for number in range(subsets):
        generator = np.random.Philox(key=derive_key(seed, "datamodel subset", number))
        order = np.argsort(generator.random_raw(rows), kind="stable")
        chosen_SN[number, order[:size]] = True
    return chosen_SN


def spearman(left_S: NDArray[np.floating], right_S: NDArray[np.floating]) -> float:
    """Return Spearman's rank correlation; equal values share the mean of their ranks; NaN if one side is constant.

    >>> round(spearman(np.array([1.0, 2.0, 2.0, 9.0]), np.array([1.0, 3.0, 2.0, 4.0])), 4)
    0.9487
    """
    left_S, right_S = _ranks(left_S), _ranks(right_S)
    left_S, right_S = left_S - left_S.mean(), right_S - right_S.mean()
    norm = np.sqrt((left_S @ left_S) * (right_S @ right_S))
    return float(left_S @ right_S / norm) if norm else float("nan")


def lds(score_KN: NDArray[np.floating], subsets_SN: NDArray[np.bool_], outcome_SK: NDArray[np.floating]) -> Float64:
    """Return the linear datamodeling score of each target, float64 [K].

    Args:
        score_KN: scores of the rows for each target, [K, N]; or [N] for one target.
        subsets_SN: which rows each subset has, bool [S, N].
        outcome_SK: what training on each subset gave, higher is better, [S, K]; or [S] for one target.

    Raises:
        ConfigError: the shapes do not fit each other, or there are fewer than three subsets.

    >>> subsets = random_subsets(8, 5, seed=0)
    >>> effect = np.arange(8.0)
    >>> lds(2 * effect, subsets, subsets @ effect + 1), lds(-effect, subsets, subsets @ effect)
    (array([1.]), array([-1.]))
    """
    score_KN = np.atleast_2d(score_KN)
    if outcome_SK.ndim == 1:
        outcome_SK = outcome_SK[:, None]
    shapes = score_KN.shape, subsets_SN.shape, outcome_SK.shape
    (targets, rows), (subsets, members), measured = shapes
    if members != rows or measured != (subsets, targets):
        raise ConfigError(f"scores, subsets and outcomes of shapes {shapes} do not fit: give [K, N], [S, N] and [S, K]")
    if subsets < _FEWEST:
        raise ConfigError(f"{subsets} subsets have no rank correlation: train on {_FEWEST} or more, better 40")
    predicted_KS = score_KN.astype(np.float64) @ subsets_SN.T
    return np.array([spearman(predicted_KS[target], outcome_SK[:, target]) for target in range(targets)])


def _ranks(values_S: NDArray[np.floating]) -> Float64:
    _, inverse_S, counts = np.unique(values_S, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse_S]
