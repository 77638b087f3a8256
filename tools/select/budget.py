"""How much is kept: the options `--fraction`, `--rows` and `--tokens`, and which of several domains they count."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from cyclopts import Parameter
from numpy.typing import NDArray

from mixstream.errors import ConfigError
from mixstream.selection import Scores, Selection
from mixstream.units import parse_count

from ..shared.numbers import MaybeShare

Unit = Literal["rows", "tokens"]
_AMOUNT = re.compile(r"([^=]+)=(?:(0?\.\d+|1(?:\.0*)?|0\.\d+e-\d+)|(\d[\d.,_]*[kmbt]?)(rows|tokens))", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Amount:
    """How much of a domain, or of all domains, is kept: one of the three. As `mixstream.selection.keep` takes it."""

    fraction: float | None = None
    rows: int | None = None
    tokens: int | None = None
    by: Unit = "rows"

    @property
    def unit(self) -> Unit:
        """What is counted."""
        return "tokens" if self.tokens is not None or (self.fraction is not None and self.by == "tokens") else "rows"

    def as_arguments(self) -> dict[str, Any]:
        """Return the arguments of `keep`."""
        return {"fraction": self.fraction, "rows": self.rows, "tokens": self.tokens, "by": self.by}

    def as_json(self) -> dict[str, Any]:
        """Return what is known, for the rule of a selection."""
        named = {"fraction": self.fraction, "rows": self.rows, "tokens": self.tokens}
        return {**{name: value for name, value in named.items() if value is not None}, "by": self.unit}


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """How much is kept.

    Args:
        fraction: the share to keep, such as 0.3.
        rows: how many rows to keep, such as 100k.
        tokens: how many tokens to keep, such as 30b.
        by: what a fraction counts: rows or tokens.
    """

    fraction: MaybeShare = None
    rows: Annotated[str | None, Parameter(show_default=False)] = None
    tokens: Annotated[str | None, Parameter(show_default=False)] = None
    by: Unit = "rows"

    @property
    def given(self) -> bool:
        """Whether there is a budget."""
        return (self.fraction, self.rows, self.tokens) != (None, None, None)

    def amount(self) -> Amount:
        """Return the budget.

        Raises:
            ConfigError: not exactly one option, or one that is no number.
        """
        if sum(value is not None for value in (self.fraction, self.rows, self.tokens)) != 1:
            raise ConfigError("give one of --fraction, --rows and --tokens: how much is to be kept")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise ConfigError(f"--fraction {self.fraction:g}: give a share above 0 and at most 1")
        return Amount(
            fraction=self.fraction,
            rows=None if self.rows is None else parse_count(self.rows, name="--rows", of="rows"),
            tokens=None if self.tokens is None else parse_count(self.tokens, name="--tokens", of="tokens"),
            by=self.by,
        )


def amounts_of(texts: Sequence[str], *, by: Unit, known: Sequence[str]) -> dict[str, Amount]:
    """Return the budgets of `--per-domain`: `web=.3`, `web=100krows` or `web=2btokens`, also joined by commas.

    Raises:
        ConfigError: a text is malformed, a domain is unknown or given twice, or one has no budget.
    """
    found: dict[str, Amount] = {}
    for text in (part for each in texts for part in each.split(",") if part):
        match = _AMOUNT.fullmatch(text.strip())
        if match is None:
            raise ConfigError(
                f"--per-domain {text}: give DOMAIN=SHARE, DOMAIN=NUMBERrows or DOMAIN=NUMBERtokens, as in web=.3"
            )
        name, share, number, unit = match.groups()
        if name in found:
            raise ConfigError(f"--per-domain {text}: {name!r} is given twice; give it once")
        if share is not None:
            found[name] = Amount(fraction=float(share), by=by)
        else:
            count = parse_count(number, name=f"--per-domain {name}", of=unit.lower())
            found[name] = Amount(rows=count) if unit.lower() == "rows" else Amount(tokens=count)
    if unknown := sorted(set(found) - set(known)):
        raise ConfigError(f"--per-domain names {', '.join(unknown)}; the domains are {', '.join(known)}")
    if missing := [name for name in known if name not in found]:
        raise ConfigError(
            f"--per-domain has no budget for {', '.join(missing)}; give one for each domain, such as {missing[0]}=1"
        )
    return found


def budgets_of(
    budget: Budget, per_domain: Sequence[str], *, each: bool, overall: bool, known: Sequence[str]
) -> Amount | dict[str, Amount]:
    """Return the budget of all domains together (`--overall`), or of each (`--each`, `--per-domain`, or only one).

    Raises:
        ConfigError: there are several domains, and none of these options says which of them the budget is for.
    """
    if sum((bool(per_domain), each, overall)) > 1:
        raise ConfigError("--overall, --each and --per-domain exclude each other: give one of them")
    if per_domain:
        if budget.given:
            raise ConfigError("--per-domain gives every budget: leave out --fraction, --rows and --tokens")
        return amounts_of(per_domain, by=budget.by, known=known)
    amount = budget.amount()
    if overall:
        return amount
    if len(known) > 1 and not each:
        raise ConfigError(
            f"there are {len(known)} domains ({', '.join(known[:8])}): give --overall for one budget over all, --each "
            "for the same budget in each, or --per-domain"
        )
    return dict.fromkeys(known, amount)


def budget_of(amounts: Amount | Mapping[str, Amount], domain: str) -> Amount:
    """Return the budget of a domain, or that of all domains together."""
    return amounts if isinstance(amounts, Amount) else amounts[domain]


@contextmanager
def said_of(domain: str | None) -> Iterator[None]:
    """Name the domain in an error about its budget; None for all domains together."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{'all domains' if domain is None else f'domain {domain!r}'}: {error}") from error


def tokens_of(scores: Scores, *, column: str, row_tokens: int | None) -> NDArray[Any] | None:
    """Return the tokens of each row, [N]; None if they are not known.

    Args:
        scores: of the rows.
        column: name of the column that has them.
        row_tokens: tokens of every row, where all rows have one length.
    """
    if row_tokens is None:
        known = scores.made.get("row_tokens")
        row_tokens = known if isinstance(known, int) and known >= 0 else None
    elif not 0 <= row_tokens < 1 << 32:
        raise ConfigError(f"--row-tokens {row_tokens}: give 0 or more, less than 2**32")
    if row_tokens is not None:
        return np.broadcast_to(np.uint32(row_tokens), (scores.rows,))
    return scores.column(column) if column in scores.columns else None


def required_tokens(scores: Scores, *, column: str, row_tokens: int | None, needed: bool) -> NDArray[Any] | None:
    """Return the tokens of each row as `tokens_of`.

    Raises:
        ConfigError: they are needed and not known.
    """
    tokens_N = tokens_of(scores, column=column, row_tokens=row_tokens)
    if tokens_N is None and needed:
        raise ConfigError(
            f"{scores.path} has no column {column!r}, so the tokens of its rows are not known: name another with "
            "--tokens-column, give --row-tokens if all rows have one length, or count --by rows"
        )
    return tokens_N


def kept_tokens(selection: Selection) -> int | None:
    """Return the tokens that a selection keeps; None if its maker did not know."""
    return None if selection.tokens is None else selection.tokens.after
