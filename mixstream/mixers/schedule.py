"""Weights that change at given steps: curricula, warm-ups, upsampling of good data at the end."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mixstream.arguments import MOST, normalise_fields
from mixstream.cached import cached_property
from mixstream.errors import ConfigError
from mixstream.mixers.static import by_name
from mixstream.plan.weights import normalise
from mixstream.types import Float64, Int64


@dataclass(frozen=True)
class Schedule:
    """Piecewise weights by step: constant from one entry to the next, or linear between them.

    After the last entry they stay. A schedule may be as long as the log of a run: a look-up reads one or two entries.

        >>> schedule = Schedule({0: {"web": 0.9, "code": 0.1}, 1000: {"web": 0.5, "code": 0.5}}, kind="linear")
        >>> schedule.weights_at(500, names=("code", "web")).round(3).tolist()
        [0.3, 0.7]

    Args:
        weights: step -> weight per domain name, any positive scale. Must begin at step 0.
        kind: "step" or "linear".
    """

    weights: Mapping[int, Mapping[str, float]]
    kind: Literal["step", "linear"] = "step"

    def __post_init__(self) -> None:
        normalise_fields(self)
        if 0 not in self.weights or min(self.weights) < 0:
            raise ConfigError(
                f"a Schedule must have weights for step 0 and no negative step; its steps are {sorted(self.weights)}"
            )
        if fractions := sorted(step for step in self.weights if step != int(step)):
            raise ConfigError(f"Schedule steps are whole numbers; got {fractions[:5]}")
        for step, weights in self.weights.items():
            if not isinstance(weights, Mapping):
                raise ConfigError(f"Schedule weights of step {step} are a dict by domain name, got {weights!r}")
            normalise(list(weights.values()), what=f"Schedule weights of step {step}")

    def weights_at(self, step: int, names: tuple[str, ...]) -> Float64:
        """Return the weights of `step`, float64 [K], in the order of `names`."""
        steps = self._steps
        at = int(np.searchsorted(steps, step, side="right")) - 1
        here = self._entry(int(steps[at]), names)
        if self.kind == "step" or at + 1 == len(steps):
            return here
        begin, end = int(steps[at]), int(steps[at + 1])
        done = (step - begin) / (end - begin)
        return normalise((1 - done) * here + done * self._entry(end, names))

    def constant_until(self, step: int) -> int:
        """Return the first step after `step` whose weights may be others; `arguments.MOST` if there is none."""
        after = int(np.searchsorted(self._steps, step, side="right"))
        if after == len(self._steps):
            return MOST
        return int(self._steps[after]) if self.kind == "step" else step + 1

    @cached_property
    def _steps(self) -> Int64:
        """The steps of the entries, int64, ascending."""
        return np.array(sorted(self.weights), dtype=np.int64)

    def _entry(self, step: int, names: tuple[str, ...]) -> Float64:
        what = f"Schedule at step {step}"
        return normalise(by_name(self.weights[step], names, what=what), what=what)
