"""Scaling laws of single domains: L(n) = eps + beta n^-alpha, fitted to the losses so far.

Pure numerics: arrays in, arrays out, nothing random. A law is theta = (log beta, log eps, alpha). Each domain is fitted
independently; all go through the same array operations, which release the GIL.

The objective of a domain with points (n_i, y_i) is that of ADO's released code (specs/mixing.md section 1.3):

    F = sum_i Huber( log L(n_i) - log y_i ) + hinges,   Huber's delta 1e-3
    hinges = max(alpha - 0.8, 0) - min(alpha, 0.001) + max(log beta - 6.5, 0) + max(0.5 - log eps, 0)

It is minimised from the same grid of 512 starts. Instead of running an optimiser from each, the starts are scored on a
few points, the best are polished, and the best of these again on all points. The polishing is a damped Gauss-Newton
method (Levenberg-Marquardt) with Huber's weights, which treats the hinges exactly: between kinks they are linear, a
step ends at a kink, and a coordinate stays at a kink whose two slopes enclose zero.

Source: Jiang et al. 2024, "Adaptive Data Optimization", arXiv 2410.11820; Hoffmann et al. 2022 for Huber in log space.

Shape suffixes: D domains, P points, S starts, M minimisations at once, 3 the parameters of a law.
"""

from dataclasses import dataclass
from itertools import product
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from mixstream.types import Float64, Int64

LOG_BETA, LOG_EPS, ALPHA = range(3)
FLAT = -20.0
"""The least log beta: a slope of exp(-20) nats cannot be measured."""

_DELTA = 1e-3  # Huber: squares below, absolute values above
_ALPHA_MIN = 1e-3
_SEEN = 1e-9  # of F for each point: what beta's part must gain over a constant. A fall of log L by 1.5e-4 gains it.
_GRID_S3 = np.array(list(product(np.arange(-2.0, 6.0), np.arange(-2.0, 2.0, 0.5), np.arange(0.0, 0.8, 0.1))))
_BOX_23 = np.array([[FLAT, -20.0, -2.0], [30.0, 20.0, 4.0]])  # never reached by a law; keeps exp() in range
_STARTS = 12  # of the grid, to be polished
_ROUGH, _SWEEPS, _DOMAINS_AT_ONCE = 30, 80, 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Where the hinges of the objective begin, and how the data term is scaled against them.

    Attributes:
        log_beta_max: upper limit of log beta; beta is in nats, with n counted in rows.
        log_eps_min: lower limit of log eps, the log of the irreducible loss in nats; -inf for none.
        alpha_max: upper limit of alpha.
        data: "sum" over points, as in the released code: every point pulls with up to 1e-3, a hinge pushes back with 1,
            so that limits no longer hold from about 1000 points on. "mean": they hold for any number of points; inside
            the limits the minimum is the same.
    """

    log_beta_max: float = 6.5
    log_eps_min: float = 0.5
    alpha_max: float = 0.8
    data: Literal["sum", "mean"] = "sum"

    @property
    def kinks_23(self) -> Float64:
        """Lower and upper limits of the three parameters, float64 [2, 3]."""
        return np.array([[-np.inf, self.log_eps_min, _ALPHA_MIN], [self.log_beta_max, np.inf, self.alpha_max]])


class _Points(NamedTuple):
    """The points of each minimisation, one row each."""

    log_n_MP: Float64
    log_loss_MP: Float64
    weight_MP: Float64

    def rows(self, index: Int64 | NDArray[np.bool_]) -> Self:
        return self._make(array[index] for array in self)


class _Model(NamedTuple):
    """The data term at theta: its value, gradient and (Gauss-Newton) Hessian."""

    value_M: Float64
    gradient_M3: Float64
    hessian_M33: Float64


def loss_at(theta_K3: Float64, n_K: Float64) -> Float64:
    """Return L(n) = eps + beta n^-alpha in nats, for broadcastable leading axes; n > 0."""
    return np.exp(theta_K3[..., LOG_EPS]) + np.exp(theta_K3[..., LOG_BETA] - theta_K3[..., ALPHA] * np.log(n_K))


def speed_at(theta_K3: Float64, n_K: Float64, *, alpha_floor: float) -> Float64:
    """Return -dL/dn, float64 [K], in nats per row: 0 for a flat law or where nothing was seen, NaN without a law.

    The factor alpha of the derivative is at least `alpha_floor`; the curve keeps its own.
    """
    log_beta_K, alpha_K = theta_K3[:, LOG_BETA], theta_K3[:, ALPHA]
    slope_K = np.exp(log_beta_K - (alpha_K + 1) * np.log(np.where(n_K > 0, n_K, 1.0)))
    speed_K = np.where((n_K > 0) & (log_beta_K > FLAT), np.maximum(alpha_K, alpha_floor) * slope_K, 0.0)
    return np.where(np.isnan(alpha_K), np.nan, speed_K)


def objective(theta_S3: Float64, n_P: Float64, loss_P: Float64, limits: Limits) -> tuple[Float64, Float64]:
    """Return F and its gradient, float64 [S] and [S, 3], for one domain's points; at kinks the gradient from inside."""
    theta_S3 = np.atleast_2d(np.asarray(theta_S3, dtype=np.float64))
    weight = 1.0 if limits.data == "sum" else 1.0 / len(n_P)
    ones_SP = np.ones((len(theta_S3), 1))
    points = _Points(ones_SP * np.log(n_P), ones_SP * np.log(loss_P), ones_SP * np.full(len(n_P), weight))
    data = _evaluate(theta_S3, points)
    lower_3, upper_3 = limits.kinks_23
    slope_S3 = (theta_S3 > upper_3).astype(np.float64) - (theta_S3 < lower_3)
    return data.value_M + _hinges(theta_S3, limits) - _ALPHA_MIN, data.gradient_M3 + slope_S3


