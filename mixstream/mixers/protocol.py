"""The methods that a mixer must have, and those that it may have. There is no base class and no registration.

A policy that learns is a `Mixer`; one whose weights depend on the step alone is an `OpenLoop`; fixed proportions are a
`Static`. The other protocols are single methods that any mixer may add. Arrays over domains are in the plan's order.

A mixer that learns from `Feedback.matrix_VK` alone has a class attribute `needs_matrix = True`, so that the loader can
warn a trainer that never reports one.

State is a dict of numbers, strings, lists and numpy arrays; the library turns it into JSON and back, bit for bit
(`feedback.json_arrays`). Methods are pure: equal arguments give equal results, and arguments are never changed.

    >>> from mixstream.mixers import ADO, Schedule, Static
    >>> isinstance(ADO(), Mixer), isinstance(Schedule({0: {"web": 1}}), OpenLoop), isinstance(Static({"web": 1}), Mixer)
    (True, True, False)

Shape suffixes: K domains, V validation groups.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from mixstream.types import Feedback, Float64, Int64

State = Mapping[str, Any]
"""A mixer's own state: kilobytes."""


@runtime_checkable
class Mixer(Protocol):
    """A policy that learns from losses.

    The first steps, which no feedback can reach, are drawn by the prior (but see `Opening`).
    """

    def init(self, prior_K: Float64) -> State:
        """Return the state before any feedback; `prior_K` is float64 [K] on the simplex."""
        ...

    def update(self, state: State, feedback: Feedback) -> tuple[State, Float64]:
        """Return the state after `feedback` and the weights, float64 [K], of step `feedback.effective`.

        Called once for every step, in order, in the feedback thread.
        """
        ...


@runtime_checkable
class OpenLoop(Protocol):
    """A policy whose weights depend on the step alone."""

    def weights_at(self, step: int, names: tuple[str, ...]) -> Float64:
        """Return the weights of `step`, float64 [K], in the order of `names`."""
        ...


@runtime_checkable
class Binding(Protocol):
    """A policy that is given by domain names or depends on the sizes of domains."""

    def bind(self, names: tuple[str, ...], samples_K: Int64) -> Any:
        """Return the `Mixer`, `OpenLoop` or `Static` for the domains `names`, which have `samples_K` samples.

        Raises:
            ConfigError: it does not fit the domains.
        """
        ...


@runtime_checkable
class Opening(Protocol):
    """A mixer whose first weights are not the prior."""

    def opening(self, state: State, step: int) -> Float64:
        """Return the weights, float64 [K], of a `step` that no feedback can reach, from a new or adapted `state`."""
        ...


@runtime_checkable
class Validating(Protocol):
    """A mixer that needs validation losses at steps which it can name in advance."""

    def wants_validation(self, state: State, step: int) -> bool:
        """Return whether the model has to be evaluated before it trains on `step`, that is, after step - 1.

        The losses come with the feedback of step - 1. The result must not depend on anything that feedback changes.
        """
        ...


@runtime_checkable
class Adapting(Protocol):
    """A mixer that keeps its state when domains are added or removed during a run."""

    def adapt(self, state: State, source_K: Int64, prior_K: Float64, step: int) -> State:
        """Return the state for other domains, from `step` on.

        Args:
            state: of the old domains.
            source_K: int64 [K], the place of each new domain among the old ones, -1 if it is not one of them.
            prior_K: float64 [K], prior over the new domains.
            step: the first step that is drawn from the new domains.
        """
        ...


@runtime_checkable
class Checking(Protocol):
    """A mixer that can tell whether a loaded state is one of its own.

    The state of a mixer without this method is compared with that of `init`: the same parts, of the same kinds.
    """

    def check(self, state: State, prior_K: Float64 | None = None) -> None:
        """Check that `update`, `adapt` and the other methods can go on from `state`.

        Args:
            state: as it was loaded.
            prior_K: float64 [K], the prior of the run, which the state has to fit.

        Raises:
            StateError: they cannot; it names the part that is wrong.
        """
        ...


@runtime_checkable
class Explaining(Protocol):
    """A mixer that can explain its weights."""

    def explain(self, state: State) -> Mapping[str, Any]:
        """Return the numbers behind its weights: name -> number, or array whose last axis is the domains."""
        ...
