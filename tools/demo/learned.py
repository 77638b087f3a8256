"""What ADO learned in the run: the weights, from the mixing log; the laws and their points, from the last checkpoint.

Shape suffixes: T steps, K domains, P points of the loss curves, 3 parameters of a law.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mixstream.feedback import from_json, read_log
from mixstream.mixers import scaling_law
from mixstream.plan import WEIGHT_UNIT, parse_state
from mixstream.types import Float64

from .settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Law:
    """A domain's L(n) = eps + beta n^-alpha, in nats per byte after n rows.

    Attributes:
        eps: the loss that the law approaches; if `bounded`, the true value may be lower.
        beta: in nats per byte.
        alpha: the exponent.
        bounded: whether eps is at ADO's lower limit, because the curve does not flatten yet.
    """

    eps: float
    beta: float
    alpha: float
    bounded: bool


@dataclass(frozen=True, kw_only=True)
class Learned:
    """The mixture at the end of a run.

    Attributes:
        weights_TK: float64 [T, K], the weights of each step.
        theta_K3: float64 [K, 3], the laws (log beta, log eps, alpha); NaN if there is none.
        n_PK: float64 [P, K], rows before each point: of all domains, or with `own_rows` of the domain alone.
        loss_PK: float64 [P, K], smoothed losses in nats per byte; NaN if a domain has no point.
        own_rows: whether `n_PK` counts rows of the domain alone.
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
        """The first step whose weights differ from those of the first step."""
        changed = np.flatnonzero((self.weights_TK != self.weights_TK[0]).any(axis=1))
        return int(changed[0]) if changed.size else None

    def law(self, k: int) -> Law | None:
        """Return the law of domain `k`; None if there is none, or if the curve is flat."""
        log_beta, log_eps, alpha = self.theta_K3[
            k, [scaling_law.LOG_BETA, scaling_law.LOG_EPS, scaling_law.ALPHA]
        ].tolist()
        if np.isnan(alpha) or log_beta <= scaling_law.FLAT:
            return None
        bounded = log_eps <= self.log_eps_min + 1e-6
        return Law(eps=float(np.exp(log_eps)), beta=float(np.exp(log_beta)), alpha=alpha, bounded=bounded)

    def loss_at(self, k: int, n: Float64) -> Float64:
        """Return the loss of domain `k` after n rows by its law, in nats per byte; float64, in the shape of `n`."""
        return scaling_law.loss_at(self.theta_K3[k], n)


def read_learned(settings: Settings) -> Learned:
    """Return what a finished run learned.

    Raises:
        StateError: its log or its checkpoint cannot be read.
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