def fit(n_PK: Float64, loss_PK: Float64, limits: Limits, *, warm_K3: Float64, min_points: int = 1) -> Float64:
    """Return the laws float64 [K, 3] that minimise the objective; NaN for a domain with fewer than `min_points`.

    Args:
        n_PK: float64 [P, K], rows seen before each point. Not positive: the point is left out.
        loss_PK: float64 [P, K], nats. Not finite or not positive: the point is left out.
        limits: of the parameters.
        warm_K3: float64 [K, 3], a start besides the grid's, NaN for none.
        min_points: points that a domain needs.
    """
    theta_K3 = np.full((loss_PK.shape[1], 3), np.nan)
    with np.errstate(invalid="ignore"):
        usable_KP = ((n_PK > 0) & (loss_PK > 0) & np.isfinite(loss_PK)).T
    wanted_K = np.flatnonzero(np.sum(usable_KP, axis=1) >= max(min_points, 1))
    for first in range(0, len(wanted_K), _DOMAINS_AT_ONCE):
        some_D = wanted_K[first : first + _DOMAINS_AT_ONCE]
        usable_DP = usable_KP[some_D]
        points = _Points(
            np.log(np.where(usable_DP, n_PK.T[some_D], 1.0)),
            np.log(np.where(usable_DP, loss_PK.T[some_D], 1.0)),
            usable_DP / (1.0 if limits.data == "sum" else usable_DP.sum(axis=1, keepdims=True)),
        )
        theta_K3[some_D] = _fit_chunk(points, limits, warm_K3[some_D])
    return theta_K3


def _fit_chunk(points: _Points, limits: Limits, warm_D3: Float64) -> Float64:
    """Return the best laws, float64 [D, 3], of a few domains."""
    starts_DS3 = _best_starts(_thinned(points, 32), limits)
    known_D = ~np.isnan(warm_D3[:, ALPHA])
    warm_D3 = np.clip(np.where(known_D[:, None], warm_D3, starts_DS3[:, 0]), *_BOX_23)
    theta_DS3 = np.concatenate([starts_DS3, warm_D3[:, None]], axis=1)
    theta_DS3 = _polished(theta_DS3, _thinned(points, 64), limits, _ROUGH, gain=1e-3)[:, :4]
    if points.log_n_MP.shape[1] > 384:
        theta_DS3 = _polished(theta_DS3, _thinned(points, 384), limits, _ROUGH, gain=1e-4)[:, :1]
    return _flat_marked(_polished(theta_DS3, points, limits, _SWEEPS, gain=3e-6)[:, 0], points, limits)


def _polished(theta_DS3: Float64, points: _Points, limits: Limits, sweeps: int, *, gain: float) -> Float64:
    """Return the minima near each domain's candidates, float64 [D, S, 3], the best first."""
    domains, candidates, _ = theta_DS3.shape
    index_M = np.repeat(np.arange(domains), candidates)
    theta_M3, value_M = _polish(theta_DS3.reshape(-1, 3), points.rows(index_M), limits, sweeps, gain)
    order_DS = np.argsort(value_M.reshape(domains, candidates), axis=1, kind="stable")
    return np.take_along_axis(theta_M3.reshape(theta_DS3.shape), order_DS[:, :, None], axis=1)


