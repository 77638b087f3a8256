import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixstream.errors import ConfigError
from mixstream.plan.shuffle import Order
from mixstream.plan.weights import deal


def make(samples, lanes=1, *, name="web", seed=9176, shuffle=True, block_size=1 << 18) -> Order:
    samples_S = np.array(samples, dtype=np.int64)
    owned_L = deal([int(samples_S.sum())], lanes)[:, 0]
    return Order(name=name, seed=seed, samples_S=samples_S, owned_L=owned_L, shuffle=shuffle, block_size=block_size)


def draws(order: Order, lane: int, first: int, count: int) -> list[tuple[int, int]]:
    _, shard_B, row_B = order.locate(lane=lane, draw_B=np.arange(first, first + count))
    return list(zip(shard_B.tolist(), row_B.tolist()))


SAMPLES = st.lists(st.one_of(st.just(0), st.integers(1, 60)), min_size=1, max_size=12).filter(any)


@settings(deadline=None)
@given(SAMPLES, st.integers(1, 5), st.booleans(), st.integers(1, 200), st.integers(0, 2**40), st.integers(0, 1000))
def test_every_epoch_is_a_bijection_onto_the_samples_over_all_lanes(samples, lanes, shuffle, block_size, seed, epoch):
    order = make(samples, lanes, seed=seed, shuffle=shuffle, block_size=block_size)
    expected = sorted((s, row) for s, n in enumerate(samples) for row in range(n))
    got, of_lane = [], []
    for lane, owned in enumerate(order.owned_L.tolist()):
        if not owned:
            continue
        epoch_B, _, _ = order.locate(lane=lane, draw_B=np.arange(epoch * owned, (epoch + 1) * owned))
        assert (epoch_B == epoch).all()
        got += (mine := draws(order, lane, epoch * owned, owned))
        of_lane.append(set(mine))
        assert set(draws(order, lane, (epoch + 1) * owned, owned)) == set(mine)  # a lane keeps its samples
        assert set(order.shards_of(lane).tolist()) == {shard for shard, _ in mine}
    assert sorted(got) == expected


@settings(deadline=None)
@given(SAMPLES, st.integers(1, 3), st.integers(1, 200), st.data())
def test_a_draw_does_not_depend_on_what_is_asked_with_it(samples, lanes, block_size, data):
    order = make(samples, lanes, block_size=block_size)
    lane = data.draw(st.integers(0, lanes - 1))
    asked = np.array(data.draw(st.lists(st.integers(0, 500), min_size=1, max_size=20)), dtype=np.int64)
    together = order.locate(lane=lane, draw_B=asked)
    fresh = make(samples, lanes, block_size=block_size)
    for i in data.draw(st.permutations(range(len(asked)))):
        alone = fresh.locate(lane=lane, draw_B=asked[i : i + 1])
        assert [int(a[0]) for a in alone] == [int(a[i]) for a in together]


def test_without_shuffle_shard_after_shard_row_after_row_the_same_in_each_epoch():
    samples = [3, 0, 2, 4]
    stored = [(s, row) for s, n in enumerate(samples) for row in range(n)]
    assert draws(make(samples, shuffle=False), 0, 0, 18) == stored * 2
    lanes = make(samples, 2, shuffle=False)
    assert draws(lanes, 0, 0, 5) + draws(lanes, 1, 0, 4) == stored


def test_orders_of_epochs_lanes_seeds_and_names_are_unrelated():
    orders = [draws(make([50, 50]), 0, epoch * 100, 100) for epoch in range(3)]
    orders += [draws(make([50, 50], seed=seed), 0, 0, 100) for seed in (0, 1, 9177)]
    orders += [draws(make([50, 50], name=name), 0, 0, 100) for name in ("code", "web2")]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            assert sum(a == b for a, b in zip(one, other)) < 12  # 1 expected of a random pair


def test_an_order_depends_on_nothing_but_its_own_domain():
    assert draws(make([20, 9]), 0, 0, 29) == draws(make([20, 9]), 0, 0, 29)


