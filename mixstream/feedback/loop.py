"""Feedback -> mixer -> weights of later steps: the states of a step, and the mixer at work.

The invariant is the lag. Weights of step t depend on the feedback of step t - 1 - lag and before, and on nothing else,
so batches can be made `lag` steps ahead, and neither timing nor prefetch depth changes one. Steps that no feedback can
reach yet are drawn by the prior, or by the weights of an `Opening` mixer. Every weight vector is logged in whole parts
of `WEIGHT_UNIT`; the tail of that log and the mixer's state are all that a resume needs.

A run is one fixed sequence of reports, and of evaluations that are due before some of them: report 0, report 1,
evaluation before 2, report 2, … The loop has two places in it (`Progress`), the trainer's and the mixer's:

    (t, evaluated)       --the report of step t-->            (t + 1, evaluated), or (t + 1, not evaluated) if the
                                                              mixer wants an evaluation before step t + 1
    (t, not evaluated)   --the evaluation before step t-->    (t, evaluated)

    first step of unknown weights = step + lag + (1 if evaluated else 0)

So a step is always in one of these states:

    handed out   `drew`; not complete on this rank     accepted.step <= step
    accepted     complete; the mixer has not seen it   concluded.step <= step < accepted.step
    concluded    the mixer has seen it                 step < concluded.step
    missed       concluded by `restore` without losses: handed out before a save and reported too late
    skipped      left out (`Loader.skip`): drawn, never handed out, accepted and concluded without losses

Threads. The trainer's thread calls `drew` and `accept` and reads `due`; the feedback thread calls `conclude` and
`evaluated`; any thread may call `weights`. During `document` and `restore` the feedback thread is idle.

Shape suffixes: K domains in the plan's order, V validation groups.
"""

import contextlib
import copy
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

import numpy as np

from mixstream.errors import ConfigError, FeedbackError, StateError
from mixstream.feedback.json_arrays import from_json, to_json
from mixstream.feedback.saved_loop import SavedLoop
from mixstream.mixers import Adapting, Checking, Explaining, Mixer, Opening, Validating
from mixstream.mixers.form import check_alike
from mixstream.mixers.whole_parts import whole_parts
from mixstream.plan.weights import WEIGHT_UNIT
from mixstream.records import dataclass
from mixstream.types import Feedback, Float64, Int64

Agree = Callable[[int, Int64], Int64]
"""(step, this rank's weights) -> the weights of all ranks."""


class Progress(NamedTuple):
    """A place in the run's sequence of reports and evaluations; the later of two is the greater.

    Attributes:
        step: the next step to be reported.
        evaluated: False while an evaluation is due before that step.
    """

    step: int
    evaluated: bool

    def known(self, lag: int) -> int:
        """Return the first step whose weights do not follow from the reports and evaluations up to here."""
        return self.step + lag + (1 if self.evaluated else 0)


@dataclass(frozen=True)
class _Losses:
    """The losses of one step over all ranks."""

    sum_K: Float64
    count_K: Float64
    matrix_VK: Float64 | None = None


