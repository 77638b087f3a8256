"""DoGE: inner products of gradients in, weights out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from toy_trainer import feedback_of

from mixstream.errors import ConfigError, FeedbackError
from mixstream.mixers.doge import DoGE

PRIOR = np.array([0.2, 0.3, 0.5])
GRADIENTS = np.array([[0.6, 0.0, 0.0, 0.8], [0.3, 0.4, 0.0, 0.0], [-0.3, 0.1, 0.2, 0.0]])
GRAM = GRADIENTS @ GRADIENTS.T


def tell(mixer: DoGE, state: Any, step: int, matrix_VK: Any) -> Any:
    return mixer.update(state, feedback_of(step, PRIOR, matrix_VK=matrix_VK))


def by_hand(score_K: Any, eta: float, start_K: Any = PRIOR) -> Any:
    weights_K = start_K * np.exp(eta * np.clip(score_K, 0, 5))
    return weights_K / weights_K.sum()


def test_it_is_the_formula_and_reports_the_average():
    mixer = DoGE(learning_rate=0.01, mu=0.05)
    norm = np.linalg.norm(GRADIENTS, axis=1).mean() + 1e-6
    score_K = GRADIENTS @ GRADIENTS.sum(axis=0) / norm
    assert score_K.min() < 0  # is clipped
    state, first_K = tell(mixer, mixer.init(PRIOR), 0, GRAM)
    np.testing.assert_allclose(first_K, by_hand(score_K, 0.2), atol=1e-14)
    state, same_K = tell(mixer, state, 1, None)
    assert same_K.tolist() == first_K.tolist()
    state, second_K = tell(mixer, state, 2, GRAM)
    np.testing.assert_allclose(second_K, by_hand(score_K, 0.4), atol=1e-14)
    told = mixer.explain(state)
    np.testing.assert_allclose(told["average"], (first_K + second_K) / 2, atol=1e-14)
    np.testing.assert_allclose(told["score"], np.clip(score_K, 0, 5), atol=1e-14)
    assert told["steps"] == 2


def test_targets_choose_whose_gradient_counts():
    mixer = DoGE(targets={"web": 2.0}, w0="uniform").bind(("code", "law", "web"), np.ones(3, dtype=np.int64))
    _, weights_K = tell(mixer, mixer.init(PRIOR), 0, GRAM)
    norm = np.linalg.norm(GRADIENTS, axis=1).mean() + 1e-6
    np.testing.assert_allclose(weights_K, by_hand(2 * GRAM[2] / norm, 0.01, np.ones(3) / 3), atol=1e-14)


def test_other_targets_come_scaled_by_the_trainer():
    matrix_VK = np.array([[0.5, -0.2, 9.0]])
    _, weights_K = tell(DoGE(scaled=True), DoGE(scaled=True).init(PRIOR), 0, matrix_VK)
    np.testing.assert_allclose(weights_K, by_hand([0.5, 0, 5], 0.01), atol=1e-14)
    for wrong in (matrix_VK, np.ones((3, 2))):
        with pytest.raises(FeedbackError, match="set scaled=True"):
            tell(DoGE(), DoGE().init(PRIOR), 0, wrong)
    with pytest.raises(FeedbackError, match="has a negative number"):
        tell(DoGE(), DoGE().init(PRIOR), 0, -np.eye(3))


def test_a_domain_without_a_gradient_scores_nothing():
    holed_KK = GRAM.copy()
    holed_KK[1] = holed_KK[:, 1] = np.nan
    rest = GRADIENTS[[0, 2]]
    score_K = rest @ rest.sum(axis=0) / (np.linalg.norm(rest, axis=1).mean() + 1e-6)
    _, weights_K = tell(DoGE(), DoGE().init(PRIOR), 0, holed_KK)
    np.testing.assert_allclose(weights_K, by_hand([score_K[0], 0, score_K[1]], 0.01), atol=1e-14)
    for nothing in (np.full((3, 3), np.nan), np.where(np.eye(3), 1.0, np.inf)):
        after, weights_K = tell(DoGE(), DoGE().init(PRIOR), 0, nothing)
        assert weights_K.tolist() == PRIOR.tolist()
        assert DoGE().explain(after)["steps"] == 0


def test_options_out_of_range_are_refused():
    for options in ({"learning_rate": 0}, {"mu": 0}, {"mu": float("nan")}, {"targets": (0,)}, {"w0": "mine"}):
        with pytest.raises(ConfigError):
            DoGE(**options)


def test_weights_and_average_go_on_with_other_domains():
    mixer = DoGE(mu=1e-3)
    state, weights_K = tell(mixer, mixer.init(PRIOR), 0, GRAM)
    new = mixer.explain(mixer.adapt(state, np.array([1, 2]), np.array([0.5, 0.5]), 1))
    expected_K = weights_K[[1, 2]] / weights_K[[1, 2]].sum()
    np.testing.assert_allclose(new["weights"], expected_K, atol=1e-14)
    np.testing.assert_allclose(new["average"], expected_K, atol=1e-14)
