"""feedback -> mixer -> weights of later steps: the loop that makes a mixture online.

The invariant is the lag. Weights of step t come from the feedback of step t - 1 - lag and before, and from nothing
else; so batches can be made `lag` steps ahead, and neither timing nor prefetch depth changes one. The steps that no
feedback can reach yet are drawn by the prior, or as the mixer says (`Opening`). Every weight vector is logged as the
whole parts that the plan uses (`weights.quantise`); the tail of that log and the mixer's own state are all that a
resume needs.

Two threads may use a loop: one reports, any other asks for weights.

Shape suffixes: K domains in the plan's order, V validation groups.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mixstream.errors import ConfigError, FeedbackError, StateError
from mixstream.feedback.json_arrays import from_json, to_json
from mixstream.mixers import Adapting, Explaining, Mixer, Opening, OpenLoop, Validating
from mixstream.plan.weights import WEIGHT_UNIT, quantise
from mixstream.types import Feedback, Float64, Int64

Agree = Callable[[int, Int64], Int64]
"""(step, this rank's weights) -> everybody's."""


@dataclass(frozen=True)
class _Losses:
    """One step's, over all ranks."""

    sum_K: Float64
    count_K: Float64
    matrix_VK: Float64 | None = None


@dataclass(kw_only=True)
class FeedbackLoop:
    """A learning mixer at work.

    Args:
        mixer: the policy.
        prior_K: float64 [K], weights before any feedback.
        lag: steps between the newest feedback in a weight vector and the first batch that it shapes; constant of a run.

        origin: the first step whose losses count; later than 0 where a run was resumed with other domains.

    Attributes:
        reported: the next step to be reported.
        missed: (step, weights, rows) of steps that a resumed run drew before the save and reported no losses of.
    """

    mixer: Mixer
    prior_K: Float64
    lag: int
    origin: int = 0
    reported: int = field(default=0, init=False)
    missed: list[tuple[int, Int64, Float64]] = field(default_factory=list, init=False)
    _state: Any = field(default=None, init=False)
    _log: dict[int, Int64] = field(default_factory=dict, init=False)
    _drawn: dict[int, Float64] = field(default_factory=dict, init=False)
    _waiting: _Losses | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.lag < 0:
            raise ConfigError(f"lag must be at least 0 steps, got {self.lag}")
        self._validating = self.mixer if isinstance(self.mixer, Validating) else None  # asked often, and slowly told
        self._begin(self.mixer.init(self.prior_K), origin=self.origin)

    def _begin(self, state: Any, *, origin: int) -> None:
        """Go on from a `state` that has seen no feedback of this loop."""
        self._state, self.origin, self.reported, self._log, self._drawn = state, origin, origin, {}, {}
        self._waiting = None
        if self.wants_validation(origin):
            nothing_K = np.zeros(len(self.prior_K))
            self._drawn[origin - 1], self._waiting = nothing_K, _Losses(nothing_K, nothing_K)
        for step in range(origin, self.known):
            opening = self.mixer.opening(state, step) if isinstance(self.mixer, Opening) else self.prior_K
            self._log[step] = whole_parts(opening, len(self.prior_K), self.mixer)

    @property
    def waiting(self) -> bool:
        """Whether the evaluation before step `reported` is due and has not come."""
        return self._waiting is not None

    @property
    def known(self) -> int:
        """The first step whose weights are not known yet."""
        return self.reported + self.lag + (0 if self.waiting else 1)

    def weights(self, step: int) -> Int64 | None:
        """Return the weights of `step` in whole parts, int64 [K]; None while its feedback has not been reported."""
        return self._log.get(step)

    def wants_validation(self, step: int) -> bool:
        """Tell whether the model has to be evaluated before it trains on `step`."""
        return self._validating is not None and self._validating.wants_validation(self._state, step)

    def explain(self) -> Mapping[str, Any]:
        """Return how the mixer came to its newest weights, by name; empty if it does not tell."""
        return self.mixer.explain(self._state) if isinstance(self.mixer, Explaining) else {}

    def drew(self, step: int, rows_K: Float64) -> None:
        """Note that `step` was handed out, with `rows_K` (float64 [K]) rows of each domain in its global batch."""
        self._drawn[step] = rows_K

    def report(
        self,
        step: int,
        loss_sum_K: Float64,
        count_K: Float64,
        *,
        matrix_VK: Float64 | None = None,
        agree: Agree | None = None,
    ) -> tuple[int, Int64] | None:
        """Take in one step's losses, summed over all ranks.

        Returns the step that they lead to and its weights; None if an evaluation has to come first (`evaluated`). Where
        ranks have to `agree` on weights, no one draws by others before.

        Raises:
            FeedbackError: `step` is not the next one to report, was not handed out, or lacks the evaluation before it.
        """
        if step != self.reported or self.waiting:
            lacking = " and an evaluation before it" if self.waiting else ""
            raise FeedbackError(f"step {step} is reported; the next to report is {self.reported}{lacking}")
        if step not in self._drawn:
            raise FeedbackError(f"step {step} is reported and has not been handed out")
        self.reported = step + 1
        losses = _Losses(loss_sum_K, count_K, matrix_VK)
        if self.wants_validation(step + 1):
            self._waiting = losses
            return None
        return self._take(losses, None, agree)

    def evaluated(self, step: int, validation_V: Float64 | None, *, agree: Agree | None = None) -> tuple[int, Int64]:
        """Take in the validation losses, float64 [V], of the model before `step`; return as `report` does.

        None stands for an evaluation that was due and missed.
        """
        if self._waiting is None or step != self.reported:
            raise FeedbackError(f"no evaluation is due before step {step}")
        losses, self._waiting = self._waiting, None
        return self._take(losses, validation_V, agree)

    def _take(self, losses: _Losses, validation_V: Float64 | None, agree: Agree | None) -> tuple[int, Int64]:
        """Ask the mixer what follows from the step before `reported`."""
        step = self.reported - 1
        drawn_by_K = self._log.pop(step, None)  # the step is drawn already, on every rank
        feedback = Feedback(
            step=step,
            effective=step + 1 + self.lag,
            rows_K=self._drawn.pop(step),
            weights_K=self.prior_K if drawn_by_K is None else drawn_by_K / WEIGHT_UNIT,
            loss_sum_K=losses.sum_K,
            count_K=losses.count_K,
            validation_V=validation_V,
            matrix_VK=losses.matrix_VK,
        )
        try:
            self._state, found_K = self.mixer.update(self._state, feedback)
            weights_K = whole_parts(found_K, len(self.prior_K), self.mixer)
        except Exception as error:
            error.add_note(f"in {type(self.mixer).__name__}, with the losses of step {step}")
            raise
        self._log[feedback.effective] = weights_K = agree(feedback.effective, weights_K) if agree else weights_K
        return feedback.effective, weights_K

    def document(self, step: int) -> dict[str, Any]:
        """Return what a resume before `step` needs, JSON-able."""
        if self.reported < step and step > self.origin:
            more = f" and {step - self.reported - 1} after it" if step - self.reported > 1 else ""
            warnings.warn(
                f"state is taken after step {self.reported}{more} was handed out and before it was reported: the mixer "
                "will not learn from it after a resume; call report() before state_dict()",
                stacklevel=3,
            )
        return {
            "lag": self.lag,
            "origin": self.origin,
            "reported": self.reported,
            "state": to_json(self._state),
            "log": [[at, self._log[at].tolist()] for at in sorted(self._log)],
            "drawn": [[at, rows_K.tolist()] for at, rows_K in sorted(self._drawn.items()) if at < step],
            "waiting": None if self._waiting is None else to_json(vars(self._waiting)),
        }

    def restore(self, document: Mapping[str, Any], step: int) -> None:
        """Go on from `document`; the next step to be drawn is `step`.

        Raises:
            StateError: it cannot be read, or is not one of a run that is about to draw `step`.
        """
        try:
            self.origin, self.reported = int(document["origin"]), int(document["reported"])
            self._log = {int(at): np.asarray(parts, dtype=np.int64) for at, parts in document["log"]}
            self._drawn = {int(at): np.asarray(rows, dtype=np.float64) for at, rows in document["drawn"]}
            self._state = from_json(document["state"])
            self._waiting = None if document["waiting"] is None else _Losses(**from_json(document["waiting"]))
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(
                f"the saved mixer state cannot be read ({error!r}); pass strict=False to begin it anew"
            ) from error
        if not self._consistent(step):
            raise StateError(
                f"the saved log of weights does not reach from step {step} to what step {self.reported} leads to; load "
                "an older checkpoint, or pass strict=False to begin the mixture anew"
            )
        nothing_K = np.zeros(len(self.prior_K))
        while self.reported < step:  # handed out before the save, and never reported
            if self.waiting:
                self.evaluated(self.reported, None)
            self.missed.append((self.reported, self._log[self.reported], self._drawn[self.reported]))
            self.report(self.reported, nothing_K, nothing_K)

    def _consistent(self, step: int) -> bool:
        """Tell whether log and rows are those that a run about to draw `step` can have."""
        K, first = len(self.prior_K), self.reported - 1 if self.waiting else self.reported
        if not self.origin <= self.reported <= step <= self.known:
            return False
        known = [self._log.get(at) for at in range(max(first, self.origin), self.known)]
        rows = [self._drawn.get(at) for at in range(first, step)]
        return all(rows_K is not None and rows_K.shape == (K,) for rows_K in rows) and all(
            parts_K is not None and parts_K.shape == (K,) and parts_K.min() >= 0 and parts_K.sum() == WEIGHT_UNIT
            for parts_K in known
        )

    def carry_over(
        self, document: Mapping[str, Any] | None, *, names: list[str], into: tuple[str, ...], step: int
    ) -> bool:
        """Begin at `step` with what the mixer of another run learned, as far as it can be kept; tell whether it was.

        Args:
            document: of a loop over the domains `names`; None if that run had no mixer that learns.
            names: its domains, in its order.
            into: this loop's.
            step: the first step that is drawn.
        """
        state, source_K = None, np.array([names.index(name) if name in names else -1 for name in into], dtype=np.int64)
        if document is not None and isinstance(self.mixer, Adapting):
            try:
                state = self.mixer.adapt(from_json(document["state"]), source_K, self.prior_K, step)
            except (KeyError, TypeError, ValueError, IndexError):
                state = None  # another mixer's
        kept = state is not None
        if not kept:
            state = self.mixer.init(self.prior_K)
            if isinstance(self.mixer, Adapting):  # so that it knows where it begins
                state = self.mixer.adapt(state, np.arange(len(into)), self.prior_K, step)
        self._begin(state, origin=step)
        return kept


def whole_parts(weights_K: Any, domains: int, mixer: Any) -> Int64:
    """Return what `mixer` gave as weights in whole parts, int64 [K].

    Raises:
        ConfigError: they are not one finite number >= 0 for each of `domains`.
    """
    if np.shape(weights_K) != (domains,):
        raise ConfigError(
            f"{type(mixer).__name__} returned weights of shape {np.shape(weights_K)} for {domains} domains: return one "
            "for each, in the order of the prior"
        )
    return quantise(weights_K)


@dataclass(frozen=True, kw_only=True)
class OpenLoopWeights:
    """Weights that depend on the step alone."""

    mixer: OpenLoop
    names: tuple[str, ...]

    def weights(self, step: int) -> Int64:
        """Return the weights of `step` in whole parts, int64 [K]."""
        return whole_parts(self.mixer.weights_at(step, self.names), len(self.names), self.mixer)


Weights = Callable[[int], Int64 | None]
"""step -> weights in whole parts, int64 [K]; None while they are not known."""
