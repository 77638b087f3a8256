"""The estimator of DsDm: features of rows and of targets become one score per row.

Rules. Arrays in, arrays out; sums and solutions are float64. For proxy model m with features Phi_m [N, F] of the rows
and xbar_m [F], the mean feature of a target set:

    tau_m   = Phi_m (Phi_m^T Phi_m + c mean_eig I)^-1 xbar_m          mean_eig = trace(Phi^T Phi) / F
    score   = [ mean_m (1 - p_m) ] . [ mean_m tau_m / s_m ]            s_m = mean |entry of the inverse|

with p_m the row's mean probability of the correct token. **Higher is better**: a positive score means that training on
the row raises the target's output, which lowers its loss. (DsDm's text ranks by predicted loss, so there the smallest
coefficients are kept; it is the same order.) Without `one_minus_p` the first factor is 1, as for the output "loss".

A Gram matrix is summed in blocks of a fixed number of rows in their order, so it has the same bits however the rows
were cut into parts.

Damping c. With c = 0 the inverse amplifies noise unless there are far more rows than features (DsDm had 13,000 rows
per feature), and with fewer rows than features it does not exist. `resolve_damping` decides.

Source: Park et al. 2023, "TRAK", arXiv 2303.14186; Engstrom et al. 2024, "DsDm", arXiv 2401.12926. The scale s_m is
that of TRAK's released code, where it makes the members of an ensemble comparable.

Shape suffixes: N rows, B rows of a block, F features, K target sets (or targets), M proxy models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError
from mixstream.records import dataclass
from mixstream.types import Float64

Damping = float | Literal["auto"]
"""Multiples of the mean eigenvalue that are added to the Gram matrix; "auto" decides by the number of rows."""

BLOCK = 4096
"""Rows that one matrix product sums; part of the definition of a Gram matrix's bits."""
_PLENTY = 100  # rows per feature from which on no damping is needed


def resolve_damping(damping: Damping, *, rows: int, features: int) -> float:
    """Return the damping c to use: for "auto" 0 from 100 rows per feature on, otherwise 1.

    `math.inf` replaces the Gram matrix by the identity: scores are then plain inner products, as in LESS.

    Raises:
        ConfigError: it is negative or NaN, or 0 with fewer rows than features, where the inverse does not exist.

    >>> resolve_damping("auto", rows=1_000, features=256), resolve_damping("auto", rows=50_000, features=256)
    (1.0, 0.0)
    """
    if damping == "auto":
        return 0.0 if rows >= _PLENTY * features else 1.0
    if not damping >= 0:
        raise ConfigError(f"damping {damping}: give 'auto', or a number that is 0 or more")
    if damping == 0 and rows < features:
        raise ConfigError(
            f"damping 0 with {rows:,} rows and {features:,} features: the Gram matrix has no inverse; give a damping "
            f"above 0, as 1, or at most {rows:,} features"
        )
    return float(damping)


def unit_norm(phi_BF: NDArray[np.floating]) -> Float64:
    """Return the features with every row scaled to length 1, float64 [B, F]; a row of zeros stays.

    >>> unit_norm(np.array([[3.0, 4.0], [0.0, 0.0]]))
    array([[0.6, 0.8],
           [0. , 0. ]])
    """
    phi_BF = phi_BF.astype(np.float64)
    norm_B1 = np.linalg.norm(phi_BF, axis=1, keepdims=True)
    return np.divide(phi_BF, norm_B1, out=np.zeros_like(phi_BF), where=norm_B1 > 0)


