"""From the falls of losses on known mixtures (probes) to how much each domain helps each group.

The law is linear: over a probe the losses fall by G = A P, where column j of P [N, N] is the actual composition of the
probe of domain j, and A [V, N] is unknown. Source: Chen et al. 2024, arXiv 2411.05735 (Aioli); specs/mixing.md section
2.2, steps 2 and 3.

Shape suffixes: K domains, N active domains (those that are probed), R sweeps, V validation groups.
"""

import math
from functools import lru_cache
from typing import Any

import numpy as np

from mixstream.mixers.form import Part
from mixstream.plan.rng import derive_key
from mixstream.types import Float64, Int64

_SOLUTION = {
    "condition": "",
    "matrix": "VK",
    "column_sums": "K",
    "column_sums_error": "K",
    "gain_error": "VK",
}
"""What a round finds, by name, and its shape."""
WORST_CONDITION = 1e6
"""A round whose actual mixtures are worse conditioned than this is not solved: rounding would decide the result."""


def solve(
    gain_RVN: Float64, made_NN: Float64, target_V: Float64, *, active_N: Int64, domains: int, diagonal: bool
) -> dict[str, Any]:
    """Return A and its uncertainty, by name.

    `condition` of P; and, unless that is worse than `WORST_CONDITION` or fewer than two domains were drawn: `matrix`,
    A, float64 [V, K], NaN in the rows of groups whose losses are not finite; `column_sums` of it, float64 [K], weighted
    by the targets; with two sweeps or more the standard errors over the sweeps of these sums and of the gains
    (`column_sums_error`, `gain_error`).

    A domain without a row in any probe has left the mix: it gets the mean of the other columns, which has no effect.

    Args:
        gain_RVN: float64 [R, V, N], fall of each loss in each probe.
        made_NN: float64 [N, N], column j the mean composition of the probes of domain j.
        target_V: float64 [V], weights of the groups.
        active_N: int64 [N], the probed domains among all K.
        domains: K.
        diagonal: only measure how each domain helps itself.

    Two domains that only help themselves, by 2 and 1 in pure probes:

        >>> found = solve(np.array([[[2.0, 0.0], [0.0, 1.0]]]), np.eye(2), np.ones(2),
        ...               active_N=np.array([0, 1]), domains=2, diagonal=False)
        >>> found["matrix"].tolist(), found["column_sums"].tolist()
        ([[2.0, 0.0], [0.0, 1.0]], [2.0, 1.0])
    """
    here_N = made_NN.any(axis=1)
    found_N = active_N[here_N]
    gain_RVN, made_NN = gain_RVN[:, :, here_N], made_NN[np.ix_(here_N, here_N)]
    gain_VN = gain_RVN.mean(axis=0)
    if diagonal:
        made_NN, gain_VN = np.diag(np.diag(made_NN)), _only_own(gain_VN, found_N)
        gain_RVN = np.stack([_only_own(one_VN, found_N) for one_VN in gain_RVN])
    condition = float(np.linalg.cond(made_NN)) if len(found_N) > 1 else math.inf
    out: dict[str, Any] = {"condition": np.array(condition)}  # an array, since JSON has no infinity
    if not condition <= WORST_CONDITION:
        return out
    known_V = np.isfinite(gain_VN).all(axis=1)
    matrix_VK = np.zeros((len(gain_VN), domains))
    matrix_VK[np.ix_(~known_V, found_N)] = np.nan
    matrix_VK[np.ix_(known_V, found_N)] = np.linalg.solve(made_NN.T, gain_VN[known_V].T).T
    sums_K = target_V[known_V] @ matrix_VK[known_V]
    if not here_N.all():
        matrix_VK[:, active_N[~here_N]] = matrix_VK[:, found_N].mean(axis=1, keepdims=True)
        sums_K[active_N[~here_N]] = sums_K[found_N].mean()
    out |= {"matrix": matrix_VK, "column_sums": sums_K}
    if (sweeps := len(gain_RVN)) > 1:
        sums_RN = np.linalg.solve(made_NN.T, (target_V[known_V] @ gain_RVN[:, known_V]).T).T
        out["gain_error"] = np.zeros_like(matrix_VK)
        out["gain_error"][:, found_N] = gain_RVN.std(axis=0, ddof=1) / math.sqrt(sweeps)
        out["column_sums_error"] = np.zeros(domains)
        out["column_sums_error"][found_N] = sums_RN.std(axis=0, ddof=1) / math.sqrt(sweeps)
    return out


def check_solution(at: Part, *, groups: int, domains: int) -> None:
    """Check what `solve` returned, in a loaded state; it may be empty.

    Raises:
        StateError: it is something else.
    """
    for name in at.keys(set(), set(_SOLUTION)):
        shape = {"": (), "K": (domains,), "VK": (groups, domains)}[_SOLUTION[name]]
        at[name].array(*shape, unknown=True, infinite=True)


@lru_cache(maxsize=256)
def probe_order(seed: int, number: int, sweep: int, domains: int) -> tuple[int, ...]:
    """Return the order in which the active domains are probed in a sweep of the round `number`."""
    key_N = [derive_key(seed, "aioli", "probe", number, sweep, domain) for domain in range(domains)]
    return tuple(sorted(range(domains), key=key_N.__getitem__))


def _only_own(gain_VN: Float64, active_N: Int64) -> Float64:
    """Return the gains with 0 for all but the domain's own group; rows that were not measured stay NaN."""
    own_VN = np.zeros_like(gain_VN)
    column_N = np.arange(len(active_N))
    own_VN[active_N, column_N] = gain_VN[active_N, column_N]
    return own_VN


def finite(loss_V: Float64) -> Float64:
    """Return losses with NaN for those that are none, so that differences do not overflow."""
    return np.where(np.abs(loss_V) < 1e100, loss_V, np.nan)
