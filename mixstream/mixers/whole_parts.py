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


def open_loop_weights(mixer: OpenLoop, names: tuple[str, ...]) -> Weights:
    """Return step -> the weights that `mixer` gives the domains `names`, in whole parts, int64 [K]."""
    return lambda step: whole_parts(mixer.weights_at(step, names), len(names), mixer)
