"""Skill-It: graph times losses, again from the prior at every evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from toy_trainer import feedback_of

from mixstream.errors import ConfigError, FeedbackError
from mixstream.mixers.skill_it import SkillIt

PRIOR = np.array([0.2, 0.3, 0.5])
GRAPH = np.array([[0.3, 0.0, 0.1], [0.05, 0.2, 0.0], [0.0, 0.0, 0.4]])  # rows: trained on; columns: what it did to whom
NAMES = ("code", "law", "web")
SIZES = np.ones(3, dtype=np.int64)


def near(weights_K: Any, log_K: Any) -> None:
    expected_K = PRIOR * np.exp(log_K)
    np.testing.assert_allclose(weights_K, expected_K / expected_K.sum(), atol=1e-14)


def tell(mixer: SkillIt, state: Any, step: int, loss_V: Any) -> Any:
    return mixer.update(state, feedback_of(step, PRIOR, validation_V=loss_V))


def test_it_begins_with_the_graph_and_restarts_from_the_prior_at_every_evaluation():
    mixer = SkillIt(graph=GRAPH, eta=0.4, round_steps=10)
    state = mixer.init(PRIOR)
    near(mixer.opening(state, 0), 0.4 * GRAPH.sum(axis=1))
    assert [step for step in range(35) if mixer.wants_validation(state, step)] == [10, 20, 30]
    losses, summed_V = ([5.0, 4, 3], [4.0, 3, 3], [3.0, 3, 2], [2.0, 1, 2]), np.zeros(3)
    for number, loss_V in enumerate(losses):
        state, weights_K = tell(mixer, state, 10 * number + 9, loss_V)
        summed_V = np.sum(losses[max(0, number - 2) : number + 1], axis=0)  # a window of three
        near(weights_K, 0.4 * GRAPH @ summed_V)
    assert summed_V.tolist() == [9, 7, 7]
    _, later_K = tell(mixer, state, 40, None)
    assert later_K.tolist() == weights_K.tolist()
    _, ignored_K = tell(mixer, state, 41, [9, 9, 9])  # was not asked for
    assert ignored_K.tolist() == weights_K.tolist()


def test_with_targets_the_losses_are_averaged_and_weighed():
    mixer = SkillIt(graph=GRAPH, eta=0.4, round_steps=10, targets={"web": 2.0}).bind(NAMES, SIZES)
    state, _ = tell(mixer, mixer.init(PRIOR), 9, [5, 4, 3])
    _, weights_K = tell(mixer, state, 19, [4, 3, 2])
    near(weights_K, 0.4 * 2 * GRAPH[:, 2] * 2.5)


def test_relative_losses_are_those_before_training():
    mixer = SkillIt(graph=GRAPH, eta=0.4, round_steps=10, relative_losses=True)
    state = mixer.init(PRIOR)
    assert [step for step in range(25) if mixer.wants_validation(state, step)] == [0, 10, 20]
    state, weights_K = tell(mixer, state, -1, [10, 5, 2])
    near(weights_K, 0.4 * GRAPH.sum(axis=1))
    _, weights_K = tell(mixer, state, 9, [5, 4, 1])
    near(weights_K, 0.4 * GRAPH @ [0.5, 0.8, 0.5])


def test_a_graph_by_name_is_put_into_the_plans_order():
    by_name = {"web": {"web": 0.4}, "code": {"code": 0.3, "web": 0.1}, "law": {"law": 0.2, "code": 0.05}}
    mixer = SkillIt(graph=by_name).bind(NAMES, SIZES)
    assert mixer.graph == tuple(map(tuple, GRAPH.tolist()))
    np.testing.assert_array_equal(mixer.explain(mixer.init(PRIOR))["matrix"], GRAPH.T)
    with pytest.raises(ConfigError, match=r"names \['news'\], which are not domains"):
        SkillIt(graph={**by_name, "law": {"news": 1.0}}).bind(NAMES, SIZES)
    with pytest.raises(ConfigError, match=r"no row for the domains \['law'\]"):
        SkillIt(graph={"web": {}, "code": {}}).bind(NAMES, SIZES)
    with pytest.raises(ConfigError, match="call bind"):
        SkillIt(graph=by_name).init(PRIOR)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="2 rows and there are 3 domains"):
        SkillIt(graph=GRAPH[:2]).init(PRIOR)
    with pytest.raises(ConfigError, match="finite numbers"):
        SkillIt(graph=[[np.nan]])
    with pytest.raises(FeedbackError, match="2 validation losses were reported"):
        tell(SkillIt(graph=GRAPH, round_steps=10), SkillIt(graph=GRAPH).init(PRIOR), 9, [1, 2])


def test_a_loss_that_is_missing_is_the_last_one_known():
    mixer = SkillIt(graph=GRAPH, eta=0.4, round_steps=10, window=1)
    state, weights_K = tell(mixer, mixer.init(PRIOR), 9, [5, np.nan, 3])
    near(weights_K, 0.4 * GRAPH[:, [0, 2]] @ [5, 3])  # a group never known is left out
    state, _ = tell(mixer, state, 19, [4, 2, 2])
    _, weights_K = tell(mixer, state, 29, [3, 1, np.inf])
    near(weights_K, 0.4 * GRAPH @ [3, 1, 2])
    _, weights_K = tell(mixer, mixer.init(PRIOR), 9, [np.nan] * 3)
    near(weights_K, 0.4 * GRAPH.sum(axis=1))


def test_with_other_domains_weights_stay_until_the_next_round():
    mixer = SkillIt(graph=GRAPH, eta=0.4, round_steps=10, relative_losses=True)
    state, weights_K = tell(mixer, mixer.init(PRIOR), 9, [5, 4, 3])
    other = SkillIt(graph=GRAPH[:2, :2], eta=0.4, round_steps=10, relative_losses=True)
    state = other.adapt(state, np.array([2, 0]), np.array([0.5, 0.5]), 14)
    kept_K = weights_K[[2, 0]] / weights_K[[2, 0]].sum()
    np.testing.assert_allclose(other.opening(state, 14), kept_K, atol=1e-14)
    assert [step for step in range(14, 45) if other.wants_validation(state, step)] == [14, 20, 30, 40]
