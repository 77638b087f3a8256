"""The loop from losses to weights: the lag is a law, the log is enough to go on."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from harness import Asking, Tilt
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.errors import ConfigError, FeedbackError, StateError
from mixstream.feedback.loop import FeedbackLoop, Progress
from mixstream.mixers import Schedule
from mixstream.mixers.whole_parts import open_loop_weights
from mixstream.plan.weights import WEIGHT_UNIT, quantise

PRIOR = np.array([0.5, 0.3, 0.2])
ROWS = np.array([4.0, 0.0, 2.0])


def loop(lag: int = 3, origin: int = 0) -> Any:
    return FeedbackLoop(mixer=Tilt(), prior_K=PRIOR, lag=lag, origin=origin)


def losses_of(step: int) -> tuple[np.ndarray, np.ndarray]:
    return np.array([step % 5, 2.0, step % 3]), np.array([4.0, 0.0, 2.0])


def report(to: FeedbackLoop, steps: range) -> None:
    for step in steps:
        to.drew(step, ROWS)
        to.conclude(step, *losses_of(step))


@given(st.integers(0, 12), st.integers(0, 40), st.integers(0, 5))
def test_weights_are_known_exactly_as_far_as_the_lag_allows(lag, reported, origin):
    feedback = loop(lag, origin)
    report(feedback, range(origin, origin + reported))
    known = origin + lag + reported  # step t needs feedback of t - 1 - lag and before
    assert feedback.weights(known) is not None
    assert feedback.weights(known + 1) is None
    first = loop(lag, origin)
    for step in range(origin, origin + lag + 1):
        assert (first.weights(step) == quantise(PRIOR)).all()  # no feedback reaches these


@given(st.integers(0, 6), st.integers(1, 30))
def test_weights_of_a_step_do_not_depend_on_later_feedback(lag, steps):
    one, other = loop(lag), loop(lag)
    report(one, range(steps))
    report(other, range(steps))
    for step in range(steps, steps + lag):
        other.drew(step, ROWS)
        other.conclude(step, np.full(3, 1000.0), np.ones(3))
    known = range(steps + lag, steps + lag + 1)
    assert [other.weights(step).tolist() for step in known] == [one.weights(step).tolist() for step in known]


def test_weights_are_whole_parts_of_the_unit():
    feedback = loop()
    for step in range(50):
        assert int(feedback.weights(step).sum()) == WEIGHT_UNIT
        report(feedback, range(step, step + 1))
    assert (feedback.weights(53) != quantise(PRIOR)).any()


def test_the_mixer_is_told_which_step_and_what_it_will_shape():
    seen = []

    class Listening(Tilt):
        def update(self, state, feedback):
            seen.append((feedback.step, feedback.effective, feedback.loss_sum_K.tolist(), feedback.count_K.tolist()))
            assert feedback.rows_K is ROWS
            assert abs(feedback.weights_K - PRIOR).max() < 1e-9
            return super().update(state, feedback)

    feedback = FeedbackLoop(mixer=Listening(), prior_K=PRIOR, lag=7)
    report(feedback, range(2))
    assert seen == [(0, 8, [0, 2, 0], [4, 0, 2]), (1, 9, [1, 2, 1], [4, 0, 2])]


class Noting(Asking):
    """Notes what it is told in its state, which it changes in place."""

    def update(self, state: Any, feedback: Any) -> Any:
        state["seen"] += 1
        matrix_VK = feedback.matrix_VK
        state.setdefault("matrices", []).append(None if matrix_VK is None else matrix_VK.tolist())
        return state, PRIOR


@pytest.mark.parametrize("evaluated", [False, True])
def test_a_matrix_reaches_the_mixer_also_over_an_evaluation(evaluated):
    mixer = Noting(every=2 if evaluated else 10**6)
    feedback = FeedbackLoop(mixer=mixer, prior_K=PRIOR, lag=1, origin=1)
    for step in range(1, 4):
        feedback.drew(step, ROWS)
        feedback.conclude(step, *losses_of(step), matrix_VK=None if step == 2 else np.full((1, 3), step))
        if not feedback.concluded.evaluated:
            feedback.evaluated(step + 1, np.ones(3))
    assert feedback.document(4)["state"]["matrices"] == [[[1, 1, 1]], None, [[3, 3, 3]]]


def test_what_a_copy_learns_is_its_own():
    """Also of a mixer that changes its state in place."""
    feedback = FeedbackLoop(mixer=Noting(every=10**6), prior_K=PRIOR, lag=2, origin=1)
    before = feedback.document(1)
    report(feedback.copy(), range(1, 3))
    assert feedback.document(1) == before


def test_reports_must_be_in_order_and_once():
    feedback = loop()
    for step in range(6):
        feedback.drew(step, ROWS)
    with pytest.raises(FeedbackError, match="step 2 is reported; the next to report is 0"):
        feedback.conclude(2, *losses_of(2))
    report(feedback, range(3))
    with pytest.raises(FeedbackError, match="step 1 is reported; the next to report is 3"):
        feedback.conclude(1, *losses_of(1))
    report(feedback, range(3, 6))
    assert feedback.concluded.step == 6
    with pytest.raises(FeedbackError, match="step 6 is reported and has not been handed out"):
        feedback.conclude(6, *losses_of(6))


@pytest.mark.parametrize("weights", [np.ones(4), np.ones(2), np.ones((3, 1)), 1.0])
def test_weights_must_be_one_for_each_domain(weights):
    class Wrong(Tilt):
        def update(self, state, feedback):
            return state, weights

    feedback = FeedbackLoop(mixer=Wrong(), prior_K=PRIOR, lag=1)
    feedback.drew(0, ROWS)
    with pytest.raises(ConfigError, match=r"Wrong returned weights of shape .* for 3 domains") as caught:
        feedback.conclude(0, *losses_of(0))
    assert caught.value.__notes__ == ["in Wrong, with the losses of step 0"]


def test_a_lag_cannot_be_negative():
    with pytest.raises(ConfigError, match="lag must be at least 0 steps, got -1"):
        loop(-1)


@given(st.integers(0, 6), st.integers(0, 25))
@settings(max_examples=40)
def test_the_document_is_enough_to_go_on(lag, steps):
    whole, first = loop(lag), loop(lag)
    report(whole, range(steps + 20))
    report(first, range(steps))
    text = json.dumps(first.document(steps))
    second = loop(lag)
    second.restore(json.loads(text), steps)
    assert second.document(steps) == json.loads(text)
    report(second, range(steps, steps + 20))
    for step in range(steps + 20, steps + 21 + lag):
        assert (second.weights(step) == whole.weights(step)).all()


def test_the_log_keeps_only_what_is_needed():
    feedback = loop(lag=4)
    for step in range(500):
        report(feedback, range(step, step + 1))
        assert len(feedback.document(step + 1)["log"]) <= 5


def test_a_state_before_the_report_says_what_is_lost():
    feedback = loop()
    report(feedback, range(10))
    for step in (10, 11):
        feedback.drew(step, ROWS)
    with pytest.warns(
        UserWarning, match=r"after step 10 and 1 after it was handed out .*call report\(\) before state_dict\(\)"
    ):
        document = feedback.document(12)
    resumed = loop()
    resumed.restore(json.loads(json.dumps(document)), 12)
    assert resumed.concluded.step == 12  # the mixer saw steps 10 and 11 without losses
    for step in (10, 11):
        feedback.conclude(step, np.zeros(3), np.zeros(3))
    assert resumed.document(12) == feedback.document(12)


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
    weights = open_loop_weights(mixer, ("a", "b"))
    assert weights(4).tolist() == [3 << 30, 1 << 30]
    assert weights(10**12).tolist() == [1 << 31, 1 << 31]


# --- mixers that want more than losses --------------------------------------------------------------------------------


def asking(lag: int = 3) -> Any:
    return FeedbackLoop(mixer=Asking(), prior_K=PRIOR, lag=lag)


def run_asking(to: FeedbackLoop, steps: range) -> None:
    """Report and evaluate whatever is due, up to and with the evaluation before the last step."""
    for step in steps:
        if not to.concluded.evaluated:
            to.evaluated(step, np.array([step, 1.0, 2.0]))
        to.drew(step, ROWS)
        to.conclude(step, *losses_of(step))


def test_a_mixer_may_say_how_the_first_steps_are_drawn():
    feedback = asking(lag=4)
    assert [int(np.argmax(feedback.weights(step))) for step in range(4)] == [0, 1, 2, 0]
    assert feedback.weights(4) is None  # the evaluation before step 0 reaches this one
    feedback.evaluated(0, np.array([0.0, 9.0, 0.0]))
    assert int(np.argmax(feedback.weights(4))) == 1


def test_evaluations_have_to_come_where_they_are_due_and_nowhere_else():
    feedback = asking()
    feedback.drew(0, ROWS)
    with pytest.raises(FeedbackError, match="next to report is 0 and an evaluation before it"):
        feedback.conclude(0, *losses_of(0))
    run_asking(feedback, range(5))
    assert not feedback.concluded.evaluated
    assert feedback.weights(5 + 3) is None
    with pytest.raises(FeedbackError, match="no evaluation is due before step 4"):
        feedback.evaluated(4, PRIOR)
    feedback.evaluated(5, PRIOR)
    assert feedback.weights(5 + 3) is not None
    with pytest.raises(FeedbackError, match="no evaluation is due before step 5"):
        feedback.evaluated(5, PRIOR)


@given(st.integers(0, 4), st.integers(1, 23))
@settings(max_examples=40)
def test_a_state_may_be_saved_while_an_evaluation_is_due(lag, steps):
    whole, first = asking(lag), asking(lag)
    run_asking(whole, range(steps + 20))
    run_asking(first, range(steps))
    second = asking(lag)
    second.restore(json.loads(json.dumps(first.document(steps))), steps)
    assert second.concluded.evaluated == (steps % 5 != 0)
    run_asking(second, range(steps, steps + 20))
    assert second.document(steps + 20) == whole.document(steps + 20)


def test_what_was_learned_is_kept_by_name_where_domains_change():
    feedback = asking()
    run_asking(feedback, range(8))
    other = FeedbackLoop(mixer=Asking(), prior_K=np.array([0.5, 0.5]), lag=3)
    assert other.carry_over(feedback.document(8), names=["a", "b", "c"], into=("c", "new"), step=8)
    learned = other.document(8)
    assert learned["state"]["logits"] == [2.0, 0.0]
    assert (learned["origin"], learned["reported"]) == (8, 8)
    assert other.weights(8) is not None
    plain = FeedbackLoop(mixer=Tilt(), prior_K=np.array([0.5, 0.5]), lag=3)
    assert not plain.carry_over(feedback.document(8), names=["a", "b", "c"], into=("c", "new"), step=8)
    assert (plain.weights(8 + 3) == quantise([0.5, 0.5])).all()
    assert plain.weights(8 + 4) is None


# --- the sequence of reports and evaluations --------------------------------------------------------------------------


def test_the_later_of_two_places_is_the_greater():
    places = [Progress(3, evaluated=False), Progress(3, evaluated=True), Progress(4, evaluated=False)]
    assert places[0] < places[1] < places[2]
    assert [place.known(2) for place in places] == [5, 6, 6]


@given(st.lists(st.booleans(), max_size=40))
def test_trainer_and_mixer_go_through_the_same_places(ahead):
    """`ahead`: whether the trainer goes on, or the mixer follows, which it never does beyond the trainer."""
    loop, accepted, concluded = asking(), [], []
    for trainer in ahead:
        if trainer:
            if loop.due.evaluated:
                loop.drew(loop.due.step, ROWS)
            accepted.append(loop.due)
            loop.accept()
        elif loop.concluded < loop.due:
            concluded.append(loop.concluded)
            step, evaluated = loop.concluded
            if evaluated:
                loop.conclude(step, *losses_of(step))
            else:
                loop.evaluated(step, PRIOR)
            assert loop.weights(loop.known - 1) is loop.newest
            assert loop.weights(loop.known) is None
        assert loop.concluded <= loop.due == loop.accepted
    assert concluded == accepted[: len(concluded)]


def test_an_evaluation_is_lacking_before_each_step_that_wants_one_and_is_not_accepted():
    loop = asking()
    assert [step for step in range(12) if loop.lacks_evaluation(step)] == [0, 5, 10]
    loop.accept()
    assert loop.due == Progress(0, evaluated=True)
    assert [step for step in range(12) if loop.lacks_evaluation(step)] == [5, 10]


def test_a_caller_that_concludes_at_once_need_not_accept():
    loop = asking()
    run_asking(loop, range(7))
    assert loop.due == loop.concluded == Progress(7, evaluated=True)
