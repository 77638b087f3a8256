"""Aioli: when it probes and what it serves, what it does where something is missing, and its state."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_trainer import BATCH, Run, linear, told

from mixstream.errors import ConfigError, FeedbackError
from mixstream.feedback.json_arrays import from_json, to_json
from mixstream.mixers.aioli import Aioli
from mixstream.mixers.protocol import Adapting, Binding, Explaining, Mixer, Opening, Validating
from mixstream.types import Feedback

MATRIX = [[0.5, 0.1, 0.0], [0.0, 0.3, 0.1], [0.0, 0.2, 0.1]]


# Timing


@settings(max_examples=25, deadline=None)
@given(lag=st.integers(1, 80), prior_steps=st.integers(0, 9), ema=st.none() | st.just(0.4))
def test_lag_moves_no_probe_and_only_delays_the_exploit(lag, prior_steps, ema):
    options = {"round_steps": 40, "sweeps": 2, "probe_steps": 3, "prior_steps": prior_steps, "ema": ema, "eta": 2.0}
    prompt = Run(Aioli(**options), [0.3, 0.7], *linear([[0.5, 0.1], [0.0, 0.2]])[:2]).run(200)
    late = Run(Aioli(**options), [0.3, 0.7], *linear([[0.5, 0.1], [0.0, 0.2]])[:2], lag=lag).run(200)
    assert late.evaluated == prompt.evaluated
    for step in range(200):
        at = (step - prior_steps) % 40 if step >= prior_steps else -1
        if 0 <= at < 12:
            assert late.weights[step].tolist() == prompt.weights[step].tolist()
            continue
        source = step - lag  # the newest exploit weights that feedback of step - 1 - lag can have led to
        known = range(prior_steps + 12, source + 1, 40)
        expected_K = prompt.weights[known[-1]] if known else np.array([0.3, 0.7])
        np.testing.assert_allclose(late.weights[step], expected_K, atol=1e-9)


def test_a_round_may_be_all_probes():
    run = Run(Aioli(round_steps=8, sweeps=2, probe_steps=2), [0.5, 0.5], *linear([[0.5, 0], [0, 0.1]])[:2], lag=3)
    run.run(32)
    assert run.evaluated == list(range(0, 33, 2))
    assert told(run)["rounds_solved"] == 4
    assert told(run)["probe_share"] == 1


def test_the_order_of_probes_is_random_and_known_ahead():
    mixer = Aioli(seed=3)
    orders = {mixer.probe_order(number, sweep, 6) for number in range(10) for sweep in range(4)}
    assert all(sorted(order) == list(range(6)) for order in orders)
    assert len(orders) > 30
    assert orders == {Aioli(seed=3).probe_order(number, sweep, 6) for number in range(10) for sweep in range(4)}
    assert mixer.probe_order(0, 0, 6) != Aioli(seed=4).probe_order(0, 0, 6)
    state = mixer.init(np.ones(3) / 3)
    ahead = [mixer.opening(state, step) for step in range(48)]
    run = Run(mixer, np.ones(3) / 3, *linear(MATRIX)[:2]).run(48)
    assert np.array_equal(ahead, [run.weights[step] for step in range(48)])
    assert np.array_equal(np.mean(ahead, axis=0), np.ones(3) / 3)


# What can go wrong


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e308])
def test_a_loss_that_is_no_number_costs_its_group_that_round_and_no_more(bad):
    train, losses, _ = linear(MATRIX)
    evaluations = [0]

    def measured() -> Any:
        evaluations[0] += 1
        return np.where([False, evaluations[0] == 5, False], bad, losses())

    run = Run(Aioli(round_steps=60, sweeps=2, probe_steps=2, eta=0.2, normalise=False), np.ones(3) / 3, train, measured)
    run.run(12)
    assert np.isnan(told(run)["matrix"][1]).all()
    expected_K = np.exp(0.2 * 2 * np.array(MATRIX)[[0, 2]].sum(axis=0))
    np.testing.assert_allclose(run.weights[12], expected_K / expected_K.sum(), atol=1e-9)
    np.testing.assert_allclose(told(run)["column_sums"], 2 * np.array(MATRIX)[[0, 2]].sum(axis=0), atol=1e-9)
    run.run(72)
    np.testing.assert_allclose(told(run)["matrix"], 2 * np.array(MATRIX), atol=1e-9)
    assert all(np.isfinite(weights_K).all() for weights_K in run.weights.values())


def test_a_round_without_any_loss_leaves_the_weights():
    train, losses, _ = linear(MATRIX)
    run = Run(Aioli(round_steps=60, sweeps=2, probe_steps=2), np.ones(3) / 3, train, losses).run(30)
    before_K = run.weights[30]
    run.losses = lambda: np.full(3, np.nan)
    run.run(100)
    assert run.weights[100].tolist() == before_K.tolist()
    assert (told(run)["rounds_solved"], told(run)["rounds_failed"]) == (1, 1)


def test_probes_that_came_out_alike_are_not_solved():
    mixer = Aioli(round_steps=60, sweeps=2, probe_steps=2)
    state = mixer.init(np.ones(3) / 3)
    weights_K = mixer.opening(state, 0)
    for step in range(-1, 13):
        wanted = mixer.wants_validation(state, step + 1)
        feedback = Feedback(
            step=step,
            effective=step + 1,
            rows_K=np.array([4.0, 4.0, 0.0]),
            weights_K=np.ones(3) / 3,
            loss_sum_K=np.zeros(3),
            count_K=np.zeros(3),
            validation_V=np.array([3.0, 2.0, 1.0]) - step if wanted else None,
        )
        state, weights_K = mixer.update(state, feedback)
    assert weights_K.tolist() == [1 / 3] * 3
    explained = mixer.explain(state)
    assert explained["condition"] > 1e6
    assert "matrix" not in explained
    assert explained["rounds_failed"] == 1


def test_a_round_breaks_off_where_a_step_or_an_evaluation_is_missing():
    for missing in ("step", "evaluation"):
        train, losses, _ = linear(MATRIX)
        run = Run(Aioli(round_steps=60, sweeps=2, probe_steps=2), np.ones(3) / 3, train, losses).run(5)
        if missing == "step":
            run.step += 1
            run.weights[6] = run.mixer.opening(run.state, 6)
        else:
            wants, run.mixer = run.mixer, Deaf(round_steps=60, sweeps=2, probe_steps=2)
            run.run(6)
            run.mixer = wants
        run.run(60)
        assert run.weights[60 - 1].tolist() == [1 / 3] * 3
        assert told(run)["rounds_failed"] == 1
        run.run(100)
        assert told(run)["rounds_solved"] == 1


class Deaf(Aioli):
    """Aioli whose trainer does not evaluate."""

    def wants_validation(self, state: Any, step: int) -> bool:
        return False


def test_the_number_of_groups_may_not_change_in_a_round():
    train, losses, _ = linear(MATRIX)
    run = Run(Aioli(round_steps=60, sweeps=2, probe_steps=2), np.ones(3) / 3, train, losses).run(5)
    run.losses = lambda: np.ones(2)
    with pytest.raises(FeedbackError, match="2 validation losses were reported with step 5, and 3 before"):
        run.run(6)
    with pytest.raises(FeedbackError, match="3 validation groups were reported, and targets weigh 2"):
        Run(Aioli(round_steps=60, targets=(1, 1)), np.ones(3) / 3, train, losses)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"one_hot": 1 / 3}, "one_hot = 0.333.* of 3 domains makes all probes the same"),
        ({"round_steps": 47}, "set round_steps to 48 or more"),
    ],
)
def test_options_that_do_not_fit_the_domains_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        Aioli(**options).init(np.ones(3) / 3)


@pytest.mark.parametrize(
    "options",
    [
        {"one_hot": 0},
        {"one_hot": 1.5},
        {"sweeps": 0},
        {"probe_steps": 0},
        {"round_steps": 0},
        {"prior_steps": -1},
        {"eta": -1},
        {"eta": float("nan")},
        {"ema": 1},
        {"w0": "natural"},
        {"targets": (0, 0)},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError):
        Aioli(**options)


# State


def begun(steps: int) -> Run:
    mixer = Aioli(round_steps=60, sweeps=2, probe_steps=2)
    return Run(mixer, [0.2, 0.3, 0.5], *linear(MATRIX)[:2]).run(steps)


@settings(max_examples=25, deadline=None)
@given(at=st.integers(0, 130), ema=st.none() | st.just(0.3), lag=st.integers(0, 5))
def test_a_resume_at_any_step_is_bit_for_bit(at, ema, lag):
    def make() -> Run:
        mixer = Aioli(round_steps=50, sweeps=2, probe_steps=3, ema=ema, eta=1.0)
        return Run(mixer, [0.2, 0.3, 0.5], *linear(MATRIX)[:2], lag=lag)

    whole, parted = make().run(130), make().run(at)
    parted.state = from_json(json.loads(json.dumps(to_json(parted.state), allow_nan=False)))
    parted.run(130)
    assert to_json(parted.state) == to_json(whole.state)
    assert all(np.array_equal(parted.weights[step], whole.weights[step]) for step in whole.weights)


def test_update_is_pure():
    mixer = Aioli(round_steps=20, sweeps=2, probe_steps=2, ema=0.5)
    train, losses, _ = linear([[0.5, 0.1], [0.0, 0.2]])
    run = Run(mixer, [0.5, 0.5], train, losses)
    for step in range(25):
        before, state = json.dumps(to_json(run.state)), run.state
        run.run(step + 1)
        assert json.dumps(to_json(state)) == before
        feedback = Feedback(
            step=step,
            effective=step + 1,
            rows_K=BATCH * run.weights[step],
            weights_K=run.weights[step],
            loss_sum_K=np.zeros(2),
            count_K=np.zeros(2),
            validation_V=losses() if mixer.wants_validation(state, step + 1) else None,
        )
        again, weights_K = mixer.update(state, feedback)
        assert to_json(again) == to_json(run.state)
        assert weights_K.tolist() == run.weights[step + 1].tolist()


def test_with_other_domains_the_weights_go_on_and_the_running_round_does_not():
    run = begun(65)  # in the probes of the second round
    mixer, old_K = run.mixer, told(run)["weights"]
    prior_K = np.array([0.2, 0.4, 0.4])
    state = mixer.adapt(run.state, np.array([2, -1, 0]), prior_K, 65)
    kept_K = old_K[[2, 0]] / old_K[[2, 0]].sum() * 0.6
    carried_K = mixer.opening(state, 66)
    np.testing.assert_allclose(carried_K, [kept_K[0], 0.4, kept_K[1]], atol=1e-12)
    assert [step for step in range(65, 130) if mixer.wants_validation(state, step)] == list(range(120, 130, 2))
    run.state, run.prior_K = state, prior_K
    run.weights[65] = carried_K
    run.run(119)
    assert np.array_equal(run.weights[119], carried_K)
    assert "matrix" not in told(run)
    run.run(132)
    np.testing.assert_allclose(told(run)["matrix"], 2 * np.array(MATRIX), atol=1e-9)


def test_domains_that_begin_with_a_round_are_probed_in_it():
    run = begun(60)
    state = run.mixer.adapt(run.state, np.array([0, 1, 2, -1]), np.ones(4) / 4, 120)
    assert run.mixer.wants_validation(state, 120)
    assert not run.mixer.wants_validation(state, 60)
    with pytest.raises(ConfigError, match="64 x 2 sweeps x 2 steps"):
        run.mixer.adapt(run.state, np.full(64, -1), np.ones(64) / 64, 120)


def test_it_is_what_the_protocols_ask_for():
    assert all(isinstance(Aioli(), kind) for kind in (Mixer, Opening, Validating, Adapting, Explaining, Binding))


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("gone_at", [0, 20])
def test_a_domain_that_has_left_the_mix_does_not_end_the_learning(gone_at, diagonal):
    """`max_epochs` takes rows away and tells no mixer."""
    options = {"round_steps": 60, "sweeps": 2, "probe_steps": 3, "diagonal": diagonal}
    world = linear(MATRIX)[:2]
    run = Run(Aioli(**options), np.ones(3) / 3, *world, gone=lambda step: np.array([0, 0, step >= gone_at], dtype=bool))
    run.run(240)
    assert told(run)["rounds_solved"] >= 3
    found_VK, law_VK = told(run)["matrix"], 3 * np.array(MATRIX)
    expected_VK = np.diag(np.diag(law_VK)) if diagonal else law_VK
    if not diagonal:
        np.testing.assert_allclose(found_VK[:, :2], expected_VK[:, :2], atol=1e-9)
    np.testing.assert_allclose(found_VK[:, 2], found_VK[:, :2].mean(axis=1))
