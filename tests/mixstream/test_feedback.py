"""The loop from losses to weights: the lag is a law, the log is enough to go on."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from harness import Tilt
from hypothesis import given
from hypothesis import strategies as st

from mixstream.errors import ConfigError, FeedbackError, StateError
from mixstream.feedback import FeedbackLoop, OpenLoopWeights
from mixstream.mixers import Schedule
from mixstream.weights import WEIGHT_UNIT, quantise

PRIOR = np.array([0.5, 0.3, 0.2])


def loop(lag: int = 3, origin: int = 0) -> Any:
    return FeedbackLoop(mixer=Tilt(), prior_K=PRIOR, lag=lag, origin=origin)


def losses_of(step: int) -> tuple[np.ndarray, np.ndarray]:
    return np.array([step % 5, 2.0, step % 3]), np.array([4.0, 0.0, 2.0])


def report(to: FeedbackLoop, steps: range) -> None:
    for step in steps:
        to.report(step, *losses_of(step))


@given(st.integers(0, 12), st.integers(0, 40), st.integers(0, 5))
def test_weights_are_known_exactly_as_far_as_the_lag_allows(lag, reported, origin):
    feedback = loop(lag, origin)
    report(feedback, range(origin, origin + reported))
    known = origin + lag + reported  # step t needs feedback of t - 1 - lag and before
    assert feedback.weights(known) is not None
    assert feedback.weights(known + 1) is None
    for step in range(origin + lag + 1):
        assert (feedback.weights(step) == quantise(PRIOR)).all()  # no feedback reaches these


@given(st.integers(0, 6), st.integers(1, 30))
def test_weights_of_a_step_do_not_depend_on_later_feedback(lag, steps):
    one, other = loop(lag), loop(lag)
    report(one, range(steps))
    before = [one.weights(step).tolist() for step in range(lag + steps + 1)]
    report(other, range(steps))
    for step in range(steps, steps + 10):
        other.report(step, np.full(3, 1000.0), np.ones(3))
    assert [other.weights(step).tolist() for step in range(lag + steps + 1)] == before


def test_weights_are_whole_parts_of_the_unit():
    feedback = loop()
    report(feedback, range(50))
    for step in range(50):
        assert int(feedback.weights(step).sum()) == WEIGHT_UNIT
    assert (feedback.weights(53) != quantise(PRIOR)).any()


def test_the_mixer_is_told_which_step_and_what_it_will_shape():
    told = []

    class Listening(Tilt):
        def update(self, state, feedback):
            told.append((feedback.step, feedback.effective, feedback.loss_sum_K.tolist(), feedback.count_K.tolist()))
            return super().update(state, feedback)

    feedback = FeedbackLoop(mixer=Listening(), prior_K=PRIOR, lag=7)
    report(feedback, range(2))
    assert told == [(0, 8, [0, 2, 0], [4, 0, 2]), (1, 9, [1, 2, 1], [4, 0, 2])]


def test_reports_must_be_in_order_and_once():
    feedback = loop()
    with pytest.raises(FeedbackError, match="step 2 is reported, but step 0 has not been"):
        feedback.report(2, *losses_of(2))
    report(feedback, range(3))
    for step in range(3):
        with pytest.raises(FeedbackError, match=rf"step {step} is reported a second time .*next to report is 3"):
            feedback.report(step, *losses_of(step))
    report(feedback, range(3, 5))
    assert feedback.reported == 5
    assert "step 5 has not been reported, and the weights of step 9 depend on it (lag 3)" in str(
        feedback.missing_for(9)
    )


def test_a_lag_cannot_be_negative():
    with pytest.raises(ConfigError, match="lag must be at least 0 steps, got -1"):
        loop(-1)


@given(st.integers(0, 6), st.integers(0, 25))
def test_the_document_is_enough_to_go_on(lag, steps):
    whole, first = loop(lag), loop(lag)
    report(whole, range(steps + 20))
    report(first, range(steps))
    first.forget_before(steps)
    text = json.dumps(first.document(steps))
    second = loop(lag)
    second.restore(json.loads(text), steps)
    assert second.document(steps) == json.loads(text)
    report(second, range(steps, steps + 20))
    for step in range(steps, steps + 20 + lag):
        assert (second.weights(step) == whole.weights(step)).all()


def test_the_log_keeps_only_what_is_needed():
    feedback = loop(lag=4)
    for step in range(500):
        feedback.report(step, *losses_of(step))
        feedback.forget_before(step + 1)
        assert len(feedback.document(step + 1)["log"]) <= 5


def test_a_state_before_the_report_says_what_is_lost():
    feedback = loop()
    report(feedback, range(10))
    with pytest.warns(UserWarning, match=r"after step 11 was handed out .*call report\(\) before state_dict\(\)"):
        document = feedback.document(12)
    resumed = loop()
    resumed.restore(document, 12)
    assert resumed.reported == 12
    assert all((resumed.weights(step) == feedback.weights(13)).all() for step in (13, 14, 15))  # weights stay


@pytest.mark.parametrize(
    "document",
    [{}, {"origin": 0}, {"origin": 0, "reported": "x", "state": {}, "log": []}, {"origin": 0, "reported": 9, "log": 3}],
)
def test_a_document_that_cannot_be_read_is_refused(document):
    with pytest.raises(StateError, match="strict=False"):
        loop().restore(document, 9)


def test_a_log_with_a_hole_is_refused():
    feedback = loop()
    report(feedback, range(10))
    document = feedback.document(10)
    document["log"] = document["log"][1:]
    with pytest.raises(StateError, match="log of weights does not reach"):
        loop().restore(document, 10)


def test_open_loops_need_no_reports():
    mixer = Schedule({0: {"a": 3, "b": 1}, 5: {"a": 1, "b": 1}})
    weights = OpenLoopWeights(mixer=mixer, names=("a", "b")).weights
    assert weights(4).tolist() == [3 << 30, 1 << 30]
    assert weights(10**12).tolist() == [1 << 31, 1 << 31]
