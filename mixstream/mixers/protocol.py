"""What a mixer has to be. Nothing else is asked of it: no base class, no registration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from mixstream.types import Feedback, Float64

State = Mapping[str, Any]
"""A mixer's own state: JSON-able, kilobytes."""


@runtime_checkable
class Mixer(Protocol):
    """A policy that learns from losses.

    The weights of the first steps, up to the first that feedback can reach, are the prior.
    """

    def init(self, prior_K: Float64) -> State:
        """Return the state before any feedback; `prior_K` is float64 [K] on the simplex."""
        ...

    def update(self, state: State, feedback: Feedback) -> tuple[State, Float64]:
        """Return the state after `feedback` and the weights, float64 [K], of step `feedback.effective`.

        Pure: equal arguments give equal results, and `state` is left as it was. Called once for every step, in order.
        """
        ...


@runtime_checkable
class OpenLoop(Protocol):
    """A policy that knows its weights beforehand, from the step alone."""

    def weights_at(self, step: int, names: tuple[str, ...]) -> Float64:
        """Return the weights of `step`, float64 [K], in the order of `names`."""
        ...