@pytest.mark.parametrize("block_size", [1, 40, 120])
def test_samples_are_mixed_within_windows_of_about_block_size(block_size):
    samples = [20] * 30
    order = draws(make(samples, block_size=block_size), 0, 0, 600)
    size = max(-(-block_size // 20) * 20, 20)  # whole shards
    windows = [{shard for shard, _ in order[at : at + size]} for at in range(0, 600, size)]
    assert all(len(window) == size // 20 for window in windows)
    if size > 20:  # and they are mixed there, not only listed
        assert len({shard for shard, _ in order[: size // 2]}) == size // 20


def test_shards_themselves_come_in_random_order():
    shards = [shard for shard, _ in draws(make([1] * 100, block_size=1), 0, 0, 100)]
    assert abs(np.corrcoef(shards, range(100))[0, 1]) < 0.4


def test_every_sample_comes_first_equally_often():
    counts = np.zeros(10)
    for seed in range(2000):
        shard, row = draws(make([4, 6], seed=seed), 0, 0, 1)[0]
        counts[shard * 4 + row] += 1
    assert (np.abs(counts - 200) < 75).all()  # 200 +- 13


def test_lanes_are_dealt_whole_shards_of_the_domain_at_random():
    """A lane's part is a sample of the domain even where shards lie in some meaningful order."""
    order = make([10] * 40, 4)
    assert sorted(s for lane in range(4) for s in order.shards_of(lane).tolist()) == list(range(40))
    assert all(np.ptp(order.shards_of(lane)) > 12 for lane in range(4))


def test_a_lane_that_was_dealt_nothing_borrows_a_sample():
    order = make([2], 5)
    assert order.owned_L.tolist() == [1, 1, 0, 0, 0]
    for lane in range(5):
        assert draws(order, lane, 7, 3) in ([(0, 0)] * 3, [(0, 1)] * 3)


def test_a_trillion_samples_cost_nothing():
    shards = 1000
    samples_S = np.full(shards, 10**9, dtype=np.int64)
    make([5]).locate(lane=0, draw_B=np.arange(3))  # compiled
    tracemalloc.start()
    began = time.thread_time()
    order = make(samples_S, 8, block_size=1 << 62)
    far = np.array([0, 10**12 // 8 - 1, 5 * 10**12 + 12345, 2**60], dtype=np.int64)
    got = [order.locate(lane=lane, draw_B=far) for lane in range(8)]
    took = time.thread_time() - began
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20  # 8 lanes x 4 epochs of O(shards) integers
    assert took < 2
    for epoch_B, shard_B, row_B in got:
        assert epoch_B.tolist() == (far // (10**12 // 8)).tolist()
        assert ((shard_B >= 0) & (shard_B < shards) & (row_B >= 0) & (row_B < 10**9)).all()


def test_memory_does_not_grow_with_epochs():
    order = make([10] * 2000)
    order.locate(lane=0, draw_B=np.arange(10))
    tracemalloc.start()
    for epoch in range(60):
        order.locate(lane=0, draw_B=np.arange(10) + epoch * 20_000)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 1 << 20


@settings(max_examples=60)
@given(SAMPLES, st.integers(1, 5), st.booleans(), st.integers(1, 100), st.data())
def test_next_windows_say_when_each_shard_of_a_lane_can_come_next(samples, lanes, shuffle, block_size, data):
    order = make(samples, lanes, shuffle=shuffle, block_size=block_size)
    lane, draw = data.draw(st.integers(0, lanes - 1)), data.draw(st.integers(0, 700))
    shard_P, begin_P, (first, end) = order.next_windows(lane=lane, draw=draw)
    assert sorted(shard_P.tolist()) == sorted(order.shards_of(lane).tolist())
    assert first <= draw < end
    length = max(int(order.owned_L[lane]), 1)
    coming = draws(order, lane, draw, 2 * length)
    running = {shard for shard, _ in draws(order, lane, first, end - first)}
    for shard, begin in zip(shard_P.tolist(), begin_P.tolist()):
        assert begin == first if shard in running else begin >= end
        rows = [draw + i for i, (at, _) in enumerate(coming) if at == shard]
        assert shard in running or begin <= min(rows)
        _, ends = order.next_windows(lane=lane, draw=begin)[2]  # it is where a window begins that holds the shard
        assert shard in {at for at, _ in draws(order, lane, begin, ends - begin)}
    for other in {first, end - 1}:
        again_P, same_P, window = order.next_windows(lane=lane, draw=other)
        assert (again_P.tolist(), same_P.tolist(), window) == (shard_P.tolist(), begin_P.tolist(), (first, end))


def test_without_shuffle_every_shard_is_a_window():
    order = make([3, 0, 2, 4], shuffle=False)
    shard_P, begin_P, running = order.next_windows(lane=0, draw=9 + 4)
    assert dict(zip(shard_P.tolist(), begin_P.tolist())) == {0: 18, 2: 9 + 3, 3: 9 + 5}
    assert running == (9 + 3, 9 + 5)


def test_what_cannot_be_is_refused_by_name():
    with pytest.raises(ConfigError, match="'web' has no samples"):
        make([0, 0])
    with pytest.raises(ConfigError, match="shuffle_block_size must be at least 1 sample, got 0"):
        make([1], block_size=0)
