"""What ADO can be told, and what follows from that alone; `ado.py` says what each option does.

Shape suffixes: K domains.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mixstream.arguments import normalise_fields, shown
from mixstream.errors import ConfigError
from mixstream.mixers._history import Sampling
from mixstream.types import Float64

_LEAST = {"ignore_steps": 0, "start_step": 0, "update_interval": 1, "subsample": 1, "window": 1, "degree": 0}
_LEAST |= {"min_points": 1, "min_seen": 0, "s": 0.0, "alpha_floor": 0.0}
_CHOICES = {"credit": ("rows", "weights"), "floor_on": ("rho", "p")}
_CHOICES |= {"accept": ("each", "all"), "data_term": ("mean", "sum"), "forgetting": ("law", "ignore")}

RELEASED: dict[str, Any] = {
    "same_step": True,
    "p_min": 0.01,
    "start_step": 500,
    "update_interval": 1000,
    "ignore_steps": 1000,
    "max_points": None,
    "min_points": 1,
    "min_seen": 0,
    "accept": "all",
    "log_eps_min": 0.5,
    "data_term": "sum",
    "subsample": 10,
    "revive": True,
    "forgetting": "ignore",
}
"""What the options are in the released code."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `ADO`.

    Raises:
        ConfigError: one is out of its range.
    """

    s: float = 0.5
    gamma1: float = 0.1
    gamma2: float = 0.1
    p_min: float | None = None
    floor_on: Literal["rho", "p"] = "rho"
    credit: Literal["rows", "weights"] = "rows"
    same_step: bool = False
    start_step: int = 500
    update_interval: int = 500
    ignore_steps: int = 500
    subsample: int = field(default=5, metadata={"formerly": 10})
    window: int = 101
    degree: int = 3
    max_points: int | None = 512
    min_points: int = 20
    min_seen: int = 10
    accept: Literal["each", "all"] = "each"
    alpha_floor: float = 0.05
    alpha_max: float = 0.8
    log_beta_max: float = 6.5
    log_eps_min: float = math.log(0.01)
    data_term: Literal["mean", "sum"] = "mean"
    revive: bool = False
    forgetting: Literal["law", "ignore"] = field(default="law", metadata={"formerly": "ignore", "new": True})

    def __post_init__(self) -> None:
        normalise_fields(self)
        for name, least in _LEAST.items():
            if not getattr(self, name) >= least:
                raise ConfigError(f"ADO {name}={getattr(self, name)} cannot be; give {least} or more")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigError(f"ADO {name}={getattr(self, name)!r} is not known; choose {' or '.join(choices)}")
        for name in ("gamma1", "gamma2"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"ADO {name}={getattr(self, name)} is not a weight; give more than 0 and at most 1")
        if self.p_min is not None and not 0 <= self.p_min <= 1:
            raise ConfigError(f"ADO p_min={self.p_min} is not a share; give 0 to 1, or None for min(0.01, 0.25 / K)")
        if not self.alpha_max > 0 or math.isnan(self.log_beta_max + self.log_eps_min):
            raise ConfigError(
                f"ADO limits alpha_max={self.alpha_max}, log_beta_max={self.log_beta_max} and"
                f" log_eps_min={self.log_eps_min} allow no law; give an alpha_max above 0, and numbers"
            )
        _ = self._sampling  # checks its window
        if self.max_points is not None and self.max_points < 2 * self.min_points:
            raise ConfigError(
                f"ADO max_points={shown(self.max_points)} would leave fewer than min_points={shown(self.min_points)}"
                " after every other one is dropped, so no law could be fitted; give"
                f" {shown(2 * self.min_points)} or more"
            )

    @property
    def _sampling(self) -> Sampling:
        return Sampling(
            window=self.window,
            degree=self.degree,
            ignore=self.ignore_steps,
            every=self.subsample,
            most=self.max_points,
            seen=self.min_seen,
        )

    def _enabled(self, prior_K: Float64) -> NDArray[np.bool_]:
        return (prior_K > 0) | self.revive

    def _floor(self, prior_K: Float64) -> Float64:
        """Return delta_min, float64 [K]: the least share of each domain, 0 for one that may get nothing.

        Raises:
            ConfigError: it adds up to more than 1.
        """
        enabled_K = self._enabled(prior_K)
        domains = int(enabled_K.sum())
        if self.p_min is not None and domains * self.p_min > 1:
            raise ConfigError(
                f"ADO p_min={self.p_min} for each of {domains} domains adds up to more than 1, so nothing is left to"
                f" mix; give at most {1 / domains:.3g}, or p_min=None for {0.25 / domains:.3g}"
            )
        return np.where(enabled_K, min(0.01, 0.25 / domains) if self.p_min is None else self.p_min, 0.0)