def _flat_marked(theta_D3: Float64, points: _Points, limits: Limits) -> Float64:
    """Return laws with the best constant, and log beta = FLAT, where beta's part shows no fall over the points.

    On a flat or rising curve beta and alpha of the optimiser are arbitrary, and so would be the speed: it stops at the
    lower limit of alpha, with a large beta, about 1e-9 of F a point from the optimum. Where all points have one n, no
    law is preferred to another.
    """
    usable_DP = points.weight_MP > 0
    first_D = np.where(usable_DP, points.log_n_MP, np.inf).min(axis=1)
    last_D = np.where(usable_DP, points.log_n_MP, -np.inf).max(axis=1)
    log_beta_D, log_eps_D, alpha_D = theta_D3.T
    early_D, later_D = (np.logaddexp(log_beta_D - alpha_D * at_D, log_eps_D) for at_D in (first_D, last_D))
    constant_D3 = np.stack(
        [np.full(len(theta_D3), FLAT), _level(points, limits), np.clip(alpha_D, _ALPHA_MIN, limits.alpha_max)], axis=1
    )
    ours_D, constants_D = (
        _evaluate(at_D3, points).value_M + _hinges(at_D3, limits) for at_D3 in (theta_D3, constant_D3)
    )
    falls_D = (early_D - later_D >= 1e-5) & (ours_D < constants_D - _SEEN * points.weight_MP.sum(axis=1))
    flat_D = (early_D - log_eps_D < 1e-6) | ((last_D > first_D) & ~falls_D)
    return np.where(flat_D[:, None], constant_D3, theta_D3)


def _level(points: _Points, limits: Limits) -> Float64:
    """Return log c, float64 [D], of the constant laws L = c that minimise the objective."""
    usable_DP = points.weight_MP > 0
    low_D = np.where(usable_DP, points.log_loss_MP, np.inf).min(axis=1)
    high_D = np.where(usable_DP, points.log_loss_MP, -np.inf).max(axis=1)
    high_D = np.maximum(high_D, limits.log_eps_min)
    for _ in range(40):  # bisection: the slope grows with log c
        middle_D = (low_D + high_D) / 2
        pull_DP = points.weight_MP * np.clip(middle_D[:, None] - points.log_loss_MP, -_DELTA, _DELTA)
        rises_D = pull_DP.sum(axis=1) >= (middle_D < limits.log_eps_min)
        low_D, high_D = np.where(rises_D, low_D, middle_D), np.where(rises_D, middle_D, high_D)
    return high_D


def _thinned(points: _Points, most: int) -> _Points:
    """Return up to `most` of each domain's points, evenly spread over those of positive weight, weighing the same."""
    usable_DP = points.weight_MP > 0
    if usable_DP.shape[1] <= most:
        return points
    order_DP = np.argsort(~usable_DP, axis=1, kind="stable")
    count_D = usable_DP.sum(axis=1)
    keep_D = np.minimum(count_D, most)
    turn_Q = np.arange(most)
    rank_DQ = np.rint(turn_Q * (count_D - 1)[:, None] / np.maximum(keep_D - 1, 1)[:, None]).astype(np.int64)
    index_DQ = np.take_along_axis(order_DP, np.minimum(rank_DQ, count_D[:, None] - 1), axis=1)
    log_n_DQ, log_loss_DQ, weight_DQ = (np.take_along_axis(array_DP, index_DQ, axis=1) for array_DP in points)
    scale_D = np.where(turn_Q < keep_D[:, None], (count_D / keep_D)[:, None], 0.0)
    return _Points(log_n_DQ, log_loss_DQ, weight_DQ * scale_D)


def _best_starts(points: _Points, limits: Limits) -> Float64:
    """Return the grid's best starts for each domain, float64 [D, S, 3]."""
    log_beta_S1, log_eps_S1, alpha_S1 = _GRID_S3.astype(np.float32).T[:, :, None]
    hinges_S = _hinges(_GRID_S3, limits)
    best_DS3 = np.empty((len(points.log_n_MP), _STARTS, 3))
    for domain, (log_n_P, log_loss_P, weight_P) in enumerate(zip(*points)):
        power_SP = log_beta_S1 - alpha_S1 * log_n_P.astype(np.float32)
        size_SP = np.abs(np.logaddexp(power_SP, log_eps_S1) - log_loss_P.astype(np.float32))
        huber_SP = np.where(size_SP <= _DELTA, size_SP**2 / 2, _DELTA * (size_SP - _DELTA / 2))
        score_S = huber_SP @ weight_P.astype(np.float32) + hinges_S
        best_DS3[domain] = _GRID_S3[np.argsort(score_S, kind="stable")[:_STARTS]]
    return best_DS3


