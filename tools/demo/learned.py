"""What ADO made of the run: the weights, from the mixing log; the laws and their points, from the last checkpoint.

Shape suffixes: T steps, K domains, P points of the loss curves, 3 parameters of a law.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mixstream.feedback.json_arrays import from_json
from mixstream.feedback.replay import read_log
from mixstream.mixers.scaling_law import ALPHA, FLAT, LOG_BETA, LOG_EPS, loss_at
from mixstream.plan.state import parse_state
from mixstream.plan.weights import WEIGHT_UNIT
from mixstream.types import Float64

from .settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Law:
    """A domain's L(n) = eps + beta n^-alpha, in nats per byte after n rows.

    Attributes:
        eps: the loss that it can not go below; not known better than its lower limit where `bounded`.
        beta: nats per byte.
        alpha: the exponent.
        bounded: whether eps is at the limit that ADO was given: the curve does not bend yet.
    """

    eps: float
    beta: float
    alpha: float
    bounded: bool


@dataclass(frozen=True, kw_only=True)
class Learned:
    """The mixture at the end of a run.

    Attributes:
        weights_TK: float64 [T, K], what each step was drawn by.
        theta_K3: float64 [K, 3], the laws (log beta, log eps, alpha); NaN where there is none.
        n_PK: float64 [P, K], rows seen by each point: of all domains, or of its own where `own_rows`.
        loss_PK: float64 [P, K], smoothed losses, nats per byte; NaN where a domain has no point.
        own_rows: what `n_PK` counts.
        log_eps_min: lower limit of log eps.
    """

    weights_TK: Float64
    theta_K3: Float64
    n_PK: Float64
    loss_PK: Float64
    own_rows: bool
    log_eps_min: float

    @property
    def changed_at(self) -> int | None:
        """The first step whose weights are not those that the run began with."""
        changed = np.flatnonzero((self.weights_TK != self.weights_TK[0]).any(axis=1))
        return int(changed[0]) if changed.size else None

    def law(self, k: int) -> Law | None:
        """Return the law of domain `k`; None if there is none, or its curve is flat."""
        log_beta, log_eps, alpha = self.theta_K3[k, [LOG_BETA, LOG_EPS, ALPHA]].tolist()
        if np.isnan(alpha) or log_beta <= FLAT:
            return None
        bounded = log_eps <= self.log_eps_min + 1e-6
        return Law(eps=float(np.exp(log_eps)), beta=float(np.exp(log_beta)), alpha=alpha, bounded=bounded)

    def loss_at(self, k: int, n: Float64) -> Float64:
        """Return what the law of domain `k` says of n rows, nats per byte; float64, in the shape of `n`."""
        return loss_at(self.theta_K3[k], n)


def read_learned(settings: Settings) -> Learned:
    """Return what a finished run learned.

    Raises:
        StateError: its log or its checkpoint is not one of such a run.
    """
    mixer, saved = settings.mixer(), torch.load(settings.checkpoint, weights_only=True)
    mixing = parse_state(saved["data"]).mixing
    assert mixing is not None  # ADO learns
    state = from_json(mixing["state"])
    n_PK, loss_PK = mixer.curves(state)
    return Learned(
        weights_TK=read_log(settings.run).weights_TK / WEIGHT_UNIT,
        theta_K3=state["theta_K3"],
        n_PK=n_PK,
        loss_PK=loss_PK,
        own_rows=not mixer.same_step,
        log_eps_min=mixer.log_eps_min,
    )
