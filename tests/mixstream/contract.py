"""What the contract test of mixers goes by: the table of all of them, a made-up training run, a loop; no test.

A new mixer goes into `TABLE` and `REFUSED`; `mixers/test_contract.py` fails until it does.

Shape suffixes: K domains, V validation groups.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import numpy as np

from mixstream import mixers
from mixstream.mixers import Binding, Opening, Static, Validating
from mixstream.snapshot import pack, unpack
from mixstream.types import Feedback
from mixstream.weights import apportion, normalise

ROWS, TOKENS = 64, 16
"""Rows of a global batch, and tokens of a row."""
PRIOR = normalise([0.5, 0.3, 0.0, 0.2])
STEPS = 130


def names_of(K: int) -> tuple[str, ...]:
    return tuple(f"d{k:04d}" for k in range(K))


# --- the table --------------------------------------------------------------------------------------------------------


def no_floor(mixer: Any, state: Mapping[str, Any], domains: int) -> float:
    return 0.0


@dataclass(frozen=True, kw_only=True)
class Case:
    """One setting of one mixer.

    `make` returns it for K domains, with windows so short that `STEPS` steps see all that it does. `floor` is the least
    weight of a domain that is not disabled, by the mixer's documentation, once it has left the prior. `learns_from`
    says what moves it: the steps' losses, a matrix that the trainer measures, evaluations, or nothing at all.
    `revives` says that by its documentation it draws domains of prior 0 after all.
    """

    make: Callable[[int], Any]
    learns_from: Literal["losses", "matrix", "evaluations", "nothing"]
    floor: Callable[[Any, Mapping[str, Any], int], float] = no_floor
    revives: bool = False


def floor_of_odm(mixer: Any, state: Mapping[str, Any], domains: int) -> float:
    return mixer.explain(state)["eps"]


ADO = {"window": 11, "ignore_steps": 10, "start_step": 40, "update_interval": 30, "subsample": 2}


def aioli(K: int, **options: Any) -> Any:
    return mixers.Aioli(round_steps=max(40, 8 * K), sweeps=2, probe_steps=4, one_hot=0.75, **options)


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
    "ADO": Case(make=lambda K: mixers.ADO(min_points=5, min_seen=3, max_points=16, **ADO), learns_from="losses"),
    "ADO, reference": Case(
        make=lambda K: mixers.ADO.reference(p_min=min(0.01, 0.5 / K), **ADO), learns_from="losses", revives=True
    ),
    "ADO, floor on p": Case(
        make=lambda K: mixers.ADO(
            p_min=min(0.02, 0.5 / K), floor_on="p", same_step=False, credit="weights", min_points=5, **ADO
        ),
        learns_from="losses",
        floor=lambda mixer, state, domains: mixer.p_min,
    ),
    "Aioli": Case(make=aioli, learns_from="evaluations"),
    "Aioli, ema": Case(make=lambda K: aioli(K, ema=0.1, w0="prior", diagonal=True), learns_from="evaluations"),
    "DoGE": Case(make=lambda K: mixers.DoGE(), learns_from="matrix"),
    "DoReMi": Case(
        make=lambda K: mixers.DoReMi(smoothing=0.01),
        learns_from="losses",
        floor=lambda mixer, state, domains: 0.01 / domains,
    ),
    "DoReMi, reference": Case(
        make=lambda K: mixers.DoReMi(reference=dict.fromkeys(names_of(K), 2.0), serve="average", w0="uniform"),
        learns_from="losses",
    ),
    "MatrixMixer": Case(make=lambda K: mixers.MatrixMixer(), learns_from="matrix"),
    "MatrixMixer, ema": Case(
        make=lambda K: mixers.MatrixMixer(lmo=mixers.LMO(eta=3, ema=0.5, mode="restart", smoothing=0.05)),
        learns_from="matrix",
        floor=lambda mixer, state, domains: 0.05 / domains,
    ),
    "Natural": Case(make=lambda K: mixers.Natural(), learns_from="nothing"),
    "ODM": Case(make=lambda K: mixers.ODM(), learns_from="losses", floor=floor_of_odm),
    "ODM, DataFlex": Case(
        make=lambda K: mixers.ODM(reward_scale=15, min_exploration=0.03, logit_range=5, warmup=20, count_warmup=False),
        learns_from="losses",
        floor=floor_of_odm,
    ),
    "ODM, exp3": Case(make=lambda K: mixers.ODM(form="exp3"), learns_from="losses", floor=floor_of_odm),
    "ODM, smoothed": Case(
        make=lambda K: mixers.ODM(form="smoothed", warmup=20), learns_from="losses", floor=floor_of_odm
    ),
    "ODM, smoothed_single": Case(
        make=lambda K: mixers.ODM(form="smoothed_single"), learns_from="losses", floor=floor_of_odm
    ),
    "Schedule": Case(make=lambda K: schedule(K, "step"), learns_from="nothing"),
    "Schedule, linear": Case(make=lambda K: schedule(K, "linear"), learns_from="nothing"),
    "SkillIt": Case(make=lambda K: mixers.SkillIt(graph=graph(K), round_steps=20), learns_from="evaluations"),
    "SkillIt, relative": Case(
        make=lambda K: mixers.SkillIt(graph=graph_by_name(K), round_steps=15, relative_losses=True),
        learns_from="evaluations",
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


# --- a training run ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class World:
    """Losses that fall by a power law of a domain's rows, with a little ripple.

    Args:
        domains: K.
        nasty: report what no trainer should: now and then a loss that is NaN, infinite, 0, negative or absurd, a step
            without any, a damaged matrix or evaluation; the last domain is absent until step 60 and from 100 on.
        silent: report no training losses at all.
    """

    domains: int
    nasty: bool = False
    silent: bool = False

    def feedback(
        self, case: Case, step: int, lag: int, weights_K: np.ndarray, seen_K: np.ndarray, due: bool
    ) -> Feedback:
        """Return what is told of a step that was drawn by `weights_K` after `seen_K` rows; -1 is before training."""
        K = np.arange(self.domains)
        rows_K = apportion(ROWS if step >= 0 else 0, weights_K).astype(np.float64)
        model_K = 1.5 + 0.2 * (K % 3) + (1.5 + 0.5 * (K % 5)) * (1 + seen_K + rows_K) ** -0.35
        loss_K, count_K = model_K * (1 + 0.01 * np.sin(7.0 * step + K)), TOKENS * rows_K
        validation_V, matrix_VK = (model_K if due else None), None
        if case.learns_from == "matrix" and step >= 0:
            gradient_K3 = np.cos(K[:, None] + np.arange(3.0))
            matrix_VK = gradient_K3 @ gradient_K3.T * 1.1 ** -(step / 10)
        if self.nasty and step >= 0:
            matrix_VK = self._spoil(step, loss_K, count_K, validation_V, matrix_VK)
        if self.silent:
            count_K = np.zeros(self.domains)
        arrays = {
            "rows_K": rows_K,
            "weights_K": weights_K.copy(),
            "loss_sum_K": np.where(count_K > 0, loss_K, 0.0) * count_K,
            "count_K": count_K,
            "validation_V": validation_V,
            "matrix_VK": matrix_VK,
        }
        for array in arrays.values():
            if array is not None:
                array.flags.writeable = False  # a mixer that writes to what it is given raises
        return Feedback(step=step, effective=step + 1 + lag, **arrays)  # pyright: ignore[reportArgumentType]

    def _spoil(
        self, step: int, loss_K: np.ndarray, count_K: np.ndarray, validation_V: Any, matrix_VK: Any
    ) -> np.ndarray | None:
        """Damage a step's report in place; return the matrix, or None in its stead."""
        hit = step % self.domains
        odd = {3: np.nan, 5: np.inf, 7: -np.inf, 9: 0.0, 11: -3.0, 12: 1e300, 14: 1e-300}
        loss_K[hit] = odd.get(step % 17, loss_K[hit])
        if not 60 <= step < 100:
            count_K[-1] = 0
        if step % 23 == 6:
            count_K[:] = 0
        if validation_V is not None and step % 3 == 0:
            validation_V[hit] = (np.nan, np.inf, -1.0, 0.0)[step % 4]
        if matrix_VK is not None and step % 17 in odd:
            matrix_VK[:, hit] = matrix_VK[hit, :] = odd[step % 17]
            matrix_VK[hit, hit] = abs(odd[step % 17])  # a squared norm
        return None if step % 19 == 0 else matrix_VK