def _hinges(theta_M3: Float64, limits: Limits) -> Float64:
    """Return the hinges' sum, float64 [M], less the constant -0.001 that they have inside the limits."""
    lower_3, upper_3 = limits.kinks_23
    return (np.maximum(theta_M3 - upper_3, 0.0) + np.maximum(lower_3 - theta_M3, 0.0)).sum(axis=1)


def _evaluate(theta_M3: Float64, points: _Points) -> _Model:
    """Return the data term at theta."""
    log_n_MP, log_loss_MP, weight_MP = points
    gap_MP = theta_M3[:, :1] - theta_M3[:, 2:] * log_n_MP - theta_M3[:, 1:2]  # log of beta's part over eps
    small_MP = np.exp(-np.abs(gap_MP))
    residual_MP = theta_M3[:, 1:2] + np.maximum(gap_MP, 0.0) + np.log1p(small_MP) - log_loss_MP
    share_MP = np.where(gap_MP >= 0, 1.0, small_MP) / (1.0 + small_MP)  # sigma: beta's part of L
    size_MP = np.abs(residual_MP)
    inside_MP = np.minimum(size_MP, _DELTA)
    value_M = np.einsum("mp,mp->m", weight_MP, inside_MP * (size_MP - inside_MP / 2))
    pull_MP = weight_MP * np.clip(residual_MP, -_DELTA, _DELTA)
    pull_share_MP = pull_MP * share_MP
    by_beta_M = pull_share_MP.sum(axis=1)
    by_alpha_M = -np.einsum("mp,mp->m", pull_share_MP, log_n_MP)
    gradient_M3 = np.stack([by_beta_M, pull_MP.sum(axis=1) - by_beta_M, by_alpha_M], axis=1)
    curve_MP = weight_MP * (_DELTA / np.maximum(size_MP, _DELTA))
    jacobian_M3P = np.stack([share_MP, 1.0 - share_MP, -share_MP * log_n_MP], axis=1)
    hessian_M33 = (jacobian_M3P * curve_MP[:, None]) @ jacobian_M3P.transpose(0, 2, 1)
    return _Model(value_M, gradient_M3, hessian_M33)


def _polish(theta_M3: Float64, points: _Points, limits: Limits, sweeps: int, gain: float) -> tuple[Float64, Float64]:
    """Return minima of the objective near `theta_M3`, float64 [M, 3], and its values there (less the constant).

    A minimisation ends after four sweeps in a row that gained less than `gain` of the value each, or after `sweeps`.
    """
    theta_M3, final_M3, final_M = theta_M3.copy(), theta_M3.copy(), np.empty(len(theta_M3))
    open_M = np.arange(len(theta_M3))
    model = _evaluate(theta_M3, points)
    value_M: Float64 = model.value_M + _hinges(theta_M3, limits)
    damping_M: Float64 = np.full(len(theta_M3), 1e-2)
    least_M = 1e-12 * points.weight_MP.sum(axis=1)  # of a mean of Huber losses, whose scale is delta squared, 1e-6
    idle_M: Int64 = np.zeros(len(theta_M3), dtype=np.int64)
    for _ in range(sweeps):
        trial_M3 = _step(theta_M3, model, damping_M, limits)
        trial = _evaluate(trial_M3, points)
        trial_M = trial.value_M + _hinges(trial_M3, limits)
        gain_M = value_M - trial_M
        better_M = (gain_M > 0) & (idle_M < 4)  # a finished minimisation does not change while others continue
        idle_M = np.where((gain_M > least_M + gain * value_M) & (idle_M < 4), 0, idle_M + 1)
        damping_M = np.where(better_M, np.maximum(damping_M / 5, 1e-9), damping_M * 4)
        theta_M3 = np.where(better_M[:, None], trial_M3, theta_M3)
        value_M = np.where(better_M, trial_M, value_M)
        model = _Model(
            *(np.where(better_M.reshape(-1, *[1] * (new.ndim - 1)), new, old) for new, old in zip(trial, model))
        )
        final_M3[open_M], final_M[open_M] = theta_M3, value_M
        if (done_M := idle_M >= 4).sum() * 4 >= len(done_M):
            on_M = ~done_M
            if not on_M.any():
                break
            open_M, theta_M3, value_M = open_M[on_M], theta_M3[on_M], value_M[on_M]
            damping_M, least_M, idle_M = damping_M[on_M], least_M[on_M], idle_M[on_M]
            model, points = _Model(*(array[on_M] for array in model)), points.rows(on_M)
    return final_M3, final_M


