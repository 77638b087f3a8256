"""Probes solved: from how much each loss fell on known mixtures to how much each domain helps.

One linear law: over a probe the losses fall by G = A P, where column j of P [N, N] is what the probe of domain j was
really made of, and A [V, N] is wanted. Source: Chen et al. 2024, arXiv 2411.05735 (Aioli); specs/mixing.md section 2.2,
steps 2 and 3.

Shape suffixes: K domains, N active domains (those that are probed), R sweeps, V validation groups.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mixstream.types import Float64, Int64

WORST_CONDITION = 1e6
"""A round whose realised mixtures are worse conditioned than this is not solved: rounding would be the answer."""


def solve(
    gain_RVN: Float64, made_NN: Float64, target_V: Float64, *, active_N: Int64, domains: int, diagonal: bool
) -> dict[str, Any]:
    """Return A and how sure it is, by name.

    `condition` of P; and, unless that is worse than `WORST_CONDITION` or fewer than two domains were there: `matrix`,
    A, float64 [V, K], NaN in the rows of groups whose losses are not finite; `column_sums` of it, float64 [K], weighed
    by the targets; with two sweeps or more their standard errors, and those of the gains, over the sweeps
    (`column_sums_error`, `gain_error`).

    A domain without a row in any probe has left the mix: it gets the mean of the other columns, which moves nothing.

    Args:
        gain_RVN: float64 [R, V, N], fall of each loss in each probe.
        made_NN: float64 [N, N], column j the mean composition of the probes of domain j.
        target_V: float64 [V], weights of the groups.
        active_N: int64 [N], the probed domains among all K.
        domains: K.
        diagonal: only how each domain helps itself.
    """
    here_N = made_NN.any(axis=1)
    found_N = active_N[here_N]
    told = _solved(gain_RVN[:, :, here_N], made_NN[np.ix_(here_N, here_N)], target_V, found_N, domains, diagonal)
    if "matrix" in told and not here_N.all():
        told["matrix"][:, active_N[~here_N]] = told["matrix"][:, found_N].mean(axis=1, keepdims=True)
        told["column_sums"][active_N[~here_N]] = told["column_sums"][found_N].mean()
    return told


def _solved(  # noqa: PLR0917 - what `solve` takes, of the domains that are there
    gain_RVN: Float64, made_NN: Float64, target_V: Float64, active_N: Int64, domains: int, diagonal: bool
) -> dict[str, Any]:
    gain_VN = gain_RVN.mean(axis=0)
    if diagonal:
        made_NN, gain_VN = np.diag(np.diag(made_NN)), _only_own(gain_VN, active_N)
        gain_RVN = np.stack([_only_own(one_VN, active_N) for one_VN in gain_RVN])
    condition = float(np.linalg.cond(made_NN)) if len(active_N) > 1 else math.inf
    told: dict[str, Any] = {"condition": np.array(condition)}  # an array, for JSON has no infinity
    if not condition <= WORST_CONDITION:
        return told
    known_V = np.isfinite(gain_VN).all(axis=1)
    matrix_VK = np.zeros((len(gain_VN), domains))
    matrix_VK[np.ix_(~known_V, active_N)] = np.nan
    matrix_VK[np.ix_(known_V, active_N)] = np.linalg.solve(made_NN.T, gain_VN[known_V].T).T
    told |= {"matrix": matrix_VK, "column_sums": target_V[known_V] @ matrix_VK[known_V]}
    if (sweeps := len(gain_RVN)) > 1:
        sums_RN = np.linalg.solve(made_NN.T, (target_V[known_V] @ gain_RVN[:, known_V]).T).T
        told["gain_error"] = np.zeros_like(matrix_VK)
        told["gain_error"][:, active_N] = gain_RVN.std(axis=0, ddof=1) / math.sqrt(sweeps)
        told["column_sums_error"] = np.zeros(domains)
        told["column_sums_error"][active_N] = sums_RN.std(axis=0, ddof=1) / math.sqrt(sweeps)
    return told


def _only_own(gain_VN: Float64, active_N: Int64) -> Float64:
    """Return the gains with all but each domain's own put to 0; a row that is not measured stays NaN."""
    own_VN = np.zeros_like(gain_VN)
    column_N = np.arange(len(active_N))
    own_VN[active_N, column_N] = gain_VN[active_N, column_N]
    return own_VN
