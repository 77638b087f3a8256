"""Rows dealt by a heap of deadlines are those that are dealt one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.plan import dealing, kernels
from mixstream.plan.weights import SHARE_UNIT, apportion, quantise, stagger

NEVER = 1 << 62


def deal(function, weight_K, credit_K, drawn_K, limit_K, last_K, rows):
    """Return what `function` deals, and the credits and draws afterwards."""
    credit_K, drawn_K = credit_K.copy(), drawn_K.copy()
    domain_B, draw_B = np.full(rows, -1, dtype=np.int32), np.full(rows, -1, dtype=np.int64)
    filled = int(function(weight_K, credit_K, drawn_K, limit_K, last_K, domain_B, draw_B))
    return filled, domain_B[: max(filled, 0)].tolist(), draw_B[: max(filled, 0)].tolist(), credit_K, drawn_K


def one_by_one(weight_K, credit_K, drawn_K, limit_K, last_K, domain_B, draw_B):
    return kernels.deal_rows_reference(weight_K, credit_K, drawn_K, limit_K, last_K, False, domain_B, draw_B)


@st.composite
def positions(draw):
    """Weights, credits, draws, and where domains end, of a lane."""
    K = draw(st.integers(1, 40))
    random = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    weight_K = {
        "equal": lambda: quantise(np.ones(K)),
        "random": lambda: quantise(random.random(K) + 1e-9),
        "rare": lambda: quantise(1.0 / np.arange(1, K + 1) ** 3),
        "small": lambda: np.maximum(random.integers(0, 4, K), np.arange(K) == 0),
        "fine": lambda: apportion(SHARE_UNIT, random.random(K) + 1e-6),
        "nearly equal": lambda: apportion(SHARE_UNIT, 1 + 1e-15 * random.integers(0, 9, K)),
    }[draw(st.sampled_from(["equal", "random", "rare", "small", "fine", "nearly equal"]))]()
    lane = draw(st.integers(0, 3))
    credit_K = stagger(np.tile(weight_K, (4, 1)))[lane]
    if draw(st.booleans()):  # as after weights have changed
        credit_K = random.permutation(credit_K)
    drawn_K = random.integers(0, 9, K)
    limit_K, last_K = np.full(K, NEVER), np.full(K, NEVER)
    if draw(st.booleans()):
        limit_K = drawn_K + random.integers(0, 9, K)
    if draw(st.booleans()):
        last_K = drawn_K + random.integers(1, 30, K)
    return weight_K, credit_K, drawn_K, limit_K, last_K


@settings(deadline=None, max_examples=300)
@given(positions(), st.integers(1, 120))
def test_rows_credits_and_draws_are_those_of_the_reference_or_nothing_has_changed(at, rows):
    expected, got = deal(one_by_one, *at, rows), deal(dealing.deal_by_deadline, *at, rows)
    if got[0] == dealing.GAVE_UP:
        np.testing.assert_array_equal(got[3], at[1])
        np.testing.assert_array_equal(got[4], at[2])
    else:
        assert got[:3] == expected[:3]
        np.testing.assert_array_equal(got[3], expected[3])
        np.testing.assert_array_equal(got[4], expected[4])


@pytest.mark.parametrize("weights", ["equal", "random", "rare"])
def test_it_does_not_give_up_under_weights_of_a_mixer_step_after_step(weights):
    K, random = 500, np.random.default_rng(3)
    share_K = {"equal": np.ones(K), "random": random.random(K), "rare": 1.0 / np.arange(1, K + 1)}[weights]
    weight_K = quantise(share_K)
    credit_K, drawn_K, never_K = stagger(np.tile(weight_K, (2, 1)))[1], np.zeros(K, np.int64), np.full(K, NEVER)
    for _ in range(20):
        arrays = weight_K, credit_K, drawn_K, never_K, never_K
        expected, got = deal(one_by_one, *arrays, 64), deal(dealing.deal_by_deadline, *arrays, 64)
        assert got[:3] == expected[:3]
        credit_K, drawn_K = got[3], got[4]


def test_deadlines_that_round_to_one_number_are_left_to_the_reference():
    # Domain 1 is due 2^-102 rows before domain 0, and a float64 does not tell them apart: the first one is drawn.
    half = SHARE_UNIT // 2
    weight_K, credit_K = np.array([half - 1, half + 1]), np.array([half // 2 + 1, half // 2 - 2])
    at = weight_K, credit_K, np.zeros(2, np.int64), np.full(2, NEVER), np.full(2, NEVER)
    assert deal(one_by_one, *at, 1)[1] == [0]
    assert deal(dealing.deal_by_deadline, *at, 1)[0] == dealing.GAVE_UP
    domain_B, draw_B = np.zeros(1, np.int32), np.zeros(1, np.int64)
    wide_K = [np.concatenate([array_K, np.full(80, fill)]) for array_K, fill in zip(at, (0, 0, 0, NEVER, NEVER))]
    assert dealing.deal_rows(*wide_K, False, domain_B, draw_B) == 1
    assert domain_B.tolist() == [0]


@pytest.mark.parametrize("in_order", [False, True])
def test_many_domains_are_dealt_as_few_are(in_order):
    K, random = 200, np.random.default_rng(0)
    weight_K, never_K = quantise(random.random(K)), np.full(K, NEVER)
    limit_K = random.integers(1, 4, K)
    found = []
    for function in (dealing.deal_rows, kernels.deal_rows_reference):
        credit_K, drawn_K = np.zeros(K, np.int64), np.zeros(K, np.int64)
        domain_B, draw_B = np.zeros(150, np.int32), np.zeros(150, np.int64)
        filled = function(weight_K, credit_K, drawn_K, limit_K, never_K, in_order, domain_B, draw_B)
        found.append((int(filled), domain_B.tolist(), draw_B.tolist(), credit_K.tolist(), drawn_K.tolist()))
    assert found[0] == found[1]
