"""How much each validation group counts in what a mixer learns from: weights by group, given by name or by number.

Shape suffixes: V validation groups.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from mixstream.arguments import has_items, shown
from mixstream.errors import ConfigError, FeedbackError
from mixstream.plan.weights import normalise as on_simplex
from mixstream.types import Float64

Targets = Mapping[str, float] | Sequence[float] | None
"""v, how much each validation group counts: by name, or a number for each in the plan's order; None for 1 each."""

UNBOUND = "targets are given by name, and no order of domains was set; call bind(names, samples_K)"


def check_targets(targets: Targets) -> None:
    """Raise ConfigError unless `targets` are weights: finite, >= 0, not all zero. Their scale matters and is kept."""
    if targets is not None:
        if not isinstance(targets, Mapping) and not has_items(targets):
            raise ConfigError(f"`targets` are a dict or a list of weights, got {shown(targets)}")
        on_simplex(list(targets.values() if isinstance(targets, Mapping) else targets), what="targets")


def bind_targets(targets: Targets, names: tuple[str, ...]) -> Targets:
    """Return targets by name in the order of `names`, 0 for names without one; other targets as they are.

    Raises:
        ConfigError: a target is not one of `names`.
    """
    if not isinstance(targets, Mapping):
        return targets
    if unknown := sorted(set(targets) - set(names), key=str):
        raise ConfigError(f"targets name {unknown}, which are not domains; the domains are {sorted(names)}")
    return tuple(float(targets.get(name, 0.0)) for name in names)


def weigh_groups(targets: Targets, groups: int) -> Float64:
    """Return v, float64 [V], for a number of validation groups.

    Raises:
        ConfigError: targets by name have not been bound to an order.
        FeedbackError: the number of targets is not that of groups.
    """
    if targets is None:
        return np.ones(groups)
    if isinstance(targets, Mapping):
        raise ConfigError(UNBOUND)
    if len(targets) != groups:
        raise FeedbackError(
            f"{groups} validation groups were reported, and targets weigh {len(targets)}: give one target for each "
            "group, or none to weigh all alike"
        )
    return np.asarray(targets, dtype=np.float64)


def check_groups(targets: Targets, groups: int, domains: int) -> None:
    """Check that it is known how much each group counts: by a target for each, or as one group for each domain.

    Raises:
        FeedbackError: there are other numbers of targets than of groups, or of groups than of domains without targets.
    """
    if targets is None and groups != domains:
        raise FeedbackError(
            f"{groups} validation groups were reported for {domains} domains, and without targets there is one group "
            f"for each domain: report {domains}, or say how much each group counts by targets, such as "
            f"targets={(1,) * min(groups, 3)!r}"
        )
    weigh_groups(targets, groups)
