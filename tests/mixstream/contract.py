"""What the contract test of mixers goes by: the table of all of them; no test. `contract_run.py` puts them to work.

A new mixer goes into `TABLE` and `REFUSED`; `mixers/test_contract.py` fails until it does.

Shape suffix: K domains.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mixstream import mixers
from mixstream.mixers import Binding, Static
from mixstream.plan.weights import normalise


def names_of(K: int) -> tuple[str, ...]:
    return tuple(f"d{k:04d}" for k in range(K))


# --- the table --------------------------------------------------------------------------------------------------------


def no_floor(mixer: Any, step: int, domains: int) -> float:
    return 0.0


@dataclass(frozen=True, kw_only=True)
class Many:
    """A run of many domains that is just long enough for what its losses say to reach the weights."""

    domains: int = 1000
    steps: int = 5
    origin: int = 0
    nasty: bool = True


@dataclass(frozen=True, kw_only=True)
class Case:
    """One setting of one mixer.

    `make` returns it for K domains, with windows so short that 130 steps see all that it does. `floor` is the least
    weight of a domain that is not disabled, by the mixer's documentation, once it has left the prior: of (mixer, step
    whose feedback led to the weights, number of such domains). `learns_from`
    says what moves it: the steps' losses, a matrix that the trainer measures, evaluations, or nothing at all.
    `many` is how it learns with many domains. `revives` says that by its documentation it draws domains of prior 0
    after all.
    """

    make: Callable[[int], Any]
    learns_from: Literal["losses", "matrix", "evaluations", "nothing"]
    floor: Callable[[Any, int, int], float] = no_floor
    many: Many = Many()
    revives: bool = False


def floor_of_odm(mixer: Any, step: int, domains: int) -> float:
    """Return eps of the paper, by which the weights that follow `step` are mixed with uniform ones."""
    t = step + 1 if mixer.count_warmup else max(step + 1 - mixer.warmup, 1)
    return min(1 / domains, max(mixer.min_exploration, math.sqrt(math.log(domains) / (domains * t))))


ODM_MANY = Many(origin=10_000)
"""Up to t = K ln K, which is 6908, exploration is all there is, whatever the losses."""
ADO_MANY = Many(steps=8)
AIOLI_MANY = Many(domains=40, steps=322, nasty=False)
"""A round's probes are steps in proportion to K, and in so many a nasty world spoils every group's evaluation."""
SKILL_IT_MANY = Many(domains=300, steps=20)
"""A graph has K^2 entries, each a Python number."""


def ado(K: int) -> dict[str, Any]:
    """Return windows in which a law comes at step 40, or of many domains at step 6."""
    if K < 100:
        return {"window": 11, "ignore_steps": 10, "start_step": 40, "update_interval": 30, "subsample": 2}
    return {"window": 5, "ignore_steps": 0, "start_step": 6, "update_interval": 6, "subsample": 1}


def aioli(K: int, **options: Any) -> Any:
    return mixers.Aioli(round_steps=max(40, 9 * K), sweeps=2, probe_steps=4, one_hot=0.75, **options)


def graph(K: int) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(0.3 if i == j else 0.02 * ((i + 2 * j) % 3) for j in range(K)) for i in range(K))


def graph_by_name(K: int) -> dict[str, dict[str, float]]:
    """Return a graph in which each domain teaches itself and the next one."""
    names = names_of(K)
    return {train: {names[(k + 1) % K]: 0.05, train: 0.3} for k, train in enumerate(names)}


def schedule(K: int, kind: Literal["step", "linear"]) -> Any:
    entries = {step: {name: 1.0 + (k + step) % 3 for k, name in enumerate(names_of(K))} for step in range(0, 120, 20)}
    return mixers.Schedule(entries, kind=kind)


TABLE: dict[str, Case] = {
    "ADO": Case(
        make=lambda K: mixers.ADO(min_points=5, min_seen=3, max_points=16, **ado(K)),
        learns_from="losses",
        many=ADO_MANY,
    ),
    "ADO, reference": Case(
        make=lambda K: mixers.ADO.reference(p_min=min(0.01, 0.5 / K), **ado(K)),
        learns_from="losses",
        many=Many(domains=200, steps=8),  # the unseen have laws too, and each takes milliseconds
        revives=True,
    ),
    "ADO, floor on p": Case(
        make=lambda K: mixers.ADO(
            p_min=min(0.02, 0.5 / K), floor_on="p", same_step=True, credit="weights", min_points=5, min_seen=3, **ado(K)
        ),
        learns_from="losses",
        floor=lambda mixer, step, domains: mixer.p_min,
        many=ADO_MANY,
    ),
    "Aioli": Case(make=aioli, learns_from="evaluations", many=AIOLI_MANY),
    "Aioli, ema": Case(
        make=lambda K: aioli(K, ema=0.1, w0="prior", diagonal=True), learns_from="evaluations", many=AIOLI_MANY
    ),
    "DoGE": Case(make=lambda K: mixers.DoGE(), learns_from="matrix"),
    "DoReMi": Case(
        make=lambda K: mixers.DoReMi(smoothing=0.01),
        learns_from="losses",
        floor=lambda mixer, step, domains: 0.01 / domains,
    ),
    "DoReMi, reference": Case(
        make=lambda K: mixers.DoReMi(reference=dict.fromkeys(names_of(K), 2.0), serve="average", w0="uniform"),
        learns_from="losses",
    ),
    "MatrixMixer": Case(make=lambda K: mixers.MatrixMixer(), learns_from="matrix"),
    "MatrixMixer, ema": Case(
        make=lambda K: mixers.MatrixMixer(lmo=mixers.LMO(eta=3, ema=0.5, mode="restart", smoothing=0.05)),
        learns_from="matrix",
        floor=lambda mixer, step, domains: 0.05 / domains,
    ),
    "Natural": Case(make=lambda K: mixers.Natural(), learns_from="nothing"),
    "ODM": Case(make=lambda K: mixers.ODM(), learns_from="losses", floor=floor_of_odm, many=ODM_MANY),
    "ODM, DataFlex": Case(
        make=lambda K: mixers.ODM(reward_scale=15, min_exploration=0.03, logit_range=5, warmup=20, count_warmup=False),
        learns_from="losses",
        floor=floor_of_odm,
        many=Many(domains=20, origin=10_000),  # from 34 on, its least exploration is all there is
    ),
    "ODM, exp3": Case(make=lambda K: mixers.ODM(form="exp3"), learns_from="losses", floor=floor_of_odm, many=ODM_MANY),
    "ODM, smoothed": Case(
        make=lambda K: mixers.ODM(form="smoothed", warmup=20), learns_from="losses", floor=floor_of_odm, many=ODM_MANY
    ),
    "ODM, smoothed_single": Case(
        make=lambda K: mixers.ODM(form="smoothed_single"), learns_from="losses", floor=floor_of_odm, many=ODM_MANY
    ),
    "Schedule": Case(make=lambda K: schedule(K, "step"), learns_from="nothing"),
    "Schedule, linear": Case(make=lambda K: schedule(K, "linear"), learns_from="nothing"),
    "SkillIt": Case(
        make=lambda K: mixers.SkillIt(graph=graph(K), round_steps=20), learns_from="evaluations", many=SKILL_IT_MANY
    ),
    "SkillIt, relative": Case(
        make=lambda K: mixers.SkillIt(graph=graph_by_name(K), round_steps=15, relative_losses=True),
        learns_from="evaluations",
        many=SKILL_IT_MANY,
    ),
    "Static": Case(make=lambda K: Static({name: 1.0 + k for k, name in enumerate(names_of(K))}), learns_from="nothing"),
    "Stratified": Case(make=lambda K: mixers.Stratified(), learns_from="nothing"),
    "Temperature": Case(make=lambda K: mixers.Temperature(3), learns_from="nothing"),
    "UniMax": Case(make=lambda K: mixers.UniMax(budget=400, max_epochs=2), learns_from="nothing"),
}
ENGINES = {"LMO"}
"""Public names that are no mixers, but parts of mixers."""
LEARNING = [name for name, case in TABLE.items() if case.learns_from != "nothing"]
FIXED = [name for name in TABLE if name not in LEARNING]

VALID: dict[str, dict[str, Any]] = {
    "Schedule": {"weights": {0: {"a": 1.0}}},
    "SkillIt": {"graph": ((1.0,),)},
    "Static": {"proportions": {"a": 1.0}},
    "Temperature": {"tau": 1.0},
    "UniMax": {"budget": 1.0, "max_epochs": 1.0},
}
"""The arguments that have no default."""
REFUSED: dict[str, list[dict[str, Any]]] = {
    "ADO": [
        {"s": -1.0},
        {"gamma1": 0.0},
        {"gamma2": 1.5},
        {"p_min": -0.1},
        {"floor_on": "q"},
        {"credit": "tokens"},
        {"update_interval": 0},
        {"start_step": -1},
        {"window": 100},
        {"window": 3},
        {"subsample": 0},
        {"max_points": 10},
        {"alpha_max": 0.0},
        {"accept": "none"},
    ],
    "Aioli": [
        {"round_steps": 0},
        {"sweeps": 0},
        {"probe_steps": 0},
        {"one_hot": 0.0},
        {"one_hot": 1.5},
        {"ema": 1.0},
        {"eta": -1.0},
        {"prior_steps": -1},
        {"w0": "mine"},
        {"targets": [0.0, 0.0]},
    ],
    "DoGE": [{"mu": 0.0}, {"learning_rate": -1.0}, {"w0": "mine"}],
    "DoReMi": [{"smoothing": 1.0}, {"eta": -1.0}, {"serve": "best"}, {"reference": [np.nan]}],
    "LMO": [{"mode": "again"}, {"eta": np.inf}, {"ema": -0.1}, {"targets": [0.0, 0.0]}, {"smoothing": 1.0}],
    "MatrixMixer": [],
    "Natural": [],
    "ODM": [{"form": "exp4"}, {"smoothing": 1.0}, {"warmup": -1}, {"min_exploration": -0.1}, {"logit_range": 0.0}],
    "Schedule": [{"weights": {1: {"a": 1.0}}}, {"weights": {0: {"a": 0.0}}}, {"kind": "cosine"}],
    "SkillIt": [{"window": 0}, {"round_steps": 0}, {"graph": ((np.nan,),)}, {"eta": -1.0}],
    "Static": [{"proportions": {"a": -1.0}}, {"proportions": {"a": 0.0}}, {"proportions": {"a": np.inf}}],
    "Stratified": [],
    "Temperature": [{"tau": 0.0}, {"tau": -1.0}],
    "UniMax": [{"budget": 0.0}, {"budget": np.inf}, {"max_epochs": -1.0}],
}
"""Per public class, arguments beside the valid ones that cannot be."""


def bound(name: str, K: int) -> Any:
    """Return the mixer of `name` as a dataset uses it: bound to K domains, of which the k-th has 20 (k + 1) rows."""
    mixer = TABLE[name].make(K)
    return mixer.bind(names_of(K), 20 * (1 + np.arange(K))) if isinstance(mixer, Binding) else mixer


def fixed_weights(mixer: Any, step: int, K: int) -> np.ndarray:
    """Return the weights of `step` by a mixer that does not learn."""
    if isinstance(mixer, Static):
        return normalise(mixer.proportion_of(names_of(K)))
    return mixer.weights_at(step, names_of(K))
