"""`mixstream select diff`: how much two selections share."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from mixstream.errors import ConfigError
from mixstream.selection import Difference, difference

from ..shared.artefacts import open_selections, partner
from ..shared.console import Console, table
from ..shared.options import Json


def diff(
    one: Annotated[str, Parameter(name="A")],
    other: Annotated[str, Parameter(name="B")],
    /,
    *,
    as_json: Json = False,
) -> int:
    """Compare two selections: rows in both, in A only, in B only.

    mixstream select diff sel/seed0 sel/seed1

    Two selections of the same share f that have nothing in common but chance
    have a Jaccard index of f / (2 - f): 0.11 for 20 %. An index far above says
    that two methods, or two seeds, agree.

    Exit status: 0, 1 if an artefact is damaged, 2 wrong use.

    Args:
        one: a selection, or a directory with one for each domain.
        other: another one, of the same shards.
        as_json: print one JSON document, not tables.
    """
    console, ones, others = Console(as_json=as_json), open_selections(one), open_selections(other)
    if extra := sorted(set(others) - set(ones)):
        raise ConfigError(f"{other} has the domains {', '.join(extra)}, {one} does not: compare the same domains")
    found = {name: difference(some, partner(one, name, others, other)) for name, some in ones.items()}
    counts = [(each.both, each.only_one, each.only_other) for each in found.values()]
    both, only_one, only_other = (sum(column) for column in zip(*counts))
    everything = Difference(both=both, only_one=only_one, only_other=only_other)
    document = {
        "status": "ok",
        "domains": [{"domain": name, **_describe(each)} for name, each in found.items()],
        "all": _describe(everything),
    }
    rows = [_row(name, each) for name, each in found.items()]
    if len(rows) > 1:
        rows.append(_row("all", everything))
    console.result(document, table(["domain", "in both", "only in A", "only in B", "Jaccard"], rows))
    return 0


def _describe(each: Difference) -> dict[str, float]:
    return {"both": each.both, "only_a": each.only_one, "only_b": each.only_other, "jaccard": each.jaccard}


def _row(name: str, each: Difference) -> list[object]:
    return [name, each.both, each.only_one, each.only_other, f"{each.jaccard:.3f}"]
