"""`mixstream prune keep`: the hard or the easy rows of each domain, as a selection; and its controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError
from mixstream.selection import Scores, Selection, below_cut, other_side, provenance, random_rows, write_selection
from mixstream.selection import keep as keep_rows
from mixstream.types import Int64
from mixstream.units import parse_count

from ..shared.artefacts import allowed_rows, find_domains_of, lineage, within_of
from ..shared.console import Console, table
from ..shared.numbers import MaybeShare, MaybeTokens, Seed, real
from ..shared.options import Control, Controls, Json, Text, controls_of
from ..shared.outputs import Output
from .inputs import DISTANCE, column_of, tokens_of
from .options import HardIs, Names, Side, Unit


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What `keep` does in each domain.

    Attributes:
        side: "hard" or "easy".
        column: the scores that say how hard a row is.
        hard_is: which end of them is hard.
        by: what `fraction` counts.
        fraction: the share to keep; or
        rows: how many rows to keep; or
        tokens: how many tokens to keep.
        outlier_cut: the share of rows below the largest scores, which are never kept; None for no cut.
        balance: a column of groups that each keep a floor; None for none.
        floor: the floor of a group, as a share of its part under uniform pruning; None for 0.5.
        seed: of the random control.
        row_tokens: tokens of every row; None to read the column that has them.
    """

    side: Side
    column: str = DISTANCE
    hard_is: HardIs = "high"
    by: Unit = "rows"
    fraction: float | None = None
    rows: int | None = None
    tokens: int | None = None
    outlier_cut: float | None = None
    balance: str | None = None
    floor: float | None = None
    seed: int = 0
    row_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.floor is not None and self.balance is None:
            raise ConfigError(f"--floor {self.floor:g} is for groups: name their column with --balance COLUMN")
        given = [name for name in ("fraction", "rows", "tokens") if getattr(self, name) is not None]
        if len(given) != 1:
            chosen = f"{' and '.join(f'--{name}' for name in given)} are given" if given else "no budget is given"
            raise ConfigError(f"{chosen}: give one of --fraction 0.8, --rows 1000000 and --tokens 1000000000")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise ConfigError(f"--fraction {self.fraction:g}: give a share above 0 and at most 1")
        if self.outlier_cut is not None and not 0 < self.outlier_cut < 1:
            raise ConfigError(f"--outlier-cut {self.outlier_cut:g}: give the share of rows to stay below, as in 0.995")
        if self.row_tokens is not None and self.row_tokens < 0:
            raise ConfigError(f"--row-tokens {self.row_tokens}: give the tokens of a row, 0 or more")
        if self.by == "rows" and self.outlier_cut is not None and self.outlier_cut < (self.fraction or 0) < 1:
            raise ConfigError(
                f"--fraction {self.fraction:g} is more than --outlier-cut {self.outlier_cut:g} leaves: give at most "
                f"--fraction {self.outlier_cut:g}, or --fraction 1 to keep all that the cut leaves"
            )
        if self.by == "tokens" and self.rows is not None:
            raise ConfigError("--by tokens and --rows contradict each other: give --tokens, or leave out --by")

    @property
    def share(self) -> float:
        """The floor of a group."""
        return 0.5 if self.floor is None else self.floor

    @property
    def in_tokens(self) -> bool:
        """Whether the budget counts tokens."""
        return self.tokens is not None or (self.fraction is not None and self.by == "tokens")


