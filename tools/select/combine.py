"""`mixstream select combine`: selections as sets."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from mixstream.errors import ConfigError
from mixstream.selection import Operation, difference, provenance, same_shards
from mixstream.selection import combine as combine_two

from ..shared.artefacts import is_alone, lineage, open_selections, partner
from ..shared.console import Console
from ..shared.options import Json
from ..shared.outputs import Output
from .kept import describe_selection, report


def combine(
    selection: Annotated[str, Parameter(name="SEL")],
    /,
    *,
    and_: Annotated[str | None, Parameter(name="--and", show_default=False)] = None,
    or_: Annotated[str | None, Parameter(name="--or", show_default=False)] = None,
    minus: Annotated[str | None, Parameter(name="--minus", show_default=False)] = None,
    output: Output,
    as_json: Json = False,
) -> int:
    """Combine two selections: rows in both, in either, or in the first only.

    mixstream select combine sel/top20 --and sel/deduplicated --out sel/both
    mixstream select combine sel/edu3 --or sel/code --out sel/either
    mixstream select combine sel/top20 --minus sel/overlap --out sel/clean

    Both must be of the same domains and the same shards. To move a selection
    to a dataset that was sharded anew, see `mixstream select rebase`.

    Exit status: 0, 1 if an artefact is damaged, 2 wrong use.

    Args:
        selection: the first selection, or a directory with one for each domain.
        and_: keep rows that this selection keeps too.
        or_: keep also the rows that this selection keeps.
        minus: keep only rows that this selection does not keep.
        as_json: print one JSON document, not tables.
    """
    options: dict[Operation, str | None] = {"and": and_, "or": or_, "minus": minus}
    given: list[tuple[Operation, str]] = [(name, path) for name, path in options.items() if path is not None]
    if len(given) != 1:
        raise ConfigError("give one of --and, --or and --minus, with a selection; for more, combine the result again")
    operation, path = given[0]
    console, ones, others = Console(as_json=as_json), open_selections(selection), open_selections(path)
    if extra := sorted(set(others) - set(ones)):
        raise ConfigError(
            f"{path} has the domains {', '.join(extra)}, and {selection} does not: give selections of the same domains"
        )
    places = output.places(ones, alone=is_alone(selection, ones))
    pairs = {name: (one, partner(selection, name, others, path)) for name, one in ones.items()}
    for one, other in pairs.values():
        same_shards(one.path, one.table, other.path, other.table)
    documents = []
    for name, (one, other) in pairs.items():
        if output.dry_run:
            found = difference(one, other)
            kept = {"and": found.both, "minus": found.only_one, "or": found.both + found.only_one + found.only_other}
            documents.append(
                {**describe_selection(one), "kept_rows": kept[operation], "tokens": None, "kept_tokens": None}
                | {"path": None, "id": None, "rule": {"kind": operation}}
            )
            continue
        parents = {"one": one.id, "other": other.id}
        made = provenance({"operation": operation, "parents": parents}, **lineage(one))
        written = combine_two(
            one,
            operation,
            other,
            out=places[name],
            made=made,
            overwrite=output.overwrite,
        )
        documents.append(describe_selection(written))
    report(documents, output=output, console=console)
    return 0
