"""From the float weights of a mixer, float64 [K], to the whole parts that a plan draws by, int64 [K]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mixstream.errors import ConfigError
from mixstream.mixers.protocol import OpenLoop
from mixstream.plan.weights import quantise
from mixstream.types import Int64


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


@dataclass(frozen=True, kw_only=True)
class OpenLoopWeights:
    """Weights that depend on the step alone."""

    mixer: OpenLoop
    names: tuple[str, ...]

    def weights(self, step: int) -> Int64:
        """Return the weights of `step` in whole parts, int64 [K]."""
        return whole_parts(self.mixer.weights_at(step, self.names), len(self.names), self.mixer)