def keep(
    *,
    scores: str,
    side: Side,
    fraction: MaybeShare = None,
    rows: Text = None,
    tokens: Text = None,
    by: Unit = "rows",
    row_tokens: MaybeTokens = None,
    outlier_cut: MaybeShare = None,
    balance: str | None = None,
    floor: Annotated[float | None, real(least=0, most=1, optional=True)] = None,
    within: str | None = None,
    control: Controls = (),
    column: str = DISTANCE,
    hard_is: HardIs = "high",
    seed: Seed = 0,
    domain: Names = (),
    output: Output,
    as_json: Json = False,
) -> None:
    """Keep the hard or the easy part of each domain, as a selection.

    mixstream prune keep --scores scores/ --side hard --fraction 0.8 \\
        --outlier-cut 0.995 --control random --out sel/hard80
    mixstream prune keep --scores scores/ --side easy --tokens 2b \\
        --within sel/no-duplicates --out sel/easy2b

    In training:  ms.Stream(remote="shards/web", selection="sel/hard80")

    WHICH SIDE. Hard rows are those far from every prototype. With much data for
    the size of the model, hard rows teach more; with little, easy ones do.
    Published evidence is on images, and nobody has published where the change
    lies for text; so --side has no default. Train on a control as well.

    HOW MUCH. --fraction of the rows of each domain, or with --by tokens of its
    tokens; or so many --rows or --tokens, as in 10k or 2b. Rows are walked from the best one on,
    equal scores by their position; the row that reaches the number is kept.
    Rows without a score are never kept.

    GARBAGE is hard too. --outlier-cut 0.995 never keeps the largest 0.5 % of
    scores. The budget stays the same; --fraction 1 keeps all that the cut leaves.

    BALANCE. Pruning by any score skews classes. --balance COLUMN gives each
    value of an integer column (cluster, label, language) a floor: --floor 0.5
    is half of what it would keep if all rows were pruned alike.

    CONTROLS. --control random also writes OUT-random, as many rows (or tokens)
    drawn at random among those that --within and --outlier-cut leave; --control
    inverse writes OUT-inverse, from the other side; --control random,inverse
    writes both. If training on them goes as well, the score does not help.

    Args:
        scores: as `mixstream prune assign` writes them.
        side: `hard` or `easy`.
        fraction: the share to keep, above 0 and at most 1.
        rows: how many rows to keep of a domain, such as 100k.
        tokens: how many tokens to keep of a domain, such as 30b.
        by: what --fraction counts.
        row_tokens: tokens of every row, if all rows have one length.
        outlier_cut: the share of rows, by score, that may be kept at all.
        balance: a column of integers whose values keep a floor.
        floor: the floor, from 0 to 1; default: 0.5.
        within: a selection; only rows that it keeps are looked at, and --fraction counts only these.
        control: `random`, `inverse`, or both as random,inverse.
        column: the scores; another column than the distance to a prototype will do.
        hard_is: which end of --column is hard: `high` (a distance) or `low` (a margin, a likelihood).
        seed: of --control random.
        domain: domains to look at; default: all in SCORES.
        as_json: print one JSON document, not a table.
    """
    rule = Rule(
        side=side, column=column, hard_is=hard_is, by=by, fraction=fraction, outlier_cut=outlier_cut,
        rows=None if rows is None else parse_count(rows, name="--rows", of="rows"),
        tokens=None if tokens is None else parse_count(tokens, name="--tokens", of="tokens"),
        balance=balance, floor=floor, seed=seed, row_tokens=row_tokens,
    )  # fmt: skip
    found = keep_domains(scores, output, rule, within=within, controls=controls_of(control), domain=domain)
    console = Console(as_json=as_json)
    console.result({"status": output.status, "selections": found}, keep_table(found))


