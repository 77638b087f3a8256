"""A trainer with nothing in it but the order in which things happen, and a world whose mixing law is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mixstream.plan.weights import apportion
from mixstream.types import Feedback

BATCH = 8


@dataclass
class Run:
    """One run of `mixer`: what it drew by, when it was evaluated, and what was measured.

    `gone` tells which domains have left the mix at a step, bool [K].
    """

    mixer: Any
    prior_K: Any
    train: Callable[[Any], None]
    losses: Callable[[], Any]
    lag: int = 0
    whole_rows: bool = False
    gone: Callable[[int], Any] = lambda step: False
    state: Any = None
    step: int = 0
    weights: dict[int, Any] = field(default_factory=dict)
    evaluated: list[int] = field(default_factory=list)
    measured: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = self.mixer.init(np.array(self.prior_K, dtype=float))
        self.weights |= {step: self.mixer.opening(self.state, step) for step in range(self.lag + 1)}
        if self.mixer.wants_validation(self.state, 0):
            zeros_K = np.zeros(len(self.prior_K))
            self._update(-1, zeros_K, zeros_K)

    def run(self, until: int) -> Run:
        while self.step < until:
            weights_K = self.weights[self.step]
            rows_K = BATCH * weights_K
            if self.whole_rows:
                rows_K = apportion(BATCH, weights_K).astype(float)
            rows_K = np.where(self.gone(self.step), 0.0, rows_K)  # as the plan does once a domain is used up
            rows_K = rows_K * (BATCH / rows_K.sum())
            self.train(rows_K / BATCH)
            self.step += 1
            self._update(self.step - 1, rows_K, weights_K)
        return self

    def _update(self, step: int, rows_K: Any, weights_K: Any) -> None:
        loss_V = None
        if self.mixer.wants_validation(self.state, step + 1):
            loss_V = np.array(self.losses(), dtype=float)
            self.evaluated.append(step + 1)
            self.measured.append(loss_V)
        none_K, effective = np.zeros(len(rows_K)), step + 1 + self.lag
        feedback = Feedback(
            step=step,
            effective=effective,
            rows_K=rows_K,
            weights_K=weights_K,
            loss_sum_K=none_K,
            count_K=none_K,
            validation_V=loss_V,
        )
        self.state, self.weights[effective] = self.mixer.update(self.state, feedback)


def feedback_of(step: int, weights_K: Any, *, validation_V: Any = None, matrix_VK: Any = None) -> Feedback:
    """Return the feedback of a step that tells no training losses; lag 0."""
    zeros_K = np.zeros(len(weights_K))
    return Feedback(
        step=step,
        effective=step + 1,
        rows_K=zeros_K,
        weights_K=weights_K,
        loss_sum_K=zeros_K,
        count_K=zeros_K,
        validation_V=None if validation_V is None else np.array(validation_V, dtype=float),
        matrix_VK=matrix_VK,
    )


def told(run: Run) -> Any:
    return run.mixer.explain(run.state)


def linear(matrix_VK: Any, loss: float = 1e3) -> tuple[Callable[[Any], None], Callable[[], Any], list[Any]]:
    """Return a world in which training on p takes A p from the losses."""
    matrix_VK = np.array(matrix_VK, dtype=float)
    at = [np.full(len(matrix_VK), loss)]

    def train(share_K: Any) -> None:
        at[0] = at[0] - matrix_VK @ share_K

    return train, lambda: at[0], at
