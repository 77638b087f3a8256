"""Worlds in which every domain follows a scaling law, and feedback from them; for tests of mixers.

Rules: no test lives here. Nothing is random but by the seeds given.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import mixstream as ms

GOLDENS = Path(__file__).parents[1] / "goldens" / "mixing"


def golden(name: str) -> Any:
    """Return a golden file's document."""
    return json.loads((GOLDENS / f"{name}.json").read_text())


def told(step: int, rows_K: Any, loss_K: Any, weights_K: Any) -> ms.Feedback:
    """Return the feedback of a step with `rows_K` rows of mean losses `loss_K`; None where a domain has none."""
    known_K = np.array([loss is not None for loss in loss_K])
    count_K = np.where(known_K, np.asarray(rows_K, dtype=np.float64), 0.0)
    loss_sum_K = np.array([0.0 if loss is None else loss for loss in loss_K]) * np.where(known_K, count_K, 1.0)
    return ms.Feedback(
        step=step,
        effective=step + 1,
        rows_K=np.asarray(rows_K, dtype=np.float64),
        weights_K=np.asarray(weights_K, dtype=np.float64),
        loss_sum_K=loss_sum_K,
        count_K=count_K,
    )


def feedbacks(
    *,
    steps: int,
    rows_K: Any = (21, 21, 22),
    eps_K: Any = (2.0, 2.2, 1.9),
    beta_K: Any = (20.0, 40.0, 80.0),
    alpha: float = 0.35,
    noise: float = 0.0,
    spoil: Callable[[int, list[Any]], list[Any]] = lambda step, loss_K: loss_K,
) -> Iterator[ms.Feedback]:
    """Yield the feedback of steps with constant `rows_K`, whose losses follow L = eps + beta n^-alpha of own rows.

    `spoil` returns the losses of a step that the mixer hears of instead.
    """
    rng = np.random.default_rng(0)
    rows_K = np.asarray(rows_K, dtype=np.float64)
    for step in range(steps):
        seen_K = np.maximum(rows_K * (step + 1), 1.0)
        loss_K = (np.asarray(eps_K) + np.asarray(beta_K) * seen_K**-alpha) * np.exp(
            noise * rng.standard_normal(len(rows_K))
        )
        losses = [loss if rows else None for loss, rows in zip(loss_K.tolist(), rows_K)]
        yield told(step, rows_K, spoil(step, losses), rows_K / rows_K.sum())


def heard(mixer: Any, prior_K: Any, feedback: Iterator[ms.Feedback]) -> Iterator[tuple[Any, np.ndarray]]:
    """Yield (state, weights) after each piece of `feedback`."""
    state = mixer.init(np.asarray(prior_K, dtype=np.float64) / np.sum(prior_K))
    for piece in feedback:
        state, weights_K = mixer.update(state, piece)
        yield state, weights_K
