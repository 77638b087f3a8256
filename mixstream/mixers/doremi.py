"""DoReMi: more weight to domains whose loss exceeds a reference model's.

Xie et al. 2023, "DoReMi: Optimizing Data Mixtures Speeds Up Language Model Pretraining", arXiv 2305.10429. Written
from specs/mixing.md sections 2.4 and 3; the released code was not run.

Shape suffix: K domains.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Literal, Self

import numpy as np

from mixstream.arguments import has_items, normalise_fields, shown
from mixstream.errors import ConfigError
from mixstream.mixers.form import Part
from mixstream.mixers.lmo import LMO, carry_weights
from mixstream.mixers.protocol import State
from mixstream.mixers.static import by_name
from mixstream.types import Feedback, Float64, Int64


@dataclass(frozen=True, kw_only=True)
class DoReMi:
    """Exponentiated gradient on A = diag(excess loss), smoothed, then averaged over steps (arXiv 2305.10429).

    Every step, with s_k the excess loss of domain k: p_k <- p_k exp(eta s_k) / Z, then p <- (1 - c) p + c / K. The
    method's result is the mean of p over all steps, with which the real model is then trained: `explain()["average"]`.

    Without `reference`, the reported losses are the excess itself: per token max(loss - reference loss, 0), averaged
    per domain, as in the paper. With it, the trainer reports plain losses, and the excess is max(mean loss - reference,
    0) per domain, which needs no second model, but tokens that are easier than for the reference offset harder ones.

    Args:
        eta: step size.
        smoothing: c, the share of uniform weight.
        reference: mean loss of the reference model per domain, in nats; by name, or in the plan's order.
        serve: the weights to draw by: the "current" p, or the "average" of p so far.
        w0: where the first step starts, the "prior" or "uniform"; `LMO`.

    Differences from the paper and the released code:

    - There, rows are drawn by fixed weights and the proxy's loss is reweighted by p_k / weight_k. Here rows are drawn
      by p and no gradient is scaled; noise differs, and domains of low weight are measured less often.
    - p starts at the prior; in the paper, uniform (`w0="uniform"`).
    - A domain that is absent from a batch, or whose loss is not finite, keeps its last excess (0 before the first).
    - c / K is spread over the domains whose prior is not 0; the others stay at 0.

    Raises:
        ConfigError: an option is out of its range, or the reference does not fit the domains.
    """

    eta: float = 1.0
    smoothing: float = 1e-3
    reference: Mapping[str, float] | Sequence[float] | None = None
    serve: Literal["current", "average"] = "current"
    w0: Literal["uniform", "prior"] = "prior"

    def __post_init__(self) -> None:
        normalise_fields(self)
        if self.serve not in ("current", "average"):
            raise ConfigError(f"serve {self.serve!r} is not known; choose 'current' or 'average'")
        if self.reference is not None:
            if not isinstance(self.reference, Mapping) and not has_items(self.reference):
                raise ConfigError(f"`reference` is a dict or a list of losses, got {shown(self.reference)}")
            values = self.reference.values() if isinstance(self.reference, Mapping) else self.reference
            if not all(isinstance(value, Real) and math.isfinite(value) for value in values):
                raise ConfigError(f"reference losses must be finite numbers, one per domain; got {self.reference}")
        _ = self._lmo  # checks its options

    @property
    def _lmo(self) -> LMO:
        return LMO(eta=self.eta, normalise=False, w0=self.w0, smoothing=self.smoothing)

    def bind(self, names: tuple[str, ...], samples_K: Int64) -> Self:
        """Return this with the reference in the order of `names`; sizes are not used.

        Raises:
            ConfigError: the reference does not name these domains.
        """
        if not isinstance(self.reference, Mapping):
            return self
        return replace(self, reference=tuple(by_name(self.reference, names, what="the reference of DoReMi")))

    def init(self, prior_K: Float64) -> State:
        """Return the state before any feedback.

        Raises:
            ConfigError: the reference has not one loss per domain, or is by name and has not been bound to an order.
        """
        law = self._lmo.begin(prior_K)
        domains = len(law["prior_K"])
        if isinstance(self.reference, Mapping):
            raise ConfigError("reference losses are given by name, and no order was set; call bind(names, samples_K)")
        if self.reference is not None and len(self.reference) != domains:
            raise ConfigError(
                f"{len(self.reference)} reference losses are given for {domains} domains; give one for each, by name"
            )
        return {"lmo": law, "excess_K": np.zeros(domains), "average_K": law["prior_K"].copy(), "steps": 0}

    def update(self, state: State, feedback: Feedback) -> tuple[State, Float64]:
        """Take in one step's losses."""
        loss_K = feedback.loss_K
        if self.reference is not None:
            loss_K = loss_K - np.asarray(self.reference, dtype=np.float64)
        known_K = np.isfinite(loss_K)
        if not known_K.any():
            return state, self._served(state)
        after = dict(state)
        excess_K = after["excess_K"] = np.where(known_K, np.maximum(loss_K, 0.0), state["excess_K"])
        # One row that holds the diagonal has the column sums of diag(excess), at K numbers instead of K x K.
        after["lmo"], weights_K = self._lmo.observe(state["lmo"], excess_K[None])
        after["steps"] = state["steps"] + 1
        after["average_K"] = state["average_K"] + (weights_K - state["average_K"]) / after["steps"]
        return after, self._served(after)

    def check(self, state: State, prior_K: Float64 | None = None) -> None:
        """Check a loaded state."""
        at = Part(state)
        at.keys({"lmo", "excess_K", "average_K", "steps"})
        prior_K = self._lmo.check(at["lmo"], prior_K)
        at["excess_K"].array(len(prior_K), least=0.0)
        at["average_K"].simplex(len(prior_K))
        at["steps"].whole(least=0)

    def adapt(self, state: State, source_K: Int64, prior_K: Float64, step: int) -> State:
        """Carry weights, average and excess over to other domains; new ones begin with an excess of 0."""
        after = dict(self.init(prior_K))
        law = self._lmo.adapt(state["lmo"], source_K, prior_K)
        excess_K = np.where(source_K >= 0, state["excess_K"][np.maximum(source_K, 0)], 0.0)
        average_K = carry_weights(state["average_K"], source_K, law["prior_K"])
        return after | {"lmo": law, "excess_K": excess_K, "average_K": average_K, "steps": state["steps"]}

    def explain(self, state: State) -> Mapping[str, Any]:
        """Return the weights p, their average over the steps (the result of the method), and the excess losses."""
        return {
            "weights": self._lmo.weights(state["lmo"]),
            "average": state["average_K"].copy(),
            "excess": state["excess_K"].copy(),
            "steps": state["steps"],
        }

    def _served(self, state: State) -> Float64:
        if self.serve == "average":
            return state["average_K"] / state["average_K"].sum()
        return self._lmo.weights(state["lmo"])
