"""`mixstream select top`: the best rows by a score, to a budget; and the controls that they are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from cyclopts import Parameter
from numpy.typing import NDArray

from mixstream.errors import ConfigError
from mixstream.selection import Scores, Selection, keep, other_side, random_rows

from ..shared.artefacts import allowed_rows, is_alone, lineage, open_scores, within_of
from ..shared.console import Console
from ..shared.numbers import MaybeTokens, Seed
from ..shared.options import Control, Controls, Flag, Json, Many, controls_of
from ..shared.outputs import Output
from .budget import Amount, Budget, budget_of, budgets_of, required_tokens, said_of
from .kept import Kept, finish

Side = Literal["high", "low"]
_NO_BUDGET = Budget()


def top(
    scores: Annotated[str, Parameter(name="SCORES")],
    /,
    *,
    column: str = "score",
    budget: Budget = _NO_BUDGET,
    side: Annotated[Side | None, Parameter(show_default=False)] = None,
    within: str | None = None,
    per_domain: Many = (),
    each: Flag = False,
    overall: Flag = False,
    control: Controls = (),
    seed: Seed = 0,
    tokens_column: str = "n_tokens",
    row_tokens: MaybeTokens = None,
    output: Output,
    as_json: Json = False,
) -> int:
    """Keep the rows with the best scores, as many as a budget allows.

    mixstream select top scores/dsdm --fraction 0.2 --control random \\
        --out sel/top20
    mixstream select top scores/edu --column int_score --side high \\
        --tokens 30b --overall --out sel/edu30b
    mixstream select top scores/dsdm --per-domain web=.3 code=.6 --out sel/mix

    SCORES is an artefact, or a directory with one for each domain. The new
    selection is a small file; no shard is rewritten. Give it to a stream:
    Stream(remote=..., selection="sel/top20").

    SIDE. Which end is good: `high` or `low`. Without --side, the column says
    so, if its maker wrote it down.

    SEVERAL DOMAINS. --overall ranks all rows together: one threshold. --each
    gives every domain the same budget. --per-domain gives each its own.

    TIES are broken by domain name, then by position, so that the same scores
    always give the same selection. Rows without a score are never kept.

    CONTROLS. A selection is good only if it beats chance. --control random also
    writes OUT-random, as many rows (or tokens) at random; --control inverse
    writes OUT-inverse, the worst ones; --control random,inverse writes both.

    Exit status: 0, 1 if an artefact is damaged, 2 wrong use.

    Args:
        scores: scores of one domain, or a directory above several.
        column: the score.
        side: keep the `high` or the `low` scores.
        within: only rows that this selection keeps.
        per_domain: a budget for each domain: web=.3, web=100krows or web=2btokens.
        each: several domains: the budget is that of each.
        overall: several domains: the budget is that of all together.
        control: `random`, `inverse`, or both as random,inverse.
        seed: of the random control.
        tokens_column: the column that has the tokens of each row.
        row_tokens: tokens of every row, if all rows have one length.
        as_json: print one JSON document, not tables.
    """
    console, all_scores = Console(as_json=as_json), open_scores(scores)
    alone = is_alone(scores, all_scores)
    kinds: tuple[Control | None, ...] = (None, *controls_of(control))
    outputs = [output if kind is None else output.beside(kind) for kind in kinds]
    places = [each.places(all_scores, alone=alone) for each in outputs]
    amounts = budgets_of(budget, per_domain, each=each, overall=overall, known=list(all_scores))
    inside = within_of(scores, within)
    parts = []
    for domain, some in all_scores.items():
        parts.append(
            _Part(
                scores=some,
                column=column,
                side=side_of(some, column, side),
                within=inside(domain),
                tokens_N=required_tokens(
                    some,
                    column=tokens_column,
                    row_tokens=row_tokens,
                    needed=budget_of(amounts, domain).unit == "tokens",
                ),
            )
        )
    choices = [_chosen(parts, amounts, control=kind, seed=seed) for kind in kinds]
    return finish(choices[0], places[0], output=output, console=console, controls=list(zip(choices[1:], places[1:])))


def side_of(scores: Scores, column: str, given: Side | None) -> Side:
    """Return which end of a column is good: as given, or as the column says.

    Raises:
        ConfigError: neither says so, there is no such column, or it is not one of single numbers.
    """
    if column not in scores.columns:
        raise ConfigError(
            f"{scores.path} has no column {column!r}; it has {', '.join(scores.columns)}; name it with --column"
        )
    found = scores.columns[column]
    if found.shape:
        raise ConfigError(
            f"column {column!r} has rows of shape {found.shape}; a score is one number: name another --column"
        )
    if given is not None:
        return given
    if found.higher_is_better is None:
        raise ConfigError(
            f"column {column!r} of {scores.path} does not say which end is good: give --side high or --side low"
        )
    return "high" if found.higher_is_better else "low"


class _Part:
    """One domain: its scores, and which rows may be kept."""

    def __init__(
        self, *, scores: Scores, column: str, side: Side, within: Selection | None, tokens_N: NDArray[Any] | None
    ) -> None:
        self.scores, self.column, self.within, self.tokens_N = scores, column, within, tokens_N
        self.side: Side = side
        self.allowed_N = allowed_rows(scores, within)

    @property
    def score_N(self) -> NDArray[Any]:
        return self.scores.column(self.column)

    def kept(self, rows: NDArray[np.int64], amount: Amount, *, scope: str, settings: Mapping[str, Any]) -> Kept:
        worst = None
        if len(rows) and settings["control"] != "random":
            values = self.score_N[rows]
            best_is_high = (self.side == "high") != (settings["control"] == "inverse")
            worst = float(values.min() if best_is_high else values.max())
        rule = {"kind": "top", "column": self.column, "side": self.side, "budget": amount.as_json(), "scope": scope}
        parents = {"scores": self.scores.id, **({"within": self.within.id} if self.within is not None else {})}
        return Kept(
            domain=self.scores.domain,
            table=self.scores.table if self.within is None else self.scores.table.knowing(self.within.table),
            rows=rows,
            rule={**rule, **{name: value for name, value in settings.items() if value is not None}, "threshold": worst},
            parents=parents,
            facts=lineage(self.scores),
            tokens_N=self.tokens_N,
        )


def _chosen(
    parts: list[_Part], amounts: Amount | dict[str, Amount], *, control: Control | None, seed: int
) -> list[Kept]:
    """Choose the rows of all domains: the best ones, or those of a control."""
    settings = {"control": control, "seed": seed if control == "random" else None}
    if isinstance(amounts, Amount):
        return _overall(parts, amounts, control=control, seed=seed, settings=settings)
    return [_one(part, amounts[part.scores.domain], control=control, seed=seed, settings=settings) for part in parts]


def _one(part: _Part, amount: Amount, *, control: Control | None, seed: int, settings: Mapping[str, Any]) -> Kept:
    with said_of(part.scores.domain):
        rows = _choose(part.score_N, part.allowed_N, part.tokens_N, amount, side=part.side, control=control, seed=seed)
    return part.kept(rows, amount, scope="domain", settings=settings)


def _overall(
    parts: list[_Part], amount: Amount, *, control: Control | None, seed: int, settings: Mapping[str, Any]
) -> list[Kept]:
    """Choose among the rows of all domains together. Domains come by name, so ties are broken by name, then ordinal."""
    if len({part.side for part in parts}) > 1:
        raise ConfigError("the domains' scores do not agree on which end is good: give --side high or --side low")
    tokens = [part.tokens_N for part in parts]
    known = [each for each in tokens if each is not None]
    if amount.unit == "rows" or len(known) < len(parts):
        known = []
    rows = _choose(
        np.concatenate([part.score_N for part in parts]),
        np.concatenate([part.allowed_N for part in parts]),
        np.concatenate(known) if known else None,
        amount,
        side=parts[0].side,
        control=control,
        seed=seed,
    )
    begins = np.concatenate(([0], np.cumsum([part.scores.rows for part in parts])))
    edges = np.searchsorted(rows, begins)
    return [
        part.kept(rows[edges[at] : edges[at + 1]] - begins[at], amount, scope="overall", settings=settings)
        for at, part in enumerate(parts)
    ]


def _choose(
    score_N: NDArray[Any],
    allowed_N: NDArray[np.bool_],
    tokens_N: NDArray[Any] | None,
    amount: Amount,
    *,
    side: Side,
    control: Control | None,
    seed: int,
) -> NDArray[np.int64]:
    asked = side if control != "inverse" else other_side(side)
    best = keep(score_N, side=asked, allowed_N=allowed_N, tokens_N=tokens_N, **amount.as_arguments())
    if control != "random":
        return best
    if amount.unit == "rows" or tokens_N is None:
        return random_rows(len(score_N), rows=len(best), allowed_N=allowed_N, seed=seed)
    budget = int(tokens_N[best].sum(dtype=np.int64))
    return random_rows(len(score_N), tokens=budget, tokens_N=tokens_N, allowed_N=allowed_N, seed=seed)