def keep_domains(
    scores: str,
    output: Output,
    rule: Rule,
    *,
    within: str | None = None,
    controls: Sequence[Control] = (),
    domain: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Select rows of each domain; return what was kept, a record for each selection."""
    places, inside = find_domains_of(scores, "scores", domain), within_of(scores, within)
    if rule.fraction is None and len(places) > 1:
        option = "--rows" if rule.rows is not None else "--tokens"
        raise ConfigError(
            f"{option} is a number for one domain, and {scores} has {sorted(places)}: choose one with --domain, or "
            "give --fraction"
        )
    records = []
    for name, place in places.items():
        choice = _Choice.of(Scores.open(place), rule, inside(name))
        records.append(choice.write(output, None))
        records += [choice.write(output.beside(kind), kind) for kind in controls]
    return records


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """What is kept of one domain."""

    scores: Scores
    rule: Rule
    within: Selection | None
    allowed_N: NDArray[np.bool_]
    kept: Int64
    tokens_N: NDArray[Any] | None

    @classmethod
    def of(cls, scores: Scores, rule: Rule, within: Selection | None) -> _Choice:
        allowed_N, tokens_N = allowed_rows(scores, within), tokens_of(scores, rule.row_tokens)
        if rule.in_tokens and tokens_N is None:
            raise ConfigError(
                f"{scores.path} has no column 'n_tokens', so tokens cannot be counted: embed the dataset with a "
                "tokenizer, give --row-tokens if all rows have one length, or count rows (--by rows)"
            )
        kept = _kept(scores, rule, rule.side, allowed_N, tokens_N)
        return cls(scores=scores, rule=rule, within=within, allowed_N=allowed_N, kept=kept, tokens_N=tokens_N)

    def write(self, output: Output, kind: Control | None) -> dict[str, Any]:
        place = output.place(self.scores.domain)
        rule: dict[str, Any] = {"method": "prototype pruning", **asdict(self.rule)}
        if self.rule.balance is not None:
            rule["floor"] = self.rule.share
        if kind is not None:
            rule["control"] = kind
        if kind != "random":
            del rule["seed"]
        if self.rule.row_tokens is None:
            del rule["row_tokens"]
        parents = {"scores": self.scores.id} | ({} if self.within is None else {"within": self.within.id})
        made = provenance({"parents": parents, "rule": rule}, **lineage(self.scores))
        kept = self._rows(kind)
        allowed = int(np.count_nonzero(self.allowed_N))
        record: dict[str, Any] = {
            "domain": self.scores.domain, "kind": kind or self.rule.side,
            "rows": {"before": allowed, "after": len(kept)},
            "unscored": int(np.count_nonzero(~self.scores.scored)), "path": str(place),
        }  # fmt: skip
        if self.tokens_N is not None:
            before = int(np.sum(self.tokens_N, where=self.allowed_N, dtype=np.int64))
            record["tokens"] = {"before": before, "after": int(self.tokens_N[kept].sum(dtype=np.int64))}
        if len(kept):
            value = self.scores.column(self.rule.column)[kept]
            record["scores"] = {"lowest": float(value.min()), "highest": float(value.max())}
        done = output.is_done(place, "selection", made)
        if output.dry_run or done:
            return {**record, "state": "was there" if done else "to do"}
        written = write_selection(
            place, domain=self.scores.domain, kept=kept, rule=rule, parents=parents, made=made,
            table=self.scores.table if self.within is None else self.scores.table.knowing(self.within.table),
            tokens=self.tokens_N, overwrite=output.overwrite,
        )  # fmt: skip
        return {**record, "id": written.id, "state": "done"}

    def _rows(self, kind: Control | None) -> Int64:
        """Return the rows of the selection itself, or of a control of its size."""
        if kind is None:
            return self.kept
        size = {"rows": len(self.kept)}
        if self.rule.in_tokens and self.tokens_N is not None:
            size = {"tokens": int(self.tokens_N[self.kept].sum(dtype=np.int64))}
        if kind == "random":
            allowed_N = self.allowed_N
            if self.rule.outlier_cut is not None:
                score_N = self.scores.column(self.rule.column)
                allowed_N = below_cut(score_N, outlier_cut=self.rule.outlier_cut, allowed_N=allowed_N)
            return random_rows(
                self.scores.rows, seed=self.rule.seed, tokens_N=self.tokens_N, allowed_N=allowed_N, **size
            )
        return _kept(self.scores, self.rule, _opposite(self.rule.side), self.allowed_N, self.tokens_N, **size)


def _kept(
    scores: Scores,
    rule: Rule,
    side: Side,
    allowed_N: NDArray[np.bool_],
    tokens_N: NDArray[Any] | None,
    **size: int,
) -> Int64:
    """Return the rows that the rule keeps; `size` replaces its budget."""
    score_N = column_of(scores, rule.column, made_by="make it with `mixstream prune assign`, or name another --column")
    group_N = None
    if rule.balance is not None:
        group_N = column_of(scores, rule.balance, made_by="name a column of integers with --balance")
    hard = rule.hard_is
    budget: dict[str, Any] = size or {"fraction": rule.fraction, "rows": rule.rows, "tokens": rule.tokens}
    try:
        return keep_rows(
            score_N, side=hard if side == "hard" else other_side(hard), by=rule.by, tokens_N=tokens_N,
            outlier_cut=rule.outlier_cut, group_N=group_N, floor=rule.share if group_N is not None else 0.0,
            allowed_N=allowed_N, **budget,
        )  # fmt: skip
    except ConfigError as error:
        error.add_note(f"domain {scores.domain!r}, {scores.path}")
        raise


def _opposite(side: Side) -> Side:
    return "easy" if side == "hard" else "hard"


def keep_table(found: Sequence[dict[str, Any]]) -> Any:
    """Return the table of selections for people."""
    rows = [
        (
            each["domain"],
            each["kind"],
            each["rows"]["before"],
            each["rows"]["after"],
            each["tokens"]["after"] if "tokens" in each else "-",
            each["unscored"],
            f"{each['scores']['lowest']:.4f} to {each['scores']['highest']:.4f}" if "scores" in each else "-",
            each["state"],
            each["path"],
        )
        for each in found
    ]
    heads = ("domain", "kept", "rows before", "rows after", "tokens after", "without score", "scores kept", "state")
    return table((*heads, "written to"), rows)
