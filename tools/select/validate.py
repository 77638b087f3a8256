"""`mixstream select validate`: whether scores predict what training on a subset gives, by the user's own training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter
from rich.table import Table

from mixstream.errors import ConfigError
from mixstream.selection import ceil_share, keep, other_side, random_rows
from mixstream.selection.datamodels import spearman

from ..shared.artefacts import is_alone, lineage, open_scores
from ..shared.console import Console, table
from ..shared.numbers import Count, Share, Workers
from ..shared.options import Json
from ..shared.outputs import DryRun, Place
from ..shared.parallel import in_parallel
from .kept import Kept
from .top import Side, side_of
from .training import Command, Outcome, Run

_FEWEST, _LITTLE = 3, 20  # subsets: of a rank correlation at all, and below which it says little


def validate(
    scores: Annotated[str, Parameter(name="SCORES")],
    /,
    *,
    train_cmd: str,
    work: Place,
    column: str = "score",
    side: Annotated[Side | None, Parameter(show_default=False)] = None,
    subsets: Count = 20,
    subset_fraction: Share = 0.5,
    fraction: Share = 0.2,
    seeds: Count = 3,
    seed: Count = 0,  # negative ones draw the controls
    loss_key: str = "loss",
    workers: Workers = 1,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    r"""Test scores by training: do they predict the target loss, and beat chance?

    mixstream select validate scores/dsdm --work runs/validate --subsets 20 \
        --train-cmd 'python train.py --selection {selection} --out {out}'

    TRAIN-CMD is run many times, without a shell. It trains a small model on the
    rows of {selection} and writes JSON with the loss on the target to {out}, as
    in {"loss": 3.1}. {seed} is the seed of the run, for the model's own.

    SUBSETS. Models are trained on random subsets of the rows. The LDS is the
    rank correlation of the sum of a subset's scores with what training on it
    gave: 1 is perfect, 0 is chance. With 20 subsets, chance alone exceeds 0.3
    in about one of ten trials; give more subsets for a firm answer.

    CONTROLS. Models are trained on the best --fraction of the rows, on random
    rows, and on the worst, each --seeds times. A good score has the smallest
    loss for the best rows, and the largest for the worst. Look at the spread
    before you believe a difference.

    Every run has a directory in --work. A run that is done is not repeated, so
    an interrupted validation goes on. With several domains, every domain gives
    the same fraction of its rows.

    Exit status: 0, 1 if a training fails, 2 wrong use.

    Args:
        scores: scores of one domain, or a directory above several.
        train_cmd: the command; it must have {selection} and {out}.
        work: directory of the runs.
        column: the score.
        side: keep the `high` or the `low` scores.
        subsets: number of random subsets; 0 for none.
        subset_fraction: share of the rows in each.
        fraction: share of the rows that is selected, and in the controls.
        seeds: trainings of the selection and of each control; 0 for none.
        seed: of subsets and controls.
        loss_key: name of the loss in the JSON that the command writes.
        workers: trainings at once.
        dry_run: list the runs, write and train nothing.
        as_json: print one JSON document, not tables.
    """
    _check_options(subsets, subset_fraction, fraction, seeds, workers)
    console, command = Console(as_json=as_json), Command.parse(train_cmd, loss_key=loss_key)
    plan = _Plan(scores, column, side, seed=seed)
    runs = [*plan.subsets(subsets, subset_fraction), *plan.controls(seeds, fraction)]
    if dry_run:
        lines = [[run.name, sum(each.count for each in run.choose()[0]), run.seed] for run in runs]
        document = {"status": "dry run", "runs": [{"name": n, "rows": r, "seed": s} for n, r, s in lines]}
        console.result(document, table(["run", "rows", "seed"], lines))
        return 0
    outcomes: dict[str, Outcome] = {}
    top = Path(work).absolute()
    with ExitStack() as stack:
        stack.callback(command.stop)
        advance = stack.enter_context(console.progress("train", total=len(runs), unit="runs"))
        train = partial(command.train, work=top, alone=plan.alone)
        for run, outcome in stack.enter_context(closing(in_parallel(train, runs, workers=workers))):
            outcomes[run.name] = outcome
            advance(1)
    document = {"status": "ok", **_summary(runs, outcomes)}
    console.result(document, *_show(document))
    return 0


class _Plan:
    """Which rows the models are trained on."""

    def __init__(self, path: str, column: str, side: Side | None, *, seed: int) -> None:
        self._scores = open_scores(path)
        self.alone = is_alone(path, self._scores)
        self._column, self._seed = column, seed
        self._side: dict[str, Side] = {name: side_of(some, column, side) for name, some in self._scores.items()}

    def subsets(self, count: int, fraction: float) -> Iterator[Run]:
        """Yield runs on random subsets."""
        for number in range(count):
            yield self._run(f"subset-{number:03}", "subset", fraction, self._seed + number)

    def controls(self, seeds: int, fraction: float) -> Iterator[Run]:
        """Yield runs on the selection and its controls."""
        for number in range(seeds):
            for kind in ("selected", "random", "inverse"):
                yield self._run(f"{kind}-{number:03}", kind, fraction, self._seed + number)

    def _run(self, name: str, kind: str, fraction: float, seed: int) -> Run:
        return Run(name=name, kind=kind, seed=seed, choose=partial(self._choose, kind, fraction, seed))

    def _choose(self, kind: str, fraction: float, seed: int) -> tuple[list[Kept], float]:
        kept, predicted = [], 0.0
        for domain, some in self._scores.items():
            score_N, scored_N, side = some.column(self._column), some.scored, self._side[domain]
            rows = ceil_share(fraction, int(np.count_nonzero(scored_N)))
            if kind in {"selected", "inverse"}:
                end = side if kind == "selected" else other_side(side)
                chosen = keep(score_N, side=end, rows=rows, allowed_N=scored_N)
            else:
                # Of one seed, the rows of a smaller choice are among those of a larger one: controls have seeds of
                # their own.
                drawn = seed if kind == "subset" else -1 - seed
                chosen = random_rows(len(score_N), rows=rows, allowed_N=scored_N, seed=drawn)
            total = float(score_N[chosen].sum(dtype=np.float64))
            predicted += total if side == "high" else -total
            rule = {"kind": f"validate {kind}", "column": self._column, "side": side, "fraction": fraction}
            kept.append(
                Kept(
                    domain=domain,
                    table=some.table,
                    rows=chosen,
                    rule={**rule, "seed": seed if kind in {"subset", "random"} else None},
                    parents={"scores": some.id},
                    facts=lineage(some),
                )
            )
        return kept, predicted


def _summary(runs: Sequence[Run], outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    of_kind = {kind: [run for run in runs if run.kind == kind] for kind in ("subset", "selected", "random", "inverse")}
    subsets = of_kind.pop("subset")
    lds = None
    if len(subsets) >= _FEWEST:
        some = [outcomes[run.name] for run in subsets]
        found = spearman(np.array([each.predicted for each in some]), np.array([-each.loss for each in some]))
        lds = found if np.isfinite(found) else None
    controls = {}
    for kind, chosen in of_kind.items():
        if chosen:
            values = np.array([outcomes[run.name].loss for run in chosen])
            spread = float(values.std(ddof=1)) if len(values) > 1 else None
            controls[kind] = {"mean": float(values.mean()), "std": spread, "losses": values.tolist()}
    return {
        "lds": lds,
        "lds_by_chance": 1 / math.sqrt(len(subsets) - 1) if lds is not None else None,
        "subsets": len(subsets),
        "controls": controls,
        "runs": [{"name": run.name, "seed": run.seed, **asdict(outcomes[run.name])} for run in runs],
    }


def _show(document: Mapping[str, Any]) -> Iterator[Table | str]:
    if document["subsets"]:
        lds = document["lds"]
        shown = "none: too few subsets, or all losses are equal" if lds is None else f"{lds:.3f}"
        yield f"LDS over {document['subsets']} subsets: {shown}"
        if lds is not None and document["subsets"] < _LITTLE:
            yield (
                f"with fewer than {_LITTLE} subsets that is noise: the standard deviation by chance is "
                f"{document['lds_by_chance']:.2f}"
            )
    if document["controls"]:
        rows = []
        for kind, each in document["controls"].items():
            spread = "-" if each["std"] is None else f"{each['std']:.4f}"
            rows.append([kind, len(each["losses"]), f"{each['mean']:.4f}", spread])
        yield table(["rows", "trainings", "mean loss", "std"], rows)
        selected, random = (document["controls"][kind]["mean"] for kind in ("selected", "random"))
        if selected >= random:
            yield "the selected rows are no better than random ones"


def _check_options(subsets: int, subset_fraction: float, fraction: float, seeds: int, workers: int) -> None:
    if not (0 < subset_fraction < 1 and 0 < fraction < 1):
        raise ConfigError(
            f"--subset-fraction {subset_fraction:g} --fraction {fraction:g}: give shares between 0 and 1, so that rows "
            "are left out"
        )
    if subsets < 0 or seeds < 0 or not subsets + seeds or workers < 1:
        raise ConfigError(
            f"--subsets {subsets} --seeds {seeds} --workers {workers}: give 0 or more, at least one training, and 1 or "
            "more workers"
        )
    if 0 < subsets < _FEWEST:
        raise ConfigError(
            f"--subsets {subsets}: a rank correlation needs {_FEWEST} or more; {_LITTLE} is little, 40 better"
        )
