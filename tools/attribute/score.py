"""Features of rows and of target sets -> scores.

Rules. Features are read twice, block by block: for the Gram matrix of each proxy, and for the scores. A Gram matrix is
over all domains together, in the order of their names, so that scores compare across domains; a domain that is added
later changes all. Memory: one matrix [F, F] in float64 (134 MB for 4,096 features), apart from a block of rows.

Shape suffixes: B rows of a block, F features, K target sets, M proxies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixstream.errors import ConfigError
from mixstream.selection import SCORED, Column, Scores, ScoresWriter, provenance
from mixstream.selection.datamodels import Damping, Gram, aggregate, combine, solve, unit_norm

from ..shared.artefacts import facts_of_rows, open_scores
from .settings import STAGE
from .targets import TargetSet

_BLOCK = 4096
Advance = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How features become scores.

    Attributes:
        damping: c in multiples of the mean eigenvalue, or "auto".
        how: "mean" or "max" over target sets.
        unit: whether features are scaled to length 1.
        weighted: whether scores are weighted by 1 - p.
    """

    damping: Damping
    how: str
    unit: bool
    weighted: bool


@dataclass(frozen=True, kw_only=True)
class Solved:
    """The directions in feature space in which rows help, one for each target set and proxy.

    Attributes:
        direction_MKF: float64, the inverse of the Gram matrix times the target's mean feature, over its scale.
        damping: c, as used.
        rows: scored rows.
    """

    direction_MKF: NDArray[np.float64]
    damping: float
    rows: int


def open_features(path: str) -> dict[str, Scores]:
    """Return the features at a path, by domain.

    Raises:
        SelectionError: there are none, or they are damaged, or parts are missing.
        ConfigError: they are something else, or of different settings.
    """
    found = open_scores(path)
    first: Mapping[str, Any] | None = None
    for name, scores in found.items():
        inputs = {key: value for key, value in scores.made["inputs"].items() if key != "dataset"}
        if inputs.get("stage") != STAGE:
            raise ConfigError(f"{scores.path} holds no features: give what `mixstream attribute features` made")
        if not scores.merged:
            raise ConfigError(
                f"{scores.path} has its parts but was not merged: run `mixstream attribute features` with the same "
                "options once more, with --parts instead of --part"
            )
        if first is not None and inputs != first:
            wrong = sorted(key for key in {*inputs, *first} if inputs.get(key) != first.get(key))
            raise ConfigError(
                f"the features of {name!r} were made with another {' and '.join(wrong)} than those of "
                f"{next(iter(found))!r}: make all domains with the same options"
            )
        first = inputs
    return found


def solve_targets(
    features: Mapping[str, Scores], targets: Sequence[TargetSet], scoring: Scoring, advance: Advance
) -> Solved:
    """Return the directions of the target sets, reading every row's features once.

    Raises:
        ConfigError: the damping does not fit the number of rows (`mixstream.selection.datamodels.solve`).
    """
    mean_MKF = np.stack([target.mean_MF for target in targets], axis=1)
    direction_MKF, damping, count = np.zeros_like(mean_MKF), 0.0, 0
    for member, mean_KF in enumerate(mean_MKF):
        gram = Gram(mean_KF.shape[1])
        for rows, phi_BF in _scored(features, f"phi.{member}", unit=scoring.unit):
            gram.add(phi_BF)
            advance(rows)
        solution = solve(gram, damping=scoring.damping)
        direction_MKF[member] = mean_KF @ solution.inverse_FF / solution.scale
        damping, count = solution.damping, gram.rows
    return Solved(direction_MKF=direction_MKF, damping=damping, rows=count)


def write_scores(
    scores: Scores,
    out: Path,
    *,
    targets: Sequence[TargetSet],
    solved: Solved,
    scoring: Scoring,
    made: Mapping[str, Any],
    overwrite: bool,
    advance: Advance,
) -> None:
    """Write the scores of one domain into the directory `out`; `made` is their provenance."""
    writer = ScoresWriter(
        out, domain=scores.domain, table=scores.table, columns=columns_of(targets), made=made, overwrite=overwrite
    )
    members = len(solved.direction_MKF)
    names = [f"phi.{member}" for member in range(members)]
    weights = [f"one_minus_p.{member}" for member in range(members)] if scoring.weighted else []
    with writer:
        for begin, block in scores.blocks("flags", "n_tokens", *names, *weights, size=_BLOCK):
            tau_MKB = np.stack(
                [
                    direction_KF @ _features(block[name], unit=scoring.unit).T
                    for direction_KF, name in zip(solved.direction_MKF, names)
                ]
            )
            score_KB, spread_KB = combine(tau_MKB, np.stack([block[name] for name in weights]) if weights else None)
            values: dict[str, Any] = {"n_tokens": block["n_tokens"], "score": aggregate(score_KB, scoring.how)}
            for target, score_B, spread_B in zip(targets, score_KB, spread_KB):
                values[f"score.{target.name}"], values[f"score_std.{target.name}"] = score_B, spread_B
            writer.write(begin, values, block["flags"])
            advance(len(block["flags"]) * members)


def columns_of(targets: Sequence[TargetSet]) -> list[Column]:
    """Return the columns of scores."""
    columns = [
        Column(name="n_tokens", dtype="<u4"),
        Column(name="score", dtype="<f4", higher_is_better=True),
    ]
    for target in targets:
        columns.append(Column(name=f"score.{target.name}", dtype="<f4", higher_is_better=True))
        columns.append(Column(name=f"score_std.{target.name}", dtype="<f4"))
    return columns


def provenance_of(
    scores: Scores,
    features: Mapping[str, Scores],
    targets: Sequence[TargetSet],
    scoring: Scoring,
    *,
    solved: Solved | None,
    tokenizer: str | None,
) -> dict[str, Any]:
    """Return how the scores of one domain are made; the Gram matrix is over all, so all features are named."""
    made = scores.made["inputs"]
    facts = {"damping_used": _number(solved.damping), "rows_in_gram": solved.rows} if solved is not None else {}
    return provenance(
        {
            "stage": "attribute score",
            "domain": scores.domain,
            "features": {name: each.id for name, each in features.items()},
            "models": made["models"],
            "targets": {target.name: target.inputs for target in targets},
            "tokenizer": tokenizer,
            "damping": _number(scoring.damping),
            "aggregate": scoring.how,
            "unit_norm": scoring.unit,
        },
        output=made["output"],
        seed=made["seed"],
        **facts_of_rows(scores),
        **facts,
    )


def _scored(features: Mapping[str, Scores], name: str, *, unit: bool) -> Iterator[tuple[int, NDArray[np.floating]]]:
    """Yield the number of rows of each block, and the features of those that are scored."""
    for scores in features.values():
        for _, block in scores.blocks("flags", name, size=_BLOCK):
            scored = (block["flags"] & SCORED) > 0
            yield len(scored), _features(block[name][scored], unit=unit)


def _features(phi_BF: NDArray[np.floating], *, unit: bool) -> NDArray[np.float64]:
    return unit_norm(phi_BF) if unit else phi_BF.astype(np.float64)


def _number(damping: Damping) -> float | str:
    return "inf" if damping == float("inf") else damping  # JSON has no infinity
