"""UniMax: as even over domains as their sizes allow, without reading any domain more than a few times.

Source: Chung et al., "UniMax: Fairer and More Effective Language Sampling for Large-Scale Multilingual Pretraining",
2023 (arXiv 2304.09151), algorithm 1; specs/mixing.md section 3.

Shape suffixes: K domains.
"""

import math
from dataclasses import dataclass

import numpy as np

from mixstream.arguments import normalise_fields
from mixstream.errors import ConfigError
from mixstream.mixers.sized import rows_of
from mixstream.mixers.static import Static
from mixstream.types import Int64


@dataclass(frozen=True, kw_only=True)
class UniMax:
    """Share a budget of rows evenly, up to `max_epochs` passes over a domain; larger ones get what small ones leave.

    Domains are visited from the smallest to the largest: u_k = min(rows left / domains left, max_epochs * n_k), and
    p = u / sum(u). If the budget exceeds the sum of all caps, every domain gets its cap, that is, natural weights. The
    caps hold for a run of `budget` rows; a longer run reads small domains more often in proportion
    (`Stream(max_epochs=)` stops them).

    Args:
        budget: rows of the whole run: global batch size times steps.
        max_epochs: allowed passes over a domain; need not be whole.
    """

    budget: float
    max_epochs: float

    def __post_init__(self) -> None:
        normalise_fields(self)
        for name, value in (("budget", self.budget), ("max_epochs", self.max_epochs)):
            if not 0 < value < math.inf:
                raise ConfigError(f"UniMax {name}={value} must be a finite number above 0")

    def bind(self, names: tuple[str, ...], samples_K: Int64) -> Static:
        """Return the proportions of these domains; raise ConfigError if none has a row."""
        cap_K = self.max_epochs * rows_of(names, samples_K)
        rows_K, left = np.zeros(len(cap_K)), float(self.budget)
        for visited, k in enumerate(np.argsort(cap_K, kind="stable").tolist()):
            rows_K[k] = min(left / (len(cap_K) - visited), cap_K[k])
            left -= rows_K[k]
        return Static(dict(zip(names, (rows_K / rows_K.sum()).tolist())))