class Gram:
    """The sum of phi phi^T over rows, float64 [F, F], from pieces of any size.

    >>> gram = Gram(2)
    >>> gram.add(np.array([[1.0, 2.0]])); gram.add(np.array([[3.0, 0.0]]))
    >>> gram.total, gram.rows
    (array([[10.,  2.],
           [ 2.,  4.]]), 2)
    """

    def __init__(self, features: int) -> None:
        self.rows = 0
        self._total_FF = np.zeros((features, features))
        self._waiting: list[Float64] = []
        self._waiting_rows = 0

    def add(self, phi_BF: NDArray[np.floating]) -> None:
        """Add the features of the next rows, in order; leave out rows that are not scored.

        Raises:
            ConfigError: the rows have another number of features, or a feature is not finite.
        """
        features = len(self._total_FF)
        if phi_BF.ndim != 2 or phi_BF.shape[1] != features:
            raise ConfigError(f"features of shape {phi_BF.shape}: this Gram matrix is of {features:,} features")
        if not np.isfinite(phi_BF).all():
            raise ConfigError("a feature is not finite: leave out rows that are flagged as failed")
        self.rows += len(phi_BF)
        while len(phi_BF):
            piece, phi_BF = np.split(phi_BF, [BLOCK - self._waiting_rows])
            self._waiting.append(piece.astype(np.float64))
            self._waiting_rows += len(piece)
            if self._waiting_rows == BLOCK:
                self._flush()

    @property
    def total(self) -> Float64:
        """The sum so far, float64 [F, F]."""
        rest = self._rest()
        return self._total_FF + rest.T @ rest if len(rest) else self._total_FF.copy()

    def _flush(self) -> None:
        rest = self._rest()
        self._total_FF += rest.T @ rest
        self._waiting, self._waiting_rows = [], 0

    def _rest(self) -> Float64:
        return np.concatenate(self._waiting) if self._waiting else np.zeros((0, len(self._total_FF)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Solution:
    """A damped and scaled inverse of a Gram matrix.

    Attributes:
        inverse_FF: float64 [F, F], (Gram + c mean_eig I)^-1.
        scale: s, the mean absolute entry of the inverse.
        damping: c, resolved.
    """

    inverse_FF: Float64
    scale: float
    damping: float

    def tau(self, phi_BF: NDArray[np.floating], targets_KF: NDArray[np.floating]) -> Float64:
        """Return tau of rows for each target, unscaled, float64 [K, B]."""
        return (targets_KF.astype(np.float64) @ self.inverse_FF) @ phi_BF.astype(np.float64).T

    def leverage(self, phi_BF: NDArray[np.floating]) -> Float64:
        """Return how much each row determines its own prediction, phi^T inverse phi, in [0, 1), float64 [B].

        The exact effect of leaving a row out of a ridge regression is tau . residual / (1 - leverage).
        """
        phi_BF = phi_BF.astype(np.float64)
        return np.einsum("bf,bf->b", phi_BF @ self.inverse_FF, phi_BF)


def solve(gram: Gram, *, damping: Damping = "auto") -> Solution:
    """Invert a Gram matrix under damping.

    Raises:
        ConfigError: the damping does not fit (`resolve_damping`), no row has a gradient, or the matrix is singular.

    >>> gram = Gram(2)
    >>> gram.add(np.array([[1.0, 0.0], [0.0, 3.0]]))
    >>> solve(gram, damping=1.0).inverse_FF  # mean eigenvalue 5: the inverse of diag(6, 14)
    array([[0.16666667, 0.        ],
           [0.        , 0.07142857]])
    """
    total_FF = gram.total
    features = len(total_FF)
    damping = resolve_damping(damping, rows=gram.rows, features=features)
    mean_eig = float(np.trace(total_FF)) / features
    if not mean_eig > 0:
        raise ConfigError(f"the features of all {gram.rows:,} rows are 0: no row has a gradient; check the model")
    if math.isinf(damping):
        return Solution(inverse_FF=np.eye(features), scale=1 / features, damping=damping)
    damped_FF = total_FF + damping * mean_eig * np.eye(features)
    try:
        factor_FF = np.linalg.cholesky(damped_FF)
    except np.linalg.LinAlgError:
        raise ConfigError(_singular(damping, gram.rows)) from None
    condition = (factor_FF.diagonal().max() / factor_FF.diagonal().min()) ** 2  # a lower bound of it, at no cost
    if condition > 1 / (features * np.finfo(np.float64).eps):
        raise ConfigError(_singular(damping, gram.rows))
    half_FF = np.linalg.inv(factor_FF)
    inverse_FF = half_FF.T @ half_FF
    return Solution(inverse_FF=inverse_FF, scale=float(np.abs(inverse_FF).mean()), damping=damping)


def combine(
    tau_MKN: NDArray[np.floating], one_minus_p_MN: NDArray[np.floating] | None = None
) -> tuple[Float64, Float64]:
    """Combine the scaled taus of an ensemble: the scores and their standard deviation over members, float64 [K, N].

    Args:
        tau_MKN: tau_m / s_m of each member.
        one_minus_p_MN: 1 - p of each member; None for the output "loss".

    Returns:
        The scores, and the standard deviation of a member's score (with M - 1 below; 0 for one member).

    >>> combine(np.array([[[1.0]], [[3.0]]]), np.array([[0.5], [0.5]]))
    (array([[1.]]), array([[0.70710678]]))
    """
    weight_N = 1.0 if one_minus_p_MN is None else one_minus_p_MN.astype(np.float64).mean(axis=0)
    score_KN = weight_N * tau_MKN.mean(axis=0)
    if len(tau_MKN) < 2:
        return score_KN, np.zeros_like(score_KN)
    return score_KN, weight_N * tau_MKN.std(axis=0, ddof=1)


def aggregate(score_KN: Float64, how: str) -> Float64:
    """Return one score per row over the target sets, float64 [N]: their "mean" (DsDm) or "max" (LESS).

    >>> aggregate(np.array([[1.0, 5.0], [2.0, -5.0]]), "max")
    array([2., 5.])
    """
    if how == "mean":
        return score_KN.mean(axis=0)
    if how == "max":
        return score_KN.max(axis=0)
    raise ConfigError(f"aggregation {how!r} is unknown: give mean or max")


def attribute(
    phi_MNF: Sequence[NDArray[np.floating]],
    targets_MKF: Sequence[NDArray[np.floating]],
    one_minus_p_MN: Sequence[NDArray[np.floating]] | None = None,
    *,
    damping: Damping = "auto",
) -> tuple[Float64, Float64]:
    """Return scores and their spread over the proxy models, float64 [K, N] each, from features in memory.

    Args:
        phi_MNF: of each proxy model, the features of the rows [N, F]; only rows that are scored.
        targets_MKF: of each proxy model, the mean feature of each target set [K, F] (or features of single targets).
        one_minus_p_MN: of each proxy model, 1 - the mean probability of the correct token [N]; None for the output
            "loss".
        damping: c in multiples of the mean eigenvalue, or "auto".

    Raises:
        ConfigError: the damping does not fit, or a matrix is singular (`solve`).

    >>> rows, target = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.0]])
    >>> attribute([rows], [target])[0].round(3) + 0.0  # like the target, its opposite, unrelated
    array([[ 1.667, -1.667,  0.   ]])
    """
    taus = []
    for phi_NF, targets_KF in zip(phi_MNF, targets_MKF, strict=True):
        gram = Gram(phi_NF.shape[1])
        gram.add(phi_NF)
        solution = solve(gram, damping=damping)
        taus.append(solution.tau(phi_NF, targets_KF) / solution.scale)
    return combine(np.stack(taus), None if one_minus_p_MN is None else np.stack(one_minus_p_MN))


def _singular(damping: float, rows: int) -> str:
    return (
        f"the Gram matrix of {rows:,} rows with damping {damping:g} cannot be inverted, since features are linearly "
        "dependent: give a larger damping, as 1, or fewer features"
    )
