"""DoGE: more weight to domains whose gradients point in the direction of the targets' gradients.

Fan et al. 2023, "DoGE: Domain Reweighting with Generalization Estimation", arXiv 2310.15393. Written from
specs/mixing.md sections 2.4 and 3; the released code was not run.

Shape suffixes: K domains, V validation groups (the targets).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from mixstream.arguments import normalise_fields
from mixstream.errors import ConfigError, FeedbackError
from mixstream.mixers._targets import Targets, bind_targets, check_targets, weigh_groups
from mixstream.mixers.form import Part
from mixstream.mixers.lmo import LMO, carry_weights
from mixstream.mixers.protocol import State
from mixstream.types import Feedback, Float64, Int64

HIGHEST_SCORE = 5.0
"""Scores are clipped to [0, this], in units of the learning rate."""


@dataclass(frozen=True, kw_only=True)
class DoGE:
    """Exponentiated gradient on inner products of gradients (arXiv 2310.15393).

    The trainer reports A_ij = <g_i, g_j> as `Feedback.matrix_VK` when it has measured it: rows are targets, columns
    domains, g_j the gradient of domain j's loss (clipped to norm 1 in the paper). Then, with v the `targets`:

        score_j = lr clip(sum_i v_i A_ij / (mean_k ||g_k|| + 1e-6), 0, 5)      log p <- log p + score / mu

    normalised. The method's result is the mean of p over the updates: `explain()["average"]`.

    Args:
        learning_rate: lr of the trainer, constant here. Only lr / mu matters.
        mu: strength of the regulariser, a Bregman divergence from the last weights; a smaller one moves faster.
        scaled: False: the matrix is the K x K Gram matrix of the domains' gradients, whose diagonal has the norms.
            True: the trainer has divided it by the mean norm; its rows may then be any, such as validation gradients.
        targets: v, how much each row counts; all 1 by default. See `LMO`.
        w0: where the first step starts, the "prior" or "uniform"; `LMO`.

    Differences from the paper and the released code:

    - The learning rate is constant, since a mixer does not see the optimiser's schedule: scale the matrix by the
      schedule and set `scaled=True` to follow it.
    - p starts at the prior; in the paper, uniform (`w0="uniform"`).
    - If a domain is a target, its own gradient counts for its score, as in the released code, where the branch that
      excludes it never runs.
    - A domain whose gradient is missing (NaN on the diagonal; with `scaled=True`, in its whole column) gets score 0.
      A target whose row lacks any other number is left out.

    Raises:
        ConfigError: an option is out of its range.
    """

    needs_matrix: ClassVar[bool] = True

    learning_rate: float = 5e-4
    mu: float = 0.05
    scaled: bool = False
    targets: Targets = None
    w0: Literal["uniform", "prior"] = "prior"

    def __post_init__(self) -> None:
        normalise_fields(self)
        for name in ("learning_rate", "mu"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ConfigError(f"{name} must be a finite number above 0, got {getattr(self, name)}")
        check_targets(self.targets)
        _ = self._lmo  # checks its options

    @property
    def _lmo(self) -> LMO:
        return LMO(eta=self.learning_rate / self.mu, normalise=False, w0=self.w0)

    def bind(self, names: tuple[str, ...], samples_K: Int64) -> Self:
        """Return this with targets in the order of the domains `names`; sizes are not used."""
        return replace(self, targets=bind_targets(self.targets, names))

    def init(self, prior_K: Float64) -> State:
        """Return the state before any feedback."""
        law = self._lmo.begin(prior_K)
        return {"lmo": law, "average_K": law["prior_K"].copy(), "steps": 0}

    def update(self, state: State, feedback: Feedback) -> tuple[State, Float64]:
        """Take in the matrix, if one was reported; a matrix without any gradient has no effect.

        Raises:
            FeedbackError: its shape is not [V, K], or [K, K] where norms are on its diagonal, or a squared norm in it
                is negative.
        """
        if feedback.matrix_VK is None:
            return state, self._lmo.weights(state["lmo"])
        score_K = self._score(np.asarray(feedback.matrix_VK, dtype=np.float64), state["lmo"]["prior_K"] > 0)
        if score_K is None:
            return state, self._lmo.weights(state["lmo"])
        law, weights_K = self._lmo.observe(state["lmo"], score_K[None])
        steps = state["steps"] + 1
        average_K = state["average_K"] + (weights_K - state["average_K"]) / steps
        return {"lmo": law, "average_K": average_K, "steps": steps}, weights_K

    def check(self, state: State, prior_K: Float64 | None = None) -> None:
        """Check a loaded state."""
        at = Part(state)
        at.keys({"lmo", "average_K", "steps"})
        prior_K = self._lmo.check(at["lmo"], prior_K)
        at["average_K"].simplex(len(prior_K))
        at["steps"].whole(least=0)

    def adapt(self, state: State, source_K: Int64, prior_K: Float64, step: int) -> State:
        """Carry weights and their average over to other domains."""
        law = self._lmo.adapt(state["lmo"], source_K, prior_K)
        average_K = carry_weights(state["average_K"], source_K, law["prior_K"])
        return dict(self.init(prior_K)) | {"lmo": law, "average_K": average_K, "steps": state["steps"]}

    def explain(self, state: State) -> Mapping[str, Any]:
        """Return the weights, their average over the updates (the method's result), and the last scores / lr."""
        law = self._lmo.explain(state["lmo"])
        average_K = state["average_K"].copy()
        return {"weights": law["weights"], "average": average_K, "score": law["score"], "steps": state["steps"]}

    def _score(self, matrix_VK: Float64, active_K: NDArray[np.bool_]) -> Float64 | None:
        """Return the clipped scores in units of lr, float64 [K]; None if no gradient is known."""
        domains = len(active_K)
        if matrix_VK.ndim != 2 or matrix_VK.shape[1] != domains or not (self.scaled or len(matrix_VK) == domains):
            raise FeedbackError(
                f"a matrix of shape {list(matrix_VK.shape)} was reported for {domains} domains: give the inner "
                f"products [{domains}, {domains}] of their gradients; or, for other targets, divide [V, {domains}] by "
                "the mean norm of the domains' gradients and set scaled=True"
            )
        if self.scaled:
            measured_K = np.isfinite(matrix_VK).any(axis=0) & active_K
        else:
            square_K = np.diag(matrix_VK)
            measured_K = np.isfinite(square_K) & active_K
            if (square_K[measured_K] < 0).any():
                raise FeedbackError(
                    f"the diagonal {square_K.tolist()} of the reported matrix should hold squared norms of gradients "
                    "and has a negative number: if rows are other gradients than columns, divide by the mean norm of "
                    "the domains' gradients and set scaled=True"
                )
        known_V = np.isfinite(matrix_VK[:, measured_K]).all(axis=1)
        if not measured_K.any() or not known_V.any():
            return None
        norm = 1.0 if self.scaled else float(np.sqrt(np.diag(matrix_VK)[measured_K]).mean()) + 1e-6
        score_K = np.zeros(domains)
        target_V = weigh_groups(self.targets, len(matrix_VK))[known_V]
        with np.errstate(over="ignore", invalid="ignore"):
            score_K[measured_K] = target_V @ (matrix_VK[np.ix_(known_V, measured_K)] / norm)
        return np.clip(score_K, 0.0, HIGHEST_SCORE)
