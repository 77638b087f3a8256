"""Fixed proportions. An epoch draws exactly its share of each domain, so they become row counts, not weights."""

from collections.abc import Mapping

from mixstream.arguments import normalise_fields, shown
from mixstream.errors import ConfigError
from mixstream.plan.weights import normalise
from mixstream.records import dataclass


@dataclass(frozen=True)
class Static:
    """Draw domains in fixed `proportions` of the rows, by domain name.

    The same as `proportion` on every stream; without a mixer, the `proportion`, `repeat` or `choose` of streams hold.

    Args:
        proportions: weight per domain name; any positive scale. A domain of weight 0 is not drawn.
    """

    proportions: Mapping[str, float]

    def __post_init__(self) -> None:
        normalise_fields(self)
        normalise(list(self.proportions.values()), what="Static proportions")

    def proportion_of(self, names: tuple[str, ...]) -> list[float]:
        """Return the weights in the order of `names`."""
        return by_name(self.proportions, names, what="Static proportions")


def by_name(weights: Mapping[str, float], names: tuple[str, ...], *, what: str) -> list[float]:
    """Return `weights` in the order of `names`.

    Raises:
        ConfigError: the two do not name the same domains.
    """
    if unknown := sorted(set(weights) - set(names), key=str):
        raise ConfigError(
            f"{what} gives weights to {shown(unknown)}, which are not domains; the domains are {sorted(names)}"
        )
    if missing := sorted(set(names) - set(weights)):
        raise ConfigError(f"{what} gives no weight to the domains {missing}; add them (0 leaves a domain out)")
    return [float(weights[name]) for name in names]
