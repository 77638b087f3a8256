"""Fixed proportions that follow from the sizes of the domains: natural, uniform, and everything between.

They name no domains and become a `Static` once the domains are known (`bind`). The temperature form is that of
specs/mixing.md section 3 (multilingual sampling), whose two ends are "natural" and "stratified".

Shape suffixes: K domains.
"""

from dataclasses import dataclass

import numpy as np

from mixstream.arguments import normalise_fields
from mixstream.errors import ConfigError
from mixstream.mixers.static import Static
from mixstream.plan.weights import normalise
from mixstream.types import Float64, Int64


def rows_of(names: tuple[str, ...], samples_K: Int64) -> Float64:
    """Return `samples_K` as float64 [K]; raise ConfigError if no domain has a row."""
    rows_K = np.asarray(samples_K, dtype=np.float64)
    if not (rows_K > 0).any():
        raise ConfigError(
            f"the domains {list(names)} hold no rows, so no weights follow from their sizes; check their selection"
        )
    return rows_K


@dataclass(frozen=True)
class Temperature:
    """Weigh domains by a power of their size: p_k ∝ n_k^(1/tau), n_k the rows of domain k.

    `tau=1` is natural. A larger tau repeats small domains more, up to uniform weights at infinity; below 1, large
    domains gain. A domain without rows has weight 0.

        >>> Temperature(2).bind(("code", "web"), np.array([100, 900])).proportions
        {'code': 0.25, 'web': 0.75}

    Args:
        tau: temperature, above 0; may be infinite.
    """

    tau: float

    def __post_init__(self) -> None:
        normalise_fields(self)
        if not self.tau > 0:
            raise ConfigError(f"Temperature tau={self.tau} must be above 0; 1 is natural, inf is uniform")

    def bind(self, names: tuple[str, ...], samples_K: Int64) -> Static:
        """Return the proportions of these domains; raise ConfigError if none has a row."""
        rows_K = rows_of(names, samples_K)
        # As logarithms relative to the largest, since n^(1/tau) overflows for a small tau.
        size_K = np.log(np.where(rows_K > 0, rows_K, 1.0) / rows_K.max())
        weights_K = normalise(np.where(rows_K > 0, np.exp(size_K / self.tau), 0.0))
        return Static(dict(zip(names, weights_K.tolist())))


@dataclass(frozen=True)
class Natural:
    """Weigh domains by their rows: an epoch reads every row once. The same as `Temperature(1)`."""

    def bind(self, names: tuple[str, ...], samples_K: Int64) -> Static:
        """Return the proportions of these domains; as `Temperature.bind`."""
        return Static(dict(zip(names, rows_of(names, samples_K).tolist())))  # whole rows: an epoch's shares are exact


@dataclass(frozen=True)
class Stratified:
    """Give all domains the same weight, those without rows none. The same as `Temperature(inf)`."""

    def bind(self, names: tuple[str, ...], samples_K: Int64) -> Static:
        """Return the proportions of these domains; as `Temperature.bind`."""
        return Temperature(np.inf).bind(names, samples_K)
