"""feedback -> mixer -> weights of later steps: the loop that makes a mixture online.

The invariant is the lag. Weights of step t come from the feedback of step t - 1 - lag and before, and from nothing
else; so batches can be made `lag` steps ahead, and neither timing nor prefetch depth changes one. The steps that no
feedback can reach yet (up to `origin + lag`) are drawn by the prior. Every weight vector is logged as the whole parts
that the plan uses (`weights.quantise`); the tail of that log and the mixer's own state are all that a resume needs.

Shape suffix: K domains, in the plan's order.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mixstream.errors import ConfigError, FeedbackError, StateError
from mixstream.mixers import Mixer, OpenLoop
from mixstream.types import Feedback, Float64, Int64
from mixstream.weights import WEIGHT_UNIT, quantise


@dataclass(kw_only=True)
class FeedbackLoop:
    """A learning mixer at work. Not locked: who calls from several threads, guards it.

    Args:
        mixer: the policy.
        prior_K: float64 [K], weights before any feedback.
        lag: steps between the newest feedback in a weight vector and the first batch that it shapes; constant of a run.
        origin: the first step whose losses count; later than 0 where a run was resumed with other domains.
    """

    mixer: Mixer
    prior_K: Float64
    lag: int
    origin: int = 0
    reported: int = field(default=-1, init=False)
    _state: Any = field(default=None, init=False)
    _log: dict[int, Int64] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.lag < 0:
            raise ConfigError(f"lag must be at least 0 steps, got {self.lag}")
        self._state = self.mixer.init(self.prior_K)
        self.reported = self.origin

    def weights(self, step: int) -> Int64 | None:
        """Return the weights of `step` in whole parts, int64 [K]; None while its feedback has not been reported."""
        if step <= self.origin + self.lag:
            return quantise(self.prior_K)
        return self._log.get(step)

    def missing_for(self, step: int) -> FeedbackError:
        """Return the error for a trainer that asks for `step` without having reported what it depends on."""
        return FeedbackError(
            f"step {self.reported} has not been reported, and the weights of step {step} depend on it (lag {self.lag}):"
            " call loader.report(batch, loss) once for every batch, or use a mixer that needs no losses (Static)"
        )

    def report(self, step: int, loss_sum_K: Float64, count_K: Float64) -> Int64:
        """Take in one step's losses, summed over all ranks; return the weights that they lead to.

        Raises:
            FeedbackError: `step` is not the next one to report.
        """
        if step < self.reported:
            raise FeedbackError(
                f"step {step} is reported a second time (or late): the next to report is {self.reported}"
            )
        if step > self.reported:
            raise FeedbackError(
                f"step {step} is reported, but step {self.reported} has not been: every batch must be reported once, "
                "in order, even if its loss was not used"
            )
        effective = step + 1 + self.lag
        feedback = Feedback(step=step, effective=effective, loss_sum_K=loss_sum_K, count_K=count_K)
        self._state, weights_K = self.mixer.update(self._state, feedback)
        self._log[effective] = quantise(weights_K)
        self.reported = step + 1
        return self._log[effective]

    def forget_before(self, step: int) -> None:
        """Drop log entries that no later step needs."""
        for old in [at for at in self._log if at < step]:
            del self._log[old]

    def document(self, step: int) -> dict[str, Any]:
        """Return what a resume before `step` needs, JSON-able."""
        if self.reported < step:
            warnings.warn(
                f"state is taken after step {step - 1} was handed out and before it was reported: the mixer will not "
                "learn from it after a resume; call report() before state_dict()",
                stacklevel=3,
            )
        log = [[at, self._log[at].tolist()] for at in sorted(self._log) if at >= step]
        return {"lag": self.lag, "origin": self.origin, "reported": self.reported, "state": self._state, "log": log}

    def restore(self, document: dict[str, Any], step: int) -> None:
        """Go on from `document`; the next step to be drawn is `step`."""
        try:
            self.origin, self.reported = int(document["origin"]), int(document["reported"])
            self._log = {int(at): np.asarray(parts, dtype=np.int64) for at, parts in document["log"]}
            self._state = document["state"]
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(
                f"the saved mixer state cannot be read ({error!r}); pass strict=False to begin it anew"
            ) from error
        if not self._consistent(step):
            raise StateError(
                f"the saved log of weights does not reach from step {step} to what step {self.reported} leads to; load "
                "an older checkpoint, or pass strict=False to begin the mixture anew"
            )
        while self.reported < step:  # handed out before the save, never reported: their weights stay as they were
            effective = self.reported + 1 + self.lag
            last_K = self.weights(effective - 1)
            self._log[effective] = quantise(self.prior_K) if last_K is None else last_K
            self.reported += 1

    def _consistent(self, step: int) -> bool:
        """Tell whether the log is one that a run about to draw `step` can have."""
        if not self.origin <= self.reported <= step <= self.reported + self.lag + 1:
            return False
        known = [self.weights(at) for at in range(step, self.reported + self.lag + 1)]
        return all(
            parts_K is not None
            and parts_K.shape == self.prior_K.shape
            and parts_K.min() >= 0
            and parts_K.sum() == WEIGHT_UNIT
            for parts_K in known
        )


@dataclass(frozen=True, kw_only=True)
class OpenLoopWeights:
    """Weights that depend on the step alone."""

    mixer: OpenLoop
    names: tuple[str, ...]

    def weights(self, step: int) -> Int64:
        """Return the weights of `step` in whole parts, int64 [K]."""
        return quantise(self.mixer.weights_at(step, self.names))
