"""ODM: domains as arms of a bandit, rewarded by their training loss; in the paper's form and both released ones.

Rule 1: one call of `update` is one optimiser step: the rewards of all its domains use the same old weights, followed by
one softmax and one new exploration rate.
Rule 2: the state stays finite whatever is reported (a NaN, an infinity, a zero, a step without losses), and a domain of
prior 0 always has weight 0.

Source: Albalak, Pan, Raffel, Wang, "Efficient Online Data Mixing For Language Model Pre-Training", 2023
(arXiv 2312.02406); the code released with it (alon-albalak/online-data-mixing); DataFlex's `odm_mixer`. Formulas are
those of specs/mixing.md section 3.

Shape suffixes: K domains.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mixstream.arguments import normalise_fields
from mixstream.errors import ConfigError
from mixstream.mixers.form import Part
from mixstream.mixers.protocol import State
from mixstream.plan.weights import normalise
from mixstream.types import Feedback, Float64, Int64

Form = Literal["paper", "exp3", "smoothed", "smoothed_single"]

_SMOOTHING = {"paper": 0.9, "smoothed": 0.9, "smoothed_single": 0.9}
_SCALE = {"paper": 1.0, "exp3": 0.1}
_FORMS = ("paper", "exp3", "smoothed", "smoothed_single")

# Limits above the losses of a language model, so that one wrong loss does not decide the run.
LOSS_LIMIT = 15.0
"""Nats: more than the loss of any untrained model, ln of its vocabulary. Higher losses count as this one."""
_LOGIT_RANGE = 700.0  # exp(-700) is the last that a float64 holds to full precision
_REWARD_LIMIT = 10.0  # of Exp3's reward, which should be in [0, 1] and which is never forgotten
_ESTIMATE_LIMIT = 1e6  # of the paper form's estimate; DataFlex has 1e4, which hundreds of domains can reach
_P_LIMIT = 1e-12  # no smaller weight ever draws a row


@dataclass(frozen=True, kw_only=True)
class ODM:
    """Online data mixing: sample more of the domains whose loss is high.

    With estimates R_k = 0 at first, and t the iteration (1 for the run's first step), every step does

        R_k   <- form (below), for every domain with a loss in the step; the others keep theirs
        eps_t  = min(1/K, sqrt(ln K / (K t)))
        p_k    = (1 - K eps_t) softmax_k(eps_{t-1} R) + eps_t

    | form | R_k <- | |
    |---|---|---|
    | "paper" | a R_k + (1 - a) s loss_k / p_k | moving average, importance weighted |
    | "exp3" | R_k + s loss_k / p_k | the released Exp3: a sum over all time |
    | "smoothed" | a R_k + (1 - a) exp(loss_k) | the released `smoothed_mean`, group update: R / sum(R) for softmax |
    | "smoothed_single" | the same | the released `smoothed_mean`, single update: softmax |

    a is `smoothing`, s `reward_scale`, loss_k the mean loss of the domain's tokens in nats, p_k the weight that the
    step was drawn by (`Feedback.weights_K`; under a lag that is not the newest). K counts the domains of positive
    prior. Weights are those of rows.

    `ODM()` is the algorithm of the paper, without options that depend on the run. It begins uniform (eps_t = 1/K while
    t <= K ln K), so it needs no warm-up; and no weight is ever below eps_t, so every estimate is updated. Others use:

    - released, 1B and 3B: `ODM(form="smoothed", smoothing=0.5, warmup=2000)`;
    - DataFlex: `ODM(reward_scale=15, min_exploration=0.03, logit_range=5, warmup=n, count_warmup=False)`.

    In the long run: eps_t falls, so the paper form and the single form lose contrast and end near uniform, whatever the
    prior (`min_exploration` keeps the contrast, and the floor with it). "smoothed" tends to weights in proportion to
    perplexity; "exp3", if every domain is in every step, to weights in proportion to the loss.

    Differences from the sources:

    - A batch holds many domains; the paper draws one per micro-batch. A domain in a step counts as drawn once, by its
      mean loss, however many rows it had: the released group update, or with one domain the single update.
    - A step without any loss does not change weights or eps.
    - A domain whose prior is 0 is left out for good. The released code would give it eps_t.
    - A loss above 15 nats counts as 15, in every form. A model that knows nothing has ln(vocabulary), 12.5 with 256
      thousand tokens; what is higher is a spike, and the smoothed forms, which average exp(loss), would go by nothing
      else for hundreds of steps. One that is not finite counts as absent.
    - An Exp3 reward is at most 10, the paper form's |R| at most 1e6.
    - The first estimate of domains that join during a run is the mean of the others.

    Args:
        form: of the estimate, see above.
        smoothing: a, in [0, 1); 0.9 unless given. "exp3" has none.
        reward_scale: s, above 0; 1 in the paper form, 0.1 in "exp3". The smoothed forms have none.
        warmup: first iterations, which keep the prior and learn nothing.
        count_warmup: whether t counts them (as released: exploration is small when they end) or starts after them (as
            in DataFlex: uniform weights follow).
        min_exploration: lower limit of eps_t, which itself never exceeds 1/K.
        logit_range: largest distance of a logit eps R below the largest; None for no limit. "smoothed" has no logits.
    """

    form: Form = "paper"
    smoothing: float | None = None
    reward_scale: float | None = None
    warmup: int = 0
    count_warmup: bool = True
    min_exploration: float = 0.0
    logit_range: float | None = None

    def __post_init__(self) -> None:
        normalise_fields(self)
        if self.form not in _FORMS:
            raise ConfigError(f"ODM form {self.form!r} is not known; choose one of {', '.join(map(repr, _FORMS))}")
        smoothing, scale, reach = self.smoothing, self.reward_scale, self.logit_range
        if smoothing is not None and (self.form not in _SMOOTHING or not 0 <= smoothing < 1):
            raise ConfigError(f"ODM smoothing={smoothing} must lie in [0, 1), and form='exp3' has none; drop it")
        if scale is not None and (self.form not in _SCALE or not 0 < scale < math.inf):
            raise ConfigError(
                f"ODM reward_scale={scale} must be a number above 0, and the smoothed forms have none; drop it"
            )
        if reach is not None and (self.form == "smoothed" or not reach > 0):
            raise ConfigError(f"ODM logit_range={reach} must be above 0, and form='smoothed' has no logits; drop it")
        if not isinstance(self.warmup, int) or self.warmup < 0:
            raise ConfigError(f"ODM warmup={self.warmup} must be a whole number of steps >= 0")
        if not 0 <= self.min_exploration <= 1:
            raise ConfigError(f"ODM min_exploration={self.min_exploration} must lie in [0, 1]")

    def init(self, prior_K: Float64) -> State:
        """Return the state before any loss: estimates 0, weights of the prior, the largest exploration rate."""
        normalise(prior_K, what="the prior")  # raises for one that is none; the numbers stay as they are
        prior_K = np.array(prior_K, dtype=np.float64)
        return {
            "prior_K": prior_K,
            "weights_K": prior_K.copy(),
            "estimate_K": np.zeros(len(prior_K)),
            "eps": 1 / max(int((prior_K > 0).sum()), 1),
        }

    def update(self, state: State, feedback: Feedback) -> tuple[State, Float64]:
        """Return the state after `feedback` and the weights, float64 [K], of step `feedback.effective`."""
        t = feedback.step + 1
        loss_K, p_K = np.minimum(feedback.loss_K, LOSS_LIMIT), np.asarray(feedback.weights_K)
        known_K = np.isfinite(loss_K) & (p_K > 0) & (state["prior_K"] > 0)
        if t <= self.warmup or not known_K.any():
            return state, state["weights_K"].copy()
        estimate_K = state["estimate_K"].copy()
        estimate_K[known_K] = self._estimate(estimate_K[known_K], loss_K[known_K], p_K[known_K])
        eps = self._exploration(t, state["prior_K"])
        weights_K = self._weights(estimate_K, state["prior_K"], state["eps"], eps)
        after = {"prior_K": state["prior_K"], "weights_K": weights_K, "estimate_K": estimate_K, "eps": eps}
        return after, weights_K.copy()

    def check(self, state: State, prior_K: Float64 | None = None) -> None:
        """Check a loaded state."""
        at = Part(state)
        at.keys({"prior_K", "weights_K", "estimate_K", "eps"})
        prior_K = at["prior_K"].prior(prior_K)
        at["weights_K"].simplex(len(prior_K), within=prior_K)
        least, most = -_ESTIMATE_LIMIT, _ESTIMATE_LIMIT
        if self.form == "exp3":  # a sum over all steps
            least, most = -1e300, 1e300
        elif self.form != "paper":
            least, most = 0.0, 1.001 * math.exp(LOSS_LIMIT)
        at["estimate_K"].array(len(prior_K), least=least, most=most)
        at["eps"].number(least=0.0, most=1 / max(int((prior_K > 0).sum()), 1))

    def opening(self, state: State, step: int) -> Float64:
        """Return the weights, float64 [K], until the first feedback: the prior, or those of `adapt`."""
        return state["weights_K"].copy()

    def adapt(self, state: State, source_K: Int64, prior_K: Float64, step: int) -> State:
        """Return the state for other domains, from `step` on.

        Domains that stay keep their estimates; new ones begin with the mean of these. Weights follow from the estimates
        at once; they are the prior while there are none.
        """
        fresh = self.init(prior_K)
        enabled_K = fresh["prior_K"] > 0
        kept_K = (source_K >= 0) & enabled_K
        kept_K[kept_K] = state["prior_K"][source_K[kept_K]] > 0
        estimate_K = np.zeros(len(prior_K))
        if kept_K.any():
            estimate_K[kept_K] = state["estimate_K"][source_K[kept_K]]
            estimate_K[enabled_K & ~kept_K] = estimate_K[kept_K].mean()
        if step <= self.warmup or not estimate_K.any():
            return fresh
        eps = self._exploration(step, fresh["prior_K"])
        weights_K = self._weights(estimate_K, fresh["prior_K"], eps, eps)
        return {"prior_K": fresh["prior_K"], "weights_K": weights_K, "estimate_K": estimate_K, "eps": eps}

    def explain(self, state: State) -> Mapping[str, Any]:
        """Return `estimate`, R float64 [K], and `eps`, the exploration rate: the least weight of a domain."""
        return {"estimate": state["estimate_K"].copy(), "eps": state["eps"]}

    def _estimate(self, old: Float64, loss: Float64, p: Float64) -> Float64:
        if self.form in ("smoothed", "smoothed_single"):
            return self._average(old, np.exp(loss))
        scale = _SCALE[self.form] if self.reward_scale is None else self.reward_scale
        # Limited before scaling and dividing, so that neither overflows.
        limit = (_REWARD_LIMIT if self.form == "exp3" else _ESTIMATE_LIMIT) / scale
        reward = scale * np.clip(loss, -limit, limit) / np.maximum(p, _P_LIMIT)
        if self.form == "exp3":
            return old + reward
        return np.clip(self._average(old, reward), -_ESTIMATE_LIMIT, _ESTIMATE_LIMIT)

    def _average(self, old: Float64, new: Float64) -> Float64:
        a = _SMOOTHING[self.form] if self.smoothing is None else self.smoothing
        return a * old + (1 - a) * new

    def _exploration(self, t: int, prior_K: Float64) -> float:
        """Return eps of iteration `t`, counted from 1."""
        K = int((prior_K > 0).sum())
        t = max(t if self.count_warmup else t - self.warmup, 1)
        return min(1 / K, max(self.min_exploration, math.sqrt(math.log(K) / (K * t))))

    def _weights(self, estimate_K: Float64, prior_K: Float64, eps_before: float, eps: float) -> Float64:
        enabled_K = prior_K > 0
        R = estimate_K[enabled_K]
        if self.form == "smoothed":
            share = R / total if (total := R.sum()) > 0 else np.full(len(R), 1 / len(R))
        else:
            logits = eps_before * R
            logits -= logits.max()
            logits = np.maximum(logits, -_LOGIT_RANGE if self.logit_range is None else -self.logit_range)
            share = np.exp(logits)
            share /= share.sum()
        weights = (1 - len(R) * eps) * share + eps
        weights_K = np.zeros(len(prior_K))
        weights_K[enabled_K] = weights / weights.sum()
        return weights_K
