"""The training run in which the contract test of mixers sees them at work: a made-up world, and a loop; no test.

Shape suffixes: K domains, V validation groups.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from contract import TABLE, Case, bound

from mixstream.feedback.json_arrays import from_json, to_json
from mixstream.mixers import Opening, Validating
from mixstream.plan.weights import apportion, normalise
from mixstream.types import Feedback

ROWS, TOKENS = 64, 16
"""Rows of a global batch, and tokens of a row."""
PRIOR = normalise([0.5, 0.3, 0.0, 0.2])
STEPS = 130


@dataclass(frozen=True, kw_only=True)
class World:
    """Losses that fall by a power law of a domain's rows, with a little ripple.

    Args:
        domains: K.
        nasty: report what no trainer should: now and then a loss that is NaN, infinite, 0, negative or absurd, a step
            without any, a damaged matrix or evaluation; the last domain is absent until step 60 and from 100 on.
        silent: report no training losses at all.
        absent: the last domain is in no batch, whatever its weight; others have its rows.
        turn: give each domain the curve of the one so many places on.
    """

    domains: int
    nasty: bool = False
    silent: bool = False
    absent: bool = False
    turn: int = 0

    def feedback(
        self, case: Case, step: int, lag: int, weights_K: np.ndarray, seen_K: np.ndarray, due: bool
    ) -> Feedback:
        """Return what is told of a step that was drawn by `weights_K` after `seen_K` rows; -1 is before training."""
        K = np.arange(self.domains) + self.turn
        served_K = weights_K if not self.absent else normalise(np.append(weights_K[:-1], 0.0))
        rows_K = apportion(ROWS if step >= 0 else 0, served_K).astype(np.float64)
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

    def apart(self, other: Run) -> float:
        """Return the largest difference between the last weights of two runs."""
        return float(np.abs(self.log[max(self.log)] - other.log[max(other.log)]).max())

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
    return json.dumps(to_json(state), allow_nan=False)


def state_of(text: str) -> Any:
    """Return what `text_of` was given."""
    return from_json(json.loads(text))
