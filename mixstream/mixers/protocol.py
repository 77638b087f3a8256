"""What a mixer has to be, and what it may be besides. Nothing else is asked of it: no base class, no registration.

A policy that learns is a `Mixer`; one that knows its weights beforehand is an `OpenLoop`; fixed proportions are a
`Static`. The other protocols are single methods that any mixer may have on top. Arrays over domains stand in the
plan's canonical order (domains sorted by name).

A mixer that only learns from `Feedback.matrix_VK` says so by a class attribute `needs_matrix = True`, so that a trainer
that never measures one is told.

State is a dict of numbers, strings, lists and numpy arrays; the library turns it into JSON and back, bit for bit
(`feedback.json_arrays`). Methods are pure: equal arguments give equal results, and what is passed in is left as it was.

Shape suffixes: K domains, V validation groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from mixstream.types import Feedback, Float64, Int64

State = Mapping[str, Any]
"""A mixer's own state: kilobytes."""


@runtime_checkable
class Mixer(Protocol):
    """A policy that learns from losses.

    The weights of the first steps, up to the first that feedback can reach, are the prior (but see `Opening`).
    """

    def init(self, prior_K: Float64) -> State:
        """Return the state before any feedback; `prior_K` is float64 [K] on the simplex."""
        ...

    def update(self, state: State, feedback: Feedback) -> tuple[State, Float64]:
        """Return the state after `feedback` and the weights, float64 [K], of step `feedback.effective`.

        Pure. Called once for every step, in order, from a thread of its own.
        """
        ...


@runtime_checkable
class OpenLoop(Protocol):
    """A policy that knows its weights beforehand, from the step alone."""

    def weights_at(self, step: int, names: tuple[str, ...]) -> Float64:
        """Return the weights of `step`, float64 [K], in the order of `names`."""
        ...


@runtime_checkable
class Binding(Protocol):
    """A policy that is stated by domain names or depends on domains' sizes."""

    def bind(self, names: tuple[str, ...], samples_K: Int64) -> Any:
        """Return the `Mixer`, `OpenLoop` or `Static` for these domains, in this order, with so many samples each.

        Raises:
            ConfigError: it does not fit the domains.
        """
        ...


@runtime_checkable
class Opening(Protocol):
    """A mixer whose first weights are not the prior."""

    def opening(self, state: State, step: int) -> Float64:
        """Return the weights, float64 [K], of a `step` that comes too early for any feedback to reach it.

        `state` is what `init` or `adapt` returned.
        """
        ...


@runtime_checkable
class Validating(Protocol):
    """A mixer that needs validation losses at steps that it knows beforehand."""

    def wants_validation(self, state: State, step: int) -> bool:
        """Tell whether the model is to be evaluated before it trains on `step`, that is, after step - 1.

        The losses come with the feedback of step - 1. Depends on nothing in `state` that feedback changes.
        """
        ...


@runtime_checkable
class Adapting(Protocol):
    """A mixer that keeps what it learned when domains come or go in mid-run."""

    def adapt(self, state: State, source_K: Int64, prior_K: Float64, step: int) -> State:
        """Return the state to go on with at `step`, with other domains.

        Args:
            state: of the old domains.
            source_K: int64 [K], for each new domain its place among the old ones, -1 if it was not there.
            prior_K: float64 [K], prior over the new domains.
            step: the first that is drawn with the new domains.
        """
        ...


@runtime_checkable
class Explaining(Protocol):
    """A mixer that can tell how it came to its weights."""

    def explain(self, state: State) -> Mapping[str, Any]:
        """Return what it goes by now, for logs and pictures: name -> number, or array whose last axis is domains."""
        ...
