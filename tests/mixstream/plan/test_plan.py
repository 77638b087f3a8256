"""Exact rows, exact epochs, a cursor that is all there is, domains in order, `max_epochs`: DESIGN.md §2, law 4."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning import LANES, by_step, lane_rows, plans, run, static

from mixstream.errors import ConfigError
from mixstream.plan.plan import Plan
from mixstream.plan.weights import deal, quantise
from mixstream.types import Cursor


def same(one: Cursor, other: Cursor) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in Cursor.__slots__)


# --- law 4: rows are exact --------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(plans(), st.booleans())
def test_every_batch_is_full_and_every_lane_draws_on_without_a_gap(plan, dropped):
    B, L, K = plan.global_batch_size, plan.lanes, len(plan.names)
    cursor = plan.start()
    for step in range(2 * plan.steps_per_epoch + 1):
        before = plan.settle(cursor)
        cursor, rows = plan.advance(cursor)
        assert rows.step == step == before.step
        assert (rows.domain_B.shape, rows.draw_B.shape) == ((B,), (B,))
        assert (rows.domain_B.dtype, rows.draw_B.dtype) == (np.int32, np.int64)
        for lane in range(L):
            part = slice(lane * B // L, (lane + 1) * B // L)
            for k in range(K):
                drawn = rows.draw_B[part][rows.domain_B[part] == k].tolist()
                assert drawn == list(range(before.drawn_LK[lane, k], cursor.drawn_LK[lane, k]))
        assert (cursor.credit_LK.sum(axis=1) == 0).all()


@settings(deadline=None)
@given(plans(natural=True), st.integers(0, 3))
def test_with_natural_weights_an_epoch_draws_every_sample_exactly_once(plan, epoch):
    B = plan.global_batch_size
    counted = 0
    taken = run(plan, plan.steps_per_epoch, cursor=plan.at_epoch(plan.start(), epoch))
    drawn: list[set[int]] = [set() for _ in range(plan.lanes * len(plan.names))]
    for cursor, rows in taken:
        counted += rows.repeats
        for row, (k, draw) in enumerate(zip(rows.domain_B.tolist(), rows.draw_B.tolist())):
            lane = row // (B // plan.lanes)
            assert draw not in drawn[lane * len(plan.names) + k]  # draws are new, whatever they hold
            drawn[lane * len(plan.names) + k].add(draw)
        assert cursor.epoch == epoch
    missing = extra = 0
    for lane in range(plan.lanes):
        for k in range(len(plan.names)):
            owned = int(plan.owned_LK[lane, k])
            whole = set(range(epoch * owned, (epoch + 1) * owned))
            missing += len(whole - drawn[lane * len(plan.names) + k])
            extra += len(drawn[lane * len(plan.names) + k] - whole)
    total = int(plan.samples_K.sum())
    assert len(taken) == (total // B if plan.drop_last else -(-total // B))
    if plan.drop_last:
        assert (missing, extra, counted) == (total % B, 0, 0)
        assert missing < B
    else:
        assert (missing, extra) == (0, counted)
        assert counted == -total % B < B
        assert taken[-1][0].repeats == counted
        assert all(rows.repeats == 0 for _, rows in taken[:-1])


@settings(deadline=None)
@given(plans(), st.integers(0, 2))
def test_with_any_fixed_counts_an_epoch_draws_exactly_these(plan, epoch):
    last = run(plan, plan.steps_per_epoch, cursor=plan.at_epoch(plan.start(), epoch))[-1][0]
    drawn_K = last.drawn_LK.sum(axis=0) - epoch * plan.choose_K
    if plan.drop_last:
        assert (drawn_K <= plan.choose_K).all()
        assert int((plan.choose_K - drawn_K).sum()) < plan.global_batch_size
    else:
        assert (drawn_K >= plan.choose_K).all()
        assert int((drawn_K - plan.choose_K).sum()) == last.repeats < plan.global_batch_size
    assert not drawn_K[plan.choose_K == 0].any()


# --- the cursor -------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(plans(), st.integers(0, 40))
def test_advance_is_pure(plan, steps):
    cursor = ([plan.start()] + [at for at, _ in run(plan, steps)])[-1]
    frozen = {name: np.array(getattr(cursor, name), copy=True) for name in Cursor.__slots__}
    first, second = plan.advance(cursor), plan.advance(cursor)
    assert all(np.array_equal(getattr(cursor, name), frozen[name]) for name in Cursor.__slots__)
    assert first is not None
    assert second is not None
    assert same(first[0], second[0])
    assert np.array_equal(first[1].draw_B, second[1].draw_B)


@settings(deadline=None)
@given(plans(), st.integers(0, 3))
def test_jumping_to_an_epoch_is_walking_there(plan, epochs):
    walked = plan.start()
    for _ in range(epochs * plan.steps_per_epoch):
        walked, _ = plan.advance(walked)
    walked, jumped = plan.settle(walked), plan.at_epoch(plan.start(), epochs)
    assert jumped.step == epochs * plan.steps_per_epoch
    for name in ("step", "epoch", "step_in_epoch", "drawn_LK", "base_LK", "credit_LK", "total_L", "quota_LK"):
        assert np.array_equal(getattr(walked, name), getattr(jumped, name)), name
    back = plan.at_epoch(walked, 0)
    assert np.array_equal(plan.advance(back)[1].draw_B, plan.advance(plan.start())[1].draw_B)


def test_by_step_plans_keep_drawing_over_epochs():
    plan = by_step(2, share=4, epoch_size=10)
    weight_K = quantise([0.5, 0.5])
    taken = run(plan, 7, lambda _: weight_K)
    assert [plan.settle(cursor).epoch for cursor, _ in taken] == [0, 0, 1, 1, 1, 2, 2]
    assert taken[-1][0].drawn_LK.tolist() == [[14, 14]]


def test_a_plan_of_10_to_the_12_samples_is_as_small_as_any():
    samples = [10**12] * 8
    list(run(static([8] * 8, lanes=8), 2))  # compiled
    tracemalloc.start()
    began = time.thread_time()
    plan = static(samples, lanes=8, share=8)
    at = plan.at_epoch(plan.start(), 3)
    run(plan, 50, cursor=at)
    took, peak = time.thread_time() - began, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert plan.steps_per_epoch == 8 * 10**12 // 64
    assert peak < 1 << 20
    assert took < 1


# --- in order ---------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), LANES, st.integers(1, 5))
def test_in_order_each_lane_reads_domain_after_domain(samples, lanes, share):
    lanes = min(lanes, sum(samples))
    plan = static(samples, lanes=lanes, share=share, in_order=True)
    sequence_L = lane_rows(plan, run(plan, plan.steps_per_epoch))
    for lane in range(lanes):
        expected = np.repeat(np.arange(len(samples)), deal(samples, lanes)[lane])
        assert sequence_L[lane].tolist() == np.resize(expected, sequence_L.shape[1]).tolist()


# --- max_epochs -------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.sampled_from([None, 0.5, 1, 1.5, 2, 3])), min_size=1, max_size=5),
    LANES,
    st.integers(1, 4),
    st.sampled_from(["static", "by step", "in order"]),
)
def test_max_epochs_is_exact_per_lane_and_the_run_ends_when_all_have_left(domains, lanes, share, kind):
    samples, epochs = [n for n, _ in domains], tuple(e for _, e in domains)
    lanes = min(lanes, sum(samples))
    weight_K = quantise([1.0] * len(samples))
    if kind == "by step":
        plan = by_step(len(samples), lanes=lanes, share=share, epoch_size=40, max_epochs_K=epochs)
        plan = Plan(**{**vars_of(plan), "samples_K": np.array(samples, dtype=np.int64)})
    else:
        plan = static(samples, lanes=lanes, share=share, in_order=kind == "in order", max_epochs_K=epochs)
    weights = (lambda _: weight_K) if kind == "by step" else None
    steps = 5 * 40 * 3 // share + 2  # more than all of them have
    taken = run(plan, steps, weights)
    last_LK = np.array(
        [[np.inf if e is None else np.floor(e * n) for n, e in zip(owned, epochs)] for owned in plan.owned_LK]
    )
    drawn_LK = np.zeros((lanes, len(samples)), dtype=np.int64)
    for _, rows in taken:
        for lane, domain in enumerate(rows.domain_B.reshape(lanes, -1)):
            drawn_LK[lane] += np.bincount(domain, minlength=len(samples))
    final = taken[-1][0].drawn_LK if taken else np.zeros_like(drawn_LK)
    assert (final <= last_LK).all()
    if None not in epochs:  # then the run ends, in the step that some lane could not fill any more
        assert len(taken) < steps
        assert any(int((last - drawn).sum()) < share for last, drawn in zip(last_LK, final))
        assert plan.advance(taken[-1][0] if taken else plan.start(weight_K), weight_K) is None
    else:
        assert len(taken) == steps
        if kind == "by step":
            reached_LK = last_LK <= steps * share / len(samples) - 2  # weights are equal
            assert (final[reached_LK] == last_LK[reached_LK]).all()


def vars_of(plan: Plan) -> dict:
    return {name: getattr(plan, name) for name in Plan.__dataclass_fields__}


def test_when_a_domain_leaves_the_others_keep_their_proportions():
    plan = by_step(3, share=10, samples=100, max_epochs_K=(1, None, None))
    weight_K = quantise([0.5, 0.4, 0.1])
    taken = run(plan, 100, lambda _: weight_K)
    drawn = np.array([cursor.drawn_LK[0] for cursor, _ in taken])
    gone = int(np.argmax(drawn[:, 0] == 100))
    assert gone == 19  # 5 rows a step
    after = drawn[-1] - drawn[gone]
    assert after[0] == 0
    assert abs(after[1] - 0.8 * after.sum()) < 2
    for step in range(gone, 100):  # and they are spread as evenly as ever
        rows = drawn[step] - drawn[gone]
        assert abs(rows[2] - 0.2 * rows.sum()) < 2


def test_what_a_domain_was_owed_when_it_left_goes_to_the_others():
    """Also where the weights of the next step leave it out anyway, so that their total stays what it was."""
    parts = [quantise([0.35, 0.4, 0.25])] * 2 + [quantise([0.0, 0.6, 0.4])] * 20
    taken = run(by_step(3, share=5, samples=4, max_epochs_K=(1, None, None)), 20, parts.__getitem__)
    assert taken[1][0].drawn_LK[0, 0] == 4
    assert taken[1][0].credit_LK[0, 0] != 0
    for cursor, _ in taken[2:]:
        assert cursor.credit_LK[0, 0] == 0
        assert cursor.credit_LK[0, 1:].sum() == 0


@pytest.mark.parametrize("lanes", [1, 2])
def test_what_is_owed_is_carried_over_the_ends_of_epochs_after_a_domain_left_too(lanes):
    """Twenty equal domains of 2.5 rows an epoch would be read 2 or 3 times in every epoch, if it began afresh."""
    samples = [6, *[5 * lanes] * 20, 7]
    choose = [2 * lanes, *[2 * lanes + 1] * 20, 3 * lanes]
    plan = static(samples, choose=choose, lanes=lanes, share=9, max_epochs_K=(1, *[None] * 21))
    taken = run(plan, 60 * plan.steps_per_epoch)
    left = next(i for i, (cursor, _) in enumerate(taken) if (cursor.drawn_LK[:, 0] >= plan.last_LK[:, 0]).all())
    weight_K = np.array([0, *choose[1:]]) / sum(choose[1:])
    drawn = np.array([cursor.drawn_LK for cursor, _ in taken[left:]])
    due = weight_K * (9 * np.arange(len(drawn)))[:, None, None]
    assert np.abs(drawn - drawn[0] - due).max() < 3


def test_in_order_the_domains_after_one_that_left_are_still_read():
    """Domain after domain also holds once the first has been read its number of times."""
    plan = static([8, 8, 8], share=4, in_order=True, max_epochs_K=(1, None, None))
    sequence = lane_rows(plan, run(plan, 18))[0].tolist()
    assert sequence[:24] == [0] * 8 + [1] * 8 + [2] * 8
    assert sequence[24:] == ([1] * 8 + [2] * 8 + [1] * 8) * 2  # an epoch keeps its length, and begins at the beginning


# --- what cannot be ---------------------------------------------------------------------------------------------------


def test_lanes_must_share_the_batch():
    with pytest.raises(ConfigError, match=r"3 lanes \(num_canonical_nodes\) cannot share a global batch of 8 rows"):
        Plan(
            names=("a",),
            samples_K=np.array([9]),
            choose_K=np.array([9]),
            epoch_size=9,
            global_batch_size=8,
            lanes=3,
        )


def test_drop_last_must_leave_something():
    with pytest.raises(ConfigError, match=r"epoch of 3 rows holds no full global batch of 4 rows.*drop_last=False"):
        static([3], drop_last=True)


def test_an_epoch_must_reach_every_lane():
    with pytest.raises(ConfigError, match=r"epoch of 3 rows leaves some of 4 lanes .* without any: choose at most 3"):
        static([2, 1], lanes=4)


def test_a_plan_by_step_asks_for_the_first_weights():
    with pytest.raises(ConfigError, match="pass weight_K, those of the first step"):
        by_step(2).start()


@pytest.mark.parametrize("weighed", ["by counts", "by shares", "by step", "in order"])
def test_the_first_cursor_and_an_epoch_cost_no_more_per_lane_with_many_lanes(weighed):
    counts_K, lanes, weight_K = np.array([70_001, 50_003]), 8192, None
    kinds = {"choose_K": counts_K, "share_K": None, "in_order": weighed == "in order"}
    if weighed not in ("by counts", "in order"):
        kinds |= {"choose_K": None, "share_K": counts_K if weighed == "by shares" else None}
        weight_K = None if weighed == "by shares" else quantise(counts_K)
    plan = Plan(
        names=("code", "web"), samples_K=counts_K, epoch_size=120_004, global_batch_size=lanes, lanes=lanes, **kinds
    )
    begin = time.process_time()
    cursor = plan.start(weight_K)
    plan.settle(replace(cursor, step=plan.steps_per_epoch, step_in_epoch=plan.steps_per_epoch))
    assert time.process_time() - begin < 20  # half a second; minutes where each lane computes the credits of all
    for lane in (1, lanes // 3, lanes - 1):  # as far to the next row as the lane is along the lanes
        part_K = weight_K if plan.part_LK is None else plan.part_LK[lane]
        least = int(np.argmin(part_K))
        assert cursor.credit_LK[lane, least] % part_K.sum() == int(part_K.sum()) * lane // lanes
