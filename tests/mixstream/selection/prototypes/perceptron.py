"""The teacher-student perceptron: how pruning changes the generalisation error, in theory and by simulation.

Points x ~ N(0, I_N) have the label sign(T·x) of a teacher T. A probe J at the angle theta to T scores them by |J·x|,
small is hard. A share f is kept; the student is the max-margin separator of the kept points. Its error is
arccos(R) / pi, with R its cosine to the teacher. Source of the set-up: Sorscher et al. (2022).

The theory follows from Gordon's comparison theorem. In the plane of teacher and probe, (t, u) = y (x1, x2), axis 1
along the teacher. With h(v) = E_g (v - g)_+² = (v² + 1) Phi(v) + v phi(v), let K(A, B) be the root of the equation
alpha E h(K - A t - B u) = 1. The student's direction maximises the margin kappa = K / sqrt(1 + A² + B²), and
R = A / sqrt(1 + A² + B²).
"""

import math
from functools import cache

import numpy as np
import scipy  # imports its parts when they are first used

_INFINITY = 9.0
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(60)


def _interval(low: np.ndarray | float, high: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    low, half = np.asarray(low)[..., None], (np.asarray(high) - np.asarray(low))[..., None] / 2
    return low + half * (_NODES + 1), half * _WEIGHTS


def _phi(x: np.ndarray) -> np.ndarray:
    return np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


@cache
def _law(theta: float, f: float, side: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return nodes (t, u) and weights of the law of the kept points."""
    edge = float(scipy.special.ndtri(1 - f / 2 if side == "easy" else (1 + f) / 2))
    low, high = (edge, _INFINITY) if side == "easy" else (0.0, min(edge, _INFINITY))
    z, weight_z = _interval(low, high)
    weight_z = weight_z * _phi(z)
    split = np.clip(z / math.tan(theta), -_INFINITY, _INFINITY) if theta else np.full_like(z, _INFINITY)
    parts = [_interval(np.full_like(z, -_INFINITY), split), _interval(split, np.full_like(z, _INFINITY))]
    w = np.concatenate([each[0] for each in parts], axis=1)
    weight = weight_z[:, None] * np.concatenate([each[1] for each in parts], axis=1) * _phi(w)
    x1 = math.cos(theta) * z[:, None] - math.sin(theta) * w
    x2 = math.sin(theta) * z[:, None] + math.cos(theta) * w
    y = np.where(x1 >= 0, 1.0, -1.0)
    return (y * x1).ravel(), (y * x2).ravel(), (weight / weight.sum()).ravel()


def theory(alpha: float, theta: float = 0.0, f: float = 1.0, side: str = "hard") -> tuple[float, float]:
    """Return (error, margin) of the student on alpha N kept points; `theta` in radians."""
    t, u, weight = _law(theta, f, side)

    def margin(direction: np.ndarray) -> float:
        a, b = direction[0], direction[1] if theta else 0.0

        def excess(k: float) -> float:
            v = k - a * t - b * u
            return alpha * float(weight @ ((v**2 + 1) * scipy.special.ndtr(v) + v * _phi(v))) - 1

        return scipy.optimize.brentq(excess, -200.0, 200.0, xtol=1e-10) / math.sqrt(1 + a * a + b * b)

    start = [1.0 + alpha / 2, 0.0][: 2 if theta else 1]
    best = scipy.optimize.minimize(
        lambda d: -margin(d), start, method="Nelder-Mead", options={"xatol": 1e-5, "fatol": 1e-11}
    )
    a, b = best.x[0], best.x[1] if theta else 0.0
    return math.acos(a / math.sqrt(1 + a * a + b * b)) / math.pi, -best.fun


def points(n: int, alpha_tot: float, theta: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (x, y, |z|) of alpha_tot n points; the teacher is axis 0."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((round(alpha_tot * n), n))
    return x, np.where(x[:, 0] >= 0, 1.0, -1.0), np.abs(math.cos(theta) * x[:, 0] + math.sin(theta) * x[:, 1])


def student(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return (error, margin) of the max-margin separator through the origin: a non-negative least-squares problem."""
    rows, n = y[:, None] * x, x.shape[1]
    scale = math.sqrt(n)
    factor, _ = scipy.optimize.nnls(
        np.vstack([rows.T, np.full((1, len(rows)), scale)]), np.append(np.zeros(n), scale), maxiter=50 * n
    )
    direction = rows.T @ factor
    direction /= np.linalg.norm(direction)
    return math.acos(np.clip(direction[0], -1, 1)) / math.pi, float((rows @ direction).min())
