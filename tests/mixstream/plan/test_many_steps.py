"""Steps that are planned in one pass are those that `Plan.advance` plans one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.plan.plan import Plan
from mixstream.plan.walk import Walk
from mixstream.plan.weights import quantise


@st.composite
def plans(draw) -> Plan:
    lanes = draw(st.integers(1, 3))
    samples_K = np.array(draw(st.lists(st.integers(2 * lanes, 40), min_size=1, max_size=4)), dtype=np.int64)
    choose_K = samples_K if draw(st.booleans()) else np.maximum(samples_K * 2 // 3, lanes)
    share = draw(st.integers(1, 6))
    rows = int(choose_K.sum())
    kind = draw(st.sampled_from(["quota", "share"]))
    return Plan(
        names=tuple("abcd"[: len(samples_K)]),
        samples_K=samples_K,
        choose_K=choose_K if kind == "quota" else None,
        share_K=choose_K if kind == "share" else None,
        epoch_size=rows,
        global_batch_size=min(share, max(rows // lanes // 2, 1)) * lanes,
        lanes=lanes,
        drop_last=draw(st.booleans()),
        in_order=kind == "quota" and draw(st.booleans()),
    )


def same(one: Any, other: Any) -> bool:
    """Return whether two cursors, or two records of rows, are equal in all fields."""
    fields = type(one).__slots__
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in fields)


@settings(max_examples=60)
@given(plans(), st.integers(1, 9))
def test_many_steps_are_those_of_one_by_one(plan, most):
    slow, fast = Walk(plan=plan, cursor=plan.start()), Walk(plan=plan, cursor=plan.start())
    while slow.cursor.epoch < 3:
        found = fast.advance_steps(most)
        assert 1 <= len(found) <= most
        for rows, cursor in found:
            expected = slow.advance()
            assert expected is not None
            assert same(rows, expected)
            assert same(cursor, slow.cursor)
        assert same(fast.cursor, slow.cursor)


def plan_of(**changes: Any) -> Plan:
    plan = Plan(
        names=("a", "b"),
        samples_K=np.array([30, 10]),
        choose_K=np.array([30, 10]),
        epoch_size=40,
        global_batch_size=4,
    )
    return replace(plan, **changes)


def test_a_whole_epoch_is_one_pass_and_the_next_begins_another():
    plan = plan_of()
    found = plan.advance_steps(plan.start(), 1000)
    assert [rows.step for rows, _ in found] == list(range(10))
    again = plan.advance_steps(found[-1][1], 1000)
    assert [rows.step for rows, _ in again] == list(range(10, 20))


def test_where_a_domain_may_leave_steps_are_planned_one_by_one():
    plan = plan_of(max_epochs_K=(1, None))
    assert plan.advance_steps(plan.start(), 5) == []
    assert len(Walk(plan=plan, cursor=plan.start()).advance_steps(5)) == 5


def test_weights_by_step_are_taken_as_far_as_they_are_known():
    plan = plan_of(choose_K=None)
    weights = [quantise([0.5, 0.5]), quantise([0.9, 0.1]), None]
    walk = Walk(plan=plan, cursor=plan.start(weights[0]), weights=weights.__getitem__)
    assert [rows.step for rows, _ in walk.advance_steps(5)] == [0, 1]
    assert walk.advance_steps(5) == []


@pytest.mark.parametrize("share", [1, 3])
def test_credits_in_units_of_other_weights_are_left_to_advance(share):
    plan = plan_of()
    cursor = replace(plan.start(), total_L=np.array([share]))
    assert plan.advance_steps(cursor, 5) == []
