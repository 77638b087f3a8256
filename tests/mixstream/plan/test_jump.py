"""Rows and steps that are passed at once lead to where dealing them leads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.mixers import Schedule
from mixstream.mixers.whole_parts import open_loop_weights
from mixstream.plan import kernels
from mixstream.plan.jump import credit_after, drawn_after
from mixstream.plan.plan import Plan
from mixstream.plan.walk import Walk
from mixstream.plan.weights import SHARE_UNIT, apportion, quantise, stagger, whole_shares
from mixstream.types import Cursor

NEVER = 1 << 62


def dealt(weight_K, credit_K, rows):
    """Return draws and credits after rows that are dealt one by one."""
    credit_K, drawn_K, never_K = credit_K.copy(), np.zeros_like(credit_K), np.full(len(credit_K), NEVER)
    domain_B, draw_B = np.empty(rows, np.int32), np.empty(rows, np.int64)
    kernels.deal_rows(weight_K, credit_K, drawn_K, never_K, never_K, False, domain_B, draw_B)
    return drawn_K, credit_K


@settings(deadline=None, max_examples=300)
@given(
    st.integers(1, 12),
    st.sampled_from(["random", "equal", "small", "fine", "rare", "nearly equal"]),
    st.integers(1, 20_000),
    st.integers(0, 40),
    st.booleans(),
    st.integers(0, 1 << 32),
)
def test_a_jump_is_what_dealing_leads_to_or_nothing(K, kind, rows, before, torn, seed):
    random = np.random.default_rng(seed)
    weight_K = {
        "random": lambda: quantise(random.random(K) + 1e-6),
        "equal": lambda: quantise(np.ones(K)),
        "small": lambda: np.maximum(random.integers(0, 9, K), np.arange(K) == 0),
        "fine": lambda: apportion(SHARE_UNIT, random.random(K) + 1e-3),
        "rare": lambda: quantise(1.0 / np.arange(1, K + 1) ** 4),
        "nearly equal": lambda: apportion(SHARE_UNIT, 1 + 1e-15 * random.integers(0, 9, K)),
    }[kind]()
    credit_K = stagger(np.tile(weight_K, (4, 1)))[int(random.integers(4))]
    if torn:  # as after weights have changed
        credit_K = random.permutation(credit_K)
    if before:
        credit_K = dealt(weight_K, credit_K, before)[1]
    if (found_K := drawn_after(weight_K, credit_K, rows)) is None:
        return
    drawn_K, after_K = dealt(weight_K, credit_K, rows)
    np.testing.assert_array_equal(found_K, drawn_K)
    np.testing.assert_array_equal(credit_after(weight_K, credit_K, rows, found_K), after_K)


@pytest.mark.parametrize("weights", [[1], [0.3, 0.7], [2**0.5, 3**0.5, 1], list(1.0 / np.arange(1, 300))])
def test_there_is_a_jump_under_ordinary_weights(weights):
    weight_K = quantise(weights)
    credit_K = stagger(np.tile(weight_K, (2, 1)))[1]
    assert drawn_after(weight_K, credit_K, 256 * 10**6) is not None


def test_there_is_none_where_rounding_decides_or_a_domain_is_too_rare():
    half = SHARE_UNIT // 2  # domain 1 is due 2^-102 rows before domain 0
    assert drawn_after(np.array([half - 1, half + 1]), np.array([half // 2 + 1, half // 2 - 2]), 1) is None
    assert drawn_after(np.array([1, 1 << 31]), np.zeros(2, np.int64), 10**9) is None


PLANS = {
    "by step": {"choose_K": None},
    "shares": {"choose_K": None, "share_K": whole_shares([2**0.5, 3**0.5, 1])},
    "quotas": {"choose_K": np.array([900, 800, 700])},
    "quotas of lanes": {"choose_K": np.array([901, 803, 696]), "lanes": 2},
    "quotas, dropped": {"choose_K": np.array([901, 803, 697]), "drop_last": True},
    "domains that leave": {"choose_K": None, "max_epochs_K": (1, None, 2)},
    "in order": {"choose_K": np.array([900, 800, 700]), "in_order": True},
}


@pytest.mark.parametrize("kind", PLANS)
@pytest.mark.parametrize("steps", [1, 40, 149, 150, 151, 1000])
def test_passed_steps_lead_to_the_cursor_of_a_walk(kind, steps):
    options = {"lanes": 1, **PLANS[kind]}
    plan = Plan(
        names=("a", "b", "c"), samples_K=np.array([901, 803, 696]), epoch_size=2400, global_batch_size=16, **options
    )
    schedule = Schedule({0: {"a": 0.2, "b": 0.3, "c": 0.5}, 70: {"a": 0.5, "b": 0.25, "c": 0.25}})
    weights = open_loop_weights(schedule, plan.names) if plan.part_LK is None else None
    start = plan.start(weights(0) if weights else None)
    one, many = (Walk(plan=plan, cursor=start, weights=weights) for _ in range(2))
    walked = sum(one.advance() is not None for _ in range(steps))
    assert many.pass_steps(steps) == walked
    for field in Cursor.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(many.cursor, field), getattr(one.cursor, field), err_msg=field)


@pytest.mark.parametrize("samples", range(396, 404))
def test_a_domain_leaves_where_it_does_in_a_walk(samples):
    plan = Plan(
        names=("a", "b"),
        samples_K=np.array([samples, 900]),
        choose_K=None,
        share_K=np.array([3, 5]),
        epoch_size=5000,
        global_batch_size=16,
        max_epochs_K=(1, None),
    )
    walk = Walk(plan=plan, cursor=plan.start())
    for step in range(90):
        if step >= 64:
            jump = Walk(plan=plan, cursor=plan.start())
            assert jump.pass_steps(step) == step
            np.testing.assert_array_equal(jump.cursor.drawn_LK, walk.cursor.drawn_LK)
            np.testing.assert_array_equal(jump.cursor.credit_LK, walk.cursor.credit_LK)
        walk.advance()


def test_a_million_steps_are_passed_without_dealing_them(monkeypatch):
    dealt = []
    monkeypatch.setattr(Plan, "advance", lambda self, *at: dealt.append(at) or advance(self, *at))
    plan = Plan(names=("a", "b"), samples_K=np.array([900, 700]), choose_K=None, epoch_size=1600, global_batch_size=16)
    weights = open_loop_weights(Schedule({0: {"a": 0.2, "b": 0.8}, 10**5: {"a": 0.5, "b": 0.5}}), plan.names)
    walk = Walk(plan=plan, cursor=plan.start(weights(0)), weights=weights)
    assert walk.pass_steps(10**6) == 10**6
    assert walk.cursor.step == 10**6
    assert len(dealt) < 200


advance = Plan.advance


def test_weights_that_stay_are_computed_once():
    asked = []

    class Asked(Schedule):
        def weights_at(self, step, names):
            asked.append(step)
            return super().weights_at(step, names)

    table = {0: {"a": 0.2, "b": 0.8}, 7: {"a": 0.5, "b": 0.5}}
    weights = open_loop_weights(Asked(table), ("a", "b"))
    got = [weights(step).tolist() for step in [*range(20), 3]]
    assert got == [quantise([0.2, 0.8] if step < 7 else [0.5, 0.5]).tolist() for step in [*range(20), 3]]
    assert asked == [0, 7, 3]
