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
from mixstream.plan.quotas import Quotas
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


@settings(max_examples=30)
@given(plan=plans(), steps=st.integers(0, 60), data=st.data())
def test_draws_of_an_epoch_that_are_those_of_another_domain_are_refused(plan, steps, data):
    """Their sum is right, and no quota is exceeded: each row would be lost in one domain and repeated in another."""
    cursor = plan.settle(walked(plan, steps))
    assert plan.part_LK is not None
    step_L = (cursor.drawn_LK - cursor.base_LK).sum(axis=1)
    lane = data.draw(st.integers(0, plan.lanes - 1), label="lane")
    drawn_K, base_K = cursor.drawn_LK[lane], cursor.base_LK[lane]
    giving, taking = np.flatnonzero(drawn_K > base_K), np.flatnonzero(plan.part_LK[lane] > 0)
    pairs = [(k, j) for k in giving.tolist() for j in taking.tolist() if k != j]
    if not pairs or not step_L.any():
        return
    giver, taker = data.draw(st.sampled_from(pairs), label="domains")
    moved_LK = cursor.drawn_LK.copy()
    moved_LK[lane, [giver, taker]] += [-1, 1]
    assert wrong(plan, replace(cursor, drawn_LK=moved_LK))
    credit_LK = cursor.credit_LK.copy()
    credit_LK[lane, [giver, taker]] += [-1, 1]
    assert wrong(plan, replace(cursor, credit_LK=credit_LK))


def test_an_epoch_that_takes_long_to_count_begins_with_a_carry_of_few_rows():
    sizes_K = np.array([30, 61])
    plan = Plan(names=("a", "b"), samples_K=sizes_K, choose_K=sizes_K, epoch_size=91, global_batch_size=8)
    far = replace(plan.at_epoch(plan.start(), 1 << 40), quota_LK=None)
    cursor = walked(plan, 5, plan.resume(far))
    assert not wrong(plan, cursor)
    assert "the rounding carry" in wrong(plan, replace(cursor, drawn_LK=cursor.drawn_LK + np.array([-6, 6])))


def test_an_epoch_may_begin_without_a_carry():
    """As in states of versions that carried nothing over the ends of epochs."""
    sizes_K = np.array([30, 61])
    plan = Plan(names=("a", "b"), samples_K=sizes_K, choose_K=sizes_K, epoch_size=91, global_batch_size=8)
    cursor = plan.at_epoch(plan.start(), 1)
    assert cursor.credit_LK.any()
    assert not wrong(plan, walked(plan, 5, replace(cursor, credit_LK=np.zeros_like(cursor.credit_LK))))


def test_an_epoch_is_no_further_than_the_steps_of_its_run():
    """Under weights by step, where `set_epoch` begins an epoch anew and keeps the draws."""
    sizes_K = np.array([300, 610])
    plan = Plan(names=("a", "b"), samples_K=sizes_K, choose_K=None, epoch_size=910, global_batch_size=8)
    cursor = walked(plan, 9)
    assert not wrong(plan, replace(cursor, step_in_epoch=4))
    assert "10 steps into epoch 0" in wrong(plan, replace(cursor, step_in_epoch=10))
    origin = Origin(step=5, epoch=3, drawn_LK=cursor.drawn_LK)
    later = replace(walked(plan, 4, replace(cursor, base_LK=cursor.drawn_LK, origin=origin)), epoch=4, step=9)
    assert not wrong(plan, replace(later, step_in_epoch=4))
    assert "5 steps into epoch 4" in wrong(plan, replace(later, step_in_epoch=5))
    assert not wrong(plan, replace(later, step_in_epoch=9, epoch=3))  # the run took over in mid-epoch
    assert "10 steps into epoch 3" in wrong(plan, replace(later, step_in_epoch=10, epoch=3))


def skewed_plan(domains: int, lanes: int, *, seed: int, **more: Any) -> Plan:
    """Return a plan whose lanes take turns, of domains of very unequal sizes."""
    random = np.random.default_rng(seed)
    samples_K = (20 * random.pareto(0.5, domains) + 1).astype(int).clip(1, 2000)
    choose_K = (samples_K * random.uniform(1, 3, domains)).astype(int) + 1
    plan = Plan(
        names=tuple(map(str, range(domains))), samples_K=samples_K, choose_K=choose_K, epoch_size=int(choose_K.sum()),
        global_batch_size=2 * lanes, lanes=lanes, **more,
    )  # fmt: skip
    assert plan.quotas is not None
    assert plan.quotas.take_turns
    return plan


@pytest.mark.parametrize(("domains", "seed", "drop_last"), [(30, 221, False), (20, 242, True)])
def test_lanes_that_take_turns_drift_apart_over_many_epochs(domains, seed, drop_last):
    """By rows that add up: a run of many short epochs is one nonetheless."""
    plan = skewed_plan(domains, 2, seed=seed, drop_last=drop_last)
    assert plan.part_LK is not None
    drifted_LK, cursor = np.zeros((2, domains)), plan.start()
    for epoch in (7, 40):
        cursor = walked(plan, 5, plan.at_epoch(plan.settle(cursor), epoch))
        assert not wrong(plan, cursor)
        took_over = Origin(step=0, epoch=0, drawn_LK=np.zeros_like(cursor.drawn_LK))
        assert not wrong(plan, replace(cursor, origin=took_over))
        assert not wrong(plan, cursor, strict=False)
        drifted_LK = cursor.base_LK - epoch * plan.part_LK / plan.lanes
    assert np.abs(drifted_LK).max() > 4


def test_many_domains_take_no_longer_to_check(monkeypatch):
    """Epochs are not gone through one by one where each is dealt domain by domain."""
    plan = skewed_plan(300, 2, seed=3)
    cursor = walked(plan, 2, plan.at_epoch(plan.start(), 40))
    gone_through = []
    monkeypatch.setattr(Quotas, "pass_epochs", lambda *_: gone_through.append(_))
    assert not wrong(plan, cursor)
    assert not gone_through


def test_draws_of_one_lane_that_are_those_of_another_are_refused():
    """Their sums over lanes, and over domains, are those of the epochs."""
    plan = skewed_plan(5, 4, seed=9)
    cursor = plan.settle(walked(plan, 9, plan.at_epoch(plan.start(), 12)))
    assert not wrong(plan, cursor)
    moved_LK = np.zeros_like(cursor.base_LK)
    moved_LK[:2, :2] = [[1, -1], [-1, 1]]
    assert wrong(plan, replace(cursor, base_LK=cursor.base_LK + moved_LK, drawn_LK=cursor.drawn_LK + moved_LK))


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
