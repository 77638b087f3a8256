"""Domains that read the same shards: what is known of a shard is known once, and counts for all of them."""

from types import SimpleNamespace as Record
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.plan.addressing import WholeShards, shard_offsets
from mixstream.plan.forecast import Forecast
from mixstream.plan.run_plan import RunPlan
from mixstream.plan.shuffle import Order
from mixstream.plan.walk import Walk
from mixstream.plan.weights import deal
from mixstream.world import World


def plan_of(*samples: list[int], **options: Any) -> RunPlan:
    """Return the plan of domains "d0", "d1", … with these samples per shard."""
    views = [WholeShards(samples_S=np.array(each, dtype=np.int64)) for each in samples]
    choose_K = np.array([view.samples_S.sum() for view in views])
    given = {
        "domains": tuple(Record(name=f"d{k}", fingerprint="", view=view) for k, view in enumerate(views)),
        "choose_K": choose_K,
        "epoch_size": int(choose_K.sum()),
        "max_epochs_K": (None,) * len(views),
        "by_step": False,
        "in_order": False,
        "shuffle": True,
        "shuffle_seed": 17,
        "block_size": 8,
        "drop_last": False,
        "mixer": "static",
        "lag": None,
        "world": World(),
        "batch_size": 4,
        "lanes": 1,
    }
    return RunPlan(**{**given, **options})


SAMPLES = st.integers(1, 6).flatmap(
    lambda shards: st.lists(
        st.lists(st.integers(0, 12), min_size=shards, max_size=shards).filter(any), min_size=1, max_size=5
    )
)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3)), min_size=1, max_size=8))
def test_a_source_has_its_shards_once(domains):
    seen: dict[int, int] = {}
    source_K = [seen.setdefault(name, len(seen)) for _, name in domains]
    size_F = {f: domains[source_K.index(f)][0] for f in set(source_K)}
    offset_K = shard_offsets([size_F[f] for f in source_K], source_K).tolist()
    own = [set(range(first, first + size_F[f])) for f, first in zip(source_K, offset_K)]
    for k, f in enumerate(source_K):
        for other, g in enumerate(source_K):
            assert (own[k] == own[other]) if f == g else not own[k] & own[other]
    assert set.union(*own) == set(range(offset_K[-1]))


@settings(deadline=None)
@given(SAMPLES, st.integers(0, 40), st.sampled_from([1, 2]))
def test_a_shard_is_needed_when_the_first_of_its_domains_needs_it(samples, steps, lanes):
    shared = plan_of(*samples, source_K=(0,) * len(samples), lanes=lanes)
    apart = plan_of(*samples, lanes=lanes)
    walk = Walk(plan=shared.plan, cursor=shared.plan.start())
    for _ in range(steps):
        walk.advance()
    shards = len(samples[0])
    numbers = np.arange(shards * len(samples))
    each_KS = Forecast(apart).distance(walk.cursor, None, numbers).reshape(len(samples), shards)
    assert Forecast(shared).distance(walk.cursor, None, numbers[:shards]).tolist() == each_KS.min(axis=0).tolist()
    number_N, step_N = Forecast(apart).upcoming(walk.cursor, None, 30)
    soonest: dict[int, float] = {}
    for number, step in zip((number_N % shards).tolist(), step_N.tolist()):
        soonest[number] = min(step, soonest.get(number, np.inf))
    found = Forecast(shared).upcoming(walk.cursor, None, 30)
    assert dict(zip(*map(np.ndarray.tolist, found))) == soonest
    assert len(found[0]) == len(soonest)


@settings(deadline=None)
@given(SAMPLES, st.sampled_from([1, 2, 3]), st.integers(0, 3), st.integers(0, 2**40))
def test_buckets_of_a_stream_visit_its_shards_in_one_order(samples, lanes, epoch, seed):
    visited = []
    for name, each in enumerate(samples):
        size_S = np.array(each, dtype=np.int64)
        owned_L = deal([int(size_S.sum())], lanes)[:, 0]
        given = {"seed": seed, "samples_S": size_S, "owned_L": owned_L, "shuffle": True, "block_size": 1}
        order = Order(name=f"web/{name}", family="web", **given)
        read = [_rows(order, lane, epoch) for lane in range(lanes)]
        assert sorted(row for rows in read for row in rows) == [(s, i) for s, n in enumerate(each) for i in range(n)]
        visited.append([list(dict.fromkeys(shard for shard, _ in rows)) for rows in read])
    if lanes == 1:  # the borders of several lanes lie in other shards for every bucket
        first = visited[0][0]
        for (other,) in visited[1:]:
            common = set(first) & set(other)
            assert [s for s in first if s in common] == [s for s in other if s in common]


def _rows(order: Order, lane: int, epoch: int) -> list[tuple[int, int]]:
    owned = int(order.owned_L[lane])
    _, shard_B, row_B = order.locate(lane=lane, draw_B=np.arange(epoch * owned, (epoch + 1) * owned))
    return list(zip(shard_B.tolist(), row_B.tolist()))


def test_the_window_of_a_bucket_is_its_part_of_the_window_of_its_stream():
    plan = plan_of([30, 30], [10, 10], [40], family_K=("web", "web", None), block_size=8)
    assert plan.block_size_K == (6, 2, 8)
    assert [order.block_size for order in plan.addressing.orders] == [6, 2, 8]
    assert plan_of([30], [10]).block_size_K == (8, 8)


@pytest.mark.parametrize(
    ("name", "samples", "shards", "rows"),
    [
        (
            "web/low",
            [4, 0, 3, 5],
            [3, 3, 3, 3, 3, 2, 2, 2, 0, 0, 0, 0, 0, 0],
            [4, 0, 3, 2, 1, 0, 1, 2, 0, 3, 2, 1, 3, 0],
        ),
        ("web/high", [2, 6, 3, 0], [1, 1, 1, 1, 1, 1, 2, 2, 2, 0, 0, 1, 1], [1, 0, 2, 4, 3, 5, 2, 0, 1, 1, 0, 5, 1]),
    ],
)
def test_the_order_of_a_bucket_stays_as_it_is(name, samples, shards, rows):
    """A change would let saved states mean other samples."""
    size_S = np.array(samples)
    given = {"owned_L": np.array([size_S.sum()]), "shuffle": True, "block_size": 4}
    order = Order(name=name, family="web", seed=17, samples_S=size_S, **given)
    _, shard_B, row_B = order.locate(lane=0, draw_B=np.arange(len(shards)))
    assert (shard_B.tolist(), row_B.tolist()) == (shards, rows)