@dataclass(kw_only=True)
class Run:
    """A mixer at work: the weights of step t from the feedback of t - 1 - lag and before, or from `opening`.

    Attributes:
        log: step -> its weights, float64 [K].
        given: step -> what was told of it.
        states: step -> the mixer's state before that was told, as JSON; kept if `keep`.
    """

    name: str
    prior_K: np.ndarray
    world: World
    lag: int = 0
    origin: int = 0
    state: Any = None
    keep: bool = False
    mixer: Any = field(init=False)
    log: dict[int, np.ndarray] = field(init=False, default_factory=dict)
    given: dict[int, Feedback] = field(init=False, default_factory=dict)
    states: dict[int, str] = field(init=False, default_factory=dict)
    seen_K: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.mixer, self.seen_K = bound(self.name, len(self.prior_K)), np.zeros(len(self.prior_K))
        if self.state is None:
            self.state = self.mixer.init(self.prior_K.copy())
        for step in range(self.origin, self.origin + self.lag + 1):
            opens = isinstance(self.mixer, Opening)
            self.log[step] = self.mixer.opening(self.state, step) if opens else self.prior_K.copy()
        if self.wants(self.origin):
            self.take(self.origin - 1)

    def wants(self, step: int) -> bool:
        """Tell whether the mixer wants an evaluation before `step`."""
        return isinstance(self.mixer, Validating) and self.mixer.wants_validation(self.state, step)

    def take(self, step: int) -> None:
        """Draw `step`, train on it, and tell the mixer."""
        weights_K = self.log.get(step, self.prior_K)
        told = self.world.feedback(TABLE[self.name], step, self.lag, weights_K, self.seen_K, due=self.wants(step + 1))
        if self.keep:
            self.given[step], self.states[step] = told, text_of(self.state)
        self.seen_K = self.seen_K + told.rows_K
        self.state, self.log[told.effective] = self.mixer.update(self.state, told)

    def go(self, steps: int) -> Run:
        """Take so many steps."""
        for step in range(self.origin, self.origin + steps):
            self.take(step)
        return self


@cache
def run_of(name: str, lag: int = 2, nasty: bool = True) -> Run:
    """Return the run that most laws look at: four domains, one of them disabled. Not to be changed."""
    world = World(domains=len(PRIOR), nasty=nasty)
    return Run(name=name, prior_K=PRIOR, world=world, lag=lag, keep=True).go(STEPS)


def text_of(state: Any) -> str:
    """Return a state as the text that is saved."""
    return json.dumps(pack(state), allow_nan=False)


def state_of(text: str) -> Any:
    """Return what `text_of` was given."""
    return unpack(json.loads(text))