class FeedbackLoop:
    """A learning mixer at work.

    Args:
        mixer: the policy.
        prior_K: float64 [K], weights before any feedback.
        lag: steps between the newest feedback in a weight vector and the first batch that it shapes; constant of a run.
        origin: the first step whose losses count; later than 0 where a run was resumed with other domains.

    Attributes:
        accepted: how far the trainer has come.
        concluded: how far the mixer has come.
        newest: int64 [K], the newest known weights; None before any.
        missed: (step, given weights, rows, weights drawn by) of missed steps that are not in the mixing log yet.

    A mixer that weighs domains by their mean losses, with a lag of 1: step 0 decides the weights of step 2.

        >>> class Greedy:
        ...     def init(self, prior_K):
        ...         return {}
        ...     def update(self, state, feedback):
        ...         return state, feedback.loss_K / feedback.loss_K.sum()
        >>> loop = FeedbackLoop(mixer=Greedy(), prior_K=np.array([0.5, 0.5]), lag=1)
        >>> loop.drew(0, rows_K=np.array([4.0, 4.0])); loop.accept()
        >>> loop.accepted, loop.concluded, loop.weights(2)
        (Progress(step=1, evaluated=True), Progress(step=0, evaluated=True), None)
        >>> effective, weights_K = loop.conclude(0, np.array([4.0, 12.0]), np.array([4.0, 4.0]))
        >>> effective, (weights_K / WEIGHT_UNIT).tolist()
        (2, [0.25, 0.75])
    """

    def __init__(self, *, mixer: Mixer, prior_K: Float64, lag: int, origin: int = 0) -> None:
        if lag < 0:
            raise ConfigError(f"lag must be at least 0 steps, got {lag}")
        self.mixer, self.prior_K, self.lag = mixer, prior_K, lag
        self.missed: list[tuple[int, Int64, Float64, Int64 | None]] = []
        self._validating = mixer if isinstance(mixer, Validating) else None  # kept, since the check is slow
        self._begin(mixer.init(prior_K), origin=origin)

    def _begin(self, state: Any, *, origin: int) -> None:
        """Start at step `origin` from a `state` that has seen no feedback of this loop."""
        self._state, self.origin = state, origin
        self._log: dict[int, Int64] = {}
        self._drawn: dict[int, Float64] = {}
        self._drawn_by: dict[int, Int64] = {}  # where domains have left the mix
        self._held: _Losses | None = None  # of the step before the evaluation that the mixer waits for
        if self.wants_validation(origin):
            nothing_K = np.zeros(len(self.prior_K))
            self._drawn[origin - 1], self._held = nothing_K, _Losses(nothing_K, nothing_K)
        self.accepted = self.concluded = Progress(origin, evaluated=self._held is None)
        for step in range(origin, self.known):
            opening = self.mixer.opening(state, step) if isinstance(self.mixer, Opening) else self.prior_K
            self._log[step] = whole_parts(opening, len(self.prior_K), self.mixer)
        self.newest = self._log.get(self.known - 1)

    def _after(self, progress: Progress) -> Progress:
        """Return the next place in the sequence: the transitions at the top of this file."""
        step, evaluated = progress
        return Progress(step + 1, not self.wants_validation(step + 1)) if evaluated else Progress(step, evaluated=True)

    @property
    def due(self) -> Progress:
        """What the trainer has to do next: the report of `due.step`, or the evaluation before it."""
        return max(self.accepted, self.concluded)  # a caller may conclude without `accept`

    def drew(self, step: int, rows_K: Float64, drawn_by_K: Int64 | None = None) -> None:
        """Note that `step` was handed out, with `rows_K` (float64 [K]) rows of each domain in its global batch.

        `drawn_by_K` are the weights in parts of `WEIGHT_UNIT`, int64 [K], where domains have left the mix.
        """
        self._drawn[step] = rows_K
        if drawn_by_K is not None:
            self._drawn_by[step] = drawn_by_K

    def accept(self) -> None:
        """Note that the trainer has done what is `due`; call it before the feedback thread concludes from it."""
        self.accepted = self._after(self.due)

    def lacks_evaluation(self, step: int) -> bool:
        """Return whether an evaluation has to be accepted before `step` may be reported."""
        due = self.due
        return not due.evaluated if step == due.step else step > due.step and self.wants_validation(step)

    def wants_validation(self, step: int) -> bool:
        """Return whether the mixer wants the model evaluated before it trains on `step`."""
        return self._validating is not None and self._validating.wants_validation(self._state, step)

    @property
    def known(self) -> int:
        """The first step whose weights are not known yet."""
        return self.concluded.known(self.lag)

    def weights(self, step: int) -> Int64 | None:
        """Return the weights of `step` in whole parts, int64 [K]; None while they are not known."""
        return self._log.get(step)

    def explain(self) -> Mapping[str, Any]:
        """Return how the mixer explains its newest weights, by name; empty if it is not `Explaining`."""
        return self.mixer.explain(self._state) if isinstance(self.mixer, Explaining) else {}

    def conclude(
        self,
        step: int,
        loss_sum_K: Float64,
        count_K: Float64,
        *,
        matrix_VK: Float64 | None = None,
        agree: Agree | None = None,
    ) -> tuple[int, Int64] | None:
        """Take in the losses of one step, summed over all ranks.

        Returns the step whose weights they decide, and those weights; None if an evaluation comes first (`evaluated`).
        `agree` turns this rank's weights into those of all ranks before they are published.

        Raises:
            FeedbackError: `step` is not the next one, was not handed out, or lacks the evaluation before it.
        """
        if self.concluded != (step, True):
            lacking = "" if self.concluded.evaluated else " and an evaluation before it"
            raise FeedbackError(f"step {step} is reported; the next to report is {self.concluded.step}{lacking}")
        if step not in self._drawn:
            raise FeedbackError(f"step {step} is reported and has not been handed out")
        losses, self.concluded = _Losses(loss_sum_K, count_K, matrix_VK), self._after(self.concluded)
        if self.concluded.evaluated:
            return self._take(step, losses, None, agree)
        self._held = losses
        return None

    def evaluated(self, step: int, validation_V: Float64 | None, *, agree: Agree | None = None) -> tuple[int, Int64]:
        """Take in the validation losses, float64 [V], of the model before `step`, None if missed; as `conclude`."""
        if self._held is None or step != self.concluded.step:
            raise FeedbackError(f"no evaluation is due before step {step}")
        losses, self._held, self.concluded = self._held, None, self._after(self.concluded)
        return self._take(step - 1, losses, validation_V, agree)

    def _take(self, step: int, losses: _Losses, validation_V: Float64 | None, agree: Agree | None) -> tuple[int, Int64]:
        """Ask the mixer what follows from `step`."""
        given_K = self._log.pop(step, None)  # every rank has drawn the step already
        drawn_by_K = self._drawn_by.pop(step, given_K)
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
        self.newest = weights_K = agree(feedback.effective, weights_K) if agree else weights_K
        self._log[feedback.effective] = weights_K
        return feedback.effective, weights_K

    def document(self, step: int) -> dict[str, Any]:
        """Return what a resume before `step` needs, JSON-able."""
        reported = self.concluded.step
        if reported < step and step > self.origin:
            more = f" and {step - reported - 1} after it" if step - reported > 1 else ""
            warnings.warn(
                f"state is taken after step {reported}{more} was handed out and before it was reported: the mixer "
                "will not learn from it after a resume; call report() before state_dict()",
                stacklevel=3,
            )
        drawn_by = [[at, parts_K.tolist()] for at, parts_K in sorted(self._drawn_by.items()) if at < step]
        return {
            "lag": self.lag,
            "origin": self.origin,
            "reported": reported,
            "state": to_json(self._state),
            "log": [[at, self._log[at].tolist()] for at in sorted(self._log)],
            "drawn": [[at, rows_K.tolist()] for at, rows_K in sorted(self._drawn.items()) if at < step],
            "waiting": None if self._held is None else to_json(vars(self._held)),
            **({"drawn_by": drawn_by} if drawn_by else {}),
        }

    def restore(self, document: Mapping[str, Any], step: int, *, rows: int | None = None) -> None:
        """Continue from `document`; the next step to be drawn is `step`, of `rows` rows.

        Raises:
            StateError: it cannot be read, or is not one of a run that is about to draw `step`.
        """
        saved = SavedLoop.parse(document, step, domains=len(self.prior_K), lag=self.lag, rows=rows)
        state = from_json(saved.state)
        if isinstance(self.mixer, Checking):
            self.mixer.check(state, self.prior_K)
        else:
            check_alike(state, self.mixer.init(self.prior_K), len(self.prior_K))
        self.origin, reported, self._state = saved.origin, saved.reported, state
        self._log, self._drawn, self._drawn_by = saved.log, saved.drawn, saved.drawn_by
        self._held = None if saved.waiting is None else _Losses(**saved.waiting)
        if self._held is not None and not self.wants_validation(reported):
            raise StateError(
                f"the state is damaged: its mixer waits for an evaluation before step {reported}, and "
                f"{type(self.mixer).__name__} wants none there; load an older checkpoint, or pass strict=False to "
                "restart the mixer"
            )
        self.accepted = self.concluded = Progress(reported, evaluated=self._held is None)
        self.newest, nothing_K = self._log.get(self.known - 1), np.zeros(len(self.prior_K))
        for missed in range(reported, step):
            if not self.concluded.evaluated:
                self.evaluated(missed, None)
            self.missed.append((missed, self._log[missed], self._drawn[missed], self._drawn_by.get(missed)))
            self.conclude(missed, nothing_K, nothing_K)

    def copy(self) -> Self:
        """Return an independent copy."""
        twin = copy.copy(self)
        twin.missed, twin._log = list(self.missed), dict(self._log)
        twin._drawn, twin._drawn_by = dict(self._drawn), dict(self._drawn_by)
        twin._state = copy.deepcopy(self._state)
        return twin

    def carry_over(
        self, document: Mapping[str, Any] | None, *, names: list[str], into: tuple[str, ...], step: int
    ) -> bool:
        """Start at `step` with the state of another run's mixer if it can be kept; return whether it was.

        `document` is of a loop over the domains `names`, or None if that run learned nothing; `into` are the domains
        of this loop.
        """
        state, source_K = None, np.array([names.index(name) if name in names else -1 for name in into], dtype=np.int64)
        if document is not None and isinstance(self.mixer, Adapting):
            with contextlib.suppress(KeyError, TypeError, ValueError, IndexError):  # the state of another mixer
                found = from_json(document["state"])
                if isinstance(self.mixer, Checking):
                    self.mixer.check(found)
                state = self.mixer.adapt(found, source_K, self.prior_K, step)
        if not (kept := state is not None):
            state = self.mixer.init(self.prior_K)
            if isinstance(self.mixer, Adapting):  # to begin at `step`
                state = self.mixer.adapt(state, np.arange(len(into)), self.prior_K, step)
        self._begin(state, origin=step)
        return kept
