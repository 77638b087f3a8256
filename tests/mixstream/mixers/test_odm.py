"""ODM against the trajectories of the released code and of DataFlex, and where those have no answer."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.errors import ConfigError
from mixstream.mixers.odm import ODM
from mixstream.plan.weights import normalise
from mixstream.types import Feedback

GOLDENS = Path(__file__).parents[2] / "goldens" / "mixing"
FORMS = ("paper", "exp3", "smoothed", "smoothed_single")


def golden(name: str) -> dict[str, Any]:
    return json.loads((GOLDENS / f"{name}.json").read_text())


def feedback(step: int, weights_K: Any, losses: dict[int, float], lag: int = 0, tokens: float = 1.0) -> Feedback:
    """Return the feedback of a step that held the domains of `losses`, each with so many tokens."""
    K = len(weights_K)
    loss_K, count_K = np.zeros(K), np.zeros(K)
    for domain, loss in losses.items():
        loss_K[domain], count_K[domain] = loss * tokens, tokens
    return Feedback(
        step=step,
        effective=step + 1 + lag,
        rows_K=count_K,
        weights_K=np.asarray(weights_K, dtype=np.float64),
        loss_sum_K=loss_K,
        count_K=count_K,
    )


def run(mixer: ODM, K: int, losses: list[dict[int, float]], *, first: int = 0) -> tuple[Any, np.ndarray]:
    state = mixer.init(np.full(K, 1 / K))
    weights = mixer.opening(state, 0)
    for step, loss in enumerate(losses, start=first):
        state, weights = mixer.update(state, feedback(step, weights, loss))
    return state, weights


# --- trajectories -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mixer"),
    [
        ("odm_exp3_single_k3", ODM(form="exp3")),
        ("odm_smoothed_single_k3", ODM(form="smoothed_single")),
        ("odm_smoothed_group_k3", ODM(form="smoothed", smoothing=0.5, warmup=2000)),
    ],
)
def test_the_released_forms_replay_step_by_step(name, mixer):
    data = golden(name)
    state = mixer.init(normalise(data["initial_weights"]))
    weights = mixer.opening(state, 0)
    for row in data["steps"]:
        assert state["eps"] == pytest.approx(row["eps_prev"], abs=1e-12)
        losses = dict(zip(row["domains"], row["rewards"]))
        state, weights = mixer.update(state, feedback(row["iteration"] - 1, weights, losses))
        np.testing.assert_allclose(weights, row["probs"], rtol=0, atol=1e-12)
        told = mixer.explain(state)
        np.testing.assert_allclose(told["estimate"], row["estimate"], rtol=1e-12, atol=1e-12)
        assert told["eps"] == pytest.approx(row["eps"], abs=1e-12)


@pytest.mark.parametrize("number", range(3))
def test_the_paper_form_replays_dataflex(number):
    data = golden("odm_dataflex_k3")["runs"][number]
    mixer = ODM(
        smoothing=data["alpha"],
        reward_scale=data["reward_scale"],
        warmup=data["warmup"],
        count_warmup=False,
        min_exploration=data["min_exploration_rate"],
        logit_range=5,
    )
    prior = np.array(data["initial"] or [1 / 3] * 3)
    state, weights = mixer.init(prior), prior
    for step in range(data["warmup"]):
        state, weights = mixer.update(state, feedback(step, weights, {0: 9.0, 1: 1.0, 2: 4.0}))
        assert weights.tolist() == prior.tolist()
    for row in data["steps"]:
        state, weights = mixer.update(state, feedback(row["step"] - 1, weights, {row["domain"]: row["loss"]}))
        np.testing.assert_allclose(weights, row["weights"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(mixer.explain(state)["estimate"], row["estimate"], rtol=1e-12, atol=1e-12)
        assert mixer.explain(state)["eps"] == pytest.approx(row["eps"], abs=1e-12)


# --- the method -------------------------------------------------------------------------------------------------------


def test_all_domains_of_a_step_are_judged_by_the_weights_that_drew_it():
    """Stale weights are the normal case: the step was drawn some steps ago."""
    state = ODM().init(np.full(3, 1 / 3))
    drawn_by = np.array([0.2, 0.3, 0.5])
    after, _ = ODM().update(state, feedback(0, drawn_by, {0: 2.0, 1: 3.0, 2: 4.0}))
    np.testing.assert_allclose(ODM().explain(after)["estimate"], 0.1 * np.array([2, 3, 4]) / drawn_by, rtol=1e-14)
    after, _ = ODM(form="exp3").update(state, feedback(0, drawn_by, {0: 2.0, 1: 3.0, 2: 4.0}))
    np.testing.assert_allclose(after["estimate_K"], 0.1 * np.array([2, 3, 4]) / drawn_by, rtol=1e-14)


def test_a_domain_counts_once_however_many_tokens_it_had():
    one, many = (
        ODM().update(ODM().init(np.full(2, 0.5)), feedback(0, [0.5, 0.5], {0: 3.0}, tokens=tokens))[0]
        for tokens in (1, 512)
    )
    assert one["estimate_K"].tolist() == many["estimate_K"].tolist()
    assert one["estimate_K"][1] == 0


@pytest.mark.parametrize("form", FORMS)
def test_the_domain_with_the_high_loss_gains(form):
    _, weights = run(ODM(form=form), 3, [{0: 2.0, 1: 4.0, 2: 2.0}] * 100)
    assert weights[1] > 0.34 > max(weights[0], weights[2])


def test_smoothed_weights_end_in_proportion_to_perplexity():
    _, weights = run(ODM(form="smoothed"), 3, [{0: 1.0, 1: 2.0, 2: 3.0}] * 50, first=10**9)
    np.testing.assert_allclose(weights, normalise(np.exp([1.0, 2.0, 3.0])), atol=1e-4)


def test_what_the_forms_tend_to():
    """As the docstring warns: two forms forget the contrast between domains, two keep it."""
    loss_K = 2.0 + np.arange(22) % 3
    losses = [dict(enumerate(loss_K))] * 200
    final = {form: run(ODM(form=form), 22, losses, first=10**6)[1] for form in ("paper", "smoothed_single", "smoothed")}
    assert final["paper"].max() < 1.05 * final["paper"].min()
    assert final["smoothed_single"].max() < 1.05 * final["smoothed_single"].min()
    np.testing.assert_allclose(final["smoothed"], normalise(np.exp(loss_K)), rtol=0.05)
    np.testing.assert_allclose(run(ODM(form="exp3"), 22, losses * 10)[1], normalise(loss_K), rtol=0.02)


def test_exploration_falls_with_the_square_root_of_time_and_is_the_least_weight():
    mixer = ODM(form="exp3", reward_scale=1)
    for first in (0, 100, 10_000):
        state, weights = run(mixer, 4, [{0: 9.0}] * 50, first=first)
        expected = min(1 / 4, math.sqrt(math.log(4) / (4 * (first + 50))))
        assert mixer.explain(state)["eps"] == pytest.approx(expected, abs=1e-15)
        assert weights.min() >= expected - 1e-12
    _, weights = run(ODM(form="exp3", reward_scale=1), 4, [{0: 9.0}] * 500)
    assert weights.min() == pytest.approx(math.sqrt(math.log(4) / (4 * 500)), rel=1e-3)


def test_weights_begin_uniform_without_a_warm_up():
    """The reason why `ODM()` has none."""
    state, weights = run(ODM(), 22, [{k: 3.0 + k for k in range(22)}] * 60)
    np.testing.assert_allclose(weights, 1 / 22, atol=1e-15)
    assert state["estimate_K"].max() > 0


def test_a_warm_up_counts_into_exploration_unless_told_otherwise():
    loss = {0: 3.0, 1: 4.0, 2: 5.0}
    for mixer, t in ((ODM(warmup=50), 51), (ODM(warmup=50, count_warmup=False), 1)):
        prior = np.array([0.6, 0.3, 0.1])
        state, weights = mixer.update(mixer.init(prior), feedback(49, prior, loss))
        assert weights.tolist() == prior.tolist()
        state, weights = mixer.update(state, feedback(50, weights, loss))
        assert state["eps"] == pytest.approx(min(1 / 3, math.sqrt(math.log(3) / (3 * t))))


def test_least_exploration_never_exceeds_uniform():
    _, weights = run(ODM(min_exploration=0.2), 3, [{0: 9.0, 1: 1.0, 2: 1.0}] * 5, first=10**6)
    assert weights.min() >= 0.2
    _, weights = run(ODM(min_exploration=1), 3, [{0: 9.0, 1: 1.0, 2: 1.0}] * 5, first=10**6)
    np.testing.assert_allclose(weights, 1 / 3, atol=1e-15)


def test_the_logit_range_bounds_the_odds():
    losses = [{0: 30.0, 1: 0.0, 2: 0.0}] * 200
    _, free = run(ODM(form="exp3", reward_scale=1), 3, losses)
    state, bound = run(ODM(form="exp3", reward_scale=1, logit_range=2), 3, losses)
    share = (bound - state["eps"]) / (1 - 3 * state["eps"])
    assert share[0] / share[1] == pytest.approx(math.exp(2))
    assert free[0] > bound[0]


# --- what the sources have no answer to -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("loss", [15.1, 30.0, 710.0, 1e300])
def test_a_loss_above_15_nats_counts_as_15(form, loss):
    spike, limit = ([{0: 3.0, 1: 4.0, 2: 5.0}] * 20 + [{0: value, 1: 4.0, 2: 5.0}] for value in (loss, 15.0))
    with np.errstate(all="raise"):
        (state, weights), (same, expected) = run(ODM(form=form), 3, spike), run(ODM(form=form), 3, limit)
        after = list(_weights_after(ODM(form=form), state, weights, steps=150))
    assert weights.tolist() == expected.tolist()
    assert state["estimate_K"].tolist() == same["estimate_K"].tolist()
    if form.startswith("smoothed"):  # and is forgotten
        assert after[-1][0] < 0.4


def _weights_after(mixer, state, weights, *, steps):
    for step in range(21, 21 + steps):
        state, weights = mixer.update(state, feedback(step, weights, {0: 3.0, 1: 4.0, 2: 5.0}))
        yield weights


@pytest.mark.parametrize("prior", [[-0.1, 1.1], [0.0, 0.0], [math.nan, 1.0], [1e308, 1e308]])
def test_a_prior_that_is_none_is_refused(prior):
    with pytest.raises(ConfigError, match="the prior"):
        ODM().init(np.array(prior))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_counts_as_absent(form, loss):
    mixer = ODM(form=form)
    state, weights = run(mixer, 3, [{0: 3.0, 1: 4.0, 2: 5.0}] * 20)
    with_it, got = mixer.update(state, feedback(20, weights, {0: loss, 1: 4.0}))
    without, expected = mixer.update(state, feedback(20, weights, {1: 4.0}))
    assert got.tolist() == expected.tolist()
    assert with_it["estimate_K"].tolist() == without["estimate_K"].tolist()


@pytest.mark.parametrize("form", FORMS)
def test_a_step_without_losses_changes_nothing(form):
    mixer = ODM(form=form)
    state, weights = run(mixer, 3, [{0: 3.0, 1: 4.0, 2: 5.0}] * 20)
    after, got = mixer.update(state, feedback(20, weights, {}))
    assert got.tolist() == weights.tolist()
    assert after is state
    prior = np.array([0.5, 0.2, 0.3])
    assert mixer.update(mixer.init(prior), feedback(-1, prior, {}))[1].tolist() == prior.tolist()


@settings(max_examples=100)
@given(
    st.sampled_from(FORMS),
    st.lists(st.tuples(st.floats(width=64), st.floats(0, 1), st.integers(0, 10**12)), min_size=1, max_size=12),
)
def test_nothing_reported_leaves_a_trace_that_is_no_number(form, steps):
    mixer, state = ODM(form=form), ODM(form=form).init(np.array([0.5, 0.5, 0.0]))
    for loss, p, step in steps:
        state, weights = mixer.update(state, feedback(step, [p, 1 - p, 0.0], {0: loss, 1: 2.0, 2: 3.0}))
        assert np.isfinite(weights).all()
        assert weights[2] == 0
        assert weights.sum() == pytest.approx(1, abs=1e-12)
        assert weights[:2].min() >= mixer.explain(state)["eps"] - 1e-12
        assert np.isfinite(state["estimate_K"]).all()


@pytest.mark.parametrize("form", FORMS)
def test_one_broken_loss_is_forgotten_or_bounded(form):
    mixer = ODM(form=form)
    state, weights = run(mixer, 3, [{0: 3.0, 1: 3.0, 2: 3.0}] * 50)
    state, weights = mixer.update(state, feedback(50, weights, {0: 1e300, 1: 3.0, 2: 3.0}))
    for step in range(51, 600):
        state, weights = mixer.update(state, feedback(step, weights, {0: 3.0, 1: 3.0, 2: 3.0}))
    assert abs(weights - 1 / 3).max() < 0.1


def test_one_domain_has_all_the_weight():
    for form in FORMS:
        _, weights = run(ODM(form=form), 1, [{0: 3.0}] * 3)
        assert weights.tolist() == [1.0]


@pytest.mark.parametrize("form", FORMS)
def test_a_disabled_domain_does_not_count_among_the_k(form):
    mixer = ODM(form=form)
    state = mixer.init(np.array([0.5, 0.0, 0.5]))
    two = mixer.init(np.array([0.5, 0.5]))
    for step in range(100, 130):
        state, weights = mixer.update(state, feedback(step, [0.4, 0.0, 0.6], {0: 3.0, 1: 50.0, 2: 4.0}))
        two, expected = mixer.update(two, feedback(step, [0.4, 0.6], {0: 3.0, 1: 4.0}))
        assert weights[[0, 2]].tolist() == expected.tolist()
        assert weights[1] == 0


# --- domains that come and go -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_estimates_are_carried_over_and_new_domains_start_at_their_mean(form):
    mixer = ODM(form=form)
    state, _ = run(mixer, 3, [{0: 2.0, 1: 4.0, 2: 3.0}] * 60)
    source, prior = np.array([1, -1, 0]), np.array([0.2, 0.3, 0.5])
    moved = mixer.adapt(state, source, prior, 60)
    old = state["estimate_K"]
    assert moved["estimate_K"].tolist() == [old[1], (old[1] + old[0]) / 2, old[0]]
    opening = mixer.opening(moved, 60)
    assert opening[0] > opening[1] > opening[2]
    assert opening.sum() == pytest.approx(1, abs=1e-12)
    assert opening.min() >= moved["eps"] - 1e-12


def test_the_same_domains_go_on_as_if_nothing_had_been():
    mixer = ODM()
    state, weights = run(mixer, 3, [{0: 2.0, 1: 4.0, 2: 3.0}] * 60)
    moved = mixer.adapt(state, np.arange(3), np.full(3, 1 / 3), 60)
    np.testing.assert_allclose(mixer.opening(moved, 60), weights, atol=1e-3)
    assert moved["estimate_K"].tolist() == state["estimate_K"].tolist()


def test_where_nothing_is_known_the_new_prior_holds():
    prior = np.array([0.7, 0.0, 0.3])
    for mixer, step in ((ODM(), 0), (ODM(warmup=100), 50)):
        state = mixer.adapt(mixer.init(np.full(2, 0.5)), np.array([0, 1, -1]), prior, step)
        assert mixer.opening(state, step).tolist() == prior.tolist()
    state, _ = run(ODM(), 2, [{0: 2.0, 1: 3.0}] * 9)
    assert ODM().opening(ODM().adapt(state, np.full(3, -1), prior, 9), 9).tolist() == prior.tolist()


def test_a_domain_that_was_disabled_joins_as_a_new_one():
    mixer = ODM(form="exp3")
    state = mixer.init(np.array([0.5, 0.5, 0.0]))
    for step in range(9):
        state, _ = mixer.update(state, feedback(step, [0.5, 0.5, 0.0], {0: 2.0, 1: 3.0}))
    moved = mixer.adapt(state, np.arange(3), np.full(3, 1 / 3), 9)
    assert moved["estimate_K"][2] == pytest.approx(moved["estimate_K"][:2].mean())


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"form": "bandit"}, "choose one of paper"),
        ({"smoothing": 1.0}, r"\[0, 1\)"),
        ({"smoothing": math.nan}, r"\[0, 1\)"),
        ({"form": "exp3", "smoothing": 0.9}, "has none"),
        ({"reward_scale": 0.0}, "above 0"),
        ({"form": "smoothed", "reward_scale": 2.0}, "has none|have none"),
        ({"form": "smoothed", "logit_range": 5.0}, "no logits"),
        ({"logit_range": 0.0}, "above 0"),
        ({"warmup": -1}, ">= 0"),
        ({"warmup": 0.5}, "whole number"),
        ({"min_exploration": 1.5}, r"\[0, 1\]"),
    ],
)
def test_what_cannot_be_is_refused(given_, said):
    with pytest.raises(ConfigError, match=said):
        ODM(**given_)
