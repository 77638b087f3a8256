"""From the float weights of a mixer, float64 [K], to the whole parts that a plan draws by, int64 [K]."""

from typing import Any

import numpy as np

from mixstream.errors import ConfigError
from mixstream.mixers.protocol import OpenLoop
from mixstream.plan.weights import quantise
from mixstream.types import Int64, Weights


def whole_parts(weights_K: Any, domains: int, mixer: Any) -> Int64:
    """Return the weights that `mixer` returned in whole parts.

        >>> whole_parts([0.25, 0.75], domains=2, mixer=None).tolist()
        [1073741824, 3221225472]

    Raises:
        ConfigError: they are not one finite number >= 0 for each of `domains`.
    """
    if np.shape(weights_K) != (domains,):
        raise ConfigError(
            f"{type(mixer).__name__} returned weights of shape {np.shape(weights_K)} for {domains} domains: return one "
            "for each, in the order of the prior"
        )
    return quantise(weights_K)


class OpenLoopWeights:
    """The weights that a mixer gives by step, in whole parts: a `types.Weights`.

    Weights that stay are computed once: with many domains, that takes as long as to deal a step.

    Args:
        mixer: gives them.
        names: of the domains, in the plan's order.
    """

    def __init__(self, mixer: OpenLoop, names: tuple[str, ...]) -> None:
        self._mixer, self._names = mixer, names
        self._known: tuple[int, int, Int64] | None = None  # these weights hold from a step on, until another

    def __call__(self, step: int) -> Int64:
        """Return the weights of `step`, int64 [K]."""
        known = self._known
        if known is None or not known[0] <= step < known[1]:
            weights_K = whole_parts(self._mixer.weights_at(step, self._names), len(self._names), self._mixer)
            known = self._known = step, self.until(step), weights_K
        return known[2]

    def until(self, step: int) -> int:
        """Return a step, as late as is known, before which the weights are those of `step`."""
        constant_until = getattr(self._mixer, "constant_until", None)
        return step + 1 if constant_until is None else constant_until(step)


def open_loop_weights(mixer: OpenLoop, names: tuple[str, ...]) -> Weights:
    """Return step -> the weights that `mixer` gives the domains `names`, in whole parts, int64 [K]."""
    return OpenLoopWeights(mixer, names)
