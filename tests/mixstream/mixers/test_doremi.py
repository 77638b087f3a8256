"""DoReMi: excess losses in, smoothed exponentiated gradient and its average out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mixstream.errors import ConfigError
from mixstream.mixers.doremi import DoReMi
from mixstream.types import Feedback

PRIOR = np.array([0.2, 0.3, 0.5])
TOKENS = 7.0
STEPS = ([0.5, 0.1, 0.0], [0.4, np.nan, 0.2], [0.1, 0.2, 0.3])
NAMES = ("code", "law", "web")


def tell(mixer: DoReMi, state: Any, step: int, loss_K: Any) -> Any:
    known_K = ~np.isnan(np.array(loss_K, dtype=float))
    return mixer.update(
        state,
        Feedback(
            step=step,
            effective=step + 1,
            rows_K=known_K * 1.0,
            weights_K=PRIOR,
            loss_sum_K=np.where(known_K, loss_K, 0.0) * TOKENS,
            count_K=known_K * TOKENS,
        ),
    )


def by_hand(excesses: Any, weights_K: Any, eta: float = 1.0, c: float = 1e-3) -> list[Any]:
    """Return the weights after each step, by the formula."""
    found = []
    for excess_K in excesses:
        weights_K = weights_K * np.exp(eta * np.array(excess_K))
        weights_K = (1 - c) * weights_K / weights_K.sum() + c / len(weights_K)
        found.append(weights_K)
    return found


def test_it_is_the_formula_and_an_absent_domain_keeps_its_last_excess():
    mixer = DoReMi()
    state, served = mixer.init(PRIOR), []
    for step, loss_K in enumerate(STEPS):
        state, weights_K = tell(mixer, state, step, loss_K)
        served.append(weights_K)
    expected = by_hand([STEPS[0], [0.4, 0.1, 0.2], STEPS[2]], PRIOR)
    np.testing.assert_allclose(served, expected, atol=1e-14)
    told = mixer.explain(state)
    np.testing.assert_allclose(told["average"], np.mean(expected, axis=0), atol=1e-14)
    np.testing.assert_allclose(told["excess"], STEPS[2])
    assert told["steps"] == 3


def test_the_average_may_be_served():
    mixer = DoReMi(serve="average", eta=2.0, smoothing=0.1, w0="uniform")
    state = mixer.init(PRIOR)
    expected = by_hand([STEPS[0], STEPS[2]], np.ones(3) / 3, eta=2.0, c=0.1)
    for step, loss_K in enumerate((STEPS[0], STEPS[2])):
        state, weights_K = tell(mixer, state, step, loss_K)
        np.testing.assert_allclose(weights_K, np.mean(expected[: step + 1], axis=0), atol=1e-14)


def test_plain_losses_are_compared_with_a_reference_per_domain_and_clipped():
    mixer = DoReMi(reference={"web": 2.0, "law": 3.0, "code": 1.0}).bind(NAMES, np.ones(3, dtype=np.int64))
    _, weights_K = tell(mixer, mixer.init(PRIOR), 0, [1.5, 2.0, 2.25])
    np.testing.assert_allclose(weights_K, by_hand([[0.5, 0.0, 0.25]], PRIOR)[0], atol=1e-14)
    with pytest.raises(ConfigError, match=r"no weight to the domains \['web'\]"):
        DoReMi(reference={"law": 1, "code": 1}).bind(NAMES, np.ones(3, dtype=np.int64))
    with pytest.raises(ConfigError, match="2 reference losses are given for 3 domains"):
        DoReMi(reference=(1, 2)).init(PRIOR)
    with pytest.raises(ConfigError, match="call bind"):
        DoReMi(reference={"law": 1}).init(PRIOR)
    with pytest.raises(ConfigError, match="finite numbers"):
        DoReMi(reference=(1, np.inf))


def test_a_step_without_losses_is_no_step():
    mixer = DoReMi()
    state, before_K = tell(mixer, mixer.init(PRIOR), 0, STEPS[0])
    after, weights_K = tell(mixer, state, 1, [np.nan] * 3)
    assert weights_K.tolist() == before_K.tolist()
    assert mixer.explain(after)["steps"] == 1


def test_a_loss_beyond_all_bounds_takes_all_but_the_smoothing():
    mixer = DoReMi(smoothing=0.03)
    state, weights_K = tell(mixer, mixer.init(PRIOR), 0, [1e6, 0, 0])
    assert weights_K == pytest.approx([0.98, 0.01, 0.01])
    _, weights_K = tell(mixer, state, 1, [0, 0, 1e6])
    assert weights_K == pytest.approx([0.01, 0.01, 0.98])


def test_weights_average_and_excess_go_on_with_other_domains():
    mixer = DoReMi()
    state = mixer.init(PRIOR)
    for step, loss_K in enumerate(STEPS):
        state, _ = tell(mixer, state, step, loss_K)
    old = mixer.explain(state)
    new = mixer.explain(mixer.adapt(state, np.array([2, -1, 0]), np.array([0.3, 0.4, 0.3]), 3))
    for name in ("weights", "average"):
        kept_K = old[name][[2, 0]] / old[name][[2, 0]].sum() * 0.6
        np.testing.assert_allclose(new[name], [kept_K[0], 0.4, kept_K[1]], atol=1e-14)
    assert new["excess"].tolist() == [old["excess"][2], 0, old["excess"][0]]
    assert new["steps"] == 3
