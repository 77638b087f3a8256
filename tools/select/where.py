"""`mixstream select where`: the rows for which a condition on their columns holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter
from numpy.typing import NDArray

from mixstream.selection import Categories, Condition, Scores, Selection

from ..shared.artefacts import allowed_rows, is_alone, lineage, open_scores, within_of
from ..shared.console import Console
from ..shared.numbers import MaybeTokens
from ..shared.options import Json
from ..shared.outputs import Output
from .budget import tokens_of
from .kept import Kept, finish

_BLOCK = 1 << 18  # rows


def where(
    scores: Annotated[str, Parameter(name="SCORES")],
    condition: Annotated[str, Parameter(name="CONDITION")],
    /,
    *,
    within: str | None = None,
    tokens_column: str = "n_tokens",
    row_tokens: MaybeTokens = None,
    output: Output,
    as_json: Json = False,
) -> int:
    """Keep the rows for which a condition holds.

    mixstream select where scores/edu "int_score >= 3" --out sel/edu3
    mixstream select where scores/edu \\
        "int_score >= 3 and language == 'en'" --out sel/edu3en
    mixstream select where scores/x "0.2 < score <= 0.9 or cluster in [3, 7]" \\
        --within sel/deduplicated --out sel/x

    CONDITION has columns of SCORES, numbers, 'texts', comparisons, `in [...]`,
    `and`, `or`, `not`, and + - * / // %. It is never run as Python. Texts that
    `select import` read are compared with == and `in`. A column may have dots
    in its name (score.code); any other name is written in backticks, within
    'single quotes' of the shell: '`my score` > 3'.

    Rows without a score are never kept.

    Exit status: 0, 1 if an artefact is damaged, 2 wrong use.

    Args:
        scores: scores of one domain, or a directory above several.
        condition: what has to hold.
        within: only rows that this selection keeps.
        tokens_column: the column that has the tokens of each row, to report what is kept.
        row_tokens: tokens of every row, if all rows have one length.
        as_json: print one JSON document, not tables.
    """
    console, parsed, all_scores = Console(as_json=as_json), Condition.parse(condition), open_scores(scores)
    for some in all_scores.values():
        parsed.require(names_in(some), where=some.path)
    places = output.places(all_scores, alone=is_alone(scores, all_scores))
    inside = within_of(scores, within)
    kept = []
    with console.progress("select", total=sum(some.rows for some in all_scores.values()), unit="rows") as advance:
        for domain, some in all_scores.items():
            only = inside(domain)
            kept.append(
                kept_where(
                    some,
                    parsed,
                    within=only,
                    tokens_N=tokens_of(some, column=tokens_column, row_tokens=row_tokens),
                )
            )
            advance(some.rows)
    return finish(kept, places, output=output, console=console)


def kept_where(
    scores: Scores, condition: Condition, *, within: Selection | None = None, tokens_N: NDArray[Any] | None = None
) -> Kept:
    """Return the rows of a domain for which the condition holds."""
    mask_N = holds_in(scores, condition) & allowed_rows(scores, within)
    parents = {"scores": scores.id, **({"within": within.id} if within is not None else {})}
    return Kept(
        domain=scores.domain,
        table=scores.table if within is None else scores.table.knowing(within.table),
        rows=mask_N,
        rule={"kind": "where", "condition": condition.text},
        parents=parents,
        facts=lineage(scores),
        tokens_N=tokens_N,
    )


def holds_in(scores: Scores, condition: Condition) -> NDArray[np.bool_]:
    """Return whether a condition holds for each row, bool [N]; it does not for a row without a score."""
    names = sorted(condition.columns & set(scores.columns))
    categories = categories_of(scores)
    mask_N = np.zeros(scores.rows, dtype=np.bool_)
    for begin, block in scores.blocks("flags", *names, size=_BLOCK):
        scored_B = (block.pop("flags") & 1) > 0
        columns: dict[str, NDArray[Any] | Categories] = {}
        for name, values in block.items():
            columns[name] = Categories(values[scored_B], categories[name]) if name in categories else values[scored_B]
        if "ordinal" in condition.columns:
            columns["ordinal"] = begin + np.flatnonzero(scored_B)
        mask_N[begin : begin + len(scored_B)][scored_B] = condition.holds(columns)
    return mask_N


def names_in(scores: Scores) -> list[str]:
    """Return the names that a condition on these scores may have."""
    return [*(name for name, column in scores.columns.items() if not column.shape), "ordinal"]


def categories_of(scores: Scores) -> dict[str, list[str]]:
    """Return the texts of the columns that hold categories, by column."""
    found = scores.made.get("categories")
    if not isinstance(found, Mapping):
        return {}
    return {
        name: [str(text) for text in texts]
        for name, texts in found.items()
        if name in scores.columns and isinstance(texts, list)
    }
