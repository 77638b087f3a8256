"""Which positions a state may have: every one that a run comes to, and none in which a number is another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning import plans

from mixstream.plan.plan import Plan
from mixstream.plan.state_counts import resumed
from mixstream.plan.stretches import Stretch
from mixstream.plan.weights import quantise, whole_shares
from mixstream.types import Cursor, Origin


def wrong(plan: Plan, cursor: Cursor, *, strict: bool = True, began: int | None = None) -> str:
    """Return what is wrong of a cursor that comes out of a state."""
    saved = replace(plan.settle(cursor), quota_LK=None)
    return resumed(plan, saved, began=began, strict=strict, shares=plan.share_K is not None)[1]


def weights_at(step: int, domains: int) -> np.ndarray:
    weights_K = np.random.default_rng([step // 3, domains]).dirichlet(np.ones(domains))
    return quantise(np.where(weights_K < 0.02, 0, weights_K) if domains > 2 else weights_K)


@st.composite
def any_plan(draw) -> Plan:
    """Draw a plan of any kind of weights."""
    plan = draw(plans())
    kind = draw(st.sampled_from(["choose", "shares", "steps", "order", "stretches"]))
    limited = draw(st.booleans())
    more: dict[str, Any] = {}
    if limited:
        more["max_epochs_K"] = tuple(draw(st.sampled_from([None, 0.5, 1.0, 2.5])) for _ in plan.names)
    if kind == "order":
        more["in_order"] = True
    if kind in ("shares", "stretches"):
        more |= {"choose_K": None, "share_K": whole_shares(np.maximum(plan.choose_K, 1) * 0.7)}
    if kind == "stretches":
        share = plan.global_batch_size // plan.lanes
        more |= {"stretch": Stretch(rows=share, lanes=plan.lanes), "drop_last": True}
        if plan.epoch_size < plan.global_batch_size:
            more["epoch_size"] = plan.global_batch_size * 2
    if kind == "steps":
        more |= {"choose_K": None, "max_epochs_K": more.get("max_epochs_K")}
    return replace(plan, **more)


def walked(plan: Plan, steps: int, cursor: Cursor | None = None) -> Cursor:
    by_step = plan.part_LK is None
    cursor = cursor or plan.start(weights_at(0, len(plan.names)) if by_step else None)
    for _ in range(steps):
        moved = plan.advance(cursor, weights_at(cursor.step, len(plan.names)) if by_step else None)
        if moved is None:
            break
        cursor = moved[0]
    return cursor


@settings(max_examples=40)
@given(plan=any_plan(), steps=st.integers(0, 60), data=st.data())
def test_every_position_of_a_run_is_taken(plan, steps, data):
    cursor = walked(plan, steps)
    if plan.max_epochs_K is None and data.draw(st.booleans(), label="another epoch"):
        cursor = walked(plan, 3, plan.at_epoch(plan.settle(cursor), data.draw(st.integers(0, 7), label="epoch")))
    assert not wrong(plan, cursor)


@settings(max_examples=20)
@given(plan=any_plan(), steps=st.integers(0, 30), later=st.integers(0, 30), seed=st.integers(0, 99))
def test_a_run_that_took_over_draws_is_counted_from_there(plan, steps, later, seed):
    plan = replace(plan, max_epochs_K=None)
    start = walked(plan, 0)
    drawn_LK = np.random.default_rng(seed).integers(0, 90, start.drawn_LK.shape)
    origin = Origin(step=steps, epoch=2, drawn_LK=drawn_LK)
    cursor = walked(
        plan, later, replace(start, step=steps, epoch=2, drawn_LK=drawn_LK, base_LK=drawn_LK, origin=origin)
    )
    began = steps if plan.part_LK is None else None
    assert not wrong(plan, cursor, began=began)
    unmarked = replace(cursor, origin=None)  # as earlier versions saved it
    assert not wrong(plan, unmarked, strict=False, began=began)


def test_a_state_that_does_not_say_where_it_took_over_draws_is_one_of_an_earlier_version():
    """Its steps and its draws both say so; where one of them does, a number is wrong."""
    plan = Plan(
        names=("a", "b"), samples_K=np.array([50, 90]), choose_K=np.array([50, 90]), epoch_size=140,
        global_batch_size=4, lanes=1,
    )  # fmt: skip
    drawn_LK = np.array([[13, 7]])
    for epoch, steps in ((0, 0), (0, 9), (2, 0), (2, 50), (1, 80)):
        start = replace(plan.start(), step=30, epoch=epoch, drawn_LK=drawn_LK, base_LK=drawn_LK)
        cursor = plan.settle(walked(plan, steps, start))
        saved = replace(cursor, quota_LK=None)
        loaded, why = resumed(plan, saved, began=None, strict=True, shares=False)
        assert not why
        assert loaded.origin is not None, "the next state says it"
        (_, rows), (_, same) = plan.advance(loaded), plan.advance(cursor)
        assert (rows.domain_B == same.domain_B).all()
    plain = plan.settle(walked(plan, 50))
    for change in ({"step": 51}, {"epoch": 2}, {"epoch": 0}, {"step": 15}):
        assert wrong(plan, replace(plain, **change))


@settings(max_examples=40)
@given(plan=any_plan(), steps=st.integers(1, 40), data=st.data())
def test_no_other_number_of_draws_is_taken(plan, steps, data):
    """One number of the position is another: refused, in any lane of any run in which no domain has left."""
    plan = replace(plan, max_epochs_K=None)
    cursor = walked(plan, steps)
    at = (data.draw(st.integers(0, plan.lanes - 1)), data.draw(st.integers(0, len(plan.names) - 1)))
    name = data.draw(st.sampled_from(["drawn_LK", "base_LK", "step", "epoch", "total_L"]))
    off = data.draw(st.sampled_from([1, -1, 2, 8, 1 << 20, 1 << 50]))
    old = getattr(plan.settle(cursor), name)
    if isinstance(old, int):
        new: Any = old + off
    else:
        new = old.copy()
        new[at if name != "total_L" else at[0]] += off
    if np.min(new) < 0 or (name == "epoch" and plan.part_LK is None):  # no state has it, or nothing depends on it
        return
    if name == "total_L" and plan.share_K is None and plan.part_LK is not None:
        rows = plan.epoch_size // plan.lanes
        if {*new.tolist()} <= {rows, rows + 1, *plan.part_LK.sum(axis=1).tolist()}:  # as earlier versions counted it
            return
    assert wrong(plan, replace(plan.settle(cursor), **{name: new}))


@pytest.mark.parametrize("lanes", [1, 4])
def test_draws_that_are_moved_together_are_refused(lanes):
    plan = replace(
        Plan(
            names=("a", "b"), samples_K=np.array([50, 90]), choose_K=np.array([50, 90]), epoch_size=140,
            global_batch_size=4 * lanes, lanes=lanes,
        )
    )  # fmt: skip
    cursor = plan.settle(walked(plan, 50))
    moved_LK = np.tile([[4 * lanes, -4 * lanes]], (lanes, 1))
    assert not wrong(plan, cursor)
    both = {"drawn_LK": cursor.drawn_LK, "base_LK": cursor.base_LK}
    for change in (
        {name: there_LK + moved_LK for name, there_LK in both.items()},
        {name: there_LK + (1 << 50) for name, there_LK in both.items()},
        {"credit_LK": cursor.credit_LK + np.array([[999_999, -999_999]])},
    ):
        assert wrong(plan, replace(cursor, **change))


def test_lanes_share_what_weights_by_step_give():
    plan = Plan(
        names=("a", "b"), samples_K=np.array([50, 90]), choose_K=None, epoch_size=140, global_batch_size=16, lanes=2
    )
    cursor = walked(plan, 9)
    other_LK = cursor.drawn_LK + np.array([[8, -8], [0, 0]])
    assert "times in the lanes" in wrong(plan, replace(cursor, drawn_LK=other_LK))
