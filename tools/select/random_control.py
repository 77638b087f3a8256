"""`mixstream select random`: rows at random, as many as a budget or as another selection has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter
from numpy.typing import NDArray

from mixstream.errors import ConfigError
from mixstream.formats import fixed_row_tokens
from mixstream.selection import Selection, ShardTable, ceil_share, kept_mask, random_rows, same_shards

from ..shared.artefacts import is_alone, is_kind, lineage, open_scores, open_selections, partner
from ..shared.console import Console
from ..shared.domains import find_domains
from ..shared.numbers import MaybeTokens, Seed
from ..shared.options import Flag, Json, Many, TokenReading
from ..shared.outputs import Output
from .budget import Amount, Budget, budgets_of, said_of, tokens_of
from .kept import Kept, Rows, finish

_NO_BUDGET = Budget()


def random(
    source: Annotated[str, Parameter(name="SRC")],
    /,
    *,
    budget: Budget = _NO_BUDGET,
    like: str | None = None,
    inverse: str | None = None,
    within: str | None = None,
    per_domain: Many = (),
    each: Flag = False,
    overall: Flag = False,
    seed: Seed = 0,
    split: str = "train",
    tokens_column: str = "n_tokens",
    row_tokens: MaybeTokens = None,
    reading: TokenReading = TokenReading(),  # noqa: B008  # frozen
    output: Output,
    as_json: Json = False,
) -> int:
    """Keep rows at random: the control that every selection has to beat.

    mixstream select random s3://corpus/web --fraction 0.2 --out sel/random
    mixstream select random s3://corpus --fraction 0.2 --each --out sel/random
    mixstream select random scores/dsdm --like sel/top20 --seed 1 --out sel/r1
    mixstream select random scores/dsdm --inverse sel/top20 --out sel/rest
    mixstream select random scores/dsdm --inverse sel/top20 --rows 100k \\
        --out sel/rest100k

    SRC is a dataset (or a directory above several), scores, or a selection,
    whose shards are used.

    SEVERAL DOMAINS. --overall draws among all rows together. --each gives every
    domain the same budget. --per-domain gives each its own.

    --like SEL keeps as many rows as SEL does, or as many tokens if SEL knows
    its tokens and those of SRC are known. --inverse SEL chooses among the rows
    that SEL does not keep: all of them, without a budget.

    Exit status: 0, 1 if something cannot be read, 2 wrong use.

    Args:
        source: dataset, scores or selection.
        like: keep as much as this selection, in each domain.
        inverse: choose among the rows that this selection does not keep.
        within: choose among the rows that this selection keeps.
        per_domain: a budget for each domain: web=.3, web=100krows or web=2btokens.
        each: several domains: the budget is that of each.
        overall: several domains: the budget is that of all together.
        seed: another seed gives another choice.
        split: which of the splits of a domain, where it has several.
        tokens_column: the column of scores that has the tokens of each row.
        row_tokens: tokens of every row, if all rows have one length.
        as_json: print one JSON document, not tables.
    """
    budgeted = budget.given or bool(per_domain)
    if like is not None and (budgeted or each or overall):
        raise ConfigError(
            "--like gives the budget of each domain: leave out --fraction, --rows, --tokens, --per-domain, --each and "
            "--overall"
        )
    if not budgeted and like is None and (inverse is None or each or overall):
        raise ConfigError("how much is to be kept? give --fraction, --rows or --tokens, or --like SEL")
    console = Console(as_json=as_json)
    alone, domains = _domains(source, split=split, tokens_column=tokens_column, row_tokens=row_tokens, reading=reading)
    places = output.places(domains, alone=alone)
    others = {
        name: open_selections(path) if path is not None else {}
        for name, path in (("like", like), ("inverse", inverse), ("within", within))
    }
    amounts: Amount | Mapping[str, Amount | None] = dict.fromkeys(domains)
    if budgeted:
        amounts = budgets_of(budget, per_domain, each=each, overall=overall, known=list(domains))
    chosen = []
    for name, domain in domains.items():
        found = {
            option: _fitting(source, domain, partner(source, name, some, f"--{option}"))
            for option, some in others.items()
            if some
        }
        chosen.append(_Choice.of(domain, found))
    if isinstance(amounts, Amount):
        kept = _overall(chosen, amounts, seed=seed)
    else:
        kept = [each.draw(amounts[each.domain.name], seed=seed) for each in chosen]
    return finish(kept, places, output=output, console=console)


@dataclass(frozen=True, kw_only=True)
class _Domain:
    """The rows to choose among."""

    name: str
    table: ShardTable
    parents: Mapping[str, str]
    facts: Mapping[str, Any]
    tokens_N: NDArray[Any] | None


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """The rows of one domain that may be drawn."""

    domain: _Domain
    given: Mapping[str, Selection]
    allowed_N: NDArray[np.bool_]

    @classmethod
    def of(cls, domain: _Domain, given: Mapping[str, Selection]) -> _Choice:
        allowed_N = np.ones(domain.table.rows, dtype=np.bool_)
        if "within" in given:
            allowed_N &= kept_mask(given["within"])
        if "inverse" in given:
            allowed_N &= ~kept_mask(given["inverse"])
        return cls(domain=domain, given=given, allowed_N=allowed_N)

    def draw(self, amount: Amount | None, *, seed: int) -> Kept:
        """Return so many rows at random; as many as `--like`, or all that may be drawn, if it is None."""
        amount = amount or _like(self.given.get("like"), self.domain.tokens_N)
        if amount is None:
            return self.kept(self.allowed_N, {"kind": "complement"})
        rows = _drawn(self.domain.name, amount, self.allowed_N, self.domain.tokens_N, seed=seed)
        return self.kept(rows, {"kind": "random", "budget": amount.as_json(), "scope": "domain", "seed": seed})

    def kept(self, rows: Rows, rule: Mapping[str, Any]) -> Kept:
        domain, given = self.domain, self.given
        return Kept(
            domain=domain.name,
            table=domain.table.knowing(*(given[option].table for option in ("within", "inverse") if option in given)),
            rows=rows,
            rule=rule,
            parents={**domain.parents, **{option: selection.id for option, selection in given.items()}},
            facts=domain.facts,
            tokens_N=domain.tokens_N,
        )


def _overall(choices: Sequence[_Choice], amount: Amount, *, seed: int) -> list[Kept]:
    """Draw among the rows of all domains together."""
    tokens = [each.domain.tokens_N for each in choices]
    known = [each for each in tokens if each is not None]
    for choice in choices:
        _require_tokens(amount, choice.domain.name, choice.domain.tokens_N)
    allowed_N = np.concatenate([each.allowed_N for each in choices])
    tokens_N = np.concatenate(known) if len(known) == len(choices) else None
    rows = _drawn(None, amount, allowed_N, tokens_N, seed=seed)
    begins = np.concatenate(([0], np.cumsum([each.domain.table.rows for each in choices])))
    edges = np.searchsorted(rows, begins)
    rule = {"kind": "random", "budget": amount.as_json(), "scope": "overall", "seed": seed}
    return [each.kept(rows[edges[at] : edges[at + 1]] - begins[at], rule) for at, each in enumerate(choices)]


def _drawn(
    name: str | None, amount: Amount, allowed_N: NDArray[np.bool_], tokens_N: NDArray[Any] | None, *, seed: int
) -> NDArray[np.int64]:
    size = _size(amount, name, allowed_N, tokens_N)
    with said_of(name):
        return random_rows(len(allowed_N), allowed_N=allowed_N, tokens_N=tokens_N, seed=seed, **size)


def _like(selection: Selection | None, tokens_N: NDArray[Any] | None) -> Amount | None:
    if selection is None:
        return None
    if selection.tokens is not None and tokens_N is not None:
        return Amount(tokens=selection.tokens.after)
    return Amount(rows=selection.kept)


def _require_tokens(amount: Amount, name: str | None, tokens_N: NDArray[Any] | None) -> None:
    if amount.unit == "tokens" and tokens_N is None:
        raise ConfigError(
            f"the tokens of the rows of {name!r} are not known: give --row-tokens if all rows have one length, or "
            "scores with a column of them, or count --by rows"
        )


def _size(
    amount: Amount, name: str | None, allowed_N: NDArray[np.bool_], tokens_N: NDArray[Any] | None
) -> dict[str, int]:
    """Return the budget in rows or tokens."""
    _require_tokens(amount, name, tokens_N)
    if amount.fraction is None:
        return {amount.unit: amount.tokens if amount.tokens is not None else amount.rows}  # type: ignore[dict-item]
    if amount.unit == "rows":
        return {"rows": ceil_share(amount.fraction, int(np.count_nonzero(allowed_N)))}
    assert tokens_N is not None
    return {"tokens": ceil_share(amount.fraction, int(tokens_N[allowed_N].sum(dtype=np.int64)))}


def _domains(
    source: str, *, split: str, tokens_column: str, row_tokens: int | None, reading: TokenReading
) -> tuple[bool, dict[str, _Domain]]:
    """Return whether SRC is one domain itself, and its domains."""
    if is_kind(source, "scores"):
        scores = open_scores(source)
        return is_alone(source, scores), {
            name: _Domain(
                name=name,
                table=some.table,
                parents={"scores": some.id},
                facts=lineage(some),
                tokens_N=tokens_of(some, column=tokens_column, row_tokens=row_tokens),
            )
            for name, some in scores.items()
        }
    if is_kind(source, "selection"):
        selections = open_selections(source)
        return is_alone(source, selections), {
            name: _Domain(
                name=name,
                table=some.table,
                parents={"source": some.id},
                facts=lineage(some),
                tokens_N=_equal_tokens(row_tokens or some.made.get("row_tokens"), some.table.rows),
            )
            for name, some in selections.items()
        }
    datasets = find_domains([source], split=split, options=reading.options)
    found = {}
    for dataset in datasets:
        table = ShardTable.of(dataset.index.shards)
        length = row_tokens or fixed_row_tokens([info.columns for info in dataset.index.shards])
        facts = {"dataset": dataset.url, **({"row_tokens": length} if length else {})}
        found[dataset.name] = _Domain(
            name=dataset.name, table=table, parents={}, facts=facts, tokens_N=_equal_tokens(length, table.rows)
        )
    return len(datasets) == 1, found


def _equal_tokens(length: Any, rows: int) -> NDArray[Any] | None:
    return np.broadcast_to(np.uint32(length), (rows,)) if isinstance(length, int) and length > 0 else None


def _fitting(source: str, domain: _Domain, selection: Selection) -> Selection:
    same_shards(source, domain.table, selection.path, selection.table)
    return selection
