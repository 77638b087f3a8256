"""Exponentiated gradient: its one step, its guards, and the mixer that takes any matrix."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_trainer import feedback_of

from mixstream.errors import ConfigError, FeedbackError
from mixstream.feedback.json_arrays import from_json, to_json
from mixstream.mixers.lmo import LMO, MatrixMixer, carry, carry_weights, normalise_matrix
from mixstream.types import Feedback

PRIOR = np.array([0.2, 0.3, 0.5])
A = np.array([[0.5, 0.1, 0.0], [0.2, 0.3, -0.1]])


def softmax(log_K: Any) -> Any:
    return np.exp(log_K) / np.exp(log_K).sum()


def test_one_step_is_the_formula():
    lmo = LMO(eta=0.7, normalise=False, targets=(2, 1))
    state, weights_K = lmo.observe(lmo.begin(PRIOR), A)
    np.testing.assert_allclose(weights_K, softmax(np.log(PRIOR) + 0.7 * np.array([1.2, 0.5, -0.1])), atol=1e-15)
    np.testing.assert_allclose(lmo.explain(state)["score"], [1.2, 0.5, -0.1])
    assert lmo.explain(state)["matrices"] == 1


def test_accumulate_goes_on_and_restart_starts_anew():
    score_K = A.sum(axis=0)
    for mode, times in (("accumulate", 3), ("restart", 1)):
        lmo = LMO(eta=0.5, mode=mode, normalise=False, w0="uniform")
        state = lmo.begin(PRIOR)
        for _ in range(3):
            state, weights_K = lmo.observe(state, A)
        np.testing.assert_allclose(weights_K, softmax(0.5 * times * score_K), atol=1e-15)


def test_a_running_mean_takes_the_first_matrix_as_it_is():
    lmo = LMO(eta=1, mode="restart", ema=0.25, normalise=False)
    state, _ = lmo.observe(lmo.begin(PRIOR), A)
    state, weights_K = lmo.observe(state, 3 * A)
    np.testing.assert_allclose(weights_K, softmax(np.log(PRIOR) + (0.75 * 3 + 0.25) * A.sum(axis=0)), atol=1e-15)
    with pytest.raises(FeedbackError, match="same validation groups all along"):
        lmo.observe(state, np.ones((4, 3)))


def test_smoothing_mixes_uniform_weight_in_and_goes_on_from_there():
    lmo = LMO(eta=1, normalise=False, smoothing=0.1)
    state, expected_K = lmo.begin(PRIOR), PRIOR
    for _ in range(3):
        state, weights_K = lmo.observe(state, A)
        expected_K = expected_K * np.exp(A.sum(axis=0))
        expected_K = 0.9 * expected_K / expected_K.sum() + 0.1 / 3
        np.testing.assert_allclose(weights_K, expected_K, atol=1e-14)


def test_normalising_a_matrix():
    np.testing.assert_allclose(normalise_matrix(A), (A + 0.1) / (A + 0.1).sum())
    np.testing.assert_allclose(normalise_matrix(np.abs(A)), np.abs(A) / np.abs(A).sum())
    np.testing.assert_allclose(normalise_matrix(A[:, :1]), A[:, :1] / 0.7)  # nothing negative: nothing is shifted
    part = normalise_matrix(np.array([[np.nan, -1.0], [1.0, 3.0]]))
    np.testing.assert_allclose(part, [[np.nan, 0], [1 / 3, 2 / 3]])
    for hopeless in (0.0, -2.0, np.nan):
        assert np.isnan(normalise_matrix(np.full((2, 2), hopeless))).all()


# Guards


@pytest.mark.parametrize("mode", ["accumulate", "restart"])
@pytest.mark.parametrize("ema", [None, 0.5])
def test_a_matrix_that_says_nothing_changes_nothing(mode, ema):
    lmo = LMO(mode=mode, ema=ema)
    state, before_K = lmo.observe(lmo.begin(PRIOR), A)
    for nothing in (np.zeros((2, 3)), np.full((2, 3), -1.0), np.full((2, 3), np.nan), [[np.inf, 0, 0], [0, np.nan, 0]]):
        after, weights_K = lmo.observe(state, np.array(nothing))
        assert to_json(after) == to_json(state)
        assert weights_K.tolist() == before_K.tolist()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_group_that_was_not_measured_is_left_out(bad):
    holed_VK = A.copy()
    holed_VK[1, 2] = bad
    for lmo in (LMO(), LMO(normalise=False, mode="restart")):
        _, weights_K = lmo.observe(lmo.begin(PRIOR), holed_VK)
        _, expected_K = lmo.observe(lmo.begin(PRIOR), A[:1])
        assert weights_K.tolist() == expected_K.tolist()


def test_the_running_mean_keeps_what_it_had_of_a_group_that_is_missing():
    lmo = LMO(eta=1, mode="restart", ema=0.5, normalise=False)
    holed_VK = np.array([3 * A[0], [np.nan] * 3])
    state, _ = lmo.observe(lmo.begin(PRIOR), A)
    state, weights_K = lmo.observe(state, holed_VK)
    np.testing.assert_allclose(weights_K, softmax(np.log(PRIOR) + 2 * A[0] + A[1]), atol=1e-15)
    state, _ = lmo.observe(lmo.begin(PRIOR), holed_VK)  # unknown at first: taken as it is when it comes
    _, weights_K = lmo.observe(state, A)
    np.testing.assert_allclose(weights_K, softmax(np.log(PRIOR) + 2 * A[0] + A[1]), atol=1e-15)


def test_weights_stay_where_only_groups_are_known_that_no_target_counts():
    lmo = LMO(mode="restart", targets=(1, 0), normalise=False)
    state, before_K = lmo.observe(lmo.begin(PRIOR), A)
    _, weights_K = lmo.observe(state, np.array([[np.nan] * 3, A[1]]))
    assert weights_K.tolist() == before_K.tolist()


def test_a_domain_of_prior_zero_stays_at_zero_whatever_is_said_of_it():
    for w0 in ("uniform", "prior"):
        lmo = LMO(eta=5, w0=w0, smoothing=0.2)
        state = lmo.begin(np.array([0.5, 0, 0.5]))
        for entry in (100.0, np.nan, np.inf):
            state, weights_K = lmo.observe(state, np.array([[0.1, entry, 0.3]]))
            assert weights_K[1] == 0
            np.testing.assert_allclose(weights_K.sum(), 1)
        assert lmo.weights(state)[2] > lmo.weights(state)[0]


entries = st.floats(allow_nan=True, allow_infinity=True)


@settings(max_examples=150)
@given(
    matrices=st.lists(st.lists(entries, min_size=6, max_size=6), min_size=1, max_size=4),
    prior=st.lists(st.sampled_from([0.0, 1e-300, 0.3, 1.0]), min_size=3, max_size=3).filter(any),
    lmo=st.builds(
        LMO,
        eta=st.sampled_from([0, 1e-9, 1, 1e300]),
        mode=st.sampled_from(["accumulate", "restart"]),
        ema=st.sampled_from([None, 0.5]),
        normalise=st.booleans(),
        w0=st.sampled_from(["uniform", "prior"]),
        smoothing=st.sampled_from([0, 0.5]),
    ),
)
def test_weights_are_on_the_simplex_whatever_comes(matrices, prior, lmo):
    state = lmo.begin(np.array(prior))
    for numbers in matrices:
        before = json.dumps(to_json(state))
        after, weights_K = lmo.observe(state, np.array(numbers).reshape(2, 3))
        assert json.dumps(to_json(state)) == before
        assert np.isfinite(weights_K).all()
        assert (weights_K >= 0).all()
        assert abs(weights_K.sum() - 1) < 1e-9
        assert (weights_K[np.array(prior) == 0] == 0).all()
        state = from_json(json.loads(json.dumps(to_json(after), allow_nan=False)))
        assert lmo.weights(state).tolist() == weights_K.tolist()


def test_a_weight_too_small_for_a_float_comes_back():
    lmo = LMO(eta=1, normalise=False)
    state, _ = lmo.observe(lmo.begin(PRIOR), np.array([[2000.0, 0, 0]]))
    assert lmo.weights(state)[1] == 0
    state, weights_K = lmo.observe(state, np.array([[-2000.0, 0, 0]]))
    np.testing.assert_allclose(weights_K, PRIOR, atol=1e-9)


@pytest.mark.parametrize(
    "options",
    [
        {"eta": -1},
        {"eta": float("inf")},
        {"mode": "again"},
        {"ema": 1.0},
        {"ema": -0.1},
        {"w0": "mine"},
        {"smoothing": 1},
        {"targets": (1, -1)},
        {"targets": {"web": 0}},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError):
        LMO(**options)


def test_targets_and_shapes_that_do_not_fit_are_refused():
    with pytest.raises(FeedbackError, match=r"shape \[2, 3\] was reported, and there are 2 domains"):
        LMO().observe(LMO().begin(np.ones(2)), A)
    with pytest.raises(FeedbackError, match="2 validation groups were reported, and targets weigh 3"):
        LMO(targets=(1, 1, 1)).observe(LMO().begin(PRIOR), A)
    with pytest.raises(ConfigError, match=r"call bind\(names, samples_K\)"):
        LMO(targets={"web": 1}).begin(PRIOR)
    with pytest.raises(ConfigError, match=r"\['news'\], which are not domains"):
        LMO(targets={"news": 1}).bind(("code", "web"))
    assert LMO(targets={"web": 3}).bind(("code", "web")).targets == (0.0, 3.0)


# Other domains


def test_weights_are_carried_over_and_new_domains_get_their_prior_share():
    weights_K = np.array([0.6, 0.3, 0.1])
    assert carry_weights(weights_K, np.array([1, 0, 2]), np.ones(3) / 3) == pytest.approx([0.3, 0.6, 0.1])
    assert carry_weights(weights_K, np.array([0, 1]), np.ones(2) / 2) == pytest.approx([2 / 3, 1 / 3])
    assert carry_weights(weights_K, np.array([-1, 0, 2]), np.array([0.3, 0.3, 0.4])) == pytest.approx([0.3, 0.6, 0.1])
    assert carry_weights(weights_K, np.array([-1, -1]), np.array([0.2, 0.8])) == pytest.approx([0.2, 0.8])
    assert carry_weights(weights_K, np.array([0, 1, -1]), np.array([0.5, 0, 0.5])).tolist() == [0.5, 0, 0.5]
    was_off_K = np.array([0.7, 0.3, 0.0])  # a domain that had no weight comes in like a new one
    assert carry_weights(was_off_K, np.arange(3), np.array([0.4, 0.4, 0.2])) == pytest.approx([0.56, 0.24, 0.2])
    tiny_K = carry(np.array([0.0, -2000.0]), np.array([0, 1]), np.array([0.5, 0.5]))
    assert tiny_K == pytest.approx([0, -2000])


def test_adapting_drops_the_running_mean_and_before_any_matrix_it_is_a_new_start():
    lmo = LMO(ema=0.5, mode="restart", eta=1)
    state, _ = lmo.observe(lmo.begin(PRIOR), A)
    adapted = lmo.adapt(state, np.array([0, 2]), np.array([0.5, 0.5]))
    assert lmo.weights(adapted) == pytest.approx(lmo.weights(state)[[0, 2]] / lmo.weights(state)[[0, 2]].sum())
    after, _ = lmo.observe(adapted, A[:, :2])
    fresh, _ = lmo.observe(lmo.begin(np.array([0.5, 0.5])), A[:, :2])
    assert lmo.weights(after).tolist() == lmo.weights(fresh).tolist()
    unmoved = lmo.adapt(lmo.begin(PRIOR), np.array([0, 2]), np.array([0.9, 0.1]))
    assert lmo.weights(unmoved).tolist() == [0.9, 0.1]


# The mixer


def feedback(step: int, matrix_VK: Any) -> Feedback:
    return feedback_of(step, PRIOR, matrix_VK=matrix_VK)


def test_a_matrix_counts_when_it_comes_and_weights_stay_in_between():
    mixer = MatrixMixer(lmo=LMO(eta=1, normalise=False, targets={"web": 1})).bind(("web", "x"), np.ones(2))  # type: ignore[arg-type]
    state, weights_K = mixer.update(mixer.init(PRIOR), feedback(0, None))
    assert weights_K.tolist() == PRIOR.tolist()
    state, first_K = mixer.update(state, feedback(1, A))
    np.testing.assert_allclose(first_K, softmax(np.log(PRIOR) + A[0]), atol=1e-15)
    state, weights_K = mixer.update(state, feedback(2, None))
    assert weights_K.tolist() == first_K.tolist()
    state, weights_K = mixer.update(state, feedback(3, A))
    np.testing.assert_allclose(weights_K, softmax(np.log(PRIOR) + 2 * A[0]), atol=1e-15)
    assert mixer.explain(state)["matrices"] == 2
    assert mixer.explain(mixer.adapt(state, np.arange(3), PRIOR, 4))["weights"] == pytest.approx(weights_K)


@pytest.mark.parametrize("wrong", [[[1, 2], [1]], "abc", None, {"a": 1}, np.ones((2, 2)) * 1j, [["1", "2"]]])
def test_a_matrix_without_real_numbers_is_refused_by_name(wrong):
    lmo = LMO()
    with pytest.raises(FeedbackError, match="a matrix"):
        lmo.observe(lmo.begin(np.ones(2) / 2), wrong)


def test_a_masked_entry_is_one_that_was_not_measured():
    lmo = LMO()
    begun = lmo.begin(np.ones(2) / 2)
    masked = np.ma.masked_array([[1.0, 0.0], [0.0, 5.0]], mask=[[False, False], [True, True]])
    np.testing.assert_array_equal(lmo.observe(begun, masked)[1], lmo.observe(begun, [[1.0, 0.0], [np.nan] * 2])[1])
