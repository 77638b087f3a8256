"""Batches of one domain: exact shares over batches, whatever the lanes; any epoch and any state without a walk."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace as Record

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixstream.errors import ConfigError
from mixstream.plan.addressing import WholeShards
from mixstream.plan.forecast import Forecast
from mixstream.plan.run_plan import RunPlan
from mixstream.plan.stretches import Stretch, fitting_lanes
from mixstream.plan.weights import quantise
from mixstream.world import World


def run_plan(sizes, *, stretch, lanes=1, ranks=1, batch_size=8, limits=None, choose=None, **kw) -> RunPlan:
    """Return the plan of domains of `sizes` samples, each in shards of 5."""
    shards = [np.array([5] * (n // 5) + [n % 5] * (n % 5 > 0)) for n in sizes]
    choose_K = np.array(choose or sizes, dtype=np.int64)
    return RunPlan(
        **{
            "domains": tuple(
                Record(name=f"d{k}", fingerprint=str(k), view=WholeShards(samples_S=samples_S))
                for k, samples_S in enumerate(shards)
            ),
            "choose_K": choose_K,
            "epoch_size": int(choose_K.sum()),
            "max_epochs_K": limits or (None,) * len(sizes),
            "by_step": False,
            "in_order": False,
            "shuffle": True,
            "shuffle_seed": 17,
            "block_size": 16,
            "drop_last": False,
            "mixer": "static",
            "lag": None,
            "world": World(rank=0, size=ranks),
            "batch_size": batch_size,
            "lanes": lanes,
            "stretch": stretch,
            **kw,
        }
    )


def walked(plan, steps, weights=None, cursor=None):
    cursor = cursor or plan.start(weights)
    taken = []
    for _ in range(steps):
        if (moved := plan.advance(cursor, weights)) is None:
            break
        cursor = moved[0]
        taken.append(moved)
    return taken


CASES = st.tuples(
    st.lists(st.integers(16, 90), min_size=1, max_size=5),  # sizes
    st.sampled_from(
        [(1, 1), (2, 1), (4, 1), (1, 2), (1, 4), (4, 2), (2, 4), (4, 4), (8, 4)]
    ),  # lanes, parts of a batch
)


@given(CASES, st.integers(1, 60))
def test_each_stretch_has_one_domain_and_shares_are_exact_over_stretches(case, steps):
    sizes, (lanes, parts) = case
    batch = 16
    run = run_plan(sizes, stretch=batch // parts, lanes=lanes, batch_size=batch)
    taken, stretch = walked(run.plan, steps), run.plan.stretch
    assert stretch is not None
    domain_U = np.concatenate([rows.domain_B.reshape(parts, -1) for _, rows in taken])
    assert (domain_U == domain_U[:, :1]).all()
    share_K = np.array(sizes) / sum(sizes)
    per_lane = parts // (lanes // stretch.lanes)  # stretches of a step in one group of lanes
    for at, (cursor, _) in enumerate(taken, start=1):
        drawn_LK = cursor.drawn_LK / stretch.rows
        assert (np.abs(drawn_LK - at * per_lane * share_K) < 2).all()
    for lane in range(lanes):  # every draw once, in order
        mine = slice(lane * batch // lanes, (lane + 1) * batch // lanes)
        for k in range(len(sizes)):
            draws = np.concatenate([rows.draw_B[mine][rows.domain_B[mine] == k] for _, rows in taken])
            assert draws.tolist() == list(range(len(draws)))


@given(CASES, st.integers(1, 4))
def test_a_later_epoch_begins_where_a_walk_arrives(case, epoch):
    sizes, (lanes, parts) = case
    plan = run_plan(sizes, stretch=16 // parts, lanes=lanes, batch_size=16).plan
    cursor = plan.settle(walked(plan, epoch * plan.steps_per_epoch)[-1][0])
    for start in (plan.start(), walked(plan, 1)[0][0]):
        jumped = plan.at_epoch(plan.settle(start), epoch)
        assert (jumped.epoch, jumped.step) == (cursor.epoch, cursor.step) == (epoch, epoch * plan.steps_per_epoch)
        for key in ("drawn_LK", "base_LK", "credit_LK"):
            assert getattr(jumped, key).tolist() == getattr(cursor, key).tolist()


@given(CASES)
def test_the_forecast_names_the_shards_that_are_read_next(case):
    sizes, (lanes, parts) = case
    run = run_plan(sizes, stretch=16 // parts, lanes=lanes, batch_size=16)
    start = walked(run.plan, 1)[0][0]
    shard_N, step_N = Forecast(run).upcoming(start, None, rows=16 * 9)
    (found,) = run.addressing.locate([walked(run.plan, 1, cursor=start)[0][1]], slice(None))
    assert set(shard_N[step_N == 0].tolist()) == set(found.shard_B.tolist())


def test_lanes_that_share_a_batch_draw_the_same_domain_from_their_own_samples():
    run = run_plan([41, 23], stretch=8, lanes=4)
    numbers = []
    for _, rows in walked(run.plan, 5):
        assert len(set(rows.domain_B.tolist())) == 1
        (at,) = run.addressing.locate([rows], slice(None))
        numbers += zip(at.shard_B.tolist(), at.row_B.tolist())
    assert len(set(numbers)) == len(numbers) == 40


@pytest.mark.parametrize("lanes", [1, 2, 4])
def test_a_domain_leaves_before_the_batch_that_it_cannot_fill(lanes):
    plan = run_plan([20, 60], stretch=8, lanes=lanes, limits=(1, None)).plan
    taken = walked(plan, 40)
    rows = np.concatenate([rows.domain_B for _, rows in taken])
    assert (rows == 0).sum() == 16  # of 20 samples, two whole batches
    last = int(np.flatnonzero([0 in rows.domain_B for _, rows in taken])[-1])
    assert not plan.left_LK(taken[last - 1][0])[:, 0].any()
    assert plan.left_LK(taken[last][0])[:, 0].all()
    drawn_by_K = plan.drawn_by(taken[last][0])
    assert drawn_by_K is not None
    assert drawn_by_K.tolist() == quantise([0, 1]).tolist()
    assert walked(run_plan([20, 17], stretch=8, lanes=lanes, limits=(1, 1)).plan, 40)[-1][0].step == 4


def test_weights_by_step_say_which_domain_comes_next():
    plan = run_plan([90, 90, 90], stretch=8, by_step=True).plan
    third = [quantise([1, 1, 2]), quantise([0, 1, 0])]
    first = walked(plan, 8, third[0])
    domains = [int(rows.domain_B[0]) for _, rows in first]
    assert [domains.count(k) for k in range(3)] == [2, 2, 4]
    assert {int(rows.domain_B[0]) for _, rows in walked(plan, 8, third[1], first[-1][0])} == {1}


def test_an_epoch_has_the_whole_batches_that_its_rows_fill():
    plan = run_plan([20, 11], stretch=8).plan
    assert plan.steps_per_epoch == 3
    assert walked(plan, 4)[-1][0].epoch == 1
    with pytest.raises(ConfigError, match="an epoch of 7 rows holds no full global batch of 8 rows and one of one dom"):
        _ = run_plan([7], stretch=8).plan


def test_lanes_fit_the_batch_and_its_parts():
    assert fitting_lanes(8, global_batch_size=7, stretch=None) == 1
    assert fitting_lanes(64, global_batch_size=48, stretch=48) == 16
    with pytest.raises(ConfigError, match=r"parts of 12 rows .* over 3 lanes .* pass num_canonical_nodes=1"):
        Stretch.of(12, global_batch_size=24, lanes=3)
    run = run_plan([50, 40], stretch=16, lanes=2, batch_size=16)
    assert replace(run, stretch=None).plan.stretch is None
