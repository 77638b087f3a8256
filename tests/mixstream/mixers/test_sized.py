"""Proportions that follow from the domains' sizes, and long schedules."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixstream.errors import ConfigError
from mixstream.mixers.schedule import Schedule
from mixstream.mixers.sized import Natural, Stratified, Temperature
from mixstream.mixers.unimax import UniMax
from mixstream.plan.weights import normalise

GOLDEN = Path(__file__).parents[2] / "goldens" / "mixing" / "unimax_example.json"
NAMES = ("code", "law", "web")
ROWS = np.array([50, 2, 200])
SIZES = st.lists(st.integers(0, 10**12), min_size=1, max_size=9).filter(any)


def weights(mixer, rows=ROWS, names=NAMES) -> np.ndarray:
    return normalise(mixer.bind(names, np.asarray(rows)).proportion_of(names))


def test_unimax_gives_the_published_example():
    data = json.loads(GOLDEN.read_text())
    names = tuple(sorted(data["counts"]))
    rows = [data["counts"][name] for name in names]
    got = weights(UniMax(budget=data["budget"], max_epochs=data["max_epochs"]), rows, names)
    np.testing.assert_allclose(got, [data["expected_probabilities"][name] for name in names], rtol=0, atol=1e-9)
    budgets = [data["expected_budgets"][name] for name in names]
    np.testing.assert_allclose(got * data["budget"], budgets, rtol=1e-9)


@given(SIZES, st.floats(1e-3, 1e15), st.floats(0.1, 100))
def test_unimax_is_the_most_even_share_below_the_caps(rows, budget, epochs):
    """A domain below its cap has the largest share; none exceeds its cap; the budget is spent, if the caps allow."""
    names = tuple(f"d{k}" for k in range(len(rows)))
    cap_K = epochs * np.array(rows, dtype=np.float64)
    spent = min(budget, float(cap_K.sum()))
    rows_K = weights(UniMax(budget=budget, max_epochs=epochs), rows, names) * spent
    assert (rows_K <= cap_K * (1 + 1e-9) + 1e-9).all()
    below_K = rows_K < cap_K * (1 - 1e-9)
    np.testing.assert_allclose(rows_K[below_K], rows_K.max(), rtol=1e-9)


def test_unimax_beyond_all_caps_is_natural():
    np.testing.assert_allclose(weights(UniMax(budget=10**9, max_epochs=3)), weights(Natural()), rtol=1e-15)
    np.testing.assert_allclose(weights(UniMax(budget=3, max_epochs=4)), 1 / 3, rtol=1e-15)


def test_temperature_runs_from_natural_to_uniform():
    np.testing.assert_allclose(weights(Temperature(1)), ROWS / ROWS.sum(), rtol=1e-14)
    np.testing.assert_allclose(weights(Temperature(2)), normalise(np.sqrt(ROWS)), rtol=1e-14)
    np.testing.assert_allclose(weights(Temperature(math.inf)), 1 / 3, rtol=1e-15)
    assert weights(Temperature(1e-3)).tolist() == [0, 0, 1]  # 200^1000 is no float64
    np.testing.assert_allclose(weights(Stratified()), 1 / 3, rtol=1e-15)


def test_natural_proportions_are_the_rows_themselves():
    assert Natural().bind(NAMES, ROWS).proportions == {"code": 50, "law": 2, "web": 200}


EVERY = [Natural(), Stratified(), Temperature(0.3), Temperature(7), UniMax(budget=100, max_epochs=2)]


@pytest.mark.parametrize("mixer", EVERY, ids=repr)
def test_a_domain_without_rows_has_no_weight(mixer):
    got = weights(mixer, [0, 7, 9])
    assert got[0] == 0
    assert (got[1:] > 0).all()
    with pytest.raises(ConfigError, match="hold no rows"):
        mixer.bind(NAMES, np.zeros(3, dtype=np.int64))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Temperature(0),
        lambda: Temperature(-1),
        lambda: Temperature(math.nan),
        lambda: UniMax(budget=0, max_epochs=1),
        lambda: UniMax(budget=math.inf, max_epochs=1),
        lambda: UniMax(budget=1, max_epochs=0),
        lambda: UniMax(budget=1, max_epochs=math.nan),
    ],
)
def test_what_cannot_be_is_refused(make):
    with pytest.raises(ConfigError, match="above 0"):
        make()


def test_a_schedule_as_long_as_a_run_s_log_is_looked_up_quickly():
    """A recorded log is replayed as a `Schedule`; sorting it again at every step took 100,000 steps for each."""
    steps, names = 20_000, ("a", "b")
    mixer = Schedule({step: {"a": step + 1, "b": 1} for step in reversed(range(steps))})
    said = repr(mixer)
    mixer.weights_at(0, names)
    begin = time.thread_time()
    for step in range(0, steps, 20):
        assert mixer.weights_at(step, names).tolist() == [(step + 1) / (step + 2), 1 / (step + 2)]
    assert time.thread_time() - begin < 1.0  # 0.02 s measured; 1,000 sorts take 3 s
    assert repr(mixer) == said
    assert mixer == Schedule(dict(mixer.weights))


def test_a_schedule_changes_at_whole_steps():
    with pytest.raises(ConfigError, match=r"whole numbers; got \[2.5\]"):
        Schedule({0: {"a": 1}, 2.5: {"a": 1}})  # type: ignore[dict-item]