def _step(theta_M3: Float64, model: _Model, damping_M: Float64, limits: Limits) -> Float64:
    """Return the next trial of each minimisation: the minimum of the damped quadratic model on the present piece."""
    low_M3, high_M3, slope_M3 = _pieces(theta_M3, model.gradient_M3, limits)
    gradient_M3 = model.gradient_M3 + slope_M3
    diagonal_M3 = np.einsum("mii->mi", model.hessian_M33)
    largest_M1 = diagonal_M3.max(axis=1, keepdims=True)
    hessian_M33 = model.hessian_M33.copy()
    np.einsum("mii->mi", hessian_M33)[:] += damping_M[:, None] * diagonal_M3 + 1e-12 * largest_M1 + 1e-300
    down_M3, up_M3 = np.maximum(low_M3 - theta_M3, -3.0), np.minimum(high_M3 - theta_M3, 3.0)
    fixed_M3 = down_M3 == up_M3
    step_M3 = np.zeros_like(theta_M3)
    for _ in range(3):  # a coordinate stopped by a bound is fixed there, and the others are solved for again
        along_M3 = np.einsum("mij,mj->mi", hessian_M33, np.where(fixed_M3, step_M3, 0.0))
        free_M3 = _solve(hessian_M33, np.where(fixed_M3, 0.0, -(gradient_M3 + along_M3)), fixed_M3)
        step_M3 = np.where(fixed_M3, step_M3, np.clip(free_M3, down_M3, up_M3))
        stopped_M3 = ~fixed_M3 & (free_M3 != step_M3)
        if not stopped_M3.any():
            break
        fixed_M3 |= stopped_M3
    reached_M3 = theta_M3 + step_M3
    # exactly at the bound, so that the next step knows the kink
    reached_M3 = np.where(step_M3 == low_M3 - theta_M3, low_M3, reached_M3)
    return np.where(step_M3 == high_M3 - theta_M3, high_M3, reached_M3)


def _pieces(theta_M3: Float64, gradient_M3: Float64, limits: Limits) -> tuple[Float64, Float64, Float64]:
    """Return lower end, upper end and hinge slope of the piece that each coordinate moves in; equal ends: it stays."""
    (lower_3, upper_3), (least_3, most_3) = limits.kinks_23, _BOX_23
    below_M3 = (theta_M3 < lower_3) | ((theta_M3 == lower_3) & (gradient_M3 > 1))
    above_M3 = (theta_M3 > upper_3) | ((theta_M3 == upper_3) & (gradient_M3 < -1))
    slope_M3 = above_M3.astype(np.float64) - below_M3
    low_M3 = np.where(below_M3, least_3, np.where(above_M3, upper_3, np.maximum(lower_3, least_3)))
    high_M3 = np.where(above_M3, most_3, np.where(below_M3, lower_3, np.minimum(upper_3, most_3)))
    downhill_M3 = -(gradient_M3 + slope_M3)
    stays_M3 = ((theta_M3 == low_M3) & (downhill_M3 < 0)) | ((theta_M3 == high_M3) & (downhill_M3 > 0))
    return np.where(stays_M3, theta_M3, low_M3), np.where(stays_M3, theta_M3, high_M3), slope_M3


def _solve(matrix_M33: Float64, right_M3: Float64, fixed_M3: NDArray[np.bool_]) -> Float64:
    """Solve the symmetric 3 x 3 systems by cofactors, with the rows and columns of fixed coordinates taken out."""
    free_M3 = ~fixed_M3
    scale_M3 = np.where(fixed_M3, 1.0, np.einsum("mii->mi", matrix_M33)) ** -0.5
    scaled_M33 = matrix_M33 * (free_M3[:, :, None] & free_M3[:, None, :]) * scale_M3[:, :, None] * scale_M3[:, None, :]
    p, q, r = scaled_M33[:, 0, 1], scaled_M33[:, 0, 2], scaled_M33[:, 1, 2]  # the diagonal is 1 by the scaling
    x, y, z = (right_M3 * scale_M3).T
    determinant = np.maximum(1.0 + 2 * p * q * r - p * p - q * q - r * r, 1e-15)
    solved_3M = np.stack(
        [
            (1 - r * r) * x + (q * r - p) * y + (p * r - q) * z,
            (q * r - p) * x + (1 - q * q) * y + (p * q - r) * z,
            (p * r - q) * x + (p * q - r) * y + (1 - p * p) * z,
        ]
    )
    return (solved_3M / determinant).T * scale_M3
