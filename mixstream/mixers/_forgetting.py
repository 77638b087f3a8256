"""Where a domain stands on its curve when its loss has risen, since the model learned other domains meanwhile.

A law L(n) = eps + beta n^-alpha of a domain's own rows n falls for ever. A model also forgets: a domain that gets few
rows while others train has a higher loss than its law says, and the longer it starves, the flatter is the law that is
fitted to its losses. By that law it gets still less. Two rules stop this; both are about the loss that the domain has.

1. A domain stands where its law has the loss that it has (`remembered`). The speed of a power law is a function of
   the loss alone, dL/dn = -alpha (L - eps) ((L - eps) / beta)^(1 / alpha), so a model that forgot learns as fast as
   when it first had this loss. The rule has no threshold: where the law is right, the count is the domain's own. The
   law is fitted to the risen points as well and goes through their middle, so half of a rise is in the law; what is
   measured above it counts twice.
2. A flat law of a domain whose loss has risen is no law (`risen`): nothing says how fast it would learn again.
   A flat law of a loss that has not risen is one of a domain that has converged.

Shape suffixes: K domains, P points of the loss curves.
"""

import numpy as np
from numpy.typing import NDArray

from mixstream.mixers import scaling_law
from mixstream.mixers._history import Points
from mixstream.mixers.scaling_law import ALPHA, FLAT, LOG_BETA, LOG_EPS
from mixstream.types import Float64

RECENT = 32
"""Points whose mean says what loss a domain has."""

_WHOLE = 2.0  # of a rise, over what of it is above the law
_PARTS = 8  # of a curve: the last is held against the lowest. A rise shows late in few parts, and as noise in many.
_ERRORS = 4.0  # standard errors of a rise. With 3, one flat curve in 200 seems to have risen at a fit; with 4, in 20000
_LEAST = 1.5e-4  # of log L: as small a rise counts as a fall that `scaling_law` sees


def remembered(theta_K3: Float64, n_K: Float64, recent: Points, first_n_K: Float64) -> Float64:
    """Return the rows at which each law has the loss that its domain has, float64 [K], at most `n_K`.

    The loss that a domain has is that of its law at `n_K`, times the square of the mean ratio (geometric) of its recent
    losses to the law. If this is not above the law, if there is no law or if it is flat, the result is `n_K`.

    Args:
        theta_K3: the laws; NaN for a domain without one.
        n_K: the n of the laws by now.
        recent: the last points of the curves.
        first_n_K: n of the first point of each domain. The result is not below it: no law says what was before.

    A law 1 + 8 n^-0.5 says 1.25 at 1024 rows. Losses 1.2 times as high, twice over, are 1.8: the law's at 100 rows.

        >>> law_K3 = np.array([[np.log(8.0), 0.0, 0.5]])
        >>> recent = Points(n_PK=np.array([[1024.0]]), loss_PK=np.array([[1.2 * 1.25]]))
        >>> remembered(law_K3, np.array([1024.0]), recent, np.array([1.0])).round(3).tolist()
        [100.0]
    """
    falls_K = theta_K3[:, LOG_BETA] > FLAT  # False for NaN
    at_K = np.flatnonzero(falls_K & (n_K > 0))
    known_K = n_K.copy()
    if not len(at_K) or not len(recent.n_PK):
        return known_K
    law_K3, here_K, n_PK = theta_K3[at_K], n_K[at_K], np.maximum(recent.n_PK[:, at_K], 1.0)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        above_PK = np.log(recent.loss_PK[:, at_K]) - np.log(scaling_law.loss_at(law_K3, n_PK))
        seen_PK = np.isfinite(above_PK)
        above_K = np.where(seen_PK, above_PK, 0.0).sum(axis=0) / np.maximum(seen_PK.sum(axis=0), 1)
        excess_K = scaling_law.loss_at(law_K3, here_K) * np.exp(_WHOLE * above_K) - np.exp(law_K3[:, LOG_EPS])
        log_n_K = (law_K3[:, LOG_BETA] - np.log(excess_K)) / law_K3[:, ALPHA]
        back_K = np.exp(np.maximum(log_n_K, np.log(np.fmax(first_n_K[at_K], 1.0))))
    known_K[at_K] = np.where((above_K > 0) & (back_K < here_K), back_K, here_K)
    return known_K


def risen(loss_PK: Float64, apart: int) -> NDArray[np.bool_]:
    """Return whether each curve ends higher than it has been, by more than its noise; bool [K].

    Each curve is cut into 8 parts, and the mean of the last is held against the lowest of the others. The noise is the
    scatter of points `apart` from each other, in which the trend hardly counts.

    Args:
        loss_PK: smoothed losses; NaN where there is none.
        apart: points between two that do not share rows of their smoothing windows to speak of.

    A curve that falls to 3.0 and rises to 3.1 has risen; one that falls has not.

        >>> fall_P, rise_P = np.linspace(3.2, 3.0, 40), np.linspace(3.0, 3.1, 40)
        >>> both_PK = np.stack([np.r_[fall_P, rise_P], np.r_[fall_P, fall_P - 0.2]], axis=1)
        >>> risen(both_PK, apart=1).tolist()
        [True, False]
    """
    return np.array([_has_risen(column_P[np.isfinite(column_P)], apart) for column_P in np.log(loss_PK.T)], dtype=bool)


def _has_risen(log_loss_P: Float64, apart: int) -> bool:
    size = len(log_loss_P) // _PARTS
    if size == 0 or len(log_loss_P) < apart + _PARTS:
        return False
    mean_Q = log_loss_P[len(log_loss_P) - _PARTS * size :].reshape(_PARTS, size).mean(axis=1)
    change_P = log_loss_P[apart:] - log_loss_P[:-apart]
    scatter = float(np.median(np.abs(change_P - np.median(change_P)))) / 0.6745 / 2**0.5  # of a point, if normal
    error = scatter * (2 / max(size / apart, 1.0)) ** 0.5
    return bool(mean_Q[-1] - mean_Q[:-1].min() > max(_ERRORS * error, _LEAST))
